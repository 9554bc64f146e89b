"""How much work a race saves, and how often it finds what the full sample finds, over many orders of the data.

    python benchmarks/racing.py --checkpoint checkpoints/resnet56 --data ../shared/data/cifar10 --name racing_resnet56

Representations with and without each candidate are computed once for every example; then the race itself (the code
of `score_blocks`, on measurements that are these instead of running the network) is run on them once a seed, each in
its own random order. Block evaluations are counted as the sweep would make them.
"""

import argparse
import math
import multiprocessing
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import write_result
from torch import Tensor

from har_prune.blocks.find import find_blocks
from har_prune.checkpoints.load import Checkpoint
from har_prune.data.batches import make_loader, preprocess_for
from har_prune.data.config import DataConfig
from har_prune.data.load import load_data
from har_prune.data.protocols import make_splits
from har_prune.pruning.config import PruneSettings
from har_prune.pruning.plan import candidates
from har_prune.recipe.accelerator import make_accelerator
from har_prune.recipe.original import load_original
from har_prune.runtime.progress import Progress
from har_prune.scoring.aggregate import Aggregate
from har_prune.scoring.config import RaceConfig, ScoringConfig
from har_prune.scoring.criteria.base import Task, make_criterion
from har_prune.scoring.measure import Measurer
from har_prune.scoring.measurements import Measurements
from har_prune.scoring.race import run_race

SETTINGS = [(0.95, 1e-3), (0.99, 1e-3), (0.99, 8e-4)]  # confidence, tie margin


class Stored:
    """Stands for a `Measurer`: hands out stored representations, and counts the blocks they would have cost.

    A batch is {"rows": indices}.
    """

    accelerator = None

    def __init__(self, features: Tensor, all_candidates: list[int], depth: int):
        self.features, self.all, self.depth = features, all_candidates, depth
        self.candidates, self.block_evaluations, self.samples = list(all_candidates), 0, 0

    def measurements(self, rows: Tensor, positions: Tensor) -> Measurements:
        places = [self.all.index(index) + 1 for index in self.candidates]
        whole, without = self.features[:1, rows], self.features[places][:, rows]
        return Measurements(tuple(self.candidates), whole, without, positions=positions)

    def measure(self, batches: Iterable[dict[str, Tensor]]) -> Iterator[Measurements]:
        for batch in batches:
            rows = batch["rows"]
            positions = torch.arange(self.samples, self.samples + len(rows))
            self.samples += len(rows)
            self.block_evaluations += len(rows) * cost(self.depth, self.candidates)
            yield self.measurements(rows, positions)

    def drop(self, blocks: set[int]) -> None:
        self.candidates = [index for index in self.candidates if index not in blocks]


def started(model: Any, stored: Stored, config: ScoringConfig) -> Aggregate:
    """An aggregate for stored representations."""
    aggregate = Aggregate(["cka"], find_blocks(model), stored.all, config)
    aggregate.start(stored.measurements(torch.arange(2), torch.arange(2)))
    return aggregate


def cost(depth: int, left: list[int]) -> int:
    """Block evaluations of a sweep over one example."""
    return depth + sum(depth - index - 1 for index in left)


def extracted(model: Any, batches: Iterable[Any], chosen: list[int], rows: int, cache: Path) -> Tensor:
    """Representations [C + 1, N, D] of all examples, the whole network first."""
    if cache.exists():
        return torch.load(cache)
    progress = Progress("features", rows // 64)
    stream = iter(progress.counting(batches))
    first = next(stream)
    criteria = {"cka": make_criterion("cka", Task([]))}
    measurer = Measurer(find_blocks(model), chosen, criteria, first, ScoringConfig(), accelerator=make_accelerator())
    features, done = None, 0
    for measurements in measurer.measure(chain([first], stream)):
        both = torch.cat([measurements.reference, measurements.without])
        features = torch.empty((len(both), rows, both.shape[2])) if features is None else features
        features[:, measurements.positions] = both
        done += len(measurements)
    measurer.close()
    assert features is not None
    assert done == rows
    cache.parent.mkdir(parents=True, exist_ok=True)
    torch.save(features, cache)
    return features


def races(model: Any, features: Tensor, chosen: list[int], depth: int, seeds: int) -> Iterator[dict[str, Any]]:
    """One row for each setting."""
    count = features.shape[1]
    everything = Stored(features, chosen, depth)
    aggregate = started(model, everything, ScoringConfig())
    for measurements in everything.measure({"rows": part} for part in torch.arange(count).split(512)):
        aggregate.add(measurements)
    truth = {score.index: score.importance for score in aggregate.scores(aggregate.joined(None), count)["cka"]}
    best = min(truth, key=lambda index: truth[index])
    print("full sample:", {index: round(value, 6) for index, value in sorted(truth.items(), key=lambda kv: kv[1])})
    whole = count * cost(depth, chosen)
    _SHARED.update(model=model, features=features, chosen=chosen, depth=depth)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        for confidence, margin in SETTINGS:
            config = RaceConfig(confidence=confidence, tie_margin=margin)
            runs = list(pool.map(one_race, range(seeds), repeat(config)))
            found, work = [run["winner"] for run in runs], [run["block_evaluations"] for run in runs]
            row = {
                "confidence": confidence,
                "tie_margin": margin,
                "seeds": seeds,
                "same block %": 100 * sum(index == best for index in found) / seeds,
                "within the margin %": 100 * sum(truth[index] - truth[best] <= margin for index in found) / seeds,
                "fewer block evaluations, mean": round(whole / statistics.mean(work), 1),
                "least": round(whole / max(work), 1),
                "samples, median": statistics.median(run["samples"] for run in runs),
                "ended": dict(Counter(run["ended"] for run in runs)),
            }
            print(row, flush=True)
            yield row


_SHARED: dict[str, Any] = {}  # what forked processes read


def one_race(seed: int, race: RaceConfig) -> dict[str, Any]:
    """A race over one random order of the data."""
    features = _SHARED["features"]
    order = torch.from_numpy(np.random.default_rng(seed).permutation(features.shape[1]))
    stored = Stored(features, _SHARED["chosen"], _SHARED["depth"])
    looks, sizes = float(race.first), [race.first]
    while sum(sizes) < len(order):
        looks *= race.growth
        sizes.append(min(len(order), math.ceil(looks)) - sum(sizes))
    aggregate = started(_SHARED["model"], stored, ScoringConfig(race=race))
    scores, ended = run_race(stored, aggregate, [{"rows": part} for part in order.split(sizes)], race)
    left = [score for score in scores["cka"] if score.index in ended.tied]
    winner = min(left, key=lambda score: (score.importance, score.index)).index
    return {
        "winner": winner,
        "ended": ended.ended,
        "samples": stored.samples,
        "block_evaluations": stored.block_evaluations,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--test-subject", action="append", default=[])
    parser.add_argument("--guards", default="default", choices=["default", "paper"])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--name", required=True, help="of the result, and of the kept features")
    parser.add_argument("--cache", type=Path, default=Path("runs/benchmarks"))
    arguments = parser.parse_args()
    data = load_data(arguments.data)
    protocol = "holdout" if arguments.test_subject else "official"
    config = DataConfig(
        name_or_path=arguments.data, protocol=protocol, test_subjects=tuple(arguments.test_subject),
        validation_fraction=0.1,
    )  # fmt: skip
    splits = make_splits(data, config, 0)
    rows = np.sort(np.concatenate([splits.train, splits.validation]))  # everything but the test
    model, processor = load_original(Checkpoint(arguments.checkpoint), data)
    stack = find_blocks(model)
    chosen = candidates(stack, PruneSettings(target={"blocks": 1}, guards=arguments.guards), set())
    batches = make_loader(data, rows, preprocess_for(data, processor, arguments.checkpoint), 64)
    with torch.no_grad():
        features = extracted(model, batches, chosen, len(rows), arguments.cache / f"{arguments.name}.pt")
        torch.set_num_threads(1)  # small matrices
        table = list(races(model, features, chosen, len(stack), arguments.seeds))
    facts = {
        "examples": len(rows),
        "candidates": len(chosen),
        "full sweep, block evaluations": len(rows) * cost(len(stack), chosen),
    }
    write_result(arguments.name, "Racing against the full sample", facts, table)


if __name__ == "__main__":
    main()
