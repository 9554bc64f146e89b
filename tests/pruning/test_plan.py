import pytest
from families import cifar_resnet, har_resnet, har_transformer
from pydantic import ValidationError

from har_prune import PruneConfig, Target, find_blocks, remove_blocks
from har_prune.blocks.example_inputs import example_inputs
from har_prune.errors import NotRemovableError, UnreachableTargetError
from har_prune.evaluation.cost import Cost
from har_prune.evaluation.latency import Latency
from har_prune.pruning.plan import candidates, check_settings, protected_blocks


def _config(**fields):
    return PruneConfig(**{"target": {"macs_reduction": 0.2}, **fields})


def test_the_papers_guards_on_resnet_56():
    model = cifar_resnet(depths=[9, 9, 9], hidden_sizes=[4, 4, 4])
    config = _config(guards="paper")
    allowed = candidates(find_blocks(model), config, set())
    assert len(allowed) == 24
    assert not {0, 9, 18} & set(allowed)
    removals = 0
    while allowed:
        model = remove_blocks(model, allowed[:1])
        removals += 1
        allowed = candidates(find_blocks(model), config, set())
    assert removals == 21
    assert model.config.depths == [2, 2, 2]


def test_protected_blocks_stay_by_index_and_by_name_also_after_removals():
    model = har_transformer(5)
    protected = protected_blocks(find_blocks(model), [1, "har_transformer.layers.3"])
    assert protected == {1, 3}
    smaller = remove_blocks(model, [0])
    assert candidates(find_blocks(smaller), _config(), protected) == [1, 3]  # originally 2 and 4
    with pytest.raises(NotRemovableError, match=r"Did you mean 'har_transformer.layers.3'\?"):
        protected_blocks(find_blocks(model), ["har_transformer.layer.3"])
    with pytest.raises(NotRemovableError, match="block 5 does not exist: this model has 0-4"):
        protected_blocks(find_blocks(model), [5])


def test_as_many_blocks_as_there_are_need_none_that_can_go():
    model = har_resnet(depths=[1, 1, 1])
    stack = find_blocks(model)
    assert stack.removable == []
    check_settings(stack, _config(target={"blocks": 3}), example_inputs(model))
    with pytest.raises(UnreachableTargetError, match="no block may be removed"):
        check_settings(stack, _config(target={"blocks": 2}), example_inputs(model))


def test_a_target_out_of_reach_says_what_is_in_reach():
    model = har_transformer()
    inputs = example_inputs(model)
    with pytest.raises(
        UnreachableTargetError, match=r"macs_reduction=0.9 cannot be reached.*at most 0\.\d+"
    ) as caught:
        check_settings(find_blocks(model), _config(target={"macs_reduction": 0.9}), inputs)
    advised = float(str(caught.value).split("at most ")[1].split(",")[0])
    check_settings(find_blocks(model), _config(target={"macs_reduction": advised}), inputs)
    with pytest.raises(UnreachableTargetError, match=r"blocks=1 cannot be reached.*\(2 of 4 blocks\) has 2"):
        check_settings(find_blocks(model), _config(target={"blocks": 1}, min_blocks_per_stage=2), inputs)
    with pytest.raises(UnreachableTargetError, match="this network has 4 blocks"):
        check_settings(find_blocks(model), _config(target={"blocks": 5}), inputs)
    check_settings(find_blocks(model), _config(target={"blocks": 4}), inputs)  # a plain training
    with pytest.raises(UnreachableTargetError, match=r"no block may be removed.*4 protected blocks"):
        check_settings(find_blocks(model), _config(protected=(0, 1, 2, 3)), inputs)


def test_a_target_has_one_goal():
    with pytest.raises(ValidationError, match="at least one of"):
        Target()
    before, after = Cost(100, 1000, 2**20, 0), Cost(50, 600, 2**19, 0, Latency(2.0, 2.2, 1, 1, "cpu", "float32"))
    assert Target(macs_reduction=0.5).is_met(before, after, 9)
    assert not Target(min_accuracy=0.5).is_met(before, after, 1)


@pytest.mark.parametrize(
    ("holds", "does_not"),
    [
        ({"macs_reduction": 0.5}, {"macs_reduction": 0.51}),
        ({"parameters": 600}, {"parameters": 599}),
        ({"size_mib": 0.5}, {"size_mib": 0.499}),
        ({"blocks": 3}, {"blocks": 2}),
        ({"latency_ms": 2.1}, {"latency_ms": {"at_most": 2.0}}),
    ],
)
def test_all_budgets_have_to_hold_and_a_latency_by_its_interval(holds, does_not):
    latency = Latency(2.0, 2.2, 1, 1, "cpu", "float32", interval_ms=(1.95, 2.05))
    before, after = Cost(100, 1000, 2**20, 0), Cost(50, 600, 2**19, 0, latency)
    assert Target(**holds).is_met(before, after, 3)
    assert not Target(**does_not).is_met(before, after, 3)
    others = {"macs_reduction": 0.4, "parameters": 700, "size_mib": 0.6, "blocks": 4, "latency_ms": 3}
    assert Target(**{**others, **holds}).is_met(before, after, 3)
    assert list(Target(**{**others, **does_not}).unmet(before, after, 3)) == list(does_not)
