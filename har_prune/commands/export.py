"""`har-prune export`: a file for a device's runtime, kept only when that runtime gives the same answers."""

import warnings
from pathlib import Path
from typing import Annotated

import typer

from har_prune.commands.options import (
    DataRevision,
    DataSettings,
    DataSubset,
    Rename,
    Revision,
    TestSubject,
    Trust,
    data_config,
)


def export(
    checkpoint: Annotated[str, typer.Argument(help="Folder or Hub id of a classifier.")],
    settings: DataSettings = None,
    format: Annotated[str, typer.Option(help="onnx or executorch.")] = "onnx",
    data: Annotated[
        str | None, typer.Option(help="Data whose test examples are compared as well; folder or Hub id.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Of these examples, at most.")] = 256,
    int8: Annotated[
        bool, typer.Option("--int8", help="8-bit integers; validation examples of --data set the ranges.")
    ] = False,
    max_drop: Annotated[float, typer.Option(help="Accuracy that --int8 may lose on test examples.")] = 0.01,
    hop_s: Annotated[
        float | None, typer.Option(help="Seconds between windows, for the record. [half a window]")
    ] = None,
    test_subject: TestSubject = None,
    rename_channel: Rename = None,
    revision: Revision = None,
    data_revision: DataRevision = None,
    data_subset: DataSubset = None,
    trust_remote_code: Trust = False,
    output: Annotated[Path | None, typer.Option(help="Folder to write. [beside the checkpoint: FORMAT]")] = None,
) -> None:
    """Exports a classifier with its normalisation, mask and softmax to ONNX or ExecuTorch, and compares."""
    import torch

    from har_prune.checkpoints.load import Checkpoint
    from har_prune.exporters.deployed import load_classifier, raw_inputs
    from har_prune.exporters.export import Quantization, export_model, format_of
    from har_prune.recipe.original import class_rows
    from har_prune.recipe.prepare import drawn, prepared_for, warn_of_test
    from har_prune.runtime.console import say

    if int8 and data is None:
        raise typer.BadParameter("--int8 needs --data: its ranges and its accuracy are measured on examples")
    if settings and data is None:
        raise typer.BadParameter(f"{settings[0]!r} needs --data")
    format_of(format)  # what is not there is said before anything is loaded
    source = Checkpoint(checkpoint, revision, trust_remote_code)
    real, quantization = [], None
    if data is None:
        model, processor = load_classifier(source)
    else:
        config = data_config(data, data_subset, data_revision, test_subject, rename_channel, settings)
        with warnings.catch_warnings():  # of classes that the data lack: they stay in what is exported
            warnings.filterwarnings("ignore", "the checkpoint tells .* leave its head")
            made = prepared_for(source, config, 0)
        model, processor = made.model, made.processor
        whole = load_classifier(source)
        if whole[0].config.num_labels != model.config.num_labels:
            model, processor = whole
        # Drawn: the first of them are one person's first activity.
        rows = {"calibration": made.calibration_rows(samples, 0), "test": drawn(made.splits.test, samples, 0)}
        raw = {name: raw_inputs(made.preprocess(made.data.raw(some)), processor) for name, some in rows.items()}
        real = [raw["test"]]
        if int8 and made.data.labels is not None:  # texts without are of no classifier, and refused below
            warn_of_test(source, config)
            places = torch.as_tensor(class_rows(model, made.data.label_names))
            labels = places[torch.as_tensor(made.data.labels[rows["test"]])]
            quantization = Quantization(raw["calibration"], (raw["test"], labels), max_drop)
    folder = Path(checkpoint)
    beside = folder.parent / format if folder.is_dir() else Path(format)
    found = export_model(model, processor, output or beside, format, real=real, hop_s=hop_s, int8=quantization)
    say(f"{output or beside}/{found.file}: {found.size_bytes / 1024:,.1f} KiB")
    exact = found.difference if found.float32_difference is None else found.float32_difference
    kinds = f" on {len(found.cases)} kinds of input" if found.float32_difference is None else ", in float32"
    say(f"same answers as the saved model{kinds}; largest difference of a logit {exact:.1e}")
    if found.int8_accuracy is not None and found.accuracy is not None:
        say(
            f"in 8-bit integers: accuracy {found.int8_accuracy:.4f} on {len(rows['test'])} test examples, in float32 "
            f"{found.accuracy:.4f}; largest difference of a logit {found.difference:.1e}"
        )
    say(f"one example on one thread: {found.latency_ms:.2f} ms; the saved model, in turns: {found.torch_ms:.2f} ms")
