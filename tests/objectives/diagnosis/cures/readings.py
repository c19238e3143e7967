"""What every table of cures is asked: is each met by a line, is each answer whole sentences?"""

import re

from objectives.diagnosis.cures.remedy import remedy_for


def unmet(tables, cases):
    """Cause and place of every cure that no line of its cause takes before another."""
    met = {
        (cause, next(n for n, one in enumerate(tables[cause]) if one.pattern.search(line)))
        for cause, line, *_ in cases
    }
    return {(cause, n) for cause, table in tables.items() for n in range(len(table))} - met


def check_sentences(cause, line, figures):
    """Whoever asks, the remedy is whole sentences, with nothing left to fill in."""
    for kinds in ((), ("vllm",), ("faster-whisper", "whisper")):
        remedy = remedy_for(cause, line, figures, *kinds)
        assert re.fullmatch(r"[A-Za-z{{\"][^{}]*[^ ]\.", remedy), remedy
        assert "  " not in remedy
        assert not re.search(r" [,.:;)]", remedy)
