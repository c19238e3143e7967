"""One line of a server's log, without what a terminal, a container or a cluster put before it.

The same sentence of vLLM arrives bare, coloured, behind `(EngineCore_DP0 pid=7)`, behind a
container's time stamp, a journal's host name, a launcher's rank label, or inside a JSON object.
Rules read what is left when those are taken away; people are shown the line as it stands.
"""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_LONGEST = 8_192  # characters of a line that are looked at; dumps of requests run to megabytes
_PIECE_BYTES = 1 << 16
_LAYERS = 10  # prefixes that may stand before one another

# Escape sequences; forums and editors drop the escape character and keep the rest of a colour.
_COLOURS = re.compile(
    r"(?:\x1b|#033|\\x1b|\\u001b|\^\[)\[[0-9;?]*[ -/]*[@-~]|\[(?:\d{1,2};)?\d{1,2}m"
)

_LEVELS = "TRACE|DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL|FATAL"
_LEVEL = rf"(?P<level>{_LEVELS})"
_TIME = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z| ?[+-]\d\d:?\d\d)?"
# vLLM: "ERROR 07-22 20:11:15 [core.py:500] ", before 0.8 "core.py:500] "
_VLLM = _LEVEL + r" \d\d-\d\d \d\d:\d\d:\d\d (?:\[?[^\s\]]{1,160}:\d+\] ?)?"
_USUAL = re.compile(rf"(?:\((?P<process>[^()\n]{{0,80}}\bpid=\d+)\) )?{_VLLM}")
_STRANGE_MOST = 80  # characters of an unknown prefix that may stand before vLLM's own


_PROCESS = re.compile(
    r"\(([^\n]{0,120}?\bpid=\d+)(?:, ip=[^)\n]{1,60})?\)|(\[(?:rank|default)\d+\])"
)


def _compiled(*patterns: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern) for pattern in patterns)


_IN_ROUND_BRACKETS = _compiled(
    # (EngineCore_DP0 pid=7), (VllmWorker rank=0 pid=7), (MapWorker(Map(x)) pid=7, ip=10.0.0.1)
    r"\((?P<process>[^\n]{0,120}?\bpid=\d+)(?:, ip=[^)\n]{1,60})?\) ?",
    r"\((?:raylet|gcs_server|autoscaler[^)\n]{0,40})\) ?",
)
_IN_SQUARE_BRACKETS = _compiled(
    r"(?P<process>\[(?:rank|default)\d+\]):? ?",  # a launcher's rank
    r"\[\d+,\d+\]<std(?:out|err)>: ?",  # mpirun
    r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[,.]\d+ (?P<letter>[IWEFC]) \d+ \d+\] ?",  # ray
    r"\[" + _TIME + r"\][ \t]+",
    r"\[(?P<letter>[IWEF])\d{3,4} \d\d:\d\d:\d\d[^\]\n]{0,120}\] ?",  # c10d
    r"\[[A-Z][a-z]{2} [A-Z][a-z]{2} +\d{1,2} \d\d:\d\d:\d\d \d{4}\] ",  # dmesg -T
    r"\[ *\d+\.\d{3,}\] ",  # dmesg
    r"\[" + _LEVEL + r"\] (?:[\w.]{1,80} - )?(?:\w+\.py:\d+: )?",
    r"\[[A-Za-z][\w.:/-]{0,40}\] ",  # somebody's own label
)
_BEFORE_A_DIGIT = _compiled(
    _TIME + r" std(?:out|err) [FP] ",  # a container runtime's file
    # Python logging and loguru: "<time> - name - ERROR - ", "<time> | ERROR | name:f:7 - "
    rf"{_TIME} ?[-|] ?(?:[\w.]{{1,80}} ?[-|] ?)?(?P<outer>{_LEVELS}) *[-|] ?"
    r"(?:[\w.<>:]{1,120} (?:- |\| ))?",
    _TIME + r"[ \t]+",
    r"\d{1,4}: (?=\S)",  # srun --label
)
_BEFORE_A_LETTER = _compiled(
    _VLLM,
    _LEVEL + r":[ \t]+",  # uvicorn
    _LEVEL + r":[\w.]{1,60}:(?=\S)",  # logging.basicConfig
    _LEVEL + r" +(?:[\w./]{1,80}\.py:\d+:?\]? )?(?=\S)",
    r"(?P<letter>[IWEF])\d{3,4} \d\d:\d\d:\d\d[^\]\n]{0,120}\] ?",  # glog
)
_JOURNAL = _compiled(
    r"[A-Z][a-z]{2} +\d{1,2} \d\d:\d\d:\d\d \S{1,80} [\w./@:-]{1,80}(?:\[\d+\])?: ",
    r"[\w.-]{1,80} [\w./@-]{1,80}\[\d+\]: ",  # its time already taken away
)
_COMPOSE = _compiled(r"[\w.-]{1,60} *\| (?=\S| {2})")  # docker compose
_BY_FIRST = {"(": _IN_ROUND_BRACKETS, "[": _IN_SQUARE_BRACKETS, ">": _compiled(r"> ?")}
_LEVEL_OF_LETTER = {"I": "INFO", "W": "WARNING", "E": "ERROR", "F": "CRITICAL", "C": "CRITICAL"}
_LEVEL_OF_WORD = {"WARN": "WARNING", "FATAL": "CRITICAL", "TRACE": "DEBUG"}
_UTF16_OF = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_JSON_FIELDS = ("log", "message", "msg", "MESSAGE", "textPayload", "text")
_JSON_LEVELS = ("level", "levelname", "severity")
_WARNS = re.compile(r"\b[A-Z]\w*Warning: ")

EXCEPTION = re.compile(
    r"(?P<type>(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Failure)"
    r"(?:\([A-Z]\w+\))?|Exception)(?:: ?(?P<message>.*))?$",
    re.DOTALL,
)
"""The last line of a Python traceback: a type, and what it says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogLine:
    """What a line says, and who said it how loudly.

    Attributes:
        text: The line without its prefixes and colours, stripped.
        level: "DEBUG" to "CRITICAL" where the innermost prefix names one, else None.
        process: The innermost process label, such as "EngineCore_DP0 pid=7", or "".
    """

    text: str
    level: str | None
    process: str


def read_line(line: str) -> LogLine:
    """Take the prefixes off one line of a log.

    Args:
        line: As it stands in the file; at most its first 8,192 characters are looked at.

    Returns:
        What is left. A level of INFO is withdrawn where the text is a Python exception: a
        script that prints its server's output as INFO does not make an error harmless.
    """
    text, level = _unwrap_json(line[:_LONGEST])
    if "m" in text and "[" in text:
        text = _COLOURS.sub("", text)
    process = ""
    text = text.strip()
    for _ in range(_LAYERS):
        match = _USUAL.match(text) or _prefix(text)
        if match is None and "] " in text:
            match = _USUAL.search(text, 0, _STRANGE_MOST + 160)
            match = match if match is not None and match.start() <= _STRANGE_MOST else None
        if match is None:
            break
        found = match.groupdict()
        process = found.get("process") or process
        level = _level(found) or level
        text = text[match.end() :].lstrip()
    if "Warning: " in text and _WARNS.search(text):
        level = "WARNING"
    elif level in {"INFO", "DEBUG"} and EXCEPTION.match(text):
        level = None
    return LogLine(text=text, level=level, process=process)


def process_of(prefix: str) -> str:
    """The innermost process label of what stands before a line's text; cheaper than `read_line`."""
    found = _PROCESS.findall(prefix)
    return "".join(found[-1]) if found else ""


def _prefix(text: str) -> re.Match[str] | None:
    """The first prefix of `text`; only those that can begin with its first character are tried."""
    for pattern in _candidates(text):
        if (match := pattern.match(text)) is not None:
            return match
    return None


def _candidates(text: str) -> tuple[re.Pattern[str], ...]:
    first = text[:1]
    if first in _BY_FIRST:
        return _BY_FIRST[first]
    found = _BEFORE_A_DIGIT if first.isdigit() else _BEFORE_A_LETTER if first.isupper() else ()
    head = text[:170]
    if ": " in head:
        found += _JOURNAL
    return found + _COMPOSE if "|" in head else found


def _level(found: dict[str, str | None]) -> str | None:
    """The level that a prefix names; a script's own INFO says nothing of what it passes on."""
    if letter := found.get("letter"):
        return _LEVEL_OF_LETTER[letter]
    if (outer := found.get("outer")) and outer in {"INFO", "DEBUG", "TRACE"}:
        return None
    word = outer or found.get("level")
    return _LEVEL_OF_WORD.get(word, word) if word else None


def _unwrap_json(text: str) -> tuple[str, str | None]:
    """The message of a line that is a JSON object, as docker, vLLM and clouds write them."""
    if not text.lstrip().startswith('{"'):
        return text, None
    try:
        document = json.loads(text)
    except ValueError:  # cut short, or no JSON after all
        return text, None
    for field in _JSON_FIELDS:
        if isinstance(message := document.get(field), str):
            levels = (document.get(name) for name in _JSON_LEVELS)
            level = next((word.upper() for word in levels if isinstance(word, str)), None)
            return message, _LEVEL_OF_WORD.get(level, level) if level else None
    return text, None


def lines_of(stream: BinaryIO) -> Iterator[str]:
    """The lines of a log that may be anything: broken UTF-8, UTF-16, lines of megabytes.

    The stream is read once, and may be a pipe.

    Yields:
        One string per line of the file, so that numbers agree with an editor's. Of a longer line
        only its first 64 KiB; what cannot be decoded is replaced.
    """
    first = stream.readline(_PIECE_BYTES)
    if encoding := _UTF16_OF.get(first[:2]):
        yield from _utf16_lines(first[2:], stream, encoding)
        return
    piece = first.removeprefix(codecs.BOM_UTF8)
    while piece:
        yield piece.decode(errors="replace")
        while piece and not piece.endswith(b"\n"):
            piece = stream.readline(_PIECE_BYTES)
        piece = stream.readline(_PIECE_BYTES)


def _utf16_lines(first: bytes, stream: BinaryIO, encoding: str) -> Iterator[str]:
    """The same of what some shells make of a redirected output."""
    pieces = itertools.chain([first], iter(lambda: stream.read(_PIECE_BYTES), b""))
    rest = ""
    for text in codecs.iterdecode(pieces, encoding, errors="replace"):
        *lines, rest = (rest + text).split("\n")
        yield from lines
        rest = rest[:_PIECE_BYTES]
    if rest:
        yield rest


_BANNER = re.compile(r"(?:█|API server|vLLM server)  ?version \S*\d|LLM engine \(v")


def starts_run(text: str) -> bool:
    """Whether a server, or an engine within it, introduces itself here."""
    return ("version " in text or "LLM engine (v" in text) and _BANNER.search(text) is not None


def is_banner(text: str) -> bool:
    """Whether a whole server introduces itself here, not only an engine."""
    return starts_run(text) and "LLM engine (v" not in text
