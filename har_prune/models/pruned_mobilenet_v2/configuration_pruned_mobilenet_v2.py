"""Configuration of a MobileNetV2 without some blocks. Self-contained: it travels with every checkpoint."""

from huggingface_hub.dataclasses import strict
from transformers import MobileNetV2Config

BLOCKS = 16  # of the stock network, which has no field for their number


@strict
class PrunedMobileNetV2Config(MobileNetV2Config):
    """Configuration of a MobileNetV2 that may lack some of its inverted residual blocks.

    Args:
        kept_blocks: Blocks that are there, as indices into the 16 of the stock network, ascending.
    """

    model_type = "pruned_mobilenet_v2"

    kept_blocks: list[int] | tuple[int, ...] = tuple(range(BLOCKS))

    def __post_init__(self, **kwargs):
        self.kept_blocks = list(self.kept_blocks)
        # One class saves one auto_map entry; a user without the package also wants plain AutoModel.
        kwargs.setdefault(
            "auto_map",
            {
                "AutoConfig": "configuration_pruned_mobilenet_v2.PrunedMobileNetV2Config",
                "AutoModel": "modeling_pruned_mobilenet_v2.PrunedMobileNetV2Model",
                "AutoModelForImageClassification": (
                    "modeling_pruned_mobilenet_v2.PrunedMobileNetV2ForImageClassification"
                ),
            },
        )
        super().__post_init__(**kwargs)

    def validate_kept_blocks(self):
        """Ascending indices of blocks of the stock network."""
        known = set(range(BLOCKS))
        if not self.kept_blocks or list(self.kept_blocks) != sorted(known & set(self.kept_blocks)):
            raise ValueError(f"kept_blocks={list(self.kept_blocks)}: ascending indices from 0 to {BLOCKS - 1}")
