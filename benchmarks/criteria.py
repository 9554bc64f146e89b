"""Criteria side by side: one original a fold and seed, cut to the recipe's target by each and healed by one schedule.

    python benchmarks/criteria.py loso_utd_mhad1 --folds s1 s2 --seeds 0 1 2
    python benchmarks/criteria.py cifar10_resnet56_cpu --seeds 0 --healings 3 --override heal.epochs=8
    python benchmarks/criteria.py RECIPE --criteria cka mine --override "plugins=[mine.py]"

Cut at once, scored anew after every removal, as the recipe does; what two criteria leave alike is healed once for
both. Accuracies are of the test examples, which choose nothing here. `last` removes the last block that may go,
`random` one by a seed. Differences are paired over folds, each by the mean over seeds and healings.

Beside it: how far criteria agree on the order of the original's blocks, and how well that order tells the loss that is
left where a single block is removed and healed, for the share of the healing that one removal has (Spearman's rank
correlation). What is done is kept in --runs, and not done again.
"""

from statistics import fmean
from typing import Any

import numpy as np
from measuring import write_result
from scipy.stats import spearmanr
from trials import Command, Kept, begin, paired, points

from har_prune import ScoringConfig, register_criterion, score_blocks
from har_prune.data.load import LabelledData
from har_prune.evaluation.significance import half_interval
from har_prune.recipe.schema import Recipe

CRITERIA = (
    "cka", "cka_debiased", "block_influence", "taylor", "l1_norm", "loss_increase",
    "consensus(cka, block_influence, taylor)", "random", "last",
)  # fmt: skip


@register_criterion("last")
class Last:
    """What stands last matters least."""

    needs = "nothing"

    def __init__(self, task: Any):
        pass

    def value(self, block: Any) -> float:
        """The further behind the smaller."""
        return -float(block.index)


def compare(recipe: Recipe, data: LabelledData, criteria: list[str], healings: int, kept: Kept) -> dict[str, Any]:
    """One trial: what each criterion leaves, before and after healing, and how it orders the original's blocks."""
    found = kept.found
    if found.get("done") == [criteria, healings]:
        return found
    trial = begin(recipe, data, kept.folder)
    kept.keep("seed", recipe.seed)
    seed, epochs = recipe.seed, recipe.heal.epochs
    for name in criteria:
        if f"cut {name}" not in found:
            history = trial.cut(("validation",), criterion=name).history
            before, after = history.before, history.after
            if "original" not in found:
                kept.keep("original", {**trial.tested(trial.original), "macs": before.cost.macs})
            cut = {"left": sorted(after.remaining), "macs": after.cost.macs, "removals": len(history.iterations) - 1}
            kept.keep(f"cut {name}", {**cut, **trial.tested(trial.of_blocks(cut["left"]))})
        left = found[f"cut {name}"]["left"]
        for number in range(healings):
            key = f"healed {left} by seed {seed + number}"
            if key not in found:
                kept.keep(key, trial.healed(key, trial.of_blocks(left), seed + number))
    if not set(criteria) <= set(found.setdefault("scores", {})):
        config = ScoringConfig(seed=seed)
        scores = score_blocks(
            trial.original, trial.calibration, criteria, accelerator=trial.accelerator, config=config
        )
        kept.keep("scores", {name: [s.importance for s in of] for name, of in scores.by_criterion.items()})
        kept.keep("candidates", [score.index for score in scores.by_criterion[criteria[0]]])
    share = epochs / max(found[f"cut {name}"]["removals"] for name in criteria)
    kept.keep("share", share)
    for index in found["candidates"]:
        group = trial.original.removal_group(index)
        left = [block.original_index for block in trial.original.blocks if block.index not in group]
        if (key := single(index, share)) not in found:
            kept.keep(key, trial.healed(key, trial.of_blocks(left), seed, share))
    kept.keep("done", [criteria, healings])
    return found


def single(index: int, epochs: float) -> str:
    """Of what is found where one block alone is removed and healed."""
    return f"single {index} for {epochs:g} epochs"


def correlation(first: list[float], second: list[float]) -> float:
    """Spearman's; 0 where one of them has no order."""
    return float(spearmanr(first, second).statistic) if len({*first}) > 1 < len({*second}) else 0.0


def tables(named: dict[str, dict[str, Any]], criteria: list[str], healings: int) -> tuple[list, list]:
    """What each criterion leaves, and how criteria agree; means over trials."""
    trials = list(named.values())
    after: dict[str, list[list[float]]] = {}  # by criterion: of each trial, its healings
    for name in criteria:
        after[name] = []
        for trial in trials:
            left, seed = trial[f"cut {name}"]["left"], trial["seed"]
            keys = [f"healed {left} by seed {seed + number}" for number in range(healings)]
            after[name].append([trial[key]["accuracy"] for key in keys])
    whole = fmean(trial["original"]["accuracy"] for trial in trials)
    left_rows: list[dict[str, Any]] = [{"criterion": "original", "after healing %": f"{100 * whole:.2f}"}]
    order_rows: list[dict[str, Any]] = []
    for name in criteria:
        against = paired(dict(zip(named, np.subtract(after[name], after[criteria[0]]).tolist(), strict=True)))
        gone = [1 - trial[f"cut {name}"]["macs"] / trial["original"]["macs"] for trial in trials]
        cut, first_cut = ([trial[f"cut {one}"]["accuracy"] for trial in trials] for one in (name, criteria[0]))
        lost = paired(dict(zip(named, np.subtract(cut, first_cut).tolist(), strict=True)))
        left_rows.append({
            "criterion": name,
            "MACs removed %": f"{100 * fmean(gone):.2f}",
            "cut %": f"{100 * fmean(cut):.2f}",
            f"cut, against {criteria[0]}, points": points(lost),
            "after healing %": f"{100 * float(np.mean(after[name])):.2f}",
            f"against {criteria[0]}, points": points(against),
            "": "" if name == criteria[0] or against.subjects < 2 else against.verdict,
            "blocks left": "; ".join(" ".join(map(str, trial[f"cut {name}"]["left"])) for trial in trials[:3]),
        })  # fmt: skip
        tells, agrees = [], {other: [] for other in criteria}
        for trial in trials:
            losses = [trial[single(index, trial["share"])]["loss"] for index in trial["candidates"]]
            tells.append(correlation(trial["scores"][name], losses))
            for other in criteria:
                agrees[other].append(correlation(trial["scores"][name], trial["scores"][other]))
        row = {other: f"{fmean(values):+.2f}" for other, values in agrees.items()}
        told = f"{fmean(tells):+.2f}" + (f" ± {half_interval(tells):.2f}" if len(tells) > 1 else "")
        order_rows.append({"criterion": name, "the loss after removal and healing": told, **row})
    return left_rows, order_rows


def main() -> None:
    """Runs what is missing and writes two results."""
    command = Command(__doc__, "criteria")
    add = command.parser.add_argument
    add("--criteria", nargs="+", default=CRITERIA, help="the others are compared with the first")
    add("--healings", type=int, default=1, help="of each network, by seeds from that of the original")
    given = command.parse()
    criteria = [*given.criteria]
    trials = {
        trial: compare(fold, command.data, criteria, given.healings, kept)
        for trial, (fold, kept) in command.trials.items()
    }
    left, order = tables(trials, criteria, given.healings)
    facts = {"healings of each": given.healings, "accuracy": "of test examples"}
    name = command.write("Criteria side by side", left, trials, **facts)
    facts = command.facts | facts
    write_result(f"{name}_order", "How criteria order the blocks of an original: rank correlations", facts, order)


if __name__ == "__main__":
    main()
