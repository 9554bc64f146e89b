"""export_model: a file for a runtime, kept only when that runtime gives what the saved model gives."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from har_prune.errors import DataError, ExportError, OutputFolderError
from har_prune.exporters.deployed import FLOAT_ALONE, Arrays, Deployed, deployed
from har_prune.runtime.environment import environment
from har_prune.runtime.files import whole_folder, write_json
from har_prune.runtime.timing import medians_in_turns

TOLERANCE = 1e-4  # of logits, or of the largest one where that is above 1
_RECORD = "export.json"
FORMATS = {"onnx": ".onnx", "executorch": ".pte"}  # and the suffix of their files


@dataclass(frozen=True)
class Quantization:
    """8-bit integers for weights and activations of an export.

    Args:
        calibration: Inputs of the exported network by name, whose activations set the ranges; not of the test data.
        evaluation: Inputs and labels [N] that its accuracy is measured on.
        max_drop: Most accuracy that it may lose, as a share in [0, 1].
    """

    calibration: Mapping[str, Tensor]
    evaluation: tuple[Mapping[str, Tensor], Tensor]
    max_drop: float = 0.01


class Format(Protocol):
    """How a network becomes a file of some format, and how that file is run.

    Attributes:
        suffix: Of the file.
    """

    suffix: str

    def write(self, made: Deployed, path: Path) -> bool:
        """Writes the file; whether it takes examples of any length in `made.lengths`."""

    def quantize(self, made: Deployed, path: Path, calibration: Arrays) -> None:
        """Makes the file compute in 8-bit integers, with ranges from calibration data.

        Raises:
            ExportError: The network cannot be quantized.
        """

    def load(self, path: Path) -> Callable[[Arrays], tuple[np.ndarray, np.ndarray]]:
        """A function that runs the file: inputs by name -> (logits, probabilities)."""


@dataclass(frozen=True)
class Export:
    """What an export is, and how it compares with the saved model.

    Args:
        file: Its name.
        format: "onnx" or "executorch".
        size_bytes: Of the file.
        difference: Largest difference of a logit, over all cases, between the file that is kept and the saved model.
        cases: {what is special about some inputs: largest difference of a logit}.
        latency_ms: Median time of one example in its own runtime, on one thread.
        torch_ms: Of the saved model, in turns with it.
        facts: What whoever uses it has to know.
        accuracy: Of the saved model on the evaluation data; None where it is not quantized.
        int8_accuracy: Of the file there; likewise.
        float32_difference: What `difference` was before the file was quantized; likewise.
        lengths: Fewest and most samples or tokens that an example may have; None = only those of `facts`, for
            which alone 8 bits are judged.
    """

    file: str
    format: str
    size_bytes: int
    difference: float
    cases: dict[str, float]
    latency_ms: float
    torch_ms: float
    facts: dict[str, Any]
    accuracy: float | None = None
    int8_accuracy: float | None = None
    float32_difference: float | None = None
    lengths: tuple[int, int] | None = None


def export_model(
    model: PreTrainedModel,
    processor: Any,
    directory: str | Path,
    format: str = "onnx",
    *,
    real: Iterable[Mapping[str, Tensor]] = (),
    hop_s: float | None = None,
    int8: Quantization | None = None,
) -> Export:
    """Exports a classifier into a folder: the file, and `export.json` with what it is.

    What prepares inputs (normalisation, mask) and softmax are in the file. It is run by its own runtime on made-up
    and special inputs, and on real ones where there are some, before the folder appears.

    Args:
        model: A classifier of sensor windows, images or texts.
        processor: Its feature extractor, image processor or tokenizer.
        directory: Where to; must not exist or be empty.
        format: "onnx" or "executorch".
        real: Inputs of the exported network by name, e.g. {"windows": [N, T, C], "mask": [N, T]}, to compare on.
        hop_s: Seconds between the starts of two windows, for the record; None = half a window.
        int8: How to quantize what was compared, and on what to measure what that costs; None = it stays float32.

    Returns:
        What was exported.

    Raises:
        ExportError: The format is unknown or not installed, its runtime gives something else, or 8 bits lose more
            accuracy than they may. Nothing is left.
        OutputFolderError: The folder is not empty.
    """
    how = format_of(format)
    was_training, device = model.training, model.device
    model.eval().to("cpu")
    try:
        made = deployed(model, processor, hop_s)
        with whole_folder(Path(directory)) as folder:
            path = folder / f"model{how.suffix}"
            any_length = how.write(made, path)
            run = how.load(path)
            cases = made.cases(any_length=any_length)
            cases |= {f"real {number}": dict(some) for number, some in enumerate(real)}
            differences = {name: _difference(name, made, run, inputs) for name, inputs in cases.items()}
            quantized: tuple[float | None, float | None, float | None] = (None, None, None)
            if int8 is not None:
                how.quantize(made, path, {name: value.numpy() for name, value in int8.calibration.items()})
                run = how.load(path)
                quantized = (*_accuracies(made, run, int8), max(differences.values()))
                whole = {name: cases[name] for name in cases if name not in FLOAT_ALONE}
                differences = {name: _difference(name, made, run, inputs, np.inf) for name, inputs in whole.items()}
            latency_ms, torch_ms = _timed(made, run)
            found = Export(
                path.name, format, path.stat().st_size, max(differences.values()), differences, latency_ms, torch_ms,
                made.facts, *quantized, made.lengths if any_length and int8 is None else None,
            )  # fmt: skip
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            write_json(folder / _RECORD, {**asdict(found), "sha256": digest, "environment": environment()})
    except FileExistsError as error:
        raise OutputFolderError(f"{error}: choose another directory, or remove it first.") from error
    finally:
        model.train(was_training).to(device)
    return found


def facts_beside(path: Path) -> dict[str, Any]:
    """What whoever uses an exported file has to know, from the record beside it.

    Raises:
        DataError: File or record is missing, damaged, or they are of two exports.
    """
    record = path.with_name(_RECORD)
    if not (path.is_file() and record.is_file()):
        raise DataError(f"{path}: an export is a file with its {_RECORD} beside it, and one is missing.")
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
        facts, digest = known["facts"], known.get("sha256")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{record} is no record of an export ({type(error).__name__}: {error}).") from error
    if digest not in (None, hashlib.sha256(path.read_bytes()).hexdigest()):
        raise DataError(f"{path} is not the file that {_RECORD} beside it is of: it is damaged, or of another export.")
    return facts


def format_of(name: str) -> Format:
    """A format by its name.

    Raises:
        ExportError: There is none of that name, or what it needs is not installed.
    """
    if name == "onnx":
        from har_prune.exporters.onnx_file import OnnxFormat

        return OnnxFormat()
    if name == "executorch":
        from har_prune.exporters.executorch_file import ExecutorchFormat

        return ExecutorchFormat()
    raise ExportError(f"format {name!r}: choose onnx or executorch.")


@torch.no_grad()
def _difference(
    name: str, made: Deployed, run: Callable, inputs: Mapping[str, Tensor], tolerance: float = TOLERANCE
) -> float:
    """Largest difference of a logit between the two.

    Raises:
        ExportError: It is too large or no number, a probability is off, or the file does not run.
    """
    expected, chances = (values.numpy() for values in made.network(**inputs))
    try:
        logits, probabilities = run({key: value.numpy() for key, value in inputs.items()})
    except Exception as error:  # each runtime has classes of its own
        raise ExportError(
            f"the export's own runtime cannot run it on {name!r} inputs ({error}): nothing was kept."
        ) from error
    allowed = tolerance * max(1.0, float(np.abs(expected).max()))
    if logits.shape != expected.shape or probabilities.shape != chances.shape:
        raise ExportError(
            f"the export gives logits of shape {logits.shape} on {name!r} inputs, the model {expected.shape}: nothing "
            "was kept."
        )
    found = float(np.abs(logits - expected).max())
    if not (np.isfinite(found) and found <= allowed and np.abs(probabilities - chances).max() <= tolerance):
        raise ExportError(
            f"the export differs from the saved model by {found:.1e} in a logit on {name!r} inputs (allowed "
            f"{allowed:.0e}), by its own runtime: nothing was kept."
        )
    return found


@torch.no_grad()
def _accuracies(made: Deployed, run: Callable, int8: Quantization) -> tuple[float, float]:
    """Accuracy of the model and of the quantized file.

    Raises:
        ExportError: It loses more than it may.
    """
    inputs, labels = int8.evaluation
    expected = made.network(**inputs)[0].argmax(-1).numpy()
    found = run({name: value.numpy() for name, value in inputs.items()})[0].argmax(-1)
    before, after = (float((chosen == labels.numpy()).mean()) for chosen in (expected, found))
    if not before - after <= int8.max_drop:  # which NaN never is
        raise ExportError(
            f"in 8-bit integers the accuracy falls from {before:.4f} to {after:.4f} on {len(labels)} examples "
            f"(allowed {int8.max_drop:g}): nothing was kept. Export float32, or allow more."
        )
    return before, after


@torch.no_grad()
def _timed(made: Deployed, run: Callable) -> tuple[float, float]:
    """Median milliseconds of one example: of the file, and of the model, in turns on one thread."""
    one = {key: value[:1] for key, value in made.example.items()}
    arrays = {key: value.numpy() for key, value in one.items()}
    found = medians_in_turns({"file": lambda: run(arrays), "model": lambda: made.network(**one)})
    return found["file"], found["model"]
