"""Generations that are counted, not stored: who sits in which follows from the trials' order."""

from __future__ import annotations

from optuna.samplers import BaseGASampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


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
        assert self.population_size is not None
        if seat < self.population_size:
            return 0
        return 1 + (seat - self.population_size) // self.newcomers

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
