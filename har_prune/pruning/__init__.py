"""The greedy loop: score, choose, remove, heal, evaluate; its history and its resume."""

from har_prune.pruning.config import PruneConfig, PruneSettings, Target
from har_prune.pruning.history import PruningHistory, PruningStep
from har_prune.pruning.loop import PruningResult, prune

__all__ = ["PruneConfig", "PruneSettings", "PruningHistory", "PruningResult", "PruningStep", "Target", "prune"]
