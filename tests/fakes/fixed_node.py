"""A CPU's memory node that has the same size everywhere, whatever runs beside the tests.

python -m tests.fakes.fixed_node FOLDER [OPTION ...]    `python -m study.run` on such a node
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from objectives.device import discovery
from objectives.device.cpu import CpuNode
from tests.fakes.fake_machine import GIB, FakeMachine

TOTAL_BYTES = 24 * GIB
FREE_BYTES = 20 * GIB


def fixed_node(folder: Path) -> CpuNode:
    """A node that is read from files below `folder`."""
    machine = FakeMachine(folder)
    machine.processor()
    machine.memory(total=TOTAL_BYTES, available=FREE_BYTES)
    machine.node(0, total=TOTAL_BYTES, free=FREE_BYTES)
    machine.nodes_with_memory("0")
    return CpuNode(root=folder)


def main() -> int:
    """The command, on a fixed node."""
    from study.run import main as run

    folder, *argv = sys.argv[1:]
    fixed_node(Path(folder))
    discovery.CpuNode = partial(CpuNode, root=Path(folder))  # type: ignore[misc, assignment]
    return run(argv)


if __name__ == "__main__":
    sys.exit(main())
