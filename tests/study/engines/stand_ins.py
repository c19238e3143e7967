"""Devices that are not there, and engines that count as built without being built."""

import json

from study.engines.recipes import RECIPES
from tests.fakes.engine import write_engine


class FakeDevice:
    """What a check asks of a device."""

    def __init__(
        self,
        kind="cpu",
        name="a CPU",
        uuid="cpu-node0",
        capability=None,
        driver="580.65.06",
        cuda="13.0",
    ):
        self.kind, self.name, self.uuid = kind, name, uuid
        self.total_bytes = 12 << 30
        self.told = {"compute_capability": capability, "driver": driver, "cuda_driver": cuda}

    def describe(self):
        return self.told if self.kind == "cuda" else {}

    def environment(self):
        return {"CUDA_VISIBLE_DEVICES": "0" if self.kind == "cuda" else ""}


GTX_1080_TI = FakeDevice("cuda", "NVIDIA GeForce GTX 1080 Ti", "GPU-1080", "6.1")
RTX_3060 = FakeDevice("cuda", "NVIDIA GeForce RTX 3060", "GPU-3060", "8.6")
ON_DRIVER_550 = FakeDevice("cuda", RTX_3060.name, "GPU-3060", "8.6", "550.163.01", "12.4")
PASCAL_ON_550 = FakeDevice("cuda", GTX_1080_TI.name, "GPU-1080", "6.1", "550.163.01", "12.4")
V100 = FakeDevice("cuda", "Tesla V100-SXM2-16GB", "GPU-V100", "7.0")


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
