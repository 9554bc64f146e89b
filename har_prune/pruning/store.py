"""The output folder of a run: iterations that appear whole or not at all, and the way back into them."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from har_prune.blocks.rebuild import build_from, carry_over, copied
from har_prune.blocks.stack import BlockStack
from har_prune.checkpoints.auto_class import auto_class_of, runs_remote_code
from har_prune.checkpoints.load import load_model
from har_prune.errors import HarPruneError, OutputFolderError, did_you_mean
from har_prune.evaluation.macs import count_macs
from har_prune.pruning.history import PruningHistory, PruningStep
from har_prune.runtime.batches import fingerprint_of
from har_prune.runtime.digest import weights_sha256
from har_prune.runtime.files import lock_folder, remove_partial, whole_folder, write_json

Parsed = TypeVar("Parsed")

_IDENTITY = "recipe.json"
_HISTORY = "history.json"
_DATA = "data.json"
_TEACHERS = "teachers"
_INPUTS = "inputs"  # in records of 0.1 not there
_TRAINING = "training-"
_CHOICE = f"{_TRAINING}choice.json"
_CONTROL = "control-"


class RunFolder:
    """Folder of one run; `iteration-NNN/` each hold a network and its step.json.

    Args:
        path: The folder; made when absent.
        identity: What made it. A folder another identity made is refused.
        writes: False in all processes but the main one; they only read.

    Raises:
        OutputFolderError: The folder belongs to another recipe, or holds something else.
    """

    def __init__(self, path: Path, identity: dict[str, Any], *, writes: bool = True):
        self.path, self.writes = path, writes
        if not writes:
            return  # the main process checks; looking while it writes would find half a folder
        known = path / _IDENTITY
        if known.exists():
            _refuse_other(path, _read(known), identity)
        elif path.exists() and (not path.is_dir() or any(not p.name.startswith(".") for p in path.iterdir())):
            raise OutputFolderError(
                f"output folder {path} holds files that no run of har_prune made: choose another output_dir, or "
                "empty it."
            )
        path.mkdir(parents=True, exist_ok=True)
        if not lock_folder(path):
            raise OutputFolderError(
                f"output folder {path} is in use by another process: wait until it ends, or choose another output_dir."
            )
        remove_partial(path)
        if not known.exists():
            write_json(known, identity)

    @classmethod
    def record_of(cls, path: Path, identity: dict[str, Any]) -> PruningHistory | None:
        """The record of a run that has ended; it is read, in any process, and the folder stays free.

        Raises:
            OutputFolderError: The folder belongs to another recipe.
        """
        _refuse_other(path, _read(path / _IDENTITY), identity)
        return cls(path, identity, writes=False).history()

    @staticmethod
    def is_begun(path: Path) -> bool:
        """Whether a run keeps itself in a folder."""
        return (path / _IDENTITY).exists()

    def compare_data(self, fingerprints: dict[str, str | None]) -> None:
        """Keeps the fingerprints of a run's data by what they are for; where there are some, they must be the same.

        Raises:
            OutputFolderError: Other data made what is there.
        """
        if not self.writes:
            return
        path = self.path / _DATA
        if not path.exists():
            write_json(path, fingerprints)
            return
        known = {name: value for name, value in _parsed(path, dict).items() if name not in (_TEACHERS, _INPUTS)}
        differing = [name for name in sorted({*known, *fingerprints}) if known.get(name) != fingerprints.get(name)]
        if differing:
            raise OutputFolderError(
                f"output folder {self.path} was made with other data: {', '.join(differing)} differ(s) from what is "
                "given now (batches drawn at random need the same seed). Choose another output_dir, or bring the "
                "former data back to continue that run."
            )

    def compare_inputs(self, examples: Mapping[str, Tensor]) -> None:
        """Keeps what examples are like as the network is given them beside the data they are of; likewise.

        Shape, mean and spread, in which another extractor, image processor or tokenizer shows and another machine does
        not.

        Raises:
            OutputFolderError: The same data were prepared in another way.
        """
        if not self.writes:
            return
        found = {
            name: [*map(float, each.shape), each.double().mean().item(), each.double().std().item()]
            for name, each in examples.items()
        }
        path = self.path / _DATA
        record = _parsed(path, dict)
        known = record.get(_INPUTS)
        if known is None:
            write_json(path, {**record, _INPUTS: found})
        elif known.keys() != found.keys() or not all(_alike(known[name], found[name]) for name in found):
            raise OutputFolderError(
                f"output folder {self.path} was made with the same data prepared in another way: the extractor, image "
                "processor or tokenizer of the checkpoint is another one now. Choose another output_dir, or bring the "
                "former one back to continue that run."
            )

    def compare_teachers(self, found: list[str]) -> None:
        """Keeps the digests of teachers beside those of the data, which have been compared; likewise.

        Raises:
            OutputFolderError: Other teachers, or none, made what is there.
        """
        if not self.writes:
            return
        path = self.path / _DATA
        known = _parsed(path, dict)
        if not self._iteration(0).exists():
            write_json(path, {**known, _TEACHERS: found} if found else known)
        elif known.get(_TEACHERS, []) != found:
            raise OutputFolderError(
                f"output folder {self.path} was made with other teachers than are given now. Choose another "
                "output_dir, or give the former ones to continue that run."
            )

    def steps(self) -> list[PruningStep]:
        """The whole iterations, in order, from 0.

        Raises:
            OutputFolderError: There are others behind a missing one, or a record is damaged.
        """
        found: list[PruningStep] = []
        while (record := self._iteration(len(found)) / "step.json").exists():
            found.append(_parsed(record, PruningStep.from_json))
        known = {self._iteration(step.iteration) for step in found}
        for other in sorted(set(self.path.glob("iteration-*")) - known):
            raise OutputFolderError(
                f"{other} does not follow from the {len(found)} whole iteration(s) before it: move it away to go on "
                "from there, or choose another output_dir."
            )
        return found

    def compare_original(self, first: PruningStep, model: PreTrainedModel, one_example: dict[str, Tensor]) -> None:
        """Compares the unpruned network with the one that iteration 0 is of, and what an example of it costs.

        Raises:
            OutputFolderError: It is another one, or its MACs are not those that a target would be held against.
        """
        if first.weights_sha256 != weights_sha256(model):
            raise OutputFolderError(
                f"output folder {self.path} was made from another network than this one (its weights differ): choose "
                "another output_dir."
            )
        macs = count_macs(model, one_example)
        if first.cost.macs != macs:
            raise OutputFolderError(
                f"output folder {self.path} counted {first.cost.macs:,} MACs for its original, which has "
                f"{macs:,} now: its examples have another size, or are counted otherwise. Choose another output_dir."
            )

    def save(self, step: PruningStep, model: PreTrainedModel | None) -> None:
        """Adds an iteration; iteration 0, the unpruned network, needs no model."""
        if not self.writes:
            return
        with whole_folder(self._iteration(step.iteration)) as folder:
            if model is not None:
                model.save_pretrained(folder)
            write_json(folder / "step.json", step.to_json())

    def control(self, name: str) -> PruningStep | None:
        """The record of a control that is there already."""
        record = self.path / f"{_CONTROL}{name}" / "step.json"
        return _parsed(record, PruningStep.from_json) if record.exists() else None

    def save_control(self, name: str, step: PruningStep, model: PreTrainedModel) -> None:
        """Adds a control, the network beside its record."""
        if not self.writes:
            return
        with whole_folder(self.path / f"{_CONTROL}{name}") as folder:
            model.save_pretrained(folder)
            write_json(folder / "step.json", step.to_json())

    def training(self, name: str) -> Path:
        """The file that an interrupted training goes on from."""
        return self.path / f"{_TRAINING}{name}.pt"

    def keep_choice(self, iteration: int, chosen: dict[str, Any]) -> None:
        """Keeps what a clock decided in an iteration (how work is cut, what goes) until the iteration is whole."""
        if self.writes:
            write_json(self.path / _CHOICE, {"iteration": iteration, **chosen})

    def choice(self, iteration: int) -> dict[str, Any]:
        """What was decided in an iteration that was interrupted; nothing where it was not."""
        kept = _parsed(self.path / _CHOICE, dict) if (self.path / _CHOICE).exists() else {}
        return kept if kept.get("iteration") == iteration else {}

    def forget_training(self) -> None:
        """Removes both, once what was trained is kept."""
        if self.writes:
            for file in self.path.glob(f"{_TRAINING}*"):
                file.unlink()

    def save_history(self, history: PruningHistory) -> None:
        """Replaces history.json."""
        if self.writes:
            write_json(self.path / _HISTORY, history.to_json())

    def history(self) -> PruningHistory | None:
        """The record of a run that has ended here, if one has."""
        record = self.path / _HISTORY
        if not record.exists():
            return None
        return _parsed(record, PruningHistory.from_json)

    def load(self, step: PruningStep, original: BlockStack) -> PreTrainedModel:
        """The network of an iteration, on the original's device; what is frozen in that is frozen in it.

        Its weights are copied into freshly allocated memory: the alignment of a memory-mapped file changes the last
        bits of what is computed from them, and a resumed run has to compute what an uninterrupted one does.

        Raises:
            OutputFolderError: The weights are not those that were kept.
        """
        folder = self._iteration(step.iteration)
        own = runs_remote_code(original.model)  # then by its class, so that no other copy of that code is run
        loaded = load_model(type(original.model) if own else auto_class_of(original.model), folder)
        if step.weights_sha256 != weights_sha256(loaded):
            raise OutputFolderError(
                f"the weights in {folder} were altered since this run kept them (their SHA-256 is not that of "
                "step.json). Bring the former file back; or remove this folder and those of later iterations, with "
                "pruned and history.json, and start again to compute them anew."
            )
        built = build_from(original.model, type(loaded), loaded.config, copied(loaded.state_dict()))
        gone = [block.index for block in original.blocks if block.original_index not in step.remaining]
        carry_over(original, built, gone)
        return built

    def _iteration(self, number: int) -> Path:
        return self.path / f"iteration-{number:03d}"


def data_fingerprints(train: Any, calibration: Any, evaluate: Mapping[str, Any]) -> dict[str, str | None]:
    """Fingerprints of the data of a run by what they are for; None for what cannot be looked at."""
    sets = {"train": train, "calibration": calibration, **{f"evaluate {name}": evaluate[name] for name in evaluate}}
    return {name: fingerprint_of(batches) for name, batches in sets.items() if batches is not None}


def _alike(first: list[float], second: list[float]) -> bool:
    return len(first) == len(second) and np.allclose(first, second, rtol=1e-5, atol=1e-5)


def joint_fingerprint(fingerprints: dict[str, str | None]) -> str | None:
    """One fingerprint for all of them; None where none is known."""
    known = sorted((name, value) for name, value in fingerprints.items() if value is not None)
    return hashlib.sha256(repr(known).encode()).hexdigest() if known else None


def history_at(path: Path) -> PruningHistory:
    """The record of a run that has ended.

    Args:
        path: The run's folder, the folder of its result, or history.json itself.

    Raises:
        OutputFolderError: There is none, or it cannot be read.
    """
    record = path / _HISTORY if path.is_dir() else path
    if not path.exists():
        near = did_you_mean(path.name, [other.name for other in path.parent.glob("*")])
        raise OutputFolderError(f"there is no {path}.{near} Give the folder of a run that has ended.")
    if not record.is_file():
        folds = sorted([*path.glob(f"fold-*/{_HISTORY}"), *path.glob(f"seed-*/fold-*/{_HISTORY}")])
        if folds:
            raise OutputFolderError(f"{path} has a run for each fold; give one of them, e.g. {folds[0].parent}.")
        left = len(list(path.glob("iteration-*"))) if path.is_dir() else 0
        why = f"the run there has {left} iteration(s) and has not ended" if left else "there is none"
        raise OutputFolderError(f"{path} has no {_HISTORY}: {why}. Give the folder of a run that has ended.")
    return _parsed(record, PruningHistory.from_json)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OutputFolderError(
            f"{path} is damaged ({error}): choose another output_dir, or remove this one."
        ) from error


def _parsed(path: Path, parse: Callable[[Any], Parsed]) -> Parsed:
    try:
        return parse(_read(path))
    except HarPruneError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise OutputFolderError(
            f"{path} is not what this version writes ({error}): choose another output_dir, or remove this one."
        ) from error


def refuse_altered_original(path: Path, name: str, found: str) -> None:
    """Compares weights with what a run kept of an original that it trained.

    Args:
        path: The run's folder.
        name: Of the original's folder there.
        found: SHA-256 of the weights.

    Raises:
        OutputFolderError: They were altered.
    """
    kept = path / f"{name}.json"
    if kept.exists() and _parsed(kept, dict).get("weights_sha256") != found:
        raise OutputFolderError(
            f"the weights in {path / name} were altered since this run trained them: bring the former file back, or "
            "choose another output_dir."
        )


def refuse_other_training(
    path: Path,
    training: dict[str, Any],
    facts: dict[str, Any] | None = None,
    fingerprints: dict[str, str | None] | None = None,
) -> None:
    """Refuses the original of a run that was not trained as it would be now.

    Args:
        path: The run's folder.
        training: What has to be equal, of the identity of both.
        facts: What has to be equal beyond that, of what was kept of the original; None = not looked at yet.
        fingerprints: Of the data now, by what they are for; those that train or choose weights have to be equal.

    Raises:
        OutputFolderError: There is no original, or data or settings were others.
    """
    if not all((path / name).exists() for name in ("original", "original.json", _IDENTITY, _DATA)):
        raise OutputFolderError(
            f"original_from: {path} holds no original that a run has trained: give the output_dir of a run with a "
            "train section, with the same seeds and folds."
        )
    identity, kept, data = (_parsed(path / name, dict) for name in (_IDENTITY, "original.json", _DATA))
    lines = _differences({key: identity.get(key) for key in training}, training)
    lines += _differences({key: kept.get(key, value) for key, value in (facts or {}).items()}, facts or {})
    lines += [
        f"  the data behind {name!r} are others"
        for name in ("train", "evaluate validation")
        if fingerprints is not None and data.get(name) != fingerprints.get(name)
    ]
    if lines:
        raise OutputFolderError(
            f"original_from: the original in {path} was trained otherwise:\n" + "\n".join(lines) + "\n"
            "Restore that, or leave original_from out to train one."
        )


def _refuse_other(path: Path, known: dict[str, Any], wanted: dict[str, Any]) -> None:
    lines = _differences(known, wanted)
    if lines:
        raise OutputFolderError(
            f"output folder {path} was made by another recipe; these keys differ:\n" + "\n".join(lines) + "\n"
            "Choose another output_dir, or restore the keys to continue that run."
        )


def _differences(known: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """A line for each key of two identities that is not the same."""
    before, now = _flat(known), _flat(json.loads(json.dumps(wanted)))
    differing = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    return [f"  {key}: {before.get(key, 'absent')!r} there, {now.get(key, 'absent')!r} here" for key in differing]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}{key}.").items()}
    return {prefix[:-1]: value}
