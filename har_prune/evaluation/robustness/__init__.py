"""How a network does on corrupted, attacked and other data."""
