"""How much work a race saves, and how often it finds what the full sample finds, over many orders of the data.

    python benchmarks/racing.py --checkpoint checkpoints/resnet56 --data ../shared/data/cifar10 --name racing_resnet56

Representations with and without each candidate are computed once for every example; then the race itself (the code
of `race_blocks`, with a scorer that reads these instead of running the network) is run on them once a seed, each in
its own random order. Block evaluations are counted as the sweep would make them.
"""

import argparse
import math
import multiprocessing
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
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
from har_prune.scoring.config import RaceConfig, ScoringConfig
from har_prune.scoring.measurements import Measurements
from har_prune.scoring.race import Race, run_race
from har_prune.scoring.scorer import BlockScorer
from har_prune.scoring.statistics import GROUPS, GroupedStatistics, group_of

SETTINGS = [(0.95, 1e-3), (0.99, 1e-3), (0.99, 8e-4)]  # confidence, tie margin


class StoredWorkers:
    """Stands for the network: hands out stored representations, and counts the blocks they would have cost."""

    def __init__(self, features: Tensor, all_candidates: list[int], depth: int):
        self.features, self.all, self.depth = features, all_candidates, depth
        self.candidates, self.block_evaluations = list(all_candidates), 0

    def measurements(self, rows: Tensor) -> Measurements:
        places = [self.all.index(index) + 1 for index in self.candidates]
        return Measurements(tuple(self.candidates), self.features[:1, rows], self.features[places][:, rows])

    def measure(self, batches: Iterable[tuple[dict[str, Any], Tensor]]) -> Iterator[tuple[Measurements, Tensor]]:
        for batch, positions in batches:
            self.block_evaluations += len(positions) * cost(self.depth, self.candidates)
            by_group = torch.argsort(group_of(positions, GROUPS), stable=True)  # fewer, longer stretches of a group
            yield self.measurements(batch["rows"][by_group]), positions[by_group]

    def drop(self, blocks: set[int]) -> None:
        self.candidates = [index for index in self.candidates if index not in blocks]

    def close(self) -> None:
        pass


class StoredScorer(BlockScorer):
    """A scorer over stored representations; a batch is {"rows": indices}."""

    def __init__(self, model: Any, workers: StoredWorkers):
        super().__init__(model, ["cka"], workers.all, ScoringConfig(), groups=GROUPS)
        self.stored: Any = workers

    def _prepare(self, batch: dict[str, Any]) -> None:
        self._workers = self.stored
        measurements = self.stored.measurements(batch["rows"])
        criterion = self._streamed["cka"]
        criterion.start(measurements)
        self._statistics["cka"] = GroupedStatistics(criterion.statistics(measurements.rows(slice(0, 2))), self.groups)


def cost(depth: int, left: list[int]) -> int:
    """Block evaluations of a sweep over one example."""
    return depth + sum(depth - index - 1 for index in left)


def extracted(model: Any, batches: Iterable[Any], chosen: list[int], rows: int, cache: Path) -> Tensor:
    """Representations [C + 1, N, D] of all examples, the whole network first."""
    if cache.exists():
        return torch.load(cache)
    scorer = BlockScorer(model, ["cka"], chosen, ScoringConfig(), accelerator=make_accelerator())
    features, done, progress = None, 0, Progress("features", rows // 64)
    for measurements, positions in scorer._measured(scorer._own(progress.counting(batches))):
        both = torch.cat([measurements.reference, measurements.without])
        features = torch.empty((len(both), rows, both.shape[2])) if features is None else features
        features[:, positions] = both
        done += len(positions)
    scorer.close()
    assert features is not None
    assert done == rows
    cache.parent.mkdir(parents=True, exist_ok=True)
    torch.save(features, cache)
    return features


def races(model: Any, features: Tensor, chosen: list[int], depth: int, seeds: int) -> Iterator[dict[str, Any]]:
    """One row for each setting."""
    count = features.shape[1]
    everything = StoredScorer(model, StoredWorkers(features, chosen, depth))
    everything.feed([{"rows": part} for part in torch.arange(count).split(512)])
    truth = dict(zip(chosen, everything.importances()["cka"], strict=True))
    best = min(truth, key=lambda index: truth[index])
    print("full sample:", {index: round(value, 6) for index, value in sorted(truth.items(), key=lambda kv: kv[1])})
    whole = count * cost(depth, chosen)
    _SHARED.update(model=model, features=features, chosen=chosen, depth=depth)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        for confidence, margin in SETTINGS:
            config = RaceConfig(confidence=confidence, tie_margin=margin)
            runs = list(pool.map(one_race, range(seeds), repeat(config)))
            found, work = [run.winner for run in runs], [run.block_evaluations for run in runs]
            row = {
                "confidence": confidence,
                "tie_margin": margin,
                "seeds": seeds,
                "same block %": 100 * sum(index == best for index in found) / seeds,
                "within the margin %": 100 * sum(truth[index] - truth[best] <= margin for index in found) / seeds,
                "fewer block evaluations, mean": round(whole / statistics.mean(work), 1),
                "least": round(whole / max(work), 1),
                "samples, median": statistics.median(run.samples for run in runs),
                "ended": dict(Counter(run.ended for run in runs)),
            }
            print(row, flush=True)
            yield row


_SHARED: dict[str, Any] = {}  # what forked processes read


def one_race(seed: int, config: RaceConfig) -> Race:
    """A race over one random order of the data."""
    features = _SHARED["features"]
    order = torch.from_numpy(np.random.default_rng(seed).permutation(features.shape[1]))
    scorer = StoredScorer(_SHARED["model"], StoredWorkers(features, _SHARED["chosen"], _SHARED["depth"]))
    looks, sizes = float(config.first), [config.first]
    while sum(sizes) < len(order):
        looks *= config.growth
        sizes.append(min(len(order), math.ceil(looks)) - sum(sizes))
    return run_race(scorer, [{"rows": part} for part in order.split(sizes)], config)


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
