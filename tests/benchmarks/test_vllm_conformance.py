"""The conformance run sees what it looks for, and says so where it is otherwise, or not there."""

import datetime
import json

import pytest

from objectives.vllm import VllmRules
from tests.benchmarks.mini_wheel import VERSION, write_wheel
from tests.benchmarks.vllm_conformance.__main__ import main, markdown, options_file, table
from tests.benchmarks.vllm_conformance.checks import all_checks, understood_options
from tests.benchmarks.vllm_conformance.options import Option, literal, options
from tests.benchmarks.vllm_conformance.source import from_folder, from_registry
from tests.paths import ROOT

KV, WORKER, CARDS = (
    "vllm/v1/core/kv_cache_utils.py",
    "vllm/v1/worker/gpu_worker.py",
    "vllm/engine/arg_utils.py",
)


@pytest.fixture
def source(tmp_path):
    """A function: the made-up wheel, with changes, as it is read."""

    def read(changes=None):
        write_wheel(tmp_path, changes)
        return from_folder(VERSION, tmp_path)

    return read


def row(source, name):
    check = next(check for check in all_checks() if check.name == name)
    return check.answer(source, VllmRules(VERSION))


def test_a_version_that_is_as_we_think_says_yes_in_every_row(source):
    checks = list(all_checks())
    assert table([source()], checks) == {check.name: ["yes"] for check in checks}


@pytest.mark.parametrize(
    ("name", "path", "part", "instead", "expected"),
    [
        (
            "the module that is started",
            "vllm/entrypoints/openai/api_server.py",
            "",
            "",
            "not found",
        ),
        (
            *("the module that is started", "vllm/entrypoints/openai/api_server.py", "    main()"),
            *("    warn(DeprecationWarning)\n    main()", "changed: says that it is deprecated"),
        ),
        ("options that are passed", CARDS, "--max-num-seqs", "--seqs", "changed: without max-num"),
        ("options that are passed", CARDS, "", "", "not found"),
        ("options that move memory", CARDS, "--grpc", "--cache-twice", "no: cache-twice"),
        ("device by index", "vllm/platforms/interface.py", "", "", "not found"),
        (
            "device by UUID",
            "vllm/platforms/cuda.py",
            "except ValueError",
            "except OSError",
            "no: Va",
        ),
        ("default utilisation", "vllm/config/cache.py", "0.92", "0.9", "no: 0.9, ours 0.92"),
        ("default utilisation", "vllm/config/cache.py", "", "", "not found"),
        (
            *("share = ceil(total x util)", "vllm/v1/worker/utils.py", "math.ceil(", "("),
            "changed: not rounded up",
        ),
        ("share = ceil(total x util)", "vllm/v1/worker/utils.py", "", "", "not found"),
        ("start check", "vllm/v1/worker/utils.py", "< wanted", "<= wanted", "no: False"),
        ("start check", "vllm/v1/worker/utils.py", "", "", "not found"),
        ("graphs in the budget", "vllm/envs.py", '"1"', '"0"', "no: False, ours True"),
        ("graphs in the budget", "vllm/envs.py", "", "", "not found"),
        ("null block", KV, " - _pool_bytes_per_block(config, groups)", "", "no: False"),
        ("null block", KV, "", "", "not found"),
        ("size from concurrency", KV, "max_concurrency *", "blocks *", "no: False, ours True"),
        ("steps in flight", "vllm/v1/kv_cache_interface.py", "max_in_flight", "max", "no: False"),
        (
            *("sampler's kernel", "vllm/v1/sample/ops/topk_topp_sampler.py", "topk_topp_triton"),
            *("sort", "no: False"),
        ),
        ("a step's size by card", CARDS, "160 *", "120 *", "no: NVIDIA H200 16384/1024, ours 8192"),
        ("a step's size by card", CARDS, "70 * GiB", "30 * GiB", "no: Tesla V100"),
        ("a step's size by card", CARDS, "device_memory", "memory", "not found"),
        ("kinds of cache", "vllm/config/cache.py", ', "fp8_e5m2"', "", "changed: without fp8_e5m2"),
        (
            *("sleep mode", "vllm/device_allocator/cumem.py", "isinstance(tag, str)"),
            *("'expandable_segments:True' not in conf", "no: AssertionError"),
        ),
        ("variables", "vllm/envs.py", "VLLM_API_KEY", "VLLM_KEY", "changed: without VLLM_API_KEY"),
        (
            "metrics",
            "vllm/v1/metrics/loggers.py",
            "num_preemptions",
            "evicted",
            "changed: without p",
        ),
        ("metrics", "vllm/v1/metrics/loggers.py", "", "", "not found"),
        ("log: memory for the KV cache", WORKER, "Available KV", "Cache:", "not found"),
        ("log: tokens of the KV cache", KV, "KV cache size", "Cache", "not found"),
        ("refusal: max seq len", KV, "model's max seq len", "max seq len of", "no: "),
        ("refusal: max seq len", KV, "max seq len", "length", "not found"),
    ],
)
def test_each_check_can_say_otherwise(source, name, path, part, instead, expected):
    assert row(source({path: (part, instead)}), name).startswith(expected)


def test_options_are_read_off_the_calls_and_the_fields_that_make_the_parser(source):
    found = options(source())
    assert found["enable-prefix-caching"] == Option(
        "enable-prefix-caching", is_flag=True, has_no=True
    )
    assert found["grpc"] == Option("grpc", is_flag=True)
    assert found["block-size"] == found["api-key"].__class__("block-size")
    assert found["quiet"].has_no
    assert literal(source(), "CacheDType") == ("auto", "fp8", "fp8_e5m2")


def test_options_that_we_understand_are_those_that_settings_name():
    assert {"gpu-memory-utilization", "enable-sleep-mode", "load-format"} <= understood_options()


def test_the_page_tells_what_is_not_so_below_the_table(source):
    checks = list(all_checks())
    wrong = table([source({"vllm/config/cache.py": ("0.92", "0.9")})], checks)
    page = markdown([VERSION], wrong, checks, datetime.date(2030, 1, 2))
    assert "Made on 2030-01-02" in page
    assert "| default utilisation | **no** 1 |" in page
    assert "\n1. no: 0.9, ours 0.92\n" in page
    assert "- **default utilisation**: " in page


def test_neighbours_that_are_alike_share_a_column():
    rows = {"a": ["yes", "yes", "no: 1"], "b": ["yes", "yes", "yes"]}
    page = markdown(["0.1", "0.2", "0.3"], rows, [], datetime.date(2030, 1, 2))
    assert "| | 0.1 – 0.2 | 0.3 |" in page
    assert "| a | . | **no** 1 |" in page


def test_the_run_writes_page_and_options_and_leaves_with_2_where_there_is_nothing(tmp_path, capsys):
    write_wheel(tmp_path)
    page, known = tmp_path / "page.md", tmp_path / "options.json"
    asked = ["--wheels", str(tmp_path), "--markdown", str(page), "--options", str(known)]
    assert main([VERSION, "9.9.9", *asked]) == 0
    told = capsys.readouterr()
    assert f"device by UUID\n    yes   ({VERSION})" in told.out
    assert "vLLM 9.9.9: no such wheel" in told.err
    assert page.read_text().startswith("# vLLM's versions")
    assert json.loads(known.read_text())["options"]["grpc"] == ["flag", VERSION, None]
    assert main(["9.9.9", "--wheels", str(tmp_path)]) == 2


def test_the_page_that_is_kept_has_the_rows_of_today():
    page = (ROOT / "docs/vllm-versions.md").read_text()
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")]
    assert rows[1:] == [check.name for check in all_checks()]


def test_what_was_fetched_once_is_read_from_the_cache(tmp_path):
    kept = tmp_path / VERSION / "vllm"
    kept.mkdir(parents=True)
    (kept / "envs.py").write_text("variables = {}\n")
    (tmp_path / VERSION / "whole").touch()
    assert from_registry(VERSION, tmp_path).texts == {"vllm/envs.py": "variables = {}\n"}


def test_the_fakes_options_are_those_that_this_run_writes(source):
    kept = json.loads((ROOT / "tests/fakes/vllm_options.json").read_text())
    written = json.loads(options_file([source()]))
    assert set(kept) == set(written)
    assert kept["options"]["max-num-seqs"] == ["value", "0.8.5.post1", None]
