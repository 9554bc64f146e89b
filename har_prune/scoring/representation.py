"""The representation CKA compares: the input of the classification head, or any module's output by name."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from har_prune.errors import ShapeError
from har_prune.spelling import did_you_mean


class RepresentationTap:
    """Reads the representation of a model's forwards as [N, D].

    Args:
        model: The model to read from.
        name: Dotted path of a module whose output is the representation. None = the input of the classification
            head, and in a model without a head its pooled output or the mean of its last hidden state.

    Raises:
        ShapeError: No module has that name.
    """

    def __init__(self, model: PreTrainedModel, name: str | None = None):
        self.model = model
        self._module: nn.Module | None
        self._reads_input = name is None
        if name is None:
            self._module = classification_head(model)
        else:
            modules = dict(model.named_modules())
            if name not in modules:
                raise ShapeError(f"no module is called {name!r} in this model.{did_you_mean(name, modules)}")
            self._module = modules[name]
        self._value: Any = None

    def read(self, batch: Mapping[str, Any]) -> tuple[Tensor, Any]:
        """Runs the model on a batch; returns its representation, [N, D], and its output."""
        with self._listening():
            output = self.model(**batch)
        value = self._value if self._module is not None else _pooled_output(output)
        self._value = None
        return _pool(value, batch.get("attention_mask")), output

    @contextmanager
    def _listening(self) -> Iterator[None]:
        def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
            self._value = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))

        def after(module: nn.Module, args: tuple, output: Any) -> None:
            self._value = output if isinstance(output, Tensor) else output[0]

        if self._module is None:
            yield
            return
        if self._reads_input:
            handle = self._module.register_forward_pre_hook(before, with_kwargs=True)
        else:
            handle = self._module.register_forward_hook(after)
        try:
            yield
        finally:
            handle.remove()


def classification_head(model: PreTrainedModel) -> nn.Linear | None:
    """The last linear layer outside the base model, or None in a base model."""
    base = model.base_model
    if base is model:
        return None
    inside = set(base.modules())
    linear = [module for module in model.modules() if isinstance(module, nn.Linear) and module not in inside]
    return linear[-1] if linear else None


def _pooled_output(output: Any) -> Tensor:
    pooled = getattr(output, "pooler_output", None)
    return output[0] if pooled is None else pooled


def _pool(value: Tensor, attention_mask: Tensor | None) -> Tensor:
    """[N, D] as it is; [N, T, D] averaged over (unmasked) positions; [N, D, H, W] averaged over space."""
    if value.ndim == 2:
        return value
    if value.ndim == 4:
        return value.mean(dim=(2, 3))
    if value.ndim == 3:
        if attention_mask is None or attention_mask.shape != value.shape[:2]:
            return value.mean(dim=1)
        weights = attention_mask.to(value.dtype)[..., None]
        return (value * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(torch.finfo(value.dtype).tiny)
    raise ShapeError(f"a representation of shape {tuple(value.shape)} cannot be pooled to [N, D].")
