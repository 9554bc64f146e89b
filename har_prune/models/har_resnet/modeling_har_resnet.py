"""The HAR ResNet. Self-contained: this file travels with every saved checkpoint."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndNoAttention, SequenceClassifierOutput

from .configuration_har_resnet import HarResNetConfig


def convolution(in_channels: int, out_channels: int, size: int, stride: int = 1) -> nn.Conv1d:
    return nn.Conv1d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)


def batch_norm(config: HarResNetConfig, channels: int) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(channels, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum)


class HarResNetLayer(nn.Module):
    """Basic residual block: two convolutions; post-activation. [B, C, T] -> [B, C', T / stride]."""

    def __init__(self, config: HarResNetConfig, in_channels: int, out_channels: int, stride: int, inner: int):
        super().__init__()
        self.conv1 = convolution(in_channels, inner, config.kernel_size, stride)
        self.norm1 = batch_norm(config, inner)
        self.conv2 = convolution(inner, out_channels, config.kernel_size)
        self.norm2 = batch_norm(config, out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if (in_channels, stride) != (out_channels, 1):
            projection = nn.Conv1d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, batch_norm(config, out_channels))

    def forward(self, hidden_states: Tensor, mask: Tensor | None = None) -> Tensor:
        """Hidden states [B, C, T] and the mask of the output, [B, 1, T / stride]: what pads a window stays zero."""
        branch = nn.functional.relu(self.norm1(self.conv1(hidden_states)), inplace=True)
        if mask is not None:
            branch = branch * mask
        branch = self.norm2(self.conv2(branch))
        branch += self.shortcut(hidden_states)
        branch = nn.functional.relu(branch, inplace=True)
        return branch if mask is None else branch * mask


class HarResNetStage(nn.Module):
    """Blocks of one width."""

    def __init__(self, layers: list[HarResNetLayer]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, hidden_states: Tensor, mask: Tensor | None) -> Tensor:
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask)
        return hidden_states


class HarResNetEncoder(nn.Module):
    def __init__(self, config: HarResNetConfig):
        super().__init__()
        self.stages = nn.ModuleList()
        width, blocks = config.hidden_sizes[0], 0
        for stage, (wider, depth) in enumerate(zip(config.hidden_sizes, config.depths)):  # noqa: B905 (as transformers)
            inner = [wider] * depth
            if config.inner_sizes is not None:
                inner = list(config.inner_sizes[blocks : blocks + depth])
            first = HarResNetLayer(config, width, wider, 1 if stage == 0 else 2, inner[0])
            rest = [HarResNetLayer(config, wider, wider, 1, between) for between in inner[1:]]
            self.stages.append(HarResNetStage([first, *rest]))
            width, blocks = wider, blocks + depth

    def forward(self, hidden_states: Tensor, mask: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
        """Input and output of every stage, and the mask of the last, [B, 1, T']."""
        outputs = [hidden_states]
        for number, stage in enumerate(self.stages):
            if mask is not None and number:
                mask = mask[..., ::2]
            hidden_states = stage(hidden_states, mask)
            outputs.append(hidden_states)
        return outputs, mask


class HarResNetPreTrainedModel(PreTrainedModel):
    config_class = HarResNetConfig
    base_model_prefix = "har_resnet"
    main_input_name = "input_values"
    _no_split_modules = ["HarResNetLayer"]  # noqa: RUF012 (transformers' own spelling)

    def _get_feature_vector_attention_mask(self, feature_vector_length: int, attention_mask: Tensor) -> Tensor:
        """Mask [B, T] -> of a stage, [B, T'], as the encoder halves it; named as in transformers' speech models."""
        while attention_mask.shape[1] > feature_vector_length:
            attention_mask = attention_mask[:, ::2]
        return attention_mask

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, nn.Conv1d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class HarResNetModel(HarResNetPreTrainedModel):
    """The network up to the mean over time."""

    def __init__(self, config: HarResNetConfig):
        super().__init__(config)
        self.stem = convolution(config.num_channels, config.hidden_sizes[0], config.stem_kernel_size)
        self.stem_norm = batch_norm(config, config.hidden_sizes[0])
        self.encoder = HarResNetEncoder(config)
        self.post_init()

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPoolingAndNoAttention | tuple:
        """Encodes windows.

        Args:
            input_values: Normalised windows, [B, T, C] with T up to `window_size`.
            attention_mask: [B, T], 1 where a sample is real and 0 where it pads a short window.
            output_hidden_states: Also return the stem's output and the output of every stage.
            return_dict: False returns a plain tuple.

        Returns:
            `last_hidden_state` [B, D, T'] and `pooler_output` [B, D], D the width of the last stage.

        Raises:
            ValueError: The windows have other channels, or are too long.
        """
        config = self.config
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return_dict = config.return_dict if return_dict is None else return_dict
        if input_values.ndim != 3 or input_values.shape[2] != config.num_channels:
            raise ValueError(
                f"input_values has shape {tuple(input_values.shape)}; expected [batch, samples, {config.num_channels}]"
            )
        if not 1 <= input_values.shape[1] <= config.window_size:
            raise ValueError(
                f"a window has {input_values.shape[1]} samples; this model takes 1 to {config.window_size}. Cut or "
                "pad it with HarFeatureExtractor."
            )
        signal, mask = input_values.transpose(1, 2), None
        if attention_mask is not None:
            mask = attention_mask[:, None].to(signal.dtype)
            signal = signal * mask
        hidden_states = nn.functional.relu(self.stem_norm(self.stem(signal)), inplace=True)
        if mask is not None:
            hidden_states = hidden_states * mask
        outputs, mask = self.encoder(hidden_states, mask)
        last = outputs[-1]
        output = BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=last,
            pooler_output=last.mean(dim=2) if mask is None else last.sum(dim=2) / mask.sum(dim=2).clamp(min=1),
            hidden_states=tuple(outputs) if output_hidden_states else None,
        )
        return output if return_dict else output.to_tuple()


class HarResNetForSequenceClassification(HarResNetPreTrainedModel):
    """The network with its linear classification head."""

    def __init__(self, config: HarResNetConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.har_resnet = HarResNetModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_sizes[-1], config.num_labels)
        self.post_init()

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple:
        """Classifies windows; arguments as in `HarResNetModel.forward`.

        Args:
            input_values: [B, T, C].
            attention_mask: [B, T].
            labels: Class indices, [B]; with them the output has a `loss`.
            output_hidden_states: Also return the stem's output and the output of every stage.
            return_dict: False returns a plain tuple.

        Returns:
            `logits` [B, num_labels] and, with labels, `loss`.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        encoded = self.har_resnet(input_values, attention_mask, output_hidden_states, return_dict=True)
        logits = self.classifier(self.dropout(encoded.pooler_output))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        output = SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)
        return output if return_dict else output.to_tuple()


__all__ = ["HarResNetForSequenceClassification", "HarResNetModel", "HarResNetPreTrainedModel"]
