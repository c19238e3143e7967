"""What a configuration may say: every key, its type, its default and its meaning.

The models here check types and single values; what concerns several keys at once is checked in
`study.config`, which also knows the legacy format. `python -m study.config --schema` prints the
JSON Schema for editors, `--reference` the table of the documentation: both come from here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from objectives.units import Scalar
from storage.trials import Direction

Goal = Literal[Direction, "neutral"]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
TokenRange = Count | tuple[Count, Count]

OBJECTIVES = (
    "stt_latency_ms",
    "llm_latency_ms",
    "concurrent_capacity",
    "gpu_utilization",
    "oom_events",
    "free_memory_mb",
    "wer",
)
"""What can be an objective: the names that the first users gave, and the word error rate."""

SAMPLERS = (
    "auto",
    "tournament",
    "tpe",
    "gp",
    "grid",
    "random",
)
"""The samplers that can be asked for by name; `study.samplers.by_name` makes them."""


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class EnginesSection(Section):
    """Which Python environments the servers are launched with."""

    vllm: str = Field("auto", description="Interpreter that runs vLLM; auto: the built engine.")
    whisper: str = Field(
        "auto",
        description="Interpreter that runs Whisper; auto: vLLM's, if it can, else a built one.",
    )


class DummyModel(Section):
    """The shape of a model with random weights (a Llama)."""

    layers: Count = Field(8, description="Transformer layers.")
    hidden: Count = Field(512, description="Width of the residual stream.")
    heads: Count = Field(8, description="Attention heads.")
    kv_heads: Count = Field(8, description="Key-value heads.")
    head_dim: Count = Field(64, description="Width of a head.")
    intermediate: Count = Field(1024, description="Width of the feed-forward layer.")
    vocab: Annotated[int, Field(ge=300)] = Field(2048, description="Tokens in the vocabulary.")
    max_position: Count = Field(4096, description="Longest sequence, tokens.")


class VllmSection(Section):
    """The LLM server: what is fixed about it."""

    model: str | None = Field(None, description="Name or folder, as vLLM takes it.")
    weights: Literal["real", "dummy"] = Field("real", description="dummy: random weights.")
    dummy: DummyModel = Field(DummyModel(), description="The shape, where weights are dummy.")
    args: dict[str, Scalar | None] = Field(
        default_factory=dict,
        description="Options of vLLM's server, without dashes in front; true is a bare flag, "
        "false --no-OPTION, null leaves it out.",
    )
    env: dict[str, str] = Field(
        default_factory=dict, description="Environment of vLLM alone; not its device."
    )
    start_timeout_s: Positive = Field(600.0, description="Seconds until it must be healthy.")


class WhisperSection(Section):
    """The speech-to-text server: what is fixed about it."""

    model: str = Field("small", description="tiny ... large-v3, turbo, or a checkpoint's path.")
    weights: Literal["real", "dummy"] = Field("real", description="dummy: random weights.")
    device: Literal["same", "cpu"] = Field("same", description="same (as the study's), or cpu.")
    args: dict[str, Scalar | None] = Field(
        default_factory=dict,
        description="Options of the worker: dtype (default: by device), threads, beam-size, ...",
    )
    env: dict[str, str] = Field(
        default_factory=dict, description="Environment of Whisper alone; not its device."
    )
    start_timeout_s: Positive = Field(180.0, description="Seconds until it must be healthy.")


class NeighbourSection(Section):
    """A tenant of the device that is not tuned, but present in every trial."""

    name: str = Field(description="As reports call it.")
    kind: Literal["running", "command", "hold"] = Field(
        description="running: must be there already; command: started by us; hold: a process of "
        "ours that really holds `gib` on the device."
    )
    match: str | None = Field(None, description="running: pattern for its command line.")
    argv: tuple[str, ...] = Field((), description="command: its command line.")
    env: dict[str, str] = Field(default_factory=dict, description="command: its environment.")
    url: str | None = Field(None, description="command: answers 200 there when it is up.")
    ready_s: Positive = Field(60.0, description="command, hold: seconds until it must be up.")
    gib: Positive | None = Field(None, description="hold: GiB held; running: at least so much.")


class LlmLoadSection(Section):
    """Requests to the LLM."""

    rate_rps: Positive = Field(2.0, description="Arrivals a second.")
    arrivals: Literal["poisson", "constant"] = Field("poisson", description="Arrival process.")
    prompt_tokens: TokenRange = Field(128, description="Tokens in, or [least, most].")
    output_tokens: TokenRange = Field(64, description="Tokens out, or [least, most].")


class SttLoadSection(Section):
    """Requests to Whisper."""

    rate_rps: Positive = Field(0.5, description="Arrivals a second.")
    arrivals: Literal["poisson", "constant"] = Field("poisson", description="Arrival process.")
    clip_s: tuple[Positive, ...] = Field((5.0,), description="Lengths of made clips, seconds.")
    files: tuple[str, ...] = Field((), description="WAV files to send instead of made clips.")
    output_tokens: Count | None = Field(
        None, description="Decode exactly so many tokens; needed with dummy weights."
    )


class LoadSection(Section):
    """What arrives at both servers at once."""

    llm: LlmLoadSection = Field(LlmLoadSection(), description="Requests to the LLM.")
    stt: SttLoadSection = Field(SttLoadSection(), description="Requests to Whisper.")
    warmup_s: Positive = Field(10.0, description="Warm-up, kept apart from the figures.")
    measure_s: Positive = Field(60.0, description="The measured window.")
    drain_s: Positive = Field(15.0, description="Wait for answers after the window.")
    timeout_s: Positive = Field(120.0, description="A request without an answer has failed.")
    quantile: Literal["p50", "p95"] = Field(
        "p95", description="Which quantile of the latencies the objectives are."
    )


class ParameterSection(Section):
    """One parameter of the space."""

    bind: str | None = Field(
        None, description="vllm.args.OPTION, vllm.env.NAME, whisper.model, whisper.device, ..."
    )
    choices: tuple[Scalar, ...] = Field((), description="The values to choose from.")
    low: float | int | None = Field(None, description="Smallest value of a range.")
    high: float | int | None = Field(None, description="Largest value of a range.")
    step: float | int | None = Field(None, description="Distance of a range's values.")
    log: bool = Field(False, description="Sample the range on a logarithmic scale.")
    bounds: tuple[float, float] | None = Field(None, description="Hard bounds of the value.")
    when: dict[str, tuple[Scalar, ...]] = Field(
        default_factory=dict, description="Exists only where these parameters have these values."
    )

    @field_validator(
        "when", mode="before", json_schema_input_type=dict[str, Scalar | tuple[Scalar, ...]]
    )
    @classmethod
    def _single_values(cls, when: object) -> object:
        if not isinstance(when, dict):
            return when
        return {k: v if isinstance(v, list | tuple) else (v,) for k, v in when.items()}


class ObjectiveSection(Section):
    """One objective."""

    direction: Goal = Field(description="neutral: minimise the distance to `target`.")
    target: float | None = Field(None, description="Of a neutral objective.")


class SloSection(Section):
    """A service-level objective."""

    max: float | None = Field(None, description="The value must not be above.")
    min: float | None = Field(None, description="The value must not be below.")
    hard: bool = Field(False, description="Missing it makes the candidate infeasible.")


class BudgetSection(Section):
    """When to stop."""

    trials: Count | None = Field(None, description="Launched trials of this study, in all.")
    timeout_s: Positive | None = Field(None, description="Seconds of one run of the command.")
    trial_timeout_s: Positive | None = Field(
        None, description="Seconds a trial may take, its servers' starts left out."
    )
    candidates: Count = Field(10, description="Population of the tournament.")
    generations: Count | None = Field(None, description="Generations of the tournament.")
    patience: Count | None = Field(None, description="Stop after so many trials without gain.")
    tolerance: Positive = Field(0.01, description="Relative gain in hypervolume that counts.")
    repeats: Annotated[int, Field(ge=0)] = Field(
        0, description="At most so many repeats of points that decide the front."
    )


class SamplerSection(Section):
    """Who proposes the next candidate."""

    name: str = Field("auto", description=", ".join(SAMPLERS) + ".")
    options: dict[str, Scalar | None] = Field(
        default_factory=dict, description="What the sampler's constructor takes."
    )


def _or_short(key: str, kinds: type | tuple[type, ...], both: object) -> BeforeValidator:
    """A part may be given by the value of one key; `both` tells editors of both forms."""

    def expanded(value: object) -> object:
        return {key: value} if isinstance(value, kinds) else value

    return BeforeValidator(expanded, json_schema_input_type=both)


Varying = Annotated[
    ParameterSection,
    _or_short("choices", (list, tuple), ParameterSection | tuple[Scalar, ...]),
]
Wanted = Annotated[ObjectiveSection, _or_short("direction", str, ObjectiveSection | Goal)]
Proposing = Annotated[SamplerSection, _or_short("name", str, SamplerSection | str)]


class Document(Section):
    """A whole configuration."""

    name: Annotated[str, Field(min_length=1)] = Field("gpu-allocation", description="The study.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or a GPU's UUID.")
    engines: EnginesSection = Field(EnginesSection(), description="The servers' environments.")
    vllm: VllmSection = Field(VllmSection(), description="The LLM server.")
    whisper: WhisperSection = Field(WhisperSection(), description="The speech-to-text server.")
    neighbours: tuple[NeighbourSection, ...] = Field((), description="Tenants that are not tuned.")
    start_order: tuple[Literal["neighbours", "whisper", "vllm"], ...] = Field(
        ("neighbours", "whisper", "vllm"), description="Who starts after whom, one at a time."
    )
    load: LoadSection = Field(LoadSection(), description="What arrives at both servers.")
    search_space: dict[str, Varying] = Field(
        description="What may vary: a list of values, or a range."
    )
    baseline: dict[str, Scalar] | None = Field(
        None, description="Measured first: what runs today. Default: 0.50 + small."
    )
    objectives: dict[str, Wanted] = Field(
        default_factory=lambda: {
            "stt_latency_ms": ObjectiveSection(direction="minimize"),
            "llm_latency_ms": ObjectiveSection(direction="minimize"),
            "concurrent_capacity": ObjectiveSection(direction="maximize"),
        },
        description="What is wanted: minimize, maximize, or neutral with a target.",
    )
    slo: dict[str, SloSection] = Field(default_factory=dict, description="Limits of objectives.")
    wer: dict[str, Annotated[float, Field(ge=0, le=100)]] = Field(
        default_factory=dict,
        description="Word error rate by Whisper model, percent, as published; not measured here.",
    )
    headroom_gib: Annotated[float, Field(ge=0)] = Field(
        0.25, description="GiB of the device that must stay free at the worst moment."
    )
    budget: BudgetSection = Field(BudgetSection(), description="When to stop.")
    sampler: Proposing = Field(SamplerSection(), description="Who proposes.")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="Of the load and the sampler.")
    storage: str | None = Field(None, description="Optuna storage URL; default: SQLite.")
    artifacts: str | None = Field(
        None, description="Where logs and samples go: a folder, or s3://BUCKET."
    )

    @field_validator("objectives")
    @classmethod
    def _known(cls, value: dict[str, ObjectiveSection]) -> dict[str, ObjectiveSection]:
        if not value:
            raise ValueError("at least one objective is needed")
        for name, objective in value.items():
            if name not in OBJECTIVES:
                raise ValueError(f"{name} is no objective; allowed: {', '.join(OBJECTIVES)}")
            if objective.direction == "neutral" and objective.target is None:
                raise ValueError(f"{name} is neutral and needs a target")
        return value


def model_in(annotation: object) -> type[BaseModel] | None:
    """The model that an annotation holds, however wrapped (a dict's values, a tuple's items)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        found = model_in(part)
        if found is not None:
            return found
    return None
