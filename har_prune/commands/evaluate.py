"""`har-prune evaluate`: how well any checkpoint does, what it costs, and how robust it is."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from har_prune.commands.options import (
    Data,
    DataRevision,
    DataSettings,
    DataSubset,
    NumThreads,
    Rename,
    Revision,
    TestSubject,
    Trust,
    data_config,
)
from har_prune.commands.run import Plugins


def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="Folder or Hub id of a classifier or language model.")],
    data: Data,
    settings: DataSettings = None,
    robustness: Annotated[
        list[str] | None,
        typer.Option(
            help="A corruption, 'corruptions' for all of this kind of data, 'extra_corruptions', fgsm, pgd, "
            "npy:FOLDER (CIFAR-10-C) or data:ID (another data set). Repeatable."
        ),
    ] = None,
    severity: Annotated[list[int] | None, typer.Option(help="1 to 5; repeatable. [all]")] = None,
    samples: Annotated[int | None, typer.Option(help="Examples for robustness. [all that test]")] = None,
    energy: Annotated[bool, typer.Option("--energy", help="Estimate the energy with codecarbon.")] = False,
    original: Annotated[
        str | None, typer.Option(help="Another checkpoint to compare with: latency in turns, corruption error.")
    ] = None,
    test_subject: TestSubject = None,
    rename_channel: Rename = None,
    revision: Revision = None,
    data_revision: DataRevision = None,
    data_subset: DataSubset = None,
    trust_remote_code: Trust = False,
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    num_threads: NumThreads = None,
    seed: Annotated[int, typer.Option(min=0, help="Of corruptions and of the draw of examples.")] = 0,
    plugin: Plugins = None,
    output: Annotated[Path, typer.Option(help="Folder for evaluation.json.")] = Path("evaluation"),
) -> None:
    """Evaluates a checkpoint on the part of the data that tests: metrics, cost, calibration, robustness."""
    from har_prune.checkpoints.load import Checkpoint
    from har_prune.data.batches import make_loader
    from har_prune.errors import OutputFolderError
    from har_prune.evaluation.config import EvaluateConfig
    from har_prune.evaluation.cost import measure_cost
    from har_prune.evaluation.macs import macs_by_module
    from har_prune.evaluation.measurement import Network, check_all, measure_all
    from har_prune.evaluation.metrics import evaluate_model
    from har_prune.recipe.accelerator import make_accelerator
    from har_prune.recipe.load import load_plugins
    from har_prune.recipe.prepare import prepared_for, warn_of_test
    from har_prune.reporting.evaluation import modules_table, network_table, robustness_tables
    from har_prune.runtime.console import Console, say
    from har_prune.runtime.environment import environment
    from har_prune.runtime.files import write_json

    if (severity or samples) and not robustness:
        raise typer.BadParameter("--severity and --samples go with --robustness")
    if output.exists() and not output.is_dir():
        raise OutputFolderError(f"{output} is a file: --output names a folder.")
    load_plugins(plugin or ())
    asked = {"names": robustness, "severities": severity, "samples": samples, "seed": seed} if robustness else None
    config = EvaluateConfig.model_validate({
        "energy": energy,
        "robustness": asked and {key: value for key, value in asked.items() if value is not None},
    })  # fmt: skip
    accelerator = make_accelerator(num_threads=num_threads)
    config_of_data = data_config(data, data_subset, data_revision, test_subject, rename_channel, settings, batch_size)
    sources = {checkpoint: Checkpoint(checkpoint, revision, trust_remote_code)}
    if original is not None:  # each prepares the data in its own way
        name = original if original != checkpoint else f"{original} (original)"
        sources = {name: Checkpoint(original, None, trust_remote_code), **sources}
    networks = {}
    for name, source in sources.items():
        networks[name] = prepared_for(source, config_of_data, seed)
        warn_of_test(source, config_of_data)
    sets = {
        name: {"test": make_loader(made.data, made.splits.test, made.preprocess, batch_size)}
        for name, made in networks.items()
    }
    for data_sets in sets.values():
        check_all(config, data_sets)
    first = next(iter(networks.values())).model
    record, found = {}, {}
    for name, made in networks.items():
        metrics = evaluate_model(made.model, sets[name]["test"], accelerator)
        alike = first if _takes(first, made.one_example) else None
        cost = measure_cost(made.model, made.one_example, original=alike)
        network = Network(made.model, first, made.one_example, sets[name], config, accelerator)
        found[name] = (metrics, cost, measure_all(network))
        record[name] = {
            "metrics": asdict(metrics),
            "cost": asdict(cost),
            **{kind: asdict(value) for kind, value in found[name][2].items()},
        }
    if not accelerator.is_main_process:
        return
    parts = macs_by_module(made.model, made.one_example, made.stack.names)
    output.mkdir(parents=True, exist_ok=True)
    write_json(
        output / "evaluation.json",
        {"data": data, "environment": environment(), "networks": record, "macs_by_module": parts},
    )
    Console().print(modules_table(made.model, parts), network_table(found), *robustness_tables(found))
    say(f"Figures: {output / 'evaluation.json'}")


def _takes(model: Any, example_inputs: dict[str, Any]) -> bool:
    """Whether a network runs on another one's example: only then do the two take turns in one measurement of time."""
    from har_prune.errors import CheckpointError
    from har_prune.recipe.prepare import try_on

    try:
        try_on(model, example_inputs)
    except CheckpointError:
        return False
    return True
