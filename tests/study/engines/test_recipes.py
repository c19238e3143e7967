"""Recipes say what they make, how large it is, and for which GPUs, drivers and Pythons."""

import sys
from dataclasses import replace

import pytest

from objectives.errors import UsageError
from objectives.servers.compute_capability import Gpu
from study.engines.recipes import RECIPES, recipe_for, recipe_named, refusal

RTX_3060 = Gpu(name="RTX 3060", capability=(8, 6), driver="580.65.06", cuda=(13, 0))
ON_550 = replace(RTX_3060, driver="550.163.01", cuda=(12, 4))
PASCAL_ON_550 = replace(ON_550, name="GTX 1080 Ti", capability=(6, 1))
V100 = replace(RTX_3060, name="V100", capability=(7, 0))
B200_ON_570 = replace(RTX_3060, name="B200", capability=(10, 0), driver="570.124.06", cuda=(12, 8))


@pytest.fixture(autouse=True)
def python_3_12(monkeypatch):
    """Whatever runs the tests."""
    monkeypatch.setattr(sys, "version_info", (3, 12, 3))


def test_there_is_one_for_each_kind_of_device_that_serves_both():
    both = ("vllm", "whisper")
    assert RECIPES["cpu"].roles == RECIPES["cuda"].roles == RECIPES["cuda12"].roles == both


class TestWhichIsBuilt:
    @pytest.mark.parametrize(
        ("gpu", "name"),
        [
            (RTX_3060, "cuda"),
            (ON_550, "cuda12"),
            (B200_ON_570, "cuda12"),
            (V100, "cuda12"),  # vLLM's newer wheels have no code for it
            (Gpu(), "cuda"),  # nothing is told
            (None, "cuda"),
        ],
    )
    def test_for_both_the_one_that_driver_and_gpu_can_run(self, gpu, name):
        assert recipe_for("vllm", "cuda", gpu).name == name
        assert recipe_for("whisper", "cuda", gpu).name == name

    @pytest.mark.parametrize(
        ("gpu", "name"),
        [
            (RTX_3060, "whisper"),
            (ON_550, "whisper-cuda12"),
            (V100, "whisper-cuda12"),
            (PASCAL_ON_550, "whisper-pascal"),
        ],
    )
    def test_for_whisper_beside_a_vllm_nothing_but_whisper(self, gpu, name):
        assert recipe_for("whisper", "cuda", gpu, alone=True).name == name

    def test_whisper_has_one_on_a_card_that_no_vllm_serves(self):
        assert recipe_for("whisper", "cuda", PASCAL_ON_550).name == "whisper-pascal"

    def test_on_a_cpu_there_is_one(self):
        assert recipe_for("whisper", "cpu", None, alone=True).name == "cpu"


class TestDrivers:
    def test_an_older_driver_is_refused_with_what_it_runs_and_both_ways_out(self):
        said = refusal(RECIPES["cuda"], ON_550)
        assert "is built for CUDA 13, and driver 550.163.01 runs CUDA 12.4 and older" in said
        assert "update the driver to 580 or newer; or build cuda12 instead" in said
        assert said.endswith("python -m study.engines build --recipe cuda12")

    def test_a_machine_with_a_pascal_card_is_not_led_past_its_last_driver(self):
        said = refusal(RECIPES["cuda"], replace(ON_550, legacy="NVIDIA GeForce GTX 1080 Ti"))
        assert "update the driver to 580, not to 590 or newer" in said
        assert "leave out the NVIDIA GeForce GTX 1080 Ti" in said

    @pytest.mark.parametrize(
        ("name", "instead"), [("whisper", "whisper-cuda12"), ("cuda", "cuda12")]
    )
    def test_the_recipe_that_serves_the_same_is_offered(self, name, instead):
        assert f"build {instead} instead" in refusal(RECIPES[name], ON_550)

    def test_the_drivers_cuda_decides_for_a_compatibility_library_raises_it(self):
        assert refusal(RECIPES["cuda"], replace(ON_550, cuda=(13, 0))) is None

    def test_its_number_decides_where_it_tells_no_cuda(self):
        assert "not CUDA 13" in refusal(RECIPES["cuda"], replace(ON_550, cuda=None))
        assert refusal(RECIPES["cuda"], replace(RTX_3060, cuda=None)) is None

    def test_one_that_is_older_than_every_recipe_can_only_be_updated(self):
        ancient = replace(ON_550, driver="470.256.02", cuda=(11, 4))
        said = refusal(RECIPES["cuda12"], ancient)
        assert said.endswith("not CUDA 12: update the driver to 525 or newer")


class TestGpus:
    def test_an_older_one_is_refused_before_anything_is_downloaded_with_the_remedy(self):
        said = refusal(RECIPES["cuda"], Gpu(capability=(6, 1)))
        assert "compute capability 6.1 (sm_61)" in said
        assert "needs 7.5 or higher" in said
        assert "for Whisper, build whisper-pascal instead" in said
        assert said.endswith("vLLM needs another GPU")

    def test_a_v100_is_led_to_the_recipe_that_serves_both(self):
        assert "build cuda12 instead" in refusal(RECIPES["cuda"], V100)
        assert "vLLM needs another GPU" not in refusal(RECIPES["cuda"], V100)

    def test_one_that_no_recipe_serves_is_refused_without_false_hope(self):
        assert "choose another device" in refusal(RECIPES["cuda"], Gpu(capability=(3, 5)))

    @pytest.mark.parametrize("capability", [(7, 5), (8, 6), (9, 0), (12, 0), None])
    def test_one_that_is_new_enough_or_unknown_is_not_refused(self, capability):
        assert refusal(RECIPES["cuda"], Gpu(capability=capability)) is None

    def test_the_pascal_recipe_serves_the_gtx_1080_ti(self):
        assert refusal(RECIPES["whisper-pascal"], PASCAL_ON_550) is None


@pytest.mark.parametrize("name", ["cuda12", "whisper-pascal"])
def test_a_python_without_packages_is_refused_with_those_that_have_them(monkeypatch, name):
    assert refusal(RECIPES[name], ON_550) is None
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    said = refusal(RECIPES[name], ON_550)
    assert "has no packages for Python 3.14" in said
    assert said.endswith("with Python 3.11 to 3.13")


def test_an_older_vllm_keeps_the_transformers_of_its_time():
    assert RECIPES["cuda12"].packages == ("vllm==0.18.1", "transformers<5")


def test_an_unknown_recipe_is_bad_usage_and_the_known_ones_are_named():
    known = "there are cpu, cuda, cuda12, whisper, whisper-cuda12, whisper-pascal"
    with pytest.raises(UsageError, match=known):
        recipe_named("gpu")


def test_no_two_recipes_are_mistaken_for_each_other():
    assert len({recipe.digest() for recipe in RECIPES.values()}) == len(RECIPES)


def test_an_engine_is_not_outdated_because_we_learned_for_whom_it_is():
    recipe = RECIPES["cuda12"]
    assert replace(recipe, cuda=11, last_python=None).digest() == recipe.digest()
