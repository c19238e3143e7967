"""Everybody on the device during a trial: up in order, proven, and gone.

Most servers here are programs of a few lines that say what the test wants said; those of
`FakeBench` stand for the rest.
"""

import json
import os
import re
import signal
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest

from objectives.candidate import Candidate, ServerSettings
from objectives.device.xid import XidWatch
from objectives.errors import (
    BenchError,
    InfeasibleError,
    NeighbourError,
    OutOfMemoryError,
    PortInUseError,
    ProfilingRaceError,
    RefusedToStartError,
    ServerDiedError,
    WrongDeviceError,
)
from objectives.kinds.kind import ServerKind
from objectives.kinds.vllm_kind import PAGES_EVERY_S
from objectives.servers.engine import Engine
from objectives.servers.http_get import http_json
from objectives.servers.neighbours import Hold, Running
from objectives.space import SearchSpace
from objectives.trial.attribution import MachineWatch
from objectives.trial.tenants import Tenants
from objectives.units import GIB
from tests.objectives.diagnosis.failing_logs import OOM, RACE, READY, START, engine_died, lines
from tests.objectives.servers.test_neighbours import somebody
from tests.objectives.trial.test_bench import bench_with
from tests.objectives.trial.test_stages import Card
from tests.serving_bench import FakeBench

MIB = 1 << 20
PROGRAM = """#!{python} -IS
import contextlib, pathlib, socket, sys, time
starts = pathlib.Path(__file__).with_name("starts")
with starts.open("a") as file:
    file.write("once more\\n")
told = {told!r}
says, health, sleeps_s = told[min(len(starts.read_text().splitlines()), len(told)) - 1]
print(says, flush=True)
time.sleep(sleeps_s)
if health is None:
    sys.exit(1)
listener = socket.create_server(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])))
while True:
    asked, _ = listener.accept()
    with asked, contextlib.suppress(OSError):  # who asked may have gone
        asked.recv(1 << 16)
        asked.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + health.encode())
"""
ON_GPU = "INFO [kv_cache_utils.py:716] GPU KV cache size: 6,976 tokens"
ON_CPU = ON_GPU.replace("GPU", "CPU")
TAKEN = "OSError: [Errno 98] Address already in use"
ITS_ON_CPU = '{"compute_device": "cpu"}'
HANGS_S = 10.0
"""Longer than any test waits."""


class Listing(Card):
    """A card whose driver lists whoever there is when it is asked."""

    def __init__(self):
        super().__init__()
        self.listed = dict

    def read(self):
        return replace(self.state, by_pid=self.listed())


def a_start(says="", *, health="{}", sleeps_s=0.0):
    """A server that prints `says` and answers every GET with `health`; without, it ends instead."""
    return says, health, sleeps_s


def refusal(says, *, after_s=0.0):
    """A server that ends before it answers."""
    return a_start(says, health=None, sleeps_s=after_s)


def engine_that(folder, *starts):
    """An engine whose servers do one start after the other as told, then always the last."""
    folder.mkdir(parents=True)
    program = folder / "python"
    program.write_text(PROGRAM.format(python=sys.executable, told=starts))
    program.chmod(0o755)
    return Engine(name="told", interpreter=program, cache=folder, python_version="3")


def vllm_bench(folder, *starts, **changes):
    """A bench of nobody but vLLM."""
    engine = engine_that(folder / "vllm", *starts)
    return bench_with(**{"start_order": ("vllm",), "vllm_engine": engine, **changes})


def tenants_of(bench, folder, *, after=None, steps=None, **more):
    """Tenants that nobody has started; `after` has what happens as a step ends."""

    @contextmanager
    def step(name):
        told.append(name)
        yield
        (after or {}).get(name, lambda: None)()

    told = [] if steps is None else steps
    point = {"vllm_memory_util": 0.15, "whisper_model_size": "tiny"}
    return Tenants(
        bench=bench,
        candidate=Candidate.lay(bench.space, point, bench.settings),
        folder=folder,
        step=step,
        machine=MachineWatch(bench.device, XidWatch(bench.device)),
        **more,
    )


@pytest.fixture
def stack():
    """Ends everybody; nobody is left when a test is over."""
    with ExitStack() as stack:
        yield stack
    lines = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert [line for line in lines if "resource_tracker" not in line] == []


def logs(tenants):
    return [log.name for log in tenants.started().logs]


def end(pids):
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def until_noticed(tenants, kind=BenchError):
    """What `check` raises once it has noticed."""
    for _ in range(6000):
        try:
            tenants.check()
        except BenchError as error:
            if isinstance(error, kind):
                return error
        time.sleep(0.005)
    raise AssertionError("nobody noticed")


@pytest.fixture(scope="class")
def up(tmp_path_factory):
    """Everybody, started in an order of its own."""
    folder = tmp_path_factory.mktemp("up")
    bench = FakeBench(
        folder,
        changes={
            "start_order": ("vllm", "neighbours", "whisper"),
            "neighbours": [Hold(name="ollama", bytes_=8 * MIB)],
        },
    ).bench
    steps = []
    tenants = tenants_of(bench, folder, steps=steps)
    groups = tenants.groups()
    before = {name: list(pids()) for name, pids in groups.items()}
    with ExitStack() as stack:
        tenants.start(stack)
        yield SimpleNamespace(
            bench=bench, tenants=tenants, steps=steps, groups=groups, before=before
        )


class TestEverybodyUp:
    def test_they_start_in_the_declared_order(self, up):
        assert up.steps == ["start vllm", "start neighbours", "start whisper"]
        assert logs(up.tenants) == ["vllm.log", "whisper.log"]
        assert list(up.tenants.started().launches) == ["vllm", "whisper"]

    def test_before_the_start_every_tenant_has_a_name_and_no_process(self, up):
        assert up.before == {"vllm": [], "whisper": [], "ollama": []}

    def test_who_asked_before_the_start_sees_the_processes_after_it(self, up):
        now = {name: list(pids()) for name, pids in up.groups.items()}
        lines = {
            name: [" ".join(psutil.Process(pid).cmdline()) for pid in pids]
            for name, pids in now.items()
        }
        assert any("fake_vllm.py" in line for line in lines["vllm"])
        assert any("fake_whisper.py" in line for line in lines["whisper"])
        assert any("hold_memory.py" in line for line in lines["ollama"])
        assert len({pid for pids in now.values() for pid in pids}) == sum(map(len, now.values()))

    def test_all_of_them_are_there(self, up):
        up.tenants.check()
        assert up.tenants.started().doubts == ()

    @pytest.mark.parametrize(("role", "name"), [("llm", "vllm"), ("stt", "whisper")])
    def test_requests_go_to_who_was_started_and_carry_its_key(self, up, role, name):
        target, launch = up.tenants.target(role), up.tenants.started().launches[name]
        assert target.url.endswith(":" + launch.argv[launch.argv.index("--port") + 1])
        assert target.api_key == launch.env[f"{name.upper()}_API_KEY"]
        served = http_json(f"{target.url}/v1/models", api_key=target.api_key)
        assert [model["id"] for model in served["data"]] == [target.model]

    def test_only_vllm_has_a_metrics_page(self, up):
        assert up.tenants.target("llm").pages_every_s == PAGES_EVERY_S
        assert up.tenants.target("stt").pages_every_s is None

    def test_the_keys_are_not_the_same(self, up):
        assert up.tenants.target("llm").api_key != up.tenants.target("stt").api_key

    def test_both_servers_words_about_themselves_are_kept(self, up):
        started = up.tenants.started()
        assert started.facts["vllm"].kv_cache_tokens > 0
        assert started.facts["vllm"].device_kind == "cpu"
        assert started.health["whisper"]["compute_device"] == "cpu"
        assert started.health["whisper"]["model"] == "tiny"
        assert (list(started.facts), list(started.health)) == (["vllm"], ["whisper"])


@pytest.mark.parametrize(
    ("order", "may"),
    [
        (("neighbours", "whisper", "vllm"), ["vllm"]),
        (("vllm", "neighbours", "whisper"), ["whisper"]),
        (("whisper", "vllm", "neighbours"), []),
    ],
)
def test_a_server_may_start_again_only_where_nobody_started_after_it(tmp_path, order, may):
    tenants = tenants_of(bench_with(start_order=order), tmp_path)
    assert [name for name in ("vllm", "whisper") if tenants.may_restart(name)] == may


@pytest.mark.parametrize(
    ("order", "steps"),
    [
        (
            ("neighbours", "whisper", "vllm"),
            ["start neighbours", "start whisper", "before vllm", "start vllm"],
        ),
        (
            ("neighbours", "vllm", "whisper"),
            ["start neighbours", "before vllm", "start vllm", "start whisper"],
        ),
        (("neighbours", "whisper"), ["start neighbours", "start whisper"]),
    ],
    ids=["last", "in between", "not at all"],
)
def test_who_waits_for_the_language_models_server_is_called_once_right_before_it(
    tmp_path, monkeypatch, order, steps
):
    bench = bench_with(start_order=order)
    servers = {name: kind for name, kind in bench.servers.items() if name in order}
    parameters = tuple(p for p in bench.space.parameters if p.binding.server in order)
    bench = replace(bench, servers=servers, space=SearchSpace(parameters))
    seen = []
    tenants = tenants_of(
        bench, tmp_path, steps=seen, before_llm=lambda name: seen.append(f"before {name}")
    )
    monkeypatch.setattr(Tenants, "_start", lambda *_: None)
    with ExitStack() as stack:
        tenants.start(stack)
    assert seen == steps


def test_where_nobody_answers_no_request_goes(tmp_path):
    bench = bench_with()
    only = replace(bench, servers={"vllm": bench.servers["vllm"]}, start_order=("vllm",))
    tenants = tenants_of(replace(only, space=SearchSpace(only.space.parameters[:1])), tmp_path)
    assert tenants.target("stt") is None
    assert set(tenants.groups()) == {"vllm"}


class TestWhoLeft:
    def test_it_is_named_and_in_the_end_nobody_is_there(self, tmp_path, stack):
        bench = bench_with(
            whisper_engine=engine_that(tmp_path / "w", a_start(health=ITS_ON_CPU)),
            vllm_engine=engine_that(tmp_path / "v", a_start(ON_CPU)),
            neighbours=[Hold(name="ollama", bytes_=8 * MIB)],
        )
        tenants = tenants_of(bench, tmp_path)
        groups = tenants.groups()
        tenants.start(stack)
        end(groups["ollama"]())
        left = until_noticed(tenants)
        assert type(left) is NeighbourError
        assert "ollama" in str(left)
        end(groups["whisper"]())
        left = until_noticed(tenants, ServerDiedError)
        assert (left.server, left.log) == ("whisper", tmp_path / "whisper.log")
        assert list(groups["vllm"]()) != []
        stack.close()
        assert {name: list(pids()) for name, pids in groups.items()} == {
            name: [] for name in ("vllm", "whisper", "ollama")
        }

    @pytest.mark.parametrize(
        ("said", "kind", "cause"),
        [
            (
                lines(READY, engine_died("execute_model", error=OOM, serving=True)),
                OutOfMemoryError,
                "cuda_oom_serving",
            ),
            (TAKEN, PortInUseError, "port_in_use"),
        ],
        ids=["out of memory", "a port"],
    )
    def test_a_server_that_dies_while_the_next_one_starts_is_not_mistaken_for_it(
        self, tmp_path, stack, said, kind, cause
    ):
        def die():
            with (tmp_path / "whisper.log").open("a") as log:
                log.write(said)
            end(tenants.groups()["whisper"]())

        bench = bench_with(
            start_order=("whisper", "vllm"),
            whisper_engine=engine_that(tmp_path / "w", a_start(health=ITS_ON_CPU)),
            vllm_engine=engine_that(tmp_path / "v", refusal(TAKEN, after_s=HANGS_S)),
        )
        tenants = tenants_of(bench, tmp_path, after={"start whisper": die})
        with pytest.raises(kind) as caught:
            tenants.start(stack)
        assert caught.value.cause == cause
        assert caught.value.__cause__.server == "whisper"
        assert logs(tenants) == ["whisper.log", "vllm.log"]

    @pytest.mark.parametrize(
        ("said", "kind", "cause"),
        [
            ("", BenchError, "engine_dead_other"),
            (
                lines(READY, engine_died("execute_model", error=OOM, serving=True)),
                OutOfMemoryError,
                "cuda_oom_serving",
            ),
        ],
        ids=["without a word", "out of memory"],
    )
    def test_who_leaves_as_the_last_one_is_up_is_missed_and_the_cause_is_told(
        self, tmp_path, stack, said, kind, cause
    ):
        def leave():
            with (tmp_path / "vllm.log").open("a") as log:
                log.write(said)
            end(tenants.groups()["vllm"]())
            until_noticed(tenants)

        tenants = tenants_of(vllm_bench(tmp_path, a_start()), tmp_path, after={"start vllm": leave})
        with pytest.raises((BenchError, InfeasibleError)) as caught:
            tenants.start(stack)
        assert type(caught.value) is kind
        assert caught.value.cause == cause
        assert isinstance(caught.value.__cause__, ServerDiedError)
        assert str(caught.value.__cause__) == "vllm was ended by signal 9"


class TestATakenPort:
    def test_it_is_tried_again_with_a_log_of_its_own(self, tmp_path, stack):
        tenants = tenants_of(vllm_bench(tmp_path, refusal(TAKEN), a_start(ON_CPU)), tmp_path)
        tenants.start(stack)
        started = tenants.started()
        assert {log.name: log.read_text() for log in started.logs} == {
            "vllm.log": f"{TAKEN}\n",
            "vllm.2.log": f"{ON_CPU}\n",
        }
        assert started.launches["vllm"].log == started.logs[1]
        assert started.facts["vllm"].kv_cache_tokens == 6976
        assert started.doubts == ()

    def test_it_is_tried_three_times_at_most(self, tmp_path, stack):
        bench = bench_with(
            start_order=("whisper",), whisper_engine=engine_that(tmp_path / "w", refusal(TAKEN))
        )
        tenants = tenants_of(bench, tmp_path)
        with pytest.raises(PortInUseError):
            tenants.start(stack)
        assert logs(tenants) == ["whisper.log", "whisper.2.log", "whisper.3.log"]
        assert [log.read_text() for log in tenants.started().logs] == [f"{TAKEN}\n"] * 3
        assert list(tenants.groups()["whisper"]()) == []


class TestAProfilingRace:
    DOUBT = "memory moved while vllm profiled it; it was started again"

    def test_vllm_starts_once_more_and_that_is_a_doubt(self, tmp_path, stack):
        bench = vllm_bench(tmp_path, refusal(TAKEN), refusal(RACE), a_start(ON_CPU))
        tenants = tenants_of(bench, tmp_path)
        tenants.start(stack)
        assert tenants.started().doubts == (self.DOUBT,)
        assert logs(tenants) == ["vllm.log", "vllm.2.log", "vllm.3.log"]
        assert tenants.started().facts["vllm"].kv_cache_tokens == 6976

    def test_a_second_one_is_the_benchs_fault(self, tmp_path, stack):
        tenants = tenants_of(vllm_bench(tmp_path, refusal(RACE)), tmp_path)
        with pytest.raises(ProfilingRaceError) as caught:
            tenants.start(stack)
        assert caught.value.cause == "memory_profiling_race"
        assert tenants.started().doubts == (self.DOUBT,)
        assert logs(tenants) == ["vllm.log", "vllm.2.log"]

    def test_a_first_one_on_the_last_try_is_the_benchs_fault_too(self, tmp_path, stack):
        bench = vllm_bench(tmp_path, refusal(TAKEN), refusal(TAKEN), refusal(RACE), a_start(ON_CPU))
        tenants = tenants_of(bench, tmp_path)
        with pytest.raises(ProfilingRaceError) as caught:
            tenants.start(stack)
        assert caught.value.cause == "memory_profiling_race"
        assert tenants.started().doubts == (), "it was not started again"
        assert tenants.started().facts == {}
        assert logs(tenants) == ["vllm.log", "vllm.2.log", "vllm.3.log"]
        assert list(tenants.groups()["vllm"]()) == []


class TestWhispersOwnWord:
    @pytest.fixture
    def prove(self, tmp_path, stack):
        """A Whisper that says `health` of itself, asked to be on `device`."""

        def prove(health, device="cuda"):
            said = health if isinstance(health, str) else json.dumps(health)
            bench = bench_with(
                device=Card(),
                start_order=("whisper",),
                whisper_engine=engine_that(tmp_path / "w", a_start(health=said)),
                whisper=ServerSettings(model="tiny", device=device),
            )
            tenants = tenants_of(bench, tmp_path)
            try:
                tenants.start(stack)
            except (BenchError, WrongDeviceError) as error:
                return error, tenants
            return None, tenants

        return prove

    @pytest.mark.parametrize("device", ["cuda:0", "cpu"])
    def test_it_computes_where_it_was_asked_to(self, prove, device):
        health = {"compute_device": device, "parameters_bytes": 7, "uuid": Card.uuid}
        error, tenants = prove(health, device.partition(":")[0])
        assert error is None
        started = tenants.started()
        assert started.health == {"whisper": health}
        assert ("UUID" in started.proofs["whisper"]) == (device != "cpu")
        assert started.grown == ({"whisper": 0} if device == "cpu" else {})

    def test_another_gpu_is_the_benchs_fault(self, prove):
        error, _ = prove({"compute_device": "cuda:0", "uuid": "GPU-2", "device_name": "T4"})
        assert type(error) is BenchError
        assert str(error) == "whisper computes on T4 (GPU-2), not on card"

    @pytest.mark.parametrize(
        ("held", "excess"),
        [
            ({"parameters_bytes": 3 * GIB}, {"placement_gib": 3.0}),
            ({"parameters_bytes": GIB // 4}, {"placement_gib": 0.25}),
            ({"parameters_bytes": 0}, {}),
            ({"parameters_bytes": "many"}, {}),
            ({}, {}),
        ],
    )
    def test_a_fallback_is_graded_by_what_is_not_where_it_belongs(self, prove, held, excess):
        error, _ = prove({"compute_device": "cpu", "compute_dtype": "float32", **held})
        assert type(error) is WrongDeviceError
        assert error.cause == "cpu_fallback"
        assert error.evidence == "whisper computes on cpu (float32), not on cuda"
        assert error.excess == excess
        assert error.remedy
        assert not error.predicted

    def test_what_it_said_is_kept_although_it_computes_elsewhere(self, prove):
        health = {"compute_device": "cpu", "compute_dtype": "float32"}
        _, tenants = prove(health)
        assert tenants.started().health == {"whisper": health}

    @pytest.mark.parametrize(
        ("health", "device", "said"),
        [
            (["ok"], "cuda", "/health says \"['ok']\", not what it computes on"),
            ("17", "cuda", "/health says '17', not what it computes on"),
            ({}, "cuda", "says that it computes on '', asked was cuda"),
            ({"compute_device": None}, "cuda", "says that it computes on '', asked was cuda"),
            ({"compute_device": "mps"}, "cuda", "computes on 'mps', asked was cuda"),
            ({"compute_device": "cuda:0"}, "cpu", "computes on 'cuda:0', asked was cpu"),
        ],
    )
    def test_any_other_word_is_the_benchs_fault(self, prove, health, device, said):
        error, _ = prove(health, device)
        assert type(error) is BenchError
        assert said in str(error)


class TestVllmsOwnWord:
    def test_a_kv_cache_on_another_device_is_the_candidates_fault(self, tmp_path, stack):
        tenants = tenants_of(vllm_bench(tmp_path, a_start(ON_GPU)), tmp_path)
        with pytest.raises(WrongDeviceError) as caught:
            tenants.start(stack)
        assert caught.value.cause == "cpu_fallback"
        assert caught.value.evidence == "vllm keeps its KV cache on cuda, not on cpu"
        assert caught.value.remedy

    def test_what_its_log_said_is_kept_although_its_cache_is_elsewhere(self, tmp_path, stack):
        tenants = tenants_of(vllm_bench(tmp_path, a_start(ON_GPU)), tmp_path)
        with pytest.raises(WrongDeviceError):
            tenants.start(stack)
        assert tenants.started().facts["vllm"].kv_cache_tokens == 6976

    def test_a_log_that_names_no_device_is_believed(self, tmp_path, stack):
        tenants = tenants_of(vllm_bench(tmp_path, a_start()), tmp_path)
        tenants.start(stack)
        assert tenants.started().facts["vllm"].device_kind is None

    def test_a_vllm_that_starts_again_is_another_one_and_is_proven_again(self, tmp_path, stack):
        card, steps = Listing(), []
        smaller = ON_GPU.replace("6,976", "6,000")
        bench = vllm_bench(
            tmp_path,
            *(a_start(said) for said in (ON_GPU, ON_GPU, smaller)),
            device=card,
        )
        tenants = tenants_of(bench, tmp_path, steps=steps)
        group = tenants.groups()["vllm"]
        card.listed = lambda: dict.fromkeys([os.getpid(), *(group() or ())], GIB)
        tenants.start(stack)
        assert tenants.started().doubts == (), "the driver lists it among others"
        before, first, key = tenants.started(), list(group()), tenants.target("llm").api_key

        assert tenants.started().proofs["vllm"].startswith("the driver lists its process ")

        card.listed = dict
        facts = tenants.restart(stack, "vllm")
        (doubt,) = tenants.started().doubts
        assert "does not list vllm" in doubt, "nor does it say what it loaded"
        assert tenants.started().proofs == {}, "what proved the first one proves no other"
        assert not any(map(psutil.pid_exists, first))
        assert tenants.target("llm").api_key != key
        assert re.fullmatch(r"[\w-]{32,}", key, re.ASCII), "it can stand in a header"
        assert facts == tenants.started().facts["vllm"]
        assert facts.kv_cache_tokens == 6976

        card.listed = lambda: {os.getpid(): GIB}
        facts = tenants.restart(stack, "vllm")
        *_, doubt = tenants.started().doubts
        assert "does not list vllm" in doubt
        assert facts == tenants.started().facts["vllm"]
        assert facts.kv_cache_tokens == 6000
        assert before.facts["vllm"].kv_cache_tokens == 6976, "what was seen then does not change"
        assert steps == ["start vllm", "start vllm again", "start vllm again"]
        assert logs(tenants) == ["vllm.log", "vllm.2.log", "vllm.3.log"]
        tenants.check()


class Loading(Card):
    """A card that has less memory free once a file is there, and lists nobody."""

    def __init__(self, file, size_bytes):
        super().__init__()
        self.file, self.size_bytes = file, size_bytes

    def read(self):
        taken = self.size_bytes if self.file.exists() else 0
        return replace(self.state, free_bytes=self.state.free_bytes - taken)


class TestWhereNoProcessIsListed:
    LOADED = f"INFO Model loading took 5.2035 GiB and 41.1 seconds\n{ON_GPU}"

    @pytest.fixture
    def start(self, tmp_path, stack):
        """A vLLM that says that it loaded 5.2 GiB; the study's card has so much less."""

        def start(size_bytes):
            card = Loading(tmp_path / "vllm/starts", size_bytes)
            tenants = tenants_of(vllm_bench(tmp_path, a_start(self.LOADED), device=card), tmp_path)
            tenants.start(stack)
            return tenants

        return start

    def test_what_the_card_has_less_of_is_the_servers_and_its_proof(self, start):
        started = start(6 * GIB).started()
        assert started.grown == {"vllm": 6 * GIB}
        assert started.proofs == {
            "vllm": "free memory of card fell by 6.00 GiB as it loaded 5.20 GiB"
        }
        assert started.doubts == ()

    def test_a_card_that_has_as_much_as_before_is_another_one(self, start):
        with pytest.raises(BenchError, match=r"vllm is not on card: .* while it loaded 5\.20 GiB"):
            start(0)


def test_while_a_server_starts_its_processes_are_unknown_and_then_they_are_there(
    tmp_path, stack, monkeypatch
):
    seen = []
    real = ServerKind.ready

    def ready(kind, url, key):
        seen.append(groups["vllm"]())
        return real(kind, url, key)

    monkeypatch.setattr(ServerKind, "ready", ready)
    tenants = tenants_of(vllm_bench(tmp_path, a_start(ON_CPU)), tmp_path)
    groups = tenants.groups()
    tenants.start(stack)
    assert seen == [None]
    assert len(groups["vllm"]()) >= 1


class TestAStartThatFails:
    def test_for_want_of_memory_it_refused_and_is_not_tried_again(self, tmp_path, stack):
        tenants = tenants_of(vllm_bench(tmp_path, refusal(START)), tmp_path)
        with pytest.raises(RefusedToStartError) as caught:
            tenants.start(stack)
        assert caught.value.cause == "gpu_memory_insufficient_at_start"
        assert logs(tenants) == ["vllm.log"]
        assert tenants.started().doubts == ()

    def test_after_its_own_limit_it_is_given_up(self, tmp_path, stack):
        bench = vllm_bench(tmp_path, refusal("", after_s=HANGS_S), vllm_start_s=0.2)
        tenants = tenants_of(bench, tmp_path)
        with pytest.raises(BenchError) as caught:
            tenants.start(stack)
        assert caught.value.cause == "timeout_hang"


class TestNeighbours:
    @pytest.fixture
    def start(self, tmp_path, stack):
        """A neighbour that must hold a GiB, where the driver lists so much of it."""

        def start(pid, word, listed):
            card = Card()
            card.list_processes({} if listed is None else {pid: listed})
            must = Running(name="ollama", match=word, min_bytes=GIB)
            bench = bench_with(device=card, start_order=("neighbours",), neighbours=[must])
            tenants = tenants_of(bench, tmp_path)
            tenants.start(stack)
            return tenants

        return start

    def test_what_the_driver_tells_of_them_is_held_against_what_they_must_hold(self, start):
        with somebody() as (word, pid):
            tenants = start(pid, word, GIB)
            assert tenants.started().doubts == ()
            assert list(tenants.groups()["ollama"]()) == [pid]
            with pytest.raises(NeighbourError, match="ollama holds"):
                start(pid, word, GIB // 2)

    def test_what_could_not_be_established_about_them_is_a_doubt(self, start):
        with somebody() as (word, pid):
            (doubt,) = start(pid, word, None).started().doubts
        assert "what neighbour ollama holds is not known" in doubt
