"""Residual blocks: find them, bypass them, rebuild a model without them."""
