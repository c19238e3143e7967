"""A tournament sampler that gives infeasible trials a seat, for OptunaHub."""

from .seats import Seats
from .tournament import TournamentSampler

__all__ = ["Seats", "TournamentSampler"]
