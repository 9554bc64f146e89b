"""When pruning stops: the budgets of a run, which all have to hold."""

from typing import Any

from pydantic import Field, field_validator, model_validator

from har_prune.evaluation.config import LatencyBudget
from har_prune.evaluation.cost import Cost
from har_prune.runtime.settings import Settings

_MIB = 2**20


class Target(Settings):
    """When to stop: where all budgets hold. With `min_accuracy` alone the network gets as small as that allows."""

    macs_reduction: float | None = Field(
        None, gt=0, lt=1, description="share of the unpruned MACs to remove, at least"
    )
    parameters: int | None = Field(None, ge=1, description="parameters to leave, at most")
    size_mib: float | None = Field(None, gt=0, description="size of the weights in MiB, at most")
    latency_ms: LatencyBudget | None = Field(
        None,
        description="time of a forward in milliseconds, at most: a number, or {at_most: 2.5, batch: 1, threads: 1, "
        "device: cpu}; measured on the machine that runs, in turns with the original",
    )
    blocks: int | None = Field(None, ge=1, description="blocks to leave, at most")
    min_accuracy: float | None = Field(None, gt=0, le=1, description="validation accuracy never to fall below")

    @field_validator("latency_ms", mode="before")
    @classmethod
    def _number_alone(cls, value: Any) -> Any:
        return {"at_most": value} if isinstance(value, int | float) else value

    @model_validator(mode="after")
    def _one_goal(self) -> "Target":
        if self.only_accuracy and self.min_accuracy is None:
            raise ValueError(f"give at least one of {', '.join(type(self).model_fields)}")
        return self

    @property
    def budgets(self) -> dict[str, Any]:
        """What limits the size of the network, by name."""
        values = {name: getattr(self, name) for name in type(self).model_fields if name != "min_accuracy"}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def only_accuracy(self) -> bool:
        """Whether nothing but the accuracy limits."""
        return not self.budgets

    def most_macs(self, before: int) -> int:
        """MACs that may be left of so many."""
        share = 1 if self.macs_reduction is None else 1 - self.macs_reduction
        return int(share * before + 1e-6 * max(1, before * 1e-6))  # 0.9 * 10 is a little less than 9

    def is_met(self, before: Cost, cost: Cost, blocks: int) -> bool:
        """Whether a network is small enough; False as long as only the accuracy limits.

        Args:
            before: Cost of the unpruned network.
            cost: Cost of the network.
            blocks: Blocks it has.
        """
        return not self.only_accuracy and not self.unmet(before, cost, blocks)

    def unmet(self, before: Cost, cost: Cost, blocks: int) -> dict[str, str]:
        """{budget that does not hold: what the network has}. A latency holds when its interval does."""
        found: dict[str, str] = {}
        if cost.macs > self.most_macs(before.macs):
            removed = 1 - cost.macs / before.macs
            found["macs_reduction"] = f"{int(removed * 1e4) / 1e4}"  # rounded towards what can be reached
        if self.parameters is not None and cost.parameters > self.parameters:
            found["parameters"] = f"{cost.parameters}"
        if self.size_mib is not None and (cost.size_bytes or 0) > self.size_mib * _MIB:
            found["size_mib"] = f"{(cost.size_bytes or 0) / _MIB + 5e-4:.3f}"
        if self.blocks is not None and blocks > self.blocks:
            found["blocks"] = f"{blocks}"
        if self.latency_ms is not None and (cost.latency is None or cost.latency.upper_ms > self.latency_ms.at_most):
            found["latency_ms"] = "not measured" if cost.latency is None else f"{cost.latency.upper_ms:.3g}"
        return found
