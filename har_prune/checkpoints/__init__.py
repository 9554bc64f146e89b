"""Checkpoints: load with clear errors, save verified, push, convert, and where a network comes from."""
