"""The elements that the HTML report is put together from."""

from matplotlib.figure import Figure

from study.page import figure, section, table

NASTY = '<script>alert("x")</script> & more'


def test_everything_that_is_given_is_escaped():
    page = (
        section(NASTY)
        + table([NASTY], [[NASTY]], caption=NASTY)
        + figure(Figure(), name="f", words=NASTY, caption=NASTY)
    )
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_wide_table_can_be_scrolled_by_keyboard():
    assert 'tabindex="0" role="region" aria-label="Sizes"' in table(["a"], [["1"]], caption="Sizes")


def test_a_tables_heads_are_heads():
    assert '<th scope="col">a</th>' in table(["a"], [])
