"""Layers, filters, and both together: one original a fold and seed, cut to as many MACs in each way and healed once.

    python benchmarks/layers_and_filters.py loso_utd_mhad2 --seeds 0 1 2
    python benchmarks/layers_and_filters.py cifar10_resnet56_cpu --shares 0.628 0.799 0.864

The recipe says data, network, training and healing; its target is not asked. Layers go by the recipe's criterion,
until the share asked for is gone; filters (of a Transformer: heads and feed-forward units) by l1-norm, until as many
MACs are gone as without those layers; where both may go, CKA chooses at each step. Accuracies are of the test
examples, which choose nothing here; the architecture of each network is trained from scratch beside it, as the other
is healed. What is done is kept in --runs, and not done again.
"""

from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from measuring import RESULTS
from trials import Command, Kept, against, begin

from har_prune import find_blocks
from har_prune.data.load import LabelledData
from har_prune.pruning.controls import control_network
from har_prune.pruning.plan import protected_blocks
from har_prune.recipe.schema import Recipe

WAYS: dict[str, list[str]] = {"layers": ["blocks"], "filters": ["widths"], "layers and filters": ["blocks", "widths"]}
STYLES = {"layers": ("o", "#009E73"), "filters": ("s", "#D55E00"), "layers and filters": ("^", "#0072B2")}


def in_every_way(recipe: Recipe, data: LabelledData, shares: list[float], kept: Kept) -> dict[str, Any]:
    """One trial: accuracy and MACs of the original, and of what each way leaves: cut, healed, and from scratch."""
    found = kept.found
    if found.get("done") == shares:
        return found
    trial = begin(recipe, data, kept.folder)
    if "original" not in found:
        trial.cut(target={"macs_reduction": max(shares)})  # what cannot be reached is refused before hours of training
        kept.keep("original", trial.tested(trial.original))
    for share, way in ((share, way) for share in shares for way in WAYS):
        if (key := key_of(way, share)) in found:
            continue
        chosen = recipe.prune.model_copy(update={"structures": tuple(WAYS[way])})
        wanted = share if way == "layers" else found[key_of("layers", share)]["macs removed"]
        cut = trial.cut(target={"macs_reduction": wanted}, structures=chosen.structures)
        if not cut.target_met:
            raise SystemExit(
                f"--shares {share:g}: {way} cannot be removed so far; leave min_accuracy out, or ask for less."
            )
        steps = cut.history.iterations
        one = {
            "macs removed": 1 - steps[-1].cost.macs / steps[0].cost.macs, "blocks left": len(steps[-1].remaining),
            "cut": steps[-1].metrics["test"].accuracy, "weights": steps[-1].weights_sha256,
        }  # fmt: skip
        # Where layers alone were the better choice at every step, both ways leave one network, which heals to itself.
        others = [found[key_of(other, share)] for other in WAYS if key_of(other, share) in found]
        if same := [other for other in others if other.get("weights") == one["weights"]]:
            kept.keep(key, same[0])
            continue
        pruned = find_blocks(cut.model, trial.made.example_inputs)
        protected = protected_blocks(trial.original, chosen.protected)
        scratch = control_network("scratch", trial.original, pruned, chosen, protected, recipe.seed)
        one["scratch"] = trial.healed(f"{key} scratch", scratch, recipe.seed)["accuracy"]
        one["healed"] = trial.healed(key, pruned, recipe.seed)["accuracy"]
        kept.keep(key, one)
    kept.keep("done", shares)
    return found


def key_of(way: str, share: float) -> str:
    """Of what one way leaves."""
    return f"{way}, {share:g} of the MACs gone"


def table_of(named: dict[str, dict[str, Any]], shares: list[float]) -> list[dict[str, Any]]:
    """A row a share and way: means over trials, and healed networks paired with the original, layers, and scratch."""
    trials = list(named.values())
    whole = [trial["original"]["accuracy"] for trial in trials]
    first = {"removed": "nothing", "MACs removed %": "0.00", "blocks left": "all", "cut %": ""}
    table: list[dict[str, Any]] = [first | {"healed %": f"{100 * fmean(whole):.2f}"}]

    for share in shares:
        layers = [trial[key_of("layers", share)]["healed"] for trial in trials]
        for way in WAYS:
            found = [trial[key_of(way, share)] for trial in trials]
            of = {name: [one[name] for one in found] for name in found[0]}
            table.append({
                "removed": way,
                "MACs removed %": f"{100 * fmean(of['macs removed']):.2f}",
                "blocks left": f"{fmean(of['blocks left']):.3g}",
                "cut %": f"{100 * fmean(of['cut']):.2f}",
                "healed %": f"{100 * fmean(of['healed']):.2f}",
                "against the original, points": against(named, of["healed"], whole),
                "against layers, points": "" if way == "layers" else against(named, of["healed"], layers),
                "from scratch %": f"{100 * fmean(of['scratch']):.2f}",
                "against scratch, points": against(named, of["healed"], of["scratch"]),
            })  # fmt: skip
    return table


def draw(table: list[dict[str, Any]], title: str, path: Path) -> None:
    """Accuracy against MACs removed, a line for each way, healed and from scratch."""
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for way, (marker, colour) in STYLES.items():
        rows = [row for row in table if row["removed"] == way]
        gone = [float(row["MACs removed %"]) for row in rows]
        # Where CKA takes blocks alone the last line lies on the first.
        wide: dict[str, Any] = {"linewidth": 4.0, "markersize": 9, "alpha": 0.6} if way == "layers" else {}
        axes.plot(gone, [float(row["healed %"]) for row in rows], marker=marker, color=colour, label=way, **wide)
        scratch = [float(row["from scratch %"]) for row in rows]
        axes.plot(gone, scratch, marker=marker, color=colour, mfc="none", ls=":", **wide)
    axes.plot([], [], color="grey", ls=":", label="the same architecture from scratch")
    axes.axhline(float(table[0]["healed %"]), color="black", linewidth=0.8, label="the original")
    axes.set(xlabel="MACs removed, %", ylabel="accuracy, %", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))  # lines cross the whole of the plot
    figure.savefig(path, dpi=130)


def main() -> None:
    """Runs what is missing, writes the result and its picture."""
    command = Command(__doc__, "layers_and_filters")
    command.parser.add_argument(
        "--shares", type=float, nargs="+", default=[0.3, 0.5, 0.7], help="of the MACs to remove"
    )
    given = command.parse()
    found = {
        trial: in_every_way(fold, command.data, given.shares, kept) for trial, (fold, kept) in command.trials.items()
    }
    table = table_of(found, given.shares)
    name = command.write("Layers, filters, and both, at equal work", table, found, accuracy="of test examples")
    draw(table, command.name.replace("_", " "), RESULTS / f"{name}.png")


if __name__ == "__main__":
    main()
