"""Augmentations of training batches in plain torch, on the device the batch is on.

Sensor windows are augmented in physical units: turning a sensor around is a rotation only there. All draw from torch's
global generator, which `train_model` seeds in every step.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Augmentation = Callable[..., Tensor]  # of a batch; those OF_EPOCHS also of index and epoch, others as `channels` says


def jitter(windows: Tensor, share: float = 0.02) -> Tensor:
    """Adds white noise, its deviation a share of each channel's deviation in the batch. [B, T, C]."""
    return windows + torch.randn_like(windows) * (share * windows.std(dim=(0, 1), keepdim=True))


def scaling(windows: Tensor, deviation: float = 0.1) -> Tensor:
    """Multiplies each channel of each window by a number around 1: strength and sensor gain differ. [B, T, C]."""
    return windows * (1 + deviation * torch.randn(len(windows), 1, windows.shape[2], device=windows.device))


def rotation(windows: Tensor, triads: Tensor | None = None, max_degrees: float = 15.0) -> Tensor:
    """Turns the sensor by a random angle around a random axis, the same for all triads. [B, T, C].

    Args:
        windows: A batch.
        triads: Channels x, y, z of each sensor, [triads, 3]: `channels.triads_of`; None = three by three. Others stay.
        max_degrees: Largest angle.
    """
    device = windows.device
    if triads is None:
        triads = torch.arange(windows.shape[2] // 3 * 3).reshape(-1, 3)
    columns = triads.flatten().tolist()
    axis = torch.nn.functional.normalize(torch.randn(len(windows), 3, device=device), dim=1)
    angle = (2 * torch.rand(len(windows), 1, 1, device=device) - 1) * math.radians(max_degrees)
    cross = torch.zeros(len(windows), 3, 3, device=device)
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -axis[:, 2], axis[:, 1], -axis[:, 0]
    cross = cross - cross.transpose(1, 2)
    matrix = torch.eye(3, device=device) + angle.sin() * cross + (1 - angle.cos()) * cross @ cross  # Rodrigues
    turned = windows.clone()
    vectors = windows[..., columns].unflatten(2, (len(triads), 3))
    turned[..., columns] = torch.einsum("btsj,bij->btsi", vectors, matrix).flatten(2)
    return turned


def time_warp(windows: Tensor, strength: float = 0.2) -> Tensor:
    """Plays each window at a speed that varies smoothly around 1; its ends stay. [B, T, C]."""
    batch, length, _ = windows.shape
    knots = 1 + strength * (2 * torch.rand(batch, 1, 5, device=windows.device) - 1)
    speed = torch.nn.functional.interpolate(knots, length - 1, mode="linear", align_corners=True)[:, 0]
    position = torch.nn.functional.pad(speed.cumsum(1), (1, 0))
    position = position / position[:, -1:] * (length - 1)
    left = position.floor().clamp(max=length - 2).long()
    share = (position - left)[..., None]
    index = left[..., None].expand_as(windows)
    return windows.gather(1, index) * (1 - share) + windows.gather(1, index + 1) * share


def mirror(windows: Tensor, signs: Tensor) -> Tensor:
    """Half of the windows as the other wrist would have them: `channels.mirror_signs` [C]. [B, T, C]."""
    other = torch.rand(len(windows), 1, 1, device=windows.device) < 0.5
    return torch.where(other, windows * signs.to(windows), windows)


def crop(images: Tensor, padding: int = 4) -> Tensor:
    """Shifts each image by up to `padding` pixels each way; what comes in is a mirror image. [B, C, H, W]."""
    batch, _, height, width = images.shape
    padded = torch.nn.functional.pad(images.float(), [padding] * 4, mode="reflect").to(images.dtype)
    top, left = torch.randint(2 * padding + 1, (2, batch, 1), device=images.device)
    rows = (top + torch.arange(height, device=images.device))[:, :, None]
    columns = (left + torch.arange(width, device=images.device))[:, None, :]
    every = torch.arange(batch, device=images.device)[:, None, None]
    # Whole pixels are copied, whose channels lie side by side: several times faster than channel by channel.
    return padded.permute(0, 2, 3, 1).contiguous()[every, rows, columns].permute(0, 3, 1, 2)


def random_resized_crop(images: Tensor, smallest: float = 0.35) -> Tensor:
    """Enlarges a random rectangle of each image, of 0.35 to 1 of its area and 3:4 to 4:3, to all of it. [B, C, H, W].

    Source: Szegedy et al. 2014, arXiv:1409.4842, with the smallest area of Wightman et al. 2021, arXiv:2110.00476; of
    what is left of an image when the processor has cut out its centre.
    """
    batch, device = len(images), images.device
    area = smallest + (1 - smallest) * torch.rand(batch, device=device)
    ratio = torch.exp(math.log(4 / 3) * (2 * torch.rand(batch, device=device) - 1))
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=1).clamp(max=1)
    centres = (1 - sides) * (2 * torch.rand(batch, 2, device=device) - 1)
    where = torch.cat([torch.diag_embed(sides), centres[:, :, None]], dim=2)
    grid = torch.nn.functional.affine_grid(where, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def flip(images: Tensor) -> Tensor:
    """Mirrors each image left to right with probability 1/2. [B, C, H, W]."""
    return _mirrored(images, torch.rand(len(images), device=images.device) < 0.5)


def alternating_flip(images: Tensor, index: Tensor, epoch: int) -> Tensor:
    """Mirrors each image in every other epoch, so that no view of it comes twice running. [B, C, H, W].

    Source: Jordan 2024, arXiv:2404.00498, section 3.6.

    Args:
        images: A batch.
        index: Number of each image in the data, [B]: whether it begins mirrored follows from it.
        epoch: Number of the epoch.
    """
    first = (index * 2_654_435_761 >> 16) & 1  # Knuth's multiplicative hash: a coin for each image
    return _mirrored(images, (first + epoch) % 2 == 1)


def _mirrored(images: Tensor, which: Tensor) -> Tensor:
    return torch.where(which[:, None, None, None], images.flip(3), images)


AUGMENTATIONS: dict[str, dict[str, Augmentation]] = {
    "sensor": {"jitter": jitter, "scaling": scaling, "rotation": rotation, "time_warp": time_warp, "mirror": mirror},
    "image": {
        "crop": crop,
        "random_resized_crop": random_resized_crop,
        "flip": flip,
        "alternating_flip": alternating_flip,
    },
    "text": {},
}
OF_EPOCHS = ("alternating_flip",)  # those that are told index and epoch
