"""One complete setting of every server, and how it becomes a command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from objectives.space import Binding, SearchSpace
from objectives.units import Scalar


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """What one server is started with, apart from its address.

    Attributes:
        model: A name or a path, as the server takes it.
        device: `cuda:N`, a GPU's UUID, or `cpu`.
        args: Options without leading dashes; True is a bare flag, None is left out.
        env: Environment variables of this server alone.
    """

    model: str
    device: str
    args: Mapping[str, Scalar | None] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)

    def options(self, *, negated: bool = False) -> tuple[str, ...]:
        """The options as a command line has them, in a fixed order.

        Args:
            negated: The server knows `--no-OPTION`; if not, what is False is left out.
        """
        words: list[str] = []
        for key, value in self.args.items():
            if value is None or (value is False and not negated):
                continue
            words.append(f"--no-{key}" if value is False else f"--{key}")
            if not isinstance(value, bool):
                words.append(_text(value))
        return tuple(words)

    def with_value(self, binding: Binding, value: Scalar) -> ServerSettings:
        """These settings with one parameter's value in its place."""
        if binding.kind == "args":
            return replace(self, args={**self.args, binding.key: value})
        if binding.kind == "env":
            return replace(self, env={**self.env, binding.key: _text(value)})
        if binding.kind == "model":
            return replace(self, model=str(value))
        return replace(self, device=str(value))


def _text(value: Scalar) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One complete setting of every server.

    Attributes:
        params: The point of the space.
        servers: Server to its settings.
    """

    params: Mapping[str, Scalar]
    servers: Mapping[str, ServerSettings]

    @classmethod
    def lay(
        cls, space: SearchSpace, params: Mapping[str, Scalar], fixed: Mapping[str, ServerSettings]
    ) -> Candidate:
        """Lay a point of the space over the fixed settings of every server."""
        servers, spelt = dict(fixed), space.spelt(params)
        for name, value in spelt.items():
            binding = space[name].binding
            servers[binding.server] = servers[binding.server].with_value(binding, value)
        return cls(params=spelt, servers=servers)

    def __getitem__(self, server: str) -> ServerSettings:
        return self.servers[server]
