"""Measures a network on corrupted, attacked and other data."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
from accelerate import Accelerator
from transformers import PreTrainedModel

from har_prune.data.batches import LabelledLoader, SensorInputs, make_loader, preprocess_for
from har_prune.data.load import LabelledData, load_data
from har_prune.errors import DataError, DivergedError
from har_prune.evaluation.config import EvaluateConfig, RobustnessConfig
from har_prune.evaluation.measurement import Network, register_measurement
from har_prune.evaluation.metrics import EvalMetrics, evaluate_model
from har_prune.evaluation.robustness.attacks import ATTACKS, EPSILONS, Attack, AttackedBatches, PixelScale
from har_prune.evaluation.robustness.registry import Corruption, Sensor, corruptions_for
from har_prune.runtime.progress import Progress

_PUBLISHED, _OTHER = "npy:", "data:"
_LABELS = "labels"  # .npy beside the corrupted images of CIFAR-10-C
Sort = Literal["corruption", "attack", "data"]


@register_measurement("robustness")
@dataclass(frozen=True)
class Robustness:
    """How a network does on data that are worse than, or other than, those it was tested on.

    Args:
        split: Of the data it starts from.
        samples: Examples.
        seed: Of corruptions and of the draw of examples.
        accuracy: On the same examples as they are, in [0, 1].
        calibration_error: On the same examples as they are (see `EvalMetrics`), in [0, 1].
        results: By name: `sort` ("corruption", "attack" or "data"), and lists of `severities`, `accuracy` and
            `calibration_error`, one entry a severity; another data set has the severity 0.
    """

    split: str
    samples: int
    seed: int
    accuracy: float
    calibration_error: float
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def figures(self) -> dict[str, float]:
        """Mean accuracy over corruptions and severities, and over attacks."""
        means = {"corrupted": self._mean("corruption"), "attacked": self._mean("attack"), "other": self._mean("data")}
        return {f"{name} accuracy %": 100 * mean for name, mean in means.items() if mean is not None}

    def _mean(self, sort: Sort) -> float | None:
        found = [fmean(result["accuracy"]) for result in self.results.values() if result["sort"] == sort]
        return fmean(found) if found else None

    @classmethod
    def check(cls, config: EvaluateConfig, data: Mapping[str, Any]) -> None:
        """Refuses what cannot be measured, before anything is trained."""
        if config.robustness is not None:
            _trials(config.robustness, _readable(data[_split(data)]))

    @classmethod
    def measure(cls, network: Network) -> "Robustness | None":
        """Measures the networks that are worth it: those that have been healed, where there is healing."""
        config = network.config.robustness
        if config is None or not network.is_healed:
            return None
        split = _split(network.data)
        return measure_robustness(network.model, network.data[split], config, network.accelerator, split=split)


def measure_robustness(
    model: PreTrainedModel,
    loader: Iterable[Mapping[str, Any]],
    config: RobustnessConfig,
    accelerator: Accelerator | None = None,
    *,
    split: str = "test",
) -> Robustness:
    """Classifies corrupted, attacked and other examples.

    Every figure follows from the seed alone: an example is corrupted the same way whatever its batch is, and whoever
    works on it. Attacks use the gradients of `model` itself.

    Args:
        model: A classifier.
        loader: Examples as they are, from `make_loader`: corruptions start from raw images, windows and texts.
        config: What to measure.
        accelerator: See `evaluate_model`.
        split: What the examples are called in the record.

    Raises:
        DataError: A name is unknown or for another kind of data, the batches cannot be made anew from raw examples,
            or another data set has other classes.
    """
    source = _sampled(_readable(loader), config)
    clean = _finite(evaluate_model(model, source, accelerator), "the examples as they are")
    results: dict[str, dict[str, Any]] = {}
    trials = _trials(config, source)
    bar = Progress("robustness", len(trials), accelerator)
    for trial in bar.counting(trials):
        bar.note(trial.name)
        found = _finite(evaluate_model(model, trial.batches(model), accelerator), trial.name)
        empty: dict[str, Any] = {"sort": trial.sort, "severities": [], "accuracy": [], "calibration_error": []}
        row = results.setdefault(trial.name, empty)
        row["severities"].append(trial.severity)
        row["accuracy"].append(found.accuracy)
        row["calibration_error"].append(found.calibration_error)
    bar.close()
    return Robustness(split, clean.samples, config.seed, clean.accuracy, clean.calibration_error or 0.0, results)


def _finite(found: EvalMetrics, what: str) -> EvalMetrics:
    if not math.isfinite(found.loss):
        raise DivergedError(f"robustness: outputs on {what} are not finite.")
    return found


def corruption_error(measured: Robustness, original: Robustness) -> float | None:
    """Mean corruption error relative to the original network, in %: 100 = errs as often as that.

    Source: Hendrycks & Dietterich 2019, arXiv:1903.12261, section 4.2, with the original in AlexNet's place.

    Args:
        measured: Of a network.
        original: Of the network it came from, on the same examples.

    Returns:
        The mean, over all corruptions that were measured of both, of its errors summed over severities, over those
        of the original; None where there are none, or one on which only this network errs.
    """
    ratios = []
    for name, row in measured.results.items():
        known = original.results.get(name)
        if row["sort"] != "corruption" or known is None or known["severities"] != row["severities"]:
            continue
        errors, wanted = (sum(1 - value for value in each["accuracy"]) for each in (row, known))
        if wanted == 0 and errors > 0:
            return None
        ratios += [errors / wanted] if wanted else []
    return 100 * fmean(ratios) if ratios else None


@dataclass(frozen=True)
class _Trial:
    """One evaluation: under which name it is kept, and the batches of it for a network."""

    name: str
    sort: Sort
    severity: int
    batches: Callable[[PreTrainedModel], Iterable[Mapping[str, Any]]]


def _trials(config: RobustnessConfig, source: LabelledLoader) -> list[_Trial]:
    """Everything a config asks for; what cannot be measured is refused here."""
    found = [trial for name in config.names for trial in _named(name, config, source)]
    counts = Counter((trial.name, trial.severity) for trial in found)
    twice = {name for (name, _), count in counts.items() if count > 1}
    if twice:
        raise DataError(f"robustness asks twice for {', '.join(sorted(twice))}: name each once.")
    if not found:
        raise DataError(
            f"robustness: none of {', '.join(config.names)} has one of the severities {config.severities}."
        )
    return found


def _named(name: str, config: RobustnessConfig, source: LabelledLoader) -> Iterator[_Trial]:
    if name in ATTACKS:
        scale = _pixel_scale(name, source)
        for severity in config.severities:
            batches = partial(_attacked, source, ATTACKS[name], severity, scale, config.seed)
            yield _Trial(name, "attack", severity, batches)
    elif name.startswith(_PUBLISHED):
        for title, severity, loader in _published(Path(name.removeprefix(_PUBLISHED)), config, source):
            yield _Trial(title, "corruption", severity, partial(_same, loader))
    elif name.startswith(_OTHER):
        other = name.removeprefix(_OTHER)
        # The record is published with the network: of a folder, only how it is called.
        title = f"{_OTHER}{Path(other).name}" if Path(other).exists() else name
        yield _Trial(title, "data", 0, partial(_same, _other(other, config, source)))
    else:
        for corruption in corruptions_for(source.source.data.kind, name):
            _try_out(source, corruption, config.seed)
            for severity in sorted(set(config.severities) & set(corruption.severities)):
                yield _Trial(
                    corruption.name, "corruption", severity,
                    partial(_corrupted, source, corruption, severity, config.seed),
                )  # fmt: skip


def _same(loader: LabelledLoader, model: PreTrainedModel) -> LabelledLoader:
    return loader


def _attacked(
    source: LabelledLoader, attack: Attack, severity: int, scale: PixelScale, seed: int, model: PreTrainedModel
) -> AttackedBatches:
    return AttackedBatches(model, source, attack, EPSILONS[severity - 1], scale, seed)


def _corrupted(
    source: LabelledLoader, corruption: Corruption, severity: int, seed: int, model: PreTrainedModel | None
) -> LabelledLoader:
    rows, facts = source.source, source.source.data.sensor
    sensor = None
    if corruption.kind == "sensor":
        sensor = Sensor(facts["sampling_rate_hz"], facts.get("channels") or (), facts.get("units") or ())

    def change(example: Any, row: int) -> Any:
        return corruption.applied(example, severity, seed, row, sensor)

    return make_loader(rows.data, rows.rows, source.preprocess, source.batch_size or 1, change=change)


def _try_out(source: LabelledLoader, corruption: Corruption, seed: int) -> None:
    """One example, so that what cannot be spoiled this way is refused before anything is trained."""
    rows = source.source
    one = make_loader(rows.data, rows.rows[:1], source.preprocess, 1)
    (clean,), (spoiled,) = list(one), list(_corrupted(one, corruption, corruption.severities[0], seed, None))
    for name, value in clean.items():
        if rows.data.kind != "text" and spoiled[name].shape != value.shape:
            raise DataError(
                f"corruption {corruption.name!r} makes {name} of shape {tuple(spoiled[name].shape)} out of "
                f"{tuple(value.shape)}: an example keeps its shape."
            )


def _readable(loader: Any) -> LabelledLoader:
    if not isinstance(loader, LabelledLoader):
        raise DataError(
            f"robustness needs batches that can be made anew from raw examples, and these are a "
            f"{type(loader).__name__}: use har_prune.data.batches.make_loader, a recipe, or `har-prune evaluate`."
        )
    if loader.source.data.labels is None:
        raise DataError("robustness is measured of classifiers, and these data have no classes.")
    return loader


def _sampled(source: LabelledLoader, config: RobustnessConfig) -> LabelledLoader:
    rows = source.source.rows
    if config.samples is None or config.samples >= len(rows):
        return source
    return _served(source, source.source.data, rows, config)


def _served(source: LabelledLoader, data: LabelledData, rows: np.ndarray, config: RobustnessConfig) -> LabelledLoader:
    """Batches of some rows of a data set, as many as are wanted, prepared as the source's are."""
    if config.samples is not None:
        rows = np.sort(np.random.RandomState(config.seed).permutation(rows)[: config.samples])
    preprocess = source.preprocess
    if data is not source.source.data and isinstance(preprocess, SensorInputs):
        preprocess = preprocess_for(data, preprocess.extractor, "of this run")
    return make_loader(data, rows, preprocess, source.batch_size or 1)


def _pixel_scale(name: str, source: LabelledLoader) -> PixelScale:
    limits = getattr(source.preprocess, "limits", None)
    if limits is None:
        raise DataError(f"{name} attacks images, and these are {source.source.data.kind} data: leave it out.")
    return PixelScale(*limits)


def _published(
    folder: Path, config: RobustnessConfig, source: LabelledLoader
) -> Iterator[tuple[str, int, LabelledLoader]]:
    """The published CIFAR-10-C: NAME.npy [50,000, 32, 32, 3], the severities one after the other, and labels.npy."""
    if source.source.data.kind != "image":
        raise DataError(
            f"{_PUBLISHED}{folder} has images, and these are {source.source.data.kind} data: leave it out."
        )
    labels = _array(folder / f"{_LABELS}.npy")
    if labels.ndim != 1 or not len(labels) or labels.dtype.kind not in "iu":
        raise DataError(f"{folder / _LABELS}.npy holds {labels.dtype} {labels.shape}; whole numbers [N] are wanted.")
    files = sorted(path for path in folder.glob("*.npy") if path.stem != _LABELS)
    if not files:
        raise DataError(f"{folder} has no corrupted images: NAME.npy [N, H, W, 3] beside labels.npy is wanted.")
    names = source.source.data.label_names
    for file in files:
        images = _array(file)
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or len(images) != len(labels):
            raise DataError(
                f"{file} holds {images.dtype} {images.shape}; wanted are uint8 [{len(labels)}, H, W, 3], as many "
                "images as labels.npy has labels."
            )
        if len(images) % 5 or labels.min() < 0 or labels.max() >= len(names):
            raise DataError(
                f"{folder}: 5 severities of the same images, with labels from 0 to {len(names) - 1}, are wanted."
            )
        each = len(images) // 5
        for severity in config.severities:
            part = slice((severity - 1) * each, severity * each)
            data = replace(
                source.source.data, values=images[part].transpose(0, 3, 1, 2), labels=labels[part].astype(np.int64),
                splits=np.full(each, "test"),
            )  # fmt: skip
            yield f"{file.stem} (published)", severity, _served(source, data, np.arange(each), config)


def _array(path: Path) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: {_PUBLISHED}FOLDER is where NAME.npy and labels.npy lie.") from error
    except (ValueError, EOFError) as error:
        raise DataError(
            f"{path} is no plain array, or no whole one ({error}); arrays of objects, which are pickles, are refused."
        ) from error
    if not isinstance(found, np.ndarray):
        raise DataError(f"{path} is an archive of several arrays; one array is wanted.")
    return found


def _other(name: str, config: RobustnessConfig, source: LabelledLoader) -> LabelledLoader:
    """Another data set of the same kind and classes: its test split, or all of it where there is none."""
    own, other = source.source.data, _loaded(name, _written(name))
    if other.kind != own.kind or other.labels is None:
        raise DataError(f"{_OTHER}{name} has {other.kind} data, and {own.kind} data with classes are wanted.")
    if set(other.label_names) == set(own.label_names):
        places = np.array([own.label_names.index(label) for label in other.label_names])
        other = replace(other, labels=places[other.labels], label_names=own.label_names)
    elif set(other.label_names) == {str(number) for number in range(len(own.label_names))}:
        numbers = np.array([int(label) for label in other.label_names])
        other = replace(other, labels=numbers[other.labels], label_names=own.label_names)
    else:
        raise DataError(
            f"{_OTHER}{name} has the classes {', '.join(other.label_names[:12])}, and the network tells "
            f"{', '.join(own.label_names[:12])} apart: the same names, or the numbers from 0, are wanted."
        )
    rows = np.flatnonzero(other.splits == "test")
    return _served(source, other, rows if len(rows) else np.arange(len(other)), config)


@lru_cache(maxsize=2)
def _loaded(name: str, written: float) -> LabelledData:
    """Once for all networks of a run; `written` is when a folder last was."""
    return load_data(name)


def _written(name: str) -> float:
    return max((path.stat().st_mtime for path in Path(name).rglob("*")), default=0.0)


def _split(data: Mapping[str, Any]) -> str:
    return "test" if "test" in data else "validation"
