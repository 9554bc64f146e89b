"""Adds controls from random weights to the folds that are kept, on a machine that may not have their networks.

    python benchmarks/loso_controls.py loso_wharf --kept loso_wharf_labels40
    python benchmarks/loso_controls.py loso_wharf --kept loso_wharf_labels40 --folds f1 m1

Such a control needs the architecture of the pruned network alone, which the record of its fold has. It is trained and
tested as `har-prune run` does where `controls` name it; a recipe or data other than those of the record are refused.
What is done goes into the record of the fold at once, and is not done again; tables have what all folds have.
"""

import time

import loso_folds
import numpy as np
from trials import Command

from har_prune import find_blocks, remove_blocks
from har_prune.data.load import LabelledData
from har_prune.pruning.controls import control_network
from har_prune.pruning.healing import Healer
from har_prune.pruning.history import PruningHistory, PruningStep
from har_prune.pruning.plan import protected_blocks
from har_prune.pruning.record import Recorder
from har_prune.recipe.accelerator import make_accelerator
from har_prune.recipe.prepare import prepare
from har_prune.recipe.schema import Recipe

CONTROLS = ("scratch", "scratch_full")


def trained(name: str, recipe: Recipe, data: LabelledData, history: PruningHistory) -> PruningStep:
    """A control of a fold, as the run of its record would have made it."""
    if name == "scratch" and recipe.heal and recipe.heal.distill:
        raise SystemExit("scratch: this recipe distils it from the original, which is not here")
    if recipe.fingerprint != history.recipe:
        raise SystemExit(f"{recipe.data.test_subject}: its record is of another recipe: give --override as it was run")
    start, made = time.monotonic(), prepare(recipe, data)
    loaders, original = made.loaders(recipe), made.stack
    for split, found in history.before.metrics.items():
        # Not by the record's fingerprint of the data: it has the calibration rows in it, which are not used here.
        labels = made.data.labels[getattr(made.splits, split)]
        if np.bincount(labels, minlength=len(made.data.label_names)).tolist() != np.sum(found.confusion, 1).tolist():
            raise SystemExit(f"{recipe.data.test_subject}: its record is of other data: see benchmarks/reproduce.md")
    accelerator = make_accelerator(history.environment["precision"], recipe.num_threads)
    protected, seed = protected_blocks(original, recipe.prune.protected), recipe.seed + history.selected
    pruned = find_blocks(remove_blocks(original, history.removed), made.example_inputs)
    control = control_network(name, original, pruned, recipe.prune, protected, seed)
    healer = Healer(
        recipe, original, loaders.train, loaders.sets["validation"],
        accelerator=accelerator, teachers=(), folder=None,
    )  # fmt: skip
    healing = healer.train_control(name, control, history.iterations[: history.selected + 1], seed, final=True)
    recorder = Recorder(recipe, original, loaders.sets, made.one_example, protected=protected, accelerator=accelerator)
    cost, gone = recorder.cost(control.model), tuple(sorted(history.removed))
    return recorder.step(control, history.selected, start, cost, healing, removed=gone)


def main() -> None:
    """Trains what is missing, and keeps each beside its fold."""
    command = Command(__doc__, "loso_controls")
    command.parser.add_argument("--kept", required=True, help="the run whose folds are kept, in benchmarks/histories")
    command.parser.add_argument("--control", default="scratch_full", choices=CONTROLS)
    given = command.parse()
    name = given.control
    for trial, (recipe, kept) in command.trials.items():
        folds = loso_folds.kept(given.kept)[1]
        history = next(one for one in folds[str(recipe.data.test_subject)] if one.seed == recipe.seed)
        if name in history.controls:
            continue
        if name not in kept.found:
            kept.keep(name, trained(name, recipe, command.data, history).to_json())
        control = PruningStep.from_json(kept.found[name])
        loso_folds.keep_control(given.kept, str(recipe.data.test_subject), recipe.seed, name, control)
        print(f"{trial}: {control.metrics['test'].accuracy:.4f}", flush=True)


if __name__ == "__main__":
    main()
