"""What some examples tell about the blocks."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Measurements:
    """Measurements on N examples for C candidate blocks.

    Criteria are given groups of them: N is then [G, N], G groups of N examples each.

    Args:
        blocks: Indices of the candidates, C of them.
        reference: Representation of the reference network, [1, N, D]; D = 0 where no criterion needs features.
        without: Representation without each candidate, [C, N, D]; likewise.
        values: {criterion name: one number for each candidate and example, [C, N]}.
        own: Of these the numbers of the criterion that is asked, [C, N]; None where it needs features alone.
        positions: Of the examples among all that are measured, [N]; empty where nobody counts them.
    """

    blocks: tuple[int, ...]
    reference: Tensor
    without: Tensor
    values: dict[str, Tensor] = field(default_factory=dict)
    own: Tensor | None = None
    positions: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    def __len__(self) -> int:
        return self.reference.shape[1]

    @property
    def bytes(self) -> int:
        """Of the representations."""
        return sum(features.numel() * features.element_size() for features in (self.reference, self.without))

    def of(self, criterion: str) -> "Measurements":
        """The same as one criterion sees it."""
        return replace(self, own=self.values.get(criterion))

    def candidate(self, place: int) -> "Measurements":
        """The same for one candidate."""
        at = slice(place, place + 1)
        values = {name: values[at] for name, values in self.values.items()}
        return Measurements(self.blocks[at], self.reference, self.without[at], values)

    def rows(self, rows: Tensor) -> "Measurements":
        """Some of the examples in groups, in float64.

        Args:
            rows: Their places, [G, N] for G groups of N.
        """
        return Measurements(
            self.blocks,
            self.reference[:, rows].double(),
            self.without[:, rows].double(),
            {name: values[:, rows].double() for name, values in self.values.items()},
        )

    @staticmethod
    def joined(parts: Sequence["Measurements"]) -> "Measurements":
        """Measurements of several batches as one."""
        if len(parts) == 1:
            return parts[0]
        return Measurements(
            parts[0].blocks,
            torch.cat([part.reference for part in parts], 1),
            torch.cat([part.without for part in parts], 1),
            {name: torch.cat([part.values[name] for part in parts], 1) for name in parts[0].values},
            positions=torch.cat([part.positions for part in parts]),
        )
