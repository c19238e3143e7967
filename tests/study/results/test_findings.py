"""The JSON document that other programs read, and the findings behind it."""

import json
from dataclasses import asdict

import pytest

from objectives.device import LargestAllocation
from study.results.findings import findings_to_dict, read_study
from tests.study import studies

URL = "sqlite:///studies/shared-gpu.db"


def told(study, url=URL):
    return findings_to_dict(read_study(study, url))


@pytest.fixture(scope="module")
def whole():
    return told(studies.whole_study())


def test_the_largest_allocation_is_told_with_its_verdict_and_has_no_key_where_nobody_asked():
    study = studies.empty_study()
    found = LargestAllocation(
        granted_bytes=1 << 30, refused_bytes=1026 << 20, asked_bytes=9 << 30, before="vllm"
    )
    studies.complete(study, 0.5, "tiny", found=found)
    studies.complete(study, 0.6, "tiny")
    asked, older = findings_to_dict(read_study(study, ""))["trials"]
    assert asked["largest_allocation"] == {**asdict(found), "is_fragmented": True}
    assert "largest_allocation" not in older


def test_it_has_the_keys_of_the_contract(whole):
    assert set(whole) >= {
        "study",
        "storage",
        "device",
        "weights",
        "directions",
        "trials",
        "front",
        "baseline",
        "picks",
    }
    assert set(whole["device"]) == {"kind", "name", "uuid", "total_bytes"}
    assert set(whole["trials"][0]) == {
        "number",
        "state",
        "params",
        "values",
        "constraints",
        "feasible",
        "infeasible",
        "phases_s",
        "doubts",
        "fitness",
    }
    assert set(whole["picks"]) == {"latency", "capacity", "quality", "fitness"}


def test_it_is_json_without_numbers_that_are_none(whole):
    assert json.loads(json.dumps(whole, allow_nan=False)) == whole


def test_directions_are_in_words(whole):
    assert whole["directions"] == {
        "stt_latency_ms": "minimize",
        "llm_latency_ms": "minimize",
        "concurrent_capacity": "maximize",
    }


def test_values_are_named_and_absent_where_nothing_was_measured(whole):
    measured, pruned = whole["trials"][0], whole["trials"][1]
    assert list(measured["values"]) == list(whole["directions"])
    assert pruned["values"] is None


def test_nobody_knows_whether_a_failed_or_a_running_trial_is_feasible(whole):
    by_state = {trial["state"]: trial["feasible"] for trial in whole["trials"]}
    assert by_state == {"COMPLETE": True, "PRUNED": False, "FAIL": None, "RUNNING": None}


def test_an_infeasible_trial_says_why_and_a_feasible_one_says_nothing(whole):
    refused = whole["trials"][14]
    assert refused["infeasible"] == {
        "cause": "kv_cache_no_blocks",
        "evidence": studies.NO_BLOCKS,
        "predicted": False,
    }
    assert whole["trials"][1]["infeasible"]["predicted"] is True
    assert whole["trials"][0]["infeasible"] is None
    assert whole["trials"][15]["infeasible"] is None, "a broken bench does not speak of the setting"


def test_all_constraints_stand_on_every_finished_trial_in_order(whole):
    finished = [trial for trial in whole["trials"] if trial["state"] != "RUNNING"]
    assert {tuple(trial["constraints"]) for trial in finished} == {studies.CONSTRAINTS}


def test_phases_that_were_not_reached_are_absent(whole):
    assert set(whole["trials"][1]["phases_s"]) == {"predict", "other"}


def test_nothing_feasible_dominates_the_front(whole):
    ways = [1 if way == "minimize" else -1 for way in whole["directions"].values()]

    def loss(number):
        values = whole["trials"][number]["values"].values()
        return [way * value for way, value in zip(ways, values, strict=True)]

    feasible = [trial["number"] for trial in whole["trials"] if trial["feasible"]]
    for number in whole["front"]:
        for other in feasible:
            pairs = list(zip(loss(other), loss(number), strict=True))
            assert not (all(a <= b for a, b in pairs) and any(a < b for a, b in pairs))
    assert whole["front"] == [4, 7, 9, 12]


def test_the_baseline_is_the_trial_of_what_runs_today(whole):
    assert whole["baseline"] == 0


def test_a_baseline_that_was_not_tried_is_null():
    study = studies.empty_study()
    studies.complete(study, 0.40 + 0.15, "tiny")
    assert told(study)["baseline"] is None


def test_a_baseline_that_is_infeasible_is_still_the_baseline():
    study = studies.empty_study()
    studies.refused(study, 0.50, "small")
    assert told(study)["baseline"] == 0


def test_the_front_is_drawn_by_medians_of_replicates():
    study = studies.empty_study()
    studies.complete(study, 0.45, "tiny", noise=0.5)  # a lucky measurement
    for noise in (1.0, 1.02):
        studies.complete(study, 0.45, "tiny", noise=noise)
    studies.complete(study, 0.60, "tiny", noise=0.9)  # better than the median in everything
    assert told(study)["front"] == [3]


def test_replicates_are_listed_with_their_medians():
    study = studies.empty_study()
    for noise in (0.9, 1.0, 1.3):
        studies.complete(study, 0.60, "tiny", noise=noise)
    found = told(study)["replicates"]
    assert [each["trials"] for each in found] == [[0, 1, 2]]
    assert found[0]["medians"]["llm_latency_ms"] == pytest.approx(600.0)


def test_a_setting_that_failed_once_is_doubted():
    study = studies.empty_study()
    studies.complete(study, 0.55, "tiny")
    studies.refused(study, 0.55, "tiny")
    assert told(study)["trials"][0]["doubts"] == [
        "infeasible in 1 of 2 measurements of this setting"
    ]


def test_nothing_can_be_picked_where_nothing_is_feasible():
    study = studies.empty_study()
    studies.predicted_infeasible(study, 0.40, "small")
    found = told(study)
    assert found["front"] == []
    assert set(found["picks"].values()) == {None}


def test_an_empty_study_has_a_document_too():
    found = told(studies.empty_study())
    assert (found["trials"], found["front"], found["baseline"]) == ([], [], None)


def test_no_password_is_told():
    found = told(studies.empty_study(), "postgresql://user:secret@db/studies")
    assert "secret" not in json.dumps(found)
    assert found["storage"].startswith("postgresql://user:")


@pytest.mark.parametrize("weights", ["real", "dummy"])
def test_it_says_what_the_weights_were(weights):
    assert told(studies.empty_study(weights=weights))["weights"] == weights


def test_a_replay_is_labelled():
    found = told(studies.empty_study(replay="shared_gpu_1.csv"))
    assert (found["weights"], found["replay"]) == ("replay", "shared_gpu_1.csv")


def test_parameters_are_spelt_as_in_the_space():
    study = studies.empty_study()
    trial = studies.complete(study, 0.40 + 3 * 0.05, "tiny")
    assert told(study)["trials"][trial.number]["params"]["vllm_memory_util"] == 0.55
