"""The whole command with the real vLLM and the real Whisper, on this machine's CPU."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml

from tests.objectives.engine_at_hand import real_engine
from tests.paths import ROOT

pytestmark = pytest.mark.engines
SMALL = {
    "device": "cpu",
    "vllm": {
        "weights": "dummy",
        "dummy": {"layers": 4, "hidden": 128, "heads": 4, "kv_heads": 4, "head_dim": 64},
        "args": {
            "max-model-len": 512,
            "max-num-seqs": 32,
            "enforce-eager": True,
            "enable-prefix-caching": False,
            "distributed-executor-backend": "uni",
        },
        "env": {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"},
        "start_timeout_s": 300,
    },
    "whisper": {"weights": "dummy", "args": {"dtype": "float32", "threads": 1}},
    "search_space": {"vllm_memory_util": [0.30, 0.75], "whisper_model_size": ["tiny"]},
    "baseline": {"vllm_memory_util": 0.30, "whisper_model_size": "tiny"},
    "load": {
        "llm": {"rate_rps": 2, "prompt_tokens": 32, "output_tokens": 8},
        "stt": {"rate_rps": 0.6, "arrivals": "constant", "clip_s": [2], "output_tokens": 4},
        "warmup_s": 3,
        "measure_s": 10,
        "drain_s": 20,
        "quantile": "p50",
    },
    "headroom_gib": 0,
}


@pytest.fixture
def command(tmp_path):
    """The command line of a study of its own."""
    interpreter = str(real_engine().interpreter)

    def command(name, **changes):
        config = tmp_path / f"{name}.yaml"
        engines = {"vllm": interpreter, "whisper": interpreter}
        config.write_text(yaml.safe_dump({**SMALL, "name": name, "engines": engines, **changes}))
        storage = f"sqlite:///{tmp_path}/{name}.db"
        return [sys.executable, "-m", "study.run", str(config), "--storage", storage, "--json"]

    return command


def ended(argv, *, code):
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=900, check=False)
    assert done.returncode == code, done.stderr[-3000:]
    return json.loads(done.stdout)


def engine_processes():
    """Processes of the engines that are alive."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = " ".join(process.info["cmdline"] or [])
        ours = "vllm.entrypoints" in words or "whisper_worker.py" in words or "VLLM::" in words
        if ours and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(words[:100])
    return found


def test_a_candidate_is_measured_on_real_servers_and_a_second_run_has_nothing_left(command):
    argv = command("measured")
    report = ended(argv, code=0)
    measured = next(trial for trial in report["trials"] if trial["state"] == "COMPLETE")
    assert measured["params"] == {"vllm_memory_util": 0.30, "whisper_model_size": "tiny"}
    assert report["weights"] == "dummy"
    assert measured["number"] in report["front"]
    assert all(excess <= 0 for excess in measured["constraints"].values())
    phases = measured["phases_s"]
    assert set(phases) == {"predict", "start", "warmup", "measure", "stop", "other"}
    out = next(t for t in report["trials"] if t["params"]["vllm_memory_util"] == 0.75)
    assert out["infeasible"]["cause"] == "out_of_bounds"
    assert out["infeasible"]["predicted"]
    assert engine_processes() == []
    again = ended(argv, code=0)
    assert len(again["trials"]) == len(report["trials"])


def test_vllm_itself_refuses_where_a_neighbour_takes_the_room_unannounced(command, tmp_path):
    """The neighbour comes up by a command, so arithmetic does not know its size beforehand."""
    node_gib = psutil.virtual_memory().available / 2**30
    held = round(node_gib * 0.62, 2)
    ballast = (
        "import mmap,time\n"
        f"m = mmap.mmap(-1, int({held} * 2**30))\n"
        "for at in range(0, len(m), 4096): m[at] = 1\n"
        f"open({str(tmp_path / 'ready')!r}, 'w').close()\n"
        "time.sleep(1000)\n"
    )
    serve = (
        "import http.server, os, sys, threading\n"
        f"threading.Thread(target=lambda: exec({ballast!r}), daemon=True).start()\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        f"        self.send_response(200 if os.path.exists({str(tmp_path / 'ready')!r}) else 503)\n"
        "        self.end_headers()\n"
        "    def log_message(self, *_): pass\n"
        "http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()\n"
    )
    port = free_port()
    neighbour = {
        "name": "ballast",
        "kind": "command",
        "argv": [sys.executable, "-c", serve, str(port)],
        "url": f"http://127.0.0.1:{port}/",
        "ready_s": 300,
    }
    space = {"vllm_memory_util": [0.60], "whisper_model_size": ["tiny"]}
    report = ended(
        command("refused", neighbours=[neighbour], search_space=space, baseline=None), code=1
    )
    trial = report["trials"][0]
    assert trial["state"] == "PRUNED"
    assert not trial["infeasible"]["predicted"]
    assert trial["infeasible"]["cause"] == "gpu_memory_insufficient_at_start"
    assert "Available memory on node" in trial["infeasible"]["evidence"]
    assert trial["constraints"]["start_memory_gib"] > 0
    assert report["front"] == []
    assert engine_processes() == []


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_run_that_is_killed_in_the_middle_leaves_nothing_and_goes_on(command, tmp_path):
    space = {"vllm_memory_util": [0.30], "whisper_model_size": ["tiny"]}
    argv = command("killed", search_space=space)
    log = tmp_path / "progress"
    with log.open("w") as out:
        run = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=out, cwd=ROOT)
    until = time.monotonic() + 300
    while "start vllm" not in log.read_text() and time.monotonic() < until:
        time.sleep(0.2)
    time.sleep(8)
    assert engine_processes() != []
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    until = time.monotonic() + 30
    while engine_processes() and time.monotonic() < until:
        time.sleep(0.2)
    assert engine_processes() == []
    report = ended(argv, code=0)
    assert [trial["state"] for trial in report["trials"]] == ["FAIL", "COMPLETE"]
