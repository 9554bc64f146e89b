"""Attacks on images: changes nobody sees, chosen by the gradient of the attacked network itself."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from har_prune.runtime.batches import INDEX, LABELS, as_computed, inputs_of, to_device

EPSILONS = (1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255)  # of severities 1 to 5; an image goes from 0 to 1
_PIXELS = "pixel_values"


@dataclass(frozen=True)
class PixelScale:
    """How a processor normalises: what brightness 0 and 1 become, [C, 1, 1] each."""

    low: Tensor
    high: Tensor

    def to(self, values: Tensor) -> "PixelScale":
        """The same on the device and in the type of some values."""
        return PixelScale(self.low.to(values), self.high.to(values))


@dataclass(frozen=True)
class Attack:
    """A search for the worst change of at most epsilon in each value (L-infinity).

    Args:
        name: In recipes and tables.
        steps: Steps of gradient ascent on the loss; one goes the whole way at once.
        random_start: Whether it begins at a random point that is allowed.
    """

    name: str
    steps: int = 1
    random_start: bool = False

    def changed(
        self, model: PreTrainedModel, batch: Mapping[str, Any], epsilon: float, scale: PixelScale, seed: int
    ) -> Tensor:
        """The attacked `pixel_values` of a batch, [B, C, H, W]; brightness stays in [0, 1].

        Args:
            model: The network under attack, in eval mode.
            batch: With `labels`, on any device.
            epsilon: Largest change of a brightness in [0, 1].
            scale: What the processor made of brightness.
            seed: Of random starts; with the number of each example in its data they are the same in any batch.
        """
        inputs = to_device(inputs_of(batch), model.device)
        clean, labels = inputs[_PIXELS], batch[LABELS].to(model.device)
        scale = scale.to(clean)
        reach = epsilon * (scale.high - scale.low)
        low, high = torch.maximum(clean - reach, scale.low), torch.minimum(clean + reach, scale.high)
        values = clean
        if self.random_start:
            values = torch.clamp(clean + reach * _start(clean, batch.get(INDEX), seed), low, high)
        step = reach if self.steps == 1 else 2.5 * reach / self.steps
        for _ in range(self.steps):
            with torch.enable_grad():
                values = values.detach().requires_grad_()
                logits = model(**as_computed({**inputs, _PIXELS: values}, model)).logits.float()
                loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, values)
            values = torch.clamp(values.detach() + step * gradient.sign(), low, high)
        return values


def _start(clean: Tensor, index: Tensor | None, seed: int) -> Tensor:
    """Uniform in [-1, 1], the same for an example whatever else is in its batch."""
    rows = range(len(clean)) if index is None else index.tolist()
    drawn = [
        np.random.RandomState(np.array([seed % 2**32, row], dtype=np.uint32)).uniform(-1, 1, clean.shape[1:])
        for row in rows
    ]
    return torch.from_numpy(np.stack(drawn)).to(clean)


class AttackedBatches:
    """Batches whose images are attacked when they are asked for.

    Args:
        model: The network under attack, in eval mode.
        batches: Labelled batches of images.
        attack: How.
        epsilon: Largest change of a brightness in [0, 1].
        scale: What the processor made of brightness.
        seed: Of random starts.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        batches: Iterable[Mapping[str, Any]],
        attack: Attack,
        epsilon: float,
        scale: PixelScale,
        seed: int,
    ):
        self.model, self.batches, self.attack = model, batches, attack
        self.epsilon, self.scale, self.seed = epsilon, scale, seed

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.batches:
            values = self.attack.changed(self.model, batch, self.epsilon, self.scale, self.seed)
            yield {**batch, _PIXELS: values}


# Goodfellow et al. 2015, arXiv:1412.6572; Madry et al. 2018, arXiv:1706.06083.
ATTACKS = {attack.name: attack for attack in (Attack("fgsm"), Attack("pgd", steps=10, random_start=True))}
