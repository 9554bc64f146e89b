"""Models of har_prune itself; they know nothing of pruning."""
