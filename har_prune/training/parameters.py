"""What of a network is trained: everything, normalisations and head, or low-rank updates."""

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from har_prune.errors import RecipeError

_RANK = 16  # of LoRA's updates


class TrainedParameters:
    """Lets gradients reach what is to be trained; `restore` gives the network back as it came.

    Args:
        model: The network; low-rank updates are put into it in place.
        which: "all", "norms_and_head" or "lora" (with normalisations and head).

    Raises:
        RecipeError: peft is not installed, or finds no linear layer to update.
    """

    def __init__(self, model: PreTrainedModel, which: str):
        self.which = which
        self.before = {parameter: parameter.requires_grad for parameter in model.parameters()}
        self._peft: Any = None
        if which == "all":
            return
        if which == "lora":
            self._peft = _with_updates(model)
        else:
            model.requires_grad_(False)
        for parameter in _norms_and_head(model):
            parameter.requires_grad_(True)

    def restore(self) -> None:
        """Merges low-rank updates into the weights, and lets gradients reach what they reached before."""
        if self._peft is not None:
            self._peft.merge_and_unload()
            self._peft = None
        for parameter, wanted in self.before.items():
            parameter.requires_grad_(wanted)


def _norms_and_head(model: PreTrainedModel) -> list[nn.Parameter]:
    inside = {id(parameter) for parameter in _body(model).parameters()}
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
    if not any("lora_" in name for name, _ in _body(model).named_parameters()):
        updated.unload()
        raise RecipeError(_nothing(model))
    return updated


def _nothing(model: PreTrainedModel) -> str:
    return (
        f"parameters: lora: peft finds nothing to update in a {type(model).__name__}, whose body has no linear "
        "layers: choose all or norms_and_head."
    )


def _body(model: PreTrainedModel) -> nn.Module:
    return getattr(model, model.base_model_prefix, model)
