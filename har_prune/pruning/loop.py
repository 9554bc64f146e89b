"""The greedy loop: score, choose, remove, heal, evaluate, keep; until the target is met."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from har_prune.blocks.find import find_blocks, stack_of
from har_prune.blocks.stack import BlockStack
from har_prune.errors import DataError, NotRemovableError, UnreachableTargetError
from har_prune.evaluation.cost import Cost
from har_prune.evaluation.measurement import check_all
from har_prune.pruning.choose import Chooser
from har_prune.pruning.config import RunConfig
from har_prune.pruning.controls import control_network
from har_prune.pruning.healing import Healer
from har_prune.pruning.history import (
    Choice,
    PruningHistory,
    PruningStep,
    ScoredBlock,
    cost_from_json,
)
from har_prune.pruning.plan import candidates, check_latency, check_settings, protected_blocks
from har_prune.pruning.ranking import FirstExamples, Ranking, rank_candidates
from har_prune.pruning.record import Recorder
from har_prune.pruning.store import RunFolder, data_fingerprints, joint_fingerprint
from har_prune.pruning.structures import Removal, removal_from_json
from har_prune.runtime.batches import checked, drawn_by, inputs_of, rows_of
from har_prune.runtime.devices import refuse_placed
from har_prune.runtime.digest import weights_sha256
from har_prune.runtime.environment import environment
from har_prune.runtime.processes import accelerator_for, agreed, trains_alike
from har_prune.scoring.config import ExecutionPlan

Batches = Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class PruningResult:
    """What `prune` returns; `.history.steps` has the iterations.

    Args:
        model: The pruned network, in eval mode.
        history: The record of how it came about.
        target_met: False when `min_accuracy` ended the run before the other target was met, or nothing was left to
            remove.
    """

    model: PreTrainedModel
    history: PruningHistory
    target_met: bool


def prune(
    model: PreTrainedModel | BlockStack,
    train: DataLoader | None,
    calibration: Batches,
    evaluate: Batches | Mapping[str, Batches],
    config: RunConfig,
    *,
    accelerator: Accelerator | None = None,
    teachers: Sequence[PreTrainedModel] = (),
    on_step: Callable[[PruningStep, PruningHistory], None] | None = None,
    example_inputs: Mapping[str, Any] | None = None,
) -> PruningResult:
    """Removes the least important block and repeats until the target is met; heals as `config.heal.when` says.

    With `config.output_dir` every iteration is kept there, and a call with the same arguments continues after the
    last whole iteration; on the same CPU it ends with the same history and weights as a call that was never
    interrupted.

    Args:
        model: A trained classifier, or the blocks `find_blocks` returned for it; moved to the device and to eval mode,
            otherwise untouched.
        train: Labelled batches for healing; None only together with `config.heal` None.
        calibration: Batches the criterion sees; labels are ignored.
        evaluate: Labelled validation batches, or several named sets of them. Every set is measured in every
            iteration; only "validation" is ever used to choose.
        config: Target, guards, healing, seed, output folder: a `PruneConfig`, or a recipe.
        accelerator: Device, precision and processes; None = one of our own.
        teachers: Networks of the same classes; where healing distils, their logits are averaged with the original's.
        on_step: Called on the main process with each new step and the history so far.
        example_inputs: Model inputs of two examples; costs are of the first. None = the first of calibration, whose
            length, where they are texts, is that of the longest in their batch.

    Returns:
        The selected network and the history of all iterations.

    Raises:
        UnreachableTargetError: The target cannot be met; the message says what can.
        OutputFolderError: The output folder belongs to another run, to another network, to other data or teachers,
            or weights in it were altered.
        DataError: There is no "validation" set, no training data to heal with, or there are teachers and healing does
            not distil.
        ProcessGroupError: The model is spread over devices, or the accelerator works in a way that was never tried.
    """
    if not isinstance(evaluate, Mapping):
        evaluate = {"validation": evaluate}
    if "validation" not in evaluate:
        raise DataError(f"evaluate has the sets {sorted(evaluate)}; one of them must be called 'validation'.")
    if config.heal is not None and train is None:
        raise DataError("config.heal asks for training, and there are no training batches.")
    if teachers and not (config.heal and config.heal.distill):
        raise DataError("teachers are given, and healing does not distil: set heal.distill, or give none.")
    evaluate = {name: _repeatable(checked(batches, name)) for name, batches in evaluate.items()}
    calibration = _repeatable(checked(calibration, "calibration"))
    if train is not None:
        checked(train, "training")
    accelerator = trains_alike(accelerator_for(accelerator))
    run = _Run(model, train, calibration, evaluate, config, accelerator, teachers, on_step, example_inputs)
    return run.to_the_end()


def _repeatable(batches: Batches) -> Batches:
    return list(batches) if isinstance(batches, Iterator) else batches


class _Run:
    """One call of `prune`: what stays the same over its iterations, and the steps so far."""

    def __init__(
        self,
        model: PreTrainedModel | BlockStack,
        train: DataLoader | None,
        calibration: Batches,
        evaluate: Mapping[str, Batches],
        config: RunConfig,
        accelerator: Accelerator,
        teachers: Sequence[PreTrainedModel],
        on_step: Callable[[PruningStep, PruningHistory], None] | None,
        example_inputs: Mapping[str, Any] | None,
    ):
        self.on_step = on_step
        batch = next(iter(calibration), None)
        if batch is None:
            raise DataError("there are no calibration batches.")
        examples = inputs_of(rows_of(batch if example_inputs is None else example_inputs, slice(2)))
        self.original = stack_of(model, examples)  # which finds blocks with them, where none can be made up
        refuse_placed(self.original.model)
        self.original.model.to(accelerator.device).eval()
        self.config, self.settings, self.accelerator, self.evaluate = config, config.prune, accelerator, evaluate
        self.calibration = FirstExamples(calibration, self.settings.calibration.samples)
        self.one_example = rows_of(examples, slice(1))
        self.protected = protected_blocks(self.original, self.settings.protected)
        check_settings(self.original, config, self.one_example)
        check_all(config.evaluate, evaluate)
        if agreed(config.output_dir is None or not RunFolder.is_begun(config.output_dir), accelerator):
            check_latency(self.original, self.settings, self.one_example, accelerator)  # before anything is written
        self.folder: RunFolder | None = None
        if config.output_dir is not None:
            self.folder = RunFolder(config.output_dir, config.fingerprint, writes=accelerator.is_main_process)
        self.data_fingerprints = data_fingerprints(train, calibration, evaluate)
        if self.folder:
            self.folder.compare_data(self.data_fingerprints)
            self.folder.compare_teachers([weights_sha256(teacher) for teacher in teachers])
        self.healer = Healer(
            config, self.original, train, evaluate["validation"],
            accelerator=accelerator, teachers=teachers, folder=self.folder,
        )  # fmt: skip
        self.recorder = Recorder(
            config, self.original, evaluate, self.one_example, protected=self.protected, accelerator=accelerator
        )
        accelerator.wait_for_everyone()
        self.steps = self.folder.steps() if self.folder else []
        if self.folder and self.steps:
            self.folder.compare_original(self.steps[0], self.original.model, self.one_example)
        # Of the code that runs, not of what is on disk when it ends.
        self.environment = {
            **environment(),
            "processes": accelerator.num_processes,
            "precision": accelerator.mixed_precision,
            "device": accelerator.device.type,
        }

    def to_the_end(self) -> PruningResult:
        if not self.steps:
            self._keep(self._first_step(), None)
        self._refuse_impossible_floor()
        # The smallest network that holds the accuracy floor may be an earlier one than the newest.
        selected = max(step.iteration for step in self.steps if self._holds_floor(step))
        newest = self._load(len(self.steps) - 1)
        result = newest if selected == len(self.steps) - 1 else self._load(selected)
        while not self._has_ended(newest):
            newest, step = self._iterate(newest)
            self._keep(step, newest.model)
            if self._holds_floor(step):
                selected, result = step.iteration, newest
        if selected == 0 and len(self.steps) > 1:
            best = max(step.metrics["validation"].accuracy for step in self.steps[1:] if self._counts(step))
            raise UnreachableTargetError(
                f"target min_accuracy={self.settings.target.min_accuracy} allows no removal: the best network left "
                f"has a validation accuracy of {best:.4f}. Lower it, or heal longer, in another output_dir."
            )
        controls: dict[str, PruningStep] = {
            name: self._control(name, result, selected) for name in self.config.controls
        }
        history = self._history(selected, controls)
        if self.folder:
            self.folder.save_history(history)
        target = self.settings.target
        met = target.is_met(history.before.cost, history.after.cost, len(history.after.remaining))
        return PruningResult(result.model, history, met or target.only_accuracy)

    def _has_ended(self, stack: BlockStack) -> bool:
        last = self.steps[-1]
        return (self._counts(last) and not self._holds_floor(last)) or self._is_final(stack, last.cost)

    def _candidates(self, stack: BlockStack) -> list[int]:
        """Blocks that may go next."""
        if "blocks" not in self.settings.structures:
            return []
        return candidates(stack, self.settings, self.protected)

    def _is_final(self, stack: BlockStack, cost: Cost) -> bool:
        """Whether the target is met, or nothing is left to remove."""
        if self.settings.target.is_met(self.steps[0].cost, cost, len(stack)):
            return True
        return not self._candidates(stack) and not self._chooser.narrows(stack, cost)

    @property
    def _chooser(self) -> Chooser:
        return Chooser(
            self.settings,
            self.calibration,
            self.original.model,
            self.one_example,
            self.steps[0].cost,
            self.protected,
            self.accelerator,
        )

    def _holds_floor(self, step: PruningStep) -> bool:
        """Whether a network may be the result as far as accuracy goes."""
        floor = self.settings.target.min_accuracy
        return floor is None or (self._counts(step) and step.metrics["validation"].accuracy >= floor)

    def _counts(self, step: PruningStep) -> bool:
        """Whether a network has had its healing; between two healings accuracy says nothing yet."""
        return step.iteration == 0 or step.healing is not None or self.config.heal is None

    def _refuse_impossible_floor(self) -> None:
        floor, accuracy = self.settings.target.min_accuracy, self.steps[0].metrics["validation"].accuracy
        if floor is not None and floor > accuracy:
            raise UnreachableTargetError(
                f"target min_accuracy={floor} cannot be reached: the unpruned network has a validation accuracy of "
                f"{accuracy:.4f}. Ask for less, or train longer, in another output_dir."
            )

    def _first_step(self) -> PruningStep:
        start = time.monotonic()
        return self.recorder.step(self.original, 0, start, self.recorder.cost(self.original.model), None)

    def _iterate(self, stack: BlockStack) -> tuple[BlockStack, PruningStep]:
        start, iteration = time.monotonic(), len(self.steps)
        seed = self.config.seed + iteration
        kept = self.folder.choice(iteration) if self.folder else {}
        with drawn_by(seed, self.calibration.batches):  # in a resumed run the same
            ranking = self._ranking(stack, seed, kept.get("execution_plan"))
            removal, choice, smaller = self._remove_least(stack, ranking, seed, kept)
        record = smaller.config.har_prune
        record |= {"criterion": self.settings.criterion} if removal.removed else {}
        record |= {"widths_criterion": self.settings.widths.criterion} if removal.removed_units else {}
        cost = cost_from_json(kept["cost"]) if kept else self.recorder.cost(smaller.model)
        if self.folder:  # started again, a clock might cut the work, choose, or end, otherwise
            plan = ranking.calibration.execution_plan if ranking else None
            chosen = {"removal": removal.to_json(), "choice": choice and asdict(choice), "cost": asdict(cost)}
            self.folder.keep_choice(iteration, {"execution_plan": plan, **chosen})
        healing = self.healer.healed(smaller, iteration, final=self._is_final(smaller, cost))
        originals = stack.original_indices
        return smaller, self.recorder.step(
            smaller,
            iteration,
            start,
            cost,
            healing,
            removed=removal.removed,
            scores=tuple(
                ScoredBlock(originals[score.index], score.name, score.importance, score.samples, score.interval)
                for score in (ranking.scores if ranking else ())
            ),
            calibration=ranking.calibration if ranking else None,
            removed_units=removal.removed_units,
            choice=choice,
        )

    def _ranking(self, stack: BlockStack, seed: int, plan: dict[str, Any] | None) -> Ranking | None:
        """Blocks that may go, from the least important; None where none may."""
        removable = self._candidates(stack)
        if not removable:
            return None
        return rank_candidates(
            stack,
            self.calibration,
            self.settings,
            removable,
            original=self.original.model,
            seed=seed,
            execution_plan=self._execution_plan(plan),
            accelerator=self.accelerator,
        )

    def _execution_plan(self, kept: dict[str, Any] | None) -> ExecutionPlan | None:
        """How this run has cut the work of scoring so far: a resumed run has to compute the same bits."""
        plans = [step.calibration.execution_plan for step in self.steps if step.calibration]
        plan = plans[-1] if plans else kept
        return ExecutionPlan(**plan) if plan else None

    def _remove_least(
        self, stack: BlockStack, ranking: Ranking | None, seed: int, kept: dict[str, Any]
    ) -> tuple[Removal, Choice | None, BlockStack]:
        """Removes what is least important among what the config of this family can express, or what was chosen before.

        The network of the iteration before hands its weights over, unless it may yet be the result.

        Raises:
            UnreachableTargetError: None of them can be.
        """
        needed = stack is self.original or self.settings.target.min_accuracy is not None
        refused: Exception | str = "there are none"
        if not kept:
            options = self._chooser.options(stack, self.steps[-1].cost, ranking, seed)
        else:
            removal = removal_from_json(stack, self.settings, self.protected, kept["removal"])
            options = iter([(removal, Choice(**kept["choice"]) if kept["choice"] else None)])
        for removal, choice in options:
            smaller = None
            try:
                smaller = removal.built(copy=needed)
            except NotRemovableError as error:
                refused = error
            if len(set(gather_object([smaller is None]))) > 1:  # all of them stop, or one would wait for ever
                raise UnreachableTargetError("a candidate can be removed in some processes and not in all of them.")
            if smaller is not None:
                return removal, choice, smaller
        raise UnreachableTargetError(
            f"none of the candidates {sorted(ranking.order) if ranking else 'inside blocks'} can be removed: {refused}"
        )

    def _keep(self, step: PruningStep, model: PreTrainedModel | None) -> None:
        self.steps.append(step)
        if self.folder:
            self.folder.save(step, model)
            self.folder.forget_training()
        self.accelerator.wait_for_everyone()
        self.accelerator.log({
            "prune/macs": step.cost.macs,
            "prune/blocks": len(step.remaining),
            **{f"prune/{split}_accuracy": metrics.accuracy for split, metrics in step.metrics.items()},
        }, step=step.iteration)  # fmt: skip
        if self.on_step is not None and self.accelerator.is_main_process:
            self.on_step(step, self._so_far(step.iteration))

    def _load(self, iteration: int) -> BlockStack:
        if iteration == 0 or self.folder is None:
            return self.original
        model = self.folder.load(self.steps[iteration], self.original)
        return find_blocks(model, self.original.inputs, within=self.original.within)

    def _control(self, name: str, result: BlockStack, selected: int) -> PruningStep:
        """A control, trained; taken from the folder where it was before."""
        kept = self.folder.control(name) if self.folder else None
        if kept is not None:
            return kept
        start, seed = time.monotonic(), self.config.seed + selected
        data = joint_fingerprint(self.data_fingerprints)
        stack = control_network(name, self.original, result, self.settings, self.protected, seed, data)
        cost = self.recorder.cost(stack.model)
        final = self._is_final(result, self.steps[selected].cost)
        healing = self.healer.train_control(name, stack, self.steps[: selected + 1], seed, final=final)
        left = stack.original_indices
        gone = tuple(index for index in self.original.original_indices if index not in left)
        step = self.recorder.step(stack, selected, start, cost, healing, removed=gone)
        if self.folder:
            self.folder.save_control(name, step, stack.model)
            self.folder.forget_training()
        self.accelerator.wait_for_everyone()
        return step

    def _history(self, selected: int, controls: dict[str, PruningStep]) -> PruningHistory:
        ended = self.folder.history() if self.folder else None
        if ended is not None:  # a finished run started again: its record says what it was made with
            return replace(ended, controls={**ended.controls, **controls})
        return self._so_far(selected, controls)

    def _so_far(self, selected: int, controls: dict[str, PruningStep] | None = None) -> PruningHistory:
        return PruningHistory(
            recipe=self.config.fingerprint,
            seed=self.config.seed,
            environment=self.environment,
            iterations=tuple(self.steps),
            selected=selected,
            data_fingerprint=joint_fingerprint(self.data_fingerprints),
            controls=controls or {},
        )
