"""What a page is made of: sections, tables and their cells."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup


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
