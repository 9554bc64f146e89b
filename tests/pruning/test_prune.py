import json
import multiprocessing

import pytest
import torch
from datasets import Dataset
from families import TINY, classifier, har_transformer, swin
from tiny_data import loader
from torch.utils.data import DataLoader, TensorDataset
from transformers import GPT2ForSequenceClassification

from har_prune import HealConfig, PruneConfig, PruningHistory, find_blocks, prune, score_blocks, train_model
from har_prune.errors import (
    DataError,
    NotRemovableError,
    OutputFolderError,
    UnknownCriterionError,
    UnreachableTargetError,
)
from har_prune.pruning.store import RunFolder
from har_prune.reporting.trajectory import plot_trajectory, trajectory_markdown


@pytest.fixture(scope="module")
def parent():
    torch.manual_seed(5)  # a fixture of a module comes before the seed of each test
    model = har_transformer(5, hidden_dropout_prob=0.0)
    train_model(model, loader(96, 0, shuffle=True), None, HealConfig(epochs=12, learning_rate=3e-3), seed=1)
    return model


def _prune(parent, **fields):
    config = PruneConfig(**{"target": {"blocks": 3}, "evaluate": {"latency": False}, **fields})
    train = loader(96, 0, shuffle=True) if config.heal else None
    return prune(parent, train, list(loader(32, 1)), {"validation": loader(48, 2), "test": loader(48, 3)}, config)


def test_prunes_to_a_depth_and_records_everything(parent):
    result = _prune(parent, heal=HealConfig(epochs=2, distill=True, when=1), target={"blocks": 3})
    history = result.history
    assert len(find_blocks(result.model)) == 3
    assert result.model.config.har_prune["removed_blocks"] == sorted(history.removed)
    assert [len(step.remaining) for step in history.iterations] == [5, 4, 3]
    assert history.iterations[0].removed == ()
    for step in history.iterations[1:]:
        least = min(step.scores, key=lambda score: score.importance)
        assert step.removed == (least.block,)
        assert step.calibration.samples == 32
        assert step.healing.samples_seen == 2 * 96
        assert set(step.metrics) == {"validation", "test"}
    assert history.iterations[0].metrics["test"].accuracy > 0.9, "the parent has learned the task"
    assert history.iterations[-1].metrics["test"].accuracy > 0.9, "healing keeps it"
    assert PruningHistory.from_json(json.loads(json.dumps(history.to_json()))) == history
    assert len(find_blocks(parent)) == 5, "the input is untouched"


def test_no_more_examples_are_scored_than_the_settings_say(parent):
    few = _prune(parent, target={"blocks": 4}, calibration={"samples": 20}).history.steps[1]
    assert few.calibration.samples == 20
    every = list(loader(32, 1))
    cut = [{name: torch.cat([batch[name] for batch in every])[:20] for name in every[0]}]
    alone = score_blocks(find_blocks(parent), cut, candidates=[score.block for score in few.scores])
    assert [score.importance for score in few.scores] == pytest.approx([score.importance for score in alone], abs=1e-6)


def test_the_macs_target_and_healing_at_intervals(parent):
    result = _prune(parent, target={"macs_reduction": 0.55}, heal=HealConfig(epochs=0.5, when=2))
    history = result.history
    assert history.macs_reduction(history.iterations[-1]) >= 0.55 > history.macs_reduction(history.iterations[-2])
    assert [step.healing is not None for step in history.iterations] == [False, False, True, True]


def test_an_accuracy_floor_keeps_the_smallest_network_above_it(parent):
    # Known of this network: 1.0 down to two blocks, then less than 0.9.
    every = _prune(parent, target={"blocks": 1}).history
    accuracies = [step.metrics["validation"].accuracy for step in every.iterations]
    floor = (accuracies[-1] + accuracies[-2]) / 2
    assert accuracies[-1] < floor < min(accuracies[:-1]), "the floor lies between the last two networks"
    result = _prune(parent, target={"min_accuracy": floor})
    assert result.history.selected == len(accuracies) - 2
    assert len(result.history.iterations) == len(accuracies), "the one below the floor was tried, and is on record"
    assert len(find_blocks(result.model)) == 2
    assert result.target_met
    both = _prune(parent, target={"min_accuracy": floor, "blocks": 1})
    assert (both.target_met, both.history.selected) == (False, result.history.selected)
    reached = _prune(parent, target={"min_accuracy": floor, "blocks": 3})
    assert (reached.target_met, len(find_blocks(reached.model))) == (True, 3)
    with pytest.raises(UnreachableTargetError, match="unpruned network has a validation accuracy"):
        _prune(har_transformer(3), target={"min_accuracy": 0.999})


def test_a_pruned_network_is_pruned_further(parent, tmp_path):
    once = _prune(parent, target={"blocks": 4}).model
    result = _prune(once, target={"blocks": 2}, protected=(0,))
    kept = [index for index in range(5) if index not in once.config.har_prune["removed_blocks"]]
    assert result.history.iterations[0].remaining == tuple(kept)
    assert kept[0] in result.history.iterations[-1].remaining, "protected by its index in the given network"
    assert len(result.model.config.har_prune["removed_blocks"]) == 3
    assert result.model.config.har_prune["criterion"] == "cka"
    assert trajectory_markdown(result.history).count("\n") == 4
    plot_trajectory(result.history, tmp_path / "trajectory.png")
    assert (tmp_path / "trajectory.png").read_bytes().startswith(b"\x89PNG")


def test_the_original_network_as_reference(parent):
    current, original = (_prune(parent, reference=name, target={"blocks": 3}) for name in ("current", "original"))
    first, second = current.history.iterations[1], original.history.iterations[1]
    assert [s.importance for s in first.scores] == pytest.approx([s.importance for s in second.scores], abs=1e-9)
    first, second = current.history.iterations[2], original.history.iterations[2]
    assert [s.importance for s in first.scores] != pytest.approx([s.importance for s in second.scores], abs=1e-9)


def test_continues_in_its_folder_and_refuses_another_runs(parent, tmp_path):
    out = tmp_path / "out"
    result = _prune(parent, output_dir=out)
    again = _prune(parent, output_dir=out)
    assert again.history.iterations == result.history.iterations
    state = again.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in result.model.state_dict().items())
    with pytest.raises(OutputFolderError, match=r"keys differ:\n  target.blocks: 3 there, 2 here"):
        _prune(parent, output_dir=out, target={"blocks": 2})
    with pytest.raises(OutputFolderError, match="another network than this one"):
        _prune(har_transformer(5), output_dir=out)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    with pytest.raises(OutputFolderError, match="no run of har_prune made"):
        _prune(parent, output_dir=other)
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]


def _stop_at_first(step, history):
    if step.iteration == 1:
        raise KeyboardInterrupt


def test_what_is_frozen_stays_so_in_a_run_that_goes_on(tmp_path):
    """A reload knows nothing of it: blocks behind a removed one have other names, and their own flags."""

    def run(out, on_step=None):
        torch.manual_seed(0)
        model = har_transformer(4)
        for frozen in (model.har_transformer.embeddings, model.har_transformer.layers[3]):
            frozen.requires_grad_(False)
        before = {name: value.clone() for name, value in model.har_transformer.layers[3].named_parameters()}
        config = PruneConfig(
            target={"blocks": 2}, protected=(0, 3), evaluate={"latency": False}, output_dir=out,
            heal=HealConfig(epochs=1, learning_rate=1e-2, when=1),
        )  # fmt: skip
        made = prune(
            model, loader(32, 0, shuffle=True), list(loader(32, 1)), loader(32, 2), config, on_step=on_step
        ).model
        last = made.har_transformer.layers[1]
        assert all(torch.equal(value, before[name]) for name, value in last.named_parameters())
        frozen = {name for name, parameter in made.named_parameters() if not parameter.requires_grad}
        assert {name.rsplit(".", 2)[0] for name in frozen} >= {"har_transformer.layers.1"}
        return frozen, made.state_dict()

    frozen, whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", _stop_at_first)
    again, resumed = run(tmp_path / "stopped")
    assert again == frozen
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def _images(count, size):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand((count, 3, size, size), generator=generator)
    return [{"pixel_values": pixels, "labels": torch.arange(count) % 3}]


def _prune_images(model, size, **fields):
    batches = _images(6, size)
    return prune(
        model, None, batches, batches, PruneConfig(**{"heal": None, "evaluate": {"latency": False}, **fields})
    )


def test_a_family_that_expresses_only_some_removals_loses_those():
    """GPT-2 that scales attention by the layer's index: whatever the scores say, only the last block can go."""
    model = classifier(
        GPT2ForSequenceClassification, n_embd=32, n_layer=4, n_head=4, vocab_size=50, n_positions=34, pad_token_id=2,
        bos_token_id=0, eos_token_id=1, scale_attn_by_inverse_layer_idx=True,
    )  # fmt: skip
    with torch.no_grad():  # weights large enough for the scale to matter
        for parameter in model.parameters():
            parameter.mul_(4)
    tokens = torch.randint(3, 50, (6, 9), generator=torch.Generator().manual_seed(0))
    batches = [{"input_ids": tokens, "labels": torch.arange(6) % 3}]
    config = PruneConfig(target={"blocks": 2}, evaluate={"latency": False}, criterion="random", seed=1)
    history = prune(model, None, batches, batches, config).history
    assert [min(step.scores, key=lambda score: score.importance).block for step in history.iterations[1:]] != [3, 2]
    assert history.removed == [3, 2]


def test_shifted_windows_go_in_pairs_and_the_history_says_so():
    # The last block of a stage could go alone: here it may not.
    result = _prune_images(swin(), 32, target={"blocks": 3}, protected=(3, 6))
    history = result.history
    assert [len(step.remaining) for step in history.iterations] == [7, 5, 3]
    for step in history.iterations[1:]:
        least = min(step.scores, key=lambda score: score.importance)
        assert step.removed == (least.block, least.block + 1)
    assert result.model.config.depths == [2, 1]
    assert result.model.config.har_prune["removed_blocks"] == sorted(history.removed)
    with pytest.raises(UnreachableTargetError, match=r"3 of 7 blocks\) has 3"):
        _prune_images(swin(), 32, target={"blocks": 2}, protected=(3, 6))


def test_a_mobilenet_changes_its_class_once_and_is_resumed(tmp_path):
    model = TINY["mobilenet_v2"].make()
    result = _prune_images(model, 64, target={"blocks": 13}, output_dir=tmp_path / "run")
    assert type(result.model).__name__ == "PrunedMobileNetV2ForImageClassification"
    assert type(model).__name__ == "MobileNetV2ForImageClassification"
    gone = result.model.config.har_prune["removed_blocks"]
    assert result.model.config.kept_blocks == [i for i in range(16) if i not in gone]
    again = _prune_images(model, 64, target={"blocks": 13}, output_dir=tmp_path / "run")
    assert again.history == result.history
    assert type(again.model) is type(result.model)
    inputs = {"pixel_values": _images(2, 64)[0]["pixel_values"]}
    with torch.no_grad():
        torch.testing.assert_close(again.model(**inputs).logits, result.model(**inputs).logits)


def test_bad_arguments_are_refused(parent, tmp_path):
    config = PruneConfig(target={"blocks": 3}, output_dir=tmp_path / "out")
    with pytest.raises(DataError, match="must be called 'validation'"):
        prune(parent, None, loader(), {"test": loader()}, config)
    with pytest.raises(DataError, match="no training batches"):
        prune(parent, None, loader(), loader(), config.model_copy(update={"heal": HealConfig(epochs=1)}))
    unlabelled = [{"input_values": torch.zeros(2, 32, 6)}]
    with pytest.raises(DataError, match="evaluation batch has no labels"):
        prune(parent, None, loader(), unlabelled, PruneConfig(target={"blocks": 3}))
    with pytest.raises(DataError, match="no calibration batches"):
        prune(parent, None, [], loader(), config)
    with pytest.raises(UnreachableTargetError, match="no block may be removed"):
        _prune(parent, protected=(0, 1, 2, 3, 4), output_dir=tmp_path / "out")
    with pytest.raises(NotRemovableError, match="protected: block 7"):
        _prune(parent, protected=(7,), output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists(), "nothing half-written"


def test_a_race_is_recorded_with_how_it_ended(parent):
    calibration = {"samples": 512, "race": {"first": 64, "tie_margin": 0}}
    config = PruneConfig(target={"blocks": 3}, evaluate={"latency": False}, calibration=calibration)
    result = prune(parent, None, list(loader(512, 1)), loader(48, 2), config)
    first, second = result.history.iterations[1:]
    for step in (first, second):
        race = step.calibration.race
        assert race.ended in ("decided", "budget")
        assert step.removed[0] in race.tied
        assert (race.tie_broken_by is None) == (len(race.tied) == 1)
        assert step.calibration.samples <= 512
        assert {score.block for score in step.scores} == {1, 2, 3, 4, 0} - {b for b in first.removed if step is second}
    assert second.calibration.execution_plan == first.calibration.execution_plan, "a run keeps the plan it chose"
    full = PruneConfig(target={"blocks": 4}, evaluate={"latency": False})
    chosen = prune(parent, None, list(loader(512, 1)), loader(48, 2), full).history
    assert chosen.removed == [first.removed[0]], "the race finds what the full sample finds"
    assert first.calibration.block_evaluations <= chosen.iterations[1].calibration.block_evaluations
    assert PruningHistory.from_json(json.loads(json.dumps(result.history.to_json()))) == result.history


def test_a_race_of_a_criterion_without_data_is_refused_before_any_work(parent):
    with pytest.raises(UnknownCriterionError, match=r"'random' cannot race.*Leave calibration\.race out"):
        _prune(parent, criterion="random", calibration={"race": True})


def test_a_network_can_be_pruned_by_a_consensus(parent):
    result = _prune(parent, criterion="consensus(cka, loss_increase, l1_norm)")
    step = result.history.iterations[1]
    assert step.removed[0] == min(step.scores, key=lambda score: (score.importance, score.block)).block
    assert step.calibration.criterion.startswith("consensus")


def test_what_are_no_batches_is_said_to_be_none(parent, tmp_path):
    config = PruneConfig(target={"blocks": 3}, output_dir=tmp_path / "out")
    examples = TensorDataset(torch.zeros(4, 32, 6), torch.zeros(4))
    for batches, message in (
        (None, "there are no calibration batches"),
        (examples, "calibration: a TensorDataset has single examples.*DataLoader"),
        (Dataset.from_dict({"x": [1]}), "calibration: a Dataset has single examples"),
        (DataLoader(examples), "a batch is a list, and a dict is wanted.*`labels`"),
    ):
        with pytest.raises(DataError, match=message):
            prune(parent, None, batches, loader(), config)
        with pytest.raises(DataError, match=message):
            score_blocks(parent, batches)
    with pytest.raises(DataError, match="a batch is a list, and a dict is wanted"):
        train_model(har_transformer(2), DataLoader(examples), None, HealConfig(epochs=1))
    with pytest.raises(DataError, match="training: a TensorDataset has single examples"):
        prune(parent, examples, loader(), loader(), config)
    with pytest.raises(DataError, match="there are no validation batches"):
        prune(parent, None, loader(), None, config)
    assert not (tmp_path / "out").exists()


def _holds(folder, ready, done):
    RunFolder(folder, {"a": 1})
    ready.set()
    done.wait(60)


def test_a_folder_another_process_works_in_is_left_alone(tmp_path):
    context = multiprocessing.get_context("forkserver")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_holds, args=(tmp_path / "out", ready, done))
    other.start()
    assert ready.wait(60)
    (tmp_path / "out" / ".partial-iteration-001").mkdir()  # what it is writing
    with pytest.raises(OutputFolderError, match="is in use by another process"):
        RunFolder(tmp_path / "out", {"a": 1})
    assert (tmp_path / "out" / ".partial-iteration-001").exists()
    done.set()
    other.join(60)
    RunFolder(tmp_path / "out", {"a": 1})
    RunFolder(tmp_path / "out", {"a": 1})  # again in this process
    assert not (tmp_path / "out" / ".partial-iteration-001").exists()
