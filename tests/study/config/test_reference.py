"""The configuration reference."""

import re

from study.config.reference import reference
from study.config.schema import Document, model_in

ROWS = dict(re.findall(r"^\| `([\w.*]+)` \| (.*) \|$", reference(), re.MULTILINE))


def keys(model, prefix=""):
    """Every key that holds a value, as the reference spells it."""
    for name, known in model.model_fields.items():
        inner = model_in(known.annotation)
        many = "dict[" in str(known.annotation) or "tuple[" in str(known.annotation)
        if inner is None:
            yield f"{prefix}{name}"
        else:
            yield from keys(inner, f"{prefix}{name}{'.*' if many else ''}.")


def test_every_key_has_one_row():
    assert set(keys(Document)) <= set(ROWS)
    assert len(re.findall(r"^\| `", reference(), re.MULTILINE)) >= len(set(keys(Document)))


def test_a_row_says_default_meaning_and_what_is_allowed():
    assert ROWS["load.measure_s"] == "`60.0` | The measured window. | number > 0"
    assert ROWS["vllm.dummy.vocab"].endswith("| whole number >= 300")
    assert ROWS["wer"].endswith("| names, each with number 0 to 100")
    assert ROWS["load.quantile"].endswith("| `p50`, `p95`")


def test_what_is_required_says_so():
    assert ROWS["neighbours.*.name"].startswith("required |")
    assert "What may vary: a list of values, or a range. Required." in reference()


def test_the_objectives_are_named_with_their_defaults():
    about = reference().partition("## `objectives`")[2].partition("|")[0]
    assert "Default: `stt_latency_ms`, `llm_latency_ms`, `concurrent_capacity`." in about.replace(
        "\n", " "
    )
    assert "`oom_events`" in about


def test_the_reference_holds_every_key_with_its_meaning():
    text = reference()
    assert "| `load.llm.rate_rps` | `2.0` | Arrivals a second. |" in text
    assert all(f"`{key}`" in text for key in Document.model_fields)


def test_lines_fit_into_100_columns_but_for_rows_of_tables():
    assert all(len(line) <= 100 or line.startswith("|") for line in reference().splitlines())
