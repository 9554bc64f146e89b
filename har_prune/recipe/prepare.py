"""What a recipe names, loaded and checked before anything is written."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from har_prune.blocks.find import find_blocks
from har_prune.blocks.stack import BlockStack
from har_prune.checkpoints.load import Checkpoint, check_checkpoint
from har_prune.data.batches import Preprocess, TextInputs, make_loader, preprocess_for
from har_prune.data.config import DataConfig
from har_prune.data.load import LabelledData, load_configured
from har_prune.data.protocols import Splits, make_splits
from har_prune.errors import CheckpointError, RecipeError
from har_prune.pruning.plan import check_settings
from har_prune.recipe.original import load_original, make_original, named_as
from har_prune.recipe.schema import Recipe
from har_prune.runtime.batches import inputs_of, logits_of, rows_of
from har_prune.scoring.statistics import ROWS


@dataclass(frozen=True)
class Loaders:
    """Batches of a recipe's data: what trains, what the criterion sees, and the sets that are evaluated."""

    train: DataLoader
    calibration: DataLoader
    sets: dict[str, DataLoader]


@dataclass(frozen=True)
class Prepared:
    """What a recipe names, loaded and checked; nothing is written yet."""

    data: LabelledData
    splits: Splits
    model: PreTrainedModel
    processor: Any
    preprocess: Preprocess
    example_inputs: dict[str, Tensor]
    stack: BlockStack

    @property
    def one_example(self) -> dict[str, Tensor]:
        """Model inputs of one example."""
        return rows_of(self.example_inputs, slice(1))

    def calibration_rows(self, samples: int, seed: int) -> np.ndarray:
        """A seeded sample of the rows that may calibrate, in the order of `drawn`."""
        return drawn(self.splits.calibration, samples, seed)

    def loaders(self, recipe: Recipe) -> Loaders:
        """The batches that a recipe, which was prepared here, trains, calibrates and evaluates with."""

        def batches(rows: np.ndarray, augment: Sequence[str] | None = None) -> DataLoader:
            return make_loader(self.data, rows, self.preprocess, recipe.data.batch_size, augment=augment)

        splits = self.splits
        calibration = self.calibration_rows(recipe.prune.calibration.samples, recipe.seed)
        sets = {"validation": batches(splits.validation), "test": batches(splits.test)}
        return Loaders(batches(splits.train, recipe.data.augment), batches(calibration), sets)


def drawn(rows: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """A seeded sample of rows; all when there are fewer than wanted.

    Neighbours in the data stay together in runs, as an interval's groups of examples need it of windows that overlap;
    the runs are in random order, as a race needs it.
    """
    generator = np.random.default_rng(seed)
    chosen = np.sort(generator.permutation(rows)[:samples])
    whole = len(chosen) // ROWS * ROWS
    return np.concatenate([generator.permutation(chosen[:whole].reshape(-1, ROWS)).ravel(), chosen[whole:]])


def prepare(recipe: Recipe, data: LabelledData | None = None) -> Prepared:
    """Loads data and network and refuses what cannot work.

    Args:
        recipe: What to load.
        data: Its data set, where that is loaded already.

    Raises:
        HarPruneError: Bad input.
        RecipeError: Classes are to be called as in a checkpoint, and there is none.
    """
    data = load_configured(recipe.data) if data is None else data
    splits = make_splits(data, recipe.data, recipe.seed)
    if recipe.refit:
        both = np.sort(np.concatenate([splits.train, splits.validation]))
        splits = replace(splits, train=both, validation_from=f"{splits.validation_from}, who train as well (refit)")
    if recipe.model.checkpoint is not None:
        data = _named(recipe.model.checkpoint, data, recipe.data)
        model, processor = load_original(recipe.model.checkpoint, data)
        warn_of_test(recipe.model.checkpoint, recipe.data)
        if splits.is_drawn:
            warnings.warn(
                f"validation: {splits.validation_from}. Checkpoint {recipe.model.checkpoint} may have been trained on "
                "them, and then their accuracy flatters it. Where the data have a split it never saw, name that in "
                "data.validation_split (protocol official).",
                stacklevel=2,
            )
    else:
        if recipe.data.label_names == "checkpoint":
            raise RecipeError("data.label_names: checkpoint goes with model.name_or_path, and model.config has none.")
        set_seed(recipe.seed)
        model, processor = make_original(dict(recipe.model.config or {}), data, splits.train)
    made = _tried(data, splits, model, processor, str(recipe.model.checkpoint), recipe.data)
    check_settings(made.stack, recipe, made.one_example)
    return made


def prepared_for(checkpoint: Checkpoint, config: DataConfig, seed: int) -> Prepared:
    """Loads a checkpoint and data for it, without a recipe.

    Raises:
        HarPruneError: Bad input.
    """
    check_checkpoint(checkpoint)
    data = _named(checkpoint, load_configured(config), config)
    splits = make_splits(data, config, seed)
    model, processor = load_original(checkpoint, data)
    return _tried(data, splits, model, processor, str(checkpoint), config)


def warn_of_test(checkpoint: Checkpoint, config: DataConfig) -> None:
    """Says that a checkpoint may know what tests it, where the data do not say what is for testing."""
    if config.protocol != "official":
        warnings.warn(
            f"test: whether checkpoint {checkpoint} was trained on what tests here (protocol {config.protocol}) "
            "nothing tells; if it was, its accuracy flatters it.",
            stacklevel=3,
        )


def _named(checkpoint: Checkpoint, data: LabelledData, config: DataConfig) -> LabelledData:
    return named_as(checkpoint, data) if config.label_names == "checkpoint" else data


def _tried(
    data: LabelledData, splits: Splits, model: PreTrainedModel, processor: Any, name: str, config: DataConfig
) -> Prepared:
    preprocess = preprocess_for(data, processor, name, config.max_tokens)
    few = data.raw(splits.calibration[:2])
    if isinstance(preprocess, TextInputs):
        preprocess.fit(model.config)
        example_inputs = preprocess.longest(list(few))
    else:
        example_inputs = inputs_of(preprocess(few))
    try_on(model, example_inputs)
    return Prepared(data, splits, model, processor, preprocess, example_inputs, find_blocks(model, example_inputs))


def try_on(model: PreTrainedModel, example_inputs: dict[str, Tensor]) -> None:
    """Runs the network on a few examples of the data, before anything is built on it.

    Raises:
        CheckpointError: It cannot, or gives NaN.
    """
    try:
        with torch.no_grad():
            logits = logits_of(model.eval()(**example_inputs))
    except Exception as error:  # whatever a forward raises on inputs it was not made for
        if model.dtype != torch.float32:
            kind = str(model.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"the weights are in {kind}, and {type(model).__name__} does not cast its inputs to that ({error}). "
                "Save the checkpoint in float32: from_pretrained(..., dtype=torch.float32).save_pretrained(FOLDER)."
            ) from error
        raise CheckpointError(f"{type(model).__name__} cannot run on these data: {error}") from error
    if not bool(logits.isfinite().all()):
        raise CheckpointError(f"{type(model).__name__} gives NaN or infinity: its weights are damaged.")
