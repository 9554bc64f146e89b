"""Configuration of the CIFAR ResNet. Self-contained: this file travels with every saved checkpoint."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class CifarResNetConfig(PreTrainedConfig):
    """Configuration of a ResNet for 32x32 images: ResNet-20, -32, -44, -56, -110 and what pruning leaves of them.

    Source: He et al. 2015, arXiv:1512.03385, section 4.2.

    Args:
        num_channels: Channels of the images.
        image_size: Height and width of the images in pixels.
        hidden_sizes: Width of each stage. The first is also the width of the stem.
        depths: Residual blocks in each stage; ResNet-(6n+2) has (n, n, n).
        inner_sizes: Width between the two convolutions of each block, one entry a block through all stages; None =
            that of its stage.
        padding: "symmetric" (PyTorch's) or "tensorflow" ("same": a stride-2 convolution pads 0 before and 1 after).
        shortcut: Where the width changes: "projection" (1x1 convolution) or "zero_pad" (subsample, pad channels).
        projection_norm: Batch normalisation behind the projection.
        conv_bias: Biases in the convolutions.
        subtract_pixel_mean: Subtract a stored mean image [num_channels, image_size, image_size] first.
        batch_norm_eps: Epsilon of the batch normalisations.
        batch_norm_momentum: Share of the newest batch in the running statistics.
    """

    model_type = "cifar_resnet"

    num_channels: int = 3
    image_size: int = 32
    hidden_sizes: list[int] | tuple[int, ...] = (16, 32, 64)
    depths: list[int] | tuple[int, ...] = (9, 9, 9)
    inner_sizes: list[int] | tuple[int, ...] | None = None
    padding: str = "symmetric"
    shortcut: str = "projection"
    projection_norm: bool = True
    conv_bias: bool = False
    subtract_pixel_mean: bool = False
    batch_norm_eps: float = 1e-5
    batch_norm_momentum: float = 0.1

    def __post_init__(self, **kwargs):
        self.hidden_sizes, self.depths = list(self.hidden_sizes), list(self.depths)
        # One class saves one auto_map entry; a user without the package also wants plain AutoModel.
        kwargs.setdefault(
            "auto_map",
            {
                "AutoConfig": "configuration_cifar_resnet.CifarResNetConfig",
                "AutoModel": "modeling_cifar_resnet.CifarResNetModel",
                "AutoModelForImageClassification": "modeling_cifar_resnet.CifarResNetForImageClassification",
            },
        )
        super().__post_init__(**kwargs)

    def validate_stages(self):
        """Every stage has a width and at least one block."""
        if not self.depths or len(self.depths) != len(self.hidden_sizes) or min(self.depths) < 1:
            raise ValueError(
                f"depths={list(self.depths)} and hidden_sizes={list(self.hidden_sizes)}: one entry a stage, "
                "each depth at least 1"
            )
        inner = self.inner_sizes
        if inner is not None and (len(inner) != sum(self.depths) or min(inner) < 1):
            raise ValueError(
                f"inner_sizes={list(inner)}: one entry for each of the {sum(self.depths)} blocks, each at least 1"
            )

    def validate_choices(self):
        """`padding` and `shortcut` are known words."""
        if self.padding not in ("symmetric", "tensorflow"):
            raise ValueError(f"padding={self.padding!r}: choose 'symmetric' or 'tensorflow'")
        if self.shortcut not in ("projection", "zero_pad"):
            raise ValueError(f"shortcut={self.shortcut!r}: choose 'projection' or 'zero_pad'")


__all__ = ["CifarResNetConfig"]
