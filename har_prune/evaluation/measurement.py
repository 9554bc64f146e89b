"""The registry of what else can be measured of a network, beside its metrics and its cost.

To add a kind, write a frozen dataclass of values that fit into JSON, with `measure` and `figures`, and decorate it
with `@register_measurement("name")`. The name is its key in step.json and history.json, and tables show its figures;
what switches it on is a field of `EvaluateConfig`. A classmethod `check(config, data)`, where there is one, refuses
what cannot be measured before anything is trained.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from har_prune.evaluation.config import EvaluateConfig


@dataclass(frozen=True)
class Network:
    """A network of a run, and what there is to measure it with.

    Args:
        model: The network, in eval mode.
        original: The unpruned network it came from; the same one in the first step.
        example_inputs: Model inputs of one example.
        data: Labelled batches by split.
        config: What is wanted.
        accelerator: Device and processes; every process measures.
        is_healed: False between two healings, where it says little how well a network does.
    """

    model: PreTrainedModel
    original: PreTrainedModel
    example_inputs: dict[str, Tensor]
    data: Mapping[str, Iterable[Mapping[str, Any]]]
    config: EvaluateConfig
    accelerator: Accelerator
    is_healed: bool = True


class Measurement(Protocol):
    """One kind of measurement: a frozen dataclass that holds what was found."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @classmethod
    def measure(cls, network: Network) -> "Measurement | None":
        """Measures a network; None where `network.config` does not ask for it."""

    @property
    def figures(self) -> dict[str, float]:
        """What tables show, with units in the names; of a name that ends in % the change is in points."""


Kind = TypeVar("Kind", bound=type)

_KINDS: dict[str, Any] = {}


def register_measurement(name: str) -> Callable[[Kind], Kind]:
    """Decorator: registers a class as a kind of measurement under the key it has in a step.

    Raises:
        ValueError: The name is taken.
        TypeError: The class is no dataclass, or lacks `measure` or `figures`.
    """

    def register(kind: Kind) -> Kind:
        if name in _KINDS or name in _OF_EVERY_STEP:
            raise ValueError(f"measurement {name!r} is registered already")
        missing = [part for part in ("measure", "figures", "__dataclass_fields__") if not hasattr(kind, part)]
        if missing:
            raise TypeError(f"measurement {name!r}: {kind.__name__} has no {', '.join(missing)}; see `Measurement`.")
        _KINDS[name] = kind
        return kind

    return register


# Keys of a step that are no measurements of this registry.
_OF_EVERY_STEP = (
    "format", "iteration", "removed", "remaining", "scores", "calibration", "cost", "metrics", "healing",
    "weights_sha256", "seconds", "removed_units", "units", "choice",
)  # fmt: skip


def check_all(config: EvaluateConfig, data: Mapping[str, Any]) -> None:
    """Asks every kind that can tell whether it will be able to measure what is wanted.

    Args:
        config: What is wanted.
        data: Labelled batches by split.

    Raises:
        HarPruneError: One of them will not.
    """
    for kind in _kinds().values():
        if hasattr(kind, "check"):
            kind.check(config, data)


def measure_all(network: Network) -> dict[str, Any]:
    """What the registered kinds find; those that are not asked for are absent."""
    found = {name: kind.measure(network) for name, kind in _kinds().items()}
    return {name: value for name, value in found.items() if value is not None}


def from_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Measurements by name, from plain values; a kind that nobody registered here stays what it is in the file."""
    kinds = _kinds() if values else {}
    return {name: kinds[name](**value) if name in kinds else value for name, value in values.items()}


def _kinds() -> dict[str, Any]:
    """All kinds; those that come with har_prune register themselves once somebody asks."""
    from har_prune.evaluation import energy  # noqa: F401
    from har_prune.evaluation.robustness import measure  # noqa: F401

    return _KINDS


def figures_of(measured: Mapping[str, Any]) -> dict[str, float]:
    """What tables show of all measurements of a step."""
    return {name: value for kind in measured.values() for name, value in getattr(kind, "figures", {}).items()}
