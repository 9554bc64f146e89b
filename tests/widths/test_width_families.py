"""The shared suite of widths: what holds for every family that has them, on its tiny model."""

import pytest
import torch
from families import CLOSE, OURS, TINY
from fresh import logits_in_fresh_process

from har_prune import count_macs, find_blocks, find_widths, remove_blocks, remove_units, save_pruned
from har_prune.blocks.equivalence import outputs_of
from har_prune.blocks.example_inputs import example_inputs
from har_prune.blocks.families import family_of
from har_prune.checkpoints.auto_class import auto_class_of
from har_prune.errors import NotRemovableError
from har_prune.pruning.config import WidthSettings
from har_prune.pruning.structures import UnitQueue, UnitRemoval
from har_prune.scoring.units import score_units
from har_prune.widths.rebuild import without_units

WIDE = [name for name, tiny in TINY.items() if family_of(tiny.make().config).widths]
PER_BLOCK = [name for name in WIDE if TINY[name].model_type in OURS]


def _selections(widths):
    """The first units of one kind, the last of every kind, and all but one; as many of each block where they must."""
    first = widths.together[0]
    last = {}
    for group in widths.together:
        width = widths.widths[group[0]]
        last |= {index: [width.units - 1] for index in group} if width.units - 1 in width.sizes else {}
    return {
        "some": {index: [0, 2] for index in first},
        "each": last,
        "floor": {w.index: range(w.sizes[0], w.units) for w in widths.widths},
    }


def test_the_families_that_the_issue_of_widths_named_have_them():
    named = {"har_transformer", "har_resnet", "cifar_resnet", "vit", "deit", "bert", "roberta", "distilbert"}
    assert named | {"llama", "qwen2", "qwen3", "gemma3_text"} <= {TINY[name].model_type for name in WIDE}


@pytest.mark.device
@pytest.mark.parametrize("name", WIDE)
def test_the_narrower_model_equals_the_original_with_the_units_masked(name):
    model = TINY[name].make()
    widths, inputs = find_widths(model), example_inputs(model, batch_size=3, seed=5)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    for selection in _selections(widths).values():
        narrower = remove_units(model, selection)
        with widths.masked(selection):
            masked = outputs_of(model, inputs)[0]
        torch.testing.assert_close(outputs_of(narrower, inputs)[0], masked, **CLOSE)
        assert not torch.equal(outputs_of(model, inputs)[0], masked), "the units do something"
        assert narrower.num_parameters() < model.num_parameters()
        found = find_widths(narrower)
        for width, left in zip(widths.widths, found.widths, strict=True):
            assert left.units == width.units - len(selection.get(width.index, ()))
            assert left.original_units == width.units
        assert type(narrower) is type(model)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items()), "the input is untouched"


@pytest.mark.device
@pytest.mark.parametrize("name", WIDE)
def test_the_work_of_units_is_counted_exactly(name):
    model = TINY[name].make()
    widths, inputs = find_widths(model), example_inputs(model, batch_size=1)
    for selection in _selections(widths).values():
        units = {index: list(some) for index, some in selection.items()}
        expected = count_macs(remove_units(model, selection), inputs)
        assert UnitRemoval(widths, units).macs_left(inputs) == expected < count_macs(model, inputs)


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory):
    """Outputs of every family's narrower networks: here, and in one fresh process without har_prune."""
    jobs, here = {}, {}
    for name in WIDE:
        model = TINY[name].make()
        widths = find_widths(model)
        both = remove_blocks(remove_units(model, _selections(widths)["some"]), [1])
        made = {which: remove_units(model, units) for which, units in _selections(widths).items()} | {"both": both}
        for which, narrower in made.items():
            folder = save_pruned(narrower, tmp_path_factory.mktemp(name) / which)
            inputs = example_inputs(narrower, seed=3)
            jobs[f"{name} {which}"] = (auto_class_of(narrower).__name__, folder, inputs)
            here[f"{name} {which}"] = outputs_of(narrower, inputs)[0].cpu()
    return here, logits_in_fresh_process(jobs, tmp_path_factory.mktemp("fresh")), jobs


@pytest.mark.device
@pytest.mark.parametrize("name", WIDE)
def test_a_saved_folder_loads_where_har_prune_is_not_importable(name, reloaded):
    here, fresh, jobs = reloaded
    for which in ("some", "each", "floor", "both"):
        job = f"{name} {which}"
        torch.testing.assert_close(fresh[job], here[job], **CLOSE)
        assert bool(list(jobs[job][1].glob("*.py"))) == (TINY[name].model_type in OURS), "a stock family stays stock"


@pytest.mark.device
@pytest.mark.parametrize("name", WIDE)
def test_blocks_and_units_go_one_after_the_other_and_the_config_remembers_both(name):
    model = TINY[name].make()
    widths = find_widths(model)
    before = {kind: list(units) for kind, units in widths.units.items()}
    stack = without_units(widths, _selections(widths)["some"])
    assert stack.removable == find_blocks(stack.model).removable
    shallower = remove_blocks(stack, [TINY[name].removable[1]])
    record = shallower.config.har_prune
    assert (record["removed_blocks"], record["original_depth"]) == ([TINY[name].removable[1]], len(stack))
    assert record["original_widths"] == before
    again = find_widths(shallower)
    narrower = remove_units(again, _selections(again)["each"])
    assert narrower.config.har_prune == record
    assert narrower.train()(**example_inputs(narrower, batch_size=4))[0].isfinite().all()


@pytest.mark.parametrize("ranking", ["network", "layer"])
@pytest.mark.parametrize("name", WIDE)
def test_a_queue_takes_the_least_important_units_until_enough_is_saved(name, ranking):
    model = TINY[name].make()
    widths, inputs = find_widths(model), example_inputs(model, batch_size=1)
    importance = score_units(widths, (), "random", seed=4)
    queue = UnitQueue(widths, importance, inputs, WidthSettings(ranking=ranking, min_units=2))
    macs = count_macs(model, inputs)
    removal = queue.saving(0.1 * macs)
    assert removal.macs_left(inputs) <= 0.9 * macs
    assert count_macs(removal.built(copy=True).model, inputs) == removal.macs_left(inputs)
    for index, units in removal.units.items():
        least = importance[index].argsort()[: len(units)].tolist()
        assert sorted(units) == sorted(least)
    assert all(w.units - len(removal.units.get(w.index, ())) >= 2 for w in widths.widths)
    assert queue.saving(macs, within=0.1) is None, "not everything can go"


@pytest.mark.parametrize("name", PER_BLOCK)
def test_older_configs_load_unchanged(name):
    config = TINY[name].make().config.to_dict()
    fields = [field for kind in family_of(TINY[name].make().config).widths for field in kind.fields]
    assert all(config.pop(field) is None for field in fields)
    type(TINY[name].make())(type(TINY[name].make().config)(**config))


@pytest.mark.parametrize("name", [name for name in TINY if name not in WIDE])
def test_a_family_without_widths_says_so(name):
    with pytest.raises(NotRemovableError, match=r"can be narrowed.*There are widths of bert, cifar_resnet"):
        find_widths(TINY[name].make())
