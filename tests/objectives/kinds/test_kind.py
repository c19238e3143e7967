"""The contract of a kind: what every kind does, and a kind of a few lines that runs a trial."""

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from objectives.candidate import Candidate, ServerSettings
from objectives.device.cpu import CpuNode
from objectives.device.cuda import all_devices
from objectives.diagnosis.decision import Ended
from objectives.diagnosis.diagnosis import DeviceEvidence
from objectives.errors import BenchError
from objectives.kinds.forecast import Forecast, ServerMemory
from objectives.kinds.kind import Proof, ServerKind, Up
from objectives.load.exchange import Target
from objectives.memory.estimate import given
from objectives.servers.http_get import http_json
from objectives.servers.server import Launch
from tests.fakes.fake_nvml import FakeNvml
from tests.kinds import VLLM, WHISPER
from tests.objectives.diagnosis.failing_logs import OOM, READY, engine_died, lines
from tests.objectives.trial.test_bench import SPACE
from tests.serving_bench import GIB, FakeBench

optuna.logging.set_verbosity(optuna.logging.WARNING)

KEY = "k3y"
BOTH = pytest.mark.parametrize("kind", [VLLM, WHISPER], ids=lambda kind: kind.name)


@contextmanager
def gpu_of(gpu):
    """The device that a fake NVML has."""
    with FakeNvml(gpu).installed():
        yield all_devices()[0][0]


def launched(kind, folder, settings=None, *, device=None, key=KEY):
    """How a kind starts its own settings, or these."""
    where = {"port": 8123, "key": key, "log": folder / "server.log"}
    return kind.launch(settings or kind.settings, device or CpuNode(), **where)


def up_at(url, folder, said="", *, pids=()):
    """A server that answers there and whose log says this."""
    log = folder / "server.log"
    log.write_text(said)
    return Up(url=url, key=KEY, log=log, members=lambda: pids)


class Answering:
    """A server that gives one answer to every GET, and keeps who asked for what."""

    def __init__(self, body, *, status=200):
        asked = self.asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append((self.path, self.headers["Authorization"]))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_):
                pass

        self._listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._listener.server_port}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown()
        self._thread.join()
        self._listener.server_close()


class TestEveryKind:
    @BOTH
    def test_has_its_key_in_the_environment_and_never_on_the_command_line(self, tmp_path, kind):
        launch = launched(kind, tmp_path, key="k3y-of-this-trial")
        assert "k3y-of-this-trial" not in " ".join(launch.argv)
        assert [name for name, value in launch.env.items() if value == "k3y-of-this-trial"] == [
            f"{kind.name.upper()}_API_KEY"
        ]

    @BOTH
    def test_puts_a_candidates_variables_before_the_engines_but_not_before_the_key(
        self, tmp_path, kind
    ):
        own = {"DO_NOT_TRACK": "0", "VLLM_API_KEY": "mine", "WHISPER_API_KEY": "mine"}
        launch = launched(kind, tmp_path, replace(kind.settings, env=own))
        assert launch.env["DO_NOT_TRACK"] == "0"
        assert launch.env[f"{kind.name.upper()}_API_KEY"] == KEY

    @BOTH
    def test_finds_the_programs_and_the_cache_of_its_own_engine(self, tmp_path, kind):
        env = launched(kind, tmp_path).env
        assert env["PATH"].startswith(f"/engines/{kind.engine.name}/bin:")
        assert env["TRITON_CACHE_DIR"] == f"/caches/{kind.engine.name}/triton"

    @BOTH
    def test_gives_the_studys_own_environment_on_only_where_that_is_listed(
        self, tmp_path, monkeypatch, kind
    ):
        monkeypatch.setenv("LD_PRELOAD", "/lib/x.so")
        monkeypatch.setenv("HF_HOME", "/models/hub")
        env = launched(kind, tmp_path).env
        assert "LD_PRELOAD" not in env
        assert env["HF_HOME"] == "/models/hub"

    @pytest.mark.parametrize(
        ("kind", "words"), [(VLLM, {"0.25", "0.5"}), (WHISPER, {"tiny", "base"})]
    )
    def test_launches_two_points_alike_in_all_that_does_not_vary(self, tmp_path, kind, words):
        fixed = {"vllm": VLLM.settings, "whisper": WHISPER.settings}
        one, other = (
            launched(kind, tmp_path, Candidate.lay(SPACE, point, fixed)[kind.name])
            for point in (
                {"utilisation": 0.25, "size": "tiny"},
                {"utilisation": 0.5, "size": "base"},
            )
        )
        assert set(one.argv) ^ set(other.argv) == words
        assert len(one.argv) == len(other.argv)
        assert replace(one, argv=()) == replace(other, argv=())

    @BOTH
    def test_leaves_variables_of_one_server_to_that_one(self, tmp_path, kind):
        fixed = {
            "vllm": replace(VLLM.settings, env={"VLLMS": "1"}),
            "whisper": replace(WHISPER.settings, env={"WHISPERS": "1"}),
        }
        env = launched(kind, tmp_path, fixed[kind.name]).env
        assert [name for name in ("VLLMS", "WHISPERS") if name in env] == [f"{kind.name.upper()}S"]

    @BOTH
    @pytest.mark.parametrize(("status", "is_ready"), [(200, True), (503, False)])
    def test_is_ready_once_its_health_answers_with_success(self, kind, status, is_ready):
        with Answering("whatever", status=status) as server:
            assert kind.ready(server.url, KEY)() is is_ready
            assert server.asked == [("/health", f"Bearer {KEY}")]

    @BOTH
    def test_is_not_ready_where_nobody_listens(self, kind):
        assert not kind.ready("http://127.0.0.1:1", KEY)()

    @BOTH
    def test_says_by_its_log_why_it_ended(self, kind):
        said = lines(READY, engine_died("execute_model", error=OOM, serving=True))
        diagnosis = kind.why_it_ended(said.splitlines(), Ended(returncode=1), DeviceEvidence())
        assert diagnosis.cause == "cuda_oom_serving"


@pytest.mark.parametrize(
    ("contract", "name"),
    [
        (ServerKind, "launch"),
        (ServerKind, "prove"),
        (ServerKind, "target"),
        (ServerMemory, "forecast"),
    ],
)
def test_a_kind_that_lacks_a_part_of_the_contract_cannot_be_made(contract, name):
    parts = {part: lambda self: None for part in contract.__abstractmethods__ - {name}}
    lacking = type("Lacking", (contract,), parts)
    with pytest.raises(TypeError, match=rf"Lacking.*abstract method '?{name}\b"):
        lacking()
    assert contract.__abstractmethods__ <= {"launch", "prove", "target", "forecast"}


PROGRAM = """
import json, os, pathlib, sys, threading, time
from http.server import BaseHTTPRequestHandler, HTTPServer
port, size_bytes, end = int(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3])
held = b"x" * size_bytes
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"dimensions": 384, "pid": os.getpid()}).encode())
def leave():
    while not end.exists():
        time.sleep(0.01)
    os._exit(3)
threading.Thread(target=leave, daemon=True).start()
print("embeds", flush=True)
HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
HELD_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class EmbedderMemory(ServerMemory):
    """It holds what its files say."""

    held_bytes: int

    def forecast(self, settings, moment):
        return Forecast(held=given(self.held_bytes, "its files"))


@dataclass(frozen=True, kw_only=True)
class EmbedderKind(ServerKind):
    """A server that no load reaches; it ends once there is a file `end`."""

    end: str

    def launch(self, settings, device, *, port, key, log):
        argv = (str(self.engine.interpreter), "-Ic", PROGRAM, str(port), str(HELD_BYTES), self.end)
        env = self.engine.environment(device.kind, offline=True) | {"EMBEDDER_API_KEY": key}
        return Launch(name=self.name, argv=argv, env={**env, **settings.env}, log=log)

    def prove(self, settings, device, server):
        health = http_json(f"{server.url}/health", api_key=server.key)
        return Proof(health=health, doubts=("nobody asked it for an embedding",))

    def target(self, settings, server):
        return Target(url=server.url, model=settings.model, api_key=server.key)


@pytest.fixture
def fakes(tmp_path):
    """A bench of fake servers with one more, which starts before vLLM."""

    def fakes(one_more):
        fakes = FakeBench(tmp_path / "bench")
        bench = fakes.bench
        server = one_more(bench)
        order = ("neighbours", "whisper", server.name, "vllm")
        bench = replace(bench, servers={**bench.servers, server.name: server}, start_order=order)
        fakes.bench = fakes.objective.bench = bench
        fakes.objective.on_phase = lambda step: (fakes.steps.append(step), seen(fakes, step))
        return fakes

    yield fakes
    left = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert [line for line in left if "resource_tracker" not in line] == []


def seen(fakes, step):
    """The load of these trials is over before the watcher looks again for new processes."""
    while step == "warmup" and not fakes.bench.servers.keys() <= (
        fakes.objective.stages.holding()["by_tenant"].keys()
    ):
        time.sleep(0.01)


class TestAKindThatNobodyKnew:
    @pytest.fixture
    def embedded(self, fakes, tmp_path):
        def embedded(held_bytes=HELD_BYTES):
            return fakes(
                lambda bench: EmbedderKind(
                    name="embedder",
                    engine=bench.servers["vllm"].engine,
                    settings=ServerSettings(model="e5", device="cpu", env={"LAYERS": "6"}),
                    memory=EmbedderMemory(held_bytes=held_bytes),
                    start_s=30.0,
                    end=str(tmp_path / "end"),
                )
            )

        return embedded

    def test_runs_a_whole_trial_and_everything_of_it_is_kept(self, embedded):
        fakes = embedded()
        trial = fakes.judge()
        assert trial.state == TrialState.COMPLETE
        attrs = trial.user_attrs
        assert set(attrs["settings"]) == {"vllm", "whisper", "embedder"}
        assert attrs["settings"]["embedder"]["argv"][2] == PROGRAM
        assert attrs["settings"]["embedder"]["env"]["LAYERS"] == "6"
        assert attrs["health"]["embedder"]["dimensions"] == 384
        assert attrs["footprint"]["embedder"]["predicted"] == {
            "held_bytes": HELD_BYTES,
            "held_source": "given",
            "sources": {},
            "excess_gib": {},
            "margin_gib": {},
        }
        assert "logged" not in attrs["footprint"]["embedder"]
        assert attrs["tenants_bytes"]["embedder"] > HELD_BYTES
        assert "nobody asked it for an embedding" in attrs["doubts"]
        assert fakes.files[trial.number]["embedder.log"].startswith(b"embeds\n")
        starts = [step for step in fakes.steps if step.startswith("start ")]
        assert starts == [f"start {who}" for who in fakes.bench.start_order]
        assert fakes.bench.servers["embedder"].role is None, "no load was sent to it"
        assert attrs["measurement"]["llm"]["failed"] == attrs["measurement"]["stt"]["failed"] == 0

    def test_has_a_key_that_is_not_stored(self, embedded):
        env = embedded().judge().user_attrs["settings"]["embedder"]["env"]
        assert [name for name in env if "KEY" in name] == []

    def test_takes_its_forecast_off_what_vllm_finds(self, embedded):
        fakes = embedded(held_bytes=18 * GIB)
        trial = fakes.judge()
        assert trial.state == TrialState.PRUNED
        said = trial.user_attrs["infeasible"]
        assert (said["cause"], said["predicted"]) == ("gpu_memory_insufficient_at_start", True)
        assert trial.constraints["start_memory_gib"] == pytest.approx(18 + 24 * 0.15 - 20, abs=1)
        assert "settings" not in trial.user_attrs, "nothing was launched"
        assert fakes.files.get(trial.number, {}) == {}
        assert trial.user_attrs["footprint"]["embedder"]["predicted"]["held_bytes"] == 18 * GIB

    def test_that_dies_under_load_is_named(self, embedded, tmp_path):
        def die(step):
            fakes.steps.append(step)
            if step == "measure":
                (tmp_path / "end").touch()
                while any(PROGRAM in child.cmdline() for child in living()):
                    time.sleep(0.01)

        fakes = embedded()
        fakes.objective.on_phase = die
        trial = fakes.judge(catch=(BenchError,))
        assert trial.state == TrialState.FAIL
        error = trial.user_attrs["error"]
        assert "embedder" in error["message"]
        assert "embedder.log" in fakes.files[trial.number]
        assert "infeasible" not in trial.user_attrs


def living():
    """All that this process started, and that is not over."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.status() != psutil.STATUS_ZOMBIE]


class TestASecondVllm:
    @pytest.fixture
    def two(self, fakes):
        def two(utilisation=0.10):
            def second(bench):
                vllm = bench.servers["vllm"]
                args = {**vllm.settings.args, "gpu-memory-utilization": utilisation}
                return replace(vllm, name="vllm2", settings=replace(vllm.settings, args=args))

            return fakes(second)

        return two

    def test_starts_is_proven_and_forecast_under_its_own_name(self, two):
        fakes = two()
        trial = fakes.judge(vllm_memory_util=0.15)
        assert trial.state == TrialState.COMPLETE
        attrs = trial.user_attrs
        assert {"vllm.log", "vllm2.log"} <= set(fakes.files[trial.number])
        assert "0.1" in attrs["settings"]["vllm2"]["argv"]
        assert "0.15" in attrs["settings"]["vllm"]["argv"]
        assert attrs["tenants_bytes"]["vllm2"] > 0
        first, second = attrs["footprint"]["vllm"], attrs["footprint"]["vllm2"]
        assert 0 < second["logged"]["kv_cache_tokens"] < first["logged"]["kv_cache_tokens"]
        assert second["logged"]["device_kind"] == "cpu"
        for each, share in ((first, 0.15), (second, 0.10)):
            assert each["predicted"]["requested_bytes"] == pytest.approx(24 * GIB * share, rel=0.01)
        tokens = first["logged"]["kv_cache_tokens"]
        assert attrs["measurement"]["capacity"]["kv_cache_tokens"] == tokens
        assert set(attrs["health"]) == {"whisper"}

    def test_takes_its_share_off_what_the_first_one_finds(self, two):
        fakes = two(0.90)
        trial = fakes.judge(vllm_memory_util=0.20)
        assert trial.state == TrialState.PRUNED
        assert trial.user_attrs["infeasible"]["predicted"]
        predicted = trial.user_attrs["footprint"]
        assert trial.user_attrs["infeasible"]["cause"] == "gpu_memory_insufficient_at_start"
        assert not predicted["vllm"]["predicted"]["fits"]
        assert fakes.files.get(trial.number, {}) == {}
