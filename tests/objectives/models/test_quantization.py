"""How wide quantised weights are."""

import pytest

from objectives.models.quantization import quantization_of


def bits(stated, option=None):
    return quantization_of({"quantization_config": stated}, option).bits


def test_a_plain_checkpoint_is_not_quantised():
    assert quantization_of({}) is None
    assert quantization_of({}, "auto") is None


def test_four_bits_in_groups_of_128_have_a_scale_and_a_zero_each():
    assert bits({"quant_method": "awq", "bits": 4, "group_size": 128}) == 4 + 20 / 128
    assert bits({"quant_method": "gptq", "bits": 8, "group_size": 32}) == 8 + 24 / 32
    assert bits({"quant_method": "gptq", "bits": 4, "group_size": -1}) == pytest.approx(4.05)


def test_compressed_tensors_say_their_bits_in_the_first_group():
    weights = {"num_bits": 4, "group_size": 128, "symmetric": True}
    stated = {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": weights}}}
    assert bits(stated) == 4 + 16 / 128
    wide = {"g": {"weights": {"num_bits": 8}}}
    assert bits({"quant_method": "compressed-tensors", "config_groups": wide}) == 8.05


def test_only_the_experts_of_gpt_oss_are_small():
    assert quantization_of({"quantization_config": {"quant_method": "mxfp4"}}).reach == "experts"


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"quant_method": "fp8"}, 8.05),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, 8.05),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 4.5),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8.1),
    ],
)
def test_every_usual_method_has_its_width(stated, expected):
    assert bits(stated) == expected


def test_an_unknown_method_is_taken_unquantised_and_said_to_be_a_guess():
    found = quantization_of({"quantization_config": {"quant_method": "new_thing"}})
    assert (found.bits, found.known) == (16.0, False)


def test_the_engines_option_quantises_a_plain_checkpoint_on_the_fly():
    assert quantization_of({}, "fp8").bits == 8.05


def test_a_quantised_checkpoint_stays_what_it_is():
    stated = {"quantization_config": {"quant_method": "awq", "bits": 4}}
    assert quantization_of(stated, "awq_marlin").method == "awq"
