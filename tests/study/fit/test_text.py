"""What `study.fit` tells people."""

import pytest

from objectives.models.shape import ModelShape
from objectives.units import GIB
from study.fit.text import WIDTH, candidates_table, columns, outcome_line, render, word
from tests.objectives.models.published_shapes import DEEPSEEK_V2_LITE, GPT_OSS_20B
from tests.study.fit.test_document import Row, answer, scene


def bar_of(text):
    return next(line for line in text.splitlines() if line.startswith("["))


def test_the_bar_is_the_device_to_scale():
    bar = bar_of(render(scene(), [answer(0.5)]))
    assert len(bar) == WIDTH
    assert bar.count("W") / (WIDTH - 2) == pytest.approx(5.2 / 11.63, abs=0.02)
    assert bar.count(".") / (WIDTH - 2) == pytest.approx(1 - 5.815 / 11.63, abs=0.02)


def test_every_part_of_the_bar_has_its_line_with_a_source():
    text = render(scene(free_known=True), [answer(0.5, free=9 * GIB)])
    for letter in set(bar_of(text)) - set("[]."):
        assert any(line.startswith(f"{letter}  ") for line in text.splitlines()), letter
    assert "others, in use now  2.63 GiB  given" in text


def test_a_share_that_its_parts_exceed_is_marked_where_it_ends():
    lines = render(scene(), [answer(0.4)]).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("["))
    assert lines[at + 1].index("^") < lines[at].rindex("A")
    assert "share 4.65 GiB" in lines[at + 1]


def test_nothing_is_wider_than_a_terminal():
    for utilization in (0.40, 0.475, 0.5, 0.6, 1.0):
        text = render(scene(whisper="large-v3-turbo"), [answer(utilization)])
        assert max(map(len, text.splitlines())) <= WIDTH


def test_a_refusal_is_told_from_a_doubt_and_both_from_a_fit():
    assert outcome_line(answer(0.5)).startswith("It fits: 0.37 GiB")
    refused = outcome_line(answer(0.4))
    assert refused.startswith("It does not fit (kv_cache_no_blocks): of 4.65 GiB")
    assert "raise --gpu-memory-utilization" in refused
    assert word(answer(0.4)) == "refused: kv_cache_no_blocks"
    assert candidates_table([Row({"utilisation": 0.4}, None)]).endswith("unknown")


def test_several_utilisations_are_a_table_and_the_first_that_fits_is_drawn():
    text = render(scene(), [answer(value) for value in (0.40, 0.45, 0.50, 0.55)])
    assert "0.5  5.82 GiB   0.37 GiB   6,976      3.41  fits" in text
    assert "At 0.5:" in text


def test_a_model_is_introduced_by_what_its_cache_depends_on():
    windowed = answer(0.5, shape=ModelShape.from_config(GPT_OSS_20B))
    latent = answer(0.5, shape=ModelShape.from_config(DEEPSEEK_V2_LITE))
    assert "12 keep a window of 128 tokens" in render(scene(), [windowed])
    assert "latent 512 + 64" in render(scene(), [latent])


def test_an_empty_device_is_said_to_be_assumed():
    assert "taken as empty" in render(scene(), [answer(0.5)])
    assert "9.00 GiB free" in render(scene(free_known=True), [answer(0.5, free=9 * GIB)])


def test_candidates_are_counted_and_listed():
    rows = [Row({"u": value}, answer(value)) for value in (0.4, 0.5)]
    text = candidates_table([*rows, Row({"u": 0.7}, None, ("the shape is not known",))])
    assert text.startswith("2 of 3 candidates fit; 1 would not be launched.")
    assert "refused: kv_cache_no_blocks" in text
    assert "the shape is not known" in text


def test_columns_align_numbers_to_the_right():
    assert columns([("a", "b"), ("10", "2")]) == " a  b\n10  2"
