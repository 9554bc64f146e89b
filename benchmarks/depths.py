"""Every depth a network can be cut to: one original a fold and seed, cut by CKA, healed once at each depth.

    python benchmarks/depths.py loso_utd_mhad2 --seeds 0 1 2
    python benchmarks/depths.py cifar10_resnet56_cpu --removals 10 15 16 20 21 --controls scratch random original

The recipe says data, network, training, criterion and healing; its target is not asked. A network of each depth is the
original without the blocks that went first, healed once, by the recipe's schedule, whatever the depth. Accuracies are
of the test examples, which choose nothing here. What is done is kept in --runs, the networks too, and not done again;
a training that is interrupted goes on. On one GPU several small networks train beside each other: --jobs.
"""

from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from measuring import RESULTS
from trials import Command, Kept, Trial, against, begin

from har_prune.data.load import LabelledData, load_configured
from har_prune.pruning.controls import control_network
from har_prune.pruning.plan import most_removals, protected_blocks
from har_prune.recipe.schema import Recipe
from har_prune.runtime.batches import fingerprint_of

CONTROLS = ("scratch", "original", "random", "last")


def at_every_depth(
    recipe: Recipe, data: LabelledData, removals: list[int], controls: list[str], jobs: int, kept: Kept
) -> dict[str, Any]:
    """One trial: accuracy and MACs of the original, of each depth cut and healed, and of controls there."""
    found = kept.found
    if found.get("done") == [removals, controls]:
        return found
    trial = begin(recipe, data, kept.folder)
    if "original" not in found:
        protected = protected_blocks(trial.original, recipe.prune.protected)
        fewest = len(trial.original) - len(most_removals(trial.original, recipe.prune, protected))
        depths: dict[int, Any] = {}
        for step in trial.cut(target={"blocks": fewest}).history.iterations:
            depths[len(step.remaining)] = {
                "left": sorted(step.remaining), "macs": step.cost.macs, "cut": step.metrics["test"].accuracy,
            }  # fmt: skip
        kept.keep("depths", [depths[depth] for depth in sorted(depths, reverse=True)])
        kept.keep("original", trial.tested(trial.original))
    steps = range(1, len(found["depths"]))
    if not set(removals) <= set(steps):
        raise SystemExit(f"--removals {' '.join(map(str, removals))}: this network takes 1 to {len(steps)} of them.")
    wanted = {}
    for place in removals or steps:
        left = found["depths"][place]["left"]
        for name in ("pruned", *controls):
            wanted[key_of(name, left)] = (name, left)
    missing = {key: network for key, network in wanted.items() if key not in found}
    if jobs == 1:
        for key, (name, left) in missing.items():
            kept.keep(key, healed(trial, name, left))
    else:
        with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
            running = {
                pool.submit(healed_apart, recipe, kept.folder, name, left): key
                for key, (name, left) in missing.items()
            }
            for one in as_completed(running):
                kept.keep(running[one], one.result())
    kept.keep("done", [removals, controls])
    return found


def key_of(name: str, left: list[int]) -> str:
    """Of a network that is healed: "pruned" or a control, beside what the original keeps of its blocks."""
    return f"{name} {'at any depth' if name == 'original' else left}"


def healed(trial: Trial, name: str, left: list[int]) -> dict[str, float]:
    """Makes and heals one network, and saves it in the trial's folder."""
    original, settings, seed = trial.original, trial.recipe.prune, trial.recipe.seed
    stack, key = trial.of_blocks(left), key_of(name, left)
    if name != "pruned":
        protected = protected_blocks(original, settings.protected)
        stack = control_network(name, original, stack, settings, protected, seed, fingerprint_of(trial.train))
    result = trial.healed(key, stack, seed)
    stack.model.save_pretrained(trial.folder / key)
    if trial.made.processor is not None:  # robustness.py evaluates the folder
        trial.made.processor.save_pretrained(trial.folder / key)
    return result


def healed_apart(recipe: Recipe, folder: Path, name: str, left: list[int]) -> dict[str, float]:
    """The same in a process of its own."""
    return healed(begin(recipe, load_configured(recipe.data), folder), name, left)


def table_of(named: dict[str, dict[str, Any]], removals: list[int], controls: list[str]) -> list[dict[str, Any]]:
    """A row a depth: means over trials, and the pruned network against the original and controls, paired."""
    trials = list(named.values())
    whole = [trial["original"]["accuracy"] for trial in trials]
    rows: list[dict[str, Any]] = [
        {"blocks removed": 0, "MACs removed %": "0.00", "healed %": f"{100 * fmean(whole):.2f}"}
    ]
    for place in removals or range(1, min(len(trial["depths"]) for trial in trials)):
        depths = [trial["depths"][place] for trial in trials]
        gone = fmean(1 - trial["depths"][place]["macs"] / trial["depths"][0]["macs"] for trial in trials)
        left = len(trials[0]["depths"][0]["left"]) - len(depths[0]["left"])
        row: dict[str, Any] = {"blocks removed": left, "MACs removed %": f"{100 * gone:.2f}"}
        row["cut %"] = f"{100 * fmean(depth['cut'] for depth in depths):.2f}"
        reached = {
            name: [trial[key_of(name, depth["left"])]["accuracy"] for trial, depth in zip(trials, depths, strict=True)]
            for name in ("pruned", *controls)
        }
        row |= {
            "healed %": f"{100 * fmean(reached['pruned']):.2f}",
            "change, points": against(named, reached["pruned"], whole),
        }
        for name in controls:
            row[f"{name} %"] = f"{100 * fmean(reached[name]):.2f}"
            row[f"against {name}, points"] = against(named, reached["pruned"], reached[name])
        rows.append(row)
    return rows


def draw(table: list[dict[str, Any]], title: str, path: Path) -> None:
    """Change against MACs removed: green above zero, blue below, the control from scratch beside it."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes, first = figure.subplots(), float(table[0]["healed %"])
    for row in table[1:]:
        change, _, half = row["change, points"].partition(" ± ")
        gone, colour = float(row["MACs removed %"]), "#009E73" if float(change) >= 0 else "#0072B2"
        axes.errorbar(gone, float(change), yerr=float(half or 0), fmt="o", color=colour, capsize=3 if half else 0)
        if "scratch %" in row:
            axes.plot(gone, float(row["scratch %"]) - first, "x", color="grey")
    axes.plot([], [], "o", color="#009E73", label="pruned and healed, not below the original")
    axes.plot([], [], "o", color="#0072B2", label="pruned and healed, below it")
    axes.plot([], [], "x", color="grey", label="the same architecture from scratch")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="MACs removed, %", ylabel="change of accuracy, points", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Runs what is missing, writes the result and its picture."""
    command = Command(__doc__, "depths")
    add = command.parser.add_argument
    add("--removals", type=int, nargs="*", default=[], help="steps to heal after; none: every one")
    add("--controls", nargs="*", default=["scratch"], choices=CONTROLS, help="trained beside each")
    add("--jobs", type=int, default=1, help="networks healed at the same time, each in a process")
    given = command.parse()
    found = {
        trial: at_every_depth(fold, command.data, given.removals, given.controls, given.jobs, kept)
        for trial, (fold, kept) in command.trials.items()
    }
    table = table_of(found, given.removals, given.controls)
    name = command.write("Every depth, cut and healed once", table, found, accuracy="of test examples")
    draw(table, command.name.replace("_", " "), RESULTS / f"{name}.png")


if __name__ == "__main__":
    main()
