"""Importance criteria and their registry (`base`): of representations, of blocks, of weights."""
