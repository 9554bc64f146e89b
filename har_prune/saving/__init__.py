"""Saving a pruned network so that it certainly loads back."""

from har_prune.auto_class import auto_class_of
from har_prune.saving.verified import save_pruned

__all__ = ["auto_class_of", "save_pruned"]
