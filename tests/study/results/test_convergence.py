"""How a study's front grew."""

import pytest

from study.results.convergence import STEPS, hypervolume_history, hypervolume_now
from study.results.findings import read_study
from tests.study import studies


def test_the_front_grows_to_what_it_is_now():
    history = hypervolume_history(read_study(studies.whole_study(), ""))
    shares = [share for _, share in history]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


def test_what_does_not_work_moves_nothing():
    history = dict(hypervolume_history(read_study(studies.whole_study(), "")))
    assert history[0] == history[1] == history[3] > 0


def test_nothing_feasible_has_no_history():
    study = studies.empty_study()
    studies.predicted_infeasible(study, 0.40, "small")
    findings = read_study(study, "")
    assert hypervolume_history(findings) == []
    assert hypervolume_now(findings) is None


def test_a_single_setting_has_a_volume_too():
    study = studies.empty_study()
    studies.complete(study, 0.60, "tiny")
    assert hypervolume_now(read_study(study, "")) == pytest.approx(1.0)


def test_a_lucky_measurement_counts_until_its_setting_is_measured_again():
    study = studies.empty_study()
    studies.complete(study, 0.50, "small")
    studies.complete(study, 0.60, "tiny", noise=0.5)
    for _ in range(2):
        studies.complete(study, 0.60, "tiny")
    shares = [share for _, share in hypervolume_history(read_study(study, ""))]
    assert shares[1] > shares[-1] == pytest.approx(1.0)


def test_a_long_study_is_drawn_in_a_few_steps():
    study = studies.empty_study()
    for number in range(STEPS + 40):
        studies.complete(study, 0.60, "tiny", noise=1 + number / 1000)
    history = hypervolume_history(read_study(study, ""))
    assert len(history) <= STEPS + 1
    assert history[-1][0] == STEPS + 39
