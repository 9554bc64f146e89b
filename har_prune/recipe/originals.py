"""The unpruned networks of a run: trained here, taken over from another run, or loaded where they are kept already."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from har_prune.checkpoints.load import load_model
from har_prune.pruning.store import RunFolder, refuse_altered_original, refuse_other_training
from har_prune.recipe.original import SEEDS_APART, make_original
from har_prune.recipe.prepare import Prepared
from har_prune.recipe.schema import Recipe
from har_prune.runtime.console import say
from har_prune.runtime.digest import weights_sha256
from har_prune.runtime.files import whole_folder, write_json
from har_prune.runtime.processes import agreed
from har_prune.training.loop import train_model


def check_original_from(
    recipe: Recipe, made: Prepared, accelerator: Accelerator, fingerprints: dict[str, str | None]
) -> None:
    """Refuses an `original_from` whose original was not trained as this recipe would train it.

    Raises:
        OutputFolderError: There is none; settings, precision, data or the checkpoint it began with were others; or it
            was altered.
    """
    if recipe.original_from is not None:
        refuse_other_training(recipe.original_from, recipe.training, _facts(recipe, made, accelerator), fingerprints)
        taken_over(recipe.original_from, "original", made.model)


def taken_over(source: Path, name: str, model: PreTrainedModel) -> PreTrainedModel:
    """An original that another run has trained.

    Raises:
        OutputFolderError: Its weights were altered since.
    """
    found = load_model(type(model), source / name).eval()
    refuse_altered_original(source, name, weights_sha256(found))
    return found


def _facts(recipe: Recipe, made: Prepared, accelerator: Accelerator) -> dict[str, Any]:
    """What a trained original follows from beside recipe and data."""
    begun_from = weights_sha256(made.model) if recipe.model.checkpoint else None
    return {"precision": accelerator.mixed_precision, "begun_from": begun_from}


class Originals:
    """The unpruned networks a run trains; one that is kept already is loaded."""

    def __init__(
        self,
        recipe: Recipe,
        made: Prepared,
        folder: RunFolder,
        train: DataLoader,
        validation: DataLoader,
        accelerator: Accelerator,
    ):
        self.recipe, self.made, self.folder = recipe, made, folder
        self.train, self.validation, self.accelerator = train, validation, accelerator
        self.facts = _facts(recipe, made, accelerator)  # before it is trained

    def original(self) -> PreTrainedModel:
        """The one that is pruned."""
        return self._trained("original", self.made.model, self.recipe.seed)

    def another(self, number: int) -> PreTrainedModel:
        """One more, from another seed, to distil from."""
        seed = self.recipe.seed + SEEDS_APART * number
        set_seed(seed)
        model, _ = make_original(dict(self.recipe.model.config or {}), self.made.data, self.made.splits.train)
        return self._trained(f"original-{number}", model, seed)

    def _trained(self, name: str, model: PreTrainedModel, seed: int) -> PreTrainedModel:
        schedule, path = self.recipe.train, self.recipe.output_dir / name
        source = self.recipe.original_from
        if source is not None and agreed((source / name).exists() and not path.exists(), self.accelerator):
            say(f"the {name} network is that of {source / name}")
            self._keep(path, taken_over(source, name, model))
        elif schedule is not None and not path.exists():
            say(f"training the {name} network: {schedule.epochs:g} epochs of {len(self.made.splits.train):,} examples")
            train_model(
                model, self.train, self.validation, schedule, accelerator=self.accelerator, seed=seed,
                checkpoint=self.folder.training(name),
            )  # fmt: skip
            self._keep(path, model)
            self.folder.forget_training()
        # Also right after training: what is computed must not depend on whether the run was interrupted here.
        return taken_over(self.recipe.output_dir, name, model)

    def _keep(self, path: Path, model: PreTrainedModel) -> None:
        """Keeps a trained, unpruned network; a run started again loads it from there."""
        if self.accelerator.is_main_process:
            write_json(path.with_name(f"{path.name}.json"), {"weights_sha256": weights_sha256(model), **self.facts})
            with whole_folder(path) as partial:
                model.save_pretrained(partial)
                self.made.processor.save_pretrained(partial)
        self.accelerator.wait_for_everyone()
