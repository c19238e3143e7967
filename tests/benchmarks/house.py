"""Measure the house: folders, files, functions, names, tests, and how long the tests take.

    python -m tests.benchmarks.house                    this working tree
    python -m tests.benchmarks.house --revision v0.1    beside a revision of it
    python -m tests.benchmarks.house --suite            and time the suite without engines

Only the program's own source is counted: `study`, `objectives`, `storage`. An import through a
folder's door counts for the file behind the door that defines the name. Figures of two revisions
are only comparable within one call.
"""

from __future__ import annotations

import argparse
import ast
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.paths import ROOT

PACKAGES = ("study", "objectives", "storage")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class House:
    """A checkout's source, parsed once."""

    root: Path

    @cached_property
    def trees(self) -> Mapping[str, ast.Module]:
        """Module name to its syntax tree."""
        return {
            self._module(path): ast.parse(path.read_text())
            for package in PACKAGES
            for path in sorted((self.root / package).rglob("*.py"))
        }

    def _module(self, path: Path) -> str:
        dotted = ".".join(path.relative_to(self.root).with_suffix("").parts)
        return dotted.removesuffix(".__init__")

    def path(self, module: str) -> Path:
        """Where a module's file is."""
        folder = self.root / module.replace(".", "/")
        return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")

    @cached_property
    def folders(self) -> Mapping[str, int]:
        """Folder to how many source files it holds."""
        return Counter(str(self.path(m).parent.relative_to(self.root)) for m in self.trees)

    @cached_property
    def doors(self) -> set[str]:
        """Modules that only hand on what other files define."""
        return {module for module in self.trees if self.path(module).name == "__init__.py"}

    def imports(self, module: str) -> Iterator[tuple[str, str]]:
        """Every (module, name) of ours that a module imports, as it is written."""
        for node in ast.walk(self.trees[module]):
            if isinstance(node, ast.ImportFrom) and node.module:
                base = node.module if not node.level else f"{self._package(module)}.{node.module}"
                for alias in node.names:
                    inner = f"{base}.{alias.name}"
                    if inner in self.trees and alias.name not in self._handed_on(base, module):
                        yield inner, "*"
                    elif base in self.trees:
                        yield base, alias.name

    def _handed_on(self, door: str, importer: str) -> set[str]:
        """Names that a door binds itself: they come before files of the same name."""
        if door not in self.doors or door == importer:
            return set()
        return {
            alias.asname or alias.name
            for node in self.trees[door].body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }

    def _package(self, module: str) -> str:
        return module if module in self.doors else module.rpartition(".")[0]

    def home(self, module: str, name: str) -> str:
        """The file that defines a name which is imported from `module`."""
        if module in self.doors:
            for base, known in self.imports(module):
                if known == name and base != module:
                    return self.home(base, name)
        return module

    @cached_property
    def importers(self) -> Mapping[str, set[str]]:
        """File to the files that use something of it, doors left out."""
        found: dict[str, set[str]] = defaultdict(set)
        for module in self.trees:
            if module not in self.doors:
                for base, name in self.imports(module):
                    found[self.home(base, name)].add(module)
        return found

    @cached_property
    def functions(self) -> list[Function]:
        """Every function and method."""
        return [
            node for tree in self.trees.values() for node in ast.walk(tree)
            if isinstance(node, Function)
        ]  # fmt: skip

    @property
    def one_importer(self) -> list[str]:
        """Files that exactly one other file uses."""
        return sorted(
            module for module in self.trees
            if module not in self.doors and len(self.importers[module] - {module}) == 1
        )  # fmt: skip

    @property
    def halves(self) -> list[str]:
        """Files that one file of their own folder uses and nobody else, not even through a door:
        the other half of that file, unless they have a reason of their own."""
        return [
            module for module in self.one_importer
            if {self._package(user) for user in self.importers[module] - {module}}
            == {self._package(module)} and module not in self._offered
        ]  # fmt: skip

    @cached_property
    def _offered(self) -> set[str]:
        """Files of which a door hands something on."""
        return {self.home(base, name) for door in self.doors for base, name in self.imports(door)}

    @property
    def defined_twice(self) -> list[str]:
        """Public classes and functions of one name in several files."""
        homes = defaultdict(set)
        for module, tree in self.trees.items():
            for node in tree.body:
                if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
                    homes[node.name].add(module)
        return sorted(name for name, found in homes.items() if len(found) > 1 and name != "main")

    @property
    def without_test(self) -> list[str]:
        """Files with something in them and no test file of their name."""
        return sorted(
            module for module, tree in self.trees.items()
            if module not in self.doors and not self._test_of(module).exists()
            and any(isinstance(node, ast.ClassDef | Function) for node in tree.body)
        )  # fmt: skip

    def _test_of(self, module: str) -> Path:
        path = self.path(module).relative_to(self.root)
        name = path.stem.strip("_")
        return self.root / "tests" / path.parent / f"test_{name}.py"

    def rows(self) -> dict[str, str]:
        """What is measured, and what it came to."""
        lengths = sorted(f.end_lineno - f.lineno + 1 for f in self.functions if f.end_lineno)
        arguments = max(self.functions, key=_arguments)
        largest = max(self.folders, key=lambda folder: self.folders[folder])
        files = len(self.trees) - len(self.doors)
        lines = sum(len(self.path(m).read_text().splitlines()) for m in self.trees)
        tests = list((self.root / "tests").rglob("test_*.py"))
        alone, halves = self.one_importer, self.halves
        return {
            "source files, doors left out": f"{files}",
            "folders": f"{len(self.folders)}",
            "most files in a folder": f"{self.folders[largest]} ({largest})",
            "files with one importer": f"{len(alone)} ({100 * len(alone) / files:.0f} %)",
            "of these halves of another file": f"{len(halves)} ({100 * len(halves) / files:.0f} %)",
            "source lines": f"{lines:,}",
            "functions": f"{len(lengths):,}",
            "function lines: median, p90, max": f"{statistics.median(lengths):.0f}, "
            f"{lengths[int(0.9 * len(lengths))]}, {lengths[-1]}",
            "public names defined twice": f"{len(self.defined_twice)}",
            "most arguments of a function": f"{_arguments(arguments)} ({arguments.name})",
            "test files": f"{len(tests)}",
            "source files without a test of their name": f"{len(self.without_test)}",
        }


def _arguments(function: Function) -> int:
    every = function.args
    names = [each.arg for each in (*every.posonlyargs, *every.args, *every.kwonlyargs)]
    return len([name for name in names if name not in {"self", "cls"}])


def suite_row(root: Path, python: str, *more: str) -> str:
    """The wall time of the suite without engines, and its last line."""
    quiet = ("-q", "-m", "not engines", "-p", "no:cacheprovider")
    command = (python, "-m", "pytest", *quiet, *more)
    began_s = time.monotonic()
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    wall_s = time.monotonic() - began_s
    last = re.sub(r"\s+", " ", done.stdout.strip().splitlines()[-1]) if done.stdout else "nothing"
    return f"{wall_s:.0f} s: {last}"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--revision", metavar="REV", help="measure this revision, too")
    parser.add_argument("--suite", action="store_true", help="time the suite without engines")
    parser.add_argument("--names", action="store_true", help="name what is counted")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        houses = {"now": House(ROOT)}
        if options.revision:
            other = Path(folder) / "other"
            add = ("git", "worktree", "add", "-q", "--detach", str(other), options.revision)
            subprocess.run(add, cwd=ROOT, check=True)
            houses = {options.revision: House(other), **houses}
        try:
            _print({name: _measured(house, options.suite) for name, house in houses.items()})
            if options.names:
                _name(houses["now"])
        finally:
            if options.revision:
                remove = ("git", "worktree", "remove", "--force", str(other))
                subprocess.run(remove, cwd=ROOT, check=True)
    return 0


def _measured(house: House, suite: bool) -> dict[str, str]:
    rows = house.rows()
    if suite:
        rows["suite without engines, one process"] = suite_row(house.root, sys.executable)
        every = ("-n", "auto", "--dist", "loadfile")
        rows["the same, a process a core"] = suite_row(house.root, sys.executable, *every)
    return rows


def _print(tables: Mapping[str, Mapping[str, str]]) -> None:
    width = max(len(row) for table in tables.values() for row in table)
    print(" " * width, *(f"{name:>24}" for name in tables))
    for row in next(iter(tables.values())):
        print(f"{row:<{width}}", *(f"{table[row]:>24}" for table in tables.values()))


def _name(house: House) -> None:
    for what in ("one_importer", "halves", "defined_twice", "without_test"):
        print(f"\n{what}: {', '.join(getattr(house, what)) or 'none'}")


if __name__ == "__main__":
    sys.exit(main())
