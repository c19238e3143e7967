"""How many bytes of weights a model's folder holds, from the headers of its files alone.

A safetensors file begins with eight bytes of length and a JSON header that names every tensor's
type, shape and place; the tensors themselves are never read. Where a folder has only pickled
checkpoints, the sizes of the files stand in, and say so.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_HEADER_LIMIT_BYTES = 100 << 20
"""Above this, a header is no header: the format's own limit."""

_INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_LAYER = re.compile(r"(?:language_model\.)?model\.(?:language_model\.)?layers\.(\d+)\.")
_OUTPUT_HEADS = ("lm_head.weight", "output.weight", "embed_out.weight")
_NOT_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state", "consolidated", "original")

Origin = Literal["headers", "index", "file sizes"]


@dataclass(frozen=True, kw_only=True)
class WeightFiles:
    """What a folder's files say of the weights.

    Attributes:
        stored_bytes: Of all tensors, as stored.
        wide_bytes: Of them, those stored in 32 bits; an engine that loads 16 bits keeps half.
        head_bytes: Of them, a stored output head.
        wide_head_bytes: Of that, what is stored in 32 bits.
        origin: Where the figures come from; only "headers" knows more than the first.
    """

    stored_bytes: int
    wide_bytes: int = 0
    head_bytes: int = 0
    wide_head_bytes: int = 0
    origin: Origin


def weight_bytes(
    folder: Path | str, *, dtype_bytes: int = 2, tied: bool = False, layers: int | None = None
) -> int | None:
    """Bytes that an engine keeps of a folder's weights, over all devices; None if it has none.

    Args:
        folder: A model's folder, or a file in it.
        dtype_bytes: What floating-point weights are loaded as.
        tied: The output head is the embedding; a stored copy is dropped.
        layers: Of the language model; what is stored beyond them only proposes tokens ahead (MTP),
            and is not loaded where nobody asks for that. None for whatever is there.
    """
    files = read_weight_files(folder, layers)
    if files is None:
        return None
    dropped = files.head_bytes if tied else 0
    narrowed = files.wide_bytes - (files.wide_head_bytes if tied else 0)
    saved = narrowed - narrowed * min(dtype_bytes, 4) // 4
    return files.stored_bytes - dropped - saved


def read_weight_files(folder: Path | str, layers: int | None = None) -> WeightFiles | None:
    """Read the headers of a folder's weights, as `weight_bytes`; None where it holds none."""
    place = Path(folder)
    place = place if place.is_dir() else place.parent
    index = _index(place)
    names = _shards(place, index)
    present = [place / name for name in names if (place / name).is_file()]
    if (
        present
        and len(present) == len(names)
        and (read := _from_headers(present, layers)) is not None
    ):
        return read
    total = (index.get("metadata") or {}).get("total_size")
    if isinstance(total, int | float) and total > 0:
        return WeightFiles(stored_bytes=int(total), origin="index")
    sizes = [file.stat().st_size for file in _pickled(place)]
    return WeightFiles(stored_bytes=sum(sizes), origin="file sizes") if sizes else None


def _index(place: Path) -> Mapping[str, Any]:
    for name in _INDEX:
        try:
            document = json.loads((place / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(document, dict):
            return document
    return {}


def _shards(place: Path, index: Mapping[str, Any]) -> list[str]:
    """The safetensors files an engine would load: those of the index, else all in the folder."""
    mapped = index.get("weight_map")
    if isinstance(mapped, Mapping):
        names = {str(name) for name in mapped.values()}
        if all(name.endswith(".safetensors") for name in names):
            return sorted(names)
    return sorted(
        file.name
        for file in place.glob("*.safetensors")
        if not file.name.startswith(("consolidated", "adapter"))
    )


def _pickled(place: Path) -> Iterator[Path]:
    for pattern in ("*.bin", "*.pt", "*.pth"):
        found = [f for f in place.glob(pattern) if not f.name.startswith(_NOT_WEIGHTS)]
        if found:
            yield from found
            return


def _from_headers(files: list[Path], layers: int | None) -> WeightFiles | None:
    held: Counter[tuple[bool, bool]] = Counter()  # bytes by: stored in 32 bits, an output head
    for file in files:
        header = read_header(file)
        if header is None:  # a pointer to a large file, or half of a download
            return None
        for name, tensor in header.items():
            if _drafts(name, layers):
                continue
            begin, end = tensor["data_offsets"]
            held[tensor["dtype"] == "F32", name.endswith(_OUTPUT_HEADS)] += end - begin
    return WeightFiles(
        stored_bytes=held.total(),
        wide_bytes=held[True, False] + held[True, True],
        head_bytes=held[False, True] + held[True, True],
        wide_head_bytes=held[True, True],
        origin="headers",
    )


def _drafts(name: str, layers: int | None) -> bool:
    """Whether a tensor belongs to layers that only propose tokens ahead."""
    if layers is None:
        return False
    numbered = _LAYER.match(name)
    return name.startswith("mtp.") or (numbered is not None and int(numbered[1]) >= layers)


def read_header(file: Path) -> dict[str, Any] | None:
    """A safetensors file's tensors by name, without reading them; None if it is no such file."""
    try:
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if not 2 <= length <= _HEADER_LIMIT_BYTES:
                return None
            header = json.loads(handle.read(length))
    except (OSError, ValueError):
        return None
    if not isinstance(header, dict):
        return None
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    complete = all(
        isinstance(e, dict) and "data_offsets" in e and "dtype" in e for e in tensors.values()
    )
    return tensors if complete else None
