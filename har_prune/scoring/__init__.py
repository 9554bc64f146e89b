"""Importance of blocks: CKA from streaming sums, the sweep that feeds it, the registry of criteria, races."""

from har_prune.scoring import block_criteria, feature_criteria  # noqa: F401 (they register themselves)
from har_prune.scoring.cka import CkaMoments, linear_cka
from har_prune.scoring.criteria import register_criterion
from har_prune.scoring.score import BlockScore, score_blocks, score_criteria

__all__ = ["BlockScore", "CkaMoments", "linear_cka", "register_criterion", "score_blocks", "score_criteria"]
