"""The HAR Transformer. Self-contained: this file travels with every saved checkpoint."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput

from .configuration_har_transformer import HarTransformerConfig


class HarTransformerDropout(nn.Dropout):
    """Dropout; on a CPU one random byte decides for an element (p rounded to a 256th), which costs a fraction."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        dropped = round(256 * self.p)
        if not self.training or not dropped or hidden_states.device.type != "cpu":
            return super().forward(hidden_states)
        count = hidden_states.numel()
        numbers = torch.empty((count + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        keep = numbers.view(torch.uint8)[:count].view(hidden_states.shape) >= dropped
        return hidden_states * keep.to(hidden_states.dtype).mul_(256 / (256 - dropped))


class HarTransformerStem(nn.Module):
    """Strided convolutions with batch normalisation. [B, C, T] -> [B, stem_channels[-1], T / 2 ** len(stem_channels)].

    What pads a short window stays zero behind every convolution, so that it is seen as the edge of the window is.
    """

    def __init__(self, config: HarTransformerConfig):
        super().__init__()
        self.layers, width, size = nn.ModuleList(), config.num_channels, config.stem_kernel_size
        for wider in config.stem_channels:
            convolution = nn.Conv1d(width, wider, size, stride=2, padding=size // 2, bias=False)
            self.layers.append(nn.Sequential(convolution, nn.BatchNorm1d(wider)))
            width = wider
        self.act = ACT2FN[config.hidden_act]

    def forward(self, signal: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Signal [B, C, T], mask [B, T] of bool."""
        if mask is not None:
            signal = signal * mask[:, None]
        for layer in self.layers:
            signal = self.act(layer(signal))
            if mask is not None:
                mask = mask[:, ::2]
                signal = signal * mask[:, None]
        return signal, mask


class HarTransformerEmbeddings(nn.Module):
    """Cuts windows into patches and adds positions."""

    def __init__(self, config: HarTransformerConfig):
        super().__init__()
        self.config = config
        self.stem = HarTransformerStem(config) if config.stem_channels else None
        width = config.stem_channels[-1] if config.stem_channels else config.num_channels
        self.projection = nn.Conv1d(width, config.hidden_size, config.patch_size, config.patch_stride)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if config.pooling == "cls" else None
        self.position_embeddings = nn.Parameter(torch.zeros(1, config.num_patches, config.hidden_size))
        self.dropout = HarTransformerDropout(config.hidden_dropout_prob)

    def forward(self, input_values: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Windows [B, T, C] and mask [B, T] -> patches [B, P (+ 1), hidden_size] and their mask [B, P (+ 1)]."""
        config = self.config
        if input_values.ndim != 3 or input_values.shape[2] != config.num_channels:
            raise ValueError(
                f"input_values has shape {tuple(input_values.shape)}; expected [batch, samples, {config.num_channels}]"
            )
        shortest = (config.patch_size - 1) * 2 ** len(config.stem_channels) + 1
        if not shortest <= input_values.shape[1] <= config.window_size:
            raise ValueError(
                f"a window has {input_values.shape[1]} samples; this model takes {shortest} to "
                f"{config.window_size}. Cut or pad it with HarFeatureExtractor."
            )
        signal, mask = input_values.transpose(1, 2), None if attention_mask is None else attention_mask.bool()
        if self.stem is not None:
            signal, mask = self.stem(signal, mask)
        hidden_states = self.projection(signal).transpose(1, 2)
        hidden_states = hidden_states + self.position_embeddings[:, : hidden_states.shape[1]]
        if self.cls_token is not None:
            hidden_states = torch.cat([self.cls_token.expand(hidden_states.shape[0], -1, -1), hidden_states], dim=1)
        return self.dropout(hidden_states), None if mask is None else self.patch_mask(mask)

    def patch_mask(self, mask: Tensor) -> Tensor:
        """[B, T] -> [B, P (+ 1)], True where a patch lies wholly inside the window.

        The first patch always counts, so that no window is without one.
        """
        mask = mask.unfold(1, self.config.patch_size, self.config.patch_stride).all(dim=-1)
        first = torch.ones_like(mask[:, :1])
        mask = torch.cat([first, mask[:, 1:]], dim=1)
        return torch.cat([first, mask], dim=1) if self.cls_token is not None else mask


class HarTransformerAttention(nn.Module):
    """Multi-head self-attention: SDPA, or written out when the probabilities are asked for."""

    def __init__(self, config: HarTransformerConfig, heads: int):
        super().__init__()
        self.config = config
        self.num_attention_heads = heads
        self.dropout_prob = config.attention_probs_dropout_prob
        width = heads * (config.hidden_size // config.num_attention_heads)
        self.query = nn.Linear(config.hidden_size, width)
        self.key = nn.Linear(config.hidden_size, width)
        self.value = nn.Linear(config.hidden_size, width)
        self.output = nn.Linear(width, config.hidden_size)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """[B, P, H], mask [B, 1, 1, P] of bool -> [B, P, H] and, on request, probabilities [B, heads, P, P]."""
        heads = (*hidden_states.shape[:2], self.num_attention_heads, -1)
        query, key, value = (
            layer(hidden_states).view(heads).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        dropout = self.dropout_prob if self.training else 0.0
        probabilities = None
        if output_attentions or self.config._attn_implementation == "eager":
            scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
            if attention_mask is not None:
                scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
            probabilities = nn.functional.dropout(scores.softmax(dim=-1), dropout)
            context = probabilities @ value
        else:
            context = nn.functional.scaled_dot_product_attention(query, key, value, attention_mask, dropout)
        return self.output(context.transpose(1, 2).flatten(2)), probabilities if output_attentions else None


class HarTransformerLayer(GradientCheckpointingLayer):
    """One residual block: attention and feed-forward, each on a shortcut. [B, P, H] -> [B, P, H]."""

    def __init__(self, config: HarTransformerConfig, index: int):
        super().__init__()
        heads, width = config.num_attention_heads, config.intermediate_size
        if config.block_attention_heads is not None:
            heads = config.block_attention_heads[index]
        if config.block_intermediate_sizes is not None:
            width = config.block_intermediate_sizes[index]
        self.pre_norm = config.norm_position == "pre"
        self.attention = HarTransformerAttention(config, heads)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.hidden_size, width),
            ACT2FN[config.hidden_act],
            nn.Linear(width, config.hidden_size),
        )
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = HarTransformerDropout(config.hidden_dropout_prob)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        branch = self.attention_norm(hidden_states) if self.pre_norm else hidden_states
        branch, probabilities = self.attention(branch, attention_mask, output_attentions)
        hidden_states = hidden_states + self.dropout(branch)
        if not self.pre_norm:
            hidden_states = self.attention_norm(hidden_states)
        branch = self.feed_forward_norm(hidden_states) if self.pre_norm else hidden_states
        hidden_states = hidden_states + self.dropout(self.feed_forward(branch))
        if not self.pre_norm:
            hidden_states = self.feed_forward_norm(hidden_states)
        return hidden_states, probabilities


class HarTransformerPreTrainedModel(PreTrainedModel):
    config_class = HarTransformerConfig
    base_model_prefix = "har_transformer"
    main_input_name = "input_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["HarTransformerLayer"]  # noqa: RUF012 (transformers' own spelling)

    def _get_feature_vector_attention_mask(self, feature_vector_length: int, attention_mask: Tensor) -> Tensor:
        """Mask [B, T] -> of patches, [B, P (+ 1)]; named as in transformers' speech models."""
        mask = attention_mask[:, :: 2 ** len(self.config.stem_channels)].bool()
        return self.base_model.embeddings.patch_mask(mask)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, HarTransformerEmbeddings):
            nn.init.trunc_normal_(module.position_embeddings, std=self.config.initializer_range)
            if module.cls_token is not None:
                nn.init.trunc_normal_(module.cls_token, std=self.config.initializer_range)


class HarTransformerModel(HarTransformerPreTrainedModel):
    """The encoder without a head."""

    def __init__(self, config: HarTransformerConfig):
        super().__init__(config)
        self.embeddings = HarTransformerEmbeddings(config)
        self.layers = nn.ModuleList([HarTransformerLayer(config, i) for i in range(config.num_hidden_layers)])
        # The blocks of a post-norm encoder end in a normalisation of their own.
        self.norm = (
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
            if config.norm_position == "pre"
            else nn.Identity()
        )
        self.post_init()

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPooling | tuple:
        """Encodes windows.

        Args:
            input_values: Normalised windows, [B, T, C] with T from `patch_size` to `window_size`.
            attention_mask: [B, T], 1 where a sample is real and 0 where it pads a short window.
            output_hidden_states: Also return the embeddings and the output of every block.
            output_attentions: Also return the attention probabilities of every block.
            return_dict: False returns a plain tuple.

        Returns:
            `last_hidden_state` [B, P, H] and `pooler_output` [B, H]; `hidden_states` has
            num_hidden_layers + 1 entries, before the final normalisation.
        """
        config = self.config
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        return_dict = config.return_dict if return_dict is None else return_dict

        hidden_states, mask = self.embeddings(input_values, attention_mask)
        all_hidden_states, all_attentions = [hidden_states], []
        for layer in self.layers:
            hidden_states, attention = layer(
                hidden_states, None if mask is None else mask[:, None, None, :], bool(output_attentions)
            )
            all_hidden_states.append(hidden_states)
            all_attentions.append(attention)
        hidden_states = self.norm(hidden_states)

        output = BaseModelOutputWithPooling(
            last_hidden_state=hidden_states,
            pooler_output=self.pool(hidden_states, mask),
            hidden_states=tuple(all_hidden_states) if output_hidden_states else None,
            attentions=tuple(all_attentions) if output_attentions else None,
        )
        return output if return_dict else output.to_tuple()

    def pool(self, hidden_states: Tensor, mask: Tensor | None) -> Tensor:
        """[B, P, H] -> [B, H]: the class token, or the mean over valid patches."""
        if self.config.pooling == "cls":
            return hidden_states[:, 0]
        if mask is None:
            return hidden_states.mean(dim=1)
        weights = mask.to(hidden_states.dtype)[..., None]
        return (hidden_states * weights).sum(dim=1) / weights.sum(dim=1)


class HarTransformerForSequenceClassification(HarTransformerPreTrainedModel):
    """The encoder with a linear classification head on the pooled features."""

    def __init__(self, config: HarTransformerConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.har_transformer = HarTransformerModel(config)
        dropout = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple:
        """Classifies windows; arguments as in `HarTransformerModel.forward`.

        Args:
            input_values: [B, T, C].
            attention_mask: [B, T].
            labels: Class indices, [B]; with them the output has a `loss`.
            output_hidden_states: Also return the hidden states.
            output_attentions: Also return the attention probabilities.
            return_dict: False returns a plain tuple.

        Returns:
            `logits` [B, num_labels] and, with labels, `loss`.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        encoded = self.har_transformer(
            input_values, attention_mask, output_hidden_states, output_attentions, return_dict=True
        )
        logits = self.classifier(self.dropout(encoded.pooler_output))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        output = SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )
        return output if return_dict else output.to_tuple()


__all__ = ["HarTransformerForSequenceClassification", "HarTransformerModel", "HarTransformerPreTrainedModel"]
