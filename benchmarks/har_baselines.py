"""What somebody gets without pruning: a random forest on window statistics, and a small residual CNN.

    python benchmarks/har_baselines.py loso_utd_mhad2 --seeds 0 1 2
    python benchmarks/har_baselines.py loso_utd_mhad1 --seeds 0 1 2
    python benchmarks/har_baselines.py loso_wharf --seeds 0 1 2
    python benchmarks/har_baselines.py loso_utd_mhad --seeds 0 1 2

The same windows, splits and, for the CNN, augmentations and schedule as the recipe of that name. The forest sees of
each channel its mean, deviation, extremes, quartiles, energy, mean absolute change, skewness, kurtosis and strongest
frequency with its share, and the correlations of all channels. What is done is kept in --runs, and not done again.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from measuring import write_result
from scipy.stats import kurtosis, skew
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import confusion_matrix
from trials import Kept, chosen_folds

from har_prune.data.batches import make_loader
from har_prune.data.load import load_configured
from har_prune.evaluation.macs import count_macs
from har_prune.evaluation.metrics import evaluate_model
from har_prune.pruning.config import PruneSettings
from har_prune.recipe.accelerator import make_accelerator
from har_prune.recipe.folds import folds_of
from har_prune.recipe.load import load_recipe
from har_prune.recipe.prepare import Prepared, prepare
from har_prune.recipe.schema import Recipe
from har_prune.reporting.folds import pooled_figures, summarise
from har_prune.training.loop import train_model

BY_SUBJECT = "accuracy % by subject"
CNN: dict[str, Any] = {"model_type": "har_resnet", "hidden_sizes": [32, 64, 128], "depths": [1, 1, 1]}


def window_statistics(windows: np.ndarray) -> np.ndarray:
    """Features [N, F] of windows [N, T, C] in physical units."""
    spectrum = np.abs(np.fft.rfft(windows - windows.mean(axis=1, keepdims=True), axis=1))
    strongest = spectrum.argmax(axis=1)
    share = spectrum.max(axis=1) / np.maximum(spectrum.sum(axis=1), 1e-9)
    change = np.abs(np.diff(windows, axis=1))
    with np.errstate(all="ignore"):
        of_shape = [np.nan_to_num(skew(windows, axis=1)), np.nan_to_num(kurtosis(windows, axis=1))]
        pairs = np.triu_indices(windows.shape[2], 1)
        together = np.stack([np.nan_to_num(np.corrcoef(window.T))[pairs] for window in windows])
    quartiles = np.quantile(windows, (0.25, 0.5, 0.75), axis=1)
    features = [
        windows.mean(axis=1), windows.std(axis=1), windows.min(axis=1), windows.max(axis=1), *quartiles,
        np.square(windows).mean(axis=1), change.mean(axis=1), *of_shape, strongest, share, together,
    ]  # fmt: skip
    return np.concatenate(features, axis=1)


def forest(made: Prepared, features: np.ndarray, seed: int) -> dict[str, Any]:
    """Confusion on the test subject of a random forest."""
    labels, splits = made.data.labels, made.splits
    model = RandomForestClassifier(500, class_weight="balanced_subsample", random_state=seed, n_jobs=1)
    model.fit(features[splits.train], labels[splits.train])
    found = model.predict(features[splits.test])
    every = range(len(made.data.label_names))
    return {"confusion": confusion_matrix(labels[splits.test], found, labels=every).tolist()}


def cnn(made: Prepared, recipe: Recipe) -> dict[str, Any]:
    """Confusion on the test subject of the small CNN, trained as the recipe trains its network."""
    data, splits, size = made.data, made.splits, recipe.data.batch_size
    train = make_loader(data, splits.train, made.preprocess, size, augment=recipe.data.augment)
    validation, test = (make_loader(data, rows, made.preprocess, 256) for rows in (splits.validation, splits.test))
    schedule = recipe.train.model_copy(update={"layer_drop": 0.0})
    train_model(made.model, train, validation, schedule, accelerator=make_accelerator(num_threads=1), seed=recipe.seed)
    return {
        "confusion": evaluate_model(made.model, test).confusion,
        "macs": count_macs(made.model, made.one_example),
        "parameters": made.model.num_parameters(),
    }


def run(name: str, seeds: list[int], folds: list[str], runs: Path, overrides: list[str]) -> list[dict[str, Any]]:
    """Both baselines on folds of a recipe; one row of the table each."""
    recipe = load_recipe(name, overrides)
    data = load_configured(recipe.data)
    features = window_statistics(data.values)
    rows = []
    for baseline in ("random forest", "CNN"):
        found: dict[str, list[dict[str, Any]]] = {}
        for seed in seeds:
            seeded = recipe.model_copy(update={"seed": seed, "seeds": ()})
            of_subject = folds_of(seeded, data)
            for subject in chosen_folds(of_subject, folds):
                (fold,) = of_subject[subject]
                model = fold.model.model_copy(update={"config": CNN})
                plain = PruneSettings(target={"blocks": sum(CNN["depths"])})  # nothing to remove
                alone = fold.model_copy(update={"model": model, "prune": plain, "heal": None})
                path = runs / Path(name).stem / f"{baseline.replace(' ', '_')}-seed-{seed}-{subject}.json"
                kept = Kept(path, alone, data)
                if "result" not in kept.found:
                    made = prepare(alone, data)
                    kept.keep("result", forest(made, features, seed) if baseline != "CNN" else cnn(made, alone))
                found.setdefault(subject, []).append(kept.found["result"])
        rows.append({"data": name, "network": baseline, **summary(found)})
    return rows


def summary(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Mean over folds of each subject's mean over seeds, and pooled figures; in %."""
    accuracy = [np.mean([pooled_figures(one["confusion"])["accuracy"] for one in seeds]) for seeds in found.values()]
    f1 = [np.mean([pooled_figures(one["confusion"])["macro_f1"] for one in seeds]) for seeds in found.values()]
    together = pooled_figures(np.sum([one["confusion"] for seeds in found.values() for one in seeds], axis=0).tolist())
    folds, first = summarise(accuracy), next(iter(found.values()))[0]
    by_subject = {subject: round(100 * float(value), 4) for subject, value in zip(found, accuracy, strict=True)}
    return {
        "MACs": first.get("macs", "-"),
        "parameters": first.get("parameters", "-"),
        "accuracy %, mean of folds": f"{100 * folds['mean']:.2f}",
        "95 % interval": f"± {100 * folds['ci95']:.2f}",
        "macro-F1 %, mean of folds": f"{100 * np.mean(f1):.2f}",
        **{f"pooled {key} %": f"{100 * together[key]:.2f}" for key in ("accuracy", "balanced_accuracy", "macro_f1")},
        BY_SUBJECT: by_subject,
    }


def main() -> None:
    """Runs what is missing and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="one with test_subject: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folds", nargs="*", default=[], help="test subjects; none: all, and their table")
    parser.add_argument("--runs", type=Path, default=Path("runs/har_baselines"))
    parser.add_argument("--override", nargs="*", default=[], help="of the recipe: key=value")
    given = parser.parse_args()
    table = run(given.recipe, given.seeds, given.folds, given.runs, given.override)
    if given.folds:
        return
    facts = {"seeds": given.seeds, "folds": "every subject once", "overrides": given.override or "none"}
    write_result(f"har_baselines_{Path(given.recipe).stem}", "Baselines without pruning", facts, table)


if __name__ == "__main__":
    main()
