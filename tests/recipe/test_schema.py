import pytest
import yaml

from har_prune.errors import RecipeError
from har_prune.recipe.schema import load_recipe

GOOD = {
    "output_dir": "runs/x",
    "data": {"name_or_path": "synthetic", "protocol": "holdout", "test_subjects": ["s12"]},
    "model": {"config": {"model_type": "har_transformer"}},
    "train": {"epochs": 1},
    "prune": {"target": {"macs_reduction": 0.5}},
    "heal": {"epochs": 1, "final": {"epochs": 2}},
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
        "heal": {"epochs": 1, "final": {"epoch": 2, "epochs": 1}},
        "prune": {"target": {"blocks": 2, "macs_reduction": 0.5}, "criterion": 3},
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
        "prune.target: give macs_reduction or blocks, not both",
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
