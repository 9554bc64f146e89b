"""A run takes over the original that another one trained, where it would have trained the same."""

import json
import shutil

import pytest
import tiny_folds
from console import refused, run_recipe
from safetensors.torch import load_file, save_file


@pytest.fixture
def quickstart(root):
    return root / "recipes" / "quickstart.yaml"


@pytest.fixture
def settings(tmp_path):
    return tiny_folds.four_subjects(tmp_path / "four")


def _outcome(out):
    """What a run over folds found, but for what a clock made."""
    return json.loads((out / "loso.json").read_text())["subjects"]


def test_every_fold_has_the_original_of_its_counterpart(quickstart, settings, tmp_path):
    first, second, anew = (tmp_path / name for name in ("first", "second", "anew"))
    healed = [*settings, "heal={epochs: 0.1}"]
    assert run_recipe(quickstart, first, *settings, "seeds=[1]").exit_code == 0
    result = run_recipe(quickstart, second, *healed, "seeds=[1]", f"original_from={first}")
    assert result.exit_code == 0, result.output
    assert "training the original network" not in result.output
    assert run_recipe(quickstart, anew, *healed, "seeds=[1]").exit_code == 0
    assert _outcome(second) == _outcome(anew) != _outcome(first)
    for weights in sorted(path.relative_to(anew) for path in anew.rglob("*.safetensors")):
        one, other = load_file(second / weights), load_file(anew / weights)
        assert all(one[name].equal(value) for name, value in other.items()), weights
    shutil.rmtree(first)  # a run that has taken its original over needs the other no more
    shutil.rmtree(second / "seed-1" / "fold-s02" / "pruned")
    result = run_recipe(quickstart, second, *healed, "seeds=[1]", f"original_from={first}")
    assert result.exit_code == 0, result.output


def test_an_original_that_was_trained_otherwise_is_refused(quickstart, settings, tmp_path):
    first, out = tmp_path / "first", tmp_path / "out"
    one = [*settings, "data.test_subject=s02"]
    assert run_recipe(quickstart, first, *one).exit_code == 0
    source = f"original_from={first}"
    for change, message in (
        ("train.epochs=0.3", "train.epochs: 0.2 there, 0.3 here"),
        ("seed=1", "seed: 0 there, 1 here"),
        ("data.test_subject=s03", "data.test_subject: 's02' there, 's03' here"),
        ("data.batch_size=16", "data.batch_size"),
        ("precision=bf16", "precision: 'no' there, 'bf16' here"),
        (f"original_from={tmp_path / 'nowhere'}", "holds no original that a run has trained"),
        ("data.test_subject=all", "fold-s01 holds no original that a run has trained"),
    ):
        refused(run_recipe(quickstart, out, *one, source, change), message)
        assert not out.exists()
    kept = json.loads((first / "data.json").read_text())
    (first / "data.json").write_text(json.dumps({**kept, "train": "x"}))
    refused(run_recipe(quickstart, out, *one, source), "the data behind 'train' are others")
    (first / "data.json").write_text(json.dumps(kept))
    weights = first / "original" / "model.safetensors"
    altered = load_file(weights)
    next(iter(altered.values())).add_(0.5)
    save_file(altered, weights, metadata={"format": "pt"})
    refused(run_recipe(quickstart, out, *one, source), "were altered since this run trained them")
    assert not out.exists()


def test_originals_that_teach_together_are_taken_over_together(quickstart, settings, tmp_path):
    first, out = tmp_path / "first", tmp_path / "out"
    one = [*settings, "data.test_subject=s02", "heal={epochs: 0.1, distill: {originals: 2}}"]
    assert run_recipe(quickstart, first, *one).exit_code == 0
    assert len(json.loads((first / "data.json").read_text())["teachers"]) == 1
    longer = [*one, f"original_from={first}", "heal.epochs=0.2"]
    result = run_recipe(quickstart, out, *longer)
    assert result.exit_code == 0, result.output
    assert "training the" not in result.output
    for name in ("original.json", "original-1.json"):
        assert (out / name).read_bytes() == (first / name).read_bytes()
    for name in ("pruned", "iteration-001"):
        shutil.rmtree(out / name)
    assert run_recipe(quickstart, out, *longer).exit_code == 0, "started again, it goes on"
    refused(
        run_recipe(quickstart, tmp_path / "other", *one, "model={name_or_path: x}"),
        "trains more originals, of model.config: there is none",
    )
