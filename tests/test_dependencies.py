"""What is installed is used, where pyproject says, and nothing else is imported."""

import re
import sys
import tomllib
from functools import cache

import pytest

from tests.benchmarks.house import PACKAGES
from tests.paths import ROOT
from tests.test_house import ELSEWHERE, HOUSE, foreign_imports, is_launched

IMPORTED_AS = {"nvidia-ml-py": "pynvml", "pyyaml": "yaml"}
BY_PATH = {"process_table"}
"""The guard's neighbour, which it imports without the package around it."""


def stated():
    """Each runtime dependency, and its comment: the places, and what for."""
    text = (ROOT / "pyproject.toml").read_text()
    for dependency in tomllib.loads(text)["project"]["dependencies"]:
        (line,) = [line for line in text.splitlines() if line.strip().startswith(f'"{dependency}"')]
        yield dependency, line.partition("# ")[2]


STATED = dict(stated())


def module_of(dependency):
    name = re.split(r"[<>=]", dependency)[0]
    return IMPORTED_AS.get(name, name.replace("-", "_"))


@cache
def importers():
    """Top-level module to the files that import it; what runs in an engine has its packages."""
    found = {}
    for module in HOUSE.trees:
        if not is_launched(module):
            path = str(HOUSE.path(module).relative_to(ROOT))
            for name in foreign_imports(module):
                found.setdefault(name, set()).add(path)
    return found


@pytest.mark.parametrize(("dependency", "comment"), [*STATED.items()], ids=[*STATED])
def test_a_dependency_is_imported_where_its_comment_says_and_nowhere_else(dependency, comment):
    places, _, reason = comment.partition(": ")
    assert reason, comment
    files = importers()[module_of(dependency)]
    named = places.split(", ")
    under = {
        place: {f for f in files if f == place or f.startswith(f"{place}/")} for place in named
    }
    assert all(under.values()), under
    assert files <= set().union(*under.values())


def test_nothing_is_imported_that_is_not_declared():
    declared = {module_of(dependency) for dependency in STATED}
    known = declared | set(sys.stdlib_module_names) | set(PACKAGES) | ELSEWHERE | BY_PATH
    assert {name: files for name, files in importers().items() if name not in known} == {}


@pytest.mark.parametrize("extra", ["postgres", "mysql", "redis", "s3"])
def test_an_extra_is_for_a_place_that_the_storage_accepts(extra):
    accepted = "".join(path.read_text() for path in (ROOT / "storage").glob("*.py"))
    assert re.search(rf"\b{extra}(ql)?://", accepted), extra
