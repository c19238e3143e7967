"""Real models go through as they are named; random weights are made once, whole or not at all."""

import json
import subprocess
from pathlib import Path

import pytest

from objectives.errors import EngineError, UsageError
from objectives.servers.engine import Engine
from study.setup.model_shapes import DummyLlm
from study.setup.weights import (
    dummy_llm,
    dummy_whisper,
    is_cached_whole,
    resolve_llm,
    resolve_whisper,
)
from tests.objectives.engine_at_hand import real_engine

SPEC = DummyLlm(
    layers=2,
    hidden=64,
    heads=4,
    kv_heads=2,
    head_dim=16,
    intermediate=128,
    vocab=600,
    max_position=512,
)
MAKER = """#!/bin/sh
echo "$@" >> "{made}"
for word in "$@"; do out="$word"; done
mkdir -p "$(dirname "$out")"
{ending}
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where random weights are kept between studies."""
    monkeypatch.setenv("GPU_ALLOCATION_STUDY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))  # where Whisper's weights are
    return tmp_path / "home" / "weights"


@pytest.fixture
def maker(tmp_path):
    """An engine that only notes what it is asked to make, and makes an empty file."""
    return fake_maker(tmp_path, 'echo weights > "$out"')


def fake_maker(folder: Path, ending: str) -> Engine:
    program = folder / "python"
    program.write_text(MAKER.format(made=folder / "made", ending=ending))
    program.chmod(0o755)
    return Engine(name="fake", interpreter=program, cache=folder / "cache", python_version="3.12.0")


def made(folder: Path) -> list[str]:
    file = folder / "made"
    return file.read_text().splitlines() if file.exists() else []


class TestWhispersWeights:
    @pytest.mark.parametrize(
        ("name", "file"), [("tiny", "tiny.pt"), ("turbo", "large-v3-turbo.pt")]
    )
    def test_are_fetched_once_before_the_first_trial(self, maker, tmp_path, name, file):
        said = []
        for _ in range(2):
            assert resolve_whisper(name, "real", engine=maker, log=said.append) == name
        target = tmp_path / "xdg" / "whisper" / file
        assert target.read_text() == "weights\n"
        assert "".join(made(tmp_path)).count(str(target)) == 1
        assert len(said) == 1
        assert said[0].startswith(f"fetching Whisper {name}, ")
        assert said[0].endswith(f" MB: {target}")

    def test_that_cannot_be_fetched_are_one_line_with_the_way_out(self, tmp_path):
        ending = 'echo half > "$out"; echo "URLError: no route to host" >&2; exit 1'
        with pytest.raises(EngineError) as caught:
            resolve_whisper("base", "real", engine=fake_maker(tmp_path, ending))
        assert str(caught.value) == (
            "whisper.model: base cannot be fetched: URLError: no route to host; put base.pt into "
            f"{tmp_path}/xdg/whisper, or name a checkpoint's path"
        )
        assert not (tmp_path / "xdg/whisper/base.pt").exists()

    @pytest.mark.engines
    def test_the_real_library_takes_the_folder_that_fetching_passes(self):
        engine = real_engine()
        code = "import inspect, whisper; print(inspect.signature(whisper.load_model))"
        done = subprocess.run(
            (engine.interpreter, "-c", code), capture_output=True, text=True, check=True
        )
        assert "download_root" in done.stdout


class TestRealModels:
    def test_an_unknown_name_says_who_fetches_it(self, maker, monkeypatch, tmp_path):
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        said = []
        resolve_llm("a/b", "real", engine=maker, log=said.append)
        assert said == [
            "a/b is not on this machine: `hf download` fetches it, or else the first start"
        ]

    def test_a_name_goes_through(self, maker):
        found = resolve_llm("Qwen/Qwen2.5-7B-Instruct-AWQ", "real", engine=maker)
        assert (found.model, found.local) == ("Qwen/Qwen2.5-7B-Instruct-AWQ", False)
        assert resolve_whisper("small", "real", engine=maker) == "small"

    def test_a_folder_and_a_file_go_through_as_local(self, maker, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "mine.pt").write_bytes(b"weights")
        assert resolve_llm(str(tmp_path), "real", engine=maker).local
        file = str(tmp_path / "mine.pt")
        assert resolve_whisper(file, "real", engine=maker) == file

    @pytest.mark.parametrize("model", ["/nowhere/llm", "./nowhere", "~/nowhere"])
    def test_a_folder_that_is_not_there_is_bad_usage(self, maker, model):
        with pytest.raises(UsageError, match=r"vllm\.model: .* is no folder with a config\.json"):
            resolve_llm(model, "real", engine=maker)

    def test_a_folder_without_a_model_is_bad_usage(self, maker, tmp_path):
        with pytest.raises(UsageError, match="is no folder with a config"):
            resolve_llm(str(tmp_path), "real", engine=maker)

    def test_real_weights_need_a_name(self, maker):
        with pytest.raises(UsageError, match=r"vllm\.model: missing"):
            resolve_llm(None, "real", engine=maker)

    def test_a_misspelt_whisper_is_bad_usage_and_the_nearest_is_named(self, maker):
        with pytest.raises(UsageError, match=r"whisper\.model: 'larg' .* nearest: large"):
            resolve_whisper("larg", "real", engine=maker)

    def test_nothing_is_made_for_them(self, maker, tmp_path, cache):
        there = tmp_path / "xdg" / "whisper" / "small.pt"
        there.parent.mkdir(parents=True)
        there.touch()
        resolve_whisper("small", "real", engine=maker)
        assert made(tmp_path) == []
        assert not cache.exists()


class TestDummyModels:
    def test_are_made_once_and_their_size_is_said_before(self, maker, tmp_path):
        said: list[str] = []
        first = resolve_whisper("small", "dummy", engine=maker, log=said.append)
        again = resolve_whisper("small", "dummy", engine=maker, log=said.append)
        assert first == again
        assert Path(first).is_file()
        assert len(made(tmp_path)) == 1
        assert said == [f"making random weights for Whisper small, 483 MB: {first}"]

    def test_large_is_the_newest_large(self, maker, tmp_path):
        assert dummy_whisper(maker, "large").name == "large-v3.pt"
        assert '"n_mels": 128' in made(tmp_path)[0]

    def test_of_different_shapes_lie_in_different_folders(self, maker, tmp_path):
        other = DummyLlm(**{**vars(SPEC), "layers": 3})
        assert dummy_llm(maker, SPEC) != dummy_llm(maker, other)

    def test_half_made_leave_nothing_and_the_engine_is_quoted(self, tmp_path, cache):
        broken = fake_maker(tmp_path, 'echo half > "$out"; echo "disk is full" >&2; exit 1')
        with pytest.raises(EngineError, match="disk is full"):
            dummy_llm(broken, SPEC)
        assert [path for path in cache.iterdir() if path.suffix != ".lock"] == []

    def test_of_a_known_name_have_its_architecture(self, maker, tmp_path):
        resolve_llm("Qwen/Qwen2.5-0.5B-Instruct", "dummy", engine=maker)
        assert '"hidden_size": 896' in made(tmp_path)[0]

    def test_of_a_folder_have_its_architecture_and_its_tokenizer(self, maker, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "tokenizer.json").write_text("{}")
        found = resolve_llm(str(tmp_path), "dummy", engine=maker)
        assert found.model == str(tmp_path)
        assert made(tmp_path) == []

    def test_of_a_folder_without_a_tokenizer_get_one_of_ours(self, maker, tmp_path, cache):
        (tmp_path / "config.json").write_text(json.dumps(SPEC.config()))
        found = resolve_llm(str(tmp_path), "dummy", engine=maker)
        assert Path(found.model).parent == cache
        assert '"vocab_size": 600' in made(tmp_path)[0]

    def test_of_a_folder_with_something_else_in_it_are_bad_usage(self, maker, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type": "unet"}')
        with pytest.raises(UsageError, match="no configuration of a language model"):
            resolve_llm(str(tmp_path), "dummy", engine=maker)

    def test_of_an_unknown_name_are_bad_usage_for_nobody_knows_their_size(self, maker):
        with pytest.raises(UsageError, match="the size of 'someone/llm' is not known"):
            resolve_llm("someone/llm", "dummy", engine=maker)

    def test_without_a_name_need_a_shape(self, maker):
        with pytest.raises(UsageError, match=r"vllm\.dummy: missing"):
            resolve_llm(None, "dummy", engine=maker)


@pytest.fixture(scope="module")
def engine():
    """Found, or made, before the tests name another home for what they make."""
    return real_engine()


@pytest.mark.engines
class TestMadeByTheRealEngine:
    def test_whisper_loads_them_and_they_are_as_many_as_was_said(self, engine):
        file = dummy_whisper(engine, "tiny")
        code = (
            "import sys, whisper; model = whisper.load_model(sys.argv[1], device='cpu');"
            "print(sum(each.numel() for each in model.parameters()))"
        )
        assert run(engine, code, str(file)) == "37184640"

    def test_the_same_seed_makes_the_same_file(self, engine, tmp_path):
        first = dummy_whisper(engine, "tiny").rename(tmp_path / "first")
        second = dummy_whisper(engine, "tiny")
        other = dummy_whisper(engine, "tiny", seed=1)
        assert first.read_bytes() == second.read_bytes() != other.read_bytes()

    def test_the_tokenizer_knows_every_token_and_takes_any_text(self, engine):
        folder = dummy_llm(engine, SPEC)
        code = (
            "import sys, transformers; t = transformers.AutoTokenizer.from_pretrained(sys.argv[1]);"
            "c = transformers.AutoConfig.from_pretrained(sys.argv[1]);"
            "text = 'Grüße, 世界!';"
            "print(len(t), c.vocab_size, c.model_type, t.decode(t.encode(text)) == text)"
        )
        assert run(engine, code, str(folder)) == "600 600 llama True"


def run(engine: Engine, code: str, *words: str) -> str:
    """What a few lines of Python print in the engine."""
    done = subprocess.run(
        [str(engine.interpreter), "-c", code, *words],
        env=engine.environment("cpu", offline=True),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.strip()


class TestTheHubsCache:
    """Laid out as huggingface_hub does it: blobs, and snapshots of links to them."""

    NAME = "Qwen/Qwen2.5-7B-Instruct-AWQ"
    ONE = ("config.json", "tokenizer.json", "model.safetensors")
    SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    TWO = ("config.json", "tokenizer.json", *SHARDS)
    INDEX = "model.safetensors.index.json"

    @pytest.fixture
    def entry(self, tmp_path, monkeypatch):
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        return tmp_path / "hf" / "hub" / "models--Qwen--Qwen2.5-7B-Instruct-AWQ"

    def lay(self, entry, names):
        (entry / "refs").mkdir(parents=True)
        (entry / "refs" / "main").write_text("abc")
        (entry / "blobs").mkdir()
        snapshot = entry / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        for name in names:
            blob = entry / "blobs" / name.replace(".", "-")
            weights = {"weight_map": {f"layer{n}": part for n, part in enumerate(self.SHARDS)}}
            blob.write_text(json.dumps(weights) if name == self.INDEX else "{}")
            (snapshot / name).symlink_to(blob)
        return snapshot

    @pytest.mark.parametrize(
        ("names", "whole"),
        [
            (ONE, True),
            (("config.json", "vocab.json", "pytorch_model.bin"), True),
            (TWO, True),
            ((*TWO, INDEX), True),
            (TWO[:-1], False),
            ((*TWO[:-1], INDEX), False),
            (ONE[:-1], False),  # as far as a tokenizer's user fetched it
            (ONE[1:], False),
            (("config.json", "model.safetensors"), False),
            (("config.json", "tokenizer.json", "training_args.bin"), False),
            ((), False),
        ],
    )
    def test_has_a_model_where_every_part_of_it_is_there(self, entry, names, whole):
        self.lay(entry, names)
        assert is_cached_whole(self.NAME) is whole

    def test_does_not_have_one_that_it_never_saw(self, entry):
        assert not is_cached_whole(self.NAME)

    def test_does_not_have_one_whose_blob_is_gone(self, entry):
        self.lay(entry, self.ONE)
        (entry / "blobs" / "model-safetensors").unlink()
        assert not is_cached_whole(self.NAME)

    def test_does_not_have_one_that_is_being_fetched(self, entry):
        self.lay(entry, self.ONE)
        (entry / "blobs" / "d1e2.incomplete").touch()
        assert not is_cached_whole(self.NAME)

    def test_another_revision_is_not_what_main_stands_for(self, entry):
        self.lay(entry, self.ONE)
        (entry / "refs" / "main").write_text("newer")
        assert not is_cached_whole(self.NAME)

    @pytest.mark.parametrize(
        ("variable", "below"),
        [
            ("HF_HUB_CACHE", ""),
            ("HUGGINGFACE_HUB_CACHE", ""),
            ("XDG_CACHE_HOME", "huggingface/hub"),
        ],
    )
    def test_is_where_the_hub_looks_for_it(self, entry, tmp_path, monkeypatch, variable, below):
        if variable == "XDG_CACHE_HOME":
            monkeypatch.delenv("HF_HOME")
        monkeypatch.setenv(variable, str(tmp_path / "other"))
        self.lay(tmp_path / "other" / below / entry.name, self.ONE)
        assert is_cached_whole(self.NAME)
