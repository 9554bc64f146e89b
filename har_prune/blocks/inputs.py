"""Small random inputs for any model: for the probe, for checks after surgery and for counting."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from har_prune.blocks.families import family_of
from har_prune.errors import ShapeError

# For models that work at any resolution and so name none: five halvings still leave two pixels.
_FREE_IMAGE_SIZE = 64
_SEQUENCE_LENGTH = 16
_AUDIO_SAMPLES = 3200  # 0.2 s at 16 kHz: ten frames of a speech encoder


def example_inputs(model: PreTrainedModel, batch_size: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """Random inputs for one small forward, on the model's device.

    Args:
        model: Any model whose main input is `input_values` (sensor windows, audio), `past_values` (time series),
            `pixel_values` or `input_ids`.
        batch_size: Number of examples; they differ from each other.
        seed: Seed of the values; the global generator is left alone.

    Raises:
        ShapeError: The main input is of another kind; give inputs by hand.
    """
    config: Any = model.config
    generator = torch.Generator().manual_seed(seed)
    family = family_of(config)
    if family is not None and family.example_inputs is not None:
        inputs = family.example_inputs(config)
    elif model.main_input_name == "input_values" and hasattr(config, "window_size"):
        shape = (batch_size, config.window_size, config.num_channels)
        inputs = {"input_values": torch.randn(shape, generator=generator)}
    elif model.main_input_name == "input_values":
        inputs = {"input_values": torch.randn((batch_size, _AUDIO_SAMPLES), generator=generator)}
    elif model.main_input_name == "pixel_values":
        size = getattr(config, "image_size", _FREE_IMAGE_SIZE)
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        inputs = {"pixel_values": torch.rand((batch_size, config.num_channels, height, width), generator=generator)}
    elif model.main_input_name == "past_values":
        shape = (batch_size, config.context_length, config.num_input_channels)
        inputs = {"past_values": torch.randn(shape, generator=generator)}
    elif model.main_input_name == "input_ids":
        length = min(_SEQUENCE_LENGTH, getattr(config, "max_position_embeddings", _SEQUENCE_LENGTH))
        inputs = {"input_ids": torch.randint(config.vocab_size, (batch_size, length), generator=generator)}
    else:
        raise ShapeError(
            f"no example inputs for {type(model).__name__} with main input {model.main_input_name!r}: "
            "pass example_inputs, a dict of model inputs"
        )
    floating = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return {
        name: value.to(model.device, floating if value.is_floating_point() else None) for name, value in inputs.items()
    }
