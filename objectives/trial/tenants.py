"""Everybody on the device during a trial: neighbours, Whisper, vLLM; up in order, proven, gone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from objectives.candidate import Candidate
from objectives.causes import remedy_of
from objectives.constraints import GIB
from objectives.errors import BenchError, NotReadyError, ServerDiedError, WrongDeviceError
from objectives.load import Target
from objectives.servers import Launch, Port, Present, Server, http_json, http_ready, present, serve
from objectives.trial.attribution import MachineWatch, cause_of_end
from objectives.trial.bench import Bench
from objectives.trial.launch import SERVED_NAME, new_key, vllm_launch, whisper_kind, whisper_launch
from objectives.vllm import StartupFacts, lines_of, read_startup

TRIES = 3
"""How often a server is started before a taken port counts as the bench's fault."""

PAGES_EVERY_S = 2.0
"""Between two readings of vLLM's metrics under load, seconds."""


@dataclass
class Tenants:
    """The tenants of one trial, as far as they are up.

    Attributes:
        bench: What stays the same from trial to trial.
        candidate: The settings of both tuned servers.
        folder: Where their logs go.
        allowed_s: Given a start's own limit, the seconds that it may take; raises when the
            trial's time is up.
        step: A `with` block around every start, for the timeline.
        machine: What the machine sees meanwhile.
        launches: Server to how it was started last.
        logs: Every log, those of earlier tries too.
        doubts: What a reader of the trial's figures should know.
        health: What Whisper says of itself.
        started: What vLLM's log says of its start.
    """

    bench: Bench
    candidate: Candidate
    folder: Path
    allowed_s: Callable[[float], float]
    step: Callable[[str], Any]
    machine: MachineWatch
    launches: dict[str, Launch] = field(default_factory=dict)
    logs: list[Path] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    health: Mapping[str, Any] | None = None
    started: StartupFacts | None = None
    _neighbours: Present | None = None
    _servers: dict[str, Server] = field(default_factory=dict)
    _keys: dict[str, str] = field(default_factory=dict)
    _ends: dict[str, ExitStack] = field(default_factory=dict)

    def start(self, stack: ExitStack) -> None:
        """Start everybody, one after the other, in the declared order.

        Args:
            stack: Ends them, in reverse order, when it is closed.

        Raises:
            InfeasibleError: A server refuses for memory, or computes elsewhere than asked.
            BenchError: Something else is wrong.
        """
        for who in self.bench.start_order:
            with self.step(f"start {who}"):
                if who == "neighbours":
                    self._neighbours = stack.enter_context(self._present())
                    self.doubts += self._neighbours.doubts
                elif who == "whisper":
                    self._start(stack, "whisper", whisper_launch, self.bench.whisper_start_s)
                    self._prove_whisper()
                else:
                    self._start(stack, "vllm", vllm_launch, self.bench.vllm_start_s)
                    self._prove_vllm()
        self.check()

    @property
    def may_restart(self) -> bool:
        """Whether vLLM was the last to start: nobody else profiled memory beside it."""
        return self.bench.start_order[-1] == "vllm"

    def restart_vllm(self, stack: ExitStack) -> None:
        """End vLLM, and start it once more.

        Args:
            stack: As for `start`.
        """
        with self.step("start vllm again"):
            self._servers.pop("vllm")
            self._ends["vllm"].close()
            self._start(stack, "vllm", vllm_launch, self.bench.vllm_start_s)
            self._prove_vllm()

    def check(self) -> None:
        """See that all who were started are still there.

        Raises:
            ServerDiedError: A server is not.
            NeighbourError: A neighbour is not.
        """
        for server in self._servers.values():
            server.check()
        if self._neighbours is not None:
            self._neighbours.check()

    def groups(self) -> dict[str, Callable[[], Collection[int]]]:
        """Tenant to what gives its processes now; also for those that are not up yet."""
        names = [neighbour.name for neighbour in self.bench.neighbours]
        tuned = {name: self._members_of(name) for name in ("vllm", "whisper")}
        return {**tuned, **{name: self._neighbour_members_of(name) for name in names}}

    def _members_of(self, name: str) -> Callable[[], Collection[int]]:
        def members() -> Collection[int]:
            server = self._servers.get(name)
            return () if server is None else server.members()

        return members

    def _neighbour_members_of(self, name: str) -> Callable[[], Collection[int]]:
        def members() -> Collection[int]:
            return () if self._neighbours is None else self._neighbours.pids[name]()

        return members

    def target(self, name: str) -> Target:
        """Where requests to a server go."""
        server = self._servers[name]
        assert server.url is not None
        if name == "vllm":
            return Target(
                url=server.url,
                model=SERVED_NAME,
                api_key=self._keys[name],
                pages_every_s=PAGES_EVERY_S,
            )
        return Target(url=server.url, model=self.candidate.whisper.model, api_key=self._keys[name])

    def _present(self) -> Any:  # noqa: ANN401 - the context manager of a generator
        device = self.bench.device
        return present(
            self.bench.neighbours,
            device_env=device.environment(),
            device_kind=device.kind,
            folder=self.folder,
            by_pid=lambda: device.read().by_pid,
        )

    def _start(
        self, stack: ExitStack, name: str, launch_for: Callable[..., Launch], most_s: float
    ) -> None:
        """Start a server; again where its port was taken, once more after a profiling race."""
        self._keys[name] = key = new_key()
        self._servers.pop(name, None)
        raced = False
        for attempt in range(TRIES):
            # What this try opened is closed if it fails, and handed to the trial if it does not.
            with ExitStack() as trying:
                port = trying.enter_context(Port())
                launch = launch_for(
                    self.candidate, self.bench, port=port.number, key=key, log=self._log(name)
                )
                self.launches[name] = launch
                try:
                    server = trying.enter_context(
                        serve(
                            launch,
                            url=port.url,
                            ready=http_ready(port.url, api_key=key),
                            ready_s=self.allowed_s(most_s),
                            alive_of_others=self.check,
                        )
                    )
                except (ServerDiedError, NotReadyError) as error:
                    # A start that was cut short by the trial's own limit is over budget, whatever
                    # its log says.
                    self.allowed_s(most_s)
                    reason = cause_of_end(error, self.machine, serving=error.server != name)
                    again = reason.cause == "port_in_use" and attempt + 1 < TRIES
                    if reason.cause == "memory_profiling_race" and not raced:
                        again = raced = True
                        self.doubts.append(
                            f"memory moved while {name} profiled it; it was started again"
                        )
                    if error.server != name or not again:
                        raise reason from error
                    continue
                self._servers[name] = server
                self._ends[name] = stack.enter_context(trying.pop_all())
                return

    def _log(self, name: str) -> Path:
        tries = sum(log.name.startswith(f"{name}.") for log in self.logs)
        log = self.folder / (f"{name}.log" if not tries else f"{name}.{tries + 1}.log")
        self.logs.append(log)
        return log

    def _prove_whisper(self) -> None:
        """Whisper's own word about the device that it computes on."""
        url = self._servers["whisper"].url
        health = http_json(f"{url}/health", api_key=self._keys["whisper"])
        if not isinstance(health, dict):
            raise BenchError(
                f"whisper's /health says {str(health)[:80]!r}, not what it computes on"
            )
        self.health = health
        asked = whisper_kind(self.candidate, self.bench)
        computed = str(health.get("compute_device") or "")
        if computed.split(":", maxsplit=1)[0] == asked:
            return
        if asked == "cuda" and computed.split(":", maxsplit=1)[0] == "cpu":
            raise WrongDeviceError(
                "cpu_fallback",
                f"whisper computes on {computed} ({health.get('compute_dtype')}), not on {asked}",
                remedy=remedy_of("cpu_fallback", {}, "whisper"),
                excess=_misplaced(health),
            )
        raise BenchError(f"whisper says that it computes on {computed!r}, asked was {asked}")

    def _prove_vllm(self) -> None:
        """VLLM's log says which device holds its KV cache."""
        with self._servers["vllm"].log.open("rb") as stream:
            self.started = read_startup(lines_of(stream))
        found, asked = self.started.device_kind, self.bench.device.kind
        if found is not None and found != asked:
            raise WrongDeviceError(
                "cpu_fallback",
                f"vllm keeps its KV cache on {found}, not on {asked}",
            )
        self._prove_by_driver("vllm")

    def _prove_by_driver(self, name: str) -> None:
        """The driver's process list, where it has one and shows our process ids."""
        if self.bench.device.kind != "cuda":
            return
        listed = set(self.bench.device.read().by_pid)
        ours = set(self._servers[name].members())
        # Not an error: inside a container the driver lists the pids of the host.
        if listed and not listed & ours:
            self.doubts.append(
                f"the driver does not list {name} among the device's processes; in a container "
                "it may list it under another number"
            )


def _misplaced(health: Mapping[str, Any]) -> dict[str, float]:
    """The constraint of a model on the wrong device: its GiB that are not where they belong."""
    held = health.get("parameters_bytes")
    return {"placement_gib": held / GIB} if isinstance(held, int | float) and held > 0 else {}
