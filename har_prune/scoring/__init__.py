"""Importance of blocks: the sweep that measures, statistics that add up, races."""
