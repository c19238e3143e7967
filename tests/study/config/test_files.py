"""From a file, or none, to a configuration; whatever is wrong with the file is one line."""

import subprocess
import sys

import pytest
import yaml

from study.config.files import bundled, read_config
from tests.paths import ROOT
from tests.study.config.configurations import LEGACY, OURS, refusal

BASE = yaml.safe_dump(OURS, sort_keys=False)


class TestTheBundledStudies:
    @pytest.mark.parametrize("kind", ["cuda", "cpu"])
    def test_the_bundled_studies_are_the_seeds_fifteen_points(self, kind):
        config = bundled(kind)
        assert config.space.size == 15
        assert config.baseline == {"vllm_memory_util": 0.5, "whisper_model_size": "small"}
        assert config.space["vllm_memory_util"].bounds == (0.30, 0.70)

    @pytest.mark.parametrize(
        ("kind", "name", "weights"),
        [("cuda", "shared-gpu", "real"), ("cpu", "shared-cpu", "dummy")],
    )
    def test_a_gpu_gets_real_weights_and_a_cpu_random_ones(self, kind, name, weights):
        config = bundled(kind)
        assert (config.name, config.document.device) == (name, kind)
        assert config.document.vllm.weights == weights
        assert (config.source, config.notes) == (None, ())

    def test_without_a_file_the_study_for_this_machine_is_read(self):
        assert read_config(None).name == bundled("cpu").name

    def test_without_a_file_on_a_machine_with_a_gpu_it_is_the_gpus(self, gpu):
        assert read_config(None).name == bundled("cuda").name
        assert gpu == ["auto"]


class TestWhenTheMachineIsAsked:
    def test_a_file_of_our_own_format_asks_no_driver(self, write, asked):
        read_config(write(OURS))
        assert asked == []

    def test_a_legacy_block_takes_models_and_load_of_this_machines_study(self, write, gpu):
        config = read_config(write(LEGACY))
        assert gpu == ["auto"]
        assert config.document.device == "cuda"
        assert config.document.vllm == bundled("cuda").document.vllm
        assert config.document.load == bundled("cuda").document.load

    def test_one_that_forbids_the_gpu_takes_those_for_a_cpu_and_asks_no_driver(self, write, gpu):
        config = read_config(write(LEGACY.replace("allow_gpu: true", "allow_gpu: false")))
        assert gpu == []
        assert config.document.device == "cpu"
        assert config.document.vllm == bundled("cpu").document.vllm


class TestReadingAFile:
    def test_the_configuration_knows_its_file(self, write):
        for content in (OURS, LEGACY):
            path = write(content)
            assert read_config(path).source == path

    def test_only_a_legacy_block_has_to_be_read_about(self, write):
        assert read_config(write(OURS)).notes == ()
        assert read_config(write(LEGACY)).notes != ()

    def test_a_file_that_is_not_there_is_one_line(self, tmp_path):
        assert "cannot be read" in refusal(tmp_path / "missing.yaml")

    def test_a_folder_is_no_file(self, tmp_path):
        assert "cannot be read" in refusal(tmp_path)

    def test_umlauts_are_read_as_utf_8(self, write):
        path = write("")
        path.write_bytes(BASE.replace("mine", "größe").encode())
        assert read_config(path).name == "größe"

    def test_another_encoding_is_one_line(self, write):
        path = write("")
        path.write_bytes(BASE.replace("mine", "größe").encode("latin-1"))
        assert refusal(path).startswith("cannot be read: 'utf-8' codec can't decode byte 0xf6")


class TestReadingYaml:
    def test_yaml_that_is_none_is_one_line_with_its_place(self, write):
        assert refusal(write("a: [")).startswith("line ")
        assert "given twice" in refusal(write("name: a\nname: b\n"))
        assert "found a list" in refusal(write("- 1\n"))
        assert "found nothing" in refusal(write(""))

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("name: a\nseed: 1\nname: b\n", "line 3, column 1: not YAML: key 'name'"),
            ("vllm:\n  model: a\n  model: a\n", "line 3, column 3: not YAML: key 'model'"),
            ("load: {llm: {rate_rps: 1, rate_rps: 2}}\n", "line 1, column 27: not YAML: key"),
            ("neighbours:\n- name: a\n  name: b\n", "line 3, column 3: not YAML: key 'name'"),
            ("name: a\n'name': b\n", "line 2, column 1: not YAML: key 'name'"),
            ("wer: {1: 2, 0x1: 3}\n", "line 1, column 13: not YAML: key 1 is given twice"),
            ("- name: a\n- name: b\n  name: c\n", "line 3, column 3: not YAML: key 'name'"),
        ],
    )
    def test_a_key_that_stands_twice_is_refused_with_its_second_place(self, write, text, said):
        line = refusal(write(text))
        assert line.startswith(said)
        assert line.endswith("is given twice")

    def test_a_key_may_stand_once_in_every_mapping(self, write):
        env = {"A": "1"}
        servers = {"vllm": {"model": "m", "env": env}, "whisper": {"env": env}}
        document = read_config(write({**OURS, **servers})).document
        assert document.vllm.env == document.whisper.env == env

    def test_a_value_may_be_named_and_repeated(self, write):
        slo = "slo:\n  stt_latency_ms: &limit {max: 900}\n  llm_latency_ms: *limit\n"
        limits = read_config(write(BASE + slo)).document.slo
        assert limits["stt_latency_ms"].max == limits["llm_latency_ms"].max == 900

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("a: [", "line 1, column 5: not YAML: "),
            ("a: 1\n\tb: 2\n", "line 2, column 1: not YAML: "),
            ("--- {a: 1}\n--- {b: 2}\n", "line 2, column 1: not YAML: but found another document"),
            ("a: !!python/name:os.system\n", "line 1, column 4: not YAML: could not determine"),
            ("? [a]\n: b\n", "not YAML: unhashable type: 'list'"),
            ("name: \0\n", "not YAML: unacceptable character #x0000"),
        ],
    )
    def test_text_that_is_no_yaml_is_refused_with_place_and_reason(self, write, text, said):
        assert refusal(write(text)).startswith(said)

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("", "nothing"),
            ("# only a comment\n", "nothing"),
            ("just words\n", "a str"),
            ("2.5\n", "a float"),
            ("[]\n", "a list"),
            ("- 1\n", "a list"),
            ("- {name: a}\n- b\n", "a list"),
        ],
    )
    def test_a_file_without_a_mapping_is_refused_with_what_it_holds(self, write, text, found):
        assert refusal(write(text)) == f"found {found}, allowed: a mapping, or experiments"


class TestChoosingAnExperiment:
    def test_a_file_with_several_experiments_needs_a_name(self, write):
        two = [*yaml.safe_load(LEGACY), {"name": "other", "search_space": {}}]
        path = write({"experiments": two})
        assert "--experiment: spica_gpu_allocation, other" in refusal(path)
        assert read_config(path, experiment="spica_gpu_allocation").space.size == 15
        assert "no 'third'" in refusal(path, experiment="third")

    @pytest.mark.parametrize("wrapped", [True, False])
    def test_the_one_that_is_named_is_read_wherever_it_stands(self, write, wrapped):
        several = [OURS, {**OURS, "name": "second", "seed": 2}, {**OURS, "name": "third"}]
        path = write({"experiments": several} if wrapped else several)
        config = read_config(path, experiment="second")
        assert (config.name, config.document.seed) == ("second", 2)

    def test_others_in_the_file_may_be_of_the_other_format(self, write):
        path = write([*yaml.safe_load(LEGACY), OURS])
        assert read_config(path, experiment="mine").notes == ()
        assert read_config(path, experiment="spica_gpu_allocation").notes != ()

    def test_others_in_the_file_are_not_checked(self, write):
        path = write([OURS, {"name": "broken", "seeed": 1}])
        assert read_config(path, experiment="mine").name == "mine"

    @pytest.mark.parametrize(
        "content", [OURS, [OURS], {"experiments": OURS}, {"experiments": [OURS]}]
    )
    def test_the_only_one_needs_no_name_and_may_be_named(self, write, content):
        path = write(content)
        assert read_config(path).name == "mine"
        assert read_config(path, experiment="mine").name == "mine"

    @pytest.mark.parametrize("content", [OURS, {"experiments": OURS}])
    def test_another_name_than_that_of_the_only_one_is_refused(self, write, content):
        said = "experiment: found only 'mine', asked for 'other'"
        assert refusal(write(content), experiment="other") == said

    def test_a_name_that_none_has_is_refused_with_those_that_there_are(self, write):
        path = write([OURS, {**OURS, "name": "second"}])
        assert refusal(path, experiment="other") == (
            "experiment: found no 'other'; allowed: mine, second"
        )

    def test_how_many_there_are_is_said(self, write):
        path = write([OURS, {**OURS, "name": "second"}])
        assert refusal(path).startswith("experiments: found 2; name one with --experiment: ")


def test_reading_a_configuration_imports_no_engine(write):
    code = (
        "import sys; from pathlib import Path; from study.config import read_config;"
        f"read_config(Path({str(write(OURS))!r}));"
        "bad = {'torch', 'vllm', 'whisper', 'transformers'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
