"""Criteria that look at no data: at the weights of a block, or at nothing."""

import torch
from accelerate.utils import align_module_device

from har_prune.blocks.stack import Block
from har_prune.errors import DegenerateFeaturesError
from har_prune.scoring.criteria.base import Needs, Task, register_criterion


class FixedCriterion:
    """A criterion that looks at no data."""

    needs: Needs = "nothing"
    estimator = "exact"

    def __init__(self, task: Task):
        self.task = task


@register_criterion("l1_norm")
class L1Norm(FixedCriterion):
    """Mean absolute weight of a block's linear and convolutional layers; a mean, so that stages compare.

    Cost: no pass. Source: Li et al. 2017, arXiv:1608.08710, section 3.1, there for filters.
    """

    def value(self, block: Block) -> float:
        total, count = 0.0, 0
        for module in block.module.modules():
            if any(parameter.ndim > 1 for parameter in module.parameters(recurse=False)):
                with align_module_device(module):  # offloaded weights come back for the moment
                    weights = [p for p in module.parameters(recurse=False) if p.ndim > 1]
                    total += sum(weight.detach().double().abs().sum().item() for weight in weights)
                    count += sum(weight.numel() for weight in weights)
        if not count:
            raise DegenerateFeaturesError("it has no weights.")
        return total / count


@register_criterion("random")
class Random(FixedCriterion):
    """Uniform in [0, 1), drawn with the seed: what every criterion has to beat.

    Cost: no pass.
    """

    def value(self, block: Block) -> float:
        generator = torch.Generator().manual_seed(1_000_003 * self.task.seed + block.index)
        return float(torch.rand((), generator=generator, dtype=torch.float64))
