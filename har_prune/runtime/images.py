"""What image processors do beside what their numbers say."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def processor_does(processor: Any, normalise: Callable[[Tensor], Tensor], size: Sequence[int]) -> bool:
    """Whether an image processor does to images of the model's size [H, W] just what a function does to a batch."""
    images = torch.randint(256, (2, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    several = list(images.permute(0, 2, 3, 1).numpy())
    given = processor(images=several, return_tensors="pt", do_resize=False, do_center_crop=False)["pixel_values"]
    made = normalise(images)
    return given.shape == made.shape and bool(torch.allclose(given.float(), made, rtol=1e-4, atol=1e-4))
