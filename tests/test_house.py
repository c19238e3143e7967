"""The rules of the house, as tests; `tests/benchmarks/house.py` counts what has no rule."""

import ast
import re
import subprocess
import sys
from functools import cache

import pytest

from tests.benchmarks.house import PACKAGES, House
from tests.paths import ROOT

HOUSE = House(ROOT)
FILES_A_FOLDER = 12
ARGUMENTS = 8
LAUNCHED = "objectives.workers"
"""Run by another interpreter, by path; of this folder only the door is imported."""
ENGINE_MODULES = {"torch", "vllm", "whisper", "transformers", "tokenizers"}
ELSEWHERE = {"optunahub"}
"""What a package that is handed on as it is imports where it is used."""


@cache
def source(module):
    return HOUSE.path(module).read_text()


def is_launched(module):
    return module.startswith(f"{LAUNCHED}.")


def is_folder(dotted):
    return (ROOT / dotted.replace(".", "/")).is_dir()


def door_of(importer, imported):
    """The outermost folder around `imported` that `importer` is not in itself; None if there is
    none. Packages are floors, not rooms: what lies directly on one is its own door."""
    parts = imported.split(".")
    for depth in range(2, len(parts) + 1):
        folder = ".".join(parts[:depth])
        inside = importer == folder or importer.startswith(f"{folder}.")
        if is_folder(folder) and not inside:
            return folder
    return None


def room_of(module):
    """A folder with all that is in it, or a file that lies directly on a floor."""
    return ".".join(module.split(".")[:2])


def foreign_imports(module):
    """Top-level modules that a file imports, wherever in the file."""
    for node in ast.walk(HOUSE.trees[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def circle_in(graph):
    """A circle of a graph as a list of names, else None."""
    done, stack = set(), []

    def visit(name):
        if name in stack:
            return [*stack[stack.index(name) :], name]
        if name not in done:
            stack.append(name)
            for other in sorted(graph.get(name, ())):
                if found := visit(other):
                    return found
            stack.pop()
            done.add(name)
        return None

    return next((found for name in sorted(graph) if (found := visit(name))), None)


def test_a_folder_holds_at_most_twelve_files():
    held = {
        str(folder.relative_to(ROOT)): len(files)
        for package in PACKAGES
        for folder in [ROOT / package, *(ROOT / package).rglob("*/")]
        if folder.name != "__pycache__"
        and (files := [file for file in folder.iterdir() if file.is_file()])
    }
    assert {"study/samplers", "objectives/trial", "storage"} <= set(held)
    assert {name: count for name, count in held.items() if count > FILES_A_FOLDER} == {}


def test_imports_from_outside_a_folder_go_through_its_door():
    wrong = [
        f"{module} imports {base}, whose door is {door}"
        for module in HOUSE.trees
        for base, _ in HOUSE.imports(module)
        if (door := door_of(module, base)) not in {None, base}
    ]
    assert wrong == []


def test_a_door_only_hands_on_what_it_names():
    for module in sorted(HOUSE.doors - set(PACKAGES)):
        tree = HOUSE.trees[module]
        assert ast.get_docstring(tree), module
        handed = {
            alias.asname or alias.name
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and node.module != "__future__"
            for alias in node.names
        }
        named = {
            name
            for node in tree.body
            if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
            for name in ast.literal_eval(node.value)
        }
        if module != LAUNCHED:  # has nothing that could be imported, only paths
            assert handed == named, module
            assert not [n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)]


def test_whatever_a_door_hands_on_somebody_outside_takes():
    taken = {(base, name) for module in HOUSE.trees for base, name in HOUSE.imports(module)}
    notebook = (ROOT / "notebooks/front.ipynb").read_text()
    benches = "".join(path.read_text() for path in (ROOT / "tests/benchmarks").glob("*.py"))
    idle = [
        f"{door}.{name}"
        for door in HOUSE.doors
        for base, name in HOUSE.imports(door)
        if (door, name) not in taken and name not in notebook and name not in benches
        if base.startswith(f"{door}.")
    ]
    assert idle == []


def test_imports_run_downhill():
    allowed = {
        "study": {"study", "objectives", "storage"},
        "objectives": {"objectives"},
        "storage": {"storage"},
    }
    wrong = [
        f"{module} imports {base}"
        for module in HOUSE.trees
        for base, _ in HOUSE.imports(module)
        if base.split(".")[0] not in allowed[module.split(".")[0]]
    ]
    assert wrong == []


def test_no_file_is_part_of_a_circle():
    graph = {
        module: {HOUSE.home(base, name) for base, name in HOUSE.imports(module)} - {module}
        for module in HOUSE.trees
        if module not in HOUSE.doors
    }
    assert circle_in(graph) is None


def test_no_room_is_part_of_a_circle():
    graph = {}
    for module in HOUSE.trees:
        rooms = {room_of(base) for base, _ in HOUSE.imports(module)}
        graph.setdefault(room_of(module), set()).update(rooms - {room_of(module)})
    assert circle_in(graph) is None
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]


def test_no_class_name_is_defined_twice():
    homes = {}
    for module, tree in HOUSE.trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(module)
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_every_source_file_has_a_test_of_its_name():
    assert HOUSE.without_test == []


REASONS = {
    "objectives.device.cpu": "one file a kind of device",
    "objectives.device.numa": "arithmetic; whoever touches the machine computes little",
    "objectives.diagnosis.line_reader": "a line's frame, apart from what lines together mean",
    "objectives.diagnosis.rules_device": "a table of rules; one file a part of the machine",
    "objectives.diagnosis.rules_start": "a table of rules; one file a part of the machine",
    "objectives.measurement.doubts": "pure rules, one a reason to doubt a figure",
    "objectives.models.quantization": "a table of methods, which grows by vLLM's versions",
    "objectives.servers.guard": "launched by path, and imports nothing, to start at once",
    "objectives.trial.tenants": "who is there; the stages say when",
    "objectives.trial.conclusion": "pure: what a trial's figures are worth",
    "objectives.workers.whisper_recogniser": "the part of the server that engines differ in",
    "study.config.reference": "writes docs, and is read by nobody who runs a study",
    "study.engines.pip_settings": "a table: one tool's options in the words of another",
    "study.samplers.bayesian.surrogate": "the model, apart from what is chosen with it",
    "study.search.stopping": "pure: when the loop ends",
}
"""Files that only one neighbour uses, and why they are not part of it."""


def test_a_file_that_only_one_neighbour_uses_has_a_reason_of_its_own():
    assert set(HOUSE.halves) == set(REASONS)
    assert len(HOUSE.halves) < 0.1 * len(set(HOUSE.trees) - HOUSE.doors)


def test_no_file_but_those_that_are_launched_names_an_engine():
    wrong = [
        f"{module} imports {name}"
        for module in HOUSE.trees
        if not is_launched(module)
        for name in foreign_imports(module)
        if name in ENGINE_MODULES
    ]
    assert wrong == []


def test_the_studys_own_process_imports_no_engine():
    modules = [
        module
        for module in HOUSE.trees
        if not is_launched(module)
        and not module.endswith("__main__")
        and not ELSEWHERE & set(foreign_imports(module))
    ]
    assert len(modules) > 100
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"found = [name for name in {sorted(ENGINE_MODULES)!r} if name in sys.modules]\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT)


KNOWS_THE_SERVERS = (
    "objectives.kinds",  # what each of them is
    "objectives.vllm",
    "objectives.models",
    "objectives.memory",
    "objectives.workers",
    "objectives.servers.engine",  # what an environment must have to run one
    "objectives.space",  # their names, once
    "objectives.evidence",  # the first version knew two only
    "objectives.causes",  # remedies differ
    "objectives.units",  # the type of their names
    "study.config",  # what people write
    "study.setup",  # where that becomes a bench
    "study.engines",
    "study.fit",
)
"""Everybody else goes over the servers of a study, whichever they are."""


def test_no_other_room_knows_which_servers_there_are():
    named = {
        module
        for module, tree in HOUSE.trees.items()
        if not module.startswith(KNOWS_THE_SERVERS)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in {"vllm", "whisper"}
    }
    assert named == set()


def test_optuna_is_used_by_its_public_names_only():
    private = re.compile(r"optuna(?:\.\w+)*\.(_\w+)|\bstudy\._|\btrial\._(?!suggest)")
    wrong = [
        f"{module}:{number}: {line.strip()}"
        for module in HOUSE.trees
        for number, line in enumerate(source(module).splitlines(), 1)
        if private.search(line.split("#")[0])
    ]
    assert wrong == []


def test_nothing_is_called_manager_helper_or_utils():
    bad = re.compile(r"manager|helper|\butils?\b|_utils?\b", re.IGNORECASE)
    names = [
        f"{module}: {node.name}"
        for module, tree in HOUSE.trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and bad.search(node.name)
    ]
    assert names + [module for module in HOUSE.trees if bad.search(module)] == []


def arguments_of(function):
    """How many arguments a function takes, without `self` and `cls`; `**options` are one."""
    spec = function.args
    named = [arg.arg for arg in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]
    several = [arg.arg for arg in (spec.vararg, spec.kwarg) if arg]
    return len([name for name in named if name not in {"self", "cls"}] + several)


def test_no_function_takes_more_than_eight_arguments():
    counts = {
        f"{module}: {node.name}": arguments_of(node)
        for module, tree in HOUSE.trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: count for name, count in counts.items() if count > ARGUMENTS} == {}
    example = ast.parse("def f(self, a, /, b, *c, d, **e): ...").body[0]
    assert arguments_of(example) == 5


@pytest.mark.parametrize("word", ["999(?:\\.0)?", "TO" + "DO", "FIX" + "ME", "XX" + "X"])
def test_no_stand_in_for_a_measurement_and_nothing_left_to_do(word):
    assert [m for m in HOUSE.trees if re.search(rf"\b{word}\b", source(m))] == []


def test_every_public_function_says_what_it_does():
    silent = [
        f"{module}: {node.name}"
        for module, tree in HOUSE.trees.items()
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


def test_the_first_two_blocks_of_the_readme_are_one_command_line_each():
    blocks = re.findall(r"^```\w*\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    assert [block.count("\n") for block in blocks[:2]] == [1, 1]
    assert "study.run" in blocks[0]
    assert "pytest" in blocks[1]


def test_the_map_for_contributors_names_every_room_and_no_other():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    mapped = {name.rstrip("/") for name in re.findall(r"^\| `([\w/]+/)` \|", text, re.M)}
    rooms = {"/".join(door.split(".")[:2]) for door in HOUSE.doors}
    assert mapped == rooms


def test_every_path_that_contributors_are_sent_to_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`((?:study|objectives|storage|tests|docs|\.ci)/[\w./-]+)`", text)
    assert len(named) > 20
    assert [path for path in named if not (ROOT / path).exists()] == []
