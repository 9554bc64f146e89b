"""Small random inputs for any model: for the probe, for checks after surgery and for counting."""

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from har_prune.blocks.families import family_of
from har_prune.errors import ShapeError

# For models that work at any resolution and so name none: five halvings still leave two pixels.
_FREE_IMAGE_SIZE = 64
_SEQUENCE_LENGTH = 16
_AUDIO_SAMPLES = 3200  # 0.2 s at 16 kHz: ten frames of a speech encoder


def example_inputs(model: PreTrainedModel, batch_size: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """Random inputs for one small forward, on the model's device.

    Args:
        model: Any model that takes `input_values` (sensor windows, audio), `past_values` (time series),
            `pixel_values` or `input_ids`, or images and tokens together.
        batch_size: Number of examples; they differ from each other.
        seed: Seed of the values; the global generator is left alone.

    Raises:
        ShapeError: The model takes something else, or its config does not say the size; give inputs by hand.
    """
    config: Any = model.config
    generator = torch.Generator().manual_seed(seed)
    family = family_of(config)
    if family is not None and family.example_inputs is not None:
        inputs = family.example_inputs(config)
    else:
        names = _names(model)
        inputs = {name: _MAKERS[name](config, batch_size, generator) for name in names if name in _MAKERS}
    if not inputs:
        raise ShapeError(no_example_inputs(model, f"its main input is {model.main_input_name!r}"))
    floating = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return {
        name: value.to(model.device, floating if value.is_floating_point() else None) for name, value in inputs.items()
    }


def no_example_inputs(model: PreTrainedModel, why: str) -> str:
    """What is said of a model that inputs cannot be made up for."""
    return (
        f"no inputs can be made up for {type(model).__name__} ({why}): give example_inputs, a dict of model inputs "
        "with at least two examples."
    )


def _names(model: PreTrainedModel) -> list[str]:
    """The main input, and in a model of two towers that of the other one."""
    names = [model.main_input_name]
    accepted = inspect.signature(model.forward).parameters
    towers = {"text_config": "input_ids", "vision_config": "pixel_values"}
    names += [name for tower, name in towers.items() if hasattr(model.config, tower) and name in accepted]
    return list(dict.fromkeys(names))


def _size(config: PreTrainedConfig, name: str, fallback: int | None = None) -> Any:
    """A field of a config, or of the first config inside it that has it."""
    inner = [value for value in vars(config).values() if isinstance(value, PreTrainedConfig)]
    found = [getattr(each, name) for each in (config, *inner) if getattr(each, name, None) is not None]
    if found:
        return found[0]
    if fallback is None:
        raise ShapeError(
            f"no inputs can be made up for model_type={config.model_type!r} (its config has no {name}): give "
            "example_inputs, a dict of model inputs with at least two examples."
        )
    return fallback


def _waves(config: Any, batch_size: int, generator: torch.Generator) -> Tensor:
    if not hasattr(config, "window_size"):
        return torch.randn((batch_size, _AUDIO_SAMPLES), generator=generator)
    return torch.randn((batch_size, config.window_size, _size(config, "num_channels")), generator=generator)


def _series(config: Any, batch_size: int, generator: torch.Generator) -> Tensor:
    shape = (batch_size, _size(config, "context_length"), _size(config, "num_input_channels"))
    return torch.randn(shape, generator=generator)


def _images(config: Any, batch_size: int, generator: torch.Generator) -> Tensor:
    size = _size(config, "image_size", _FREE_IMAGE_SIZE)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return torch.rand((batch_size, _size(config, "num_channels", 3), height, width), generator=generator)


def _tokens(config: Any, batch_size: int, generator: torch.Generator) -> Tensor:
    longest = _size(config, "max_position_embeddings", _SEQUENCE_LENGTH)
    length = min(_SEQUENCE_LENGTH, longest) if longest > 0 else _SEQUENCE_LENGTH  # XLNet says -1: any
    return torch.randint(_size(config, "vocab_size"), (batch_size, length), generator=generator)


_MAKERS = {"input_values": _waves, "past_values": _series, "pixel_values": _images, "input_ids": _tokens}
