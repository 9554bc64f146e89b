import sys

import pytest
import yaml
from pydantic import ValidationError

from har_prune import PruneConfig
from har_prune.blocks import families
from har_prune.errors import RecipeError
from har_prune.recipe.load import load_recipe
from har_prune.scoring.criteria import base as criteria

GOOD = {
    "output_dir": "runs/x",
    "data": {"name_or_path": "synthetic", "protocol": "holdout", "test_subjects": ["s12"]},
    "model": {"config": {"model_type": "har_transformer"}},
    "train": {"epochs": 1},
    "prune": {"target": {"macs_reduction": 0.5}},
    "heal": {"epochs": 1, "when": 1, "final": {"epochs": 2}},
}


def _load(tmp_path, values, *overrides):
    path = tmp_path / "recipe.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return load_recipe(path, list(overrides))


def test_every_recipe_of_the_project_is_valid_and_opens_with_its_command(root):
    recipes = sorted((root / "recipes").glob("*.yaml"))
    assert len(recipes) >= 4
    for path in recipes:
        load_recipe(path)
        opening = path.read_text().split("\nseed:")[0]
        assert f"# accelerate launch har_prune/run.py recipes/{path.name}" in opening


def test_all_problems_are_reported_at_once_with_the_nearest_key(tmp_path):
    values = {
        **GOOD,
        "see": 3,
        "train": {"epochs": 0, "learning_rat": 0.1, "optimizer": "adm"},
        "heal": {"epochs": 1, "when": 1, "final": {"epoch": 2, "epochs": 1}},
        "prune": {"target": {"blocks": 2, "macs_reduction": 1.5}, "criterion": 3},
    }
    with pytest.raises(RecipeError) as caught:
        _load(tmp_path, values)
    message = str(caught.value)
    for line in (
        "see: unknown key. Did you mean 'seed'?",
        "train.learning_rat: unknown key. Did you mean 'learning_rate'?",
        "train.epochs: Input should be greater than 0 (got 0).",
        "train.optimizer: Input should be 'adamw' or 'sgd' (got 'adm').",
        "heal.final.epoch: unknown key. Did you mean 'epochs'?",
        "prune.target.macs_reduction: Input should be less than 1 (got 1.5).",
        "prune.criterion: Input should be a valid string (got 3).",
    ):
        assert line in message
    assert "has 7 problem(s)" in message
    assert _load(tmp_path, GOOD).train.epochs == 1


def test_overrides_by_dotted_path(tmp_path):
    recipe = _load(
        tmp_path, GOOD, "prune.target.macs_reduction=0.3", "train.learning_rate=1e-4", "heal=null", "seed=7"
    )
    assert recipe.prune.target.macs_reduction == 0.3
    assert recipe.train.learning_rate == 1e-4
    assert recipe.heal is None
    assert recipe.seed == 7
    with pytest.raises(RecipeError, match="is not key=value"):
        _load(tmp_path, GOOD, "--seed")
    with pytest.raises(RecipeError, match="'seed' is not a section"):
        _load(tmp_path, {**GOOD, "seed": 1}, "seed.x=1")
    with pytest.raises(RecipeError, match=r"prune.tarket: unknown key. Did you mean 'target'\?"):
        _load(tmp_path, GOOD, "prune.tarket.blocks=3")


def test_what_is_no_recipe(tmp_path):
    with pytest.raises(RecipeError, match="does not exist"):
        load_recipe(tmp_path / "nowhere.yaml")
    with pytest.raises(RecipeError, match="is not YAML"):
        _load(tmp_path, "a: [1")
    with pytest.raises(RecipeError, match="not a mapping"):
        _load(tmp_path, "- 1")
    with pytest.raises(RecipeError, match=r"data: missing.*\n.*|prune: missing"):
        _load(tmp_path, {"output_dir": "x"})


def test_a_recipe_is_consistent(tmp_path):
    with pytest.raises(RecipeError, match="add a train section"):
        _load(tmp_path, {key: value for key, value in GOOD.items() if key != "train"})
    with pytest.raises(RecipeError, match="one of them"):
        _load(tmp_path, GOOD, "model.name_or_path=somewhere")
    with pytest.raises(RecipeError, match="needs a model_type"):
        _load(tmp_path, GOOD, "model.config={}")


def test_the_place_of_a_run_is_not_part_of_what_it_is(tmp_path):
    first, second = (_load(tmp_path, GOOD, f"output_dir=runs/{name}") for name in "ab")
    assert first.fingerprint == second.fingerprint
    assert first.fingerprint != _load(tmp_path, GOOD, "seed=1").fingerprint


def test_a_key_given_twice_and_an_alias_are_refused(tmp_path):
    text = yaml.safe_dump(GOOD)
    with pytest.raises(RecipeError, match="is not YAML: key 'seed' is given twice"):
        _load(tmp_path, "seed: 1\n" + text + "seed: 2\n")
    with pytest.raises(RecipeError, match="is not YAML: aliases"):
        _load(tmp_path, "a: &a [1]\nb: *a\n" + text)


def test_true_is_no_number(tmp_path):
    with pytest.raises(RecipeError) as caught:
        _load(tmp_path, {**GOOD, "seed": True, "data": {**GOOD["data"], "batch_size": True, "subset": 1}})
    assert "  seed: a number is wanted, and this is True." in str(caught.value)
    assert "  data.batch_size: a number is wanted, and this is True." in str(caught.value)
    assert "data.subset: Input should be a valid string (got 1)" in str(caught.value)
    assert _load(tmp_path, GOOD, "heal.distill=true").heal.distill is not None


def test_settings_of_the_python_api_name_the_nearest_word():
    with pytest.raises(
        ValidationError,
        match=r"unknown key. Did you mean 'target'\? Known here: target, structures, widths, criterion",
    ):
        PruneConfig(taget={"blocks": 3})


def test_a_base_says_what_the_recipe_does_not(tmp_path):
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / "all.yaml").write_text(yaml.safe_dump({**GOOD, "seed": 3, "heal": {"epochs": 1}}))
    own = {
        "base": "bases/all.yaml",
        "heal": {"epochs": 2, "when": 4},
        "prune": {"target": {"macs_reduction": None, "blocks": 2}},
    }
    recipe = _load(tmp_path, own)
    assert (recipe.seed, recipe.heal.epochs, recipe.heal.when) == (3, 2, 4)
    assert recipe.prune.target.blocks == 2
    assert recipe.data == _load(tmp_path, GOOD).data
    assert _load(tmp_path, own, "heal.epochs=5").heal.epochs == 5
    with pytest.raises(RecipeError, match=r"base 'nowhere\.yaml' is no file beside it"):
        _load(tmp_path, {**own, "base": "nowhere.yaml"})
    assert _load(tmp_path, {"base": "quickstart", "seed": 9}).model == load_recipe("quickstart").model
    with pytest.raises(RecipeError, match="is not YAML"):
        _load(tmp_path, "[" * 5000)
    with pytest.raises(RecipeError, match="is its own base"):
        _load(tmp_path, {**own, "base": "recipe.yaml"})


def test_a_recipe_that_comes_with_har_prune_is_found_by_name():
    assert load_recipe("quickstart").data.name_or_path == "synthetic"
    with pytest.raises(RecipeError, match=r"recipe quickstrt does not exist.*Did you mean 'quickstart'\?"):
        load_recipe("quickstrt")


_PLUGIN = """
from har_prune import register_criterion, register_family, Family
from har_prune.scoring.criteria.weights import L1Norm

@register_family("my_model")
def my_model(config):
    return Family("layers", "num_hidden_layers")

@register_criterion("my_criterion")
class Mine(L1Norm):
    pass
"""


def test_a_plugin_of_ones_own_is_loaded_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))
    monkeypatch.setattr(criteria, "_CRITERIA", dict(criteria._registered()))
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("")
    (tmp_path / "my_package" / "plugin.py").write_text(_PLUGIN)
    (tmp_path / "my_broken_plugin.py").write_text("1 / 0")
    (tmp_path / "my_ending_plugin.py").write_text("raise SystemExit(0)")
    recipe = _load(tmp_path, {**GOOD, "plugins": ["my_package.plugin"]}, "prune.criterion=my_criterion")
    assert recipe.plugins == ("my_package.plugin",)
    assert criteria.members("my_criterion") == ["my_criterion"]
    assert "my_model" in families.registered_families()
    with pytest.raises(RecipeError, match=r"plugin 'my_packge' cannot be imported.*lies in the working directory"):
        load_recipe(tmp_path / "recipe.yaml", plugins=["my_packge"])
    with pytest.raises(RecipeError, match="'my_broken_plugin' fails when it is imported: ZeroDivisionError"):
        load_recipe(tmp_path / "recipe.yaml", plugins=["my_broken_plugin"])
    with pytest.raises(RecipeError, match="'my_ending_plugin' fails when it is imported: SystemExit"):
        load_recipe(tmp_path / "recipe.yaml", plugins=["my_ending_plugin"])
