"""What one line tells of a run: progress, a cause, a death, an exception, a sign of life."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from objectives.diagnosis.progress import (
    Death,
    Stage,
    available_bytes,
    death_of,
    earlier_of,
    figures_of_refusal,
    is_alive,
    is_asked,
    is_eager,
    is_preemption,
    is_secondary,
    is_stall,
    is_stopping,
    phase_in_message,
    phase_of_stage,
    running_requests,
    stage_of,
)
from objectives.diagnosis.rules import (
    HOST,
    OUT_OF_DEVICE_MEMORY,
    OUT_OF_DEVICE_MEMORY_HINTS,
    QUIET_LEVELS,
    SIZES,
    Rank,
    RuleBook,
    figures_of,
)
from objectives.diagnosis.rules_device import CUDA, DEVICE, GPU
from objectives.diagnosis.rules_start import (
    ARCHITECTURE,
    ARGPARSE,
    ARGUMENTS,
    DISTRIBUTED,
    HARMLESS,
    HUNG,
    MODEL,
    PORT,
    SOURCE_CODE,
)
from objectives.diagnosis.server_run import Finding, Run, Spot
from objectives.diagnosis.tracebacks import TRACEBACK, Traceback, WrappedRefusal
from objectives.vllm import EXCEPTION, LogLine, is_banner, process_of, read_line, starts_run

EVIDENCE_MOST = 4_096
"""Characters of a line that are kept as evidence."""

_PROCESSES = 256  # whose tracebacks are followed at a time
_PREFIX_ENDS = ("", ")", "]", ":", "|")
_TABLES = (DEVICE, GPU, CUDA, PORT, DISTRIBUTED, MODEL, ARCHITECTURE, ARGUMENTS, HUNG, SIZES)
_HOST = RuleBook(HOST)
_OTHERS = RuleBook(*_TABLES)
_QUIET = RuleBook(*(tuple(rule for rule in table if rule.quiet) for table in (HOST, *_TABLES)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """A line as the rules see it."""

    spot: Spot
    line: LogLine
    lowered: str  # its text in lower case
    is_loud: bool  # its level does not make light of it

    @classmethod
    def of(cls, number: int, raw: str) -> Self:
        """Read line `number`."""
        line = read_line(raw)
        return cls(
            spot=Spot(line=number, evidence=raw[:EVIDENCE_MOST]),
            line=line,
            lowered=line.text.lower(),
            is_loud=line.level not in QUIET_LEVELS,
        )


class Notes:
    """What the lines say so far: of `run`, and of the last one before that said anything."""

    def __init__(self) -> None:
        self.run = Run()
        self.before: Run | None = None
        self._tracebacks: dict[str, Traceback] = {}
        self._wrapped: WrappedRefusal | None = None

    @property
    def is_within_a_sentence(self) -> bool:
        """Whether the next line may belong to the last one."""
        return self._wrapped is not None

    def take_frame(self, number: int, raw: str) -> bool:
        """The quick way for a line of a traceback, for most lines that matter are such.

        False, if it is none, or not for certain.
        """
        head, quote, rest = raw.partition('File "')
        if "\r" in raw or "{" in head:
            return False
        if quote:
            self.finish_sentence()
            return self._traceback(process_of(head)).take_frame(quote + rest, number)
        head, _, rest = raw.partition(TRACEBACK)
        if rest.strip() or head.strip()[-1:] not in _PREFIX_ENDS:
            return False
        self.finish_sentence()
        self._traceback(process_of(head)).restart()
        return True

    def take(self, read: Read) -> Stage | None:
        """Take what a line tells.

        Returns:
            The stage it marks, where that is all: the same line means the same again. NOTHING for
            a line that tells nothing; None for one that must be read each time.
        """
        text = read.line.text
        traceback = self._traceback(read.line.process)
        if self._continues(read) or traceback.take_frame(text, read.spot.line):
            return None
        if TRACEBACK in text:
            traceback.restart()
            if text.startswith(TRACEBACK):
                return None
        exception = EXCEPTION.match(text) if read.is_loud else None
        is_code = traceback.echoes(text, read.spot.line, is_exception=exception is not None)
        if is_code or text.startswith(SOURCE_CODE):
            return Stage.NOTHING
        if text.startswith("```"):
            self.run.is_quoted = True
        begins, stage = self._note_progress(read)
        known = self._note_cause(read, traceback)
        died = self._note_death(read)
        if exception is not None and not (known and died):
            self._note_exception(read, exception["type"], traceback, known=known)
        lives = self._note_life(read, died=died)
        if "eager" in read.lowered and is_eager(text):
            self.run.eager = lives = True
        # An exception that no rule knows only costs somebody his answer, while it serves.
        costs_more = exception is not None and not (self.run.serving and self.run.death is None)
        return None if begins or known or died or lives or costs_more else stage

    def _note_progress(self, read: Read) -> tuple[bool, Stage]:
        """Whether a run begins here or a figure was taken, and the stage that is marked."""
        if read.line.level not in {None, "INFO", "DEBUG"}:
            return False, Stage.NOTHING
        text, run = read.line.text, self.run
        begins = starts_run(text)
        if begins and (run.has_failed or (run.stage > Stage.STARTED and is_banner(text))):
            self._start_run()
        stage = stage_of(read.lowered)
        if stage is None:
            return begins, Stage.NOTHING
        if stage is Stage.SERVING and "startup complete" in read.lowered:
            begins = True
            if run.death is not None:  # it came back
                self._start_run()
        left_bytes = available_bytes(text)
        if left_bytes is not None:
            self.run.available_bytes = left_bytes
        if left_bytes is None or left_bytes > 0:
            self.run.advance(stage, read.spot)
        return begins or left_bytes is not None, stage

    def _note_cause(self, read: Read, traceback: Traceback) -> bool:
        if not read.is_loud:
            return self._match(_QUIET, read)
        return (
            self._note_usage_error(read)
            or self._match(_HOST, read)
            or self._note_out_of_memory(read, traceback)
            or self._match(_OTHERS, read)
        )

    def _note_usage_error(self, read: Read) -> bool:
        found = ARGPARSE.search(read.line.text) if "error: " in read.lowered else None
        if found is None or _is_harmless(read.lowered):
            return False
        if self.run.has_failed:  # nobody gets to his arguments after failing
            self._start_run()
        self._add("bad_argument", Rank.STRONG, read.spot, dict(figures_of(found)))
        return True

    def _match(self, book: RuleBook, read: Read) -> bool:
        for rule in book.candidates(read.lowered):
            if rule.start_only and self.run.serving:
                continue
            match = rule.pattern.search(read.line.text)
            if match is None or _is_harmless(read.lowered):
                continue
            # NCCL wraps what CUDA says in an error of its own, one line earlier.
            rank = Rank.DECISIVE if "cuda failure" in read.lowered else rule.rank
            self._add(rule.cause, rank, read.spot, dict(figures_of(match)))
            return True
        return False

    def _note_out_of_memory(self, read: Read, traceback: Traceback) -> bool:
        if not any(hint in read.lowered for hint in OUT_OF_DEVICE_MEMORY_HINTS):
            return False
        match = OUT_OF_DEVICE_MEMORY.search(read.line.text)
        if match is None or _is_harmless(read.lowered):
            return False
        phase = earlier_of(traceback.phase, phase_in_message(read.line.text))
        waiting = next((one for one in self.run.findings if not one.placed), None)
        if waiting is not None and phase is not None:
            waiting.cause, waiting.placed = phase, True
        rank = Rank.DECISIVE if "cuda failure" in read.lowered else Rank.STRONG
        finding = Finding(
            cause=phase or phase_of_stage(self.run.stage, eager=self.run.eager),
            rank=rank,
            spot=read.spot,
            figures=figures_of_refusal(match),
            placed=phase is not None,
        )
        self.run.add(finding)
        return True

    def _note_death(self, read: Read) -> bool:
        death = death_of(read.lowered) if read.is_loud else None
        if death is None:
            return False
        run = self.run
        if death in {Death.BEFORE_TRACEBACK, Death.AFTER_TRACEBACK}:
            if run.death is None:
                run.death = read.spot
                run.root = run.exception if death is Death.AFTER_TRACEBACK else None
        else:
            run.loss = run.loss or read.spot
            run.unexpected = run.unexpected or death is Death.UNEXPECTED
        return True

    def _note_exception(self, read: Read, kind: str, traceback: Traceback, *, known: bool) -> None:
        run = self.run
        if is_secondary(read.lowered):
            return
        if run.death is None:
            run.exception = read.spot
        elif run.root is None:
            run.root = read.spot
        blamed = None if known or run.serving else traceback.blamed_by(kind)
        if blamed is not None:
            self._add(blamed, Rank.WEAK, read.spot, {})

    def _note_life(self, read: Read, *, died: bool) -> bool:
        run, text = self.run, read.line.text
        stalls = is_stall(read.lowered)
        if stalls:
            run.stalls += 1
            run.stalled = run.stalled or read.spot
        elif run.stalls and run.serving and is_alive(text):
            run.progressed()
        if (running := running_requests(text)) is not None:
            run.running = running
        if preempts := is_preemption(text):
            run.preemption = run.preemption or read.spot
        orders = not died and is_asked(read.lowered)
        stops = not died and is_stopping(read.lowered)
        if orders:
            run.asked = run.asked or read.spot
        run.closed = run.closed or stops
        if stops and not run.has_failed:
            run.stopped = run.stopped or read.spot
        if refuses := run.loss is not None and '" 500' in text:
            run.refused = True
        return refuses or stalls or preempts or orders or stops or running is not None

    # Sentences over several lines ---------------------------------------------------------------

    def _continues(self, read: Read) -> bool:
        """Take `read` as part of a refusal to start, or as the beginning of one."""
        if self._wrapped is None and read.is_loud and not read.line.text.startswith(SOURCE_CODE):
            self._wrapped = WrappedRefusal.begin(read.line, read.lowered, read.spot)
            if self._wrapped is None:
                return False
        elif self._wrapped is None or not self._wrapped.take(read.line):
            self.finish_sentence()
            return False
        if self._wrapped.is_complete:
            self.finish_sentence()
        return True

    def finish_sentence(self) -> None:
        """No line that follows belongs to the last one."""
        wrapped, self._wrapped = self._wrapped, None
        if wrapped is None or (found := wrapped.result()) is None:
            return
        cause, figures = found
        if cause == "kv_cache_no_blocks" and self.run.available_bytes is not None:
            figures.setdefault("available_bytes", self.run.available_bytes)
        self._add(cause, Rank.DECISIVE, wrapped.spot, figures)

    # State --------------------------------------------------------------------------------------

    def _add(
        self, cause: str, rank: Rank, spot: Spot, figures: dict[str, float | int | str]
    ) -> None:
        self.run.add(Finding(cause=cause, rank=rank, spot=spot, figures=figures))

    def _start_run(self) -> None:
        if self.run.is_quoted:
            return
        if self.run.is_informative:
            self.before = self.run
        self.run = Run()
        self._tracebacks.clear()

    def _traceback(self, process: str) -> Traceback:
        known = self._tracebacks.get(process)
        if known is None:
            if len(self._tracebacks) >= _PROCESSES:
                self._tracebacks.pop(next(iter(self._tracebacks)))
            known = self._tracebacks[process] = Traceback()
        return known


def _is_harmless(lowered: str) -> bool:
    """Whether this line (in lower case) is known to look worse than it is."""
    return any(part in lowered for part in HARMLESS)
