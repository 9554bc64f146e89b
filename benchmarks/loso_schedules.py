"""Which schedule recipes/loso_*.yaml train with: parents under each setting, judged by validation subjects alone.

    python benchmarks/loso_schedules.py --data data --runs runs/loso_schedules

One setting for all three data sets. A trial is a fold with a seed, which draws other validation subjects; the test
subject of the fold is in none of what is trained or measured. Judged are the weights of the last epoch: the best of
all epochs would flatter longer schedules. A trial once run is kept in --runs, and not run again.
"""

import argparse
import json
import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from measuring import write_result

from har_prune.data.batches import make_loader
from har_prune.evaluation.metrics import evaluate_model
from har_prune.recipe.accelerator import make_accelerator
from har_prune.recipe.load import load_recipe
from har_prune.recipe.prepare import prepare
from har_prune.recipe.schema import Recipe
from har_prune.runtime.files import write_json
from har_prune.training.loop import train_model

BASE = [  # whatever the recipes now say
    "model.config={model_type: har_transformer, hidden_size: 64, num_hidden_layers: 8, intermediate_size: 128}",
    "train={epochs: 30, learning_rate: 1.0e-3, label_smoothing: 0.1, validate_every: 5}",
    *("refit=false", "heal=null", "controls=[]", "precision=fp32"),
]
SETTINGS = {
    "30 epochs, 1e-3": [],
    "30 epochs, 3e-3": ["train.learning_rate=3.0e-3"],
    "60 epochs, 1e-3": ["train.epochs=60"],
}
TRIALS = {  # test subject, which is left alone, of seeds 0, 1, ...
    "wharf": ["m1", "f4", "m2", "f2", "m7"],
    "utd_mhad1": ["s1", "s2", "s7", "s5"],
    "utd_mhad2": ["s1", "s2", "s7", "s5"],
}
Job = tuple[str, str, int]  # setting, data set, seed


def recipe_of(job: Job, data: Path) -> Recipe:
    """The recipe of one trial under one setting."""
    setting, name, seed = job
    trial = [f"seed={seed}", f"data.name_or_path={data / name}", f"data.test_subject={TRIALS[name][seed]}"]
    return load_recipe(Path("recipes") / f"loso_{name}.yaml", [*trial, *BASE, *SETTINGS[setting]])


def validate(recipe: Recipe) -> dict[str, float]:
    """Trains a parent as `run` does, and classifies the windows of each validation subject: {subject: accuracy}."""
    made = prepare(recipe)
    accelerator = make_accelerator(num_threads=1)
    train = make_loader(
        made.data, made.splits.train, made.preprocess, recipe.data.batch_size, augment=recipe.data.augment
    )
    train_model(made.model, train, None, recipe.train, accelerator=accelerator, seed=recipe.seed)
    subjects, rows = made.data.subjects, made.splits.validation
    windows = {subject: rows[subjects[rows] == subject] for subject in sorted(set(subjects[rows].tolist()))}
    return {
        subject: evaluate_model(made.model, make_loader(made.data, own, made.preprocess, 256), accelerator).accuracy
        for subject, own in windows.items()
    }


def kept(job: Job, data: Path, runs: Path) -> dict[str, float]:
    """What `validate` found for a trial, from its file where there is one."""
    setting, name, seed = job
    path = runs / f"{name}-{seed}-{setting.replace(', ', '-').replace(' ', '-')}.json"
    if not path.exists():
        write_json(path, validate(recipe_of(job, data)))
        print(path.name, json.loads(path.read_text()), flush=True)
    return json.loads(path.read_text())


def main() -> None:
    """Runs what is missing, two trials at a time, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the prepared wharf, utd_mhad1, utd_mhad2")
    parser.add_argument("--runs", type=Path, required=True, help="where trials are kept")
    arguments = parser.parse_args()
    arguments.runs.mkdir(parents=True, exist_ok=True)
    jobs = [(s, name, seed) for s in SETTINGS for name, tests in TRIALS.items() for seed in range(len(tests))]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {job: pool.submit(kept, job, arguments.data, arguments.runs) for job in jobs}
        found = {job: future.result() for job, future in futures.items()}
    table = []
    for setting in SETTINGS:
        means = {
            name: statistics.mean(statistics.mean(found[setting, name, seed].values()) for seed in range(len(tests)))
            for name, tests in TRIALS.items()
        }
        table.append({"setting": setting, **{name: f"{100 * mean:.2f}" for name, mean in means.items()}})
        table[-1]["mean"] = f"{100 * statistics.mean(means.values()):.2f}"
    facts = {
        "accuracy %": "of the last epoch; mean over the validation subjects of a trial, then over trials",
        "trials": {
            name: f"{len(tests)} (test subjects left alone: {' '.join(tests)})" for name, tests in TRIALS.items()
        },
    }
    write_result("loso_schedules", "Schedules of the loso recipes, by validation subjects", facts, table)


if __name__ == "__main__":
    main()
