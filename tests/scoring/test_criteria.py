"""Each criterion against a formula of its own, on plainly removed or hooked networks in float64."""

import pytest
import torch
from families import TINY, cifar_resnet, har_resnet, har_transformer
from torch.nn.functional import cross_entropy

from har_prune import ScoringConfig, find_blocks, linear_cka, register_criterion, remove_blocks, score_blocks
from har_prune.blocks.example_inputs import example_inputs
from har_prune.errors import DataError, DegenerateFeaturesError, ShapeError, UnknownCriterionError
from har_prune.runtime.feature_hook import FeatureHook
from har_prune.scoring.criteria import base as registry
from har_prune.scoring.criteria import representation
from har_prune.scoring.criteria.base import Task, make_criterion, members
from har_prune.scoring.measurements import Measurements


def _batches(model, sizes=(8, 5), labels=True):
    batches = [example_inputs(model, batch_size=size, seed=seed) for seed, size in enumerate(sizes)]
    for batch in batches if labels else ():
        size = len(next(iter(batch.values())))
        batch["labels"] = torch.arange(size) % model.config.num_labels
    return batches


def _inputs(batch):
    return {key: value for key, value in batch.items() if key != "labels"}


def _losses(model, batches):
    with torch.no_grad():
        found = [cross_entropy(model(**_inputs(b)).logits, b["labels"], reduction="none") for b in batches]
    return torch.cat(found)


def _features(model, batches):
    seen = []
    head = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]
    handle = head.register_forward_pre_hook(lambda module, args: seen.append(args[0].flatten(1)))
    with torch.no_grad():
        for batch in batches:
            model(**_inputs(batch))
    handle.remove()
    return torch.cat(seen)


def _states(model, batches):
    """[(input, output) of each block], read by hooks; images as [N, pixels, channels]."""
    states = {index: ([], []) for index in range(len(find_blocks(model)))}
    handles = []
    for block in find_blocks(model).blocks:

        def hook(module, args, output, pair=states[block.index]):
            for kept, value in zip(pair, (args[0], output if torch.is_tensor(output) else output[0]), strict=True):
                kept.append(value.clone().flatten(2).mT if value.ndim == 4 else value.clone())

        handles.append(block.module.register_forward_hook(hook))
    with torch.no_grad():
        for batch in batches:
            model(**_inputs(batch))
    for handle in handles:
        handle.remove()
    return {index: tuple(map(torch.cat, pair)) for index, pair in states.items()}


@pytest.fixture(params=["har_transformer", "cifar_resnet"])
def model(request):
    return TINY[request.param].make().double()


def test_loss_increase_is_remove_and_measure(model):
    batches = _batches(model)
    whole = _losses(model, batches)
    for score in score_blocks(model, batches, criterion="loss_increase"):
        without = _losses(remove_blocks(model, [score.index]), batches)
        assert score.importance == pytest.approx((without - whole).mean().item(), abs=1e-10)


def test_block_influence_and_angular_distance_are_what_hooks_see(model):
    batches = _batches(model)
    states = _states(model, batches)
    scores = score_blocks(model, batches, criterion=["block_influence", "angular_distance"]).by_criterion
    for influence, angle in zip(scores["block_influence"], scores["angular_distance"], strict=True):
        before, after = states[influence.index]
        cosine = (before * after).sum(-1) / (before.norm(dim=-1) * after.norm(dim=-1)).clamp_min(1e-16)
        assert influence.importance == pytest.approx((1 - cosine).mean().item(), abs=1e-10)
        assert angle.importance == pytest.approx((cosine.clamp(-1, 1).acos() / torch.pi).mean().item(), abs=1e-7)


def test_states_of_a_series_are_compared_moment_by_moment_and_pooled_over_time():
    """[N, D, T], also where normalisation was folded into the convolutions."""
    model = har_resnet().double().eval()
    (batch,) = _batches(model, (8,))
    stack, seen = find_blocks(model), {}
    for block in stack.blocks:
        block.module.register_forward_hook(lambda _, args, out, at=block.index: seen.update({at: (args[0], out)}))
    with torch.no_grad():
        model(**_inputs(batch))
    found = {s.index: s.importance for s in score_blocks(model, [batch], criterion="block_influence")}
    for index in stack.removable:
        before, after = seen[index]
        cosine = torch.nn.functional.cosine_similarity(before, after, dim=1)  # over features, at every moment
        assert found[index] == pytest.approx(float((1 - cosine).mean()), abs=1e-9)
    name = stack.names[stack.removable[-1]]
    pooled, _ = FeatureHook(model, name).read(_inputs(batch))
    torch.testing.assert_close(pooled, seen[stack.removable[-1]][1].mean(-1))


def test_rbf_scales_do_not_depend_on_how_the_loader_cuts():
    model = har_transformer().double()
    batch = example_inputs(model, batch_size=80)
    cuts = {size: [{k: v[n : n + size] for k, v in batch.items()} for n in range(0, 80, size)] for size in (80, 5, 1)}
    found = {size: [s.importance for s in score_blocks(model, cut, criterion="cka_rbf")] for size, cut in cuts.items()}
    assert found[5] == pytest.approx(found[80], abs=1e-9)
    assert found[1] == pytest.approx(found[80], abs=1e-9)


def test_taylor_is_the_slope_of_the_loss_towards_the_identity(model):
    batches = _batches(model)
    blocks = find_blocks(model).blocks
    for score in score_blocks(model, batches, criterion="taylor"):
        step, changed = 1e-6, []
        for sign in (1, -1):

            def hook(module, args, output, part=sign * step):
                after = output if torch.is_tensor(output) else output[0]
                moved = after + part * (args[0] - after)
                return moved if torch.is_tensor(output) else (moved, *output[1:])

            handle = blocks[score.index].module.register_forward_hook(hook)
            changed.append(_losses(model, batches))
            handle.remove()
        slope = (changed[0] - changed[1]) / (2 * step)
        assert score.importance == pytest.approx(slope.abs().mean().item(), rel=1e-4, abs=1e-8)


def test_taylor_leaves_the_gradients_of_the_user_alone(model):
    score_blocks(model, _batches(model), criterion="taylor")
    assert all(parameter.grad is None for parameter in model.parameters())


def test_procrustes_and_rbf_follow_their_formulas(model):
    batches = _batches(model, (64, 40))
    scores = score_blocks(model, batches, criterion=["procrustes", "cka_rbf"]).by_criterion
    x = _features(model, batches)
    for procrustes, rbf in zip(scores["procrustes"], scores["cka_rbf"], strict=True):
        y = _features(remove_blocks(model, [procrustes.index]), batches)
        a, b = ((v - v.mean(0)) / (v - v.mean(0)).norm() for v in (x, y))
        assert procrustes.importance == pytest.approx(1 - torch.linalg.matrix_norm(a.T @ b, "nuc").item(), abs=1e-9)

        def kernel(v):
            scale = torch.pdist(v[:64]).median()
            k = torch.exp(-torch.cdist(v, v).square() / (2 * scale**2))
            return k - k.mean(0) - k.mean(1, keepdim=True) + k.mean()

        k, l = kernel(x), kernel(y)  # noqa: E741
        assert rbf.importance == pytest.approx(1 - ((k * l).sum() / (k.norm() * l.norm())).item(), abs=0.05)
        assert "random Fourier features" in rbf.estimator


def test_l1_norm_and_random_look_at_no_data():
    model = har_transformer()
    scores = score_blocks(model, [], criterion=["l1_norm", "random"]).by_criterion
    weights = [p.abs().flatten() for p in model.har_transformer.layers[2].parameters() if p.ndim > 1]
    assert scores["l1_norm"][2].importance == pytest.approx(torch.cat(weights).mean().item(), rel=1e-6)
    assert scores["l1_norm"][2].samples == 0
    again = score_blocks(model, [], criterion="random")
    assert [s.importance for s in again] == [s.importance for s in scores["random"]]
    other = score_blocks(model, [], criterion="random", config=ScoringConfig(seed=1))
    assert [s.importance for s in other] != [s.importance for s in again]
    few = score_blocks(model, [], criterion="random", candidates=[3])
    assert few[0].importance == again[3].importance, "a block keeps its number whatever else is scored"


def test_a_consensus_averages_ranks_by_block():
    model, name = har_transformer().double(), "consensus(cka, taylor, l1_norm)"
    scores = score_blocks(model, _batches(model), criterion=[name, "cka", "taylor", "l1_norm"]).by_criterion
    ranks = torch.zeros(4, dtype=torch.float64)
    for part in ("cka", "taylor", "l1_norm"):
        order = sorted(range(4), key=lambda index: scores[part][index].importance)
        for rank, index in enumerate(order):
            ranks[index] += rank / 3 / 3
    assert [s.importance for s in scores[name]] == pytest.approx(ranks.tolist())
    with pytest.raises(UnknownCriterionError, match=r"name the criteria whose ranks to average"):
        members("consensus(cka)")
    with pytest.raises(UnknownCriterionError, match=r"unknown criterion 'taylr'.*Did you mean 'taylor'"):
        members("consensus(cka, taylr)")


def test_criteria_share_one_pass():
    model = har_transformer()
    seen = 0

    def counting(batches):
        nonlocal seen
        for batch in batches:
            seen += 1
            yield batch

    names = ["cka", "cka_debiased", "procrustes", "loss_increase", "taylor"]
    assert list(score_blocks(model, counting(_batches(model)), names).by_criterion) == names
    assert seen == 2


def test_labels_are_asked_for_by_name():
    model = cifar_resnet()
    for criterion in ("taylor", "loss_increase"):
        with pytest.raises(DataError, match=r"needs labels.*a batch has pixel_values.*e\.g\. cka"):
            score_blocks(model, _batches(model, labels=False), criterion=criterion)


def test_a_wide_representation_is_sketched_and_says_so(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn((1, 400, 6000), generator=generator, dtype=torch.float64)
    wide = wide * torch.linspace(3, 0.01, 6000)
    without = torch.cat([wide + 0.3 * torch.randn(wide.shape, generator=generator) * wide.std(), wide.roll(1, 1)])
    measurements = Measurements((0, 1), wide, without)
    criterion = make_criterion("cka", Task([None, None], seed=0))
    criterion.start(measurements)
    assert "count sketch of 6000 to 1024 columns" in criterion.estimator
    sums = [value[:, 0] for value in criterion.statistics(measurements.rows(torch.arange(400)[None]))]
    assert max(value.numel() for value in sums) <= 2 * 1024**2
    for block in (0, 1):
        x, y = (v - v.mean(0) for v in (wide[0], without[block]))
        k, l = x @ x.T, y @ y.T  # noqa: E741
        exact = 1 - ((k * l).sum() / (k.norm() * l.norm())).item()
        estimate = criterion.importance([value[: 1 if len(value) == 1 else None][[block if len(value) > 1 else 0]]
                                         for value in sums]).item()  # fmt: skip
        assert estimate == pytest.approx(exact, abs=2 * representation.sketch_error(1024))


def test_moments_beyond_the_budget_are_sketched_too(monkeypatch):
    model = har_transformer()
    exact = score_blocks(model, _batches(model, (64, 64)))
    monkeypatch.setattr(representation, "BUDGET_BYTES", 40_000)
    sketched = score_blocks(model, _batches(model, (64, 64)))
    assert exact[0].estimator == "exact"
    assert "count sketch of 32 to 23 columns" in sketched[0].estimator
    assert [s.importance for s in sketched] == pytest.approx([s.importance for s in exact], abs=0.3)
    with pytest.raises(ShapeError, match=r"procrustes of 4 candidates with 32 features.*or cka"):
        score_blocks(model, _batches(model), criterion="procrustes")


def test_a_bootstrap_interval_holds_the_score():
    model = har_transformer()
    with torch.no_grad():  # blocks that matter so differently that each interval holds one score alone
        for layer, size in zip(model.har_transformer.layers, (20.0, 9.0, 4.0, 1.0), strict=True):
            layer.attention.output.weight *= size
            layer.feed_forward[2].weight *= size
    batches = _batches(model, (64, 64, 64, 64))
    config = ScoringConfig(interval=0.95)
    scores = score_blocks(
        model, batches, criterion=["cka", "taylor", "l1_norm", "consensus(cka, taylor)"], config=config
    ).by_criterion
    for name, column in scores.items():
        for score in column:
            low, high = score.interval
            held = [other.index for other in column if low * (1 - 1e-9) <= other.importance <= high * (1 + 1e-9)]
            assert held == [score.index] or name.startswith("consensus")
            assert score.index in held
            assert (low == high) == (name == "l1_norm") or name.startswith("consensus")
    wider = score_blocks(model, batches, config=ScoringConfig(interval=0.99))[0].interval
    assert wider[0] < scores["cka"][0].interval[0]
    assert wider[1] > scores["cka"][0].interval[1]
    assert score_blocks(model, batches)[0].interval is None


@pytest.mark.parametrize("mean", [0.0, 3.0, 1e3])
def test_weights_of_groups_give_what_their_weighted_sums_give(mean):
    criterion = make_criterion("cka", Task([None]))
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn((2, 1, 320, 12), generator=generator, dtype=torch.float64)
    measurements = Measurements((0,), x + mean, x + 0.5 * noise - mean / 2)
    statistics = [total[0] for total in criterion.statistics(measurements.rows(torch.arange(320).view(32, 10)))]
    weights = torch.randint(4, (50, 32), generator=generator).double()
    exact = []
    for weighting in weights:
        rows = torch.repeat_interleave(torch.arange(320), weighting.long().repeat_interleave(10))
        one, other = measurements.reference[0, rows] - mean, measurements.without[0, rows] + mean / 2
        exact.append(1 - linear_cka(one, other))
    torch.testing.assert_close(
        criterion.of_groups(statistics, weights), torch.tensor(exact).double(), rtol=1e-7, atol=0
    )


def test_a_class_with_another_importance_has_intervals_of_its_own(own_criteria):
    class Twice(registry._CRITERIA["cka"]):
        def importance(self, statistics):
            return 2 * super().importance(statistics)

    register_criterion("twice")(Twice)
    model = har_transformer()
    config = ScoringConfig(interval=0.9)
    scores = score_blocks(model, _batches(model, (64, 64)), ["cka", "twice", "cka_debiased"], config=config)
    for one, two in zip(scores["cka"], scores["twice"], strict=True):
        assert two.interval == pytest.approx([2 * bound for bound in one.interval], rel=1e-6)
    assert all(score.interval[0] < score.importance < score.interval[1] for score in scores["cka_debiased"])


def test_an_interval_covers_the_truth_as_often_as_it_says():
    """Means of known numbers: 90 % intervals over 200 draws of 256 rows."""
    from har_prune.scoring.criteria.block import MeanCriterion
    from har_prune.scoring.statistics import GROUPS, GroupedStatistics, grouped

    criterion, covered = MeanCriterion(Task([])), 0
    for seed in range(200):
        values = torch.rand((1, 256), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        measurements = Measurements((0,), values[..., None], values[..., None], {"x": values})
        whole = measurements.rows(torch.arange(256)[None]).of("x")
        statistics = GroupedStatistics(criterion.statistics(whole), GROUPS)
        for groups, rows in grouped(torch.arange(256), GROUPS):
            statistics.add(groups, criterion.statistics(measurements.rows(rows).of("x")))
        low, high = torch.quantile(statistics.resampled(0, criterion, seed), torch.tensor([0.05, 0.95]).double())
        covered += int(low <= 0.5 <= high)
    assert 165 <= covered <= 194


def test_a_failing_criterion_names_the_block():
    model = har_transformer()
    with torch.no_grad():
        model.har_transformer.layers[2].feed_forward[0].weight.fill_(float("nan"))
    with pytest.raises(DegenerateFeaturesError, match=r"block 2 \('har_transformer.layers.2'\) has no score by 'l1_n"):
        score_blocks(model, [], criterion="l1_norm")
    with pytest.raises(DegenerateFeaturesError, match=r"block \d .* has no score by 'block_influence'.*NaN"):
        score_blocks(model, _batches(model), criterion="block_influence")


@pytest.fixture
def own_criteria(monkeypatch):
    """Criteria a test registers are gone afterwards."""
    monkeypatch.setattr(registry, "_CRITERIA", dict(registry._registered()))


class _Plain:
    """A class with the documented members and no base class."""

    needs = "hidden_states"

    def __init__(self, task):
        self.blocks = task.blocks

    def start(self, first):
        assert first.own.shape == (len(self.blocks), 2)

    def of_block(self, before, after, mask, gradient):
        return (after - before).double().square().sum((1, 2))

    def statistics(self, measurements):
        values = measurements.own
        return [values.new_full((1, values.shape[1]), values.shape[2]), values.sum(2)]

    def importance(self, sums):
        return sums[1] / sums[0]


def test_a_class_that_follows_the_protocol_works(own_criteria):
    register_criterion("energy")(_Plain)
    register_criterion("energy_again")(type("Again", (_Plain,), {}))
    register_criterion("consensus_of_mine")(type("Mine", (_Plain,), {}))
    model = har_transformer().double()
    batches = _batches(model)
    states = _states(model, batches)
    scores = score_blocks(model, batches, criterion=["energy", "energy_again", "consensus_of_mine"]).by_criterion
    assert [s.importance for s in scores["consensus_of_mine"]] == [s.importance for s in scores["energy"]], "no ranks"
    for first, second in zip(scores["energy"], scores["energy_again"], strict=True):
        before, after = states[first.index]
        expected = (after - before).square().sum((1, 2)).mean().item()
        assert first.importance == second.importance == pytest.approx(expected, rel=1e-10)
        assert first.estimator == "exact"


@pytest.mark.parametrize(
    "statistics",
    [
        lambda self, m: [m.own.new_full((1, m.own.shape[1]), m.own.shape[2]), m.own.mean(2)],  # means do not add up
        lambda self, m: [m.own.new_full((1,), m.own.shape[1]), m.own.sum(1)],  # groups mixed: what 0.1 asked for
    ],
)
def test_statistics_that_do_not_add_up_are_refused_before_anything_is_summed(own_criteria, statistics):
    register_criterion("mine")(type("Mine", (_Plain,), {"statistics": statistics}))
    model = har_transformer()
    with pytest.raises(TypeError, match=r"criterion 'mine': its statistics do not add up.*\[C, G, \.\.\.\]"):
        score_blocks(model, _batches(model), criterion="mine")


def test_several_criteria_of_one_kind_share_a_pass(own_criteria):
    register_criterion("loss_twice")(type("Twice", (registry._CRITERIA["loss_increase"],), {}))
    model = har_transformer().double()
    scores = score_blocks(model, _batches(model), criterion=["loss_increase", "loss_twice"]).by_criterion
    alone = score_blocks(model, _batches(model), criterion="loss_increase")
    for name in scores:
        assert [s.importance for s in scores[name]] == [s.importance for s in alone]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"needs": "featuers"}, r"needs = 'featuers'; choose from features.*Did you mean 'features'\?"),
        ({}, "needs = None; choose from"),
        ({"needs": "nothing"}, "needs 'nothing' and has no value"),
        ({"needs": "gradients", "start": print, "importance": print}, "has no statistics, of_block"),
    ],
)
def test_what_a_criterion_lacks_is_said_when_it_is_registered(own_criteria, members, message):
    with pytest.raises(TypeError, match=message):
        register_criterion("mine")(type("Mine", (), members))
    assert "mine" not in registry._CRITERIA


@pytest.mark.parametrize("criterion", ["taylor", "loss_increase"])
def test_examples_without_a_label_are_refused_and_not_counted_as_no_loss(criterion):
    model = har_transformer()
    batches = _batches(model)
    batches[0]["labels"][:] = -100
    with pytest.raises(DataError, match=r"labels go from -100.*leave out examples without a label"):
        score_blocks(model, batches, criterion=criterion)


def test_the_former_name_of_statistics_still_works(own_criteria):
    members = {name: value for name, value in vars(_Plain).items() if name != "statistics"}
    former = type("Former", (), {**members, "sums": _Plain.statistics})
    with pytest.warns(DeprecationWarning, match="`sums` is now called `statistics`"):
        register_criterion("former")(former)
    model = har_transformer()
    assert len(score_blocks(model, _batches(model), criterion="former")) == 4
