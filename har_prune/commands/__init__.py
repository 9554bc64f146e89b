"""The console: one file a command of `har-prune`."""
