"""The objective of a configuration: the bench, and everything that the study adds to a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from optuna import Trial

from objectives.serving import ServingObjective
from objectives.trial import Bench
from objectives.units import Scalar
from storage.artifacts import ArtifactStore, keep
from storage.trials import WORKER_ATTR, this_worker
from study.config import StudyConfig
from study.reports import pictures
from study.samplers import legacy_fitness
from study.search import ATTR, Holding, Progress, lineage_for

DEVICE_WAIT_S = 3600.0
"""Seconds that a trial waits for a device which another study holds."""


class StudyObjective(ServingObjective):
    """The objective, and a view on what it is doing."""

    def holding(self) -> Holding | None:
        """Who holds how much of the device now; None while no servers run."""
        seen = None if self.stages is None else self.stages.holding()
        return None if seen is None else Holding(**seen)


def serving_objective(
    config: StudyConfig, bench: Bench, store: ArtifactStore, progress: Progress
) -> StudyObjective:
    """The objective that launches real servers; logs and samples go to `store`."""

    def keep_files(trial: Trial, files: Sequence[Path]) -> None:
        for file in files:
            keep(store, trial, file)

    def attributes(trial: Trial, params: Mapping[str, Scalar]) -> Mapping[str, object]:
        progress.on_trial_start(trial.number, params)
        return {WORKER_ATTR: this_worker(), ATTR: lineage_for(trial.study, trial, params)}

    def final_attributes(
        trial: Trial, params: Mapping[str, Scalar], values: Sequence[float] | None
    ) -> Mapping[str, object]:
        return {ATTR: lineage_for(trial.study, trial, params, values=values, final=True)}

    return StudyObjective(
        bench=bench,
        store_files=keep_files,
        attributes=attributes,
        final_attributes=final_attributes,
        on_phase=progress.on_phase,
        wait_s=DEVICE_WAIT_S,
        fitness=fitness,
        pictures=lambda folder, evidence: pictures(folder, evidence, weights=bench.weights),
    )


def fitness(figures: Mapping[str, float]) -> float:
    """The first users' weighted number; what was not measured counts nothing."""
    return legacy_fitness(
        stt_latency_ms=figures.get("stt_latency_ms"),
        llm_latency_ms=figures.get("llm_latency_ms"),
        concurrent_capacity=figures.get("concurrent_capacity"),
        oom_events=figures.get("oom_events"),
        gpu_utilization=figures.get("gpu_utilization"),
    )
