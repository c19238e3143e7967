"""Recipes say what they make, how large it is, and for which GPUs."""

import pytest

from objectives.errors import EngineError, UsageError
from study.engines.recipes import RECIPES, recipe_named, refuse_older_gpu


def test_there_is_one_for_each_kind_of_device_that_serves_both():
    assert RECIPES["cpu"].roles == RECIPES["cuda"].roles == ("vllm", "whisper")


def test_an_older_gpu_is_refused_before_anything_is_downloaded_with_the_remedy():
    with pytest.raises(EngineError) as refused:
        refuse_older_gpu(RECIPES["cuda"], (6, 1))
    said = str(refused.value)
    assert "compute capability 6.1 (sm_61)" in said
    assert "needs 7.5 or higher" in said
    assert "build whisper-pascal instead" in said


def test_a_gpu_that_no_recipe_serves_is_refused_without_false_hope():
    with pytest.raises(EngineError, match="choose another device"):
        refuse_older_gpu(RECIPES["cuda"], (3, 5))


@pytest.mark.parametrize("capability", [(7, 5), (8, 6), (9, 0), (12, 0), None])
def test_a_gpu_that_is_new_enough_or_unknown_is_not_refused(capability):
    assert refuse_older_gpu(RECIPES["cuda"], capability) is None


def test_the_pascal_recipe_serves_the_gtx_1080_ti():
    assert refuse_older_gpu(RECIPES["whisper-pascal"], (6, 1)) is None


def test_an_unknown_recipe_is_bad_usage_and_the_known_ones_are_named():
    with pytest.raises(UsageError, match="there are cpu, cuda, whisper, whisper-pascal"):
        recipe_named("gpu")


def test_no_two_recipes_are_mistaken_for_each_other():
    assert len({recipe.digest() for recipe in RECIPES.values()}) == len(RECIPES)
