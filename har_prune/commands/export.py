"""`har-prune export`: a file for a device's runtime, kept only when that runtime gives the same answers."""

from pathlib import Path
from typing import Annotated

import typer

from har_prune.commands.options import (
    DataRevision,
    DataSubset,
    Rename,
    Revision,
    TestSubject,
    Trust,
    data_config,
)


def export(
    checkpoint: Annotated[str, typer.Argument(help="Folder or Hub id of a classifier.")],
    format: Annotated[str, typer.Option(help="onnx or executorch.")] = "onnx",
    data: Annotated[
        str | None, typer.Option(help="Data whose test examples are compared as well; folder or Hub id.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Of these examples, at most.")] = 256,
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
    from har_prune.checkpoints.load import Checkpoint
    from har_prune.exporters.deployed import load_classifier, raw_inputs
    from har_prune.exporters.export import export_model, format_of
    from har_prune.recipe.prepare import prepared_for
    from har_prune.runtime.console import say

    if hop_s is not None and hop_s <= 0:
        raise typer.BadParameter(f"--hop-s {hop_s:g}: must be above 0")
    format_of(format)  # what is not there is said before anything is loaded
    source = Checkpoint(checkpoint, revision, trust_remote_code)
    real = []
    if data is None:
        model, processor = load_classifier(source)
    else:
        config = data_config(data, data_subset, data_revision, test_subject, rename_channel)
        made = prepared_for(source, config, 0)
        model, processor = made.model, made.processor
        rows = made.splits.test[:samples]
        real = [raw_inputs(made.preprocess(made.data.raw(rows)), processor)]
    folder = Path(checkpoint)
    beside = folder.parent / format if folder.is_dir() else Path(format)
    found = export_model(model, processor, output or beside, format, real=real, hop_s=hop_s)
    say(f"{output or beside}/{found.file}: {found.size_bytes / 1024:,.1f} KiB")
    say(
        f"same answers as the saved model on {len(found.cases)} kinds of input; largest difference of a logit "
        f"{found.difference:.1e}"
    )
    say(f"one example on one thread: {found.latency_ms:.2f} ms; the saved model, in turns: {found.torch_ms:.2f} ms")
