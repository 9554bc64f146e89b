"""How small a network for a device can be: one original a fold, cut to several sizes, healed once, exported and run.

    python benchmarks/efficiency.py loso_utd_mhad --mib 0.75 0.3

Blocks and units go, whichever CKA says, until the weights hold each size; the recipe says all but the target. Beside
each network stands its architecture from random weights, trained on the schedule of the original for as many examples
as that and the healing together. Each is exported for ExecuTorch in 8 bits, and the file is run on the test subject.
Macro-F1 and accuracy are of the test examples, which choose nothing here. What is done is kept in --runs, and not done
again; times are taken of the files of one trial that lie there, in turns, so leave the machine alone.
"""

import shutil
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from measuring import RESULTS
from sklearn.metrics import f1_score
from trials import Command, Kept, Trial, against, begin

from har_prune import BlockStack, HealConfig, evaluate_model, find_blocks
from har_prune.data.load import LabelledData
from har_prune.evaluation.cost import measure_cost
from har_prune.exporters.deployed import raw_inputs
from har_prune.exporters.export import Quantization, export_model, format_of
from har_prune.pruning.controls import control_network
from har_prune.pruning.plan import protected_blocks
from har_prune.recipe.schema import Recipe
from har_prune.runtime.timing import medians_in_turns

FORMAT = "executorch"
ORIGINAL = "original"
# WHAR Arena, arXiv:2606.13194: 0.108 MB, and macro-F1 as a mean over its sets, in windows of its own.
PUBLISHED = {"TinierHAR, mean of the Arena's sets": (108_000 / 1024, 66.7)}


def at_every_size(recipe: Recipe, data: LabelledData, sizes: list[float], kept: Kept) -> dict[str, Any]:
    """One trial: the original, and for each size what is left of it and the same architecture from scratch."""
    found = kept.found
    if found.get("done") == sizes:
        return found
    trial = begin(recipe, data, kept.folder)
    if ORIGINAL not in found:
        kept.keep(ORIGINAL, deployed(trial, trial.original, ORIGINAL))
    for size in (size for size in sizes if pruned_at(size) not in found):
        structures = ("blocks", "widths")
        cut = trial.cut(target={"size_mib": size}, structures=structures)
        if not cut.target_met:
            raise SystemExit(f"--mib {size:g}: the network cannot be cut so far; ask for more.")
        pruned = find_blocks(cut.model, trial.made.example_inputs)
        settings = recipe.prune.model_copy(update={"structures": structures})
        protected = protected_blocks(trial.original, settings.protected)
        scratch = control_network("scratch_full", trial.original, pruned, settings, protected, recipe.seed)
        whole = recipe.train.model_dump(exclude_unset=True) | {"epochs": recipe.train.epochs + recipe.heal.epochs}
        for name, stack, schedule in (
            (scratch_at(size), scratch, HealConfig(**whole)),
            (pruned_at(size), pruned, recipe.heal),
        ):
            trial.heal(name, stack, schedule, recipe.seed)
            kept.keep(name, deployed(trial, stack, name))
            trial.forget(name)
    kept.keep("done", sizes)
    return found


def pruned_at(size: float) -> str:
    """Of a network that is cut to so many MiB."""
    return f"pruned to {size:g} MiB"


def scratch_at(size: float) -> str:
    """Of its architecture from random weights."""
    return f"the same {size:g} MiB from scratch"


def deployed(trial: Trial, stack: BlockStack, name: str) -> dict[str, Any]:
    """How well a network does on the test examples, and how its files do, which are kept in the trial's folder."""
    made, model = trial.made, stack.model
    quality = evaluate_model(model, trial.examples(made.splits.test), trial.accelerator)
    cost = measure_cost(model, made.one_example, latency=False)
    result: dict[str, Any] = {
        "accuracy": quality.accuracy, "macro_f1": quality.macro_f1, "macs": cost.macs, "parameters": cost.parameters,
        "blocks left": len(stack),
    }  # fmt: skip
    calibration, test = (
        raw_inputs(made.preprocess(made.data.raw(rows)), made.processor)
        for rows in (made.calibration_rows(512, trial.recipe.seed), made.splits.test)
    )
    labels = made.data.labels[made.splits.test]
    eight_bits = Quantization(calibration, (test, torch.as_tensor(labels)), max_drop=1.0)
    place = file_of(trial.folder, name).parent
    shutil.rmtree(place, ignore_errors=True)
    file = export_model(model, made.processor, place, FORMAT, real=[calibration], int8=eight_bits)
    chosen = run_of(place / file.file)({key: value.numpy() for key, value in test.items()})[0].argmax(-1)
    f1 = f1_score(labels, chosen, labels=np.unique(labels), average="macro", zero_division=0.0)
    return result | {"8 bits": float(f1), "KiB": file.size_bytes / 1024}


def file_of(folder: Path, name: str) -> Path:
    """Where an export of a trial is kept."""
    return folder / "files" / name / f"model{format_of(FORMAT).suffix}"


def run_of(path: Path) -> Any:
    """A function that runs a file."""
    return format_of(FORMAT).load(path)


def times(trial: Kept, data: LabelledData, names: list[str]) -> dict[str, float]:
    """Median milliseconds of one window by each file that a trial has kept, in turns on one thread."""
    window = np.asarray(data.values[:1], dtype=np.float32)
    inputs = {"windows": window, "mask": np.ones(window.shape[:2], dtype=np.float32)}
    files = {name: file_of(trial.folder, name) for name in names}
    return medians_in_turns({name: partial(run_of(file), inputs) for name, file in files.items() if file.exists()})


def table_of(
    named: dict[str, dict[str, Any]], sizes: list[float], milliseconds: dict[str, float]
) -> list[dict[str, Any]]:
    """A row for each network: means over trials; what is pruned is paired with the original and with scratch."""

    def of(name: str, key: str) -> list[float]:
        return [trial[name][key] for trial in named.values()]

    def gained(name: str, other: str | None) -> str:
        return "" if other is None else against(named, of(name, "macro_f1"), of(other, "macro_f1"))

    others: dict[str, tuple[str | None, str | None]] = {ORIGINAL: (None, None)}  # what a network is compared with
    for size in sizes:
        others |= {pruned_at(size): (ORIGINAL, scratch_at(size)), scratch_at(size): (ORIGINAL, None)}
    table = []
    for name, (original, scratch) in others.items():
        table.append({
            "network": name,
            "blocks": f"{fmean(of(name, 'blocks left')):.3g}",
            "MACs": round(fmean(of(name, "macs"))),
            "parameters": round(fmean(of(name, "parameters"))),
            "accuracy %": f"{100 * fmean(of(name, 'accuracy')):.2f}",
            "macro-F1 %": f"{100 * fmean(of(name, 'macro_f1')):.2f}",
            "macro-F1 against the original, points": gained(name, original),
            "against scratch, points": gained(name, scratch),
            "8 bits: KiB": f"{fmean(of(name, 'KiB')):.0f}",
            "8 bits: ms": f"{milliseconds[name]:.3f}" if name in milliseconds else "-",
            "8 bits: macro-F1 %": f"{100 * fmean(of(name, '8 bits')):.2f}",
        })  # fmt: skip
    return table


def draw(table: list[dict[str, Any]], title: str, path: Path) -> None:
    """Macro-F1 against the size of the file, in 8 bits; what is published beside it."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for label, begins, marker, colour in (
        ("the original", ORIGINAL, "s", "black"),
        ("pruned and healed", "pruned", "o", "#009E73"),
        ("the same architectures from scratch", "the same", "x", "grey"),
    ):
        rows = [row for row in table if row["network"].startswith(begins)]
        kib, f1 = ([float(row[f"8 bits: {key}"]) for row in rows] for key in ("KiB", "macro-F1 %"))
        axes.plot(kib, f1, marker=marker, color=colour, ls="-" if len(rows) > 1 else "none", label=f"{label}, 8 bits")
    for name, (kib, f1) in PUBLISHED.items():
        axes.plot(kib, f1, "*", color="#D55E00", markersize=10, label=f"published: {name}")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(ScalarFormatter())
    axes.set(xlabel="file, KiB", ylabel="macro-F1, mean of folds, %", title=title)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Runs what is missing, writes the result and its picture."""
    command = Command(__doc__, "efficiency")
    command.parser.add_argument("--mib", type=float, nargs="+", default=[0.75, 0.3], help="sizes of weights")
    given = command.parse()
    torch.set_num_threads(1)
    found = {
        trial: at_every_size(fold, command.data, given.mib, kept) for trial, (fold, kept) in command.trials.items()
    }
    every = [kept for _, kept in command.trials.values()]
    at_hand = next((kept for kept in every if file_of(kept.folder, ORIGINAL).exists()), every[0])
    names = [ORIGINAL, *(name for size in given.mib for name in (pruned_at(size), scratch_at(size)))]
    table = table_of(found, given.mib, times(at_hand, command.data, names))
    facts = {"accuracy and macro-F1": "of test examples", "files": FORMAT, "threads": 1}
    name = command.write("Networks of several sizes, exported", table, found, **facts)
    draw(table, command.name.replace("_", " "), RESULTS / f"{name}.png")


if __name__ == "__main__":
    main()
