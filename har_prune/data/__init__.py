"""Data: load a data set by folder or Hub name, split it without leaks, transform and serve batches."""
