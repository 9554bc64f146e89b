"""Blocks: find them, bypass them, rebuild a model without them."""

from har_prune.blocks.families import Family, register_family
from har_prune.blocks.find import find_blocks
from har_prune.blocks.rebuild import remove_blocks
from har_prune.blocks.stack import Block, BlockStack

__all__ = ["Block", "BlockStack", "Family", "find_blocks", "register_family", "remove_blocks"]
