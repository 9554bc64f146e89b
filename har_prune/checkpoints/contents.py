"""What a saved folder may hold: the files that `save_pruned` writes, and no other."""

import json
from pathlib import Path
from typing import Any

from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from har_prune.checkpoints.load import shard_names
from har_prune.errors import CheckpointError
from har_prune.reporting.names import printable

_OF_EVERY_SAVE = (
    *("config.json", "generation_config.json", SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME),
    *("README.md", "history.json", "trajectory.png", "robustness.png"),
)
# `save_pretrained` of tokenizers, image processors and feature extractors; vocabularies as `vocab_files_names` of
# the tokenizers in transformers 5.23 call them.
PROCESSOR_FILES = (
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json", "audio_tokenizer_config.json", "tokenizer.model", "tekken.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model"),
    *("spm.model", "spm_char.model", "source.spm", "target.spm", "vocab-src.json", "vocab-tgt.json", "bpe.codes"),
    *("target_vocab.json", "entity_vocab.json", "dict.txt", "emoji.json", "normalizer.json", "byte_maps.json"),
    *("word_shape.json", "word_pronunciation.json", "prophetnet.tokenizer"),
)
_TEMPLATES = "additional_chat_templates"  # the one folder that a tokenizer writes, for those with several templates


def files_of(folder: Path) -> list[str]:
    """The files of a saved folder by name, once it is sure that nothing else lies in it.

    Raises:
        CheckpointError: There are other files, links or folders, or an index of weights is damaged.
    """
    paths = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    found = {path.relative_to(folder).as_posix() for path in paths}
    links = {path.relative_to(folder).as_posix() for path in paths if path.is_symlink()}
    known = set(_OF_EVERY_SAVE) | set(PROCESSOR_FILES)
    if SAFE_WEIGHTS_INDEX_NAME in found - links:
        known |= shard_names(folder / SAFE_WEIGHTS_INDEX_NAME, str(folder))
    known |= _code(folder, found - links)
    foreign = sorted(links | {name for name in found if name not in known and not _is_template(name)})
    if foreign:
        shown = ", ".join(printable(name) + " (a link)" * (name in links) for name in foreign[:10])
        more = f" and {len(foreign) - 10} more" if len(foreign) > 10 else ""
        raise CheckpointError(
            f"{folder} holds {shown}{more}: only what save_pruned writes is pushed, and it did not write that. Move "
            "it out of the folder, and push again."
        )
    return sorted(found)


def _is_template(name: str) -> bool:
    return Path(name).parent.as_posix() == _TEMPLATES and name.endswith(".jinja")


def _code(folder: Path, names: set[str]) -> set[str]:
    """The modules that some `auto_map` of the folder names, and those they import from beside them."""
    reached: set[str] = set()
    for name in {"config.json", *PROCESSOR_FILES} & names:
        if not name.endswith(".json"):
            continue
        try:
            places = json.loads((folder / name).read_text(encoding="utf-8"))["auto_map"].values()
        except (ValueError, LookupError, TypeError, AttributeError):  # no auto_map, or no object at all
            continue
        reached |= {f"{place.split('.')[0]}.py" for value in places for place in _strings(value)}
    reached &= names
    for name in tuple(reached):
        try:
            reached |= {Path(path).name for path in get_relative_import_files(folder / name)} & names
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder}: {name} imports from beside it what is not there ({error}).") from error
    return reached


def _strings(value: Any) -> list[str]:
    """An entry of an `auto_map`: a place, or those of a slow and a fast tokenizer, of which one may be None."""
    return [place for place in (value if isinstance(value, list) else [value]) if isinstance(place, str)]
