"""The representation CKA compares: the input of the classification head, or any module's output by name."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from har_prune.errors import ShapeError, did_you_mean


class FeatureHook:
    """Reads the representation of a model's forwards as [N, D].

    Args:
        model: The model to read from.
        name: Dotted path of a module whose output is the representation. None = the input of the classification
            head (the linear layer outside the base model that runs last): of a sequence the mean, or, where a decoder
            classifies by its last token, that token's. In a model without a head its pooled output or the mean of
            its last hidden state.

    Raises:
        ShapeError: No module has that name.
    """

    def __init__(self, model: PreTrainedModel, name: str | None = None):
        self.model, self._reads_input, modules = model, name is None, dict(model.named_modules())
        if name is not None and name not in modules:
            raise ShapeError(f"no module is called {name!r} in this model.{did_you_mean(name, modules)}")
        # Of several layers in a head the one that runs last is read.
        self._modules = _head(model) if name is None else [modules[name]]

    @property
    def head(self) -> nn.Linear | None:
        """The layer whose output the representation does not need; None where that is not one layer."""
        modules = self._modules if self._reads_input else []
        return modules[0] if len(modules) == 1 and isinstance(modules[0], nn.Linear) else None

    def read(self, batch: Mapping[str, Any], *, without_head: bool = False) -> tuple[Tensor, Any]:
        """Runs the model on a batch; returns its representation, [N, D], and its output.

        Args:
            batch: Model inputs.
            without_head: Stop in front of `head`; there is no output then.

        Raises:
            ShapeError: The module that was named does not run, or what it returns cannot be pooled.
        """
        kept: list[Tensor] = []

        def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
            kept[:] = [next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))]
            if without_head:
                raise _ReachedError

        def after(module: nn.Module, args: tuple, output: Any) -> None:
            kept[:] = [output if isinstance(output, Tensor) else output[0]]

        handles = [
            module.register_forward_pre_hook(before, with_kwargs=True)
            if self._reads_input
            else module.register_forward_hook(after)
            for module in self._modules
        ]
        try:
            output = self.model(**batch)
        except _ReachedError:
            output = None
        finally:
            for handle in handles:
                handle.remove()
        if self._modules and not kept:
            raise ShapeError("the module that was named as representation does not run in a forward of this model.")
        value = kept[0] if self._modules else _pooled_output(output)
        if not self._reads_input and channels_first(self._modules[0]) and getattr(value, "ndim", 0) == 3:
            value = value.mT
        if self._reads_input and getattr(value, "ndim", 0) == 3 and _classifies_last_token(self.model):
            return value[torch.arange(len(value), device=value.device), _last_tokens(self.model, batch)], output
        mask = mask_of_positions(self.model, batch.get("attention_mask"), value)
        return _pool(value, mask, self.model.main_input_name == "pixel_values"), output


def channels_first(module: nn.Module) -> bool:
    """Whether hidden states of a module are [N, D, T] and not [N, T, D]: all it has weights for is 1-D convolution.

    Normalisation may have been folded into that.
    """
    weighted = [part for part in module.modules() if next(part.parameters(recurse=False), None) is not None]
    return bool(weighted) and all(isinstance(part, (nn.Conv1d, nn.BatchNorm1d, nn.GroupNorm)) for part in weighted)


def mask_of_positions(model: PreTrainedModel, attention_mask: Tensor | None, states: Any) -> Tensor | None:
    """The mask [N, positions] of hidden states [N, positions, ...], where the network has one for them.

    What cuts windows into patches, or audio into frames, has another length than its mask, and says how that shrinks.
    """
    shrunk = getattr(model, "_get_feature_vector_attention_mask", None)  # as transformers' speech models call it
    if attention_mask is None or getattr(states, "ndim", 0) < 3:
        return None
    if shrunk is not None and attention_mask.shape != states.shape[:2]:
        attention_mask = shrunk(states.shape[1], attention_mask)
    return attention_mask if attention_mask.shape == states.shape[:2] else None


class _ReachedError(Exception):
    """The head is next, and nobody needs what it computes."""


def body_of(model: PreTrainedModel) -> nn.Module:
    """The model without what its task adds; the model itself where it is nothing but that."""
    towers = [child for child in model.children() if isinstance(child, PreTrainedModel)]
    # `CLIPForImageClassification` has its tower under another name than `base_model` looks for.
    return towers[0] if model.base_model is model and len(towers) == 1 else model.base_model


def _head(model: PreTrainedModel) -> list[nn.Module]:
    """The linear layers outside the base model; none in a base model."""
    base = body_of(model)
    if base is model:
        return []
    inside = set(base.modules())
    return [module for module in model.modules() if isinstance(module, nn.Linear) and module not in inside]


def _classifies_last_token(model: PreTrainedModel) -> bool:
    """Whether a head of the stock decoders runs on every token, and what it says of the last one is the answer."""
    if model.main_input_name != "input_ids" or getattr(model.config, "is_encoder_decoder", False):
        return False
    return type(model).__name__.endswith("ForSequenceClassification")


def _last_tokens(model: PreTrainedModel, batch: Mapping[str, Any]) -> Any:
    """Places [N] of the rightmost tokens that are no padding, as `GenericForSequenceClassification` finds them."""
    tokens, padding = batch.get("input_ids"), model.config.get_text_config().pad_token_id
    if tokens is None or padding is None:
        return -1
    return ((tokens != padding) * torch.arange(tokens.shape[1], device=tokens.device)).argmax(-1)


def _pooled_output(output: Any) -> Tensor:
    pooled = getattr(output, "pooler_output", None)
    return output[0] if pooled is None else pooled


def _pool(value: Tensor, attention_mask: Tensor | None, image: bool) -> Tensor:
    """[N, D] as it is; [N, ..., D] averaged over (unmasked) positions; of an image [N, D, H, W] over space."""
    if not isinstance(value, Tensor):
        raise ShapeError(
            f"the model's first output is a {type(value).__name__} and no tensor: name a module as representation."
        )
    if value.ndim == 2:
        return value
    if value.ndim == 4 and image:
        return value.mean(dim=(2, 3))
    if value.ndim < 3:
        raise ShapeError(f"a representation of shape {tuple(value.shape)} cannot be pooled to [N, D].")
    if attention_mask is None:
        return value.flatten(1, -2).mean(dim=1)
    weights = attention_mask.to(value.device, value.dtype)[..., None]
    return (value * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(torch.finfo(value.dtype).tiny)
