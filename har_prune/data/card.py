"""What the card of a data set of windows states: read, checked, renamed."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, hf_hub_download

from har_prune.errors import DataError, did_you_mean

_FASTEST_HZ = 100_000  # above it somebody wrote another unit


def sensor_facts(name_or_path: str, revision: str | None, channels: int) -> dict[str, Any]:
    """The `har` key of a card: sampling_rate_hz, and where it states them channels, units, window_s and hop_s.

    Args:
        name_or_path: Folder or Hub id of the data set.
        revision: Branch, tag or commit of a Hub repository.
        channels: How many channels its windows have.

    Raises:
        DataError: The card cannot be read, does not state the rate, or states something that cannot be.
    """
    card = Path(name_or_path, "README.md")
    try:
        if not Path(name_or_path).is_dir():
            card = Path(hf_hub_download(name_or_path, "README.md", repo_type="dataset", revision=revision))
        facts = DatasetCard.load(card).data.to_dict().get("har") or {} if card.exists() else {}
    except Exception as error:  # a card with broken YAML, or none on the Hub
        raise DataError(f"the card of data set {name_or_path!r} cannot be read: {error}") from error
    if not isinstance(facts, dict) or "sampling_rate_hz" not in facts:
        raise DataError(
            f"data set {name_or_path!r}: its card (README.md) does not state har.sampling_rate_hz. "
            "Prepare it with `python -m data_prep`."
        )
    rate = facts["sampling_rate_hz"]
    if not _is_positive(rate) or rate > _FASTEST_HZ:
        raise DataError(
            _wrong(name_or_path, "sampling_rate_hz", rate, f"a number of Hz above 0 and up to {_FASTEST_HZ:,}")
        )
    for key in ("window_s", "hop_s"):
        if key in facts and not _is_positive(facts[key]):
            raise DataError(_wrong(name_or_path, key, facts[key], "a number of seconds above 0"))
    for key, rule in (("channels", " of distinct names"), ("units", ", e.g. m/s^2, g, mg, rad/s or deg/s")):
        found = facts.get(key)
        whole = isinstance(found, list) and all(isinstance(name, str) and name for name in found)
        if found is not None and (
            not whole or len(found) != channels or (key == "channels" and len(set(found)) < len(found))
        ):
            raise DataError(
                _wrong(name_or_path, key, found, f"a list{rule}, one for each of the windows' {channels} channels")
            )
    return facts


def renamed(facts: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The same facts with channels called otherwise.

    Args:
        facts: As `sensor_facts` gave them.
        names: New name of a channel by its name on the card.

    Raises:
        DataError: There is no channel of a name, or two would have the same.
    """
    known = facts.get("channels") or []
    for name in names:
        if name not in known:
            raise DataError(
                f"rename_channels: the card of the data names no channel {name!r} (channels: "
                f"{', '.join(known) or 'none'}).{did_you_mean(name, known)}"
            )
    channels = [names.get(name, name) for name in known]
    twice = next((name for name in channels if channels.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"rename_channels: two channels would be called {twice!r}: give each a name of its own.")
    return {**facts, "channels": channels}


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value and math.isfinite(value)


def _wrong(name_or_path: str, key: str, came: object, allowed: str) -> str:
    return (
        f"data set {name_or_path!r}: its card (README.md) states har.{key} = {came!r}; allowed is {allowed}. Correct "
        "the card, or prepare the data with `python -m data_prep`."
    )
