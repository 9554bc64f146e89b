"""Corrupted and attacked data, networks side by side: the paper's figure 4, for whatever checkpoints there are.

    python benchmarks/robustness.py resnet56 ../shared/data/cifar10 original=checkpoints/resnet56 \
        --robustness corruptions --robustness fgsm --severity 1 --severity 3 --severity 5 --samples 500

The first network is the one the others are compared with; corruption errors are relative to it.
"""

import argparse
from pathlib import Path

from measuring import write_result

from har_prune.checkpoints.load import Checkpoint
from har_prune.data.batches import make_loader
from har_prune.data.config import DataConfig
from har_prune.evaluation.config import RobustnessConfig
from har_prune.evaluation.robustness.measure import measure_robustness
from har_prune.recipe.accelerator import make_accelerator
from har_prune.recipe.prepare import prepared_for
from har_prune.reporting.robustness import compared


def main() -> None:
    """Writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("data")
    parser.add_argument("networks", nargs="+", help="label=checkpoint")
    parser.add_argument("--robustness", action="append", required=True)
    parser.add_argument("--severity", action="append", type=int)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--test-subject", action="append", default=[])
    given = parser.parse_args()
    config = RobustnessConfig(
        names=tuple(given.robustness), severities=tuple(given.severity or (1, 2, 3, 4, 5)), samples=given.samples
    )
    data = DataConfig(
        name_or_path=given.data, protocol="holdout" if given.test_subject else "official",
        test_subjects=tuple(given.test_subject),
    )  # fmt: skip
    accelerator, measured = make_accelerator(), {}
    for network in given.networks:
        label, _, checkpoint = network.partition("=")
        made = prepared_for(Checkpoint(checkpoint, None, False), data, seed=0)
        loader = make_loader(made.data, made.splits.test, made.preprocess, 64)
        measured[label] = measure_robustness(made.model, loader, config, accelerator)
    table = [
        {
            "accuracy %, mean over severities": row.title,
            **{
                label: "-" if value is None else f"{value:.2f}"
                for label, value in zip(measured, row.values, strict=True)
            },
        }
        for row in compared(measured)
    ]
    first = next(iter(measured.values()))
    facts = {
        "examples": first.samples,
        "severities": ", ".join(map(str, config.severities)),
        "seed": config.seed,
        "data": Path(given.data).name + "".join(f", {subject} tests" for subject in given.test_subject),
    }
    write_result(f"robustness_{given.name}", "Robustness: corrupted and attacked data", facts, table)


if __name__ == "__main__":
    main()
