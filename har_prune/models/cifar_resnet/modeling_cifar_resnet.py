"""The CIFAR ResNet. Self-contained: this file travels with every saved checkpoint."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import (
    BaseModelOutputWithPoolingAndNoAttention,
    ImageClassifierOutputWithNoAttention,
)

from .configuration_cifar_resnet import CifarResNetConfig


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: an odd pixel of padding goes behind, not in front."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        padding = []
        for size, kernel, stride in zip(hidden_states.shape[:1:-1], self.kernel_size, self.stride, strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(nn.functional.pad(hidden_states, padding))


def conv3x3(config: CifarResNetConfig, in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    # At stride 1 both paddings are one pixel on every side, and Conv2d pads without a copy.
    if config.padding == "tensorflow" and stride > 1:
        return SameConv2d(in_channels, out_channels, 3, stride, bias=config.conv_bias)
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=config.conv_bias)


def batch_norm(config: CifarResNetConfig, channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum)


class ZeroPadShortcut(nn.Module):
    """Subsamples space and pads channels with zeros; no parameters (option A of He et al.)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.extra_channels, self.stride = out_channels - in_channels, stride

    def forward(self, hidden_states: Tensor) -> Tensor:
        hidden_states = hidden_states[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(hidden_states, (0, 0, 0, 0, 0, self.extra_channels))


class CifarResNetLayer(nn.Module):
    """Basic residual block: two 3x3 convolutions; post-activation. [B, C, H, W] -> [B, C', H/stride, W/stride]."""

    def __init__(self, config: CifarResNetConfig, in_channels: int, out_channels: int, stride: int, inner: int):
        super().__init__()
        self.conv1 = conv3x3(config, in_channels, inner, stride)
        self.norm1 = batch_norm(config, inner)
        self.conv2 = conv3x3(config, inner, out_channels)
        self.norm2 = batch_norm(config, out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if (in_channels, stride) != (out_channels, 1):
            if config.shortcut == "zero_pad":
                self.shortcut = ZeroPadShortcut(in_channels, out_channels, stride)
            else:
                projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=config.conv_bias)
                norm = [batch_norm(config, out_channels)] if config.projection_norm else []
                self.shortcut = nn.Sequential(projection, *norm)

    def forward(self, hidden_states: Tensor) -> Tensor:
        # In place on tensors made here: on a CPU fresh memory costs as much as the arithmetic.
        branch = nn.functional.relu(self.norm1(self.conv1(hidden_states)), inplace=True)
        branch = self.norm2(self.conv2(branch))
        branch += self.shortcut(hidden_states)
        return nn.functional.relu(branch, inplace=True)


class CifarResNetStage(nn.Module):
    """Blocks of one width; the first may change width and halve the resolution."""

    def __init__(self, config: CifarResNetConfig, in_channels: int, out_channels: int, stride: int, inner: list[int]):
        super().__init__()
        first = CifarResNetLayer(config, in_channels, out_channels, stride, inner[0])
        rest = [CifarResNetLayer(config, out_channels, out_channels, 1, width) for width in inner[1:]]
        self.layers = nn.Sequential(first, *rest)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.layers(hidden_states)


class CifarResNetEmbeddings(nn.Module):
    """The stem: an optional mean image, one 3x3 convolution."""

    def __init__(self, config: CifarResNetConfig):
        super().__init__()
        self.num_channels = config.num_channels
        self.pixel_mean: Tensor | None
        shape = (config.num_channels, config.image_size, config.image_size)
        # Persistent: from_pretrained leaves other buffers uninitialised.
        self.register_buffer("pixel_mean", torch.zeros(shape) if config.subtract_pixel_mean else None)
        self.convolution = conv3x3(config, config.num_channels, config.hidden_sizes[0])
        self.normalization = batch_norm(config, config.hidden_sizes[0])

    def forward(self, pixel_values: Tensor) -> Tensor:
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.num_channels:
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; expected [batch, {self.num_channels}, H, W]"
            )
        if self.pixel_mean is not None:
            pixel_values = pixel_values - self.pixel_mean
        return nn.functional.relu(self.normalization(self.convolution(pixel_values)), inplace=True)


class CifarResNetEncoder(nn.Module):
    def __init__(self, config: CifarResNetConfig):
        super().__init__()
        widths = [config.hidden_sizes[0], *config.hidden_sizes]
        self.stages = nn.ModuleList()
        blocks = 0
        for stage, depth in enumerate(config.depths):
            inner = [widths[stage + 1]] * depth
            if config.inner_sizes is not None:
                inner = list(config.inner_sizes[blocks : blocks + depth])
            stride = 1 if stage == 0 else 2
            self.stages.append(CifarResNetStage(config, widths[stage], widths[stage + 1], stride, inner))
            blocks += depth

    def forward(self, hidden_states: Tensor) -> list[Tensor]:
        """Returns the input and the output of every stage."""
        outputs = [hidden_states]
        for stage in self.stages:
            outputs.append(stage(outputs[-1]))
        return outputs


class CifarResNetPreTrainedModel(PreTrainedModel):
    config_class = CifarResNetConfig
    base_model_prefix = "cifar_resnet"
    main_input_name = "pixel_values"
    _no_split_modules = ["CifarResNetLayer"]  # noqa: RUF012 (transformers' own spelling)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, CifarResNetEmbeddings) and isinstance(module.pixel_mean, Tensor):
            nn.init.zeros_(module.pixel_mean)


class CifarResNetModel(CifarResNetPreTrainedModel):
    """The network up to the global average pool."""

    def __init__(self, config: CifarResNetConfig):
        super().__init__(config)
        self.embedder = CifarResNetEmbeddings(config)
        self.encoder = CifarResNetEncoder(config)
        self.pooler = nn.AdaptiveAvgPool2d((1, 1))
        self.post_init()

    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool | None = None, return_dict: bool | None = None
    ) -> BaseModelOutputWithPoolingAndNoAttention | tuple:
        """Encodes images.

        Args:
            pixel_values: [B, C, H, W].
            output_hidden_states: Also return the stem's output and the output of every stage.
            return_dict: False returns a plain tuple.

        Returns:
            `last_hidden_state` [B, D, H', W'] and `pooler_output` [B, D, 1, 1], D the width of the last stage.
        """
        config = self.config
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return_dict = config.return_dict if return_dict is None else return_dict
        hidden_states = self.encoder(self.embedder(pixel_values))
        output = BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=hidden_states[-1],
            pooler_output=self.pooler(hidden_states[-1]),
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
        )
        return output if return_dict else output.to_tuple()


class CifarResNetForImageClassification(CifarResNetPreTrainedModel):
    """The network with its linear classification head."""

    def __init__(self, config: CifarResNetConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.cifar_resnet = CifarResNetModel(config)
        self.classifier = nn.Linear(config.hidden_sizes[-1], config.num_labels)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ImageClassifierOutputWithNoAttention | tuple:
        """Classifies images.

        Args:
            pixel_values: [B, C, H, W].
            labels: Class indices, [B]; with them the output has a `loss`.
            output_hidden_states: Also return the stem's output and the output of every stage.
            return_dict: False returns a plain tuple.

        Returns:
            `logits` [B, num_labels] and, with labels, `loss`.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        encoded = self.cifar_resnet(pixel_values, output_hidden_states, return_dict=True)
        logits = self.classifier(encoded.pooler_output.flatten(1))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        output = ImageClassifierOutputWithNoAttention(loss=loss, logits=logits, hidden_states=encoded.hidden_states)
        return output if return_dict else output.to_tuple()


__all__ = ["CifarResNetForImageClassification", "CifarResNetModel", "CifarResNetPreTrainedModel"]
