"""A free port that stays free until its server listens there."""

from __future__ import annotations

import socket


class Port:
    """A port of the loopback interface, held from `with` to its end, without listening.

    The holder is bound with SO_REUSEADDR and SO_REUSEPORT. A server that sets either of them, as
    vLLM, uvicorn, asyncio and `http.server` do, may bind and listen on the same number; the kernel
    gives that number to nobody who asks for any free port; and a stranger who asks for it by
    number, without those options, is refused. Connections reach only who listens.

    Raises: OSError on entering, if no port is free.
    """

    def __init__(self) -> None:
        self._holder: socket.socket | None = None

    def __enter__(self) -> Port:
        holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                holder.setsockopt(socket.SOL_SOCKET, option, 1)
            holder.bind(("127.0.0.1", 0))
        except BaseException:
            holder.close()
            raise
        self._holder = holder
        return self

    def __exit__(self, *_error: object) -> None:
        if self._holder is not None:
            self._holder.close()
            self._holder = None

    @property
    def number(self) -> int:
        """Raises: RuntimeError, outside of its `with` block."""
        if self._holder is None:
            raise RuntimeError("a port has a number only inside its `with` block")
        return int(self._holder.getsockname()[1])

    @property
    def url(self) -> str:
        """`http://127.0.0.1:<number>`, without a slash at its end."""
        return f"http://127.0.0.1:{self.number}"
