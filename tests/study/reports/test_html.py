"""The report as one HTML file."""

import re
from html.parser import HTMLParser

import pytest

from objectives.device import LargestAllocation
from study.reports.html import html_report
from study.results.findings import read_study
from study.results.phrases import command_lines
from tests.study import studies
from tests.study.browsers import browser, complaints, offline

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Nesting(HTMLParser):
    """Collects tags that are closed out of order."""

    def __init__(self):
        super().__init__()
        self.open, self.wrong, self.headings = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


@pytest.fixture(scope="module")
def findings():
    study = studies.whole_study()
    studies.complete(study, 0.60, "tiny", noise=1.03, generation=4, doubts=["60 samples <few>"])
    return read_study(study, "sqlite:///studies/shared-gpu.db")


@pytest.fixture(scope="module")
def page(findings):
    return html_report(findings)


@pytest.fixture(scope="module")
def file(page, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "front.html"
    path.write_text(page, encoding="utf-8")
    return path


def test_every_tag_is_closed_in_order(page):
    seen = Nesting()
    seen.feed(page)
    assert (seen.wrong, seen.open) == ([], [])


def test_headings_go_down_one_level_at_a_time(page):
    seen = Nesting()
    seen.feed(page)
    assert seen.headings[0] == 1
    steps = zip(seen.headings, seen.headings[1:], strict=False)
    assert all(after - before <= 1 for before, after in steps)


def test_nothing_in_it_is_fetched(page):
    addresses = re.findall(r'(?:src|href|action)="([^"]*)"', page) + re.findall(
        r"url\(([^)]*)\)", page
    )
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert "default-src 'none'" in page
    assert "<script" not in page


def test_it_is_small_enough_to_mail(page):
    assert len(page.encode()) < 500_000


def test_the_same_findings_give_the_same_page(findings, page):
    assert html_report(findings) == page


def test_it_begins_with_the_verdict(page):
    assert page.index("11 of 15 settings tried work") < page.index("<h2>")


def test_logs_are_quoted_as_text(page):
    assert "60 samples &lt;few&gt;" in page
    assert "60 samples <few>" not in page


def test_picks_are_settings_one_can_copy(findings, page):
    line = command_lines(findings[findings.picks["capacity"]])["vllm"]
    assert f"<pre>{line}</pre>" in page


def test_the_baseline_stands_beside_the_picks(page):
    today = page.split("What runs today, and what to choose")[1].split("</tr>")[1]
    assert "what runs today" in today
    assert "319 (303-335)" in today


def test_every_picture_has_words(page):
    titles = re.findall(r"<svg[^>]*>(<title.*?</title>)", page)
    assert len(titles) == page.count("<svg") == 6
    assert "vllm 5.40" in page, "memory is told in figures, too"


def test_percentiles_of_both_servers_are_there(page):
    assert "LLM, first token" in page
    assert "speech, whole request" in page


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": "dummy"}, "Dummy weights: speed and memory are real, words are not."),
        ({"replay": "t.csv"}, "Replay of a recorded table (t.csv)"),
    ],
)
def test_what_the_figures_are_not_is_said_before_them(options, said):
    found = html_report(read_study(studies.whole_study(**options), ""))
    assert found.index(said) < found.index("<h2>")


@pytest.mark.parametrize("make", [studies.empty_study, studies.whole_study])
def test_any_study_has_a_page(make):
    assert html_report(read_study(make(), "")).rstrip().endswith("</html>")


def test_a_start_that_was_refused_for_memory_says_whether_that_lay_in_pieces():
    study = studies.empty_study()
    found = LargestAllocation(
        granted_bytes=1 << 30, refused_bytes=1026 << 20, asked_bytes=9 << 30, before="vllm"
    )
    studies.predicted_infeasible(study, 0.40, "small")
    studies.refused(study, 0.60, "small", cause="cuda_oom_load", found=found)
    page = html_report(read_study(study, ""))
    assert page.count("<p>Free memory was fragmented: one allocation right before got 1.00") == 1
    assert "1 trials, 1 of them predicted without a launch" in page
    assert "1 trials, 0 of them predicted without a launch" in page


def test_a_study_in_which_nothing_works_has_a_map_and_causes():
    study = studies.empty_study()
    studies.predicted_infeasible(study, 0.40, "small")
    studies.refused(study, 0.60, "small")
    found = html_report(read_study(study, ""))
    assert "What does not work here, and why" in found
    assert "The front" not in found


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_renders_without_a_network_and_without_a_complaint(file, dark):
    with browser(dark=dark) as opened:
        offline(opened)
        opened.get(file.as_uri())
        paper = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
        drawn = opened.execute_script(
            "const all = [...document.querySelectorAll('svg.drawing')];"
            "return all.map(svg => svg.getBoundingClientRect().height)"
        )
        assert complaints(opened) == []
    assert paper == ("rgb(20, 24, 29)" if dark else "rgb(254, 254, 254)")
    assert len(drawn) == 6
    assert min(drawn) > 100


@pytest.mark.browser
def test_on_a_phone_only_wide_tables_scroll_sideways(file):
    with browser(width=375) as opened:
        opened.get(file.as_uri())
        assert opened.execute_script("return document.documentElement.scrollWidth") <= 375


@pytest.mark.browser
def test_it_can_be_read_without_scripts(file):
    with browser(scripts=False) as opened:
        opened.get(file.as_uri())
        words = opened.find_element("tag name", "body").text
    assert "11 of 15 settings tried work" in words
    assert "No available memory for the cache blocks" in words


NASTY = '<script>alert("x")</script> & more'


def test_everything_that_is_given_is_escaped():
    study = studies.empty_study(name=f"name {NASTY}")
    studies.complete(study, 0.60, "tiny", doubts=[f"doubt {NASTY}"])
    studies.refused(study, 0.60, "small", evidence=f"log {NASTY}")
    page = html_report(read_study(study, f"sqlite:///{NASTY}"))  # in a command to copy
    assert "<script" not in page
    for place in ("name", "doubt", "log"):
        assert f"{place} &lt;script&gt;alert(" in page


def test_a_wide_table_can_be_scrolled_by_keyboard(page):
    named = re.findall(r'<div class="wide" tabindex="0" role="region" aria-label="(.+)">', page)
    assert len(named) == page.count("<table")
    assert "Where the time went." in named
    assert "trial, latency (ms), p50, p95, p99, requests, failed" in named, "its heads"


def test_a_tables_heads_are_heads(page):
    assert '<thead><tr><th scope="col">phase</th><th scope="col">all trials</th></tr>' in page
