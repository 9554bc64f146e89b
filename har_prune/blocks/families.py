"""The registry of block families, keyed by `config.model_type`.

A family is data about one architecture: where its residual blocks are and which config fields must change when
some of them go. To add one, write a function from the config to a `Family` and decorate it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from har_prune.errors import did_you_mean
from har_prune.models.pruned_mobilenet_v2 import PRUNED_CLASSES

# What configs of backbones compute: one name a stage, which stays, or one a block, which has to be computed anew.
_STAGES = ("stage_names", "out_features", "out_indices")


def _any_block(stage: int, position: int, block: nn.Module) -> str | None:
    return None


@dataclass(frozen=True)
class WidthKind:
    """A width inside the blocks of an architecture: units that can be taken out, and how the config counts them.

    Args:
        name: What the units are: "channels", "intermediate" (feed-forward units), "heads".
        rows: Modules inside a block that make the units, in equal parts of dimension 0 of what they hold: of weights,
            biases and statistics of a normalisation. Several for gated feed-forwards, and for query, key and value.
        columns: Modules that read them, in equal parts of dimension 1 of their weights.
        fields: Config fields in proportion to the number of units. One value for all blocks, or with `per_block` a
            list with one entry a block.
        per_block: Whether blocks may differ.
        counted_by: Config field with the number of units of a block. None = `columns` reads one column a unit.
        counted_in: Likewise, dotted path below a block of the attribute that holds it.
        scope: Module inside a block all of whose work is in proportion to the units; None = `rows` and `columns` are.
    """

    name: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    fields: tuple[str, ...]
    per_block: bool = False
    counted_by: str | None = None
    counted_in: str | None = None
    scope: str | None = None


@dataclass(frozen=True)
class Family:
    """Where the blocks of an architecture are and how its config tells their number.

    Args:
        containers: Dotted path, below the base model, of the module list that holds the blocks. One `*` stands for
            the children of a list: "encoder.stages.*.layers" is one stage a match, in order.
        depth_field: Config field with the depth: an int, or for a family with stages the list of depths. None where
            the depth is the length of a per-layer list.
        per_layer_fields: Config lists with one entry a block; they lose the entries of the removed blocks.
        index_fields: Config lists of places of blocks, such as those with another kind of attention: removed blocks
            leave them, and the others get their new places.
        unrelated_fields: Config lists that are neither, though they may be as long as the model is deep, or be called
            like places of blocks.
        derived_fields: Config fields the config class computes from the depth; dropped before rebuilding.
        why_fixed: (stage, position in stage, block) -> why this block can never go, or None.
        period: Blocks of a stage alternate with this period (Swin: 2, plain and shifted windows), so what is left
            must keep its place in it. Such blocks go together with the next `period - 1`.
        example_inputs: config -> inputs for one small forward, where the generic ones do not fit.
        rebuilt_as: Class of a model -> the class a smaller one has, where the stock config cannot say which blocks
            are left.
        widths: What can be narrowed inside the blocks, as far as the config can say so.
    """

    containers: str
    depth_field: str | None
    per_layer_fields: tuple[str, ...] = ()
    index_fields: tuple[str, ...] = ()
    unrelated_fields: tuple[str, ...] = ()
    derived_fields: tuple[str, ...] = ()
    why_fixed: Callable[[int, int, nn.Module], str | None] = _any_block
    period: int = 1
    example_inputs: Callable[[Any], dict] | None = None
    rebuilt_as: Mapping[type, type] = field(default_factory=dict)
    widths: tuple[WidthKind, ...] = ()


_FAMILIES: dict[str, Callable[[Any], Family]] = {}


def register_family(model_type: str) -> Callable[[Callable[[Any], Family]], Callable[[Any], Family]]:
    """Decorator: registers a function from a config to its `Family` under a `config.model_type`.

    Raises:
        ValueError: The model type has a family already.
    """

    def register(describe: Callable[[Any], Family]) -> Callable[[Any], Family]:
        if model_type in _FAMILIES:
            raise ValueError(f"model_type={model_type!r} has a family already: {_FAMILIES[model_type].__qualname__}")
        _FAMILIES[model_type] = describe
        return describe

    return register


def registered_families() -> list[str]:
    """Names of all model types with a family, sorted."""
    return sorted(_FAMILIES)


def family_of(config: PreTrainedConfig) -> Family | None:
    """The family of a config, or None when nobody wrote one down."""
    describe = _FAMILIES.get(config.model_type)
    return describe(config) if describe else None


def unknown_family(config: PreTrainedConfig) -> str:
    """What is said of a model that has neither a family nor blocks the probe could find."""
    known = registered_families()
    return (
        f"no block family for model_type={config.model_type!r} (known: {', '.join(known)}), and the probe found no "
        f"residual blocks.{did_you_mean(config.model_type, known)} To add one, see register_family."
    )


_CHANGES_SHAPE = "it changes the width or the resolution of the hidden state"


def _with_projection(stage: int, position: int, block: nn.Module) -> str | None:
    return None if isinstance(block.shortcut, nn.Identity) else _CHANGES_SHAPE


def _without_shortcut(stage: int, position: int, block: nn.Module) -> str | None:
    return None if block.use_residual else _CHANGES_SHAPE


def _feed_forward(into: tuple[str, ...], out: str, field: str = "intermediate_size") -> WidthKind:
    return WidthKind("intermediate", into, (out,), (field,))


_VIT_FEED_FORWARD = _feed_forward(("mlp.fc1",), "mlp.fc2")
_BERT_FEED_FORWARD = _feed_forward(("intermediate.dense",), "output.dense")
_GATED_FEED_FORWARD = _feed_forward(("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj")
# A query group goes with its key and value head. Only where the width of a head is a field of its own.
_GROUPED_HEADS = WidthKind(
    "heads",
    rows=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    columns=("self_attn.o_proj",),
    fields=("num_attention_heads", "num_key_value_heads"),
    counted_by="num_key_value_heads",
    scope="self_attn",
)


# har_prune's own


@register_family("har_transformer")
def _har_transformer(config: PreTrainedConfig) -> Family:
    widths = (
        WidthKind(
            "intermediate", ("feed_forward.0",), ("feed_forward.2",), ("block_intermediate_sizes",), per_block=True
        ),
        WidthKind(
            "heads",
            rows=("attention.query", "attention.key", "attention.value"),
            columns=("attention.output",),
            fields=("block_attention_heads",),
            per_block=True,
            counted_in="attention.num_attention_heads",
            scope="attention",
        ),
    )
    fields = tuple(field for kind in widths for field in kind.fields)
    stem = ("stem_channels",)
    return Family("layers", "num_hidden_layers", per_layer_fields=fields, unrelated_fields=stem, widths=widths)


@register_family("har_resnet")
@register_family("cifar_resnet")
def _cifar_resnet(config: PreTrainedConfig) -> Family:
    inner = WidthKind("channels", ("conv1", "norm1"), ("conv2",), ("inner_sizes",), per_block=True)
    return Family(
        "encoder.stages.*.layers",
        "depths",
        per_layer_fields=("inner_sizes",),
        why_fixed=_with_projection,
        widths=(inner,),
    )


# Images


@register_family("regnet")
@register_family("resnet")
def _resnet(config: PreTrainedConfig) -> Family:
    return Family("encoder.stages.*.layers", "depths", why_fixed=_with_projection, unrelated_fields=_STAGES)


@register_family("convnext")
def _convnext(config: PreTrainedConfig) -> Family:
    return Family("encoder.stages.*.layers", "depths", unrelated_fields=_STAGES)


@register_family("pruned_mobilenet_v2")
@register_family("mobilenet_v2")
def _mobilenet_v2(config: PreTrainedConfig) -> Family:
    return Family(
        "layer", None, per_layer_fields=("kept_blocks",), why_fixed=_without_shortcut, rebuilt_as=PRUNED_CLASSES
    )


@register_family("deit")
@register_family("vit")
def _vit(config: PreTrainedConfig) -> Family:
    return Family("layers", "num_hidden_layers", widths=(_VIT_FEED_FORWARD,))


@register_family("dinov2")
def _dinov2(config: PreTrainedConfig) -> Family:
    return Family("encoder.layer", "num_hidden_layers", derived_fields=_STAGES)


@register_family("swinv2")
@register_family("swin")
def _swin(config: PreTrainedConfig) -> Family:
    # A block shifts its windows when its position in the stage is odd.
    return Family(
        "encoder.layers.*.blocks", "depths", unrelated_fields=(*_STAGES, "pretrained_window_sizes"), period=2
    )


# Text, audio, time series


@register_family("roberta")
@register_family("bert")
def _bert(config: PreTrainedConfig) -> Family:
    return Family("encoder.layer", "num_hidden_layers", widths=(_BERT_FEED_FORWARD,))


@register_family("distilbert")
def _distilbert(config: PreTrainedConfig) -> Family:
    return Family("transformer.layer", "n_layers", widths=(_feed_forward(("ffn.lin1",), "ffn.lin2", "hidden_dim"),))


@register_family("wav2vec2")
def _wav2vec2(config: PreTrainedConfig) -> Family:
    # Lists about the convolutions before the blocks.
    stem = ("conv_dim", "conv_stride", "conv_kernel", "tdnn_dim", "tdnn_kernel", "tdnn_dilation")
    inner = _feed_forward(("feed_forward.intermediate_dense",), "feed_forward.output_dense")
    return Family("encoder.layers", "num_hidden_layers", unrelated_fields=stem, widths=(inner,))


@register_family("patchtst")
def _patchtst(config: PreTrainedConfig) -> Family:
    return Family("encoder.layers", "num_hidden_layers", widths=(_feed_forward(("ff.0",), "ff.3", "ffn_dim"),))


@register_family("patchtsmixer")
def _patchtsmixer(config: PreTrainedConfig) -> Family:
    return Family("encoder.mlp_mixer_encoder.mixers", "num_layers")


# Decoders


@register_family("gpt2")
def _gpt2(config: PreTrainedConfig) -> Family:
    return Family("h", "n_layer")


@register_family("llama")
def _llama(config: PreTrainedConfig) -> Family:
    return Family("layers", "num_hidden_layers", widths=(_GATED_FEED_FORWARD, _GROUPED_HEADS))


@register_family("qwen2")
def _qwen2(config: PreTrainedConfig) -> Family:
    return Family("layers", "num_hidden_layers", per_layer_fields=("layer_types",), widths=(_GATED_FEED_FORWARD,))


@register_family("gemma3_text")
@register_family("qwen3")
def _with_layer_types(config: PreTrainedConfig) -> Family:
    widths = (_GATED_FEED_FORWARD, _GROUPED_HEADS)
    return Family("layers", "num_hidden_layers", per_layer_fields=("layer_types",), widths=widths)
