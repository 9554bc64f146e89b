"""What is exported: a network with what prepares its inputs in front, and softmax behind."""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from har_prune.checkpoints.auto_class import auto_class_for
from har_prune.checkpoints.load import Checkpoint, load_model, load_processor
from har_prune.errors import DataError, ExportError
from har_prune.runtime.batches import most_tokens
from har_prune.runtime.images import processor_does

Arrays = Mapping[str, np.ndarray]  # inputs by name
SHORTER = ("the shortest", "in between")  # cases of `Deployed.cases` that are no whole window
# Those that 8 bits are not for: calibration has seen no such lengths and values.
FLOAT_ALONE = (*SHORTER, "fifty times as strong")


class _Windows(nn.Module):
    """Windows in physical units [N, T, C] and which samples are real [N, T] -> logits, probabilities."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: PreTrainedModel, extractor: Any):
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(extractor.channel_mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(extractor.channel_std, dtype=torch.float32))

    def forward(self, windows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        # What pads a window becomes the channel mean, as the feature extractor has it, whatever it is in the file.
        real = mask[..., None] > 0
        normalised = torch.where(real, (windows - self.mean) / self.std, torch.zeros_like(windows))
        logits = self.model(input_values=normalised, attention_mask=(mask > 0).to(torch.int64)).logits
        return logits, logits.softmax(-1)


class _Pixels(nn.Module):
    """Images of the model's size, 0 to 255, [N, C, H, W] -> logits, probabilities."""

    scale: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__()
        self.model = model
        channels = len(processor.image_mean)
        scale = processor.rescale_factor if processor.do_rescale else 1.0
        mean = processor.image_mean if processor.do_normalize else [0.0] * channels
        std = processor.image_std if processor.do_normalize else [1.0] * channels
        self.register_buffer("scale", torch.tensor(float(scale)))
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None, None])

    def normalised(self, pixels: Tensor) -> Tensor:
        return (pixels * self.scale - self.mean) / self.std

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(pixel_values=self.normalised(pixels)).logits
        return logits, logits.softmax(-1)


class _Tokens(nn.Module):
    """Tokens and which of them are real, [N, T] -> logits, probabilities."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits, logits.softmax(-1)


@dataclass(frozen=True)
class Deployed:
    """A network ready to be exported.

    Args:
        network: The module: raw inputs in, (logits, probabilities) out.
        kind: "sensor", "image" or "text".
        example: Its inputs, by name, of two examples.
        facts: What whoever uses the file has to know: labels, and of sensors rate, channels, units, window.
        lengths: Fewest and most samples or tokens of an example; None of images.
    """

    network: nn.Module
    kind: str
    example: dict[str, Tensor]
    facts: dict[str, Any]
    lengths: tuple[int, int] | None = None

    @torch.no_grad()
    def runs_shorter(self) -> bool:
        """Whether the network runs on the shortest example there may be."""
        if self.lengths is None:
            return False
        try:
            self.network(**{name: value[:, : self.lengths[0]] for name, value in self.example.items()})
        except Exception:  # whatever a network of one length raises
            return False
        return True

    def cases(self, seed: int = 0, *, any_length: bool = False) -> dict[str, dict[str, Tensor]]:
        """Inputs to compare on, by what is special about them; made up.

        Args:
            seed: Of what is drawn.
            any_length: Whether shorter ones than the example are among them.
        """
        found = self._cases(torch.Generator().manual_seed(seed))
        if any_length and self.lengths is not None:
            usual = found.get("five", found.get("five, one padded", {}))
            for name, length in zip(SHORTER, (self.lengths[0], sum(self.lengths) // 2), strict=True):
                found[name] = {key: value[:, :length] for key, value in usual.items()}
        return found

    def _cases(self, generator: torch.Generator) -> dict[str, dict[str, Tensor]]:
        if self.kind == "sensor":
            return self._windows(generator)
        if self.kind == "image":
            shape = self.example["pixels"].shape[1:]
            several = torch.rand((5, *shape), generator=generator) * 255
            flat = torch.cat([torch.zeros(1, *shape), torch.full((1, *shape), 255.0)])
            return {"one": {"pixels": several[:1]}, "five": {"pixels": several}, "black and white": {"pixels": flat}}
        most = int(self.example["input_ids"].max()) + 1
        length = self.example["input_ids"].shape[1]
        tokens = torch.randint(0, most, (5, length), generator=generator)
        padded = torch.ones_like(tokens)
        padded[1, length // 2 :] = 0
        one = {"input_ids": tokens[:1], "attention_mask": padded[:1]}
        return {"one": one, "five, one padded": {"input_ids": tokens, "attention_mask": padded}}

    def _windows(self, generator: torch.Generator) -> dict[str, dict[str, Tensor]]:
        size, channels = self.facts["window_size"], len(self.facts["channel_mean"])
        mean, std = (torch.tensor(self.facts[name], dtype=torch.float32) for name in ("channel_mean", "channel_std"))
        usual = torch.randn((5, size, channels), generator=generator) * std + mean
        whole = torch.ones(5, size)
        padded = whole.clone()
        padded[1, size * 3 // 4 :] = 0
        padded[2, size // 2 :] = 0
        missing = usual.clone()
        missing[1, size * 3 // 4 :] = float("nan")  # nobody has to care what stands where nothing was measured
        still = torch.zeros(2, size, channels)
        loud = usual[:2] * 50
        return {
            "one": {"windows": usual[:1], "mask": whole[:1]},
            "five": {"windows": usual, "mask": whole},
            "padded": {"windows": usual, "mask": padded},
            "nothing measured behind the end": {"windows": missing, "mask": padded},
            "zeros": {"windows": still, "mask": whole[:2]},
            "fifty times as strong": {"windows": loud, "mask": whole[:2]},
        }


def load_classifier(source: Checkpoint) -> tuple[PreTrainedModel, Any]:
    """A saved classifier by the class its config names, and what prepares its inputs; None where it has nothing.

    Raises:
        CheckpointError: It cannot be loaded.
    """
    auto_class: Any = AutoModel
    with contextlib.suppress(OSError, ValueError):  # load_model says why
        config = AutoConfig.from_pretrained(
            source.name_or_path, revision=source.revision or "main", trust_remote_code=source.trust_remote_code
        )
        auto_class = auto_class_for(config)
    model = load_model(auto_class, source).float().eval()  # of half precision too: inputs are in single
    kind = {"input_ids": "text", "pixel_values": "image"}.get(model.main_input_name, "sensor")
    return model, load_processor(source, kind)


def raw_inputs(inputs: dict[str, Tensor], processor: Any) -> dict[str, Tensor]:
    """Inputs of a model as the exported network takes them: normalisation undone.

    Args:
        inputs: What the processor made of some examples.
        processor: Feature extractor, image processor or tokenizer.
    """
    if "input_values" in inputs:
        mean, std = (torch.tensor(values) for values in (processor.channel_mean, processor.channel_std))
        windows = inputs["input_values"]
        mask = inputs.get("attention_mask", torch.ones(windows.shape[:2]))
        return {"windows": (windows * std + mean).float(), "mask": mask.float()}
    if "pixel_values" in inputs:
        made = _Pixels(nn.Module(), processor)
        return {"pixels": (inputs["pixel_values"] * made.std + made.mean) / made.scale}
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


def hop_of(seconds: float, rate: float, window: int) -> int:
    """Samples between the starts of two windows of so many samples.

    Raises:
        DataError: It is no sample long, or longer than a window.
    """
    hop = round(seconds * rate) if math.isfinite(seconds) else 0
    if not 1 <= hop <= window:
        raise DataError(
            f"a hop of {seconds:g} s: at least a sample ({1 / rate:g} s at {rate:g} Hz) and at most a window "
            f"({window / rate:g} s) is wanted, or some of the recording would be looked at by none."
        )
    return hop


def deployed(model: PreTrainedModel, processor: Any, hop_s: float | None = None) -> Deployed:
    """A classifier and what prepares its inputs, as one module.

    Args:
        model: A classifier of sensor windows, images or texts, in eval mode, on the CPU.
        processor: Its feature extractor, image processor or tokenizer.
        hop_s: Seconds between the starts of two windows, for whoever cuts a recording; None = half a window.

    Raises:
        ExportError: It is no classifier of these kinds.
        DataError: A hop is no sample long, or longer than a window.
    """
    config: Any = model.config
    facts: dict[str, Any] = {"labels": [config.id2label[index] for index in range(config.num_labels)]}
    if not type(model).__name__.endswith("Classification"):
        raise ExportError(
            f"{type(model).__name__} is no classifier: what is exported maps inputs to classes. Export a classifier."
        )
    if hasattr(processor, "sampling_rate_hz") and hasattr(processor, "channel_mean"):
        size, rate = processor.window_size, processor.sampling_rate_hz
        hop_s = size / rate / 2 if hop_s is None else hop_s
        hop_of(hop_s, rate, size)
        facts |= {
            "input": "windows",
            "sampling_rate_hz": rate,
            "channels": processor.channel_names or [f"channel {i}" for i in range(processor.num_channels)],
            "units": processor.channel_units or ["not recorded"] * processor.num_channels,
            "window_size": size,
            "window_s": size / rate,
            "hop_s": hop_s,
            "channel_mean": processor.channel_mean,
            "channel_std": processor.channel_std,
        }
        example = {"windows": torch.zeros(2, size, processor.num_channels), "mask": torch.ones(2, size)}
        return Deployed(_Windows(model, processor), "sensor", example, facts, (-(-size // 2), size))
    if hasattr(processor, "do_rescale"):
        shape = _image_shape(model, processor)
        facts |= {"input": "pixels", "range": [0, 255], "shape": list(shape)}
        network = _Pixels(model, processor)
        if shape[0] == 3 and not processor_does(processor, network.normalised, shape[1:]):
            raise ExportError(
                f"{type(processor).__name__} does more to an image than scale it and normalise it once (channels in "
                "another order, say), and an export holds no more: its answers would be others."
            )
        return Deployed(network, "image", {"pixels": torch.zeros(2, *shape)}, facts)
    if hasattr(processor, "pad_token"):
        longest = most_tokens(config, 128)
        facts |= {"input": "tokens", "pad_token_id": config.pad_token_id, "max_tokens": longest}
        tokens = torch.full((2, longest), config.vocab_size - 1)
        example = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        return Deployed(_Tokens(model), "text", example, facts, (2, longest))
    raise ExportError(
        f"{type(model).__name__}: the folder has no feature extractor, image processor or tokenizer, and the export "
        "holds what they do: save one with it (save_pruned(processor=...))."
    )


def _image_shape(model: PreTrainedModel, processor: Any) -> tuple[int, int, int]:
    size = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None
    size = size or getattr(processor, "size", None) or {}
    edge = size.get("shortest_edge")
    height, width = size.get("height", edge), size.get("width", edge)
    if height is None or width is None:
        raise ExportError("the image processor states no size: save one with size={'height': ..., 'width': ...}.")
    return int(getattr(model.config, "num_channels", 3)), int(height), int(width)
