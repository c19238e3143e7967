"""What a version can print: its format strings, with samples where figures will stand."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.benchmarks.vllm_conformance.source import Source

SAMPLES = ("12", "1.23", "1,234", "GPU")
_PERCENT = re.compile(r"%(?:\.\d+f|[sdrf])")


def texts(source: Source, within: str = "") -> Iterator[str]:
    """Each string of the source, once for each sample in its places.

    Neighbours that Python joins are one string; `%.2f` and `{x:.2f}` always become a decimal.
    """
    for path, tree in source.trees.items():
        if re.search(within, path):
            for node in _outermost(tree):
                yield from (_filled(node, sample) for sample in SAMPLES)


def _outermost(tree: ast.AST) -> Iterator[ast.expr]:
    """Strings and f-strings, without the pieces of f-strings."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.expr) and _is_text(node):
            yield node
        else:
            waiting.extend(ast.iter_child_nodes(node))


def _is_text(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Add) and _is_text(node.left) and _is_text(node.right)
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _filled(node: ast.expr, sample: str) -> str:
    if isinstance(node, ast.BinOp):
        return _filled(node.left, sample) + _filled(node.right, sample)
    if isinstance(node, ast.JoinedStr):
        return "".join(_filled(value, sample) for value in node.values)
    if isinstance(node, ast.FormattedValue):
        spec = "" if node.format_spec is None else ast.unparse(node.format_spec)
        return "1.23" if "f" in spec.strip("f'\"") else "1,234" if "," in spec else sample
    text = str(getattr(node, "value", ""))
    return _PERCENT.sub(lambda found: "1.23" if "f" in found[0] else sample, text)


def raised(source: Source, within: str = "") -> Iterator[list[str]]:
    """What its exceptions say, type first, as a traceback's last line: one list an exception."""
    for _, node in source.nodes(ast.Raise, within):
        call = node.exc
        if isinstance(call, ast.Call) and call.args and _is_text(call.args[0]):
            kind = ast.unparse(call.func)
            yield [f"{kind}: {_filled(call.args[0], sample)}" for sample in SAMPLES]
    for _, check in source.nodes(ast.Assert, within):
        if check.msg is not None and _is_text(check.msg):
            yield [f"AssertionError: {_filled(check.msg, sample)}" for sample in SAMPLES]
