"""The leave-one-subject-out runs: the record of every fold kept, and what all of them say.

A difference of the pruned network is paired over the people of all data sets, each once: who is in two of them counts
by the mean of both differences.
"""

import json
import lzma
import shlex
from pathlib import Path
from statistics import fmean
from typing import Any

from har_baselines import BY_SUBJECT
from measuring import RESULTS, render

from har_prune.evaluation.significance import PairedDifference, paired_difference
from har_prune.pruning.history import PruningHistory, PruningStep
from har_prune.reporting.folds import FOLDS, folds_at, folds_report, folds_summary, networks_of, plot_confusion
from har_prune.reporting.trajectory import CONTROLS
from har_prune.runtime.files import whole_file, write_json

HISTORIES = Path(__file__).parent / "histories"
# What tables have together; not loso_utd_mhad, whose subjects are those of the other two of that set.
NAMES = {"loso_utd_mhad2": "UTD-MHAD 2", "loso_utd_mhad1": "UTD-MHAD 1", "loso_wharf": "WHARF"}
PEOPLE = {"loso_utd_mhad2": "UTD-MHAD", "loso_utd_mhad1": "UTD-MHAD"}  # the same eight, with other actions
KINDS = ("", "_labels40")  # of runs that are put together: as the tables are, and by today's schedule
PUBLISHED = {"loso_utd_mhad2": 74.67, "loso_utd_mhad1": 38.05, "loso_wharf": 65.35}  # arXiv:1806.05226, the best

_ROUNDED = 6e-5  # as baselines were kept, to 0.01 %: nearer to another accuracy than this is equal to it
BASELINES = {"CNN": "a CNN of three blocks", "random forest": "a random forest on window statistics"}

Folds = dict[str, list[PruningHistory]]  # by test subject; one of each seed


def keep(run: Path) -> None:
    """Packs the histories of all folds of a finished run with `test_subject: all`."""
    summary = json.loads((run / FOLDS).read_text(encoding="utf-8"))
    folds = {subject: [history.to_json() for history in seeds] for subject, seeds in folds_at(run).items()}
    _pack(run.name, {"command": summary["command"], "recipe": summary["recipe"], "folds": folds})


def keep_control(name: str, subject: str, seed: int, control: str, step: PruningStep) -> None:
    """Adds a control to one history of what `keep` packed."""
    record = _unpacked(name)
    history = next(one for one in record["folds"][subject] if one["seed"] == seed)
    history["controls"][control] = step.to_json()
    _pack(name, record)


def _pack(name: str, record: dict[str, Any]) -> None:
    HISTORIES.mkdir(exist_ok=True)
    with whole_file(HISTORIES / f"{name}.json.xz") as partial:
        partial.write_bytes(lzma.compress(json.dumps(record).encode(), preset=9))


def _unpacked(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(lzma.decompress((HISTORIES / f"{name}.json.xz").read_bytes()))
    return record


def kept(name: str) -> tuple[dict[str, Any], Folds]:
    """What `keep` packed: the facts of the run, and its histories."""
    record = _unpacked(name)
    folds = record.pop("folds")
    return record, {subject: [PruningHistory.from_json(one) for one in seeds] for subject, seeds in folds.items()}


def all_kept(kind: str = "") -> dict[str, Folds]:
    """Of the runs that tables have together, in their order, those of a kind."""
    return {name: kept(f"{name}{kind}")[1] for name in NAMES if (HISTORIES / f"{name}{kind}.json.xz").exists()}


def write_run(name: str) -> None:
    """Writes the loso.json, loso.md and confusion.png of a run again, under its name."""
    record, folds = kept(name)
    write_json(RESULTS / f"{name}.json", {**record, **folds_summary(folds)})
    with whole_file(RESULTS / f"{name}.md") as partial:
        partial.write_text(folds_report(folds, record["command"]), encoding="utf-8")
    with whole_file(RESULTS / f"{name}.png") as partial:
        plot_confusion(folds, partial)


def accuracy_of(folds: Folds, network: Any) -> list[float]:
    """Of each subject, the mean over seeds."""
    found = []
    for seeds in folds.values():
        values = [network(history).metrics["test"].accuracy for history in seeds]
        found.append(sum(values) / len(values))
    return found


def against(runs: dict[str, Folds], others: dict[str, list[float]]) -> PairedDifference:
    """The pruned network against others, whose accuracies are given by run; over all people of all runs."""
    found: dict[tuple[str, str], list[float]] = {}
    for name, folds in runs.items():
        pruned = accuracy_of(folds, networks_of(folds)["pruned"])
        for subject, own, other in zip(folds, pruned, others[name], strict=True):
            difference = own - other if abs(own - other) > _ROUNDED else 0.0
            found.setdefault((PEOPLE.get(name, name), subject), []).append(difference)
    return paired_difference([fmean(differences) for differences in found.values()])


def in_every_run(runs: dict[str, Folds], network: str) -> dict[str, list[float]]:
    """Accuracies of a network, by run."""
    return {name: accuracy_of(folds, networks_of(folds)[network]) for name, folds in runs.items()}


def baseline_in_every_run(runs: dict[str, Folds], baseline: str) -> dict[str, list[float]] | None:
    """The same of a network that nobody pruned; None where a run has none, by subject."""
    rows = {name: _baseline(name, baseline) for name in runs}
    if not all(row and BY_SUBJECT in row for row in rows.values()):
        return None
    return {name: [row[BY_SUBJECT][one] / 100 for one in runs[name]] for name, row in rows.items() if row}


def write_together(kind: str) -> None:
    """The table of all runs of a kind; over all people stand the networks that every run has."""
    runs = all_kept(kind)
    table: list[dict[str, str]] = []
    for name, folds in runs.items():
        summary = folds_summary(folds)
        for network, figures in summary["overall"].items():
            paired = summary["pruned_against"].get(network)
            table.append({
                "run": f"{name}{kind}",
                "network": network,
                "accuracy %, mean of folds": f"{100 * figures['accuracy']['mean']:.2f}",
                "95 % interval": f"± {100 * figures['accuracy']['ci95']:.2f}",
                **{
                    f"pooled {key} %": f"{100 * figures['pooled'][key]:.2f}"
                    for key in ("accuracy", "balanced_accuracy", "macro_f1")
                },
                "pruned against it, points":
                    "" if paired is None else f"{100 * paired['mean']:+.2f} ± {100 * paired['ci95']:.2f}",
                "p": "" if paired is None else f"{paired['p']:.3f}",
            })  # fmt: skip
    everywhere = set.intersection(*(set(networks_of(folds)) for folds in runs.values())) - {"pruned"}
    others = {name: in_every_run(runs, name) for name in networks_of(next(iter(runs.values()))) if name in everywhere}
    others |= {name: found for name in BASELINES if (found := baseline_in_every_run(runs, name)) is not None}
    compared = {network: against(runs, accuracies) for network, accuracies in others.items()}
    if kind:
        compared["pruned, as healed before"] = _against_before(runs)
    for network, together in compared.items():
        table.append({
            "run": f"all, {together.subjects} people",
            "network": network,
            "pruned against it, points": f"{100 * together.mean:+.2f} ± {100 * together.ci95:.2f}",
            "p": f"{together.p:.4f}",
        })  # fmt: skip
    record = {
        "title": "Leave one subject out: pruned networks beside their controls",
        "command": shlex.join(["python", "benchmarks/results.py"]),
        "facts": {"commands": [kept(f"{name}{kind}")[0]["command"] for name in runs]},
        "table": table,
    }
    write_json(RESULTS / f"loso{kind}.json", record)
    render(f"loso{kind}")


def _against_before(runs: dict[str, Folds]) -> PairedDifference:
    """The pruned network against the one of the runs of before, over the seeds that both have."""
    before = {name: kept(name)[1] for name in runs}
    alike: tuple[dict[str, Folds], dict[str, Folds]] = ({}, {})
    for name in runs:
        now, then = ({history.seed for history in next(iter(each[name].values()))} for each in (runs, before))
        for chosen, each in zip(alike, (runs, before), strict=True):
            chosen[name] = {
                subject: [history for history in seeds if history.seed in now & then]
                for subject, seeds in each[name].items()
            }
    own, others = alike
    return against(own, in_every_run(others, "pruned"))


def readable(runs: dict[str, Folds]) -> str:
    """The table of the README: accuracy of every network on every data set, and the pruned one against it."""
    people = len({(PEOPLE.get(name, name), subject) for name, folds in runs.items() for subject in folds})
    head = ["network", "MACs", *(NAMES[name] for name in runs)]
    head += [f"the pruned one against it, {people} people, points", "paired p"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    everywhere = set.intersection(*(set(networks_of(folds)) for folds in runs.values()))
    for network in (name for name in networks_of(next(iter(runs.values()))) if name in everywhere):
        kind, _, control = network.partition(" ")
        label = CONTROLS[control] if kind == "control" else "pruned and healed" if network == "pruned" else network
        cells = [label + _itself(runs, network), _macs(runs, network)]
        for folds in runs.values():
            figures = folds_summary(folds)["overall"][network]["accuracy"]
            cells.append(f"{100 * figures['mean']:.2f} ± {100 * figures['ci95']:.2f}")
        if network == "pruned":
            cells = [f"**{cell}**" for cell in cells] + ["", ""]
        else:
            cells += _paired(against(runs, in_every_run(runs, network)))
        lines.append("| " + " | ".join(cells) + " |")
    for baseline, label in BASELINES.items():
        rows = {name: _baseline(name, baseline) for name in runs}
        macs = [row["MACs"] / 1e6 for row in rows.values() if row and row["MACs"] != "-"]
        cells = [f"without pruning: {label}", _range(macs) if macs else ""]
        cells += [f"{row['accuracy %, mean of folds']} {row['95 % interval']}" if row else "" for row in rows.values()]
        others = baseline_in_every_run(runs, baseline)
        cells += ["", ""] if others is None else _paired(against(runs, others))
        lines.append("| " + " | ".join(cells) + " |")
    cells = [
        "[published](https://arxiv.org/abs/1806.05226), same protocol",
        "",
        *(f"{PUBLISHED[name]}" for name in runs),
    ]
    return "\n".join([*lines, "| " + " | ".join([*cells, "", ""]) + " |"])


def _itself(runs: dict[str, Folds], network: str) -> str:
    """Says where a control is mostly the pruned network: its difference is 0 there by itself."""
    every = [folds_summary(folds) for folds in runs.values()]
    same = sum(summary["the_pruned_itself"].get(network, 0) for summary in every)
    total = sum(len(row["removed"]) for summary in every for row in summary["subjects"].values())
    return f" (in {same} of {total} runs the pruned network itself)" if same else ""


def _paired(found: PairedDifference) -> list[str]:
    p = "< 0.001" if found.p < 0.001 else f"{found.p:.3f}"
    return [f"{100 * found.mean:+.2f} ± {100 * found.ci95:.2f}", p]


def _macs(runs: dict[str, Folds], network: str) -> str:
    every = [
        networks_of(folds)[network](history).cost.macs / 1e6
        for folds in runs.values()
        for seeds in folds.values()
        for history in seeds
    ]
    return _range(every)


def _range(macs: list[float]) -> str:
    low, high = f"{min(macs):.1f}", f"{max(macs):.1f}"
    return f"{low} M" if low == high else f"{low}-{high} M"


def _baseline(name: str, network: str) -> dict[str, Any] | None:
    path = RESULTS / f"har_baselines_{name}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["table"] if path.exists() else []
    return next((row for row in rows if row["network"] == network), None)
