"""What one micro-batch tells about the blocks."""

from dataclasses import dataclass, field, replace

from torch import Tensor


@dataclass(frozen=True)
class Measurements:
    """Measurements on N examples for C candidate blocks.

    Args:
        blocks: Indices of the candidates, C of them.
        reference: Representation of the reference network, [1, N, D]; D = 0 where no criterion needs features.
        without: Representation without each candidate, [C, N, D]; likewise.
        values: {criterion name: one number for each candidate and example, [C, N]}.
        own: Of these the numbers of the criterion that is asked, [C, N]; None where it needs features alone.
    """

    blocks: tuple[int, ...]
    reference: Tensor
    without: Tensor
    values: dict[str, Tensor] = field(default_factory=dict)
    own: Tensor | None = None

    def of(self, criterion: str) -> "Measurements":
        """The same as one criterion sees it."""
        return replace(self, own=self.values.get(criterion))

    def rows(self, rows: slice) -> "Measurements":
        """The same for some of the examples, in float64."""
        return Measurements(
            self.blocks,
            self.reference[:, rows].double(),
            self.without[:, rows].double(),
            {name: values[:, rows].double() for name, values in self.values.items()},
            None if self.own is None else self.own[:, rows].double(),
        )
