import pytest

from study.engines.find import ENGINE_VARIABLE


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Nothing of this machine's own engines is seen."""
    monkeypatch.delenv(ENGINE_VARIABLE, raising=False)
    monkeypatch.setenv("GPU_ALLOCATION_STUDY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
