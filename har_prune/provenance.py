"""Where a network comes from: what `config.har_prune` says of its parent, and the parent's licence."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedConfig


def parent_of(config: PreTrainedConfig) -> dict[str, str]:
    """The checkpoint a config was loaded from, and its licence; empty for a config made in memory.

    Of a Hub checkpoint `base_model`; of a local folder `parent`, only its own name: paths of somebody's
    disk have no place in a published config. No network: of a Hub checkpoint the licence is known where its card lies
    in the cache, and `load_model` puts it there.
    """
    name = str(config.name_or_path or "")
    if not name:
        return {}
    if Path(name).exists():
        return {"parent": Path(name).resolve().name, **_licence(Path(name, "README.md"))}
    if not is_hub_id(name):
        return {}
    cached = try_to_load_from_cache(name, "README.md")
    return {"base_model": name, **(_licence(Path(cached)) if isinstance(cached, str) else {})}


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a Hub id, "owner/name" or "name"."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def provenance(config: PreTrainedConfig) -> dict[str, Any]:
    """What `config.har_prune` records: of the whole model, or of the first of its towers that was pruned."""
    own = getattr(config, "har_prune", None)
    if own:
        return own
    inner = (value for value in vars(config).values() if isinstance(value, PreTrainedConfig))
    return next((found for value in inner if (found := provenance(value))), {})


def _licence(card: Path) -> dict[str, str]:
    if not card.is_file():
        return {}
    try:
        licence = ModelCard.load(card).data.to_dict().get("license")
    except Exception:  # somebody else's card, with whatever YAML
        return {}
    return {"license": licence} if isinstance(licence, str) else {}
