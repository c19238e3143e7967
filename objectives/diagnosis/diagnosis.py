"""Why a server died, from its log and its end: pure, one pass, little memory.

The root cause is sought, not the last line: "Engine core initialization failed" and
`EngineDeadError` are consequences, and so are most things after the first error. What looks like a
failure and is none (a refused request, a retried download, an ordered stop) is `ok`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from objectives.causes import cause_named, remedy_of
from objectives.diagnosis.decision import DeviceEvidence, Ended, judge
from objectives.diagnosis.line_reader import Notes, Read
from objectives.diagnosis.progress import Stage, parts
from objectives.diagnosis.server_run import Spot
from objectives.diagnosis.tracebacks import TRACEBACK

# Every line of a log is looked at here: lists of parts, in the order in which they mostly hit.
_IN_ANY = parts(
    "rror|RROR|xception|emory|illed|oom|OOM|hut|SIG|ignal|nterrupt|broadcast|baton|reempt|Xid"
)
_IN_NEWS = (*_IN_ANY, *parts("ersion|LLM engine|lacement|startup|# |eager"))
_IN_TROUBLE = (
    *_IN_ANY,
    *parts('raceback|", line |ailed|imed out|imeout|NCCL|died|fault|core dumped|apabilit|ptxas'),
    *parts("lready|max seq len|137"),
)
_IN_A_START = parts(
    '```| took |KV cache|blocks:|Capturing|Starting to load|from scratch|shards|throughput:|" 200'
    "|Uvicorn running|Processed prompts|graph memory"
)
_IN_A_NEW_RUN = parts("ersion|LLM engine|startup complete")


def wanted_of_a_start(line: str) -> bool:
    """Before a server serves, progress counts too."""
    return _matters(line) or _holds(line, _IN_A_START)


def wanted_of_a_server(line: str) -> bool:
    """All but what a serving server says all day: rates, answered requests, progress bars."""
    if "throughput:" in line:
        return "reempt" in line
    if '" 2' in line and " HTTP/1." in line:
        return False
    if "it/s]" in line and "\r" not in line:
        return False
    return "Received request " not in line and _matters(line)


def wanted_of_the_settled(line: str) -> bool:
    """Once it is known how a run ended, only the next one's first words count."""
    return _holds(line, _IN_A_NEW_RUN)


def _matters(line: str) -> bool:
    is_news = "INFO" in line and ("INFO 0" in line or "INFO 1" in line or "INFO:" in line)
    return _holds(line, _IN_NEWS if is_news else _IN_TROUBLE)


def _holds(line: str, wanted: tuple[str, ...]) -> bool:
    for part in wanted:  # noqa: SIM110 - any() takes half as long again
        if part in line:
            return True
    return False


_REMEMBERED = 8_192  # lines whose meaning is remembered; servers repeat themselves
_KEY_MOST = 512  # characters of such a line
_TIME_ENDS = 120  # the tag of a file stands within the first characters of a line


class Scan:
    """A pass over a log; `notes` is what it says so far."""

    def __init__(self) -> None:
        self.notes = Notes()
        self._meanings: dict[str, Stage] = {}
        self._meanings_here: dict[str, Stage] = {}  # as long as this run lasts
        self._run = self.notes.run

    def read(self, lines: Iterable[str]) -> None:
        """Read all lines; each is looked at closely only if some rule could know it."""
        wanted = self._wanted(0)
        for number, line in enumerate(lines, 1):
            if not wanted(line) and not self.notes.is_within_a_sentence:
                continue
            may_be_frame = '", line ' in line or TRACEBACK in line
            if may_be_frame and self.notes.take_frame(number, line):
                continue
            if not self._recall(number, line):
                self._take(number, line)
            wanted = self._wanted(number)
        self.notes.finish_sentence()

    def _wanted(self, number: int) -> Callable[[str], bool]:
        """Which lines can change what is known, as things stand."""
        run = self.notes.run
        if run.is_settled(number):
            return wanted_of_the_settled
        if run.stage < Stage.SERVING:
            return wanted_of_a_start
        # Where something stalls, the next sign of life may be any line.
        return bool if run.stalls else wanted_of_a_server

    def _recall(self, number: int, raw: str) -> bool:
        """Take a line that has been read before and means the same again."""
        if self.notes.is_within_a_sentence:
            return False
        key = _key(raw)
        stage = self._meanings.get(key, self._meanings_here.get(key))
        if stage is None:
            return False
        if stage is not Stage.NOTHING:
            self.notes.run.advance(stage, Spot(line=number, evidence=raw.rstrip("\r\n")))
        return True

    def _take(self, number: int, raw: str) -> None:
        meaning: Stage | None = Stage.NOTHING
        for part in raw.rstrip("\r\n").split("\r"):  # a progress bar rewrites its line
            if not part or part.isspace():
                continue
            news = self.notes.take(Read.of(number, part))
            meaning = None if meaning is None or news is None else max(meaning, news)
        if self._run is not self.notes.run:
            self._run = self.notes.run
            self._meanings_here.clear()
        key = _key(raw)
        known = self._meanings_here if self._run.serving else self._meanings
        if meaning is not None and len(key) <= _KEY_MOST and len(known) < _REMEMBERED:
            known[key] = meaning


def _key(line: str) -> str:
    """What of a line comes back: all that follows its time, from the file it was said in."""
    place = line.find(".py:")
    return line[place:] if 0 <= place < _TIME_ENDS else line


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Why a server ended as it did.

    Attributes:
        cause: Of `objectives.causes.CAUSES`.
        evidence: The telling line as it stands in the log, with its prefixes. Where `line` is 0:
            in words, what else names the cause, or "".
        line: Its number, from 1; 0 if no line names it.
        remedy: What to change, in one sentence.
        figures: What the line prints, by names that carry its units.
    """

    cause: str
    evidence: str = ""
    line: int = 0
    remedy: str = ""
    figures: dict[str, float | int | str] = field(default_factory=dict)

    @property
    def is_failure(self) -> bool:
        """Whether something went wrong, or nothing at all is known."""
        return cause_named(self.cause).fault != "nobody"


def diagnose(
    lines: Iterable[str],
    *,
    ended: Ended | None = None,
    evidence: DeviceEvidence | None = None,
) -> Diagnosis:
    """Name the cause of a server's end.

    Args:
        lines: The log of vLLM (0.4 to 0.33, GPU or CPU build) or Whisper, line by line, with or
            without line ends. Read once; what is kept does not grow with it.
        ended: How the process ended, if that is known. Without it the log alone decides.
        evidence: What kernel and driver reported; it names a death that the log leaves unnamed.

    Returns:
        One cause. Of several runs in one log the last that says anything is judged.
    """
    scan = Scan()
    scan.read(lines)
    decision = judge(scan.notes.run, scan.notes.before, ended=ended, evidence=evidence)
    return Diagnosis(
        cause=decision.cause,
        evidence=decision.spot.evidence,
        line=decision.spot.line,
        remedy=remedy_of(decision.cause, decision.figures),
        figures=decision.figures,
    )
