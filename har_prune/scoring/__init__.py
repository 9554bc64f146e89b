"""Importance of blocks: CKA from streaming moments, the sweep that feeds it, the registry of criteria."""

from har_prune.scoring.cka import CkaMoments, linear_cka
from har_prune.scoring.criteria import register_criterion
from har_prune.scoring.score import BlockScore, score_blocks

__all__ = ["BlockScore", "CkaMoments", "linear_cka", "register_criterion", "score_blocks"]
