"""from_pretrained with errors that say which checkpoint is wrong and what to do about it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, cached_file

from har_prune.errors import CheckpointError

# What from_pretrained says of weights that did not find their place.
KEY_PROBLEMS = {
    "missing_keys": "weights the model needs and the checkpoint lacks",
    "mismatched_keys": "weights of another shape",
    "unexpected_keys": "weights the model has no place for",
    "error_msgs": "errors",
}

MERGE = (
    "merge it first: peft's PeftModel.from_pretrained(BASE_MODEL, ADAPTER_PATH).merge_and_unload(), and "
    "save_pretrained(NEW_PATH) of what that gives."
)

# Where the README and the recipes put things; nobody looks for these on the Hub.
_OWN_FOLDERS = ("checkpoints", "data", "runs")


def is_missing_folder(name_or_path: str | Path) -> bool:
    """Whether a name can only mean a folder, and there is none. Asking the Hub would take minutes of retries."""
    path = Path(name_or_path)
    only_a_path = path.is_absolute() or str(name_or_path).startswith(".") or len(path.parts) > 2
    return (only_a_path or path.parts[0] in _OWN_FOLDERS) and not path.exists()


@dataclass(frozen=True)
class Checkpoint:
    """Where a model is loaded from.

    Args:
        name_or_path: A folder or a Hub id.
        revision: Branch, tag or commit of a Hub repository; None = its default branch.
        trust_remote_code: Whether code of the checkpoint may run; it comes from whoever made it.
    """

    name_or_path: str | Path
    revision: str | None = None
    trust_remote_code: bool = False

    def __str__(self) -> str:
        return f"{self.name_or_path}{'' if self.revision is None else f'@{self.revision}'}"


def check_checkpoint(source: Checkpoint) -> None:
    """Refuses what no weights need to be read for: a typo is found before a large data set is loaded.

    Raises:
        CheckpointError: The checkpoint is missing, quantised, has no config or no safetensors, or names other files as
            its weights.
    """
    if not str(source.name_or_path):
        raise CheckpointError("the name of the checkpoint is empty: give a folder or a Hub id.")
    if Path(source.name_or_path).exists() and source.revision is not None:
        raise CheckpointError(f"checkpoint folder {source.name_or_path} has no revisions: leave revision out.")
    if is_missing_folder(source.name_or_path):
        raise CheckpointError(f"checkpoint folder {source} does not exist: make it first, or give a Hub id.")
    try:
        _refuse_pickle_in(Path(source.name_or_path))
        config = PreTrainedConfig.get_config_dict(source.name_or_path, revision=source.revision or "main")[0]
        _refuse_quantised(config, source)
        _refuse_foreign_weights(config, source)
    except CheckpointError:
        raise
    except Exception as error:  # a config can be wrong in as many ways as its class has lines
        raise CheckpointError(_not_loaded(source, error)) from error


def _not_loaded(source: Checkpoint, error: Exception) -> str:
    return f"checkpoint {source} cannot be loaded: {shortened(error)}"


def load_model(auto_class: Any, checkpoint: Checkpoint | str | Path, **kwargs: Any) -> PreTrainedModel:
    """Loads a model; every weight must find its place.

    Args:
        auto_class: An Auto class, or a model class.
        checkpoint: The checkpoint, or the name of one without code of its own.
        kwargs: Passed on to `from_pretrained`.

    Raises:
        CheckpointError: The checkpoint is missing, corrupt, quantised, has no safetensors, names other files as its
            weights, needs code nobody allowed, or does not fit its config.
    """
    source = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)
    check_checkpoint(source)
    try:
        with _no_conversion():
            model, info = auto_class.from_pretrained(
                source.name_or_path,
                output_loading_info=True,
                use_safetensors=True,
                trust_remote_code=source.trust_remote_code,  # None would make transformers ask on the terminal
                revision=source.revision or "main",
                **kwargs,
            )
    except SafetensorError as error:
        raise CheckpointError(
            f"checkpoint {source}: a safetensors file is corrupt or cut off ({error}). Copy or download it again."
        ) from error
    except Exception as error:
        raise CheckpointError(_not_loaded(source, error)) from error
    _keep_card(source)
    if getattr(model, "_hf_peft_config_loaded", False):
        raise CheckpointError(f"checkpoint {source} is an adapter, whose weights lie beside those of a model: {MERGE}")
    found = {key: sorted(map(str, info[key]))[:5] for key in KEY_PROBLEMS if info.get(key)}
    if found:
        advice = "Load it with the class it was saved from, or train the missing parts first."
        if list(found) == ["unexpected_keys"]:
            advice = (
                "Load it with the class it was saved from. Where it has no use for those (an old buffer, say, or "
                f"a pooler), drop them: {auto_class.__name__}.from_pretrained(PATH).save_pretrained(NEW_PATH)."
            )
        problems = "; ".join(f"{KEY_PROBLEMS[key]}: {keys}" for key, keys in found.items())
        raise CheckpointError(f"checkpoint {source} does not fit {type(model).__name__}: {problems}. {advice}")
    return model


def _keep_card(source: Checkpoint) -> None:
    """Fetches the card of a Hub checkpoint into the cache: its license goes with what is made of it."""
    if Path(source.name_or_path).exists():
        return
    try:
        hf_hub_download(str(source.name_or_path), "README.md")
    except (OSError, ValueError):  # no card, or no network and everything else in the cache
        return


_CONVERT = (
    "har_prune reads safetensors only, because a pickle can run code. If you trust its origin, convert it once: "
    "AutoModel.from_pretrained(PATH, use_safetensors=False).save_pretrained(NEW_PATH), with its task's Auto class."
)


def _refuse_pickle_in(folder: Path) -> None:
    """A folder with weights, and none of them in safetensors."""
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    if pickles:
        raise CheckpointError(f"checkpoint {folder} holds {', '.join(pickles[:3])} and no safetensors. {_CONVERT}")


def _refuse_quantised(config: dict[str, Any], source: Checkpoint) -> None:
    method = config.get("quantization_config")
    if method is not None:
        name = method.get("quant_method", "an unnamed method") if isinstance(method, dict) else method
        raise CheckpointError(
            f"checkpoint {source} is quantised ({name}), and blocks of packed weights cannot be rebuilt or healed: "
            "prune the checkpoint it was made from, and quantise the result."
        )


def _refuse_foreign_weights(config: dict[str, Any], source: Checkpoint) -> None:
    """An index of shards, or the config, may name any file, and transformers 5 opens it: a pickle, or ../../x."""
    named = config.get("transformers_weights") or SAFE_WEIGHTS_INDEX_NAME
    if Path(str(named)).name != named or not named.endswith((".safetensors", ".safetensors.index.json")):
        raise CheckpointError(
            f"checkpoint {source}: its config.json has transformers_weights={named!r}, and weights are read from "
            "safetensors files in the folder itself only: copy it from its origin again, and distrust this copy."
        )
    if named.endswith(".json"):
        index = cached_file(source.name_or_path, named, revision=source.revision or "main", **_QUIETLY)
        if index is not None:
            shard_names(Path(index), str(source))


def shard_names(index: Path, checkpoint: str) -> set[str]:
    """The files that the index of a sharded checkpoint names.

    Raises:
        CheckpointError: It is damaged, or names something else than safetensors files beside it.
    """
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"checkpoint {checkpoint}: {index.name} is damaged: copy it again.") from error
    foreign = sorted(str(name) for name in names if Path(str(name)).name != name or not name.endswith(".safetensors"))
    if foreign:
        raise CheckpointError(
            f"checkpoint {checkpoint}: {index.name} names {', '.join(foreign[:3])}, and weights are read from "
            "*.safetensors files beside it only: copy it from its origin again, and distrust this copy."
        )
    return names


def shortened(error: Exception) -> str:
    """What transformers says, without its list of all configs, and what to do about it."""
    return str(error).partition("Model type should be one of")[0].strip() + _advice(str(error))


def _advice(message: str) -> str:
    """What to do about errors of transformers that do not say it, or say it in its own terms."""
    if "Unrecognized configuration class" in message:
        return (
            " Models of this kind have no such head: give a checkpoint made for the data, or data of the kind it was "
            "made for (windows and images with class labels, texts with or without)."
        )
    if "trust_remote_code" in message:
        return (
            " It brings its own code. Read that code; to run it give model.trust_remote_code=true in a recipe, "
            "--trust-remote-code on the command line."
        )
    if "safetensors" in message and "does not appear to have a file" in message:
        return f" {_CONVERT}"
    return ""


@contextmanager
def _no_conversion() -> Iterator[None]:
    """Transformers would ask a service on the Hub to convert a pickle, and open a pull request there."""
    name = "DISABLE_SAFETENSORS_CONVERSION"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


# A file that is not there, or a Hub out of reach, is no error.
_QUIETLY = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}

# Kind of data -> what prepares it, and the files one of which says that there is one.
_PREPROCESSOR = ("preprocessor_config.json", "processor_config.json")
_PROCESSORS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "image": (AutoImageProcessor, _PREPROCESSOR),
    "sensor": (AutoFeatureExtractor, _PREPROCESSOR),
    # Without one of these transformers 5 makes up an empty tokenizer, to which every word is unknown.
    "text": (AutoTokenizer, ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model",
                             "sentencepiece.bpe.model")),
}  # fmt: skip


def load_processor(checkpoint: Checkpoint | str | Path, kind: str) -> Any | None:
    """What prepares data of a kind ("sensor", "image", "text") for a checkpoint; None when it has nothing for it.

    Raises:
        CheckpointError: There is something and it cannot be read.
    """
    source = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)
    auto_class, files = _PROCESSORS[kind]
    revision = {"revision": source.revision or "main"}
    if not any(cached_file(source.name_or_path, name, **revision, **_QUIETLY) for name in files):
        return None
    try:
        return auto_class.from_pretrained(source.name_or_path, trust_remote_code=source.trust_remote_code, **revision)
    except Exception as error:  # whatever a damaged file makes a reader raise
        raise CheckpointError(f"checkpoint {source}: its {auto_class.__name__} cannot be loaded: {error}") from error
