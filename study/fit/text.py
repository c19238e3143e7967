"""How `study.fit` tells people what it found: a bar of the device by parts, a table, advice."""

from __future__ import annotations

import contextlib
import json
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from objectives.memory import (
    Estimate,
    Prediction,
    ServerModel,
    break_even,
    cheapest_gains,
    overhead_note,
)
from objectives.models import AttentionLayers, UnsupportedShapeError
from objectives.units import GIB, gib
from study.fit.document import Scene, candidates_to_list

if TYPE_CHECKING:
    from study.setup import Predicted

WIDTH = 80

_LABELS = {
    "others": ("O", "others, in use now"),
    "whisper": ("S", "Whisper"),
    "weights": ("W", "weights"),
    "activation": ("A", "activation"),
    "non_torch": ("N", "other memory"),
    "graphs": ("G", "CUDA graphs"),
    "kv_cache": ("K", "KV cache"),
    "outside": ("x", "beside its share"),
}


def render(scene: Scene, answers: Sequence[Prediction]) -> str:
    """Everything for people, 80 columns wide."""
    sections, chosen = [_head(scene, answers[0])], answers[0]
    if len(answers) > 1:
        chosen = next((answer for answer in answers if answer.fits), answers[-1])
        sections += [_table(answers), f"At {chosen.server.settings.utilization:g}:"]
    sections += [
        _wrap(outcome_line(chosen)),
        _bar(chosen),
        _legend(scene, chosen),
        _even(chosen),
        _room(chosen),
        _wrap(overhead_note(chosen)),
    ]
    return "\n\n".join(section for section in sections if section)


def outcome_line(prediction: Prediction) -> str:
    """Fits, is refused, or is worth a launch; with the arithmetic and the remedy."""
    settled = _is_safe(prediction) if prediction.fits else prediction.certain
    doubt = "" if settled else " It is within the margin: a launch decides."
    said = f"It fits: {prediction.evidence}.{doubt}"
    if not prediction.fits:
        lead = "It does not fit" if prediction.certain else "It probably does not fit"
        said = f"{lead} ({prediction.cause}): {prediction.evidence}.{doubt} {prediction.remedy}"
    unmodelled = prediction.server.unmodelled
    return f"{said} Not in these numbers: {', '.join(unmodelled)}." if unmodelled else said


def _is_safe(prediction: Prediction) -> bool:
    return all(
        excess <= -prediction.margins[name] or prediction.margins[name] == 0
        for name, excess in prediction.excess.items()
    )


def _head(scene: Scene, prediction: Prediction) -> str:
    server, memory = prediction.server, prediction.footprint.memory
    kind = "a CPU's memory node" if server.on_cpu else "a GPU"
    device = f"{scene.device_name or kind} of {gib(memory.total_bytes)}"
    free = f"{gib(memory.free_bytes)} free" if scene.free_known else "taken as empty"
    speech = f", beside Whisper {scene.whisper}" if scene.whisper else ""
    model = _wrap(f"{scene.model}: {_layers(server)}")
    return f"{model}\n" + _wrap(f"on {device}, {free}; vLLM {server.rules.version}{speech}")


def _layers(server: ServerModel) -> str:
    """What the layers are and what they keep, in one phrase."""
    shape, settings = server.shape, server.settings
    tp = settings.tensor_parallel_size
    if shape.encoder_only:
        return f"{shape.layers} layers of an encoder, which keep no KV cache"
    said = [f"{shape.layers} layers{_windows(shape.attention)}"]
    if shape.recurrent is not None:
        kept = (each for each in server.kv.groups if each.keeps == "state")
        state = sum(each.layers * each.page_bytes for each in kept)
        said.append(f"{shape.recurrent.count} keep {gib(state)} of state for each sequence")
    if shape.latent is not None:
        said.append(f"latent {shape.latent.kv_rank} + {shape.latent.rope_dim}")
    elif shape.attending:
        said.append(f"{shape.full_heads.kv_heads} KV heads x {shape.full_heads.key_dim}")
    if shape.speech is not None:
        said.append(f"{shape.speech.tokens:,} tokens of sound kept for each request")
    with contextlib.suppress(UnsupportedShapeError):
        if per_token := shape.kv_bytes_per_token(settings.kv_cache_dtype, tp):
            said.append(f"{per_token:,} bytes of KV cache a token")
    return ", ".join(said)


def _windows(attention: AttentionLayers) -> str:
    if not attention.window:
        return ""
    return f" ({attention.window} keep a window of {attention.window_tokens:,} tokens)"


def _table(answers: Sequence[Prediction]) -> str:
    rows = [("utilisation", "share", "KV cache", "tokens", "requests", "")]
    for prediction in answers:
        footprint, capacity = prediction.footprint, prediction.footprint.capacity
        rows.append(
            (
                f"{prediction.server.settings.utilization:g}",
                gib(footprint.requested_bytes),
                gib(footprint.available_bytes),
                f"{capacity.tokens:,}" if capacity.tokens else "-",
                f"{capacity.max_concurrency:.2f}" if capacity.tokens else "-",
                word(prediction),
            )
        )
    return columns(rows, left=(5,))


def word(prediction: Prediction) -> str:
    """One word for a table, and the cause where there is one."""
    if prediction.fits:
        return "fits"
    return f"{'refused' if prediction.certain else 'doubtful'}: {prediction.cause}"


def columns(rows: Sequence[Sequence[str]], *, left: Sequence[int] = ()) -> str:
    """Rows in aligned columns, numbers to the right; those in `left` to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _pieces(prediction: Prediction) -> dict[str, int]:
    """What lies on the device, from one end to the other; nothing is negative."""
    footprint, memory = prediction.footprint, prediction.footprint.memory
    held = {name: part.value_bytes for name, part in footprint.figures.items()}
    held["others"] = memory.total_bytes - memory.free_bytes
    held["kv_cache"] = footprint.kv_cache_bytes
    return {name: held[name] for name in _LABELS if held[name] > 0}


def _bar(prediction: Prediction) -> str:
    """The device to scale, with a mark where vLLM's share ends."""
    pieces, total = _pieces(prediction), prediction.footprint.memory.total_bytes
    before = sum(pieces.get(name, 0) for name in ("others", "whisper"))
    share_end = before + prediction.footprint.requested_bytes
    whole = max(total, sum(pieces.values()), share_end)
    cells = WIDTH - 2
    bar, laid = "", 0
    for name, held in pieces.items():
        laid += held
        bar += _LABELS[name][0] * (max(round(laid / whole * cells), len(bar) + 1) - len(bar))
    edge = round(total / whole * cells)
    bar = bar[:cells].ljust(min(edge, cells), ".").ljust(cells)
    mark = min(round(share_end / whole * cells), cells)
    note = f"share ends at {gib(share_end)}" if before else f"share {gib(share_end)}"
    under = (
        " " * mark + "^ " + note if mark + len(note) + 2 <= cells else f"{note} ^".rjust(mark + 1)
    )
    return f"[{bar}]\n {under}"


def _legend(scene: Scene, prediction: Prediction) -> str:
    footprint = prediction.footprint
    rows = [("", "", "", "", "")]
    pieces, figures = _pieces(prediction), footprint.figures
    for name, held in pieces.items():
        sign, label = _LABELS[name]
        figure = figures.get(name)
        if figure is not None:
            rows.append((sign, label, gib(held), figure.source, _note(figure)))
        elif name == "kv_cache":
            margin = (
                f"+- {gib(footprint.margin_bytes)}" if footprint.margin_bytes > GIB // 100 else ""
            )
            rows.append((sign, label, gib(held), "what is left", margin))
        else:
            rows.append((sign, label, gib(held), "given" if not scene.device_name else "read", ""))
    free = footprint.memory.total_bytes - sum(pieces.values())
    rows.append((".", "free" if free >= 0 else "missing", gib(abs(free)), "", ""))
    return columns(rows[1:], left=(0, 1, 3, 4))


def _note(figure: Estimate) -> str:
    margin = f"+- {gib(figure.margin_bytes)}" if figure.margin_bytes else ""
    return "  ".join(text for text in (margin, figure.note) if text)


def _even(prediction: Prediction) -> str:
    even = break_even(prediction)
    if even is None:
        return ""

    def at(value: float | None) -> str:
        return "none" if value is None else f"{value:.4f}"

    length = prediction.server.max_model_len
    states = ""
    if prediction.server.states_bytes:
        seqs = f"{prediction.server.settings.max_num_seqs:,} requests"
        states = f" {at(even.states)} for a recurrent state of each of {seqs}."
    steps = ", ".join(f"{at(value)} for {count}" for count, value in even.requests.items())
    most = "" if even.most is None else f" The start check allows up to {even.most:.4f}."
    return _wrap(
        f"Break-even utilisation: {at(even.one_block)} for the first block of KV cache,"
        f" {at(even.one_request)} for one request of {length:,} tokens; {steps}"
        f" at once.{states}{most}"
    )


def _room(prediction: Prediction) -> str:
    lines = [_wrap(gain.sentence, hang=4) for gain in cheapest_gains(prediction)]
    return "\n".join(("Room, the cheapest first:", *lines)) if lines else ""


def _wrap(text: str, *, hang: int = 0) -> str:
    lead = "  " if hang else ""
    return textwrap.fill(
        text, WIDTH, initial_indent=lead, subsequent_indent=" " * hang, break_on_hyphens=False
    )


def candidates_table(rows: Sequence[Predicted]) -> str:
    """A study's candidates as a table for people."""
    names = list(dict.fromkeys(name for row in rows for name in row.params))
    table = [(*names, "KV cache", "tokens", "requests", "excess GiB", "")]
    table += [(*(_value(row, name) for name in names), *_outcome(row)) for row in rows]
    count = sum(row.prediction.fits for row in rows)
    refused = sum(row.prediction.refusal is not None for row in rows)
    lead = f"{count} of {len(rows)} candidates fit; {refused} would not be launched."
    doubts = list(dict.fromkeys(doubt for row in rows for doubt in row.prediction.doubts))
    return "\n\n".join((lead, columns(table, left=(len(names) + 4,)), *map(_wrap, doubts)))


def _value(row: Predicted, name: str) -> str:
    value = row.params.get(name, "-")
    return f"{value:g}" if isinstance(value, float) else str(value)


def _outcome(row: Predicted) -> tuple[str, str, str, str, str]:
    if not row.prediction.starts:
        return "-", "-", "-", "-", "unknown"
    prediction = next(iter(row.prediction.starts.values()))
    capacity = prediction.footprint.capacity
    return (
        gib(prediction.footprint.available_bytes),
        f"{capacity.tokens:,}",
        f"{capacity.max_concurrency:.2f}",
        f"{max(prediction.excess.values()):+.2f}",
        word(prediction),
    )


def render_candidates(rows: Sequence[Predicted], *, as_json: bool) -> str:
    """A study's candidates as they are predicted: a table for people, or one JSON document."""
    if as_json:
        return json.dumps(candidates_to_list(rows), indent=2)
    return candidates_table(rows)
