"""The registry of block families, keyed by `config.model_type`.

A family is data about one architecture: where its residual blocks are and which config fields must change when
some of them go. To add one, write a function from the config to a `Family` and decorate it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from har_prune.errors import UnknownFamilyError
from har_prune.spelling import did_you_mean


def _any_block(stage: int, position: int, block: nn.Module) -> str | None:
    return None


@dataclass(frozen=True)
class Family:
    """Where the blocks of an architecture are and how its config tells their number.

    Args:
        containers: Dotted path, below the base model, of the module list that holds the blocks. One `*` stands for
            the children of a list: "encoder.stages.*.layers" is one stage a match, in order.
        depth_field: Config field with the depth: an int, or for a family with stages the list of depths.
        per_layer_fields: Config lists with one entry a block; they lose the entries of the removed blocks.
        unrelated_fields: Config lists that may happen to be as long as the model is deep and are not per block.
        derived_fields: Config fields the config class computes from the depth; dropped before rebuilding.
        why_fixed: (stage, position in stage, block) -> why this block can never go, or None.
        example_inputs: config -> inputs for one small forward, where the generic ones do not fit.
    """

    containers: str
    depth_field: str
    per_layer_fields: tuple[str, ...] = ()
    unrelated_fields: tuple[str, ...] = ()
    derived_fields: tuple[str, ...] = ()
    why_fixed: Callable[[int, int, nn.Module], str | None] = _any_block
    example_inputs: Callable[[Any], dict] | None = None


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


def unknown_family(config: PreTrainedConfig) -> UnknownFamilyError:
    """The error for a model that has neither a family nor blocks the probe could find."""
    known = registered_families()
    return UnknownFamilyError(
        f"no block family for model_type={config.model_type!r} (known: {', '.join(known)}), and the probe found no "
        f"residual blocks.{did_you_mean(config.model_type, known)} To add one, see register_family."
    )


def _changes_shape(stage: int, position: int, block: nn.Module) -> str | None:
    if isinstance(block.shortcut, nn.Identity):
        return None
    return "it changes the width or the resolution of the hidden state"


@register_family("har_transformer")
def _har_transformer(config: PreTrainedConfig) -> Family:
    return Family("layers", "num_hidden_layers")


@register_family("cifar_resnet")
def _cifar_resnet(config: PreTrainedConfig) -> Family:
    return Family("encoder.stages.*.layers", "depths", why_fixed=_changes_shape)


@register_family("resnet")
def _resnet(config: PreTrainedConfig) -> Family:
    return Family("encoder.stages.*.layers", "depths", why_fixed=_changes_shape)


@register_family("vit")
def _vit(config: PreTrainedConfig) -> Family:
    return Family("layers", "num_hidden_layers")


@register_family("bert")
def _bert(config: PreTrainedConfig) -> Family:
    return Family("encoder.layer", "num_hidden_layers")
