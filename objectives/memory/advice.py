"""Where room for the KV cache is to be had: break-even utilisations, and flags by what they buy.

Both answer for one server as it was predicted; a flag's gain is the difference that the same
arithmetic gives with the flag changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from objectives.memory.estimates import estimate_activation, estimate_graphs, sampler_bytes
from objectives.memory.explain import gib
from objectives.memory.footprint import MIB, Estimate
from objectives.memory.predict import Prediction
from objectives.models import ModelShape, UnsupportedShapeError
from objectives.vllm import GIB, VllmRules, VllmSettings

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
        requests: Number of such requests at once, to the utilisation that holds them.
        most: The highest that the start check allows with what is free; None where there is no
            check.
    """

    one_block: float | None
    one_request: float | None
    requests: Mapping[int, float | None]
    most: float | None

    def to_dict(self) -> dict[str, object]:
        """The same as JSON."""
        return {
            "one_block": self.one_block,
            "one_request": self.one_request,
            "requests": {str(count): value for count, value in self.requests.items()},
            "most": self.most,
        }


def break_even(
    prediction: Prediction,
    settings: VllmSettings,
    *,
    rules: VllmRules,
    total_bytes: int,
    requests: Sequence[int] = (4, 8, 16),
) -> BreakEven | None:
    """At which utilisation a server begins to fit.

    Args:
        prediction: What was predicted at any utilisation.
        settings: The same as then.
        rules: The version's.
        total_bytes: Of the device.
        requests: Numbers of longest requests to answer for.

    Returns:
        None where the fraction does not size the cache: a size is given, or an older CPU build.
    """
    sized = settings.kv_cache_memory_bytes is not None or settings.blocks_override is not None
    if sized or not rules.utilization_counts:
        return None
    footprint, kv = prediction.footprint, prediction.kv
    before = math.ceil(total_bytes * settings.utilization) - footprint.available_bytes
    one = prediction.needed_bytes - kv.null_blocks * kv.block_bytes

    def needs(cache_bytes: int) -> float | None:
        least = math.ceil((before + cache_bytes) / total_bytes * _STEP) / _STEP
        return least if least <= 1 else None

    most = None
    if rules.checks_start:
        over = round(prediction.excess["start_memory_gib"] * GIB)
        room = math.ceil(total_bytes * settings.utilization) - over
        most = max(0.0, min(1.0, math.floor(room / total_bytes * _STEP) / _STEP))
    return BreakEven(
        one_block=needs((1 + kv.null_blocks) * kv.block_bytes),
        one_request=needs(prediction.needed_bytes),
        requests={
            count: needs(count * one + kv.null_blocks * kv.block_bytes) for count in requests
        },
        most=most,
    )


@dataclass(frozen=True, kw_only=True)
class Gain:
    """A flag that makes room.

    Attributes:
        flag: As vLLM spells it, with its new value.
        freed_bytes: What it frees for the KV cache, or takes off what one request needs.
        price: What it costs, in words.
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

    def to_dict(self) -> dict[str, object]:
        """The same as JSON."""
        return {
            "flag": self.flag,
            "freed_bytes": self.freed_bytes,
            "price": self.price,
            "is_free": self.is_free,
        }


def cheapest_gains(
    shape: ModelShape, settings: VllmSettings, prediction: Prediction, *, rules: VllmRules
) -> list[Gain]:
    """Flags that make room, the cheapest first: what costs nothing, then by what they buy.

    Args:
        shape: The model.
        settings: What was predicted.
        prediction: What came out.
        rules: The version's.

    Returns:
        Empty where no flag buys anything worth the name.
    """
    gains = [
        *_fewer_requests(shape, settings, prediction, rules),
        *_shorter_steps(shape, settings, prediction, rules),
        *_narrow_cache(shape, settings, prediction),
        *_shorter_requests(shape, settings, prediction, rules),
        *_no_graphs(settings, prediction, rules),
    ]
    worth = (gain for gain in gains if gain.freed_bytes >= _WORTH_BYTES)
    return sorted(worth, key=lambda gain: (not gain.is_free, -gain.freed_bytes))


def _activation_saved(
    shape: ModelShape, rules: VllmRules, now: Estimate, changed: VllmSettings
) -> int:
    """What of the predicted peak goes; nothing if it was known to be lower than the formula's."""
    return now.value_bytes - estimate_activation(shape, changed, rules).value_bytes


def _halves(start: int, least: int) -> Iterable[int]:
    value = start // 2
    while value >= least:
        yield value
        value //= 2


def _fewer_requests(
    shape: ModelShape, settings: VllmSettings, prediction: Prediction, rules: VllmRules
) -> Iterator[Gain]:
    """A lower limit of requests: if it can be, one that the cache would not exceed anyway."""
    if rules.device_kind == "cpu" or settings.pooling:
        return
    footprint = prediction.footprint
    options: list[tuple[int, int, float]] = []
    for seqs in _halves(settings.max_num_seqs, _FEWEST_SEQS):
        changed = replace(settings, max_num_seqs=seqs)
        saved = max(0, _activation_saved(shape, rules, footprint.activation, changed))
        options.append(
            (saved, seqs, _served(prediction, settings, shape, rules=rules, saved_bytes=saved))
        )
    free = [option for option in options if option[1] >= option[2]]
    if not (free or options):
        return
    most = max(option[0] for option in free) if free else 0
    saved, seqs, served = next((option for option in free if option[0] >= 0.95 * most), options[0])
    price = f"no more than {seqs} requests run at once"
    if free:
        price = f"the cache would hold {served:.1f} of the longest requests at once"
    yield Gain(flag=f"--max-num-seqs {seqs}", freed_bytes=saved, price=price, is_free=bool(free))


def _served(
    prediction: Prediction,
    settings: VllmSettings,
    shape: ModelShape,
    *,
    rules: VllmRules,
    saved_bytes: int,
) -> float:
    """Longest requests at once, if so much more went to the cache."""
    flight = settings.step_tokens(shape, rules) * rules.batches_in_flight
    room = prediction.footprint.available_bytes + saved_bytes
    return prediction.kv.capacity(room, prediction.max_model_len, flight).max_concurrency


def _shorter_steps(
    shape: ModelShape, settings: VllmSettings, prediction: Prediction, rules: VllmRules
) -> Iterator[Gain]:
    """A lower limit of tokens per step: long prompts are read in more pieces."""
    if rules.device_kind == "cpu":
        return
    now = settings.step_tokens(shape, rules)
    least = max(_SHORTEST_STEP, settings.max_num_seqs)
    for tokens in list(_halves(now, least))[-1:]:
        changed = replace(settings, max_num_batched_tokens=tokens, batched_tokens_given=True)
        saved = _activation_saved(shape, rules, prediction.footprint.activation, changed)
        yield Gain(
            flag=f"--max-num-batched-tokens {tokens}",
            freed_bytes=saved,
            price="long prompts take more steps",
        )


def _narrow_cache(
    shape: ModelShape, settings: VllmSettings, prediction: Prediction
) -> Iterator[Gain]:
    """Keys and values in 8 bits: the same bytes hold twice the tokens."""
    try:
        wide = shape.kv_bytes_per_layer(settings.kv_cache_dtype)
        narrow = shape.kv_bytes_per_layer("fp8")
    except UnsupportedShapeError:
        return
    held = max(prediction.footprint.kv_cache_bytes, prediction.needed_bytes)
    yield Gain(
        flag="--kv-cache-dtype fp8",
        freed_bytes=int(held * (1 - narrow / wide)),
        price="the same tokens in half the bytes, keys and values less exact",
    )


def _shorter_requests(
    shape: ModelShape, settings: VllmSettings, prediction: Prediction, rules: VllmRules
) -> Iterator[Gain]:
    """A lower limit of length, where one longest request is what does not fit."""
    if prediction.cause != "kv_cache_too_small":
        return
    length = prediction.max_model_len
    flight = settings.step_tokens(shape, rules) * rules.batches_in_flight
    room = prediction.footprint.available_bytes
    for shorter in _halves(length, prediction.kv.block_tokens):
        need = prediction.kv.needed_bytes(shorter, flight)
        if need <= room:
            yield Gain(
                flag=f"--max-model-len {shorter}",
                freed_bytes=prediction.needed_bytes - need,
                price="longer requests are refused",
            )
            return


def _no_graphs(settings: VllmSettings, prediction: Prediction, rules: VllmRules) -> Iterator[Gain]:
    """Eager execution: no CUDA graphs are kept."""
    if settings.enforce_eager or rules.device_kind == "cpu":
        return
    inside = prediction.footprint.graphs.value_bytes
    late = 0 if inside else estimate_graphs(settings, rules).value_bytes
    where = "" if inside else ", beside the cache"
    yield Gain(
        flag="--enforce-eager",
        freed_bytes=inside or late,
        price=f"no CUDA graphs{where}; each token takes longer",
    )


def overhead_note(
    shape: ModelShape, settings: VllmSettings, prediction: Prediction, *, rules: VllmRules
) -> str:
    """What a known overhead says of the server that it came from; empty if nothing.

    An overhead below the sampler's peak at the limit of requests assumed here means that the
    server runs with a lower limit, or with another sampler.
    """
    known = prediction.footprint.activation
    peak = sampler_bytes(shape, settings, rules)
    if known.source == "estimated" or rules.device_kind == "cpu" or peak <= known.value_bytes:
        return ""
    one = max(1, peak // max(1, min(settings.max_num_seqs, settings.step_tokens(shape, rules))))
    most = known.value_bytes // one
    return (
        f"At --max-num-seqs {settings.max_num_seqs} this version's sampler would peak at"
        f" {gib(peak)}, and the overhead is {gib(known.value_bytes)}: that server runs with"
        f" --max-num-seqs {most} or less, or with FlashInfer's sampler. Raising it takes the"
        " difference from the KV cache."
    )
