"""What a row of a table of cures becomes."""

from objectives.diagnosis.cures.cure import cures


def test_a_row_of_two_is_the_same_for_every_server():
    (one,) = cures((r"zebra \d", "Feed it."))
    assert one.pattern.search("a ZEBRA 7")
    assert (one.words, one.others) == ("Feed it.", {})


def test_a_row_of_three_has_other_words_for_a_whisper():
    (one,) = cures((r"zebra", "Feed it.", "Sing to it."))
    assert one.others == {"whisper": "Sing to it."}
