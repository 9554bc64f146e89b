import pytest
import torch
from accelerate import Accelerator, debug_launcher
from families import DECODERS, TINY, cifar_resnet, har_transformer, llama
from torch.utils.data import DataLoader, IterableDataset
from transformers.modeling_outputs import SequenceClassifierOutput

from har_prune import (
    ExecutionPlan,
    HarTransformerForSequenceClassification,
    ScoringConfig,
    find_blocks,
    register_criterion,
    remove_blocks,
    score_blocks,
)
from har_prune.blocks.example_inputs import example_inputs
from har_prune.errors import (
    DataError,
    DegenerateFeaturesError,
    NotRemovableError,
    ShapeError,
    UnknownCriterionError,
)
from har_prune.runtime.devices import exact_float32
from har_prune.runtime.feature_hook import FeatureHook
from har_prune.runtime.replica import fold_batch_norm
from har_prune.scoring import measure
from har_prune.scoring.ablation import BlockAblation
from har_prune.scoring.criteria.base import Task, make_criterion

_CKA = {"cka": make_criterion("cka", Task([]))}


def _batches(model, sizes=(8, 8, 5)):
    return [example_inputs(model, batch_size=size, seed=seed) for seed, size in enumerate(sizes)]


def _plain_cka(x, y):
    x, y = x.double() - x.double().mean(0), y.double() - y.double().mean(0)
    return ((x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())).item()


@torch.no_grad()
def _features(model, batches):
    """The classifier's input, read without the code under test."""
    seen = []
    heads = {"PatchTSMixerForTimeSeriesClassification": "head.projection"}  # elsewhere the last layer of all
    named = heads.get(type(model).__name__)
    head = model.get_submodule(named) if named else [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]
    handle = head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for batch in batches:
        model(**batch)
    handle.remove()
    # A language model has a hidden state for each token; its representation is their mean.
    return torch.cat([value if value.ndim == 2 else value.mean(1) for value in seen])


@pytest.mark.device
@pytest.mark.parametrize("name", TINY)
def test_equals_removing_each_block_and_running_again(name):
    # In float64: of float32 scores, also of plainly computed ones, rounding leaves about seven digits.
    model = TINY[name].make().double()
    batches, stack = _batches(model), find_blocks(model)
    reference = _features(model, batches)
    scores = score_blocks(model, batches)
    assert [score.index for score in scores] == TINY[name].removable
    for score in scores:
        without = _features(remove_blocks(model, stack.removal_group(score.index)), batches)
        # The norms of Llama, Qwen and Gemma compute in float32 whatever they are given.
        tolerance = 1e-7 if name in DECODERS else 1e-9
        assert score.importance == pytest.approx(1 - _plain_cka(reference, without), abs=tolerance)
        assert score.samples == 21


@pytest.mark.device
@pytest.mark.parametrize("name", TINY)
def test_every_family_goes_through_in_one_forward(name):
    model = TINY[name].make()
    sweep = BlockAblation(find_blocks(model), TINY[name].removable, _CKA)
    with torch.no_grad(), exact_float32(True):
        sweep.check_stacking(example_inputs(model, batch_size=3))
    assert sweep.stacks


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "wav2vec2", "har_transformer"])
def test_padded_batches_are_scored_like_removing_and_running_again(name):
    model = TINY[name].make().double()
    batches, key = _batches(model, (5, 4)), model.main_input_name
    for batch in batches:
        mask = torch.ones(batch[key].shape[:2], dtype=torch.long)
        for row in range(len(mask)):
            mask[row, mask.shape[1] - 1 - row :] = 0
        batch["attention_mask"] = mask

    def features(network):
        return torch.cat([FeatureHook(network).read(batch)[0] for batch in batches])

    with torch.no_grad():
        reference = features(model)
        for score in score_blocks(model, batches):
            without = features(remove_blocks(model, [score.index]))
            assert score.importance == pytest.approx(1 - _plain_cka(reference, without), abs=1e-7)


def test_the_sweep_runs_only_the_blocks_behind_each_candidate():
    model = har_transformer(6)
    sweep = BlockAblation(find_blocks(model), range(6), _CKA)
    with torch.no_grad():
        measurements = sweep.run(example_inputs(model, batch_size=2))
    assert measurements.blocks == tuple(range(6))
    assert sweep.block_evaluations == 2 * (6 + (5 + 4 + 3 + 2 + 1 + 0))  # removing and re-running: 6 + 6 * 5


class _SumOfLayers(HarTransformerForSequenceClassification):
    """Reads every hidden state at its head: a prefix handed through would be read as well."""

    def forward(self, input_values, **kwargs):
        hidden_states = self.har_transformer(input_values, output_hidden_states=True).hidden_states
        return SequenceClassifierOutput(logits=self.classifier(sum(hidden_states).mean(dim=1)))


def test_a_model_that_cannot_be_stacked_is_scored_all_the_same():
    model = _SumOfLayers(har_transformer(3).config).eval()
    batches = _batches(model)
    sweep = BlockAblation(find_blocks(model), range(3), _CKA)
    with torch.no_grad(), pytest.warns(UserWarning, match="runs by itself, which takes twice as long"):
        sweep.check_stacking(batches[0])
    assert not sweep.stacks
    reference = _features(model, batches)
    for score in score_blocks(model, batches):
        with find_blocks(model).bypassed([score.index]):
            without = _features(model, batches)
        assert score.importance == pytest.approx(1 - _plain_cka(reference, without), abs=1e-9)


def test_a_forward_that_fails_for_many_networks_is_run_for_each(monkeypatch):
    """A table with as many rows as there are networks and examples, say, which would be taken for a batch."""
    model = har_transformer()
    batches = _batches(model, (8, 5))
    expected = [score.importance for score in score_blocks(model, batches)]
    real = BlockAblation._forward

    def forward(self, inputs, labels, networks):
        if networks > 1 and len(inputs["input_values"]) == 5:
            raise RuntimeError("The size of tensor a (25) must match the size of tensor b (5)")
        return real(self, inputs, labels, networks)

    monkeypatch.setattr(BlockAblation, "_forward", forward)
    with pytest.warns(UserWarning, match=r"takes twice as long: The size of tensor a"):
        found = score_blocks(model, batches)
    assert [score.importance for score in found] == pytest.approx(expected, abs=1e-9)


def test_a_vocabulary_nobody_reads_is_not_computed():
    model, rows = llama(), []
    model.lm_head.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    score_blocks(model, _batches(model, (8,)))
    assert rows, "some are seen while the forward is looked at"
    assert max(rows) == 2


def test_batches_of_one_example_go_through_in_one_forward_too():
    model = har_transformer().double()
    alone = score_blocks(model, _batches(model, (1,) * 5))
    assert alone.block_evaluations == 5 * (4 + 3 + 2 + 1)
    together = {key: torch.cat([batch[key] for batch in _batches(model, (1,) * 5)]) for key in ("input_values",)}
    assert [s.importance for s in alone] == pytest.approx([s.importance for s in score_blocks(model, [together])])


def test_a_module_named_that_never_runs_is_said_to():
    model = har_transformer()
    with pytest.raises(ShapeError, match="does not run in a forward"):
        score_blocks(model, _batches(model, (4,)), representation="har_transformer.layers")


def test_a_batch_that_is_no_dict_is_named():
    data = torch.utils.data.TensorDataset(torch.randn(8, 32, 6))
    with pytest.raises(DataError, match="a batch is a list, and a dict is wanted"):
        score_blocks(har_transformer(), DataLoader(data, batch_size=4))


def test_a_model_that_needs_too_much_memory_is_measured_in_smaller_parts(monkeypatch):
    model = har_transformer()
    batches, real, sizes = _batches(model, (16, 16)), BlockAblation.run, []

    def run(self, batch):
        sizes.append(len(batch["input_values"]))
        if sizes[-1] > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, batch)

    config = ScoringConfig(execution_plan=ExecutionPlan(micro_batch=16))
    expected = score_blocks(model, batches, config=config)
    monkeypatch.setattr(BlockAblation, "run", run)
    found = score_blocks(model, batches, config=config)
    assert [s.importance for s in found] == pytest.approx([s.importance for s in expected], abs=1e-9)
    assert (found.samples, found.execution_plan.micro_batch) == (32, 4)
    assert sizes[-4:] == [4, 4, 4, 4], "those that follow are as small"
    monkeypatch.setattr(BlockAblation, "run", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("one")))
    with pytest.raises(torch.OutOfMemoryError, match="one"):
        score_blocks(model, batches, config=config)


def test_float32_is_no_tf32_while_scoring(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    seen, real = [], BlockAblation.run

    def run(self, batch):
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
        return real(self, batch)

    def fold(*given):
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
        folded.append(fold_batch_norm(*given))

    folded = []
    monkeypatch.setattr(BlockAblation, "run", run)
    monkeypatch.setattr(measure, "fold_batch_norm", fold)
    model = cifar_resnet()
    score_blocks(model, _batches(model, (4,)))
    assert set(seen) == {(False, False)}
    assert folded, "batch normalisation in front of a rounded convolution would not pass for equal"
    assert torch.backends.cudnn.allow_tf32, "what was set comes back"


def test_what_each_criterion_takes_is_counted():
    model = har_transformer()
    batches = [{**batch, "labels": torch.zeros(8, dtype=torch.long)} for batch in _batches(model, (8,))]
    scores = score_blocks(model, batches, ["cka", "block_influence", "taylor", "l1_norm"])
    assert [(cost.forward, cost.backward) for cost in scores.costs.values()] == [
        (4 + 3 + 2 + 1, 0),
        (4, 0),
        (4, 4),
        (0, 0),
    ]
    assert scores.costs["cka"].bytes >= (2 * 4 + 1) * 32**2 * 8
    assert scores.costs["l1_norm"].bytes == 0
    assert list(scores["taylor"]) == list(scores)[8:12]
    assert scores.least("taylor")[0] == min(scores["taylor"], key=lambda score: score.importance).index


def test_scoring_leaves_the_model_as_it_was():
    model = cifar_resnet().train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    score_blocks(model, _batches(model))
    assert model.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all("forward" not in block.module.__dict__ for block in find_blocks(model).blocks)


def test_another_reference_and_another_representation():
    model = har_transformer()
    batches = _batches(model)
    smaller = remove_blocks(model, [3])
    reference = _features(model, batches)
    for score in score_blocks(smaller, batches, reference=model):
        without = _features(remove_blocks(smaller, [score.index]), batches)
        # In float32, whose last bits follow from how many rows go through at once, which a clock chooses.
        assert score.importance == pytest.approx(1 - _plain_cka(reference, without), abs=1e-7)
    inside = score_blocks(model, batches, representation="har_transformer.layers.2", candidates=[1])
    assert [score.index for score in inside] == [1]
    assert inside[0].importance != score_blocks(model, batches, candidates=[1])[0].importance


def test_padding_is_left_out_of_a_pooled_sequence():
    model = har_transformer()
    batch = example_inputs(model, batch_size=4)
    batch["attention_mask"] = torch.ones(4, 32, dtype=torch.long)
    batch["attention_mask"][:, 20:] = 0
    changed = {**batch, "input_values": batch["input_values"].clone()}
    changed["input_values"][:, 20:] = 1e3
    with torch.no_grad():
        assert torch.equal(FeatureHook(model).read(batch)[0], FeatureHook(model).read(changed)[0])


def test_bad_input_is_named():
    model = har_transformer()
    batches = _batches(model)
    with pytest.raises(UnknownCriterionError, match=r"unknown criterion 'cka_debiassed'.*Did you mean 'cka_debiased'"):
        score_blocks(model, batches, criterion="cka_debiassed")
    assert len(score_blocks(model, batches, criterion="cka_debiased")) == 4
    with pytest.raises(ShapeError, match=r"Did you mean 'har_transformer.norm'\?"):
        score_blocks(model, batches, representation="har_transformer.nrm")
    with pytest.raises(NotRemovableError, match="block 9 does not exist"):
        score_blocks(model, batches, candidates=[9])
    with pytest.raises(DataError, match="there are 0 calibration samples"):
        score_blocks(model, [])
    with pytest.raises(ShapeError, match="at least 2 calibration samples; there are 1"):
        score_blocks(model, [example_inputs(model, batch_size=1)])
    with torch.no_grad():
        model.har_transformer.layers[2].feed_forward[0].weight.fill_(float("nan"))
    with pytest.raises(DegenerateFeaturesError, match=r"block 0 \('har_transformer.layers.0'\) has no score.*NaN"):
        score_blocks(model, batches)


def test_a_criterion_is_registered_once():
    with pytest.raises(ValueError, match="registered already"):
        register_criterion("cka")(list)


SIZES = [(40, 40, 17), (1, 1, 1), (2, 7)]  # also a process without any example, and an uneven end


def _scores_in_processes(path):
    torch.set_num_threads(1)  # a forked process cannot use the OpenMP threads of its parent
    torch.manual_seed(0)
    model = har_transformer().double()
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    found = [_numbers(model, sizes, accelerator) for sizes in SIZES]
    with pytest.raises(DataError, match=r"1 calibration samples for 2 process\(es\)"):
        score_blocks(model, _batches(model, (1,)), accelerator=accelerator)
    if accelerator.is_main_process:
        torch.save(found, path)


def _numbers(model, sizes, accelerator=None):
    """Every importance, and where there are enough examples its interval."""
    batches = _batches(model, sizes)
    batches = [{**batch, "labels": torch.arange(size) % 3} for batch, size in zip(batches, sizes, strict=True)]
    config = ScoringConfig(interval=0.9 if sum(sizes) > 64 else None)
    names = ["cka", "taylor"] if config.interval else ["cka", "cka_rbf", "procrustes", "taylor"]
    scores = score_blocks(model, batches, criterion=names, accelerator=accelerator, config=config).by_criterion
    assert {score.samples for column in scores.values() for score in column} == {sum(sizes)}
    return [number for name in names for s in scores[name] for number in (s.importance, *(s.interval or ()))]


def test_two_processes_score_like_one(tmp_path):
    debug_launcher(_scores_in_processes, (tmp_path / "scores.pt",), num_processes=2)
    torch.manual_seed(0)
    model = har_transformer().double()
    for sizes, found in zip(SIZES, torch.load(tmp_path / "scores.pt"), strict=True):
        assert found == pytest.approx(_numbers(model, sizes), abs=1e-9)


def test_batches_may_be_a_stream_without_a_length():
    model = har_transformer()
    batches = [example_inputs(model, batch_size=8, seed=seed) for seed in range(3)]

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(batches)

    streamed = score_blocks(model, DataLoader(Stream(), batch_size=None))
    assert [s.importance for s in streamed] == pytest.approx([s.importance for s in score_blocks(model, batches)])
