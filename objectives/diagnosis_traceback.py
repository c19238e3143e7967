"""What the frames of a Python traceback tell before its last line is read."""

from __future__ import annotations

import re
from dataclasses import dataclass

from objectives.diagnosis_oom import PHASE_OF_FRAME, earlier_of

TRACEBACK = "Traceback (most recent call last):"
"""How a traceback begins."""

_FRAME = re.compile(r'File "(?P<path>[^"]*)", line \d+(?:, in (?P<function>[\w.<>]+))?')
_CONFIG_FRAMES = frozenset(
    {
        "create_engine_config",
        "create_model_config",
        "create_speculative_config",
        "parse_args",
        "__post_init__",
        "validate_parsed_serve_args",
        "validate_api_server_args",
        "_verify_args",
        "verify_with_parallel_config",
        "check_and_update_config",
        "from_cli_args",
    }
)
_ARGUMENT_ERRORS = (
    "ValueError",
    "TypeError",
    "AssertionError",
    "NotImplementedError",
    "Validation",
)
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
