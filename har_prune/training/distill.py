"""The loss of a training: labels, or their mixture with what teachers say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from har_prune.blocks.stack import BlockStack, first_tensor
from har_prune.errors import DataError
from har_prune.evaluation.metrics import classified, is_language_model
from har_prune.runtime.batches import inputs_of, rows_of
from har_prune.runtime.devices import is_placed
from har_prune.runtime.replica import fold_batch_norm, replica, to_channels_last
from har_prune.training.config import DistillConfig
from har_prune.training.logits import Logits

# Rounding stays far below and a wrong pair far above: what is folded must not depend on the batch it is tried on.
_FOLDED = 1e-3


@dataclass(frozen=True)
class Teacher:
    """The network to distil from, and how much.

    Args:
        model: The network, left as it is; the blocks of a `BlockStack` are needed to distil hidden states.
        config: How.
        others: Networks of the same classes whose logits are averaged with its own.
    """

    model: PreTrainedModel | BlockStack
    config: DistillConfig
    others: Sequence[PreTrainedModel] = ()

    @property
    def models(self) -> list[PreTrainedModel]:
        """All of them."""
        return [self.model.model if isinstance(self.model, BlockStack) else self.model, *self.others]


class Loss:
    """Cross-entropy, or its mixture with the divergence from the teacher.

    A teacher computes in a copy that shares its weights: batch normalisation folded into convolutions, channels last,
    in the precision of the training.

    Args:
        student: What is trained; its blocks, where hidden states are distilled.
        smoothing: Label smoothing.
        teacher: Whom to distil from.
        accelerator: Device and precision.

    Raises:
        DataError: Hidden states are to be distilled and the blocks of both networks are not known, or none is shared.
    """

    def __init__(
        self,
        student: PreTrainedModel | BlockStack,
        smoothing: float,
        teacher: Teacher | None,
        accelerator: Accelerator,
    ):
        model = student.model if isinstance(student, BlockStack) else student
        self.smoothing, self.teacher, self.accelerator = smoothing, teacher, accelerator
        self.language_model = is_language_model(model)
        self._taught: list[Logits] = []
        self._pairs: list[tuple[_Recorded, _Recorded]] = []
        if teacher is not None and teacher.config.hidden:
            if not (isinstance(student, BlockStack) and isinstance(teacher.model, BlockStack)):
                raise DataError("distill.hidden compares blocks: give the BlockStack of both networks (find_blocks).")
            places = {index: place for place, index in enumerate(teacher.model.original_indices)}
            self._places = [
                (block.module, places[block.original_index])
                for block in student.blocks
                if block.original_index in places
            ]
            if not self._places:
                raise DataError("distill.hidden: the networks share no block.")

    def __call__(self, student: Logits, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of a batch, a scalar of float32."""
        inputs = inputs_of(batch)
        if "labels" not in batch:
            raise DataError(f"a training batch has no labels; it has {', '.join(batch)}.")
        if self.teacher is not None and not self._taught:
            if student.graph and self.teacher.config.hidden:
                raise DataError(
                    "cuda_graphs shows no hidden states: set distill.hidden to 0, or cuda_graphs to false."
                )
            self._taught = [self._working_copy(taught, inputs, student.graph) for taught in self.teacher.models]
            self._pairs = self._recorded()
        for pair in self._pairs:  # a model may leave blocks out itself, and what they returned before is no answer
            for recorded in pair:
                recorded.value = None
        logits, labels = classified(student.of(inputs), batch["labels"], language_model=self.language_model)
        if not len(labels):  # a part of a batch of texts that holds none to predict
            return logits.sum()
        loss = nn.functional.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        if self.teacher is None:
            return loss
        config = self.teacher.config
        with torch.no_grad():
            answers = torch.stack([taught.of(inputs) for taught in self._taught]).mean(dim=0)
        taught, _ = classified(answers, batch["labels"], language_model=self.language_model)
        wanted = (taught / config.temperature).log_softmax(dim=1)
        given = (logits / config.temperature).log_softmax(dim=1)
        divergence = nn.functional.kl_div(given, wanted, reduction="batchmean", log_target=True)
        # T^2 keeps the two gradients in proportion at any temperature (Hinton et al. 2015, section 2).
        loss = (1 - config.weight) * loss + config.weight * config.temperature**2 * divergence
        ran = [pair for pair in self._pairs if pair[0].value is not None]
        if ran:
            loss = loss + config.hidden * torch.stack([_distance(*pair) for pair in ran]).mean()
        return loss

    def _working_copy(self, model: PreTrainedModel, inputs: Mapping[str, Any], graph: bool) -> Logits:
        if is_placed(model):
            return Logits(model.eval(), self.accelerator)
        twin = replica(model.to(self.accelerator.device))
        fold_batch_norm(twin, rows_of(inputs, slice(2)), tolerance=_FOLDED)
        to_channels_last(twin)
        return Logits(twin, self.accelerator, graph=graph)

    def _recorded(self) -> list[tuple["_Recorded", "_Recorded"]]:
        if self.teacher is None or not self.teacher.config.hidden or not isinstance(self.teacher.model, BlockStack):
            return []
        names = self.teacher.model.names
        return [
            (_Recorded(module), _Recorded(self._taught[0].network.get_submodule(names[place])))
            for module, place in self._places
        ]

    def close(self) -> None:
        """Takes the hooks off the student."""
        for pair in self._pairs:
            for recorded in pair:
                recorded.handle.remove()


class _Recorded:
    """The last hidden state a block returned; None where it was left out (`LayerDrop`) and handed on its input."""

    def __init__(self, module: nn.Module):
        self.value: Tensor | None = None
        self.handle = module.register_forward_hook(self._record)

    def _record(self, module: nn.Module, args: tuple, output: Any) -> None:
        value = output if isinstance(output, Tensor) else first_tensor(tuple(output), {})
        self.value = None if args and value is args[0] else value


def _distance(student: _Recorded, teacher: _Recorded) -> Tensor:
    """Mean squared difference of two hidden states, in units of the teacher's variance."""
    if student.value is None or teacher.value is None:
        raise DataError("distill.hidden: a block was not run.")
    wanted = teacher.value.detach().float()
    return nn.functional.mse_loss(student.value.float(), wanted) / wanted.var().clamp(min=1e-6)
