"""`python -m study.fit`: will it fit?"""

import json
import subprocess
import sys

import pytest

from study.fit.__main__ import main
from tests.objectives.models.published_shapes import (
    BERT_BASE,
    QWEN2_5_7B,
    QWEN2_5_7B_AWQ,
    QWEN3_6_27B,
    QWEN3_6_35B_A3B,
    WHISPER_TURBO,
)
from tests.paths import ROOT


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "Qwen2.5-7B-Instruct-AWQ"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN2_5_7B_AWQ))
    return folder


@pytest.fixture
def ask(model, capsys):
    """The seeds' card, model and known sizes, and whatever else is asked."""

    def run(*options, known=True):
        sizes = ["--weights-gib", "5.2", "--overhead-gib", "0.242"] if known else []
        argv = ["--model", str(model), "--device-total-gib", "11.63", "--max-model-len", "2048"]
        code = main([*argv, *sizes, *map(str, options)])
        return code, capsys.readouterr().out

    return run


def test_the_seeds_case_is_answered_as_production_logged_it(ask):
    code, out = ask("--utilization", 0.5, "--json")
    document = json.loads(out)
    assert code == 0
    assert document["fits"] is True
    assert document["cause"] is None
    assert document["kv_cache_tokens"] == 6976
    assert document["max_concurrency"] == pytest.approx(3.41, abs=0.005)


@pytest.mark.parametrize("utilization", [0.40, 0.45])
def test_what_died_in_production_is_refused_with_the_cause(ask, utilization):
    code, out = ask("--utilization", utilization, "--json")
    document = json.loads(out)
    assert code == 1
    assert document["cause"] == "kv_cache_no_blocks"
    assert document["kv_cache_tokens"] == 0
    assert document["excess_bytes"] > 0


@pytest.mark.parametrize("whisper", ["tiny", "base", "small"])
@pytest.mark.parametrize("utilization", [0.55, 0.60])
def test_more_fits_beside_every_whisper(ask, utilization, whisper):
    options = ("--utilization", utilization, "--whisper", whisper, "--device-free-gib", 10.39)
    code, out = ask(*options, "--json")
    document = json.loads(out)
    assert code == 0
    assert document["excess_bytes"] < 0
    assert document["footprint"]["whisper_bytes"] > 0


def test_the_document_has_every_key_that_is_promised(ask):
    document = json.loads(ask("--utilization", 0.5, "--json")[1])
    promised = {
        "fits": bool,
        "kv_cache_bytes": int,
        "kv_cache_tokens": int,
        "max_concurrency": float,
        "excess_bytes": int,
    }
    assert all(type(document[key]) is kind for key, kind in promised.items())
    assert {
        "weights_bytes",
        "activation_bytes",
        "non_torch_bytes",
        "graph_bytes",
        "kv_cache_bytes",
    } <= set(document["footprint"])


def test_several_utilisations_make_a_list_and_one_that_fits_is_enough(ask):
    code, out = ask("--utilization", "0.40,0.45", "--utilization", 0.5, "--json")
    document = json.loads(out)
    assert code == 0
    assert [entry["fits"] for entry in document["candidates"]] == [False, False, True]
    assert ask("--utilization", "0.40,0.45")[0] == 1


def test_people_get_the_verdict_the_bar_the_break_even_and_advice(ask):
    _, out = ask("--utilization", 0.6, "--vllm-version", "0.11.0", known=False)
    assert "It fits" in out
    assert "[WWW" in out
    assert "Break-even utilisation: 0.5708" in out
    assert "--max-num-seqs 32 buys" in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_weights_are_read_from_the_files_beside_the_configuration(ask, model):
    header = json.dumps({"w": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 5 << 30]}})
    content = len(header).to_bytes(8, "little") + header.encode()
    (model / "model.safetensors").write_bytes(content)
    document = json.loads(ask("--utilization", 0.6, "--json", known=False)[1])
    assert document["figures"]["weights"]["source"] == "read"
    assert document["footprint"]["weights_bytes"] == 5 << 30


def test_bytes_become_tokens_when_nothing_else_is_held(model, capsys):
    argv = ["--model", str(model / "config.json"), "--device-total-gib", "0.37", "--json"]
    argv += ["--utilization", "1", "--weights-gib", "0", "--overhead-gib", "0"]
    assert main([*argv, "--max-model-len", "2048"]) == 0
    assert json.loads(capsys.readouterr().out)["kv_cache_tokens"] == 6928


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--model", "/nowhere"], "/nowhere: No such file"),
        (["--max-model-len", "long"], "--max-model-len: 'long' is no count"),
        (["--device-free-gib", "12"], "--device-free-gib 12 is more than"),
        (["--whisper", "huge"], "'huge' is none of tiny"),
        (["--kv-cache-dtype", "nvfp4"], "'nvfp4'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(model, capsys, options, told):
    argv = ["--model", str(model), "--device-total-gib", "11.63", *options]
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["study.yaml", "--model", "x"],
        ["--model", "x", "--utilization", "1.5"],
        ["--model", "x", "--utilization", "x"],
        ["--model", "x", "--device-total-gib", "0"],
        ["--model", "x", "--weights-gib", "-1"],
    ],
)
def test_bad_usage_exits_with_two(options, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(options)
    assert exit_.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_a_model_that_the_arithmetic_does_not_describe_is_refused_with_the_reason(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "num_layers": 12}))
    assert main(["--model", str(tmp_path), "--device-total-gib", "24"]) == 2
    err = capsys.readouterr().err
    assert "cannot tell, because t5 is an encoder-decoder" in err
    assert err.count("\n") == 1


def test_without_numbers_the_device_that_is_there_is_read(model, capsys):
    code = main(["--model", str(model), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert code in (0, 1)
    assert 0 < document["device"]["free_bytes"] <= document["device"]["total_bytes"]
    assert document["device"]["name"]


def test_a_study_is_predicted_whole_against_the_live_device(capsys):
    code = main([str(ROOT / "study/configs/cpu.yaml"), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert len(document["candidates"]) == 15
    assert code == (0 if document["fits"] else 1)
    assert all("vllm_memory_util" in entry["params"] for entry in document["candidates"])


def test_nothing_heavy_is_imported_to_answer():
    """What makes the answer come within a second from the shell."""
    code = (
        "import sys, study.fit\n"
        "heavy = {'optuna', 'pandas', 'numpy', 'pydantic', 'plotly', 'matplotlib', 'torch'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "examples:" in capsys.readouterr().out


@pytest.fixture
def fit(tmp_path, capsys):
    """A configuration on a device of so many GiB, as JSON or as people read it."""

    def run(config, total, *options, as_json=True):
        (tmp_path / "config.json").write_text(json.dumps(config))
        argv = ["--model", str(tmp_path), "--device-total-gib", str(total), *map(str, options)]
        code = main([*argv, "--json"] if as_json else argv)
        out = capsys.readouterr().out
        return code, json.loads(out) if as_json else " ".join(out.split())

    return run


def test_a_hybrid_is_answered_with_its_states(fit):
    """44.73 GiB are printed as 1,407,894 tokens by 0.27.1 on two devices."""
    options = ("--max-model-len", 65536, "--tensor-parallel-size", 2, "--overhead-gib", 2.49)
    options += ("--weights-gib", 25.69, "--vllm-version", "0.27.1", "--max-num-seqs", 64)
    code, document = fit(QWEN3_6_27B, 79.25, *options)
    assert code == 0
    assert document["kv_cache_tokens"] == pytest.approx(1_407_894, rel=0.002)
    _, text = fit(QWEN3_6_27B, 79.25, *options, as_json=False)
    assert "for a recurrent state of each of 64 requests" in text
    assert "64 layers, 48 keep 0.07 GiB of state for each sequence, 4 KV heads x 256" in text


def test_more_requests_than_states_are_refused_with_the_number_that_fits(fit):
    options = ("--weights-gib", 65.5, "--max-model-len", 8192, "--vllm-version", "0.24.0")
    code, document = fit(QWEN3_6_35B_A3B, 79.18, *options, "--overhead-gib", 1.8)
    assert code == 1
    assert (document["cause"], document["certain"]) == ("kv_cache_too_small", True)
    assert document["remedy"] == "Lower --max-num-seqs to 275."
    options += ("--max-num-seqs", 275)
    assert fit(QWEN3_6_35B_A3B, 79.18, *options, "--overhead-gib", 1.8)[0] == 0


def test_cached_prefixes_cost_a_second_state(fit):
    def served(*options):
        known = ("--weights-gib", 50, "--overhead-gib", 2, "--max-num-seqs", 16)
        return fit(QWEN3_6_27B, 79.18, *known, *options)[1]["max_concurrency"]

    assert served("--no-enable-prefix-caching") > served() == served("--enable-prefix-caching")


def test_an_encoder_is_answered_by_weights_and_the_start_check(fit):
    code, document = fit(BERT_BASE, 11.63)
    assert code == 0
    assert (document["kv_cache_bytes"], document["needed_bytes"]) == (0, 0)
    assert document["break_even"] is None
    _, text = fit(BERT_BASE, 11.63, as_json=False)
    assert "an encoder, which keep no KV cache" in text
    assert "It fits: no KV cache is kept" in text
    code, document = fit(BERT_BASE, 11.63, "--device-free-gib", 5)
    assert (code, document["cause"]) == (1, "gpu_memory_insufficient_at_start")


def test_a_whisper_on_vllm_is_answered_and_says_what_is_not_in_the_numbers(fit):
    code, document = fit(WHISPER_TURBO, 24, "--utilization", 0.5)
    assert code == 0
    assert document["footprint"]["weights_bytes"] == pytest.approx(0.809e9 * 2, rel=0.01)
    _, text = fit(WHISPER_TURBO, 24, "--utilization", 0.5, as_json=False)
    assert "1,500 tokens of sound kept for each request" in text
    assert "Not in these numbers: what the encoder takes while it serves." in text


def test_a_model_beyond_the_card_is_never_told_to_raise_the_utilisation(fit):
    _, text = fit(QWEN2_5_7B, 11.63, as_json=False)
    assert "Break-even utilisation: none for the first block" in text
    assert "No --gpu-memory-utilization is enough on this device" in text
    assert "aise --gpu-memory-utilization" not in text


def test_a_name_is_looked_for_in_the_hubs_cache(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    argv = ["--model", "Qwen/Qwen2.5-7B", "--device-total-gib", "24", "--max-model-len", "2048"]
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert f"nor a model in the hub's cache ({tmp_path / 'hub'})" in err
    assert "hf download Qwen/Qwen2.5-7B config.json" in err
    assert err.count("\n") == 1
    model = tmp_path / "hub" / "models--Qwen--Qwen2.5-7B"
    (model / "snapshots" / "abc").mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("abc")
    (model / "snapshots" / "abc" / "config.json").write_text(json.dumps(QWEN2_5_7B))
    assert main(argv) == 0
    assert capsys.readouterr().out.startswith("Qwen/Qwen2.5-7B: 28 layers")
