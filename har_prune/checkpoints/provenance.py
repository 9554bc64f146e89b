"""Where a network comes from, as it may be published: the original, licenses, and no paths of somebody's disk."""

import re
import shlex
from pathlib import Path
from typing import Any

from huggingface_hub import RepoCard, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedConfig


def origin_of(config: PreTrainedConfig) -> dict[str, str]:
    """The checkpoint a config was loaded from, and its license; empty for a config made in memory.

    Of a Hub checkpoint `base_model`; of a local folder `original`, only its own name: paths of somebody's
    disk have no place in a published config. No network: of a Hub checkpoint the license is known where its card lies
    in the cache, and `load_model` puts it there.
    """
    name = str(config.name_or_path or "")
    if name in ("", "None"):  # from_pretrained(None) writes it out
        return {}
    if Path(name).exists():
        return {"original": folder_name(name), **_license(Path(name, "README.md"))}
    if not is_hub_id(name):
        return {}
    cached = try_to_load_from_cache(name, "README.md")
    return {"base_model": name, **(_license(Path(cached)) if isinstance(cached, str) else {})}


def folder_name(path: str) -> str:
    """What a checkpoint is called: the last part of its path; of a network that a run trained, the run's name.

    >>> folder_name("runs/wharf/original")
    'wharf'
    """
    folder = Path(path).resolve()
    return (folder.parent if folder.name == "original" else folder).name


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a Hub id, "owner/name" or "name"."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def provenances(config: PreTrainedConfig, name: str = "") -> dict[str, dict[str, Any]]:
    """What `config.har_prune` records, by the name of the (tower's) config; "" for the whole model's own."""
    own = getattr(config, "har_prune", None)
    found = {name: own} if own else {}
    for inner, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            found |= provenances(value, f"{name}.{inner}" if name else inner)
    return found


def dataset_license(name_or_path: str) -> str | None:
    """The license that the card of a data set states; None where it states none, or no card is at hand. No network."""
    card: Any = Path(name_or_path, "README.md")
    if not Path(name_or_path).exists() and is_hub_id(name_or_path):
        card = try_to_load_from_cache(name_or_path, "README.md", repo_type="dataset")
    stated = _front_matter(Path(card)) if isinstance(card, (str, Path)) else {}
    license = stated.get("license_name") or stated.get("license")
    return license if isinstance(license, str) else None


def _license(card: Path) -> dict[str, str]:
    license = _front_matter(card).get("license")
    return {"license": license} if isinstance(license, str) else {}


def _front_matter(card: Path) -> dict[str, Any]:
    if not card.is_file():
        return {}
    try:
        return RepoCard.load(card, ignore_metadata_errors=True).data.to_dict()
    except Exception:  # somebody else's card, with whatever YAML
        return {}


_WINDOWS = re.compile(r"[A-Za-z]:\\")
_CREDENTIALS = re.compile(r"//[^/@\s]+@")  # of a URL
_SEPARATORS = re.compile(r"([=,;'\"()\[\]{}\n]|:\s+)")


def without_places(value: Any) -> Any:
    r"""Plain values in which paths that are absolute, or that begin with ~ or pass .., are cut to their last part.

    >>> without_places({"data": ["/home/me/wharf/", "data/wharf", "owner/name", "npy:/home/me/CIFAR-10-C"]})
    {'data': ['wharf', 'data/wharf', 'owner/name', 'npy:CIFAR-10-C']}
    >>> without_places([r"C:\Users\me\wharf", "https://me:secret@host/x"])
    ['wharf', 'https://host/x']
    """
    if isinstance(value, dict):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_places(item) for item in value]
    if not isinstance(value, str):
        return value
    value = _CREDENTIALS.sub("//", value.replace("file://", ""))
    return "".join(_last_part(piece) for piece in _SEPARATORS.split(value))


def command_without_places(command: str) -> str:
    """The same for the words of a command line, where a path may be the value of an option.

    >>> command_without_places("launch run.py '/home/m e/x.yaml' output_dir=~/runs/a")
    'launch run.py x.yaml output_dir=a'
    """
    try:
        words = shlex.split(command)
    except ValueError:  # a quotation mark that is never closed
        words = command.split()
    return shlex.join(without_places(word) for word in words)


def _last_part(piece: str) -> str:
    text = piece.strip()
    for prefix in ("npy:", "data:"):  # of evaluate.robustness
        if text.startswith(prefix):
            return prefix + _last_part(text.removeprefix(prefix))
    if _WINDOWS.match(text):
        return text.rstrip("\\").rpartition("\\")[2]
    if text.startswith(("/", "~")) or ".." in text.split("/"):
        return text.rstrip("/").rpartition("/")[2]
    return piece
