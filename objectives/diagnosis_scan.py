"""One pass over a log: every line is read at most once, and only little is kept of it."""

from __future__ import annotations

from collections.abc import Iterable

from objectives.diagnosis_anchors import (
    Wanted,
    every_line,
    wanted_of_a_server,
    wanted_of_a_start,
    wanted_of_the_settled,
)
from objectives.diagnosis_notes import Notes, Read
from objectives.diagnosis_oom import Stage
from objectives.diagnosis_run import Spot
from objectives.diagnosis_traceback import TRACEBACK

_REMEMBERED = 8_192  # lines whose meaning is remembered; servers repeat themselves
_KEY_MOST = 512  # characters of such a line
_TIME_ENDS = 120  # the tag of a file stands within the first characters of a line


class Scan:
    """A pass over a log.

    Attributes:
        notes: What it told so far.
        lines: Lines read.
    """

    def __init__(self) -> None:
        self.notes = Notes()
        self.lines = 0
        self._meanings: dict[str, Stage] = {}
        self._meanings_here: dict[str, Stage] = {}  # as long as this run lasts
        self._run = self.notes.run

    def read(self, lines: Iterable[str]) -> None:
        """Read all lines; each is looked at closely only if some rule could know it."""
        number = 0
        wanted = self._wanted(number)
        for number, line in enumerate(lines, 1):
            if not wanted(line) and not self.notes.is_within_a_sentence:
                continue
            may_be_frame = '", line ' in line or TRACEBACK in line
            if may_be_frame and self.notes.take_frame(number, line):
                continue
            if not self._recall(number, line):
                self._take(number, line)
            wanted = self._wanted(number)
        self.lines = number
        self.notes.finish_sentence()

    def _wanted(self, number: int) -> Wanted:
        """Which lines can change what is known, as things stand."""
        run = self.notes.run
        if run.is_settled(number):
            return wanted_of_the_settled
        if run.stage < Stage.SERVING:
            return wanted_of_a_start
        return every_line if run.stalls else wanted_of_a_server

    def _recall(self, number: int, raw: str) -> bool:
        """Take a line that has been read before and means the same again."""
        if self.notes.is_within_a_sentence:
            return False
        key = _key(raw)
        stage = self._meanings.get(key)
        if stage is None:
            stage = self._meanings_here.get(key)
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
            told = self.notes.take(Read.of(number, part))
            meaning = None if meaning is None or told is None else max(meaning, told)
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
