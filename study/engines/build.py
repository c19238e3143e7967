"""Engines that we build: a virtual environment by recipe, made once, finished or not there.

A finished engine carries `engine.json`, written last. A folder without it is what an interrupted
build left, and is made again. Where packages come from is the user's pip configuration.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import IO, Literal

from filelock import FileLock
from uv import find_uv_bin

from objectives.errors import EngineError
from objectives.servers import Engine, Gpu, probe, study_home, write_whole
from study.engines.pip_settings import pip_settings, uv_options, uv_variables
from study.engines.recipes import Recipe, recipe_named, refusal

Log = Callable[[str], None]

MARKER = "engine.json"
MARKER_SCHEMA = 1
SHOWN_LINES = 12  # of the log, when a build fails
_BUILD_TOOLS = ("setuptools<81", "wheel")  # openai-whisper comes as source, and needs both
_LINKS = "hardlink"  # from uv's cache, which may be cleaned: a symbolic link would then be broken
_HIDDEN_FROM_UV = ("UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_NO_BUILD_ISOLATION", "VIRTUAL_ENV")
_HIDDEN_FROM_PYTHON = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")


def state_of(name: str) -> Literal["absent", "unfinished", "outdated", "ready"]:
    """How far a recipe's engine is; outdated: finished, by an older recipe of the same name."""
    folder = _folder(name)
    if not folder.is_dir():
        return "absent"
    if (digest := _marker(folder).get("recipe")) is None:
        return "unfinished"
    return "ready" if digest == recipe_named(name).digest() else "outdated"


def built_size_bytes(name: str) -> int | None:
    """What a finished engine took on disk when it was built; None if there is none."""
    size_bytes = _marker(_folder(name)).get("size_bytes")
    return size_bytes if isinstance(size_bytes, int) else None


def built_engine(name: str) -> Engine | None:
    """The finished engine of a recipe; None if there is none."""
    folder = _folder(name)
    if not _marker(folder):
        return None
    return probe(folder / "bin" / "python", name=name)


def build_engine(name: str, *, log: Log, gpu: Gpu | None = None, rebuild: bool = False) -> Engine:
    """Make the engine of a recipe, or find it made already.

    Two builders do not collide: the second waits, and finds the engine done. `log` is called with
    what happens, a line at a time, before it happens. A `gpu` that the recipe does not serve, by
    its age or by its driver's, is refused before anything is downloaded.

    Raises:
        UsageError: No such recipe.
        EngineError: A step failed (its last lines and its log are named), the disk is full, or
            the recipe is not for this GPU, its driver or this Python.
    """
    chosen = recipe_named(name)
    if reason := refusal(chosen, gpu):
        raise EngineError(reason)
    folder = _folder(chosen.name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f"{chosen.name}.lock"))
    if lock_is_held(lock):
        log(f"engine {chosen.name}: another process builds it; waiting")
    with lock:
        if rebuild or _marker(folder).get("recipe") != chosen.digest():
            _build(chosen, folder, log)
        else:
            log(f"engine {chosen.name} is there already: {folder}")
    engine = built_engine(chosen.name)
    if engine is None:  # somebody removed it meanwhile
        raise EngineError(f"engine {chosen.name} vanished from {folder}")
    return engine


def lock_is_held(lock: FileLock) -> bool:
    """Whether somebody else holds the lock right now."""
    try:
        with lock.acquire(blocking=False):
            return False
    except TimeoutError:
        return True


def _folder(name: str) -> Path:
    return study_home() / "engines" / name


def _marker(folder: Path) -> dict[str, object]:
    """What was written when the engine was finished; empty if it is not."""
    try:
        return dict(json.loads((folder / MARKER).read_text()))
    except (OSError, ValueError):
        return {}


def _build(recipe: Recipe, folder: Path, log: Log) -> None:
    log_file = folder.with_name(f"{recipe.name}.log")
    log(f"engine {recipe.name}: {recipe.makes}, about {_gb(recipe.size_bytes)}, in {folder}")
    log(f"engine {recipe.name}: this downloads packages and takes minutes; log: {log_file}")
    _want_room(recipe, folder)
    shutil.rmtree(folder, ignore_errors=True)
    began_s = time.monotonic()
    with log_file.open("w") as out:
        _Builder(recipe, folder, log, out, pip_settings()).run()
    size_bytes = folder_bytes(folder)
    marker = {
        "schema": MARKER_SCHEMA,
        "recipe": recipe.digest(),
        "size_bytes": size_bytes,
        "built_s": round(time.monotonic() - began_s, 1),
        "packages": installed(folder),
    }
    write_whole(folder / MARKER, json.dumps(marker, indent=1))
    log(f"engine {recipe.name}: done in {marker['built_s']:.0f} s, {_gb(size_bytes)}")


def _want_room(recipe: Recipe, folder: Path) -> None:
    free_bytes = shutil.disk_usage(folder.parent).free
    if free_bytes < recipe.size_bytes:
        raise EngineError(
            f"engine {recipe.name} needs about {_gb(recipe.size_bytes)} in {folder.parent}, and "
            f"{_gb(free_bytes)} are free; GPU_ALLOCATION_STUDY_HOME names another place"
        )


@dataclass(frozen=True)
class _Builder:
    """One build, step by step; every command's output goes to the log."""

    recipe: Recipe
    folder: Path
    log: Log
    out: IO[str]
    settings: Mapping[str, str]  # of pip

    def run(self) -> None:
        bare = ", ".join(self.recipe.bare)
        venv = ["venv", "--python", sys.executable, str(self.folder)]
        self._step("1/4 a virtual environment", [find_uv_bin(), *venv])
        self._install("2/4 what builds packages", *_BUILD_TOOLS)
        self._install(f"3/4 {bare}", "--no-deps", "--no-build-isolation", *self.recipe.bare)
        wanted = self.folder / "requirements.txt"
        wanted.write_text("\n".join((*self.recipe.packages, *self._requirements())) + "\n")
        # Compiled files save every start of a server tens of seconds.
        largest = "4/4 what they need: the largest part, and all of it compiled"
        self._install(largest, "--compile-bytecode", "--requirement", str(wanted))

    def _requirements(self) -> list[str]:
        found = distributions(path=[str(packages_folder(self.folder))])
        requires = {canonical(each.metadata["Name"]): each.requires or [] for each in found}
        every = [line for package in self.recipe.bare for line in requires[canonical(package)]]
        return requirements_without(every, self.recipe.left_out)

    def _install(self, what: str, *options: str) -> None:
        python = str(self.folder / "bin" / "python")
        place = ["--python", python, "--link-mode", _LINKS, *uv_options(self.settings)]
        self._step(what, [find_uv_bin(), "pip", "install", *place, *options])

    def _step(self, what: str, argv: Sequence[str]) -> None:
        self.log(f"engine {self.recipe.name}: {what}")
        if code := self._run(argv):
            log_file = Path(self.out.name)
            lines = log_file.read_text(errors="replace").splitlines()[-SHOWN_LINES:]
            raise EngineError(
                f"engine {self.recipe.name}: step {what} ended with exit code {code}; its last "
                "lines:\n"
                + "\n".join(f"  {line}" for line in lines)
                + f"\nthe whole log: {log_file}"
            )

    def _run(self, argv: Sequence[str]) -> int:
        self.out.write(f"$ {' '.join(argv)}\n")
        self.out.flush()
        try:
            return subprocess.run(
                argv,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=self.out,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode
        except OSError as error:
            raise EngineError(f"{argv[0]} cannot be run: {error.strerror}") from error

    def _environment(self) -> dict[str, str]:
        """Ours, less what would lead uv or Python out of the virtual environment."""
        dropped = (*_HIDDEN_FROM_UV, *_HIDDEN_FROM_PYTHON)
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        return kept | uv_variables(self.settings)


def packages_folder(folder: Path) -> Path:
    """`site-packages` of a virtual environment. Raises: EngineError, if there is none."""
    found = sorted(folder.glob("lib/python3*/site-packages"))
    if not found:
        raise EngineError(f"{folder} is no virtual environment")
    return found[0]


def canonical(requirement: str) -> str:
    """The normalised name of the package that a requirement names.

    Source: the Python packaging specifications, "Names and normalization".
    """
    matched = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement.strip())
    return re.sub(r"[-_.]+", "-", matched.group()).lower() if matched else ""


def requirements_without(requires: Iterable[str], left_out: Iterable[str]) -> list[str]:
    """Requirement lines of a package's metadata, as uv shall install them.

    Optional extras and the packages `left_out` are dropped. Markers stay: uv judges them. A
    local version (`torch==2.13.0+cpu`) is cut off: which build of it is the user's pip
    configuration's choice.
    """
    dropped = {canonical(name) for name in left_out}
    kept = []
    for line in requires:
        what, separator, marker = line.partition(";")
        if canonical(what) in dropped or re.search(r"\bextra\s*==", marker):
            continue
        kept.append(re.sub(r"(==[^\s+,]+)\+[A-Za-z0-9.]+", r"\1", what) + separator + marker)
    return kept


def installed(folder: Path) -> dict[str, str]:
    """Distribution to version: what the environment really has."""
    found = distributions(path=[str(packages_folder(folder))])
    return dict(sorted((canonical(each.metadata["Name"]), each.version) for each in found))


def folder_bytes(folder: Path) -> int:
    """What a folder takes on disk; links are not followed."""
    walked = os.walk(folder)
    return sum(os.lstat(f"{place}/{file}").st_size for place, _, files in walked for file in files)


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB"
