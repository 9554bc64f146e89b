"""What benchmarks make of the records of their trials; the trials themselves take hours."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from har_prune.scoring.criteria import base


@pytest.fixture
def benchmarks(root, monkeypatch):
    """They are scripts; what one registers is gone afterwards."""
    monkeypatch.setattr(sys, "path", [str(root / "benchmarks"), *sys.path])
    monkeypatch.setattr(base, "_CRITERIA", dict(base._registered()))


def _result(accuracy):
    return {"accuracy": accuracy, "loss": 1 - accuracy}


def test_criteria_are_compared_trial_by_trial(benchmarks):
    import criteria

    trials = {}
    for seed, gain in ((0, 0.01), (1, 0.03)):
        trials[f"seed-{seed}-all"] = {
            "seed": seed,
            "original": {"accuracy": 0.9, "macs": 100},
            "cut cka": {"left": [0, 1], "macs": 40, "accuracy": 0.5},
            "cut last": {"left": [0, 2], "macs": 50, "accuracy": 0.4},
            f"healed [0, 1] by seed {seed}": _result(0.8 + gain),
            f"healed [0, 2] by seed {seed}": _result(0.8),
            "candidates": [1, 2, 3],
            "scores": {"cka": [0.1, 0.2, 0.3], "last": [-1.0, -2.0, -3.0]},
            "share": 0.5, "single 1 for 0.5 epochs": _result(0.9), "single 2 for 0.5 epochs": _result(0.8),
            "single 3 for 0.5 epochs": _result(0.7), "single 3 for 4 epochs": _result(0.1),
        }  # fmt: skip
    left, order = criteria.tables(trials, ["cka", "last"], healings=1)
    assert [row["criterion"] for row in left] == ["original", "cka", "last"]
    assert left[1]["after healing %"] == "82.00"
    assert left[1]["MACs removed %"] == "60.00"
    assert left[2]["against cka, points"].startswith("-2.00 ± 12.7"), "Student's t of two differences, 1 and 3 points"
    assert left[2][""] == "inside the noise"
    assert order[0]["the loss after removal and healing"] == "+1.00 ± 0.00"
    assert (order[1]["the loss after removal and healing"], order[1]["cka"]) == ("-1.00 ± 0.00", "-1.00")


def test_depths_are_compared_with_the_original(benchmarks, tmp_path):
    import depths

    left = [[0, 1, 2], [0, 1], [0]]
    trials = {
        f"seed-0-{subject}": {
            "original": _result(0.9),
            "depths": [{"left": kept, "macs": 10 * len(kept), "cut": 0.3} for kept in left],
            **{f"pruned {kept}": _result(0.9 + change) for kept in left[1:]},
            **{f"scratch {kept}": _result(0.85) for kept in left[1:]},
        }
        for subject, change in (("s1", 0.01), ("s2", 0.03))
    }
    table = depths.table_of(trials, [], ["scratch"])
    assert [row["blocks removed"] for row in table] == [0, 1, 2]
    assert table[2]["MACs removed %"] == "66.67"
    assert table[1]["healed %"] == "92.00"
    assert table[1]["change, points"].startswith("+2.00 ± 12.7")
    assert table[1]["scratch %"] == "85.00"
    assert table[1]["against scratch, points"].startswith("+7.00 ± 12.7")
    assert [row["blocks removed"] for row in depths.table_of({"seed-0-s1": trials["seed-0-s1"]}, [2], [])] == [0, 2]
    depths.draw(table, "title", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_networks_of_several_sizes_are_paired_with_the_original_and_with_scratch(benchmarks, tmp_path):
    import efficiency

    def one(f1, kib):
        cost = {"macs": 100, "parameters": 10, "blocks left": 3}
        return {"accuracy": f1, "macro_f1": f1, "8 bits": f1 - 0.01, "KiB": kib, **cost}

    trials = {
        f"seed-0-{subject}": {
            "original": one(0.8, 600),
            "pruned to 0.3 MiB": one(0.8 + gain, 90),
            "the same 0.3 MiB from scratch": one(0.7, 90),
        }
        for subject, gain in (("s1", 0.01), ("s2", 0.03))
    }
    table = efficiency.table_of(trials, [0.3], {"original": 1.5})
    assert [row["network"] for row in table] == list(trials["seed-0-s1"])
    assert table[1]["macro-F1 against the original, points"].startswith("+2.00 ± 12.7")
    assert table[1]["against scratch, points"].startswith("+12.00 ± 12.7")
    assert (table[0]["8 bits: ms"], table[1]["8 bits: ms"]) == ("1.500", "-")
    assert table[1]["8 bits: macro-F1 %"] == "81.00"
    efficiency.draw(table, "title", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_a_subject_counts_once_whatever_its_seeds(benchmarks):
    from trials import paired

    of_folds = paired({"seed-0-s1": 0.01, "seed-1-s1": [0.02, 0.04], "seed-0-s-2": 0.03, "seed-1-s-2": 0.05})
    assert (of_folds.subjects, of_folds.mean) == (2, pytest.approx((0.02 + 0.04) / 2))
    of_seeds = paired({"seed-0-all": [0.01, 0.03], "seed-1-all": [0.05]})
    assert (of_seeds.subjects, of_seeds.mean) == (2, pytest.approx((0.02 + 0.05) / 2))


def test_a_row_of_the_ablation_changes_what_it_names(benchmarks):
    import healing_ablation

    from har_prune import HealConfig

    heal = HealConfig(epochs=20, learning_rate=1e-3, distill={})
    rows = {name: healing_ablation.changed(heal, change, 5) for name, change in healing_ablation.ROWS.items()}
    assert rows[healing_ablation.AS_IT_IS] == heal
    assert rows["twice as long"].epochs == 40
    assert rows["learning rate x 3"].learning_rate == pytest.approx(3e-3)
    assert rows["labels alone"].distill is None
    assert (rows["after every removal"].when, rows["after every removal"].epochs) == (1, 4)
    assert rows["twice as long, from three originals"].distill.originals == 3


def test_what_another_recipe_found_is_not_taken(benchmarks, tmp_path):
    from trials import Kept, chosen_folds

    from har_prune.data.load import load_data
    from har_prune.recipe.load import load_recipe

    recipe, other = load_recipe("quickstart", []), load_recipe("quickstart", ["heal.epochs=1"])
    data = load_data("synthetic")
    other_process = Kept(tmp_path / "trial.json", recipe, data)
    Kept(tmp_path / "trial.json", recipe, data).keep("cut cka", {"accuracy": 0.5})
    assert other_process.found["cut cka"] == {"accuracy": 0.5}, "what was done while it did other trials"
    assert Kept(tmp_path / "trial.json", recipe, data).found["cut cka"] == {"accuracy": 0.5}
    with pytest.raises(SystemExit, match="with other overrides"):
        _ = Kept(tmp_path / "trial.json", other, data).found
    with pytest.raises(SystemExit, match="by another data"):
        _ = Kept(tmp_path / "trial.json", recipe, replace(data, labels=data.labels[::-1].copy())).found
    assert chosen_folds({"s1": 0, "s10": 1}, ["s10"]) == ["s10"]
    with pytest.raises(SystemExit, match="--folds S1: the test subjects are s1, s10"):
        chosen_folds({"s1": 0, "s10": 1}, ["S1", "s10"])


def test_what_a_result_has_of_a_trial_is_not_done_again(benchmarks, tmp_path, monkeypatch):
    import trials

    monkeypatch.setattr(trials, "RESULTS", tmp_path)
    monkeypatch.setattr("measuring.RESULTS", tmp_path)

    def command(*more):
        monkeypatch.setattr(sys, "argv", ["depths.py", "quickstart", "--runs", str(tmp_path / "runs"), *more])
        asked = trials.Command("", "depths")
        asked.parse()
        return asked, asked.trials["seed-0-all"][1]

    asked, kept = command()
    kept.found["original"] = {"accuracy": 0.5}
    asked.write("Every depth", [{"healed %": "50.00"}], {"seed-0-all": kept.found})
    assert command()[1].found == kept.found, "of another machine, where nothing was done yet"
    assert set(command("--override", "heal.epochs=1")[1].found) == {"recipe", "data"}, "another recipe begins anew"
    kept.keep("original", {"accuracy": 0.6})
    assert command()[1].found["original"] == {"accuracy": 0.6}, "what is kept here comes first"


def test_people_who_are_in_two_data_sets_count_once(benchmarks):
    import loso_folds

    runs = loso_folds.all_kept()
    original = loso_folds.in_every_run(runs, "original")
    found = loso_folds.against(runs, original)
    assert found.subjects == 8 + 16
    pruned = loso_folds.in_every_run(runs, "pruned")
    change = {name: np.subtract(pruned[name], original[name]) for name in runs}
    people = [*((change["loso_utd_mhad2"] + change["loso_utd_mhad1"]) / 2), *change["loso_wharf"]]
    assert found.mean == pytest.approx(np.mean(people))
    assert f"{found.subjects} people" in loso_folds.readable(runs)


def test_networks_healed_beside_each_other_are_those_healed_one_by_one(benchmarks, tmp_path):
    import depths
    from trials import Kept

    from har_prune.data.load import load_configured
    from har_prune.recipe.load import load_recipe

    small = "{model_type: har_transformer, hidden_size: 16, num_hidden_layers: 4, patch_stride: 8}"
    recipe = load_recipe("quickstart", ["train.epochs=0.2", "heal.epochs=0.2", f"model.config={small}"])
    data, found = load_configured(recipe.data), []
    for jobs in (1, 2):
        kept = Kept(tmp_path / f"jobs-{jobs}.json", recipe, data)
        found.append(depths.at_every_depth(recipe, data, [2], ["scratch"], jobs, kept))
        assert not list(kept.folder.glob("*.training")), "nothing is left to go on from"
    assert found[0] == found[1]
    key = depths.key_of("pruned", found[0]["depths"][2]["left"])
    saved = {path.name for path in (tmp_path / "jobs-1" / key).iterdir()}
    assert {"model.safetensors", "preprocessor_config.json"} <= saved
    original = (tmp_path / "jobs-1/original.safetensors").read_bytes()
    again = Kept(tmp_path / "jobs-1.json", recipe, data)
    del again.found[key], again.found["done"]
    assert depths.at_every_depth(recipe, data, [2], ["scratch"], 1, again) == found[0], "goes on with the original"
    assert (tmp_path / "jobs-1/original.safetensors").read_bytes() == original


def test_filters_go_until_as_much_work_is_gone_as_without_layers(benchmarks, tmp_path):
    import layers_and_filters
    from trials import Kept

    from har_prune.data.load import load_configured
    from har_prune.recipe.load import load_recipe

    small = "{model_type: har_resnet, hidden_sizes: [8, 16], depths: [3, 3]}"
    recipe = load_recipe("quickstart", ["train.epochs=0.2", "heal.epochs=0.2", f"model.config={small}"])
    data = load_configured(recipe.data)
    found = layers_and_filters.in_every_way(recipe, data, [0.3], Kept(tmp_path / "seed-0-all.json", recipe, data))
    layers, filters, both = (found[layers_and_filters.key_of(way, 0.3)] for way in layers_and_filters.WAYS)
    assert layers["blocks left"] < 6 == filters["blocks left"]
    assert 0.3 <= layers["macs removed"] <= min(filters["macs removed"], both["macs removed"])
    assert filters["macs removed"] - layers["macs removed"] < 0.05
    assert not list((tmp_path / "seed-0-all").glob("*.training")), "nothing is left to go on from"
    table = layers_and_filters.table_of({"seed-0-all": found}, [0.3])
    assert [row["removed"] for row in table] == ["nothing", *layers_and_filters.WAYS]
    gained = 100 * (filters["healed"] - layers["healed"])
    assert float(table[2]["against layers, points"]) == pytest.approx(gained, abs=0.005)
    layers_and_filters.draw(table, "title", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_a_control_added_later_is_the_one_of_the_run(benchmarks, tmp_path, monkeypatch):
    import loso_controls
    import loso_folds

    from har_prune.data.load import load_configured
    from har_prune.recipe.load import load_recipe
    from har_prune.recipe.steps import launch

    small = "{model_type: har_resnet, hidden_sizes: [8, 16], depths: [2, 2]}"
    short = [
        "train.epochs=0.2",
        "heal.epochs=0.2",
        "heal.distill=null",
        "prune.target={blocks: 3}",
        "evaluate.latency=false",
    ]
    more = ["controls=[scratch, scratch_full]", f"output_dir={tmp_path / 'run'}", f"model.config={small}"]
    recipe = load_recipe("quickstart", [*short, *more])
    data = load_configured(recipe.data)
    history = launch(recipe, "har-prune run quickstart", data)
    for name, control in history.controls.items():
        alone = recipe.model_copy(update={"controls": (name,), "output_dir": tmp_path / "none"})
        found = loso_controls.trained(name, alone, data, replace(history, controls={}))
        assert replace(found, seconds=control.seconds) == control, "to the last bit of its weights"
    assert not (tmp_path / "none").exists()
    with pytest.raises(SystemExit, match="of other data"):
        loso_controls.trained("scratch", recipe, replace(data, labels=np.zeros_like(data.labels)), history)
    taught = load_recipe("quickstart", [*short, *more, "heal.distill=true"])
    with pytest.raises(SystemExit, match="distils"):
        loso_controls.trained("scratch", taught, data, history)
    with pytest.raises(SystemExit, match="of another recipe"):
        loso_controls.trained("scratch", recipe.model_copy(update={"seed": 7}), data, history)
    monkeypatch.setattr(loso_folds, "HISTORIES", tmp_path)
    record = {"command": "", "recipe": {}, "folds": {"s1": [replace(history, controls={}).to_json()]}}
    loso_folds._pack("kept", record)
    loso_folds.keep_control("kept", "s1", recipe.seed, "scratch", history.controls["scratch"])
    (kept,) = loso_folds.kept("kept")[1]["s1"]
    assert kept == replace(history, controls={"scratch": history.controls["scratch"]})
