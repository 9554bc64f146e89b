"""Configuration of the HAR ResNet. Self-contained: this file travels with every saved checkpoint."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class HarResNetConfig(PreTrainedConfig):
    """Configuration of a one-dimensional residual network over windows of wearable-sensor samples.

    Args:
        num_channels: Sensor channels, e.g. 6 for a three-axis accelerometer and gyroscope.
        window_size: Samples in the longest window.
        hidden_sizes: Width of each stage. The first is also the width of the stem; every later stage halves the rate.
        depths: Residual blocks in each stage.
        inner_sizes: Width between the two convolutions of each block, one entry a block through all stages; None =
            that of its stage.
        stem_kernel_size: Samples the first convolution sees; odd.
        kernel_size: Samples the other convolutions see; odd.
        classifier_dropout: Dropout before the classification head, in [0, 1).
        batch_norm_eps: Epsilon of the batch normalisations.
        batch_norm_momentum: Share of the newest batch in the running statistics.
    """

    model_type = "har_resnet"

    num_channels: int = 6
    window_size: int = 128
    hidden_sizes: list[int] | tuple[int, ...] = (32, 64, 128)
    depths: list[int] | tuple[int, ...] = (3, 3, 3)
    inner_sizes: list[int] | tuple[int, ...] | None = None
    stem_kernel_size: int = 7
    kernel_size: int = 5
    classifier_dropout: float | int = 0.2
    batch_norm_eps: float = 1e-5
    batch_norm_momentum: float = 0.1

    def __post_init__(self, **kwargs):
        self.hidden_sizes, self.depths = list(self.hidden_sizes), list(self.depths)
        # One class saves one auto_map entry; a user without the package also wants plain AutoModel.
        kwargs.setdefault(
            "auto_map",
            {
                "AutoConfig": "configuration_har_resnet.HarResNetConfig",
                "AutoModel": "modeling_har_resnet.HarResNetModel",
                "AutoModelForSequenceClassification": "modeling_har_resnet.HarResNetForSequenceClassification",
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
        if min(self.num_channels, self.window_size, *self.hidden_sizes) < 1:
            raise ValueError("num_channels, window_size and hidden_sizes must be at least 1")

    def validate_kernels(self):
        """Kernels are odd, so that a convolution keeps the number of samples."""
        for name in ("stem_kernel_size", "kernel_size"):
            if getattr(self, name) < 1 or getattr(self, name) % 2 == 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be odd")


__all__ = ["HarResNetConfig"]
