"""Weights of a folder, from the headers of its files."""

import json

import pytest

from objectives.models.weight_files import read_header, read_weight_files, weight_bytes

WIDTH = {"F32": 4, "BF16": 2, "I32": 4}


def safetensors(path, tensors):
    """A file with a real header and no tensor data behind it: nobody may read that."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, elements) in tensors.items():
        end = at + elements * WIDTH[dtype]
        header[name] = {"dtype": dtype, "shape": [elements], "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def test_tensors_are_summed_from_the_header_alone(tmp_path):
    safetensors(tmp_path / "model.safetensors", {"a": ("BF16", 1000), "b": ("BF16", 24)})
    assert weight_bytes(tmp_path) == 2048
    assert set(read_header(tmp_path / "model.safetensors")) == {"a", "b"}


def test_a_file_in_the_folder_stands_for_the_folder(tmp_path):
    safetensors(tmp_path / "model.safetensors", {"a": ("BF16", 1000)})
    (tmp_path / "config.json").write_text("{}")
    assert weight_bytes(tmp_path / "config.json") == 2000


def test_wide_weights_are_kept_in_the_type_they_are_loaded_as(tmp_path):
    safetensors(tmp_path / "model.safetensors", {"a": ("F32", 1000), "packed": ("I32", 10)})
    assert weight_bytes(tmp_path) == 2040
    assert weight_bytes(tmp_path, dtype_bytes=4) == 4040


def test_a_stored_copy_of_a_tied_head_is_dropped(tmp_path):
    tensors = {"embed.weight": ("F32", 100), "lm_head.weight": ("F32", 100)}
    safetensors(tmp_path / "model.safetensors", tensors)
    assert weight_bytes(tmp_path) == 400
    assert weight_bytes(tmp_path, tied=True) == 200


def index(folder, total, **where):
    document = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(document))


def test_shards_of_the_index_count_and_a_second_copy_beside_them_does_not(tmp_path):
    for name in ("model-1.safetensors", "model-2.safetensors", "consolidated.safetensors"):
        safetensors(tmp_path / name, {name: ("BF16", 500)})
    index(tmp_path, 1, a="model-1.safetensors", b="model-2.safetensors")
    assert weight_bytes(tmp_path) == 2000
    assert read_weight_files(tmp_path).origin == "headers"


def test_the_index_alone_tells_the_total_where_shards_are_not_there(tmp_path):
    index(tmp_path, 15_231_233_024, a="model-00001-of-00004.safetensors")
    files = read_weight_files(tmp_path)
    assert (files.stored_bytes, files.origin) == (15_231_233_024, "index")


def test_pickled_checkpoints_count_by_their_size_and_say_so(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"x" * 300)
    (tmp_path / "training_args.bin").write_bytes(b"x" * 50)
    files = read_weight_files(tmp_path)
    assert (files.stored_bytes, files.origin) == (300, "file sizes")


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs", b"\xff" * 64])
def test_a_pointer_or_half_a_download_is_no_weight(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    assert read_weight_files(tmp_path) is None


def test_a_folder_without_weights_has_none(tmp_path):
    assert weight_bytes(tmp_path) is None


def test_layers_that_only_propose_tokens_are_not_loaded(tmp_path):
    names = (
        "model.layers.0.w",
        "model.language_model.layers.1.w",
        "model.layers.2.w",
        "mtp.layers.0.w",
        "visual.layers.9.w",
    )
    safetensors(tmp_path / "model.safetensors", dict.fromkeys(names, ("BF16", 100)))
    assert weight_bytes(tmp_path) == 5 * 200
    assert weight_bytes(tmp_path, layers=2) == 3 * 200
