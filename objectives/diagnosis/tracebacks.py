"""What the frames of a Python traceback tell before its last line is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from objectives.diagnosis.progress import PHASE_OF_FRAME, earlier_of, parts
from objectives.diagnosis.rules import REFUSALS, figures_of
from objectives.diagnosis.server_run import Spot
from objectives.vllm import LogLine

_LINES_MOST = 6
_OPENERS = parts(
    "to serve at least one request|max seq len (|free memory on device|available memory on node"
    "|error in memory profiling|no available memory for|externally held weights on device"
    "|exceeds available mamba cache blocks"
)
_HEALTHY = re.compile(r"on startup\. *Desired GPU memory utilization")
_ENDS = re.compile(
    r"estimated maximum model length is \d+\D|Try increasing|cache blocks|See https?:|Decrease"
    r"|current free memory [\d.]+[^\d.]|requested memory for kv \([^)]*\)|reduce (?:GPU|CPU) memory"
    r"|utilization \([^)]*\)|that can be stored in (?:the )?KV cache \(\d+\)|Mamba cache blocks \(",
    re.DOTALL,
)
_MODEL_LENGTH = re.compile(r"max seq len \((?P<max_model_len>\d+)\)")
_LEFT = "left_bytes"


@dataclass(kw_only=True, slots=True)
class WrappedRefusal:
    """The lines of one refusal so far, and where the first one stands."""

    spot: Spot
    parts: list[str]

    @classmethod
    def begin(cls, line: LogLine, lowered: str, spot: Spot) -> Self | None:
        """A refusal that begins on this line; None, if none does."""
        if not any(opener in lowered for opener in _OPENERS) or _HEALTHY.search(line.text):
            return None
        return cls(spot=spot, parts=[line.text])

    @property
    def is_complete(self) -> bool:
        """Whether the sentence has reached its end."""
        return len(self.parts) >= _LINES_MOST or any(
            _ENDS.search(text) is not None for text in self._joined()
        )

    def take(self, line: LogLine) -> bool:
        """Append a line. False, if the sentence cannot go on there."""
        if not line.text or line.text.startswith(("```", "Traceback", "File ")):
            return False
        self.parts.append(line.text)
        return True

    def result(self) -> tuple[str, dict[str, float | int | str]] | None:
        """Cause and figures; None, if it was no refusal after all."""
        for text in self._joined():
            for rule in REFUSALS:
                if (match := rule.pattern.search(text)) is not None:
                    return _judged(rule.cause, dict(figures_of(match)))
        return self._in_part()

    def _in_part(self) -> tuple[str, dict[str, float | int | str]] | None:
        """The same of a sentence that somebody shortened."""
        text = " ".join(self.parts)
        if (match := _MODEL_LENGTH.search(text)) is not None:
            return "kv_cache_too_small", dict(figures_of(match))
        if "less than desired" in text:
            return "gpu_memory_insufficient_at_start", {}
        return None

    def _joined(self) -> tuple[str, str]:
        """With a space where the line was broken, and without: terminals break inside words."""
        return " ".join(self.parts), "".join(self.parts)


def _judged(
    cause: str, figures: dict[str, float | int | str]
) -> tuple[str, dict[str, float | int | str]]:
    """The CPU backend writes one sentence for two troubles; its figure tells which.

    It subtracts what the process already holds from its share of the node. Nothing or less left
    for the KV cache is the GPU's "no blocks"; more than the node has left is a full node.
    """
    left_bytes = figures.pop(_LEFT, None)
    if not isinstance(left_bytes, int):
        return cause, figures
    if left_bytes > 0:
        return "gpu_memory_insufficient_at_start", {**figures, "needed_bytes": left_bytes}
    return cause, {**figures, "available_bytes": left_bytes}


TRACEBACK = "Traceback (most recent call last):"
"""How a traceback begins."""

_FRAME = re.compile(r'File "(?P<path>[^"]*)", line \d+(?:, in (?P<function>[\w.<>]+))?')
_CONFIG_FRAMES = frozenset(
    parts(
        "create_engine_config|create_model_config|create_speculative_config|parse_args"
        "|__post_init__|validate_parsed_serve_args|validate_api_server_args|_verify_args"
        "|verify_with_parallel_config|check_and_update_config|from_cli_args"
    )
)
_ARGUMENT_ERRORS = parts("ValueError|TypeError|AssertionError|NotImplementedError|Validation")
_CHECKPOINT_ERRORS = ("KeyError", "AssertionError", "AttributeError")
_WEIGHT_FRAMES = frozenset({"weight_loader", "default_weight_loader"})
_UNDERLINE = re.compile(r"[\s^~]+$")


@dataclass(kw_only=True, slots=True)
class Traceback:
    """One process's current traceback.

    Attributes:
        phase: The out-of-memory cause that its frames point to.
        in_config: Whether the engine's arguments were being checked.
        in_checkpoint: Whether a weight found its place, or a model's type its class.
        frame_line: Number of the last line that was a frame; the next one echoes its source.
    """

    phase: str | None = None
    in_config: bool = False
    in_checkpoint: bool = False
    frame_line: int = -1

    def restart(self) -> None:
        """A new traceback begins."""
        self.phase = None
        self.in_config = False
        self.in_checkpoint = False

    def take_frame(self, text: str, line: int) -> bool:
        """Note a frame. False, if `text` is none."""
        match = _FRAME.match(text)
        if match is None:
            return False
        function = match["function"] or ""
        self.phase = earlier_of(self.phase, PHASE_OF_FRAME.get(function))
        self.in_config = self.in_config or function in _CONFIG_FRAMES
        if function in _WEIGHT_FRAMES or "/transformers/models/auto/" in match["path"]:
            self.in_checkpoint = True
        self.frame_line = line
        return True

    def echoes(self, text: str, line: int, *, is_exception: bool) -> bool:
        """Whether `text` is a line of source code, or the carets below one."""
        if _UNDERLINE.match(text):
            return True
        return line == self.frame_line + 1 and not is_exception

    def blamed_by(self, exception_type: str) -> str | None:
        """The cause of an exception that no rule knows, by what was being done."""
        if self.in_checkpoint and exception_type.endswith(_CHECKPOINT_ERRORS):
            return "unsupported_quantization_or_arch"
        if self.in_config and any(name in exception_type for name in _ARGUMENT_ERRORS):
            return "bad_argument"
        return None
