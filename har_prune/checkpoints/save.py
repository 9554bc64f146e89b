"""save_pruned: a folder that loads back as the model that was saved, or no folder at all."""

import re
import warnings
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from har_prune.blocks.equivalence import TOLERANCE, difference, outputs_of
from har_prune.blocks.example_inputs import example_inputs as make_example_inputs
from har_prune.checkpoints.auto_class import auto_class_of, runs_remote_code
from har_prune.checkpoints.card import model_card
from har_prune.checkpoints.load import Checkpoint, is_missing_folder, load_model, load_processor
from har_prune.checkpoints.provenance import without_places
from har_prune.errors import CheckpointError, OutputFolderError, SaveVerificationError
from har_prune.pruning.history import PruningHistory
from har_prune.reporting.robustness import plot_robustness
from har_prune.reporting.trajectory import plot_trajectory
from har_prune.runtime.digest import weights_sha256
from har_prune.runtime.files import whole_folder, write_json

_ROUNDED = (
    " A model that was cast, .to(bfloat16), has its rotary tables rounded, and a reload has not: load the checkpoint "
    "with from_pretrained(..., dtype=...), which rounds weights alone."
)


def save_pruned(
    model: PreTrainedModel,
    directory: str | Path,
    *,
    history: PruningHistory | None = None,
    processor: Any | None = None,
    example_inputs: dict[str, Tensor] | None = None,
    command: str | None = None,
    max_shard_size: int | str = "5GB",
) -> Path:
    """Saves a model in Hub format after loading it back and comparing.

    The folder holds config, safetensors, the processor, a model card, `history.json` and the run's plot; for
    har_prune's own models also their code, so that `trust_remote_code=True` loads them without the package. It appears
    whole or not at all. Of absolute paths in the recipe and the command only the last part is written.

    Args:
        model: Any Transformers model.
        directory: Where to save; must not exist or be empty.
        history: Record of the run; fills the card and is saved beside it.
        processor: Feature extractor, image processor or tokenizer to save with it; None = what the checkpoint has
            that the model was loaded from.
        example_inputs: Inputs to compare on; made up when None.
        command: The command that made the model, for the card.
        max_shard_size: Largest safetensors file, in bytes or as "5GB"; above, the weights are split.

    Returns:
        The directory.

    Raises:
        OutputFolderError: The directory exists and is not empty, or the weights cannot be written.
        ValueError: `max_shard_size` is nothing.
        SaveVerificationError: What loads back differs from what was saved.
    """
    directory = Path(directory)
    if not re.match(r"[\d.]*[1-9]", str(max_shard_size)):
        raise ValueError(
            f"max_shard_size={max_shard_size!r}: give a number of bytes above 0, or one with a unit, 5GB."
        )
    if history is not None and history.after.weights_sha256 not in ("", weights_sha256(model)):  # "" in records of 0.1
        warnings.warn(
            "the model has other weights than the network that the history ends with, and card and history.json speak "
            "of that one. It is the `model` of the same result; one that was trained since is to be evaluated anew.",
            stacklevel=2,
        )
    processors = _processors_of_origin(model) if processor is None else [processor]
    try:
        with whole_folder(directory) as folder:
            model.save_pretrained(folder, max_shard_size=max_shard_size)
            for each in processors:
                each.save_pretrained(folder)
            if history is not None:
                published = replace(history, recipe=without_places(history.recipe))
                write_json(folder / "history.json", published.to_json())
                if len(history.iterations) > 1:
                    plot_trajectory(history, folder / "trajectory.png")
                    plot_robustness(history, folder / "robustness.png")
            (folder / "README.md").write_text(model_card(model, history, command, processors), encoding="utf-8")
            verify_saved(model, folder, make_example_inputs(model) if example_inputs is None else example_inputs)
    except FileExistsError as error:
        raise OutputFolderError(f"{error}: choose another directory, or remove it first.") from error
    return directory


def _processors_of_origin(model: PreTrainedModel) -> list[Any]:
    """What the checkpoint that a model was loaded from prepares its inputs with; nothing, and a warning, at worst."""
    name = str(model.config.name_or_path or "")
    found: list[Any] = []
    why = "it was not loaded from a checkpoint that is still there"
    if name not in ("", "None") and not is_missing_folder(name):
        revision = None if Path(name).exists() else getattr(model.config, "_commit_hash", None)
        checkpoint = Checkpoint(name, revision, trust_remote_code=runs_remote_code(model))
        try:
            for kind in ("text", "image" if "pixel_values" in signature(model.forward).parameters else "sensor"):
                found += [load_processor(checkpoint, kind)]
            why = f"{checkpoint} has none"
        except (CheckpointError, OSError, ValueError) as error:  # a Hub out of reach, or a folder that is gone
            why = str(error)
    found = [processor for processor in found if processor is not None]
    if not found:
        warnings.warn(
            f"the model is saved without tokenizer, image processor or feature extractor ({why}), and "
            "transformers.pipeline needs one: give save_pruned(processor=...).",
            stacklevel=3,
        )
    return found


def verify_saved(model: PreTrainedModel, folder: Path, inputs: dict[str, Tensor]) -> None:
    """Loads what a folder holds and compares it with a model, on some inputs.

    Raises:
        SaveVerificationError: It does not load, or is another network.
    """
    try:
        own = runs_remote_code(model)
        checkpoint = Checkpoint(folder, trust_remote_code=own)
        attention = model.config._attn_implementation  # another one rounds otherwise
        loaded = load_model(auto_class_of(model), checkpoint, dtype=model.dtype, attn_implementation=attention)
        loaded = loaded.to(model.device).eval()
    except CheckpointError as error:
        raise SaveVerificationError(f"the saved model does not load back: {error}") from error
    # The module of such code is named after the folder it was loaded from.
    same = type(loaded).__qualname__ == type(model).__qualname__ if own else type(loaded) is type(model)
    if not same:
        raise SaveVerificationError(f"saved a {type(model).__name__}, a {type(loaded).__name__} loads back.")
    inputs = {key: value.to(model.device) if isinstance(value, Tensor) else value for key, value in inputs.items()}
    # Not equality: weights in another place in memory can change the last bits.
    found = difference(outputs_of(model, inputs), outputs_of(loaded, inputs))
    if not found <= TOLERANCE:
        raise SaveVerificationError(
            f"outputs of the reloaded model differ by {found:.1e} of the largest (allowed {TOLERANCE:.0e})."
            + (_ROUNDED if model.dtype in (torch.bfloat16, torch.float16) else "")
        )
