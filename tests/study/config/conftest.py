from types import SimpleNamespace

import pytest
import yaml

from objectives import device


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """The machine has no GPU; the list holds every device that it was asked for."""
    return _machine(monkeypatch, "cpu")


@pytest.fixture
def gpu(asked, monkeypatch):
    """The machine has a GPU."""
    return _machine(monkeypatch, "cuda")


def _machine(monkeypatch, kind):
    specs = []

    def open_device(spec):
        specs.append(spec)
        return SimpleNamespace(kind=kind)

    monkeypatch.setattr(device, "open_device", open_device)
    return specs


@pytest.fixture
def write(tmp_path):
    def write(content, name="box.yaml"):
        path = tmp_path / name
        path.write_text(
            content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
        )
        return path

    return write
