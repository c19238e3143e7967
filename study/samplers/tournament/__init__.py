"""A tournament sampler that gives infeasible trials a seat, for OptunaHub."""

from .tournament import TournamentOptions, TournamentSampler

__all__ = ["TournamentOptions", "TournamentSampler"]
