"""The rules of the house, as tests."""

import ast
import re
import subprocess
import sys
import tomllib

import pytest

from tests.paths import ROOT

PACKAGES = ("study", "objectives", "storage")
LAUNCHED = {
    "objectives/workers/whisper_worker.py",
    "objectives/workers/whisper_recogniser.py",
    "objectives/workers/dummy_weights.py",
    "objectives/workers/engine_probe.py",
}
"""Run by an engine's interpreter, never imported by the study's own process."""
ENGINE_MODULES = {"torch", "vllm", "whisper", "transformers", "tokenizers"}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name_of(path):
    return str(path.relative_to(ROOT))


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path):
    """Modules of ours that a file imports, wherever in the file."""
    found = set()
    modules = {module_of(file) for file in FILES}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in modules else node.module)
    return found


def ours(names):
    return {name for name in names if name.split(".")[0] in PACKAGES}


def test_imports_run_downhill():
    allowed = {
        "study": {"study", "objectives", "storage"},
        "objectives": {"objectives"},
        "storage": {"storage"},
    }
    wrong = [
        f"{name_of(path)} imports {name}"
        for path in FILES
        for name in ours(imports_of(path))
        if name.split(".")[0] not in allowed[path.relative_to(ROOT).parts[0]]
    ]
    assert wrong == []


def test_there_is_no_circle():
    graph = {
        module_of(path): ours(imports_of(path)) & {module_of(p) for p in FILES} for path in FILES
    }
    done, stack = set(), []

    def visit(module):
        if module in stack:
            pytest.fail("circle: " + " -> ".join([*stack[stack.index(module) :], module]))
        if module not in done:
            stack.append(module)
            for other in sorted(graph[module]):
                visit(other)
            stack.pop()
            done.add(module)

    for module in sorted(graph):
        visit(module)


def test_no_file_but_those_that_are_launched_names_an_engine():
    wrong = [
        f"{name_of(path)} imports {name}"
        for path in FILES
        if name_of(path) not in LAUNCHED
        for name in imports_of(path)
        if name.split(".")[0] in ENGINE_MODULES
    ]
    assert wrong == []


def test_the_studys_own_process_imports_no_engine():
    modules = [
        module_of(path)
        for path in FILES
        if name_of(path) not in LAUNCHED and not path.name.startswith("__")
    ]
    hub = [module for module in modules if module.endswith("tournament.example")]
    code = (
        "import importlib, sys\n"
        f"for name in {sorted(set(modules) - set(hub))!r}: importlib.import_module(name)\n"
        f"found = {sorted(ENGINE_MODULES)!r}\n"
        "found = [name for name in found if name in sys.modules]\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT)


def test_optuna_is_used_by_its_public_names_only():
    private = re.compile(r"optuna(?:\.\w+)*\.(_\w+)|\bstudy\._|\btrial\._(?!suggest)")
    wrong = [
        f"{name_of(path)}:{number}: {line.strip()}"
        for path in FILES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if private.search(line.split("#")[0])
    ]
    assert wrong == []


def test_nothing_is_called_manager_helper_or_utils():
    bad = re.compile(r"manager|helper|\butils?\b|_utils?\b", re.IGNORECASE)
    names = [
        f"{name_of(path)}: {node.name}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and bad.search(node.name)
    ]
    assert names + [name_of(path) for path in FILES if bad.search(path.stem)] == []


def test_what_was_not_measured_is_absent():
    sentinel = re.compile(r"\b999(?:\.0)?\b")
    wrong = [name_of(path) for path in FILES if sentinel.search(path.read_text())]
    assert wrong == []


def test_nothing_is_left_to_do():
    unfinished = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")))
    wrong = [name_of(path) for path in FILES if unfinished.search(path.read_text())]
    assert wrong == []


def test_every_public_function_says_what_it_does():
    silent = [
        f"{name_of(path)}: {node.name}"
        for path in FILES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


def test_every_dependency_says_why_it_is_there():
    text = (ROOT / "pyproject.toml").read_text()
    dependencies = tomllib.loads(text)["project"]["dependencies"]
    for dependency in dependencies:
        line = next(line for line in text.splitlines() if dependency in line)
        assert "# " in line, line


def test_the_first_two_blocks_of_the_readme_are_one_command_line_each():
    blocks = re.findall(r"^```\w*\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    assert [block.count("\n") for block in blocks[:2]] == [1, 1]
    assert "study.run" in blocks[0]
    assert "pytest" in blocks[1]
