"""The greedy loop: score, choose, remove, heal, evaluate, keep; until the target is met."""

import hashlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from har_prune.blocks.depth import original_indices
from har_prune.blocks.find import find_blocks
from har_prune.blocks.rebuild import remove_blocks
from har_prune.environment import environment
from har_prune.errors import DataError, DivergedError, NotRemovableError, OutputFolderError, UnreachableTargetError
from har_prune.evaluation.latency import measure_latency
from har_prune.evaluation.macs import count_macs
from har_prune.evaluation.quality import evaluate_model
from har_prune.pruning.config import PruneConfig
from har_prune.pruning.history import PruningHistory, PruningStep, ScoredBlock
from har_prune.pruning.measure import Ranking, rank_candidates
from har_prune.pruning.plan import candidates, check_settings, protected_blocks
from har_prune.pruning.store import RunFolder
from har_prune.scoring.config import Layout
from har_prune.training.loop import Teacher, train_model

Batches = Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class PruningResult:
    """What `prune` returns.

    Args:
        model: The pruned network, in eval mode.
        history: The record of how it came about.
        target_met: False when `min_accuracy` ended the run before the other target was met.
    """

    model: PreTrainedModel
    history: PruningHistory
    target_met: bool


def prune(
    model: PreTrainedModel,
    train: DataLoader | None,
    calibration: Batches,
    evaluate: Batches | Mapping[str, Batches],
    config: PruneConfig,
    *,
    accelerator: Accelerator | None = None,
) -> PruningResult:
    """Removes the least important block, heals, and repeats until the target is met.

    With `config.output_dir` every iteration is kept there, and a call with the same arguments continues after the
    last whole iteration; it ends with the same history and weights as a call that was never interrupted.

    Args:
        model: A trained classifier; moved to the device and to eval mode, otherwise untouched.
        train: Labelled batches for healing; None only together with `config.heal` None.
        calibration: Batches the criterion sees; labels are ignored.
        evaluate: Labelled validation batches, or several named sets of them. Every set is measured in every
            iteration; only "validation" is ever used to choose.
        config: Target, guards, healing, seed, output folder.
        accelerator: Device, precision and processes; None = a plain `Accelerator()`.

    Returns:
        The selected network and the history of all iterations.

    Raises:
        UnreachableTargetError: The target cannot be met; the message says what can.
        OutputFolderError: The output folder belongs to another run, or to another network.
        DataError: There is no "validation" set, or no training data to heal with.
    """
    if not isinstance(evaluate, Mapping):
        evaluate = {"validation": evaluate}
    if "validation" not in evaluate:
        raise DataError(f"evaluate has the sets {sorted(evaluate)}; one of them must be called 'validation'.")
    if config.heal is not None and train is None:
        raise DataError("config.heal asks for training, and there are no training batches.")
    evaluate = {name: _repeatable(batches) for name, batches in evaluate.items()}
    run = _Run(model, train, _repeatable(calibration), evaluate, config, accelerator or Accelerator())
    return run.to_the_end()


def _repeatable(batches: Batches) -> Batches:
    return list(batches) if isinstance(batches, Iterator) else batches


class _Run:
    """One call of `prune`: what stays the same over its iterations, and the steps so far."""

    def __init__(
        self,
        model: PreTrainedModel,
        train: DataLoader | None,
        calibration: Batches,
        evaluate: Mapping[str, Batches],
        config: PruneConfig,
        accelerator: Accelerator,
    ):
        self.parent = model.to(accelerator.device).eval()
        self.train, self.calibration, self.evaluate = train, calibration, evaluate
        self.config, self.accelerator = config, accelerator
        self.few = _examples(calibration, 2)  # to find blocks with, where none can be made up
        self.example = {key: value[:1] for key, value in self.few.items()}
        stack = find_blocks(model, self.few)
        self.protected = protected_blocks(stack, config.protected)
        check_settings(stack, config, self.example)
        self.folder: RunFolder | None = None
        if config.output_dir is not None:
            self.folder = RunFolder(config.output_dir, config.identity, writes=accelerator.is_main_process)
        accelerator.wait_for_everyone()
        self.steps = self.folder.steps() if self.folder else []
        self.environment = environment()  # of the code that runs, not of what is on disk when it ends
        if self.steps and self.steps[0].weights_sha256 != weights_sha256(self.parent):
            raise OutputFolderError(
                f"output folder {config.output_dir} was made from another network than this one (its weights differ): "
                "choose another output_dir."
            )

    def to_the_end(self) -> PruningResult:
        if not self.steps:
            self._keep(self._step(self.parent, time.time()), None)
        self._refuse_impossible_floor()
        # The smallest network that holds the accuracy floor may be an earlier one than the newest.
        selected = max(step.iteration for step in self.steps if self._holds_floor(step))
        model, result = self._load(len(self.steps) - 1), self._load(selected)
        while removable := self._next_candidates(model):
            model, step = self._iterate(model, removable)
            self._keep(step, model)
            if self._holds_floor(step):
                selected, result = step.iteration, model
        if selected == 0:
            best = max(step.quality["validation"].accuracy for step in self.steps[1:] if self._counts(step))
            raise UnreachableTargetError(
                f"target min_accuracy={self.config.target.min_accuracy} allows no removal: the best network left has "
                f"a validation accuracy of {best:.4f}. Lower it, or heal longer, in another output_dir."
            )
        history = self._history(selected)
        if self.folder:
            self.folder.save_history(history)
        last = self.steps[selected]
        target = self.config.target
        met = target.is_met(history.macs_reduction(last), len(last.remaining)) or target.only_accuracy
        return PruningResult(result, history, met)

    def _next_candidates(self, model: PreTrainedModel) -> list[int]:
        """Blocks that may go next; none when the run is over."""
        last = self.steps[-1]
        if (self._counts(last) and not self._holds_floor(last)) or self._is_final(model):
            return []
        return candidates(find_blocks(model, self.few), self.config, self.protected)

    def _is_final(self, model: PreTrainedModel) -> bool:
        """Whether the target is met, or nothing is left to remove."""
        stack = find_blocks(model, self.few)
        reduction = 1 - count_macs(model, self.example) / count_macs(self.parent, self.example)
        return self.config.target.is_met(reduction, len(stack)) or not candidates(stack, self.config, self.protected)

    def _holds_floor(self, step: PruningStep) -> bool:
        """Whether a network may be the result as far as accuracy goes."""
        floor = self.config.target.min_accuracy
        return floor is None or (self._counts(step) and step.quality["validation"].accuracy >= floor)

    def _counts(self, step: PruningStep) -> bool:
        """Whether a network has had its healing; between two healings accuracy says nothing yet."""
        return step.iteration == 0 or step.healed or self.config.heal is None

    def _refuse_impossible_floor(self) -> None:
        floor, accuracy = self.config.target.min_accuracy, self.steps[0].quality["validation"].accuracy
        if floor is not None and floor > accuracy:
            raise UnreachableTargetError(
                f"target min_accuracy={floor} cannot be reached: the unpruned network has a validation accuracy of "
                f"{accuracy:.4f}. Ask for less, or train longer, in another output_dir."
            )

    def _iterate(self, model: PreTrainedModel, removable: list[int]) -> tuple[PreTrainedModel, PruningStep]:
        start = time.time()
        # A calibration loader that draws at random has to draw the same in a resumed run.
        set_seed(self.config.seed + len(self.steps))
        originals = original_indices(find_blocks(model, self.few))
        ranking = rank_candidates(
            find_blocks(model, self.few),
            self.calibration,
            self.config,
            removable,
            originals,
            parent=self.parent,
            seed=self.config.seed + len(self.steps),
            layout=self._layout(),
            accelerator=self.accelerator,
        )
        victims, smaller = self._remove_least(model, ranking.order)
        find_blocks(smaller, self.few).config.har_prune["criterion"] = self.config.criterion
        samples_seen = self._heal(smaller, len(self.steps))
        return smaller, self._step(smaller, start, originals, ranking, victims, samples_seen)

    def _layout(self) -> Layout | None:
        """How this run has cut the work of scoring so far: a resumed run has to compute the same bits."""
        record = self.steps[-1].calibration
        return Layout(**record.layout) if record and record.layout else None

    def _remove_least(self, model: PreTrainedModel, ranking: list[int]) -> tuple[list[int], PreTrainedModel]:
        """Removes the least important block whose removal the config of this family can express.

        The network of the iteration before hands its weights over, unless it may yet be the result.
        """
        stack = find_blocks(model, self.few)
        needed = model is self.parent or self.config.target.min_accuracy is not None
        for index in ranking:
            unit = stack.unit(index)
            try:
                smaller = remove_blocks(stack, unit, copy=needed)
                return unit, smaller
            except NotRemovableError as error:
                refused = error
        raise UnreachableTargetError(f"none of the candidates {sorted(ranking)} can be removed: {refused}")

    def _heal(self, model: PreTrainedModel, iteration: int) -> int:
        """Trains when it is due; returns the number of examples seen."""
        heal, final = self.config.heal, self._is_final(model)
        if heal is None or self.train is None or not (final or iteration % heal.interval == 0):
            return 0
        return train_model(
            model,
            self.train,
            self.evaluate["validation"],
            heal.final if final and heal.final is not None else heal,
            accelerator=self.accelerator,
            teacher=Teacher(self.parent, heal.distill) if heal.distill else None,
            seed=self.config.seed + iteration,
            name=f"heal-{iteration:03d}",
        ).samples_seen

    def _step(
        self,
        model: PreTrainedModel,
        start: float,
        originals: Sequence[int] = (),
        ranking: Ranking | None = None,
        victims: Sequence[int] = (),
        samples_seen: int = 0,
    ) -> PruningStep:
        """Measures a network and makes the record of its iteration; without victims, that of the unpruned one."""
        quality = {split: evaluate_model(model, data, self.accelerator) for split, data in self.evaluate.items()}
        for split, measured in quality.items():
            if not math.isfinite(measured.loss):
                raise DivergedError(f"iteration {len(self.steps)}: outputs on the {split} data are not finite.")
        return PruningStep(
            iteration=len(self.steps),
            removed=tuple(originals[victim] for victim in victims),
            remaining=tuple(original_indices(find_blocks(model, self.few))),
            scores=tuple(
                ScoredBlock(originals[score.index], score.name, score.importance, score.samples, score.interval)
                for score in (ranking.scores if ranking else ())
            ),
            calibration=ranking.calibration if ranking else None,
            quality=quality,
            macs=count_macs(model, self.example),
            parameters=model.num_parameters(),
            healed=samples_seen > 0,
            samples_seen=samples_seen,
            weights_sha256=weights_sha256(model),
            latency_ms=self._latency(model),
            seconds=time.time() - start,
        )

    def _latency(self, model: PreTrainedModel) -> float | None:
        """On the main process alone: several at once would slow each other down."""
        latency = None
        if self.config.latency and self.accelerator.is_main_process:
            latency = measure_latency(model, self.example).median_ms
        self.accelerator.wait_for_everyone()
        return latency

    def _keep(self, step: PruningStep, model: PreTrainedModel | None) -> None:
        self.steps.append(step)
        if self.folder:
            self.folder.save(step, model)
        self.accelerator.wait_for_everyone()
        self.accelerator.log({
            "prune/macs": step.macs,
            "prune/blocks": len(step.remaining),
            **{f"prune/{split}_accuracy": quality.accuracy for split, quality in step.quality.items()},
        }, step=step.iteration)  # fmt: skip

    def _load(self, iteration: int) -> PreTrainedModel:
        if iteration == 0 or self.folder is None:
            return self.parent
        return self.folder.load(iteration, self.parent)

    def _history(self, selected: int) -> PruningHistory:
        ended = self.folder.history() if self.folder else None
        if ended is not None:
            return ended  # a finished run started again: its record says what it was made with
        return PruningHistory(
            recipe=self.config.identity,
            seed=self.config.seed,
            environment=self.environment,
            iterations=tuple(self.steps),
            selected=selected,
        )


def weights_sha256(model: PreTrainedModel) -> str:
    """SHA-256 over names and bytes of all weights and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _examples(calibration: Batches, count: int) -> dict[str, Tensor]:
    batch = next(iter(calibration), None)
    if batch is None:
        raise DataError("there are no calibration batches.")
    return {key: value[:count] for key, value in batch.items() if key != "labels"}
