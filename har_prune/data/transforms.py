"""Augmentations of training batches in plain torch.

Sensor windows are augmented in physical units, before normalisation: turning a sensor around is a rotation only
there. All draw from torch's global generator, which `train_model` seeds.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Augmentation = Callable[[Tensor], Tensor]


def jitter(windows: Tensor, share: float = 0.02) -> Tensor:
    """Adds white noise, its deviation a share of each channel's deviation in the batch. [B, T, C]."""
    return windows + torch.randn_like(windows) * (share * windows.std(dim=(0, 1), keepdim=True))


def scaling(windows: Tensor, deviation: float = 0.1) -> Tensor:
    """Multiplies each channel of each window by a number around 1: strength and sensor gain differ. [B, T, C]."""
    return windows * (1 + deviation * torch.randn(len(windows), 1, windows.shape[2]))


def rotation(windows: Tensor, max_degrees: float = 15.0) -> Tensor:
    """Turns the sensor by a random angle around a random axis, the same for all triads. [B, T, C].

    Channels are taken three by three (x, y, z of one sensor); channels behind the last full triad stay.
    """
    triads = windows.shape[2] // 3
    axis = torch.nn.functional.normalize(torch.randn(len(windows), 3), dim=1)
    angle = (2 * torch.rand(len(windows), 1, 1) - 1) * math.radians(max_degrees)
    cross = torch.zeros(len(windows), 3, 3)
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -axis[:, 2], axis[:, 1], -axis[:, 0]
    cross = cross - cross.transpose(1, 2)
    matrix = torch.eye(3) + angle.sin() * cross + (1 - angle.cos()) * cross @ cross  # Rodrigues
    turned = windows[..., : 3 * triads].unflatten(2, (triads, 3))
    turned = torch.einsum("btsj,bij->btsi", turned, matrix).flatten(2)
    return torch.cat([turned, windows[..., 3 * triads :]], dim=2)


def time_warp(windows: Tensor, strength: float = 0.2) -> Tensor:
    """Plays each window at a speed that varies smoothly around 1; its ends stay. [B, T, C]."""
    batch, length, _ = windows.shape
    knots = 1 + strength * (2 * torch.rand(batch, 1, 5) - 1)
    speed = torch.nn.functional.interpolate(knots, length - 1, mode="linear", align_corners=True)[:, 0]
    position = torch.cat([torch.zeros(batch, 1), speed.cumsum(1)], dim=1)
    position = position / position[:, -1:] * (length - 1)
    left = position.floor().clamp(max=length - 2).long()
    share = (position - left)[..., None]
    index = left[..., None].expand_as(windows)
    return windows.gather(1, index) * (1 - share) + windows.gather(1, index + 1) * share


def crop(images: Tensor, padding: int = 4) -> Tensor:
    """Shifts each image by up to `padding` pixels each way; what comes in is a mirror image. [B, C, H, W]."""
    batch, channels, height, width = images.shape
    padded = torch.nn.functional.pad(images.float(), [padding] * 4, mode="reflect").to(images.dtype)
    top, left = torch.randint(2 * padding + 1, (2, batch, 1))
    rows = (top + torch.arange(height))[:, None, :, None].expand(-1, channels, -1, padded.shape[3])
    columns = (left + torch.arange(width))[:, None, None, :].expand(-1, channels, height, -1)
    return padded.gather(2, rows).gather(3, columns)


def flip(images: Tensor) -> Tensor:
    """Mirrors each image left to right with probability 1/2. [B, C, H, W]."""
    return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)


AUGMENTATIONS: dict[str, dict[str, Augmentation]] = {
    "sensor": {"jitter": jitter, "scaling": scaling, "rotation": rotation, "time_warp": time_warp},
    "image": {"crop": crop, "flip": flip},
    "text": {},
}
