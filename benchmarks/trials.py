"""What benchmarks share that cut and heal one network in several ways: trials of a recipe, each a fold and a seed."""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from accelerate import Accelerator
from measuring import RESULTS, write_result
from safetensors.torch import load_model, save_model
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from har_prune import (
    BlockStack,
    PruningResult,
    Teacher,
    evaluate_model,
    find_blocks,
    prune,
    remove_blocks,
    train_model,
)
from har_prune.data.batches import make_loader
from har_prune.data.load import LabelledData, load_configured
from har_prune.evaluation.significance import PairedDifference, paired_difference
from har_prune.pruning.config import PruneSettings
from har_prune.pruning.store import data_fingerprints
from har_prune.recipe.accelerator import make_accelerator
from har_prune.recipe.folds import folds_of, is_all_folds, seeded_recipes
from har_prune.recipe.load import load_recipe
from har_prune.recipe.originals import check_original_from, taken_over
from har_prune.recipe.prepare import Prepared, prepare
from har_prune.recipe.schema import Recipe
from har_prune.runtime.files import whole_file, write_json
from har_prune.training.config import HealConfig
from har_prune.training.loop import TrainingResult


class Command:
    """The command line of a benchmark of trials: what all of them are asked, and the result it writes.

    Args:
        doc: Of the script.
        kind: What names of results begin with; what is done is kept in runs/KIND.
        overrides: Of every recipe.
    """

    def __init__(self, doc: str | None, kind: str, overrides: Sequence[str] = ()):
        self.kind, self.overrides = kind, overrides
        self.parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        add = self.parser.add_argument
        add("recipe")
        add("--seeds", type=int, nargs="+", default=[0], help="of originals, drawn blocks and healings")
        add("--folds", nargs="*", default=[], help="test subjects; none: all")
        add("--name", help="of the result; the recipe's where left out")
        add("--runs", type=Path, default=Path("runs", kind), help="where what is done is kept")
        add("--override", nargs="*", default=[], help="of the recipe: key=value")

    def parse(self) -> argparse.Namespace:
        """Reads it; afterwards `name` and `data` are there, and `trials` has names, recipes and what is kept.

        Raises:
            SystemExit: It is none, or its recipe heals nothing.
        """
        given = self.parser.parse_args()
        recipe = load_recipe(given.recipe, [*given.override, *self.overrides])
        if recipe.heal is None:
            self.parser.error(f"recipe {given.recipe} heals nothing: give it a heal section")
        self.data, self.name = load_configured(recipe.data), given.name or Path(given.recipe).stem
        record = RESULTS / f"{self.kind}_{self.name}.json"
        before = json.loads(record.read_text(encoding="utf-8")).get("trials", {}) if record.exists() else {}
        self.trials = {
            trial: (fold, Kept(given.runs / self.name / f"{trial}.json", fold, self.data, before.get(trial)))
            for trial, fold in trials_of(recipe, self.data, given.seeds, given.folds)
        }
        self.facts = {"seeds": given.seeds, "folds": given.folds or "all", "overrides": given.override or "none"}
        return given

    def write(self, title: str, table: Sequence[dict[str, Any]], found: dict[str, Any], **facts: Any) -> str:
        """Writes the result, with all that the trials found; returns its name."""
        name = f"{self.kind}_{self.name}"
        write_result(name, title, self.facts | facts, table, found)
        return name


@dataclass(frozen=True)
class Trial:
    """A recipe's data and its original network, trained.

    Args:
        made: Data and splits.
        accelerator: Device and precision.
        train: What the recipe trains on.
        calibration: What its criterion sees.
        original: The network.
        folder: Where trainings that are interrupted go on from.
    """

    recipe: Recipe
    made: Prepared
    accelerator: Accelerator
    train: DataLoader
    calibration: DataLoader
    original: BlockStack
    folder: Path

    def examples(self, rows: np.ndarray) -> DataLoader:
        """Batches to evaluate on."""
        return make_loader(self.made.data, rows, self.made.preprocess, 256)

    def cut(self, sets: Sequence[str] = ("validation", "test"), **settings: Any) -> PruningResult:
        """Removes blocks as the recipe does, with other settings of its `prune` section, and heals nothing."""
        chosen = PruneSettings(**{**self.recipe.prune.model_dump(exclude_unset=True), **settings})
        recipe = self.recipe.model_copy(update={"prune": chosen, "heal": None, "controls": (), "output_dir": None})
        evaluate = {name: self.examples(getattr(self.made.splits, name)) for name in sets}
        return prune(self.original, None, self.calibration, evaluate, recipe, accelerator=self.accelerator)

    def of_blocks(self, left: Sequence[int]) -> BlockStack:
        """The original with some of its blocks alone."""
        gone = [block.index for block in self.original.blocks if block.original_index not in left]
        return find_blocks(remove_blocks(self.original, gone), self.made.example_inputs)

    def heal(
        self, name: str, stack: BlockStack, heal: HealConfig, seed: int, others: Sequence[PreTrainedModel] = ()
    ) -> TrainingResult:
        """Trains a network in place, beside other teachers than the original; a training of this name goes on."""
        return train_model(
            stack, self.train, self.examples(self.made.splits.validation), heal, accelerator=self.accelerator,
            teacher=Teacher(self.original, heal.distill, others) if heal.distill else None, seed=seed,
            checkpoint=self.folder / f"{name}.training",
        )  # fmt: skip

    def healed(self, name: str, stack: BlockStack, seed: int, epochs: float | None = None) -> dict[str, float]:
        """Trains a network as the recipe heals; its accuracy and loss on the test examples."""
        heal = self.recipe.heal
        if heal.distill and heal.distill.originals > 1:
            raise SystemExit("heal.distill.originals: there is one original here; healing_ablation.py trains more")
        self.heal(name, stack, heal if epochs is None else heal.model_copy(update={"epochs": epochs}), seed)
        found = self.tested(stack)
        self.forget(name)
        return found

    def forget(self, name: str) -> None:
        """Removes what a training would go on from."""
        (self.folder / f"{name}.training").unlink(missing_ok=True)

    def tested(self, stack: BlockStack) -> dict[str, float]:
        """Accuracy and loss on the test examples."""
        found = evaluate_model(stack.model, self.examples(self.made.splits.test), self.accelerator)
        return {"accuracy": found.accuracy, "loss": found.loss}


def trials_of(
    recipe: Recipe, data: LabelledData, seeds: Sequence[int], folds: Sequence[str]
) -> Iterator[tuple[str, Recipe]]:
    """Names and recipes of trials; `folds` are test subjects, none of them means all."""
    for seeded in seeded_recipes(recipe.model_copy(update={"seeds": tuple(seeds)})):
        of_subject = folds_of(seeded, data) if is_all_folds(seeded) else {"all": [seeded]}
        for subject in chosen_folds(of_subject, folds):
            yield f"seed-{seeded.seed}-{subject}", of_subject[subject][0]


def chosen_folds(known: Iterable[str], wanted: Sequence[str]) -> list[str]:
    """The test subjects that are wanted, or all."""
    if unknown := set(wanted) - set(known):
        raise SystemExit(f"--folds {' '.join(sorted(unknown))}: the test subjects are {', '.join(known)}")
    return [subject for subject in known if not wanted or subject in wanted]


def begin(recipe: Recipe, data: LabelledData, folder: Path) -> Trial:
    """Loads the original of a trial, takes that of `original_from`, or trains it; it is kept in `folder`."""
    made = prepare(recipe, data)
    accelerator = make_accelerator(recipe.precision, recipe.num_threads)
    loaders = made.loaders(recipe)
    train, calibration = loaders.train, loaders.calibration
    folder.mkdir(parents=True, exist_ok=True)
    if recipe.train is not None:
        weights, checkpoint = folder / "original.safetensors", folder / "original.training"
        if weights.exists():
            load_model(made.model, weights)
            made.model.eval()
        else:
            validation = loaders.sets["validation"]
            if recipe.original_from is not None:
                fingerprints = data_fingerprints(train, calibration, {"validation": validation})
                check_original_from(recipe, made, accelerator, fingerprints)
                made = replace(made, model=taken_over(recipe.original_from, "original", made.model))
            else:
                train_model(
                    made.model, train, validation, recipe.train, accelerator=accelerator, seed=recipe.seed,
                    checkpoint=checkpoint,
                )  # fmt: skip
            with whole_file(weights) as partial:
                save_model(made.model, str(partial))
            checkpoint.unlink(missing_ok=True)
    original: BlockStack = find_blocks(made.model, made.example_inputs)
    return Trial(recipe, made, accelerator, train, calibration, original, folder)


class Kept:
    """What a trial has found so far, in a file: what is there is not done again.

    Args:
        path: The file; beside it is a folder for the trial's networks.
        recipe: Of the trial; what another one found is not taken for it.
        data: Its data, likewise.
        before: What a result has of the trial, to begin with where there is no file and the same made it.
    """

    def __init__(self, path: Path, recipe: Recipe, data: LabelledData, before: dict[str, Any] | None = None):
        self.path, self.folder, self._before = path, path.with_suffix(""), before
        self._made_by = json.loads(json.dumps({"recipe": recipe.fingerprint, "data": data.fingerprint}))

    @cached_property
    def found(self) -> dict[str, Any]:
        """What there is, read when it is first asked for: another process may have done the trial by then.

        Raises:
            SystemExit: Another recipe or other data made it.
        """
        before, made_by = self._before, self._made_by
        begun = before if before and made_by.items() <= before.items() else made_by
        found: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else begun
        for name, value in made_by.items():
            if found.get(name) != value:
                raise SystemExit(
                    f"{self.path} was made by another {name}, or with other overrides: give other --runs."
                )
        return found

    def keep(self, name: str, value: Any) -> None:
        """Adds a value and writes the file."""
        self.found[name] = value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.found)


def paired(differences: Mapping[str, float | Sequence[float]]) -> PairedDifference:
    """Compares two networks by what they differ by in trials, given by their names; one or several healings of each.

    A test subject counts once, by the mean over seeds and healings; where there are no folds, a seed does.
    """
    units: dict[str, list[float]] = {}
    for trial, found in differences.items():
        subject = trial.split("-", 2)[2]  # of seed-N-SUBJECT
        units.setdefault(trial if subject == "all" else subject, []).append(float(np.mean(found)))
    return paired_difference([fmean(of_one) for of_one in units.values()])


def against(trials: Iterable[str], ours: Sequence[float], theirs: Sequence[float]) -> str:
    """How two networks differ in the trials of these names, as `points` writes it."""
    return points(paired(dict(zip(trials, np.subtract(ours, theirs).tolist(), strict=True))))


def points(found: PairedDifference) -> str:
    """Mean difference of accuracies in points, and half of its 95 % interval where there are several units."""
    return f"{100 * found.mean:+.2f}" + (f" ± {100 * found.ci95:.2f}" if found.subjects > 1 else "")
