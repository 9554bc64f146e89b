"""The registry of corruptions, and how one is applied to examples.

To add one, write a function of an example, a severity and a `numpy.random.RandomState`, and decorate it with
`@register_corruption("name", "image")`: a recipe's `evaluate.robustness` and `har-prune evaluate` know it by its name.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from har_prune.errors import DataError, did_you_mean
from har_prune.evaluation.robustness.attacks import ATTACKS

Kind = Literal["image", "sensor", "text"]
Function = TypeVar("Function", bound=Callable[..., Any])
SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Sensor:
    """What a corruption of sensor windows is told about them.

    Args:
        sampling_rate_hz: Of the windows.
        channels: Their names, as the data's card has them; empty where it has none.
        units: One a channel, e.g. "m/s^2"; empty where the card has none.
    """

    sampling_rate_hz: float
    channels: Sequence[str] = ()
    units: Sequence[str] = ()


@dataclass(frozen=True)
class Corruption:
    """One way to spoil examples.

    Args:
        name: In recipes and tables.
        kind: Of data it is for.
        function: `(example, severity, random)` -> example. Images are [H, W, 3] uint8, texts str. Of a sensor window
            [T, C] in physical units `(window, severity, random, sensor)` -> [T, C].
        severities: Levels it has: (1, ..., 5), or (1,) where there is only one.
        group: "corruptions", or "extra_corruptions" for those that are only measured when they are asked for.
    """

    name: str
    kind: Kind
    function: Callable[..., Any]
    severities: tuple[int, ...] = SEVERITIES
    group: str = "corruptions"

    def applied(self, example: Any, severity: int, seed: int, row: int, sensor: Sensor | None = None) -> Any:
        """A spoiled copy of one example: the same whatever else is in its batch, on any machine.

        Args:
            example: As `function` takes it.
            severity: One of `severities`.
            seed: Of the whole measurement.
            row: Number of the example in its data set.
            sensor: Facts about windows.
        """
        # RandomState's stream is frozen (NEP 19); Generator's may change between versions of numpy.
        words = [seed % 2**32, zlib.crc32(self.name.encode()), severity, row]
        random = np.random.RandomState(np.array(words, dtype=np.uint32))
        return self.function(example, severity, random, *([sensor] if self.kind == "sensor" else []))


_CORRUPTIONS: dict[str, Corruption] = {}
_loaded = False


def register_corruption(
    name: str, kind: Kind, *, severities: Sequence[int] = SEVERITIES, group: str = "corruptions"
) -> Callable[[Function], Function]:
    """Decorator: registers a function as a corruption.

    Args:
        name: In recipes and tables.
        kind: Of data it is for: "image", "sensor" or "text".
        severities: Levels it has.
        group: See `Corruption`.

    Raises:
        ValueError: The name is taken, or there is no such kind of data.
    """
    _load()
    if name in _CORRUPTIONS:
        raise ValueError(f"corruption {name!r} is registered already")
    if name in (*ATTACKS, *(each.group for each in _CORRUPTIONS.values())) or ":" in name:
        raise ValueError(f"corruption {name!r}: attacks, groups and names with a colon mean something else")
    if kind not in ("image", "sensor", "text"):
        raise ValueError(f"corruption {name!r}: kind {kind!r} is none of image, sensor, text")

    def register(function: Function) -> Function:
        _CORRUPTIONS[name] = Corruption(name, kind, function, tuple(severities), group)
        return function

    return register


def corruptions_for(kind: str, name: str) -> list[Corruption]:
    """The corruptions that a name means for a kind of data: one, or those of a group.

    Raises:
        DataError: There is none of that name, or it is for another kind of data.
    """
    _load()
    own = [corruption for corruption in _CORRUPTIONS.values() if corruption.kind == kind]
    found = [corruption for corruption in own if name in (corruption.name, corruption.group)]
    if found:
        return found
    if name in _CORRUPTIONS:
        raise DataError(f"corruption {name!r} is for {_CORRUPTIONS[name].kind} data, and these are {kind} data.")
    known = [*dict.fromkeys(corruption.group for corruption in own), *(corruption.name for corruption in own)]
    raise DataError(
        f"robustness {name!r} is unknown.{did_you_mean(name, known)} For {kind} data there are {', '.join(known)}."
    )


def _load() -> None:
    """Registers what comes with har_prune, before anybody asks, or registers a corruption of their own."""
    global _loaded
    if _loaded:
        return
    _loaded = True  # the modules below register theirs while they are imported
    from har_prune.evaluation.robustness import images, sensors, texts  # noqa: F401
