"""from_pretrained with errors that say which checkpoint is wrong and what to do about it."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoFeatureExtractor, AutoImageProcessor, PreTrainedModel

from har_prune.errors import CheckpointError

_KEY_PROBLEMS = {
    "missing_keys": "weights the model needs and the checkpoint lacks",
    "mismatched_keys": "weights of another shape",
    "unexpected_keys": "weights the model has no place for",
}

# Where the README and the recipes put things; nobody looks for these on the Hub.
_OWN_FOLDERS = ("checkpoints", "data", "runs")


def is_missing_folder(name_or_path: str | Path) -> bool:
    """Whether a name can only mean a folder, and there is none. Asking the Hub would take minutes of retries."""
    path = Path(name_or_path)
    only_a_path = path.is_absolute() or str(name_or_path).startswith(".") or len(path.parts) > 2
    return (only_a_path or path.parts[0] in _OWN_FOLDERS) and not path.exists()


def load_model(auto_class: Any, name_or_path: str | Path, **kwargs: Any) -> PreTrainedModel:
    """Loads a model; every weight must find its place.

    Args:
        auto_class: An Auto class, or a model class.
        name_or_path: A folder or a Hub id.
        kwargs: Passed on to `from_pretrained`.

    Raises:
        CheckpointError: The checkpoint is missing, corrupt, has no safetensors, or does not fit its config.
    """
    if is_missing_folder(name_or_path):
        raise CheckpointError(f"checkpoint folder {name_or_path} does not exist: make it first, or give a Hub id.")
    try:
        model, info = auto_class.from_pretrained(
            name_or_path,
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=False,  # without it transformers would ask on the terminal
            **kwargs,
        )
    except SafetensorError as error:
        raise CheckpointError(
            f"checkpoint {name_or_path}: a safetensors file is corrupt or cut off ({error}). Copy or download it "
            "again."
        ) from error
    except Exception as error:  # a config can be wrong in as many ways as its class has lines
        raise CheckpointError(f"checkpoint {name_or_path} cannot be loaded: {error}") from error
    problems = [f"{words}: {sorted(map(str, info[key]))[:5]}" for key, words in _KEY_PROBLEMS.items() if info[key]]
    if problems:
        raise CheckpointError(
            f"checkpoint {name_or_path} does not fit {type(model).__name__}: {'; '.join(problems)}. "
            "Load it with the class it was saved from, or train the missing parts first."
        )
    return model


def load_processor(name_or_path: str | Path) -> Any | None:
    """The feature extractor or image processor of a checkpoint; None when it has none.

    Raises:
        CheckpointError: There is one and it cannot be read.
    """
    for auto_class in (AutoImageProcessor, AutoFeatureExtractor):
        try:
            return auto_class.from_pretrained(name_or_path, trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    if Path(name_or_path, "preprocessor_config.json").exists():
        raise CheckpointError(f"checkpoint {name_or_path}: preprocessor_config.json cannot be read as a processor.")
    return None
