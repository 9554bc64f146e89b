"""What of a network is trained, and in which precision."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from har_prune.errors import RecipeError
from har_prune.runtime.feature_hook import body_of

_RANK = 16  # of LoRA's updates


class OwnPrecision:
    """Trains weights of half precision in float32, where small steps are not rounded away; `restore` takes it back.

    Every tensor gets its own type again: a rotary table is in float32 in a model of bfloat16, and rounded it would
    rotate otherwise.

    Args:
        model: The network; changed in place.
    """

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self.half = model.dtype in (torch.bfloat16, torch.float16)
        if not self.half:
            return
        stored = model.state_dict().keys()
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
        self.tables = {name: tensor.clone() for name, tensor in model.named_buffers() if name not in stored}
        model.float()

    @torch.no_grad()
    def restore(self) -> None:
        """Gives every tensor the type it came with."""
        if not self.half:
            return
        self.half = False
        for name, tensor in {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}.items():
            value = self.tables.get(name, tensor)
            tensor.data = value.to(tensor.device, self.dtypes.get(name, tensor.dtype))


class TrainedParameters:
    """Lets gradients reach what is to be trained; `restore` gives the network back as it came.

    What is frozen in the network stays as it is, whichever parameters are named; a frozen linear layer gets no update.

    Args:
        model: The network; low-rank updates are put into it in place.
        which: "all", "norms_and_head" or "lora" (with normalisations and head).

    Raises:
        RecipeError: peft is not installed or finds no linear layer to update, or all of it is frozen.
    """

    def __init__(self, model: PreTrainedModel, which: str):
        self.which = which
        self.before = {parameter: parameter.requires_grad for parameter in model.parameters()}
        self._peft: Any = None
        if which == "lora":
            try:
                self._peft = _with_updates(model)
            except RecipeError:
                self.restore()  # peft froze it before it found nothing
                raise
            for module in model.modules():
                if not self.before.get(getattr(getattr(module, "base_layer", None), "weight", None), True):
                    module.requires_grad_(False)
        elif which == "norms_and_head":
            model.requires_grad_(False)
        if which != "all":
            for parameter in _norms_and_head(model):
                parameter.requires_grad_(self.before[parameter])
        if not any(parameter.requires_grad for parameter in model.parameters()):
            self.restore()
            raise RecipeError(
                f"parameters: {which}: all of these are frozen (requires_grad is False), so there is nothing to train."
            )

    def restore(self) -> None:
        """Merges low-rank updates into the weights, and lets gradients reach what they reached before."""
        if self._peft is not None:
            self._peft.merge_and_unload()
            self._peft = None
        for parameter, wanted in self.before.items():
            parameter.requires_grad_(wanted)


def _norms_and_head(model: PreTrainedModel) -> list[nn.Parameter]:
    inside = {id(parameter) for parameter in body_of(model).parameters()}
    norms = {
        id(parameter)
        for module in model.modules()
        if "norm" in type(module).__name__.lower()
        for parameter in module.parameters(recurse=False)
    }
    return [
        parameter
        for name, parameter in model.named_parameters()
        if "lora_" not in name and (id(parameter) in norms or id(parameter) not in inside)
    ]


def _with_updates(model: PreTrainedModel) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise RecipeError("parameters: lora needs peft: pip install 'har_prune[peft]'.") from error
    try:
        updated = get_peft_model(model, LoraConfig(r=_RANK, lora_alpha=2 * _RANK, target_modules="all-linear"))
    except ValueError as error:
        raise RecipeError(_nothing(model)) from error
    if not any("lora_" in name for name, _ in body_of(model).named_parameters()):
        updated.unload()
        raise RecipeError(_nothing(model))
    return updated


def _nothing(model: PreTrainedModel) -> str:
    return (
        f"parameters: lora: peft finds nothing to update in a {type(model).__name__}, whose body has no linear "
        "layers: choose all or norms_and_head."
    )
