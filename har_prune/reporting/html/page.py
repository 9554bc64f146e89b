"""The page of one run or several: every figure has a table beside it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from har_prune.checkpoints.provenance import without_places
from har_prune.errors import OutputFolderError
from har_prune.evaluation.measurement import figures_of
from har_prune.evaluation.metrics import EvalMetrics
from har_prune.pruning.history import PruningHistory, PruningStep
from har_prune.pruning.store import history_at
from har_prune.reporting.folds import folds_at
from har_prune.reporting.html.figures import accuracy_figure, curves_figure, robustness_figure, scores_figure
from har_prune.reporting.html.folds import folds_run
from har_prune.reporting.html.tables import Cell, PageTable, Section, card, confusion_tables
from har_prune.reporting.names import printable
from har_prune.reporting.robustness import compared, robustness_of
from har_prune.reporting.structures import removed_text, units_left
from har_prune.reporting.trajectory import (
    chosen_note,
    controls_note,
    latency_text,
    macs_label,
    noise_note,
    rows_of,
    training_examples,
)

_HERE = Path(__file__).parent


def report_page(paths: Sequence[Path]) -> str:
    """The page of the runs in some folders.

    Args:
        paths: Folders of runs that have ended, of one fold or all of them, or their history.json.

    Raises:
        OutputFolderError: One of them has no record.
    """
    histories: dict[str, PruningHistory] = {}
    runs: list[dict[str, Any]] = []
    for place, path in enumerate(paths):
        name, anchor = _title(path), f"run{place}"
        while name in [run["name"] for run in runs]:
            name += "'"
        if folds := folds_at(path):
            first = next(iter(folds.values()))[0]
            run = folds_run(name, anchor, folds)
            run["sections"].append(_made_with(anchor, first))
        else:
            histories[name] = history_at(path)
            run = _run(name, anchor, histories[name], path if path.is_dir() else path.parent)
        runs.append(run)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.get_template("page.html.j2").render(
        title="Pruning report: " + ", ".join(run["name"] for run in runs),
        style=Markup((_HERE / "style.css").read_text(encoding="utf-8")),
        script=Markup((_HERE / "page.js").read_text(encoding="utf-8")),
        several=[] if len(runs) == 1 else [_side_by_side(histories)],
        runs=runs,
    )


def _title(path: Path) -> str:
    """The last part of where a run lies: paths of somebody's disk have no place on a page that is passed on."""
    parts = [part for part in path.resolve().parts if part not in ("history.json", "pruned")]
    return printable(parts[-1]) if parts else "run"


def _side_by_side(runs: Mapping[str, PruningHistory]) -> Section:
    """All runs of one network each; those of several folds have their tables below."""
    if not runs:
        return Section("all", "Runs")
    rows = []
    for name, history in runs.items():
        before, after = (step.metrics[history.shown_split] for step in (history.before, history.after))
        speed = history.after.cost.latency.speedup if history.after.cost.latency else None
        rows.append([
            Cell(name), _blocks(history), Cell.percent(history.macs_reduction(history.after)),
            Cell.percent(before.accuracy), Cell.percent(after.accuracy), Cell.figure(speed),
        ])  # fmt: skip
    columns = ["run", "blocks", "MACs removed %", "accuracy %, original", "accuracy %, pruned", "times faster"]
    table = PageTable("All runs", columns, rows)
    if len({next(iter(history.before.metrics[history.shown_split].figures)) for history in runs.values()}) > 1:
        return Section("all", "Side by side", "Runs of different tasks have no axis in common.", tables=[table])
    return Section("all", "Side by side", figure=Markup(accuracy_figure(runs, "all")), tables=[table])


def _run(name: str, anchor: str, history: PruningHistory, folder: Path) -> dict[str, Any]:
    sections = [
        Section(
            f"{anchor}-accuracy", "Accuracy and cost", _lead(history),
            Markup(accuracy_figure({name: history}, f"{anchor}a")), [_networks(history), _trajectory(history)],
        ),
        _scores(anchor, history),
        _robustness(anchor, history),
        _classes(anchor, history),
        _training(anchor, folder),
        _made_with(anchor, history),
    ]  # fmt: skip
    return {
        "name": name,
        "anchor": anchor,
        "headline": _headline(history),
        "cards": _cards(history),
        "blocks": _block_map(history),
        "sections": [section for section in sections if section is not None],
    }


def _headline(history: PruningHistory) -> str:
    before, after, split = history.before, history.after, history.shown_split
    name, old = next(iter(before.metrics[split].figures.items()))
    new = after.metrics[split].figures[name]
    latency = after.cost.latency
    faster = ""
    if latency is not None and latency.speedup is not None:
        faster = (
            f", {latency.speedup:.1f} times faster" if latency.is_steady else ", time not told: the machine was busy"
        )
    gone = len(before.remaining) - len(after.remaining)
    narrowed = sum(bool(units_left(history, block)) for block in after.remaining)
    inside = f", {narrowed} narrowed" if narrowed else ""
    return (
        f"{gone} of {len(before.remaining)} blocks removed{inside}, {100 * history.macs_reduction(after):.1f} % of "
        f"the multiply-accumulates gone{faster}; {split} {name} {old:.2f} → {new:.2f} ({new - old:+.2f})."
    )


def _lead(history: PruningHistory) -> str:
    sentence = (
        controls_note(history)
        if history.controls
        else "This run had no controls: nothing says what the same training makes of a network that was not pruned."
    )
    return " ".join(filter(None, [sentence, noise_note(history), chosen_note(history)]))


def _cards(history: PruningHistory) -> list[dict[str, Any]]:
    """Before and after, with a bar each."""
    before, after, split = history.before, history.after, history.shown_split
    cards = [
        card("blocks", "blocks", len(before.remaining), len(after.remaining)),
        card("macs", macs_label(before.cost), before.cost.macs, after.cost.macs),
        card("parameters", "parameters", before.cost.parameters, after.cost.parameters),
        card("size", "size, KiB", _kib(before.cost.size_bytes), _kib(after.cost.size_bytes)),
        card("memory", "activations, KiB", _kib(before.cost.activation_bytes), _kib(after.cost.activation_bytes)),
    ]
    if after.cost.latency is not None and after.cost.latency.is_steady:
        old = after.cost.latency.original_ms or (before.cost.latency.median_ms if before.cost.latency else None)
        cards.append(card("latency", "latency, ms", old, after.cost.latency.median_ms, 2))
    known = after.metrics[split].figures
    for name, value in before.metrics[split].figures.items():
        cards.append(card(name, f"{split} {name}", value, known[name], 2))
    return [one for one in cards if one is not None]


def _kib(size: int | None) -> float | None:
    return None if size is None else size / 1024


def _block_map(history: PruningHistory) -> list[dict[str, Any]]:
    """Every original block: kept, narrowed to what, or gone in which iteration."""
    gone = {block: step.iteration for step in history.iterations[: history.selected + 1] for block in step.removed}
    return [
        {
            "index": block, "gone": block in gone,
            "text": f"gone in {gone[block]}" if block in gone else ", ".join(units_left(history, block)) or "kept",
        }
        for block in history.before.remaining
    ]  # fmt: skip


def _networks(history: PruningHistory) -> PageTable:
    """The result beside original and controls."""
    split = history.shown_split
    columns = [
        "network",
        "blocks",
        "MACs",
        "examples of training",
        *(f"{split} {name}" for name in history.before.metrics[split].figures),
    ]
    columns += list(figures_of(history.after.measured))
    rows, strong = [], None
    for place, (name, step) in enumerate(rows_of(history).items()):
        strong = place if step is history.after else strong
        measured = figures_of(step.measured)
        rows.append([
            Cell(name), Cell.count(len(step.remaining)), Cell.count(step.cost.macs),
            Cell.count(training_examples(history, step)),
            *(Cell(f"{value:.2f}", value) for value in step.metrics[split].figures.values()),
            *(Cell.figure(measured.get(name)) for name in figures_of(history.after.measured)),
        ])  # fmt: skip
    return PageTable(f"Networks, on the {split} data", columns, rows, strong)


def _trajectory(history: PruningHistory) -> PageTable:
    first = history.before.metrics
    compared = dict.fromkeys(name for step in history.iterations if step.choice for name in step.choice.similarity)
    columns = ["iteration", "removed", *(f"CKA, {name}" for name in compared), "blocks", "MACs", "MACs removed %"]
    columns += ["parameters", "latency, ms (p90)", "healed"]
    columns += [f"{split} {name}" for split, metrics in first.items() for name in metrics.figures]
    rows = [
        [
            Cell.count(step.iteration), Cell(removed_text(step)), *(_similarity_cell(step, name) for name in compared),
            Cell.count(len(step.remaining)),
            Cell.count(step.cost.macs), Cell.percent(history.macs_reduction(step)), Cell.count(step.cost.parameters),
            Cell(latency_text(step.cost.latency)), Cell("yes" if step.healing else "no"),
            *(Cell(f"{value:.2f}", value) for split in first for value in step.metrics[split].figures.values()),
        ]
        for step in history.iterations
    ]  # fmt: skip
    return PageTable("Iterations", columns, rows, history.selected)


def _similarity_cell(step: PruningStep, structure: str) -> Cell:
    """CKA of what a step would have left; of the structure that was taken it is the highest."""
    value = step.choice.similarity.get(structure) if step.choice else None
    return Cell("-") if value is None else Cell(f"{value:.4f}", value)


def _scores(anchor: str, history: PruningHistory) -> Section | None:
    pruned = [step for step in history.iterations if step.scores]
    if not pruned:
        return None
    rows = [
        [
            Cell.count(step.iteration), Cell.count(score.block), Cell(printable(score.name)),
            Cell(f"{score.importance:.4g}", score.importance),
            Cell("-" if score.interval is None else f"{score.interval[0]:.3g} to {score.interval[1]:.3g}"),
            Cell.count(score.samples), Cell("removed" if score.block in step.removed else ""),
        ]
        for step in pruned
        for score in step.scores
    ]  # fmt: skip
    columns = ["iteration", "block", "name", "importance", "interval", "examples", ""]
    calibration = pruned[0].calibration
    how = calibration.criterion if calibration else "cka"
    return Section(
        f"{anchor}-scores", "Importance", f"Criterion: {printable(how)}; higher = keep. A cross: removed.",
        Markup(scores_figure(history, f"{anchor}s")), [PageTable("Scores", columns, rows)], folded=True,
    )  # fmt: skip


def _robustness(anchor: str, history: PruningHistory) -> Section | None:
    networks = robustness_of(history)
    if not networks:
        return None
    first = next(iter(networks.values()))
    table = PageTable(
        f"Accuracy % on {first.samples:,} {first.split} examples, mean over severities", ["data", *networks],
        [[Cell(printable(row.title)), *map(Cell.figure, row.values)] for row in compared(networks)],
    )  # fmt: skip
    return Section(
        f"{anchor}-robustness", "Robustness", "Attacks use the gradients of the network they attack.",
        Markup(robustness_figure(networks, f"{anchor}r")), [table],
    )  # fmt: skip


def _classes(anchor: str, history: PruningHistory) -> Section | None:
    before, after = (step.metrics[history.shown_split] for step in (history.before, history.after))
    if not after.per_class:
        return None
    tables = [_per_class(before, after)]
    if after.per_group:
        rows = [
            [
                Cell(printable(name)), Cell.count(int(row["samples"])),
                *(Cell.percent(each.per_group[name]["accuracy"]) for each in (before, after)),
            ]
            for name, row in after.per_group.items()
            if name in before.per_group
        ]  # fmt: skip
        tables.append(
            PageTable("By subject", ["subject", "windows", "accuracy %, original", "accuracy %, pruned"], rows)
        )
    present = [index for index, row in enumerate(after.confusion) if sum(row)]
    names = dict(zip(present, after.per_class, strict=True)) if len(present) == len(after.per_class) else {}
    tables += confusion_tables(after.confusion, names)
    return Section(f"{anchor}-classes", f"By class, {history.shown_split}", tables=tables)


def _per_class(before: EvalMetrics, after: EvalMetrics) -> PageTable:
    keys = ("recall", "precision", "f1")
    columns = ["class", "examples", *(f"{key} %, {which}" for key in keys for which in ("original", "pruned"))]
    rows = [
        [
            Cell(printable(name)), Cell.count(int(row["support"])),
            *(Cell.percent(each[key]) for key in keys for each in (before.per_class.get(name, row), row)),
        ]
        for name, row in after.per_class.items()
    ]  # fmt: skip
    return PageTable("Recall, precision, F1", columns, rows)


def _training(anchor: str, folder: Path) -> Section | None:
    """Losses of metrics.jsonl, where it lies beside the record."""
    file = folder / "metrics.jsonl"
    series: dict[str, list[tuple[int, float]]] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            values = dict(json.loads(line))
            losses = {key: float(value) for key, value in values.items() if key.endswith("/loss")}
            for key, loss in losses.items():
                series.setdefault(printable(key.removesuffix("/loss")), []).append((int(values["step"]), loss))
        except (ValueError, TypeError, KeyError) as error:
            raise OutputFolderError(
                f"{file} is damaged ({error}): remove it, and the page has no training curves."
            ) from error
    if not series:
        return None
    rows = [
        [Cell(name), Cell.count(points[-1][0]), *(Cell(f"{v:.4f}", v) for v in (points[0][1], points[-1][1]))]
        for name, points in series.items()
    ]
    table = PageTable("Trainings", ["training", "steps", "first loss", "last loss"], rows)
    return Section(
        f"{anchor}-training", "Training", figure=Markup(curves_figure(series, f"{anchor}t")), tables=[table]
    )


def _made_with(anchor: str, history: PruningHistory) -> Section:
    environment = dict(history.environment)
    machine = environment.pop("machine", None) or {}
    facts = {"seed": history.seed, **environment, **machine}
    rows = [[Cell(printable(name)), Cell(printable(value))] for name, value in facts.items() if value is not None]
    recipe = yaml.safe_dump(without_places(history.recipe), sort_keys=False, allow_unicode=True)
    return Section(
        f"{anchor}-made",
        "Recipe, versions, machine",
        tables=[PageTable("Made with", ["", ""], rows)],
        text=recipe,
        folded=True,
    )


def _blocks(history: PruningHistory) -> Cell:
    return Cell(f"{len(history.before.remaining)} → {len(history.after.remaining)}")
