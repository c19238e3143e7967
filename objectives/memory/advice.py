"""Where room for the KV cache is to be had: break-even utilisations, and flags by what they buy.

Both answer for one server as it was predicted; a flag's gain is the difference that the same
arithmetic gives with the flag changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from objectives.memory.parts import estimate_activation, estimate_graphs, sampler_bytes
from objectives.memory.predict import Prediction
from objectives.memory.remedies import allowed_bytes
from objectives.memory.server_model import ServerModel
from objectives.models import UnsupportedShapeError
from objectives.units import MIB, gib

_STEP = 10_000
"""Utilisations are rounded up to this part of one."""

_WORTH_BYTES = 16 * MIB
"""A gain below this is no advice."""

_FEWEST_SEQS = 8
_SHORTEST_STEP = 512


@dataclass(frozen=True, kw_only=True)
class BreakEven:
    """The least utilisations at which something fits; None where even 1 is too little.

    Attributes:
        one_block: The cache has a block at all: below, the start ends in "no cache blocks".
        one_request: It holds one request of the longest length: below, the start is refused.
        states: It holds a recurrent state of every request that may run: below, the start is
            refused as well. 0 for a model without such layers.
        requests: Number of such requests at once, to the utilisation that holds them.
        most: The highest that the start check allows with what is free; None where there is no
            check.
    """

    one_block: float | None
    one_request: float | None
    states: float | None
    requests: Mapping[int, float | None]
    most: float | None


def break_even(prediction: Prediction, requests: Sequence[int] = (4, 8, 16)) -> BreakEven | None:
    """At which utilisation a server begins to fit, and to hold so many of the longest requests.

    None where the fraction does not size the cache: a size is given, or an older CPU build.
    """
    footprint, server = prediction.footprint, prediction.server
    if server.sized_outright or not server.kv.groups:
        return None
    total_bytes, share_bytes = footprint.memory.total_bytes, footprint.share_bytes
    before = share_bytes - footprint.available_bytes
    null = server.kv.null_blocks * server.kv.block_bytes
    one = server.request_bytes - null

    def needs(cache_bytes: int) -> float | None:
        least = math.ceil((before + cache_bytes) / total_bytes * _STEP) / _STEP
        return least if least <= 1 else None

    most = None
    if server.rules.checks_start:
        room = allowed_bytes(server, footprint.memory, footprint.parts)
        most = math.floor(room / total_bytes * _STEP) / _STEP
    return BreakEven(
        one_block=needs(server.kv.block_bytes + null),
        one_request=needs(one + null),
        states=needs(server.states_bytes) if server.states_bytes else 0.0,
        requests={count: needs(count * one + null) for count in requests},
        most=most,
    )


@dataclass(frozen=True, kw_only=True)
class Gain:
    """A flag that makes room.

    Attributes:
        flag: As vLLM spells it, with its new value.
        freed_bytes: What it frees for the KV cache, or takes off what one request needs.
        is_free: It costs nothing that the cache could have served.
    """

    flag: str
    freed_bytes: int
    price: str
    is_free: bool = False

    @property
    def sentence(self) -> str:
        """The advice, for people."""
        return f"{self.flag} buys {gib(self.freed_bytes)}: {self.price}"


def cheapest_gains(prediction: Prediction) -> list[Gain]:
    """Flags that make room, the cheapest first: what costs nothing, then by what they buy."""
    if not prediction.server.kv.groups:
        return []
    gains = [
        *_fewer_requests(prediction),
        *_shorter_steps(prediction),
        *_narrow_cache(prediction),
        *_shorter_requests(prediction),
        *_no_graphs(prediction),
    ]
    worth = (gain for gain in gains if gain.freed_bytes >= _WORTH_BYTES)
    return sorted(worth, key=lambda gain: (not gain.is_free, -gain.freed_bytes))


def _activation_saved(prediction: Prediction, changed: ServerModel) -> int:
    """What of the predicted peak goes; nothing if it was known to be lower than the formula's."""
    now = prediction.footprint.parts.activation
    return now.value_bytes - estimate_activation(changed).value_bytes


def _halves(start: int, least: int) -> Iterable[int]:
    value = start // 2
    while value >= least:
        yield value
        value //= 2


def _fewer_requests(prediction: Prediction) -> Iterator[Gain]:
    """A lower limit of requests: if it can be, one that the cache would not exceed anyway."""
    server = prediction.server
    if server.on_cpu or server.settings.pooling:
        return
    options: list[tuple[int, int, float]] = []
    for seqs in _halves(server.settings.max_num_seqs, _FEWEST_SEQS):
        changed = server.with_settings(max_num_seqs=seqs)
        saved = max(0, _activation_saved(prediction, changed))
        room = prediction.footprint.available_bytes + saved
        options.append((saved, seqs, server.capacity(room).max_concurrency))
    free = [option for option in options if option[1] >= option[2]]
    if not (free or options):
        return
    most = max((option[0] for option in free), default=0)
    saved, seqs, served = next((option for option in free if option[0] >= 0.95 * most), options[0])
    price = f"no more than {seqs} requests run at once"
    if free:
        price = f"the cache would hold {served:.1f} of the longest requests at once"
    yield Gain(flag=f"--max-num-seqs {seqs}", freed_bytes=saved, price=price, is_free=bool(free))


def _shorter_steps(prediction: Prediction) -> Iterator[Gain]:
    """A lower limit of tokens per step: long prompts are read in more pieces."""
    server = prediction.server
    if server.on_cpu:
        return
    least = max(_SHORTEST_STEP, server.settings.max_num_seqs)
    for tokens in list(_halves(server.step_tokens, least))[-1:]:
        changed = server.with_settings(max_num_batched_tokens=tokens, batched_tokens_given=True)
        yield Gain(
            flag=f"--max-num-batched-tokens {tokens}",
            freed_bytes=_activation_saved(prediction, changed),
            price="long prompts take more steps",
        )


def _narrow_cache(prediction: Prediction) -> Iterator[Gain]:
    """Keys and values in 8 bits: the same bytes hold twice the tokens."""
    server = prediction.server
    changed = server.with_settings(kv_cache_dtype="fp8")
    try:
        share = changed.request_bytes / server.request_bytes
    except UnsupportedShapeError:
        return
    held = max(prediction.footprint.kv_cache_bytes, server.request_bytes)
    yield Gain(
        flag="--kv-cache-dtype fp8",
        freed_bytes=int(held * (1 - share)),
        price="the same tokens in half the bytes, keys and values less exact",
    )


def _shorter_requests(prediction: Prediction) -> Iterator[Gain]:
    """A lower limit of length, where one longest request is what does not fit."""
    server = prediction.server
    if prediction.cause != "kv_cache_too_small":
        return
    for shorter in _halves(server.max_model_len, server.kv.block_tokens):
        need = server.kv.needed_bytes(shorter, server.in_flight_tokens)
        if max(need, server.states_bytes) <= prediction.footprint.available_bytes:
            yield Gain(
                flag=f"--max-model-len {shorter}",
                freed_bytes=server.needed_bytes - need,
                price="longer requests are refused",
            )
            return


def _no_graphs(prediction: Prediction) -> Iterator[Gain]:
    """Eager execution: no CUDA graphs are kept."""
    server = prediction.server
    if server.settings.enforce_eager or server.on_cpu:
        return
    inside = prediction.footprint.parts.graphs.value_bytes
    where = "" if inside else ", beside the cache"
    yield Gain(
        flag="--enforce-eager",
        freed_bytes=inside or estimate_graphs(server).value_bytes,
        price=f"no CUDA graphs{where}; each token takes longer",
    )


def overhead_note(prediction: Prediction) -> str:
    """What a known overhead says of the server that it came from; empty if nothing.

    An overhead below the sampler's peak at the limit of requests assumed here means that the
    server runs with a lower limit, or with another sampler.
    """
    server, known = prediction.server, prediction.footprint.parts.activation
    seqs, peak = server.settings.max_num_seqs, sampler_bytes(server)
    if known.source == "estimated" or server.on_cpu or peak <= known.value_bytes:
        return ""
    most = known.value_bytes // max(1, peak // max(1, min(seqs, server.step_tokens)))
    return (
        f"At --max-num-seqs {seqs} this version's sampler would peak at"
        f" {gib(peak)}, and the overhead is {gib(known.value_bytes)}: that server runs with"
        f" --max-num-seqs {most} or less, or with FlashInfer's sampler. Raising it takes the"
        " difference from the KV cache."
    )
