"""Criteria that look at a block itself: what it does to the hidden state, or to the loss."""

import math

from torch import Tensor, nn

from har_prune.errors import DegenerateFeaturesError
from har_prune.scoring.cka import Statistics
from har_prune.scoring.criteria.base import Needs, Task, register_criterion
from har_prune.scoring.measurements import Measurements


class MeanCriterion:
    """Mean over examples of one number for each block and example: of `of_block`, or the growth of the loss."""

    needs: Needs
    estimator = "mean over examples"

    def __init__(self, task: Task):
        pass

    def start(self, first: Measurements) -> None:
        """Nothing to prepare."""

    def statistics(self, measurements: Measurements) -> Statistics:
        values = measurements.own
        if values is None:
            raise ValueError(f"{type(self).__name__} with needs={self.needs!r} is given no number for each example.")
        return [values.new_full((1, values.shape[1]), values.shape[-1]), values.sum(-1)]

    def importance(self, statistics: Statistics) -> Tensor:
        count, total = statistics
        if not bool(total.isfinite().all()):
            raise DegenerateFeaturesError("hidden states, gradients or losses hold NaN or infinity.")
        return total / count


def _mean_over_positions(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum(1) / mask.sum(1)


def _cosine(before: Tensor, after: Tensor) -> Tensor:
    return nn.functional.cosine_similarity(before.double(), after.double(), dim=-1)


@register_criterion("block_influence")
class BlockInfluence(MeanCriterion):
    """1 - cosine of a block's input and output, mean over positions, in [0, 2].

    Cost: one forward; no backward. Source: ShortGPT, Men et al. 2024, arXiv:2403.03853, eq. 1.
    """

    needs: Needs = "hidden_states"

    @staticmethod
    def of_block(before: Tensor, after: Tensor, mask: Tensor, gradient: Tensor | None) -> Tensor:
        """[N]."""
        return _mean_over_positions(1 - _cosine(before, after), mask)


@register_criterion("angular_distance")
class AngularDistance(MeanCriterion):
    """Angle between a block's input and output over pi, mean over positions, in [0, 1].

    The paper looks at the last position of a language model only; a classifier reads all of them.

    Cost: one forward; no backward. Source: Gromov et al. 2024, arXiv:2403.17887, eq. 6.
    """

    needs: Needs = "hidden_states"

    @staticmethod
    def of_block(before: Tensor, after: Tensor, mask: Tensor, gradient: Tensor | None) -> Tensor:
        """[N]."""
        return _mean_over_positions(_cosine(before, after).clamp(-1, 1).acos() / math.pi, mask)


@register_criterion("taylor")
class Taylor(MeanCriterion):
    """First-order change of an example's loss when the block hands its input through, absolute value.

    Cost: one forward and one backward. Needs labels.
    Source: Molchanov et al. 2017, arXiv:1611.06440, eq. 8, with a block's residual branch as the feature map.
    """

    needs: Needs = "gradients"

    @staticmethod
    def of_block(before: Tensor, after: Tensor, mask: Tensor, gradient: Tensor | None) -> Tensor:
        """[N]."""
        if gradient is None:
            raise ValueError("taylor needs the gradient")
        return ((before - after).double() * gradient.double()).sum((1, 2)).abs()


@register_criterion("loss_increase")
class LossIncrease(MeanCriterion):
    """How much the cross-entropy grows, in nats, without the block: remove and measure.

    Cost: one forward and, for each candidate, the blocks behind it; no backward. Needs labels. Below 0 where the
    network is better without. Source: the oracle of Molchanov et al. 2017, arXiv:1611.06440, section 2.2.
    """

    needs: Needs = "losses"
