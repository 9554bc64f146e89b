"""Figures of the page: SVG that takes the page's text colour, so it is read in light and dark."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any

from har_prune.evaluation.robustness.measure import Robustness
from har_prune.pruning.history import PruningHistory
from har_prune.reporting.names import in_figure
from har_prune.reporting.robustness import draw_robustness
from har_prune.reporting.trajectory import COLOURS, CONTROLS, MARKERS, colour_of, draw_scores, noise_of, rows_of

_TEXT = "#010203"  # becomes the page's own colour
_SIZE = (4.6, 3.3)  # inches; drawn small, so that letters can be read on a phone


@contextmanager
def _figure(height: float = _SIZE[1]) -> Iterator[Any]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    colours = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), _TEXT)
    options: Any = {"svg.fonttype": "none", "font.size": 9, "legend.frameon": False, **colours}
    with rc_context(options):
        yield Figure(figsize=(_SIZE[0], height), layout="constrained")


def _svg(figure: Any, title: str, salt: str) -> str:
    """The figure as an SVG element with a title, its identifiers unlike those of other figures."""
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.hashsalt": salt}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    name = f"title-{salt}"
    text = re.sub(r'\bid="', f'id="{salt}-', text)
    text = re.sub(r'href="#', f'href="#{salt}-', text)
    text = re.sub(r"url\(#", f"url(#{salt}-", text)
    text = re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg \1 role="img" aria-labelledby="{name}">', text, count=1
    )
    text = text.replace(_TEXT, "currentColor").replace("xlink:href", "href")
    start = text.index(">") + 1
    return f'{text[:start]}<title id="{name}">{title}</title>{text[start:]}'


def accuracy_figure(runs: Mapping[str, PruningHistory], salt: str) -> str:
    """Accuracy against MACs: every iteration, the controls, and the noise of a test set of this size."""
    with _figure() as figure:
        axes = figure.subplots()
        for (title, history), colour in zip(runs.items(), cycle(COLOURS), strict=False):
            split = history.shown_split
            name = next(iter(history.before.metrics[split].figures))
            point = {
                id(step): step.metrics[split].figures[name]
                for step in (*history.iterations, *history.controls.values())
            }
            macs = [step.cost.macs / 1e6 for step in history.iterations]
            label = in_figure(title) if len(runs) > 1 else "while pruning"
            axes.plot(
                macs,
                [point[id(step)] for step in history.iterations],
                color=colour,
                linewidth=1,
                marker=".",
                label=label,
            )
            if len(runs) == 1 and history.before.metrics[split].task == "classification":
                noise, middle = noise_of(history.after.metrics[split]), point[id(history.before)]
                axes.axhspan(
                    middle - noise, middle + noise, color=colour_of(4), alpha=0.2, linewidth=0, label="noise, 95 %"
                )  # fmt: skip
            if len(runs) > 1:
                axes.plot(history.after.cost.macs / 1e6, point[id(history.after)], "*", color=colour, markersize=11)
                continue
            for (network, step), marker, own in zip(rows_of(history).items(), MARKERS, cycle(COLOURS), strict=False):
                is_result = step is history.after
                axes.plot(
                    step.cost.macs / 1e6, point[id(step)], "*" if is_result else marker, color=own,
                    markersize=12 if is_result else 6, label=in_figure(network), zorder=4 if is_result else 3,
                )  # fmt: skip
            axes.set_ylabel(in_figure(f"{split} {name}"))
        if len(runs) > 1:
            axes.set_ylabel(in_figure(name))
        axes.set_xlabel("MACs of one example, millions")
        axes.grid(alpha=0.25)
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)
        return _svg(figure, "Accuracy against multiply-accumulates", salt)


def subjects_figure(summary: Mapping[str, Any], salt: str) -> str:
    """Accuracy on each test subject: original, pruned, and controls; who is best served by the original on top."""
    subjects: dict[str, Any] = summary["subjects"]
    order = sorted(subjects, key=lambda name: subjects[name]["original"]["accuracy"])
    networks = ["original", "pruned", *(name for name in summary["pruned_against"] if name != "original")]
    with _figure(1.5 + 0.22 * len(order)) as figure:
        axes = figure.subplots()
        for place, name in enumerate(networks):
            kind, _, control = name.partition(" ")
            label, is_pruned = CONTROLS.get(control, control) if kind == "control" else name, name == "pruned"
            axes.plot(
                [100 * subjects[subject][name]["accuracy"] for subject in order], range(len(order)),
                "*" if is_pruned else MARKERS[place % len(MARKERS)], color=colour_of(place), linestyle="none",
                markersize=10 if is_pruned else 5, label=label, zorder=4 if is_pruned else 3,
            )  # fmt: skip
        axes.set_yticks(range(len(order)), [in_figure(name) for name in order])
        axes.set_xlabel("accuracy on this subject, %")
        axes.grid(alpha=0.25)
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)
        return _svg(figure, "Accuracy on each test subject", salt)


def scores_figure(history: PruningHistory, salt: str) -> str:
    """The importance of every block in every iteration."""
    with _figure(max(2.2, 1.4 + 0.22 * len(history.iterations))) as figure:
        draw_scores(figure, figure.subplots(), history)
        return _svg(figure, "Importance of every block in every iteration", salt)


def curves_figure(series: Mapping[str, Sequence[tuple[int, float]]], salt: str) -> str:
    """Training losses by step, one line a training."""
    with _figure() as figure:
        axes = figure.subplots()
        for (name, points), colour in zip(series.items(), cycle(COLOURS), strict=False):
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.2, label=in_figure(name))
        axes.set(xlabel="optimiser step", ylabel="training loss")
        axes.grid(alpha=0.25)
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)
        return _svg(figure, "Training losses", salt)


def robustness_figure(networks: Mapping[str, Robustness], salt: str) -> str:
    """Accuracy on each kind of data, one mark a network."""
    with _figure(1.5 + 0.24 * len(next(iter(networks.values())).results)) as figure:
        draw_robustness(figure.subplots(), networks)
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)
        return _svg(figure, "Accuracy on corrupted, attacked and other data", salt)
