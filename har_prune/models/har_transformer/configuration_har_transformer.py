"""Configuration of the HAR Transformer. Self-contained: this file travels with every saved checkpoint."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class HarTransformerConfig(PreTrainedConfig):
    """Configuration of an encoder over windows of wearable-sensor samples.

    A window [window_size, num_channels] may pass a stem of strided convolutions; it is cut into patches by a strided
    convolution; the patches pass `num_hidden_layers` residual blocks, are pooled and classified.

    Args:
        num_channels: Sensor channels, e.g. 6 for a three-axis accelerometer and gyroscope.
        window_size: Samples in the longest window; it sizes the table of position embeddings.
        stem_channels: Width of each convolution of the stem, with batch normalisation; every one halves the rate.
        stem_kernel_size: Samples a convolution of the stem sees; odd.
        patch_size: Samples (with a stem: of its output) one patch sees.
        patch_stride: Samples (with a stem: of its output) between the starts of two patches.
        hidden_size: Width of the hidden states; a multiple of `num_attention_heads`.
        num_hidden_layers: Depth: the number of residual blocks.
        num_attention_heads: Attention heads per block.
        intermediate_size: Width of the feed-forward layer.
        block_attention_heads: Attention heads left in each block, one entry a block; None = `num_attention_heads` in
            all. A head is as wide as in a block that has them all.
        block_intermediate_sizes: Width of each block's feed-forward layer, likewise; None = `intermediate_size`.
        hidden_act: Activation of the feed-forward layer, a key of `transformers.activations.ACT2FN`.
        hidden_dropout_prob: Dropout on the embeddings and at the end of each residual branch, in [0, 1).
        attention_probs_dropout_prob: Dropout on the attention probabilities, in [0, 1).
        classifier_dropout: Dropout before the classification head; `hidden_dropout_prob` when None.
        pooling: "mean" over the valid patches, or "cls": a learned token in front of them.
        norm_position: "pre" (normalise the input of each residual branch) or "post" (normalise the sum).
        layer_norm_eps: Epsilon of the layer normalisations.
        initializer_range: Standard deviation of the initial weights.
    """

    model_type = "har_transformer"

    num_channels: int = 6
    window_size: int = 128
    stem_channels: list[int] | tuple[int, ...] = ()
    stem_kernel_size: int = 5
    patch_size: int = 8
    patch_stride: int = 4
    hidden_size: int = 64
    num_hidden_layers: int = 8
    num_attention_heads: int = 4
    intermediate_size: int = 128
    block_attention_heads: list[int] | tuple[int, ...] | None = None
    block_intermediate_sizes: list[int] | tuple[int, ...] | None = None
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.0
    classifier_dropout: float | int | None = None
    pooling: str = "mean"
    norm_position: str = "pre"
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        # One class saves one auto_map entry; a user without the package also wants plain AutoModel.
        modeling = "modeling_har_transformer"
        auto_map = {
            "AutoConfig": "configuration_har_transformer.HarTransformerConfig",
            "AutoModel": f"{modeling}.HarTransformerModel",
            "AutoModelForSequenceClassification": f"{modeling}.HarTransformerForSequenceClassification",
        }
        kwargs.setdefault("auto_map", auto_map)
        super().__post_init__(**kwargs)

    @property
    def num_patches(self) -> int:
        """Patches in a window of `window_size` samples."""
        return (self.stem_samples(self.window_size) - self.patch_size) // self.patch_stride + 1

    def stem_samples(self, samples: int) -> int:
        """What the stem leaves of a number of samples."""
        for _ in self.stem_channels:
            samples = (samples + 1) // 2
        return samples

    def validate_sizes(self):
        """Sizes are positive, a patch fits the window and the heads divide the width."""
        for name in (
            *("num_channels", "window_size", "patch_size", "patch_stride"),
            *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if min(self.stem_channels, default=1) < 1:
            raise ValueError(f"stem_channels={self.stem_channels}: each must be at least 1")
        if self.stem_kernel_size < 1 or self.stem_kernel_size % 2 == 0:
            raise ValueError(f"stem_kernel_size={self.stem_kernel_size}: must be odd")
        if self.patch_size > self.stem_samples(self.window_size):
            behind = f" behind {len(self.stem_channels)} convolutions of stride 2" if self.stem_channels else ""
            raise ValueError(f"patch_size={self.patch_size} does not fit window_size={self.window_size}{behind}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={self.num_attention_heads}"
            )
        for name in ("block_attention_heads", "block_intermediate_sizes"):
            widths = getattr(self, name)
            if widths is not None and (len(widths) != self.num_hidden_layers or min(widths) < 1):
                raise ValueError(
                    f"{name}={list(widths)}: {self.num_hidden_layers} entries, one a block, each at least 1"
                )

    def validate_choices(self):
        """`pooling` and `norm_position` are known words."""
        if self.pooling not in ("mean", "cls"):
            raise ValueError(f"pooling={self.pooling!r}: choose 'mean' or 'cls'")
        if self.norm_position not in ("pre", "post"):
            raise ValueError(f"norm_position={self.norm_position!r}: choose 'pre' or 'post'")


__all__ = ["HarTransformerConfig"]
