"""vLLM's source of one version: from a folder of wheels, or out of the registry's by pip itself.

Of a wheel of hundreds of megabytes only the members in `WANTED` are read: pip's own lazy wheel
asks for their bytes alone. Where the registry gives no ranges, the whole file is downloaded, and
removed afterwards.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

WANTED = re.compile(
    r"vllm/("
    r"engine/(arg_utils|llm_engine)|config|config/\w+|envs|utils|utils/\w+|usage/usage_lib"
    r"|platforms/(cuda|cpu|interface)|device_allocator/\w+|executor/\w+|worker/(cpu_)?worker"
    r"|v1/kv_cache_interface|v1/core/\w+|v1/metrics/\w+|v1/engine/(core|utils|async_llm|exceptions)"
    r"|v1/executor/\w+|v1/worker/\w+|v1/worker/gpu/(model_runner|cudagraph_utils)"
    r"|v1/attention/backends/(triton_attn|flash_attn|fa_utils)|attention/utils/fa_utils"
    r"|v1/sample/sampler|v1/sample/ops/topk_topp_sampler"
    r"|model_executor/models/registry|entrypoints/(\w+/)*(api_server|cli_args|entry|api_utils)"
    r"|entrypoints/(\w+/)*(launcher|server_utils)|entrypoints/utils"
    r")\.py$"
)
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class Source:
    """The texts of one version.

    Attributes:
        version: As it was asked for.
        texts: Path in the wheel to text.
    """

    version: str
    texts: dict[str, str]

    @cached_property
    def trees(self) -> dict[str, ast.Module]:
        """Path to syntax tree."""
        return {path: ast.parse(text) for path, text in self.texts.items()}

    def nodes(self, kind: type[Any], within: str = "") -> Iterator[tuple[str, Any]]:
        """Every node of a kind, with its file; `within` is an expression for paths."""
        for path, by_kind in self._by_kind.items():
            if re.search(within, path):
                yield from ((path, node) for node in by_kind.get(kind, ()))

    @cached_property
    def _by_kind(self) -> dict[str, dict[type[ast.AST], list[ast.AST]]]:
        """Path to its nodes by kind, so that a tree is walked once for all checks."""
        found: dict[str, dict[type[ast.AST], list[ast.AST]]] = {}
        for path, tree in self.trees.items():
            by_kind = found.setdefault(path, {})
            for node in ast.walk(tree):
                by_kind.setdefault(type(node), []).append(node)
        return found

    def function(self, name: str, within: str = "") -> ast.FunctionDef | None:
        """The first function of that name; None if there is none."""
        found = (node for _, node in self.nodes(ast.FunctionDef, within) if node.name == name)
        return next(found, None)


def from_wheel(version: str, file: Any) -> Source:
    """What is wanted of a wheel; `file` is whatever `zipfile` opens."""
    with zipfile.ZipFile(file) as wheel:
        members = [info for info in wheel.infolist() if WANTED.match(info.filename)]
        members.sort(key=lambda info: info.header_offset)
        texts = {info.filename: wheel.read(info).decode() for info in members}
    return Source(version, texts)


def from_folder(version: str, folder: Path) -> Source | None:
    """A version out of a folder of wheels; None if it has no such wheel."""
    found = sorted(folder.glob(f"vllm*-{version}-*.whl"))
    return from_wheel(version, found[0]) if found else None


def from_registry(version: str, cache: Path) -> Source | None:
    """A version as pip's registry has it; None if it has none.

    Args:
        version: Exact.
        cache: Texts are kept there, a folder a version, and read from there the next time.
    """
    kept = cache / version
    if not (kept / "whole").exists():
        found = _fetched(version)
        if found is None:
            return None
        for path, text in found.texts.items():
            (kept / path).parent.mkdir(parents=True, exist_ok=True)
            (kept / path).write_text(text)
        (kept / "whole").touch()
    paths = sorted(kept.rglob("*.py"))
    return Source(version, {str(path.relative_to(kept)): path.read_text() for path in paths})


def _fetched(version: str) -> Source | None:
    from pip._internal.network.lazy_wheel import HTTPRangeRequestUnsupported, LazyZipOverHTTP

    url, session = _located(version)
    if url is None:
        return None
    try:
        return from_wheel(version, LazyZipOverHTTP(url, session, _PIECE_BYTES))
    except HTTPRangeRequestUnsupported:
        with _downloaded(version) as whole:
            return from_wheel(version, whole)


def _located(version: str) -> tuple[str | None, Any]:
    """A wheel's address by pip's own configuration, and pip's session."""
    from pip._internal.commands import create_command
    from pip._vendor.packaging.specifiers import SpecifierSet

    command: Any = create_command("download")
    options, _ = command.parse_args(["--only-binary=:all:", "--no-deps", "vllm"])
    session = command._build_session(options)
    finder = command._build_package_finder(options, session)
    best = finder.find_best_candidate("vllm", SpecifierSet(f"=={version}")).best_candidate
    return (None if best is None else best.link.url_without_fragment), session


@contextmanager
def _downloaded(version: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder]
        subprocess.run([*argv, f"vllm=={version}"], check=True)
        yield next(Path(folder).glob("*.whl"))
