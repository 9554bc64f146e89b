"""Two processes (gloo): they give what one gives, and the main one decides."""

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_folds
import torch
from accelerate import Accelerator, PartialState, cpu_offload, debug_launcher
from accelerate.utils import DistributedType
from families import TINY, har_resnet, har_transformer, llama
from tiny_data import loader, texts

from har_prune import (
    ExecutionPlan,
    PruneConfig,
    RaceConfig,
    ScoringConfig,
    TrainConfig,
    evaluate_model,
    find_blocks,
    prune,
    score_blocks,
    train_model,
)
from har_prune.blocks import probe
from har_prune.blocks.example_inputs import example_inputs
from har_prune.checkpoints.push import Pushed
from har_prune.data import batches
from har_prune.data.load import LabelledData, load_data
from har_prune.errors import NotRemovableError, ProcessGroupError, RecipeError, UnreachableTargetError
from har_prune.pruning import structures
from har_prune.recipe import parallel, steps
from har_prune.recipe.accelerator import cores, make_accelerator
from har_prune.recipe.load import load_recipe
from har_prune.runtime import processes
from har_prune.runtime.processes import accelerator_for, new_accelerator, trains_alike
from har_prune.scoring import race as race_module
from har_prune.scoring.aggregate import Aggregate
from har_prune.scoring.criteria.base import Task, make_criterion
from har_prune.scoring.measure import Measurer
from har_prune.training import distill, loop
from har_prune.training.config import DistillConfig
from har_prune.training.distill import Teacher


def _batches(model, count=8, size=64):
    return [example_inputs(model, batch_size=size, seed=seed) for seed in range(count)]


def _everyone(found, path):
    """Keeps what each process found."""
    gathered = [None, None]
    torch.distributed.all_gather_object(gathered, found)
    torch.save(gathered, path)


def _in_two(function, path):
    debug_launcher(function, (path,), num_processes=2)
    return torch.load(path, weights_only=False)


def _race_with_other_bits(path):
    torch.set_num_threads(1)  # a forked process cannot use the OpenMP threads of its parent
    accelerator, judge, looks = make_accelerator(num_threads=1), race_module.judge, []

    def judged(importances, jackknife, config, candidates):
        looks.append(len(importances))
        if accelerator.is_main_process:
            return judge(importances, jackknife, config, candidates)
        return [False] * len(importances), True  # last bits that say: drop nothing, and it is a tie

    race_module.judge = judged
    torch.manual_seed(0)
    model = har_transformer()
    config = ScoringConfig(race=RaceConfig(first=64, tie_margin=0))
    scores = score_blocks(model, _batches(model), accelerator=accelerator, config=config)
    _everyone((scores, looks), path)


def test_a_race_whose_processes_see_other_bits_has_one_verdict(tmp_path):
    (one, looks), (other, others_looks) = _in_two(_race_with_other_bits, tmp_path / "race.pt")
    assert one == other
    assert looks == others_looks
    assert one.samples == 512 or one.race.ended == "decided", "the other process would have ended with a tie at once"


def _ranking_with_other_bits(path):
    torch.set_num_threads(1)
    accelerator, scores = make_accelerator(num_threads=1), Aggregate.scores

    def other(self, joined, samples):
        found = scores(self, joined, samples)
        return found if accelerator.is_main_process else {name: column[::-1] for name, column in found.items()}

    Aggregate.scores = other
    torch.manual_seed(0)
    model = har_transformer()
    _everyone(score_blocks(model, _batches(model, 1), accelerator=accelerator).least(), path)


def test_the_main_process_ranks_for_all(tmp_path):
    one, other = _in_two(_ranking_with_other_bits, tmp_path / "ranking.pt")
    assert one == other
    assert sorted(one) == [0, 1, 2, 3]


def _removing_with_other_bits(path):
    torch.set_num_threads(1)
    accelerator, remove = make_accelerator(num_threads=1), structures.without_blocks

    def removing(stack, group, **options):
        if not accelerator.is_main_process:
            raise NotRemovableError("the comparison failed by a bit")
        return remove(stack, group, **options)

    structures.without_blocks = removing
    torch.manual_seed(0)
    batches = [{**batch, "labels": torch.arange(16) % 3} for batch in _batches(har_transformer(), 2, 16)]
    config = PruneConfig(target={"blocks": 3}, heal=None, evaluate={"latency": False})
    try:
        prune(har_transformer(), None, batches, batches, config, accelerator=accelerator)
    except UnreachableTargetError as error:
        _everyone(str(error), path)


def test_a_removal_that_one_process_refuses_ends_the_run_in_all(tmp_path):
    for message in _in_two(_removing_with_other_bits, tmp_path / "removal.pt"):
        assert "can be removed in some processes and not in all of them" in message


def _narrowed_in_two(path):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = har_transformer()
    config = PruneConfig(
        target={"macs_reduction": 0.4}, structures=["blocks", "widths"], widths={"criterion": "activation"},
        evaluate={"latency": False}, calibration={"execution_plan": ExecutionPlan(micro_batch=16)},
    )  # fmt: skip
    result = prune(
        model, None, list(loader(32, 1)), loader(48, 2), config, accelerator=make_accelerator(num_threads=1)
    )
    steps = [(step.removed, step.removed_units, step.units, step.choice) for step in result.history.steps]
    if torch.distributed.is_initialized():
        _everyone(steps, path)
    return steps


def test_two_processes_choose_between_blocks_and_units_like_one(tmp_path):
    one, other = _in_two(_narrowed_in_two, tmp_path / "narrowed.pt")
    alone = _narrowed_in_two(None)
    assert one == other
    assert [step[:3] for step in one] == [step[:3] for step in alone]
    for step, expected in zip(one[1:], alone[1:], strict=True):
        assert step[3].similarity == pytest.approx(expected[3].similarity, abs=1e-6)


def _trained(accelerator, **config):
    torch.manual_seed(0)
    model = har_transformer(2, hidden_dropout_prob=0.0)
    train_model(model, loader(64, 0, shuffle=True), None, TrainConfig(epochs=3, keep="last", **config),
                accelerator=accelerator, seed=1)  # fmt: skip
    return model.state_dict()


def _trained_in_two(path):
    torch.set_num_threads(1)
    _everyone(_trained(make_accelerator(num_threads=1)), path)


def test_training_in_two_processes_is_training_in_one(tmp_path):
    one, other = _in_two(_trained_in_two, tmp_path / "weights.pt")
    alone = _trained(make_accelerator(num_threads=1))
    for name, value in alone.items():
        assert torch.equal(one[name], other[name])
        torch.testing.assert_close(one[name], value, rtol=1e-3, atol=1e-5)


def _trained_on_texts(accelerator, lengths):
    torch.manual_seed(0)
    model = llama(2)
    config = TrainConfig(epochs=1, keep="last", optimizer="sgd", momentum=0, max_grad_norm=None)
    train_model(model, texts(lengths, 0, len(lengths)), None, config, accelerator=accelerator)
    return model.state_dict()


def _trained_on_texts_in_two(path):
    torch.set_num_threads(1)
    _everyone(_trained_on_texts(make_accelerator(num_threads=1), [30, 25, 2, 1]), path)


def test_every_token_counts_alike_in_whichever_process_it_is(tmp_path):
    one, _ = _in_two(_trained_on_texts_in_two, tmp_path / "weights.pt")
    for name, value in _trained_on_texts(make_accelerator(num_threads=1), [30, 25, 2, 1]).items():
        torch.testing.assert_close(one[name], value, rtol=1e-5, atol=1e-6)


def _healed_with_unused_weights(path):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = TINY["dinov2"].make()  # a mask token that a classifier never uses
    batches = [{**batch, "labels": torch.arange(8) % 3} for batch in _batches(model, 4, 8)]
    rows = [{key: value[row] for key, value in batch.items()} for batch in batches for row in range(8)]
    train = torch.utils.data.DataLoader(rows, batch_size=8)
    result = train_model(model, train, None, TrainConfig(epochs=2, keep="last"), accelerator=make_accelerator())
    _everyone((result.steps, model.state_dict()), path)


def test_a_network_with_weights_it_never_uses_is_healed(tmp_path):
    (steps, one), (_, other) = _in_two(_healed_with_unused_weights, tmp_path / "dinov2.pt")
    assert steps == 8
    assert all(torch.equal(one[name], other[name]) for name in one)


class _Stopped(Exception):
    pass


def _resumed(path):
    torch.set_num_threads(1)
    accelerator, seed, calls = make_accelerator(num_threads=1), loop._seed, []

    def stopping(*given):
        calls.append(1)
        if len(calls) == 8:
            raise _Stopped
        return seed(*given)

    def train(checkpoint):
        torch.manual_seed(0)
        model = har_transformer(2)
        schedule = TrainConfig(epochs=3, keep="average", checkpoint_minutes=0)
        train_model(model, loader(64, 0, shuffle=True), loader(32, 1), schedule, accelerator=accelerator, seed=1,
                    checkpoint=checkpoint)  # fmt: skip
        return model.state_dict()

    whole = train(path.with_name("whole.ckpt"))
    loop._seed = stopping
    with pytest.raises(_Stopped):
        train(path.with_name("stopped.ckpt"))
    loop._seed = seed
    accelerator.wait_for_everyone()
    _everyone((whole, train(path.with_name("stopped.ckpt"))), path)


def test_a_training_in_two_processes_goes_on_where_it_was(tmp_path):
    for whole, resumed in _in_two(_resumed, tmp_path / "resumed.pt"):
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def _launched(command, root):
    """Runs it; once more where gloo's processes lost each other before they began, as on a busy machine they may."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(2):
        result = subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=300, check=False, env=environment
        )
        if "connectFullMesh failed" not in result.stderr:
            break
    return result


def test_all_folds_run_in_two_processes(root, tmp_path):
    """One command, four folds: the processes stay together from one to the next."""
    out, overrides = tmp_path / "out", tiny_folds.four_subjects(tmp_path / "four")
    command = [
        str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", "2", "har_prune/run.py",
        "recipes/quickstart.yaml", f"output_dir={out}", "num_threads=1", *overrides,
    ]  # fmt: skip
    result = _launched(command, root)
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(json.loads((out / "loso.json").read_text())["subjects"]) == 4
    ended = {path: path.stat().st_mtime_ns for path in out.glob("fold-*/history.json")}
    (out / "loso.json").unlink()
    again = _launched(command, root)
    assert again.returncode == 0, again.stderr[-3000:]
    assert ended == {path: path.stat().st_mtime_ns for path in out.glob("fold-*/history.json")}, "only read"
    assert (out / "loso.json").exists()
    recorded = json.loads((out / "fold-s02" / "history.json").read_text())["environment"]
    assert {key: recorded[key] for key in ("processes", "precision", "device")} == {
        "processes": 2, "precision": "no", "device": "cpu",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("ACCELERATE_USE_FSDP", "FSDP"),
        ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"),
        ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "tensor parallelism"),
    ],
)
def test_ways_to_share_a_model_that_were_never_tried_are_refused(variable, name, monkeypatch):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ProcessGroupError, match=rf"{name} .*splits a model.*choose plain data parallelism"):
        make_accelerator()


def test_a_device_that_was_never_tried_is_refused(monkeypatch):
    accelerator = Accelerator(cpu=True)
    assert accelerator_for(accelerator) is accelerator
    monkeypatch.setattr(Accelerator, "device", torch.device("mps"))
    with pytest.raises(ProcessGroupError, match=r"works with mps, which .* never tried"):
        score_blocks(har_transformer(), [], accelerator=accelerator)
    model = har_transformer()
    monkeypatch.setattr(type(model), "device", torch.device("mps"))
    with pytest.raises(ProcessGroupError, match=r"works with mps, which .* never tried"):
        score_blocks(model, [])
    monkeypatch.setattr(Accelerator, "device", torch.device("cpu"))
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.XLA)
    with pytest.raises(ProcessGroupError, match=r"works with XLA, which .* never tried"):
        accelerator_for(accelerator)
    monkeypatch.setattr(torch.mps, "is_available", lambda: True)
    with pytest.warns(UserWarning, match="device mps was never tried: this run computes on the CPU"):
        assert make_accelerator().device.type == "cpu"


def test_an_accelerator_of_our_own_takes_the_gpu_that_is_there(monkeypatch):
    """Its settings, by what is handed to accelerate."""
    made = []
    monkeypatch.setattr(processes, "Accelerator", lambda **options: made.append(options))
    for available in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        new_accelerator()
    without, on_gpu = made
    assert (without["cpu"], on_gpu["cpu"]) == (True, False)
    assert (without["dataloader_config"].non_blocking, on_gpu["dataloader_config"].non_blocking) == (False, True)
    parallel, group = on_gpu["kwargs_handlers"]
    assert parallel.find_unused_parameters
    assert group.timeout.total_seconds() > 3600, "the main process saves and verifies while the others wait"


def test_images_for_a_gpu_are_made_beside_it(monkeypatch):
    """Windows are not: they are handed over for longer than they are made."""
    images = LabelledData("image", np.zeros((8, 4, 4, 3), np.uint8), np.arange(8) % 2, ["a", "b"], np.full(8, "train"))
    for data, beside in ((images, True), (load_data("synthetic"), False)):
        for on_gpu in (False, True):
            monkeypatch.setattr(batches, "uses_gpu", lambda on_gpu=on_gpu: on_gpu)
            train = batches.make_loader(data, np.arange(8), lambda rows: rows, 8, augment=[])
            assert (train.num_workers > 0, train.pin_memory) == (on_gpu and beside, on_gpu)


def _where_a_fold_works(places, found):
    parallel._begin(places, 4, 2)
    found.put((os.environ["CUDA_VISIBLE_DEVICES"], len(os.sched_getaffinity(0))))


def test_each_of_the_folds_side_by_side_has_a_gpu_and_its_cores():
    context = multiprocessing.get_context("spawn")
    places, found = context.SimpleQueue(), context.SimpleQueue()
    places.put(3)
    process = context.Process(target=_where_a_fold_works, args=(places, found))
    process.start()
    process.join(120)
    assert found.get() == ("1", max(1, cores() // 4))


def test_a_batch_that_processes_cannot_share_is_refused():
    recipe = SimpleNamespace(save=SimpleNamespace(push_to_hub=None), data=SimpleNamespace(batch_size=64))
    with pytest.raises(RecipeError, match="batch_size=64 is shared by 3 processes"):
        steps.run(recipe, None, SimpleNamespace(num_processes=3), "command")


def test_a_teacher_is_folded_and_its_student_is_not(monkeypatch):
    kept, real = [], distill.fold_batch_norm

    def fold(twin, *given, **options):
        real(twin, *given, **options)
        kept.append(sum(isinstance(module, torch.nn.BatchNorm1d) for module in twin.modules()))

    monkeypatch.setattr(distill, "fold_batch_norm", fold)
    student, teacher = har_resnet(), Teacher(har_resnet(), DistillConfig())
    train_model(student, loader(16, 0), None, TrainConfig(epochs=1, keep="last"), teacher=teacher)
    assert kept == [0]
    assert any(isinstance(module, torch.nn.BatchNorm1d) for module in student.modules())


def test_processes_that_would_each_take_a_whole_batch_are_refused(monkeypatch):
    accelerator = Accelerator(cpu=True)
    assert trains_alike(accelerator) is accelerator
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    assert trains_alike(new_accelerator()).split_batches
    model, data = har_transformer(2), loader(64, 0)
    with pytest.raises(ProcessGroupError, match=r"each of 2 processes a whole batch.*split_batches=True"):
        train_model(model, data, None, TrainConfig(epochs=1), accelerator=accelerator)
    with pytest.raises(ProcessGroupError, match="each of 2 processes a whole batch"):
        prune(model, data, data, data, PruneConfig(target={"blocks": 1}), accelerator=accelerator)


def test_a_push_waits_for_the_processes_to_have_ended(root, tmp_path, monkeypatch):
    """Others that wait for an upload are ended by NCCL before it is done."""
    order = []
    monkeypatch.setattr(steps, "launch", lambda *_: order.append("run"))
    monkeypatch.setattr(PartialState, "destroy_process_group", lambda self: order.append("end"))
    pushed = Pushed("me/model", "url", "commit")
    monkeypatch.setattr(steps, "push_pruned", lambda *_, **__: order.append("push") or pushed)
    overrides = [f"output_dir={tmp_path / 'out'}", "save.push_to_hub=me/model"]
    steps.launch_recipe(load_recipe(root / "recipes" / "quickstart.yaml", overrides), "command")
    assert order == ["run", "end", "push"]


def test_a_scaler_starts_each_training_anew():
    accelerator = make_accelerator(num_threads=1)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)  # as a training before it left it
    scales, load = [], accelerator.scaler.load_state_dict
    accelerator.scaler.load_state_dict = lambda state: scales.append(state["scale"]) or load(state)
    train_model(har_transformer(2), loader(64, 0), None, TrainConfig(epochs=0.5, keep="last"), accelerator=accelerator)
    assert scales[0] == 65536.0


def test_a_placed_model_is_evaluated_where_it_is_and_refused_elsewhere():
    model, data = har_transformer(2), loader(32, 1)
    expected = evaluate_model(model, data)
    cpu_offload(model, execution_device=torch.device("cpu"))
    model.hf_device_map = {"": "cpu"}
    assert evaluate_model(model, data, make_accelerator(num_threads=1)).accuracy == expected.accuracy
    with pytest.raises(ProcessGroupError, match=r"scored and evaluated where it is, but not trained or pruned"):
        train_model(model, data, None, TrainConfig(epochs=1, keep="last"))
    with pytest.raises(ProcessGroupError, match="not trained or pruned"):
        prune(model, None, data, data, PruneConfig(target={"blocks": 1}, heal=None))


def test_the_probe_takes_inputs_to_where_the_model_is(monkeypatch):
    seen = []
    monkeypatch.setattr(probe, "to_device", lambda inputs, device: seen.append(device) or inputs)
    model = TINY["vit"].make()
    assert probe.probe_containers(model, example_inputs(model))
    assert seen == [model.device]


def test_batch_normalisation_is_folded_under_autocast_too():
    model = TINY["cifar_resnet"].make()
    criteria = {"cka": make_criterion("cka", Task([]))}
    config = ScoringConfig(precision="bf16", execution_plan=ExecutionPlan(micro_batch=4))
    measurer = Measurer(find_blocks(model), [0, 1], criteria, example_inputs(model, batch_size=4), config)
    twin = measurer._ablations[0].stack.model
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in twin.modules())


def test_a_gpu_machine_asked_for_its_cpu_uses_its_cpu(monkeypatch):
    from har_prune.recipe import accelerator as module

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert module._mixed_precision("auto") == "bf16"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert module._mixed_precision("auto") == "no", "bf16 would be emulated"
    with pytest.raises(RecipeError, match="fp16 needs a GPU"):
        make_accelerator("fp16")
