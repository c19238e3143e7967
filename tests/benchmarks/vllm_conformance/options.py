"""Which options a version's server takes, read off the calls that build its parser."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.benchmarks.vllm_conformance.source import Source

_PARSERS = r"(arg_utils|cli_args)\.py$"


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: Without its dashes.
        is_flag: It stands without a value.
        has_no: `--no-NAME` exists, too.
    """

    name: str
    is_flag: bool = False
    has_no: bool = False


def options(source: Source) -> dict[str, Option]:
    """Every option by name; empty if the engine's parser was not found."""
    if not any(path.endswith("arg_utils.py") for path in source.texts):
        return {}
    annotations = _annotations(source)
    found: dict[str, Option] = {}
    for path, call in source.nodes(ast.Call, _PARSERS):
        if not isinstance(call.func, ast.Attribute) or call.func.attr != "add_argument":
            continue
        for option in _of_call(call, annotations):
            found.setdefault(option.name, option)
        if any(isinstance(word, ast.JoinedStr) for word in call.args):
            found |= {o.name: o for o in _frontend(source.trees[path], annotations)}
    return found


def _of_call(call: ast.Call, annotations: dict[str, str]) -> Iterator[Option]:
    words = [word.value for word in call.args if isinstance(word, ast.Constant)]
    said = {key.arg: ast.unparse(key.value) for key in call.keywords}
    action = said.get("action", "")
    field = re.search(r"\['(\w+)'\]", said.get(None, ""))  # **kwargs_of_a_class['field']
    inherits = field is not None and not action and "type" not in said
    annotation = annotations.get(field[1], "") if field is not None and inherits else ""
    for word in words:
        if isinstance(word, str) and word.startswith("--"):
            yield _option(word[2:], action, annotation)


def _option(name: str, action: str, annotation: str) -> Option:
    both = "BooleanOptionalAction" in action or _is_bool(annotation)
    return Option(name, is_flag=both or "store_true" in action, has_no=both)


def _is_bool(annotation: str) -> bool:
    parts = {part.strip() for part in annotation.removeprefix("Optional[").strip("]").split("|")}
    return "bool" in parts and "str" not in parts


def _frontend(tree: ast.Module, annotations: dict[str, str]) -> Iterator[Option]:
    """Options that a parser makes from the fields of its own classes."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("FrontendArgs"):
            for name, annotation in _fields(node):
                yield _option(name.replace("_", "-"), "", annotation)


def _annotations(source: Source) -> dict[str, str]:
    """Field to annotation, over all configuration classes; of bools any one counts."""
    found: dict[str, str] = {}
    for _, node in source.nodes(ast.ClassDef, r"vllm/(config|engine/arg_utils)"):
        for name, annotation in _fields(node):
            if name not in found or _is_bool(annotation):
                found[name] = annotation
    return found


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            yield line.target.id, ast.unparse(line.annotation)


def literal(source: Source, name: str) -> tuple[str, ...]:
    """The words of `name = Literal[...]` in the configuration; empty if there is none."""
    for _, node in source.nodes(ast.Assign, r"vllm/config"):
        if ast.unparse(node.targets[0]) == name and "Literal" in ast.unparse(node.value):
            words = (n.value for n in ast.walk(node.value) if isinstance(n, ast.Constant))
            return tuple(str(word) for word in words)
    return ()
