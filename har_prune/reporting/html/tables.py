"""What a page is made of: sections, tables and their cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from har_prune.reporting.names import printable

_LARGEST_CONFUSION = 32  # classes; a larger matrix nobody reads


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Args:
        text: What is read.
        value: The number as the record has it, for who wants to copy it.
        shade: Share of the strongest background, in [0, 1].
    """

    text: str
    value: float | None = None
    shade: float | None = None

    @classmethod
    def figure(cls, value: float | None) -> "Cell":
        """A number with two decimals; a dash for none."""
        return cls("-") if value is None else cls(f"{value:.2f}", value)

    @classmethod
    def count(cls, value: int) -> "Cell":
        """A whole number."""
        return cls(f"{value:,}", value)

    @classmethod
    def percent(cls, share: float) -> "Cell":
        """A share of 1, in %."""
        return cls(f"{100 * share:.2f}", 100 * share)


@dataclass(frozen=True)
class PageTable:
    """A table whose rows begin with a heading; `strong` is the row that stands out."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    strong: int | None = None


@dataclass(frozen=True)
class Section:
    """A part of the page: an anchor, a heading, a sentence, a figure, tables, and text as it is."""

    anchor: str
    title: str
    lead: str = ""
    figure: Markup | None = None
    tables: Sequence[PageTable] = ()
    text: str = ""
    folded: bool = False


def card(key: str, label: str, old: float | None, new: float | None, digits: int = 0) -> dict[str, Any] | None:
    """A figure before and after, with a bar each; None where one is not known."""
    if not old or new is None:
        return None
    return {
        "key": key, "label": label,
        "before": Cell(f"{old:,.{digits}f}", old), "after": Cell(f"{new:,.{digits}f}", new),
        "old": 100 * old / max(old, new), "new": 100 * new / max(old, new),
    }  # fmt: skip


def confusion_tables(confusion: Sequence[Sequence[int]], names: Mapping[int, str]) -> list[PageTable]:
    """The matrix of the pruned network without the classes that nobody has; none where that is too large to read.

    Args:
        confusion: True class by row, predicted by column.
        names: Of the classes; where one is missing, its number.
    """
    if not 0 < len(confusion) <= _LARGEST_CONFUSION:
        return []
    called = [printable(names.get(index, index)) for index in range(len(confusion))]
    rows = [
        [Cell(called[index]), *(Cell(f"{count}", count, count / sum(row)) for count in row)]
        for index, row in enumerate(confusion)
        if sum(row)
    ]
    caption = "Confusion of the pruned network: true class by row, predicted by column"
    return [PageTable(caption, ["", *called], rows)]
