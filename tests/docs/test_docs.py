"""The documentation says what the program does."""

import argparse
import importlib
import json
import re
import shutil

import pytest
import yaml

from objectives.device.allocation import LEAST_FREE_BYTES, NOISE_BYTES
from objectives.device.lock import FOLDER_VARIABLE
from objectives.measurement.quantiles import samples_needed
from objectives.models.shape import ModelShape
from objectives.units import GIB, MIB
from study.config.__main__ import main
from study.config.files import bundled, read_config
from study.config.schema import OBJECTIVES
from study.engines.recipes import RECIPES
from study.reports.legacy_record import record
from study.results.findings import read_study
from study.results.picks import SCENARIOS
from study.samplers.legacy_fitness import legacy_fitness
from tests.docs.pages import PAGES, ROOT, anchors, blocks, coded, commands, links, prose, table
from tests.fakes.fake_nvml import FakeGpu, FakeNvml
from tests.objectives.models.published_shapes import QWEN2_5_7B_AWQ
from tests.study import studies

DOCS = ROOT / "docs"
CONFIGURATIONS = [block for block in blocks("yaml") if "search_space:" in block.text]
LEGACY = [block for block in CONFIGURATIONS if block.page == "from-the-legacy.md"]
QUICK = {"config", "fit", "diagnose", "report"}
"""Commands that are really run; of `run` only what launches nothing."""


def printed(capsys, *arguments):
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_the_configuration_page_is_what_the_program_prints(capsys):
    page = (DOCS / "configuration.md").read_text()
    again = "python -m study.config --reference > docs/configuration.md"
    assert page == printed(capsys, "--reference"), f"make it again: {again}"


def test_the_json_schema_is_what_the_program_prints(capsys):
    file = (DOCS / "configuration.schema.json").read_text()
    again = "python -m study.config --schema > docs/configuration.schema.json"
    assert json.loads(file) == json.loads(printed(capsys, "--schema")), f"make it again: {again}"


def test_the_page_of_causes_is_what_the_program_prints(capsys):
    page = (DOCS / "constraints-and-causes.md").read_text()
    again = "python -m study.diagnose --causes > docs/constraints-and-causes.md"
    assert command("diagnose")(["--causes"]) == 0
    assert page == capsys.readouterr().out, f"make it again: {again}"


BUNDLED = sorted((ROOT / "study" / "configs").glob("*.yaml"))
OURS = [block.text for block in CONFIGURATIONS if block not in LEGACY]


@pytest.mark.parametrize("text", [*(path.read_text() for path in BUNDLED), *OURS])
def test_an_editor_with_the_json_schema_finds_nothing_wrong(text):
    import jsonschema

    schema = json.loads((DOCS / "configuration.schema.json").read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert list(validator.iter_errors(yaml.safe_load(text))) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_files_lead_somewhere(page):
    for target in links(page):
        name, _, anchor = target.partition("#")
        other = (page.parent / name).resolve() if name else page
        assert other.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(other), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_names_a_folder_of_somebodys_machine(page):
    assert re.findall(r"(?<![\w.])/(?:root|home|tmp)/\S+", page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_fits_into_100_columns(page):
    lines = prose(page).splitlines()
    assert [line for line in lines if len(line) > 100 and not line.startswith("|")] == []


def test_every_page_is_reached_from_another_one():
    reached = {target.partition("#")[0] for page in PAGES for target in links(page)}
    names = {path.rsplit("/", maxsplit=1)[-1] for path in reached}
    assert {page.name for page in PAGES} - names <= {"README.md"}


# --- configurations


@pytest.fixture
def box(tmp_path, monkeypatch):
    """A folder with all that the pages' commands name, on a machine with a 12 GB card."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPU_ALLOCATION_STUDY_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GPU_ALLOCATION_STUDY_ENGINE", raising=False)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    folder = "hub/hub/models--Qwen--Qwen2.5-7B-Instruct-AWQ/snapshots/main"
    for place in (tmp_path / folder, tmp_path / "Qwen2.5-7B-Instruct-AWQ"):
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps(QWEN2_5_7B_AWQ))
    mine = next(block for block in CONFIGURATIONS if block.page == "gpu-box.md")
    (tmp_path / "my-box.yaml").write_text(mine.text)
    (tmp_path / "dream.yaml").write_text(LEGACY[0].text)
    (tmp_path / "vllm.log").write_text(f"INFO starting\n{studies.NO_BLOCKS}\n")
    (tmp_path / "studies").mkdir()
    with FakeNvml(FakeGpu()).installed():
        yield tmp_path


@pytest.fixture(scope="module")
def storages(tmp_path_factory):
    """The studies of the pages' configurations, measured."""
    folder = tmp_path_factory.mktemp("studies")
    for name in ("my-box", "spica_gpu_allocation"):
        study = studies.empty_study(f"sqlite:///{folder}/{name}.db", name=name)
        studies.complete(study, 0.50, "small", generation=0)
        studies.predicted_infeasible(study, 0.40, "small", generation=0)
    return folder


@pytest.fixture
def measured(box, storages):
    """The box, with its studies measured."""
    shutil.copytree(storages, box / "studies", dirs_exist_ok=True)


@pytest.mark.parametrize("block", CONFIGURATIONS, ids=lambda block: block.page)
def test_every_configuration_is_accepted(block, box):
    path = box / "block.yaml"
    path.write_text(block.text)
    config = read_config(path)
    assert config.space.size is not None
    assert config.baseline is not None


def test_the_legacy_block_becomes_what_the_page_says(box):
    budget = read_config(box / "dream.yaml").document.budget
    said = {
        coded(row[1])[0]: row[2]
        for row in table("from-the-legacy.md", "## Budgets")
        if "budget." in row[1]
    }
    found = {name: getattr(budget, name.removeprefix("budget.")) for name in said}
    assert {name: float(words.split()[0]) for name, words in said.items()} == found


def test_the_bundled_study_holds_what_the_pages_say():
    neighbour = bundled("cuda").document.neighbours[0]
    assert neighbour.kind == "hold"
    assert f"holds {neighbour.gib:g} GiB" in (DOCS / "from-the-legacy.md").read_text()


@pytest.fixture
def answers(box, capsys):
    """Utilisation to what the page's commands answer: with the tenants, and on an empty card."""
    lines = [line for line in commands() if (line.page, line.module) == (LEGACY[0].page, "fit")]
    told = []
    for line in lines:
        command("fit")([*line.arguments, "--json"])
        told.append(
            {
                each["utilization"]: each
                for each in json.loads(capsys.readouterr().out)["candidates"]
            }
        )
    return told


def test_the_legacys_case_is_what_the_commands_beside_it_answer(answers):
    tenants, empty = answers
    rows = table("from-the-legacy.md", "### The same for every utilisation")
    assert [float(row[0]) for row in rows] == list(tenants) == list(empty)
    for utilisation, share, left, requests, *verdicts in rows:
        for found, verdict in zip((tenants, empty), verdicts, strict=True):
            said = found[float(utilisation)]
            assert f"{said['requested_bytes'] / GIB:.2f}" == share
            assert f"{said['available_bytes'] / GIB:.2f}" == left
            fitting = f"{said['max_concurrency']:.2f}" if said["fits"] else "-"
            assert fitting == requests
            assert (said["cause"] or "fits") == verdict


def test_the_legacys_checks_are_the_arithmetic_of_one_of_its_points(answers):
    tenants, empty = answers
    rows = table("from-the-legacy.md", '## "No contiguous memory": what it really was')
    at = tenants[0.40]
    needed = [at["requested_bytes"], at["footprint"]["weights_bytes"], 0, at["needed_bytes"]]
    assert [row[1] for row in rows] == [f"{size / GIB:.2f}" for size in needed]
    free = f"{at['device']['free_bytes'] / GIB:.2f}"
    assert [row[2] for row in rows] == [free, free, f"{at['available_bytes'] / GIB:.2f}", "-"]
    even = empty[0.40]["break_even"]
    page = " ".join((DOCS / "from-the-legacy.md").read_text().split())
    assert f"takes {even['one_block']:.3f}, one request 0.478" in page
    assert 0.477 < even["one_request"] <= 0.478
    assert "matter above 0.85" in page
    assert tenants[0.40]["break_even"]["most"] == pytest.approx(0.85, abs=0.005)


def test_the_pieces_that_the_legacy_needed_are_the_models():
    shape = ModelShape.from_config(QWEN2_5_7B_AWQ)
    blocks_of_16 = 6976 // 16
    page = " ".join((DOCS / "from-the-legacy.md").read_text().split())
    layer_bytes = shape.kv_bytes_per_layer() * 16
    assert f"{blocks_of_16} blocks of {layer_bytes >> 10} KiB" in page
    assert f"{blocks_of_16 * layer_bytes / MIB:.1f} MiB." in page
    embedding_bytes = QWEN2_5_7B_AWQ["vocab_size"] * QWEN2_5_7B_AWQ["hidden_size"] * 2
    assert f"152,064 x 3,584 x 2 bytes, {embedding_bytes / GIB:.2f} GiB" in page


def test_what_the_page_says_of_the_largest_allocation_is_what_is_done():
    page = " ".join((DOCS / "from-the-legacy.md").read_text().split())
    assert f"less than {LEAST_FREE_BYTES // GIB} GiB free beside that" in page
    assert f"Up to {NOISE_BYTES // MIB} MiB less than was asked for count as whole" in page


# --- commands


class ParsedError(Exception):
    """The arguments were understood; nothing was done."""


def command(module):
    package = importlib.import_module(f"study.{module}")
    is_folder = hasattr(package, "__path__")
    return (importlib.import_module(f"study.{module}.__main__") if is_folder else package).main


@pytest.mark.parametrize("line", commands(), ids=str)
def test_every_command_line_is_understood(line, monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, args=None, namespace=None):
        parse(self, args, namespace)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    with pytest.raises(ParsedError):
        command(line.module)(list(line.arguments))


CHEAP = [line for line in commands() if line.module in QUICK or "--dry-run" in line.arguments]


@pytest.mark.parametrize("line", CHEAP, ids=str)
@pytest.mark.usefixtures("measured")
def test_commands_that_launch_nothing_do_what_they_should(line, capsys):
    assert command(line.module)(list(line.arguments)) == 0
    said = capsys.readouterr()
    assert said.out or "wrote" in said.err


def test_the_prediction_of_the_page_is_the_cache_that_production_logged(box, capsys):
    line = next(line for line in CHEAP if "--weights-gib" in line.arguments)
    command("fit")([*line.arguments, "--json"])
    candidates = json.loads(capsys.readouterr().out)["candidates"]
    assert [each["kv_cache_tokens"] for each in candidates][2] == 6_976


def test_blocks_of_help_are_what_the_commands_print(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for block in blocks():
        asked = re.match(r"usage: python -m study\.(\w+)", block.text)
        if asked:
            with pytest.raises(SystemExit):
                command(asked[1])(["--help"])
            assert capsys.readouterr().out == block.text, f"{block.page}: --help of {asked[1]}"


# --- figures


def test_the_columns_of_the_front_are_the_objectives():
    rows = table("reading-the-front.md", "## The columns")
    assert {coded(row[0])[0] for row in rows} == {*OBJECTIVES, "fitness"}


def test_the_picks_are_the_programs():
    rows = table("reading-the-front.md", "## The picks")
    assert tuple(coded(row[0])[0] for row in rows) == SCENARIOS


def test_the_legacy_fitness_of_the_page_is_computed():
    rows = table("from-the-legacy.md", "## The legacy fitness")
    assert len(rows) == 3
    for *figures, written, computed in rows:
        speech, llm, capacity, oom, used = (None if f == "-" else float(f) for f in figures)
        fitness = legacy_fitness(
            stt_latency_ms=speech,
            llm_latency_ms=llm,
            concurrent_capacity=capacity,
            oom_events=oom,
            gpu_utilization=used,
        )
        assert f"{fitness:.3f}" == computed
        assert (written == computed) == (written != "0.782")


def test_the_legacy_record_has_the_keys_that_the_page_lists():
    findings = read_study(studies.whole_study(), "")
    rows = table("from-the-legacy.md", "## The legacy record")
    listed = [key for row in rows for key in coded(row[0])]
    assert sorted(listed) == sorted(record(findings, findings[0]))


def test_numbers_of_the_first_page_are_the_programs():
    text = (DOCS / "gpu-box.md").read_text()
    assert f"engine (about {RECIPES['cuda'].size_bytes / 1e9:.0f} GB)" in text
    assert f"interval from {samples_needed(0.95)} requests on" in text
    assert f"`{FOLDER_VARIABLE}`" in text
    for said in ("is held by", "no engine for", "the bench broke", "cpu_fallback"):
        assert said in text
