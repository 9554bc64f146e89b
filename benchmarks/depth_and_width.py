"""Layers against filters at equal work: figure 2 of the paper, what each does to the time of a forward.

    python benchmarks/depth_and_width.py

ResNet-56, ResNet-110 and a HAR Transformer of 12 blocks, with random weights: time does not depend on them. Each is
made smaller in steps by whole blocks, by units inside blocks (l1-norm, the same share of every block), and, for the
ResNets, by torch-pruning's magnitude pruner (pip install 'har_prune[bench]'), which narrows whole stages. The three
save about the same work, all are timed in turns with the original on one thread, and speed-ups are of medians.
"""

import argparse
import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from measuring import RESULTS, alternating, write_result
from torch import nn

import har_prune
from har_prune import count_macs, find_blocks, find_widths, remove_blocks, score_units
from har_prune.blocks.example_inputs import example_inputs
from har_prune.pruning.config import PruneSettings, WidthSettings
from har_prune.pruning.plan import candidates
from har_prune.pruning.structures import WITHIN, UnitQueue
from har_prune.reporting.trajectory import COLOURS, MARKERS

SHARES = (0.15, 0.3, 0.45, 0.6, 0.75)
STRUCTURES = ("layers", "filters", "torch-pruning")


def resnet(depth: int) -> Any:
    """ResNet-(6 depth + 2) for CIFAR-10."""
    config = har_prune.CifarResNetConfig(depths=[depth] * 3, num_labels=10)
    return har_prune.CifarResNetForImageClassification(config).eval()


def transformer() -> Any:
    """The encoder of recipes/wharf.yaml."""
    config = har_prune.HarTransformerConfig(
        num_channels=3, window_size=160, hidden_size=64, num_hidden_layers=12, intermediate_size=128, num_labels=12
    )
    return har_prune.HarTransformerForSequenceClassification(config).eval()


NETWORKS = {"ResNet-56": partial(resnet, 9), "ResNet-110": partial(resnet, 18), "HAR Transformer": transformer}


def shallower(model: Any, inputs: dict, share: float) -> Any | None:
    """Without as few blocks as save this share of the work; evenly from the stages, as far as they allow."""
    settings = PruneSettings(target={"macs_reduction": share}, guards="paper")
    macs, small = count_macs(model, inputs), model
    while count_macs(small, inputs) > (1 - share) * macs:
        stack = find_blocks(small)
        allowed = candidates(stack, settings, set())
        if not allowed:
            return None
        longest = max(stack.stages, key=lambda stage: len(stage) if set(stage) & set(allowed) else 0)
        small = remove_blocks(stack, [max(set(longest) & set(allowed))])
    return small


def narrower(model: Any, inputs: dict, macs: int) -> Any | None:
    """With units left out of every block, down to about so much work."""
    widths = find_widths(model)
    queue = UnitQueue(widths, score_units(widths, ()), inputs, WidthSettings(ranking="layer"))
    removal = queue.saving(count_macs(model, inputs) - macs, WITHIN)
    return removal and removal.built(copy=True).model


def by_torch_pruning(model: Any, inputs: dict, macs: int) -> Any | None:
    """What torch-pruning's magnitude pruner leaves, at the ratio with about so much work."""
    import torch_pruning as tp

    pixels, best = inputs["pixel_values"], None
    low, high = 0.0, 1.0
    for _ in range(12):
        ratio, twin = (low + high) / 2, copy.deepcopy(model)
        tp.pruner.MagnitudePruner(
            twin, pixels, tp.importance.MagnitudeImportance(p=1),
            pruning_ratio=ratio, ignored_layers=[twin.classifier], output_transform=lambda output: output.logits,
        ).step()  # fmt: skip
        if count_macs(twin, inputs) > macs:
            low = ratio
        else:
            high, best = ratio, twin
    return best


def filters_of(model: Any) -> int:
    """Filters of all convolutions."""
    return sum(module.out_channels for module in model.modules() if isinstance(module, nn.Conv1d | nn.Conv2d))


def variants(name: str, model: Any, inputs: dict) -> dict[tuple[str, float], Any]:
    """{(structure, share asked for): network}, all of a share with about the same work."""
    made: dict[tuple[str, float], Any] = {}
    for share in SHARES:
        small = shallower(model, inputs, share)
        if small is None:
            continue
        macs = count_macs(small, inputs)
        made["layers", share] = small
        made["filters", share] = narrower(model, inputs, macs)
        if name.startswith("ResNet"):
            made["torch-pruning", share] = by_torch_pruning(model, inputs, macs)
    return {key: network for key, network in made.items() if network is not None}


@torch.no_grad()
def timed(networks: dict, example: dict, batch: int, rounds: int) -> dict:
    """Median seconds of each, in turns."""
    inputs = {key: torch.cat([value] * batch) for key, value in example.items()}
    runs = {key: partial(network, **inputs) for key, network in networks.items()}
    return alternating(runs, rounds, torch.device("cpu"))


def rows_of(name: str, rounds: int) -> list[dict[str, Any]]:
    """One row for each network, batch size and structure."""
    torch.manual_seed(0)
    model = NETWORKS[name]()
    inputs = example_inputs(model, batch_size=1)
    made = variants(name, model, inputs)
    macs, filters, rows = count_macs(model, inputs), filters_of(model), []
    for batch in (1, 64):
        seconds = timed({"original": model, **made}, inputs, batch, rounds if batch > 1 else 3 * rounds)
        for key, network in made.items():
            rows.append({
                "network": name,
                "batch": batch,
                "structure": key[0],
                "MACs removed %": round(100 * (1 - count_macs(network, inputs) / macs), 1),
                "filters removed %": round(100 * (1 - filters_of(network) / filters), 1),
                "blocks": len(find_blocks(network)) if key[0] != "torch-pruning" else len(find_blocks(model)),
                "ms": round(1000 * seconds[key], 3),
                "speed-up": round(seconds["original"] / seconds[key], 2),
            })  # fmt: skip
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Speed-up against filters (of the Transformer: work) removed, a panel for each network and batch size."""
    names = [name for name in NETWORKS if any(row["network"] == name for row in rows)]
    figure = Figure(figsize=(3.6 * len(names), 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    for place, axes in enumerate(figure.subplots(2, len(names), squeeze=False).flat):
        name, batch = names[place % len(names)], (1, 64)[place // len(names)]
        measure = "filters removed %" if name.startswith("ResNet") else "MACs removed %"
        for structure, marker, colour in zip(STRUCTURES, MARKERS, COLOURS, strict=False):
            points = [
                (row[measure], row["speed-up"])
                for row in rows
                if (row["network"], row["batch"], row["structure"]) == (name, batch, structure)
            ]
            if points:
                label = structure if name.startswith("ResNet") or structure == "layers" else "heads and feed-forward"
                axes.plot(*zip(*sorted(points), strict=True), marker=marker, color=colour, label=label)
        axes.axhline(1, color="grey", linewidth=0.8)
        axes.set(title=f"{name}, batch {batch}", xlabel=measure, ylabel="times faster")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--network", choices=list(NETWORKS), action="append")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for name in given.network or NETWORKS for row in rows_of(name, given.rounds)]
    facts = {"rounds": given.rounds, "threads": 1, "weights": "random"}
    write_result("depth_and_width", "Layers against filters at equal work", facts, rows)
    draw(rows, RESULTS / "depth_and_width.png")


if __name__ == "__main__":
    main()
