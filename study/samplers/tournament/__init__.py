"""A tournament sampler that gives infeasible trials a seat, for OptunaHub."""

from .seats import Seats
from .tournament import TournamentOptions, TournamentSampler

__all__ = ["Seats", "TournamentOptions", "TournamentSampler"]
