"""Which channels of the data a model gets, in which order, in which units: by name, as both state them."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep.plausibility import axes_of
from data_prep.signals import STANDARD_GRAVITY
from har_prune.errors import CheckpointError, did_you_mean

# What converts exactly: (quantity, size of the unit).
_UNITS = {
    "m/s^2": ("acceleration", 1.0),
    "g": ("acceleration", STANDARD_GRAVITY),
    "mg": ("acceleration", STANDARD_GRAVITY / 1000),
    "rad/s": ("rate", 1.0),
    "deg/s": ("rate", float(np.pi / 180)),
}


def mirror_signs(names: Sequence[str] | None, units: Sequence[str] | None) -> np.ndarray:
    """What each channel is multiplied with to be that of the other wrist, [C] of 1 and -1.

    Of a device whose x points to the hand on both wrists, with y across the forearm and z out of the back of the hand:
    in a mirror the acceleration across the forearm turns round; of angular rates, which turn about an axis, the other
    two do. A watch that is turned so that its display can be read has x away from one hand: corruption `other_wrist`.

    Args:
        names: Of the channels; they end with x, y or z.
        units: Of the channels.

    Raises:
        CheckpointError: A name has no axis, or a unit is neither one of acceleration nor of angular rate.
    """
    signs = []
    for name, unit in zip(names or (), units or (), strict=False):
        axis, (quantity, _) = name[-1:].lower(), _UNITS.get(unit, ("", 1.0))
        if axis not in tuple("xyz") or not quantity:
            raise CheckpointError(
                f"channel {name!r} in {unit!r} cannot be mirrored: its name must end with x, y or z, and its unit be "
                f"one of {', '.join(_UNITS)}."
            )
        signs.append(-1.0 if (axis == "y") == (quantity == "acceleration") else 1.0)
    if not signs:
        raise CheckpointError("channels without names and units cannot be mirrored: name them when data are prepared.")
    return np.array(signs)


def triads_of(names: Sequence[str] | None, units: Sequence[str] | None) -> Tensor | None:
    """Places of x, y and z of each sensor by the names of channels, [triads, 3]; None without names.

    Warns where there is no NAME_x, NAME_y and NAME_z of one unit.
    """
    if not names:
        return None
    found = axes_of(names, units or [""] * len(names))
    if not found:
        warnings.warn(
            f"rotation turns nothing: no channels NAME_x, NAME_y, NAME_z of one unit among {', '.join(names)}. Leave "
            "it out of data.augment.",
            stacklevel=3,
        )
    return torch.tensor(list(found.values()), dtype=torch.long).reshape(-1, 3)


# What augmentations are told of the channels, of their names and units.
OF_CHANNELS: dict[str, Callable[..., Tensor | None]] = {
    "mirror": lambda names, units: torch.from_numpy(mirror_signs(names, units)),
    "rotation": triads_of,
}


@dataclass(frozen=True)
class ChannelMatch:
    """Makes a model's channels out of the data's.

    Args:
        columns: For each channel of the model its index in the data.
        factors: What each is multiplied with to be in the model's unit.
    """

    columns: tuple[int, ...]
    factors: tuple[float, ...]

    def __call__(self, windows: Tensor) -> Tensor:
        """Windows [B, T, channels of the data] -> [B, T, channels of the model]; as they are where nothing differs."""
        if self.columns != tuple(range(windows.shape[2])):
            windows = windows[..., list(self.columns)]
        if set(self.factors) == {1.0}:
            return windows
        return windows.double() * torch.tensor(self.factors, dtype=torch.float64)


def match_channels(facts: dict[str, Any], channels: int, extractor: Any, checkpoint: str) -> ChannelMatch:
    """Finds each channel of a model in the data by its name. Channels it does not know are left out.

    Args:
        facts: What the data's card states: channels and units.
        channels: How many channels the windows have.
        extractor: The model's feature extractor. Where it or the card names no channels, only their number is
            compared, with a warning; the same for units.
        checkpoint: Its name, for messages.

    Raises:
        CheckpointError: A channel is missing, or is in a unit that does not convert, or windows are longer than the
            model's.
    """
    rate = extractor.sampling_rate_hz
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 < rate < math.inf:
        raise CheckpointError(
            f"checkpoint {checkpoint}: its preprocessor_config.json has sampling_rate_hz={rate!r}; a number above 0 "
            "is wanted: restore the file."
        )
    size = facts.get("window_s")
    longest = extractor.window_size / extractor.sampling_rate_hz
    if size is not None and size * extractor.sampling_rate_hz >= extractor.window_size + 1:
        raise CheckpointError(
            f"checkpoint {checkpoint} takes windows of up to {longest:g} s and the data have windows of {size:g} s: "
            f"prepare the data with --window-s {longest:g}, or use a checkpoint for longer ones."
        )
    wanted, there = getattr(extractor, "channel_names", None), facts.get("channels")
    if not wanted or not there:
        if extractor.num_channels != channels:
            raise CheckpointError(
                f"checkpoint {checkpoint} takes {extractor.num_channels} channels ({wanted}) and the data have "
                f"{channels} ({there}): use data of the same sensors."
            )
        _warn("channels", "names, order and units", checkpoint, wanted)
        return ChannelMatch(tuple(range(channels)), (1.0,) * channels)
    into, units = getattr(extractor, "channel_units", None), facts.get("units")
    for stated in (wanted, into or wanted):
        if len(stated) != extractor.num_channels:
            raise CheckpointError(
                f"checkpoint {checkpoint} takes {extractor.num_channels} channels, and its preprocessor_config.json "
                f"states {len(stated)}: {stated}. Correct channel_names and channel_units there."
            )
    columns = tuple(_column(name, there, checkpoint) for name in wanted)
    if not into or not units:
        _warn("units", "units", checkpoint, into)
        return ChannelMatch(columns, (1.0,) * len(columns))
    factors = tuple(
        _factor(name, units[column], unit, checkpoint)
        for name, column, unit in zip(wanted, columns, into, strict=True)
    )
    return ChannelMatch(columns, factors)


def _warn(what: str, compared: str, checkpoint: str, stated: Sequence[str] | None) -> None:
    whose = "the card of the data" if stated else f"checkpoint {checkpoint}"
    warnings.warn(f"{whose} states no {what}: {compared} are taken to be the same in both.", stacklevel=3)


def _column(name: str, there: Sequence[str], checkpoint: str) -> int:
    if name not in there:
        raise CheckpointError(
            f"checkpoint {checkpoint} takes a channel {name!r}, and the data have none of that name (channels: "
            f"{', '.join(there)}).{did_you_mean(name, there)} If it is there under another name, say so: "
            f"data.rename_channels: {{name in the data: {name}}}; else use data of the same sensors."
        )
    return list(there).index(name)


def _factor(name: str, unit: str, wanted: str, checkpoint: str) -> float:
    if unit == wanted:
        return 1.0
    (quantity, size), (wanted_quantity, wanted_size) = _UNITS.get(unit, (unit, 1.0)), _UNITS.get(wanted, (wanted, 1.0))
    if quantity != wanted_quantity:
        raise CheckpointError(
            f"channel {name!r} is in {unit!r} in the data and in {wanted!r} in checkpoint {checkpoint}, and these do "
            "not convert (m/s^2, g and mg do, and rad/s and deg/s): prepare the data in its unit."
        )
    return size / wanted_size
