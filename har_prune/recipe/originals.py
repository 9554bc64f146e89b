"""The unpruned networks of a run: trained here, taken over from another run, or loaded where they are kept already."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from har_prune.checkpoints.load import load_model
from har_prune.pruning.store import ORIGINAL, RunFolder, refuse_altered_original
from har_prune.recipe.original import SEEDS_APART, make_original
from har_prune.recipe.prepare import Prepared
from har_prune.recipe.schema import Recipe
from har_prune.runtime.console import say
from har_prune.runtime.digest import weights_sha256
from har_prune.runtime.files import whole_folder, write_json
from har_prune.runtime.processes import agreed
from har_prune.training.loop import train_model


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

    def original(self) -> PreTrainedModel:
        """The one that is pruned."""
        model = self._trained("original", self.made.model, self.recipe.seed)
        self.folder.compare_original(weights_sha256(model))
        return model

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
            model = load_model(type(model), source / name)
            if name == "original":
                refuse_altered_original(source, weights_sha256(model))
            _keep(path, model, self.made.processor, self.accelerator)
        elif schedule is not None and not path.exists():
            say(f"training the {name} network: {schedule.epochs:g} epochs of {len(self.made.splits.train):,} examples")
            train_model(
                model, self.train, self.validation, schedule, accelerator=self.accelerator, seed=seed,
                checkpoint=self.folder.training(name),
            )  # fmt: skip
            _keep(path, model, self.made.processor, self.accelerator)
            self.folder.forget_training()
        # Also right after training: what is computed must not depend on whether the run was interrupted here.
        return load_model(type(model), path).eval()


def _keep(path: Path, model: PreTrainedModel, processor: Any, accelerator: Accelerator) -> None:
    """Keeps the trained, unpruned network; a run started again loads it from there."""
    if accelerator.is_main_process:
        if path.name == "original":
            write_json(path.with_name(ORIGINAL), {"weights_sha256": weights_sha256(model)})
        with whole_folder(path) as partial:
            model.save_pretrained(partial)
            processor.save_pretrained(partial)
    accelerator.wait_for_everyone()
