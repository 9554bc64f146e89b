"""Where a network comes from: what `config.har_prune` says of the original, and the original's license."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, try_to_load_from_cache
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
        return {"original": Path(name).resolve().name, **_license(Path(name, "README.md"))}
    if not is_hub_id(name):
        return {}
    cached = try_to_load_from_cache(name, "README.md")
    return {"base_model": name, **(_license(Path(cached)) if isinstance(cached, str) else {})}


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


def _license(card: Path) -> dict[str, str]:
    if not card.is_file():
        return {}
    try:
        license = ModelCard.load(card).data.to_dict().get("license")
    except Exception:  # somebody else's card, with whatever YAML
        return {}
    return {"license": license} if isinstance(license, str) else {}
