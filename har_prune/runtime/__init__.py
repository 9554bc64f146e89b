"""What runs have in common and is no logic of pruning: files, batches, progress, environment, trackers."""
