"""Devices that are not there, and engines that count as built without being built."""

import json

from study.engines.recipes import RECIPES
from tests.fakes.engine import write_engine


class FakeDevice:
    """What a check asks of a device."""

    def __init__(self, kind="cpu", name="a CPU", uuid="cpu-node0", capability=None):
        self.kind, self.name, self.uuid, self.capability = kind, name, uuid, capability
        self.total_bytes = 12 << 30

    def describe(self):
        return {"compute_capability": self.capability}

    def environment(self):
        return {"CUDA_VISIBLE_DEVICES": self.uuid if self.kind == "cuda" else ""}


GTX_1080_TI = FakeDevice("cuda", "NVIDIA GeForce GTX 1080 Ti", "GPU-1080", "6.1")
RTX_3060 = FakeDevice("cuda", "NVIDIA GeForce RTX 3060", "GPU-3060", "8.6")


def finished(home, name, *, recipe=None, **facts):
    """A finished engine, without building it.

    Args:
        home: Where engines are.
        name: Of the recipe.
        recipe: The digest that it was built by; default: the recipe as it is now.
        facts: Of `write_engine`.

    Returns:
        The interpreter's path.
    """
    python = write_engine(home / "engines" / name, **facts)
    marker = {"recipe": recipe or RECIPES[name].digest(), "size_bytes": 123_000_000}
    (home / "engines" / name / "engine.json").write_text(json.dumps(marker))
    return python
