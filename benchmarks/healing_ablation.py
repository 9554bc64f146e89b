"""What each part of healing is worth, at equal examples seen: one original a fold and seed, healed in every way.

    python benchmarks/healing_ablation.py loso_utd_mhad2 --seeds 0 1 2
    python benchmarks/healing_ablation.py loso_wharf --seeds 0 1 2 --folds m1 f4 m2 m7
    python benchmarks/healing_ablation.py cifar10_resnet56_cpu --override heal.epochs=8

The recipe says data, network, training and target; a row changes one thing of its healing, or says how many removals
lie between two healings, among which the examples are shared out. All rows see as many, but for those twice as long.
Accuracies are of the validation examples, by which a recipe may choose (so refit is off, and no row keeps
the epoch that validates best); differences are paired over folds, each by the mean over seeds. What is done is kept in
--runs, and not done again.
"""

from statistics import fmean
from typing import Any

from accelerate.utils import set_seed
from transformers import PreTrainedModel
from trials import Command, Kept, Trial, begin, paired, points

from har_prune import evaluate_model, prune, train_model
from har_prune.data.load import LabelledData
from har_prune.errors import RecipeError
from har_prune.recipe.original import SEEDS_APART, make_original
from har_prune.recipe.schema import Recipe
from har_prune.training.config import HealConfig

AS_IT_IS = "as the recipe heals"
CUT = "cut, not healed"
# A change of the heal section; None in place of a key's value removes it, epochs and learning rates are multiplied.
ROWS: dict[str, dict[str, Any]] = {
    AS_IT_IS: {},
    "labels alone": {"distill": None},
    "distilled": {"distill": {}},
    "distilled from three originals": {"distill": {"originals": 3}},
    "distilled, hidden states too": {"distill": {"hidden": 1.0}},
    "keep: last": {"keep": "last"},
    "keep: average": {"keep": "average"},
    "twice as long": {"epochs": 2.0},
    "twice as long, labels alone": {"epochs": 2.0, "distill": None},
    "twice as long, from three originals": {"epochs": 2.0, "distill": {"originals": 3}},
    "a third of the learning rate": {"learning_rate": 1 / 3},
    "learning rate x 2": {"learning_rate": 2.0},
    "learning rate x 3": {"learning_rate": 3.0},
    "distilled, learning rate x 2": {"distill": {}, "learning_rate": 2.0},
    "norms and head alone": {"parameters": "norms_and_head"},
    "low-rank updates": {"parameters": "lora"},
    "after every removal": {"when": 1},
}


def changed(heal: HealConfig, change: dict[str, Any], removals: int) -> HealConfig:
    """The healing of a row."""
    values = heal.model_dump(exclude_unset=True)
    for key, value in change.items():
        values[key] = getattr(heal, key) * value if key in ("epochs", "learning_rate") else value
    if change.get("when") == 1:
        values["epochs"] = heal.epochs / removals
    return HealConfig(**values)


def heal_in_every_way(recipe: Recipe, data: LabelledData, rows: list[str], kept: Kept) -> dict[str, Any]:
    """Accuracy on the validation examples of the original and of some rows, for one fold and seed."""
    found = kept.found
    if set(rows) <= set(found):
        return found
    trial = begin(recipe, data, kept.folder)
    if "left" not in found:
        steps = trial.cut(sets=["validation"]).history.iterations
        kept.keep("original", {"accuracy": steps[0].metrics["validation"].accuracy})
        kept.keep(CUT, {"accuracy": steps[-1].metrics["validation"].accuracy})
        kept.keep("removals", len(steps) - 1)
        kept.keep("left", sorted(steps[-1].remaining))
    others: list[PreTrainedModel] = []
    for name in (row for row in rows if row not in found):
        heal = changed(recipe.heal, ROWS[name], found["removals"])
        if name != AS_IT_IS and heal == recipe.heal:
            kept.keep(name, found[AS_IT_IS])
            continue
        wanted = heal.distill.originals if heal.distill else 1
        if wanted > 1 and recipe.train is None:
            kept.keep(name, {"refused": "the original is a checkpoint"})
            continue
        others += [another_original(trial, number) for number in range(len(others) + 1, wanted)]
        try:
            kept.keep(name, healed(trial, name, heal, found["left"], others[: wanted - 1]))
        except RecipeError as refused:
            kept.keep(name, {"refused": str(refused)})
        trial.forget(name)
    return found


def healed(
    trial: Trial, name: str, heal: HealConfig, left: list[int], others: list[PreTrainedModel]
) -> dict[str, float]:
    """What one row finds: all blocks that go are gone at once, or, with several healings, in a run of its own."""
    seed = trial.recipe.seed
    validation = trial.examples(trial.made.splits.validation)
    if heal.when == "end":
        stack = trial.of_blocks(left)
        seen = trial.heal(name, stack, heal, seed, others).samples_seen
        return {"accuracy": evaluate_model(stack.model, validation, trial.accelerator).accuracy, "examples": seen}
    settings = trial.recipe.model_copy(update={"heal": heal, "output_dir": None, "controls": ()})
    history = prune(
        trial.original, trial.train, trial.calibration, validation, settings, accelerator=trial.accelerator,
        teachers=others,
    ).history  # fmt: skip
    seen = sum(step.healing.samples_seen for step in history.iterations if step.healing)
    return {"accuracy": history.after.metrics["validation"].accuracy, "examples": seen}


def another_original(trial: Trial, number: int) -> PreTrainedModel:
    """The same network, trained with another seed."""
    recipe, made, seed = trial.recipe, trial.made, trial.recipe.seed + SEEDS_APART * number
    set_seed(seed)
    model = make_original(dict(recipe.model.config or {}), made.data, made.splits.train)[0]
    validation = trial.examples(made.splits.validation)
    train_model(model, trial.train, validation, recipe.train, accelerator=trial.accelerator, seed=seed)
    return model


def table_of(trials: dict[str, dict[str, Any]], rows: list[str]) -> list[dict[str, Any]]:
    """Means over trials, and each row against the recipe."""
    found, table = list(trials.values()), []
    for row in ("original", CUT, *rows):
        if any("refused" in trial[row] for trial in found):
            table.append({"healing": row, "": "not for this network"})
            continue
        accuracies = [trial[row]["accuracy"] for trial in found]
        difference = paired({
            name: trial[row]["accuracy"] - trial[AS_IT_IS]["accuracy"] for name, trial in trials.items()
        })  # fmt: skip
        table.append({
            "healing": row,
            "examples seen": round(fmean(trial[row].get("examples", 0) for trial in found)),
            "validation accuracy %": f"{100 * fmean(accuracies):.2f}",
            "against the recipe, points": points(difference),
            "": "" if row == AS_IT_IS or difference.subjects < 2 else difference.verdict,
        })  # fmt: skip
    return table


def main() -> None:
    """Runs what is missing and writes the result."""
    command = Command(__doc__, "healing_ablation", ["refit=false"])
    command.parser.add_argument("--rows", nargs="*", default=[], choices=list(ROWS), help="none: all")
    given = command.parse()
    rows = [name for name in ROWS if name == AS_IT_IS or not given.rows or name in given.rows]
    trials = {
        trial: heal_in_every_way(fold, command.data, rows, kept) for trial, (fold, kept) in command.trials.items()
    }
    command.write("What each part of healing is worth", table_of(trials, rows), trials)


if __name__ == "__main__":
    main()
