"""The part of the page that is of a run with one fold a test subject."""

from statistics import fmean
from typing import Any

from markupsafe import Markup

from har_prune.evaluation.significance import PairedDifference
from har_prune.reporting.folds import FOLDS_NOTE, Histories, class_names, folds_summary, folds_tables
from har_prune.reporting.html.figures import subjects_figure
from har_prune.reporting.html.tables import Cell, PageTable, Section, card, confusion_tables
from har_prune.reporting.names import printable


def folds_run(name: str, anchor: str, histories: Histories) -> dict[str, Any]:
    """What the page says of all folds together.

    Args:
        name: Of the run.
        anchor: Of its part of the page.
        histories: As `folds_at` reads them.
    """
    summary = folds_summary(histories)
    tables = _tables(histories, summary)
    confusion = confusion_tables(summary["confusion"]["pruned"], dict(enumerate(class_names(histories))))
    return {
        "name": name,
        "anchor": anchor,
        "headline": _headline(histories, summary),
        "cards": _cards(histories, summary),
        "blocks": _block_map(histories),
        "sections": [
            Section(
                f"{anchor}-folds", "Test subjects", FOLDS_NOTE,
                Markup(subjects_figure(summary, f"{anchor}f")), tables[:3],
            ),
            Section(f"{anchor}-classes", "By class, all windows", tables=[*tables[3:], *confusion]),
        ],
    }  # fmt: skip


def _tables(histories: Histories, summary: dict[str, Any]) -> list[PageTable]:
    return [
        PageTable(table.caption, table.columns, [[_cell(text) for text in row] for row in table.rows], table.strong)
        for table in folds_tables(histories, summary)
    ]


def _cell(text: str) -> Cell:
    text = printable(text)
    try:
        return Cell(text, float(text.replace(",", "").removeprefix("± ")))
    except ValueError:
        return Cell(text)


def _headline(histories: Histories, summary: dict[str, Any]) -> str:
    every = [history for seeds in histories.values() for history in seeds]
    before, after = (summary["overall"][name]["accuracy"]["mean"] for name in ("original", "pruned"))
    found = PairedDifference(**summary["pruned_against"]["original"])
    gone = {len(history.removed) for history in every}
    blocks = " to ".join(map(str, sorted({min(gone), max(gone)})))
    share = fmean(history.macs_reduction(history.after) for history in every)
    return (
        f"{len(histories)} people, each the test of networks that never saw them: {blocks} of "
        f"{len(every[0].before.remaining)} blocks removed, {100 * share:.1f} % of the multiply-accumulates gone; "
        f"accuracy {100 * before:.2f} → {100 * after:.2f} ({100 * found.mean:+.2f} ± {100 * found.ci95:.2f}, "
        f"{found.verdict})."
    )


def _cards(histories: Histories, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Means over folds and seeds, before and after."""
    every = [history for seeds in histories.values() for history in seeds]
    cards = [
        card(
            key, f"{label}, mean", fmean(getattr(history.before.cost, key) for history in every),
            fmean(getattr(history.after.cost, key) for history in every),
        )
        for key, label in (("macs", "MACs"), ("parameters", "parameters"))
    ]  # fmt: skip
    for key, label in (("accuracy", "accuracy %"), ("macro_f1", "macro-F1 %")):
        before, after = (100 * summary["overall"][name][key]["mean"] for name in ("original", "pruned"))
        cards.append(card(key, f"{label}, mean of folds", before, after, 2))
    return [one for one in cards if one is not None]


def _block_map(histories: Histories) -> list[dict[str, Any]]:
    """Every original block: in how many runs it went."""
    every = [history for seeds in histories.values() for history in seeds]
    gone = {block: sum(block in history.removed for history in every) for block in every[0].before.remaining}
    return [
        {
            "index": block, "gone": 2 * count > len(every),
            "text": f"gone in {count} of {len(every)}" if count else "kept",
        }
        for block, count in gone.items()
    ]  # fmt: skip
