"""The fake vLLM refuses what the version that it plays refuses, and in that version's words."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from objectives.diagnosis import diagnose

FAKES = Path(__file__).resolve().parent
FIRST = "GPU-30600000-0000-0000-0000-000000000000"


def refused(tmp_path, version, *options, **env):
    """Exit code and log of a start that is over in seconds."""
    env = {"PATH": os.environ["PATH"], "FAKE_STYLE": f"gpu-{version}"} | env
    argv = (sys.executable, FAKES / "fake_vllm.py", "--port", "0", *options)
    with (tmp_path / "log").open("w") as log:
        done = subprocess.run(argv, env=env, stdout=log, stderr=log, timeout=20, check=False)
    return done.returncode, (tmp_path / "log").read_text()


def starts(version, *options, **env):
    """Whether it comes so far as to serve."""
    env = {"PATH": os.environ["PATH"], "FAKE_STYLE": f"gpu-{version}"} | env
    env["FAKE_DIE_AFTER_S"], env["FAKE_CRASH_CODE"] = "0.01", "7"
    argv = (sys.executable, FAKES / "fake_vllm.py", "--port", "0", *options)
    argv += ("--gpu-memory-utilization", "0.6")
    done = subprocess.run(argv, env=env, capture_output=True, timeout=20, check=False)
    return done.returncode == 7


@pytest.mark.parametrize("version", ["0.8.5", "0.11.0", "0.19.1", "0.23.0"])
@pytest.mark.parametrize("named", [FIRST, "MIG-1-2-3"])
def test_up_to_0_23_a_device_has_an_index_and_nothing_else(tmp_path, version, named):
    code, log = refused(tmp_path, version, CUDA_VISIBLE_DEVICES=named)
    assert code == 1
    assert f"ValueError: invalid literal for int() with base 10: '{named}'" in log
    assert "failed to be inspected. Please check the logs" in log.splitlines()[-1]


@pytest.mark.parametrize("version", ["0.11.0", "0.23.0", "0.24.0", "0.33.0"])
def test_every_version_takes_an_index(version):
    assert starts(version, CUDA_VISIBLE_DEVICES="1")


def test_from_0_24_on_a_uuid_does_if_there_is_such_a_device(tmp_path):
    assert starts("0.24.0", CUDA_VISIBLE_DEVICES=FIRST)
    code, log = refused(tmp_path, "0.24.0", CUDA_VISIBLE_DEVICES="GPU-elsewhere")
    assert code == 1
    assert "NVMLError_NotFound" in log


def test_an_index_beyond_the_machine_is_no_device(tmp_path):
    code, log = refused(tmp_path, "0.11.0", CUDA_VISIBLE_DEVICES="7")
    assert code == 1
    assert "NVMLError_InvalidArgument" in log


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("0.12.0", "Tensor parallel size (2) cannot be larger than the number of available GPUs"),
        ("0.13.0", "World size (2) is larger than the number of available GPUs (1) in this node"),
        ("0.33.0", "World size (2) is larger than the number of available GPUs (1) in this node"),
    ],
)
def test_two_devices_are_not_taken_out_of_one(tmp_path, version, words):
    code, log = refused(tmp_path, version, "--tensor-parallel-size=2", CUDA_VISIBLE_DEVICES="0")
    assert code == 1
    assert words in log
    assert starts(version, "--tensor_parallel_size", "2", CUDA_VISIBLE_DEVICES="0,1")


def test_0_11_brings_ray_and_waits_for_a_second_device(tmp_path):
    with pytest.raises(subprocess.TimeoutExpired):
        argv = (sys.executable, FAKES / "fake_vllm.py", "--port", "0", "-tp", "2")
        env = {"FAKE_STYLE": "gpu-0.11", "CUDA_VISIBLE_DEVICES": "0"}
        subprocess.run(argv, env=env, stdout=subprocess.DEVNULL, timeout=2, check=False)


def test_an_fp8_cache_needs_a_card_that_has_it(tmp_path):
    fp8 = ("--kv-cache-dtype", "fp8")
    code, log = refused(tmp_path, "0.11.0", *fp8, CUDA_VISIBLE_DEVICES="0")
    assert code == 1
    assert "type fp8e4nv not supported in this architecture" in log
    on_ada = {"CUDA_VISIBLE_DEVICES": "0", "FAKE_DEVICE_CAPABILITY": "8.9"}
    assert starts("0.11.0", *fp8, **on_ada)
    assert starts("0.12.0", *fp8, CUDA_VISIBLE_DEVICES="0")
    without = {"CUDA_VISIBLE_DEVICES": "0", "FAKE_NO_FLASHINFER": "1"}
    assert (
        "FP8 KV cache is not supported by the Triton"
        in refused(tmp_path, "0.33.0", *fp8, **without)[1]
    )


def test_sleep_mode_does_not_stand_expandable_segments_until_0_20(tmp_path):
    env = {"CUDA_VISIBLE_DEVICES": "0", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    code, log = refused(tmp_path, "0.19.1", "--enable-sleep-mode", **env)
    assert code == 1
    assert "AssertionError: Expandable segments are not compatible with memory pool" in log
    assert starts("0.19.1", **env)
    assert starts("0.20.2", "--enable-sleep-mode", **env)


@pytest.mark.parametrize(
    ("version", "option"),
    [
        ("0.8.5", "--kv-cache-memory-bytes=1"),
        ("0.17.1", "--disable-log-requests"),
        ("0.11.0", "--no-max-num-seqs"),
        ("0.33.0", "--max-num-sequences"),
        ("0.33.0", "--swap-space=4"),
    ],
)
def test_an_option_that_the_version_has_not_is_refused_as_argparse_does(tmp_path, version, option):
    code, log = refused(tmp_path, version, option, "4", CUDA_VISIBLE_DEVICES="0")
    assert code == 2
    assert f"api_server.py: error: unrecognized arguments: {option}" in log


@pytest.mark.parametrize(
    ("version", "options"),
    [
        ("0.11.0", ("--kv-cache-memory-bytes=4000000000", "--no-enable-prefix-caching")),
        ("0.11.0", ("--disable-log-requests", "--swap-space", "4", "-tp", "1")),
        ("0.33.0", ("--served-model-name", "a", "b", "--max-num-seq", "8")),
    ],
)
def test_an_option_that_the_version_has_is_taken(version, options):
    assert starts(version, *options, CUDA_VISIBLE_DEVICES="0")


@pytest.mark.parametrize(
    ("version", "banner", "loaded"),
    [
        ("0.9.2", "INFO", "Model loading took 5.1699 GiB and"),
        ("0.11.0", "(APIServer pid=", "Model loading took 5.1699 GiB and"),
        ("0.13.0", "(APIServer pid=", "Model loading took 5.1699 GiB memory and"),
        ("0.14.1", "(APIServer pid=", "Model loading took 5.17 GiB memory and"),
    ],
)
def test_a_start_is_told_in_the_words_of_the_version(tmp_path, version, banner, loaded):
    env = {"CUDA_VISIBLE_DEVICES": "0", "FAKE_REFUSE": "kv_cache_too_small"}
    _, log = refused(tmp_path, version, **env)
    assert log.startswith(banner)
    assert loaded in log
    assert diagnose(log.splitlines()).cause == "kv_cache_too_small"
