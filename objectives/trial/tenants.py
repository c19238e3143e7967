"""Everybody on the device during a trial: neighbours and servers; up in order, proven, gone."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from objectives.candidate import Candidate
from objectives.device import DeviceState
from objectives.errors import BenchError, InfeasibleError, NotReadyError, ServerDiedError
from objectives.kinds import ServerKind, Up
from objectives.load import LoadedServer, Target
from objectives.servers import Port, Present, Server, present, serve
from objectives.trial.attribution import MachineWatch, cause_of_end
from objectives.trial.bench import Bench
from objectives.trial.evidence import Started
from objectives.trial.refusal import judge_refusal
from objectives.units import Scalar
from objectives.vllm import StartupFacts

TRIES = 3
"""How often a server is started before a taken port counts as the bench's fault."""


@dataclass
class Tenants:
    """The tenants of one trial, as far as they are up.

    Attributes:
        bench: What stays the same from trial to trial.
        candidate: The settings of every tuned server.
        folder: Where their logs go.
        step: A `with` block around every start, for the timeline.
        machine: What the machine sees meanwhile.
        before_llm: Called with the language model's server when all are up who start before it.
        worked: Points of the study at which all servers came up.
    """

    bench: Bench
    candidate: Candidate
    folder: Path
    step: Callable[[str], Any]
    machine: MachineWatch
    before_llm: Callable[[str], None] = lambda name: None
    worked: Sequence[Mapping[str, Scalar]] = ()
    _seen: Started = field(init=False, default_factory=Started)
    _neighbours: Present | None = None
    _servers: dict[str, Server] = field(default_factory=dict)
    _keys: dict[str, str] = field(default_factory=dict)
    _ends: dict[str, ExitStack] = field(default_factory=dict)
    _before: dict[str, DeviceState | None] = field(default_factory=dict)
    _unknown: set[str] = field(default_factory=set)

    def started(self) -> Started:
        """Everybody that was started until now."""
        return self._seen

    def _doubt(self, *doubts: str) -> None:
        self._seen = replace(self._seen, doubts=(*self._seen.doubts, *doubts))

    def start(self, stack: ExitStack) -> None:
        """Start everybody, one after the other, in the declared order.

        Args:
            stack: Ends them, in reverse order, when it is closed.

        Raises:
            InfeasibleError: A server refuses for memory, or computes elsewhere than asked.
            BenchError: Something else is wrong.
        """
        device = self.bench.device
        llm = self.bench.serving("llm")
        for who in self.bench.start_order:
            if llm is not None and who == llm.name:
                self.before_llm(who)
            with self.step(f"start {who}"):
                if who == "neighbours":
                    names = [neighbour.name for neighbour in self.bench.neighbours]
                    with self._coming(*names):
                        self._neighbours = stack.enter_context(
                            present(
                                self.bench.neighbours,
                                device_env=device.environment(),
                                device_kind=device.kind,
                                folder=self.folder,
                                by_pid=lambda: device.read().by_pid,
                                around=self._weighed,
                            )
                        )
                    self._doubt(*self._neighbours.doubts)
                else:
                    with self._coming(who):
                        self._start(stack, self.bench.servers[who])
        self._see_all_alive()

    @contextmanager
    def _coming(self, *names: str) -> Iterator[None]:
        """Inside, these are starting: which processes they have is not known yet."""
        self._unknown = {*self._unknown, *names}
        try:
            yield
        finally:
            self._unknown = self._unknown - {*names}

    @contextmanager
    def _weighed(self, name: str, *, elsewhere: bool = False) -> Iterator[DeviceState | None]:
        """Inside, one tenant starts alone: what the GPU has less of afterwards is its.

        A driver that does not tell what our processes hold leaves nothing else to go by. Yields
        the device before it; None on a CPU, where processes tell.
        """
        device = self.bench.device
        before = device.read() if device.kind == "cuda" else None
        yield before
        if before is not None:
            fell = 0 if elsewhere else before.free_bytes - device.read().free_bytes
            if fell > 0 or elsewhere:
                self._seen = replace(self._seen, grown={**self._seen.grown, name: fell})

    def _see_all_alive(self) -> None:
        try:
            self.check()
        except ServerDiedError as error:
            raise self.cause_of_end(error, serving=True) from error

    def may_restart(self, name: str) -> bool:
        """Whether a server was the last to start: nobody else profiled memory beside it."""
        return self.bench.start_order[-1] == name

    def restart(self, stack: ExitStack, name: str) -> StartupFacts | None:
        """End a server, and start it once more; `stack` as for `start`.

        Returns:
            What its log says of the new start; None if it says nothing.
        """
        with self.step(f"start {name} again"):
            self._servers.pop(name)
            self._ends[name].close()
            self._seen = self._seen.without(name)
            with self._coming(name):
                self._start(stack, self.bench.servers[name])
        return self._seen.facts.get(name)

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

    def groups(self) -> dict[str, Callable[[], Collection[int] | None]]:
        """Tenant to what gives its processes now, None while it starts.

        Also for those that are not up yet.
        """
        names = [*self.bench.servers, *(neighbour.name for neighbour in self.bench.neighbours)]
        return {name: partial(self._members, name) for name in names}

    def _members(self, name: str) -> Collection[int] | None:
        if (server := self._servers.get(name)) is not None:
            return server.members()
        if name in self._unknown:
            return None
        if name in self.bench.servers or self._neighbours is None:
            return ()
        return self._neighbours.pids[name]()

    def target(self, role: LoadedServer) -> Target | None:
        """Where requests of the load go; None where nobody answers them."""
        kind = self.bench.serving(role)
        return None if kind is None else kind.target(self.candidate[kind.name], self._up(kind.name))

    def _up(self, name: str) -> Up:
        server = self._servers[name]
        assert server.url is not None, "a tuned server is started with an address"
        return Up(
            url=server.url,
            key=self._keys[name],
            log=server.log,
            members=server.members,
            before=self._before.get(name),
        )

    def _start(self, stack: ExitStack, kind: ServerKind) -> None:
        """Start a server and see where it computes.

        It is tried again where its port was taken, and once more after a profiling race.
        """
        name, settings, device = kind.name, self.candidate[kind.name], self.bench.device
        self._keys[name] = key = secrets.token_urlsafe(24)
        self._servers.pop(name, None)
        elsewhere = kind.device_kind(settings, device) != device.kind
        raced = False
        for attempt in range(TRIES):
            # What this try opened is closed if it fails, and handed to the trial if it does not.
            with ExitStack() as trying:
                port = trying.enter_context(Port())
                launch = kind.launch(
                    settings, device, port=port.number, key=key, log=self._log(name)
                )
                self._seen = replace(self._seen, launches={**self._seen.launches, name: launch})
                try:
                    with self._weighed(name, elsewhere=elsewhere) as self._before[name]:
                        server = trying.enter_context(
                            serve(
                                launch,
                                url=port.url,
                                ready=kind.ready(port.url, key),
                                ready_s=kind.start_s,
                                alive_of_others=self.check,
                            )
                        )
                except (ServerDiedError, NotReadyError) as error:
                    reason = self.cause_of_end(error, serving=error.server != name)
                    more = attempt + 1 < TRIES
                    again = reason.cause == "port_in_use" and more
                    race = reason.cause == "memory_profiling_race" and error.server == name
                    if race and more and not raced:
                        again = raced = True
                        self._doubt(f"memory moved while {name} profiled it; it was started again")
                    if error.server != name or not again:
                        raise reason from error
                    continue
                self._servers[name] = server
                self._ends[name] = stack.enter_context(trying.pop_all())
                break
        self._prove(kind)

    def _prove(self, kind: ServerKind) -> None:
        """Keep what a server says of itself."""
        name, seen = kind.name, self._seen
        proof = kind.prove(self.candidate[name], self.bench.device, self._up(name))
        if proof.health:
            self._seen = replace(self._seen, health={**seen.health, name: proof.health})
        if proof.facts is not None:
            self._seen = replace(self._seen, facts={**seen.facts, name: proof.facts})
        if proof.said:
            self._seen = replace(self._seen, proofs={**self._seen.proofs, name: proof.said})
        self._doubt(*proof.doubts)
        if proof.failure is not None:
            self._see_all_alive()  # else it says nothing because it died
            raise proof.failure

    def cause_of_end(
        self, error: ServerDiedError | NotReadyError, *, serving: bool
    ) -> InfeasibleError | BenchError:
        """What a server's end means for the trial; arguments as `attribution.cause_of_end`."""
        kind = self.bench.servers[error.server]
        reason = cause_of_end(error, self.machine, kind.why_it_ended, serving=serving)
        return judge_refusal(
            reason,
            kind,
            space=self.bench.space,
            params=self.candidate.params,
            worked=self.worked,
        )

    def _log(self, name: str) -> Path:
        tries = sum(log.name.startswith(f"{name}.") for log in self._seen.logs)
        log = self.folder / (f"{name}.log" if not tries else f"{name}.{tries + 1}.log")
        self._seen = replace(self._seen, logs=(*self._seen.logs, log))
        return log
