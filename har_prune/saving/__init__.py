"""Saving a pruned network so that it certainly loads back, and loading with errors a person can act on."""

from har_prune.saving.loading import load_model, load_processor
from har_prune.saving.verified import auto_class_of, save_pruned

__all__ = ["auto_class_of", "load_model", "load_processor", "save_pruned"]
