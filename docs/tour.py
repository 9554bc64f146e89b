"""A tour in cells, for an editor that runs them (`# %%`) or for `python docs/tour.py`: about a minute on a laptop.

Trains a small network over synthetic sensor windows, looks for the blocks that matter least, removes them, heals,
saves, and loads the result as anybody would.
"""

# %% Data: six activities of virtual subjects; two of them train nothing
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from transformers import AutoModelForSequenceClassification

from har_prune import (
    HarFeatureExtractor,
    HarTransformerConfig,
    HarTransformerForSequenceClassification,
    HealConfig,
    PruneConfig,
    RobustnessConfig,
    TrainConfig,
    evaluate_model,
    find_blocks,
    measure_robustness,
    prune,
    remove_blocks,
    save_pruned,
    score_blocks,
    train_model,
)
from har_prune.data.batches import SensorInputs, make_loader
from har_prune.data.load import load_data

data = load_data("synthetic")
rate, channels = data.sensor["sampling_rate_hz"], data.sensor["channels"]
everybody = np.arange(len(data))
trains, validates = ~np.isin(data.subjects, ["s10", "s11"]), data.subjects == "s10"
print(f"{len(data):,} windows of {data.values.shape[1]} samples, {', '.join(channels)}; {', '.join(data.label_names)}")

# %% A network and its feature extractor, which knows the statistics of the training windows
values = data.values[trains]
extractor = HarFeatureExtractor(
    num_channels=len(channels), window_size=values.shape[1], sampling_rate_hz=rate, channel_names=channels,
    channel_mean=values.mean(axis=(0, 1)).tolist(), channel_std=values.std(axis=(0, 1)).tolist(),
    channel_units=data.sensor["units"],
)  # fmt: skip
config = HarTransformerConfig(
    num_channels=len(channels), window_size=values.shape[1], hidden_size=32, intermediate_size=64, num_hidden_layers=6,
    num_attention_heads=4, patch_stride=8, id2label=dict(enumerate(data.label_names)),
)  # fmt: skip
model = HarTransformerForSequenceClassification(config)
preprocess = SensorInputs(extractor, rate)
train = make_loader(data, everybody[trains], preprocess, 64, augment=["jitter"])
calibration = make_loader(data, everybody[validates], preprocess, 64)
test = make_loader(data, everybody[data.subjects == "s11"], preprocess, 64)
train_model(model, train, None, TrainConfig(epochs=4, learning_rate=2e-3, keep="last"))
print(f"original: {100 * evaluate_model(model, test).accuracy:.1f} % of the windows of a subject it never saw")

# %% What matters least
scores = score_blocks(model, calibration, criterion=["cka", "block_influence"])
for name in ("cka", "block_influence"):
    print(name, [f"{score.importance:.3f}" for score in scores[name]], "goes first:", scores.least(name)[0])

# %% One cut by hand: a new model, the old one untouched
smaller = remove_blocks(model, [scores.least("cka")[0]])
print(f"{len(find_blocks(model))} blocks, {len(find_blocks(smaller))} left")

# %% The loop: score, remove, again; then heal once, beside a control
settings = PruneConfig(
    target={"blocks": 2},
    heal=HealConfig(epochs=3, learning_rate=1e-3, distill=True, keep="last"),
    controls=["scratch"],
)
result = prune(model, train, calibration, {"validation": calibration, "test": test}, settings)
for step in result.history.steps:
    print(step.iteration, step.removed, f"{step.cost.macs:,} MACs", f"{100 * step.metrics['test'].accuracy:.1f} %")
scratch = result.history.controls["scratch"].metrics["test"]
print(f"the same two blocks from scratch: {100 * scratch.accuracy:.1f} %")

# %% How it bears a turned watch
worse = measure_robustness(result.model, test, RobustnessConfig(names=["mounting_rotation"], severities=[1, 3, 5]))
print({name: [round(100 * value, 1) for value in row["accuracy"]] for name, row in worse.results.items()})

# %% Saved, verified, and loaded by the stock class
folder = save_pruned(result.model, Path(mkdtemp()) / "pruned", history=result.history, processor=extractor)
again = AutoModelForSequenceClassification.from_pretrained(folder)
print(f"{folder.name}: {len(find_blocks(again))} blocks, {again.num_parameters():,} parameters")
