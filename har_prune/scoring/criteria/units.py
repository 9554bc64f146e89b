"""Criteria for units inside a block: channels, feed-forward units, heads.

To add one, write a class with the members of `UnitCriterion` and decorate it with `@register_unit_criterion("name")`.
"""

from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeVar, get_args

import torch
from torch import Tensor

from har_prune.errors import UnknownCriterionError, did_you_mean
from har_prune.widths.stack import Width

# nothing: the weights, or not even these. values: what the units give to the module that reads them. gradients: these,
# and the gradient of an example's loss there.
UnitNeeds = Literal["nothing", "values", "gradients"]


class UnitCriterion(Protocol):
    """What a criterion of units must offer. It is made by calling the class with a seed.

    Attributes:
        needs: What is measured for it.
    """

    needs: UnitNeeds

    def of_weights(self, width: Width) -> Tensor:
        """Importance of each unit, [units], for a criterion that needs nothing; higher = keep."""

    def of_values(self, values: Tensor, gradients: Tensor | None, mask: Tensor) -> Tensor:
        """One number for each example and unit, [N, units]; the importance is their mean.

        Args:
            values: [N, positions, units, values of a unit].
            gradients: Of each example's loss, likewise; None unless `needs` is "gradients".
            mask: 1 where a position counts, [N, positions, 1].
        """


Made = TypeVar("Made", bound=Callable[[int], Any])

_UNIT_CRITERIA: dict[str, Callable[[int], Any]] = {}


def register_unit_criterion(name: str) -> Callable[[Made], Made]:
    """Decorator: registers a class, called with a seed, as a criterion of units.

    Raises:
        ValueError: The name is taken.
        TypeError: The class does not say what it needs, or lacks the member that goes with it.
    """

    def register(make: Made) -> Made:
        if name in _UNIT_CRITERIA:
            raise ValueError(f"criterion of units {name!r} is registered already")
        needs = getattr(make, "needs", None)
        if needs not in get_args(UnitNeeds):
            raise TypeError(
                f"criterion of units {name!r}: needs = {needs!r}; choose from {', '.join(get_args(UnitNeeds))}"
            )
        member = "of_weights" if needs == "nothing" else "of_values"
        if not callable(getattr(make, member, None)):
            raise TypeError(f"criterion of units {name!r} needs {needs!r} and has no {member}; see `UnitCriterion`.")
        _UNIT_CRITERIA[name] = make
        return make

    return register


def make_unit_criterion(name: str, seed: int = 0) -> UnitCriterion:
    """A fresh criterion of units.

    Raises:
        UnknownCriterionError: Nothing is registered under the name.
    """
    if name not in _UNIT_CRITERIA:
        known = sorted(_UNIT_CRITERIA)
        raise UnknownCriterionError(
            f"unknown criterion of units {name!r} (known: {', '.join(known)}).{did_you_mean(name, known)}"
        )
    return _UNIT_CRITERIA[name](seed)


class _Seeded:
    def __init__(self, seed: int):
        self.seed = seed


@register_unit_criterion("l1_norm")
class UnitL1Norm(_Seeded):
    """Mean absolute weight that makes a unit: of a channel its filter, of a head its query, key and value.

    Cost: no pass. Source: Li et al. 2017, arXiv:1608.08710, section 3.1.
    """

    needs: UnitNeeds = "nothing"

    def of_weights(self, width: Width) -> Tensor:
        """[units]."""
        total, count = torch.zeros(width.units, dtype=torch.float64), 0
        for path in width.kind.rows:
            for weight in width.block.module.get_submodule(path).parameters():
                if weight.ndim > 1:
                    parts = weight.detach().double().cpu().reshape(width.units, -1)
                    total, count = total + parts.abs().sum(1), count + parts.shape[1]
        return total / count


@register_unit_criterion("random")
class UnitRandom(_Seeded):
    """Uniform in [0, 1), drawn with the seed: what every criterion has to beat. Cost: no pass."""

    needs: UnitNeeds = "nothing"

    def of_weights(self, width: Width) -> Tensor:
        """[units]."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + width.index)
        return torch.rand(width.units, generator=generator, dtype=torch.float64)


@register_unit_criterion("activation")
class UnitActivation(_Seeded):
    """Mean magnitude of what a unit gives to the module that reads it. Cost: one forward.

    Source: Molchanov et al. 2017, arXiv:1611.06440, section 2.2.
    """

    needs: UnitNeeds = "values"

    @staticmethod
    def of_values(values: Tensor, gradients: Tensor | None, mask: Tensor) -> Tensor:
        """[N, units]."""
        return (values.double().abs().mean(3) * mask).sum(1) / mask.sum(1)


@register_unit_criterion("taylor")
class UnitTaylor(_Seeded):
    """First-order change of an example's loss when a unit is zero, absolute value. Cost: one forward and one backward.

    Needs labels. Source: Molchanov et al. 2017, arXiv:1611.06440, eq. 8.
    """

    needs: UnitNeeds = "gradients"

    @staticmethod
    def of_values(values: Tensor, gradients: Tensor | None, mask: Tensor) -> Tensor:
        """[N, units]."""
        if gradients is None:
            raise ValueError("taylor needs the gradient")
        return (values.double() * gradients.double()).sum((1, 3)).abs()
