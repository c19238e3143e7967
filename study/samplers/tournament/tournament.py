"""A tournament over whole settings, with elitism and immigrants: R-Zero, as a sampler."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseGASampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

Fitness = Callable[[FrozenTrial], float | None]
"""How good a trial is, larger is better; None where it was not measured."""

_Space = Mapping[str, BaseDistribution]
_TRIES = 20
_REMEMBERED = 256


@dataclass(frozen=True, kw_only=True)
class TournamentOptions:
    """How a tournament is held.

    Attributes:
        population_size: Seats in a generation.
        entrants: How many compete in one tournament.
        survivors: How many parents a generation has, the elite included.
        elitism: Whether the best trial so far always is a parent.
        remeasure_elite: Whether it also is measured again in every generation, on a seat of its
            own; otherwise it is carried.
        immigrants: Seats in a generation that are drawn at random.
        mutation_prob: Probability that a parameter changes; default: one in expectation. At
            least one always does.

    Raises:
        ValueError: A number is too small for a tournament.
    """

    population_size: int = 10
    entrants: int = 4
    survivors: int = 2
    elitism: bool = True
    remeasure_elite: bool = False
    immigrants: int = 1
    mutation_prob: float | None = None

    def __post_init__(self) -> None:
        least = (self.population_size - 1, self.entrants, self.survivors, self.immigrants + 1)
        if min(least) < 1:
            raise ValueError(
                "population_size must be at least 2, entrants and survivors 1, immigrants 0"
            )


class Seats(BaseGASampler):
    """A genetic sampler in which an infeasible trial takes a seat in its generation.

    COMPLETE and PRUNED trials are seated in the order of their numbers, `population_size` in
    generation 0 and `newcomers` in every later one; FAIL and RUNNING trials have no seat. So a
    trial that was enqueued (a baseline) sits in its generation like any other, a retried trial
    inherits nothing from a dead one, and trials by which several workers overshoot a generation
    are the first of the next.
    """

    @property
    def newcomers(self) -> int:
        """How many new trials every generation after the first one has."""
        assert self.population_size is not None
        return self.population_size

    def seated(self, study: Study) -> list[FrozenTrial]:
        """All trials that take a seat, by number."""
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return [trial for trial in trials if trial.params]

    def generation_of_seat(self, seat: int) -> int:
        """The generation of the seat with this index, counted over the whole study."""
        later = seat - self.first_seat(1)
        return 0 if later < 0 else 1 + later // self.newcomers

    def first_seat(self, generation: int) -> int:
        """The index of a generation's first seat."""
        assert self.population_size is not None
        return 0 if generation == 0 else self.population_size + (generation - 1) * self.newcomers

    def get_trial_generation(self, study: Study, trial: FrozenTrial) -> int:
        """The generation that a trial sits in, or will sit in if it ended next."""
        seated = self.seated(study)
        before = sum(other.number < trial.number for other in seated)
        is_seated = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        return self.generation_of_seat(before if is_seated else len(seated))

    def get_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """The trials that sit in a generation."""
        first, last = self.first_seat(generation), self.first_seat(generation + 1)
        return self.seated(study)[first:last]

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """The parents of a generation, worked out once; those of the generations before first."""
        # Parents rest on the parents before them: without this, a long study that is opened
        # again would descend as many calls deep as it has generations.
        for earlier in range(max(1, self._known_parents + 1), generation):
            super().get_parent_population(study, earlier)
        self._known_parents = max(self._known_parents, generation)
        return super().get_parent_population(study, generation)

    _known_parents = 0


class TournamentSampler(Seats):
    """Some of a generation compete, the winners survive, and the next one is mutated from them.

    Generation 0 is drawn at random. The parents of every later one are the best trial so far
    (the elite) and the winners of tournaments among the generation before. The elite keeps its
    seat without being measured again, the last seats of a generation go to immigrants that are
    drawn at random, and every other seat goes to a survivor with one or more parameters changed.

    Feasibility comes first: a trial that is PRUNED, or that violates a constraint, has fitness 0,
    keeps its seat in the generation, and never wins against a trial that was measured.

    All state is in the study's storage: several workers, a kill and a resumed run see the same
    generations. What is drawn depends on the seed and on the trial's number only.

    Args:
        options: Sizes of a generation, and what happens to its elite.
        fitness: How good a trial is. Default: how many layers of the Pareto front would have to
            be taken off its generation before it, negated.
        seed: Of everything that is drawn; None: another one for each worker.
    """

    def __init__(
        self,
        options: TournamentOptions | None = None,
        *,
        fitness: Fitness | None = None,
        seed: int | None = None,
    ) -> None:
        self._options = TournamentOptions() if options is None else options
        super().__init__(population_size=self._options.population_size)
        self._fitness = fitness
        self._seed = seed
        self._entropy = np.random.SeedSequence(seed).entropy
        self._space = IntersectionSearchSpace(include_pruned=True)
        self._parents: dict[int, FrozenTrial | None] = {}
        self._drawing: dict[int, np.random.Generator] = {}

    @property
    def newcomers(self) -> int:
        """New trials in every generation but the first: a carried elite takes no new one."""
        held = self._options
        return held.population_size - (held.elitism and not held.remeasure_elite)

    def reseed_rng(self) -> None:
        """Draw from another seed: Optuna calls this in each of several threads."""
        self._entropy = np.random.SeedSequence().entropy

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The parameters that all seated trials have in common."""
        common = self._space.calculate(study)
        return {name: one for name, one in common.items() if not one.single()}

    def select_parent(self, study: Study, generation: int) -> list[FrozenTrial]:
        """The elite so far, then winners of tournaments in the generation before."""
        pool = self.get_population(study, generation - 1)
        pool += self.get_parent_population(study, generation - 1)
        rest = self._ranked(study, list({trial.number: trial for trial in pool}.values()))
        rng = np.random.default_rng([self._stable_seed(study), generation])
        chosen = [rest.pop(0)] if self._options.elitism and rest else []
        while rest and len(chosen) < self._options.survivors:
            seats = rng.choice(
                len(rest), size=min(self._options.entrants, len(rest)), replace=False
            )
            chosen.append(rest.pop(int(min(seats))))  # `rest` is ranked: the first seat wins
        return chosen

    def _stable_seed(self, study: Study) -> int:
        """The same in every worker and after a restart."""
        return zlib.crc32(study.study_name.encode()) if self._seed is None else self._seed

    def _ranked(self, study: Study, pool: list[FrozenTrial]) -> list[FrozenTrial]:
        """The pool, best first; of equals the older one."""
        layers = {} if self._fitness else _layers(study, [t for t in pool if _is_feasible(t)])

        def merit(trial: FrozenTrial) -> tuple[bool, float, float, int]:
            if not _is_feasible(trial):
                return (False, 0.0, -_violation(trial), -trial.number)
            fitness = self._fitness(trial) if self._fitness else -layers[trial.number]
            return (True, 0.0 if fitness is None else float(fitness), 0.0, -trial.number)

        return sorted(pool, key=merit, reverse=True)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A survivor with some parameters changed; nothing for who is drawn at random."""
        parents = self.get_parent_population(study, self.get_trial_generation(study, trial))
        parents = [parent for parent in parents if set(search_space) <= set(parent.params)]
        rng = self._rng(trial.number)
        elite = self._elite_to_measure(study, trial, parents)
        if elite is not None:
            self._remember(trial.number, elite)
            return {name: elite.params[name] for name in search_space}
        immigrants_from = self.newcomers - self._options.immigrants
        if not parents or not search_space or self._place(study, trial) >= immigrants_from:
            self._remember(trial.number, None)
            return {}
        parent = parents[rng.integers(len(parents))]
        self._remember(trial.number, parent)
        return self._child(study, trial, parent, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:  # noqa: ANN401 - as Optuna declares it
        """The parent's value of a conditional parameter, else one drawn at random."""
        parent = self._parents.get(trial.number)
        if parent is not None and parent.distributions.get(param_name) == param_distribution:
            return parent.params[param_name]
        return self._drawn(study, trial, param_name, param_distribution)

    def ancestry(self, study: Study, number: int) -> dict[str, Any]:
        """Where a trial comes from.

        Returns:
            `generation`, and `parents`: the numbers of the trials that it was mutated from,
            empty for one that was drawn at random. No `parents` where this object did not
            propose the trial.
        """
        trial = study.get_trials(deepcopy=False)[number]
        known: dict[str, Any] = {"generation": self.get_trial_generation(study, trial)}
        if number in self._parents:
            parent = self._parents[number]
            known["parents"] = [] if parent is None else [parent.number]
        return known

    def _child(
        self, study: Study, trial: FrozenTrial, parent: FrozenTrial, space: _Space
    ) -> dict[str, Any]:
        """A mutated parent, one that nobody has tried if that is soon found."""
        tried = [
            other.params
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number and other.state != TrialState.FAIL
        ]
        child: dict[str, Any] = {}
        for _ in range(_TRIES):
            child = self._mutated(study, trial, parent, space)
            if not any(child.items() <= params.items() for params in tried):
                break
        return child

    def _mutated(
        self, study: Study, trial: FrozenTrial, parent: FrozenTrial, space: _Space
    ) -> dict[str, Any]:
        rng, names = self._rng(trial.number), list(space)
        probability = self._options.mutation_prob or 1 / len(names)
        changed = [name for name in names if rng.random() < probability]
        changed = changed or [names[rng.integers(len(names))]]
        child = {name: parent.params[name] for name in names}
        for name in changed:
            for _ in range(_TRIES):
                child[name] = self._drawn(study, trial, name, space[name])
                if child[name] != parent.params[name]:
                    break
        return child

    def _drawn(
        self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:  # noqa: ANN401 - a parameter's value
        seed = int(self._rng(trial.number).integers(2**31))
        return RandomSampler(seed=seed).sample_independent(study, trial, name, distribution)

    def _elite_to_measure(
        self, study: Study, trial: FrozenTrial, parents: Sequence[FrozenTrial]
    ) -> FrozenTrial | None:
        """The elite, if this trial is the one in its generation that measures it again."""
        measured = self._options.elitism and self._options.remeasure_elite
        if not measured or not parents or self._place(study, trial) != 0:
            return None
        return self._ranked(study, list(parents))[0]

    def _place(self, study: Study, trial: FrozenTrial) -> int:
        """Which seat of its generation a trial gets if all that run now keep theirs."""
        seated = len(self.seated(study))
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        ahead = sum(other.number < trial.number for other in running)
        return seated + ahead - self.first_seat(self.generation_of_seat(seated))

    def _rng(self, number: int) -> np.random.Generator:
        """What a trial draws from; the second question about a trial gets another answer."""
        if number not in self._drawing:
            self._drawing = dict(list(self._drawing.items())[-_REMEMBERED:])
            assert isinstance(self._entropy, int)
            self._drawing[number] = np.random.default_rng([self._entropy, number])
        return self._drawing[number]

    def _remember(self, number: int, parent: FrozenTrial | None) -> None:
        self._parents = dict(list(self._parents.items())[-_REMEMBERED:])
        self._parents[number] = parent


# Which trial is feasible and which dominates is decided in study.results for the rest of this
# program; this folder is handed on without it, and keeps what it needs.


def _violation(trial: FrozenTrial) -> float:
    return sum(max(excess, 0.0) for excess in trial.constraints.values())


def _is_feasible(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.COMPLETE and _violation(trial) <= 0


def _layers(study: Study, pool: Sequence[FrozenTrial]) -> dict[int, int]:
    """Trial number to how many fronts must be taken off the pool before the trial's own."""
    signs = np.array([1.0 if d == StudyDirection.MINIMIZE else -1.0 for d in study.directions])
    values = {trial.number: np.array(trial.values) * signs for trial in pool}
    layers: dict[int, int] = {}
    layer = 0
    while values:
        front = [n for n, own in values.items() if not _dominated(own, values.values())]
        front = front or list(values)  # values that are not numbers dominate in circles
        layers |= dict.fromkeys(front, layer)
        values = {number: own for number, own in values.items() if number not in layers}
        layer += 1
    return layers


def _dominated(own: Any, others: Any) -> bool:  # noqa: ANN401 - numpy arrays
    return any(np.all(other <= own) and np.any(other < own) for other in others)
