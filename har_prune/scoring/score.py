"""score_blocks: the importance of every removable block on a stream of batches."""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass

from accelerate import Accelerator
from transformers import PreTrainedModel

from har_prune.blocks.stack import BlockStack
from har_prune.runtime.batches import checked
from har_prune.runtime.progress import Progress, count_of
from har_prune.scoring.config import ScoringConfig
from har_prune.scoring.scorer import Batches, BlockScorer
from har_prune.scoring.statistics import GROUPS


@dataclass(frozen=True)
class BlockScore:
    """Importance of one block.

    Args:
        index: Index of the block in the scored model; the first of its `BlockStack.removal_group`.
        name: Its dotted module path there.
        importance: Higher = keep. For "cka" 1 - CKA, in [0, 1].
        samples: Examples it was measured on; 0 for criteria that look at no data.
        criterion: What was measured.
        interval: Bootstrap interval of the importance, where one was asked for.
        seed: Seed of the bootstrap and of what the criterion drew.
        reference: "current" where the scored network itself was the reference, "other" where another one was.
        precision: "fp32" for the weights' own type, "bf16" for autocast.
        estimator: How the number was computed: "exact", or the approximation and its error.
    """

    index: int
    name: str
    importance: float
    samples: int
    criterion: str = "cka"
    interval: tuple[float, float] | None = None
    seed: int = 0
    reference: str = "current"
    precision: str = "fp32"
    estimator: str = "exact"


def score_blocks(
    model: PreTrainedModel | BlockStack,
    batches: Batches,
    *,
    criterion: str = "cka",
    accelerator: Accelerator | None = None,
    candidates: Iterable[int] | None = None,
    reference: PreTrainedModel | None = None,
    representation: str | None = None,
    config: ScoringConfig | None = None,
) -> list[BlockScore]:
    """Scores blocks by what the network loses without each of them.

    A pure function of model, batches and arguments: the model comes back as it was.

    Args:
        model: The network, or what `find_blocks` returned for it. One that accelerate placed (`device_map`, offload)
            is scored where it is.
        batches: Dicts of model inputs. Memory does not grow with their number. With several processes every process
            iterates the same batches and works on its rows, so there are no padding rows.
        criterion: A registered name, or "consensus(a, b, ...)" for the mean rank by several.
        accelerator: Decides the device and joins processes; None = one process, the device the model is on.
        candidates: Block indices to score; None = every removable block.
        reference: Another network to compare with, e.g. the unpruned network; None = `model` itself.
        representation: Dotted module name; None = the input of the classification head.
        config: Precision, interval, execution plan, seed; None = the defaults.

    Returns:
        One score for each candidate, by index.

    Raises:
        UnknownFamilyError, UnknownCriterionError: Nothing is registered under the name.
        DataError: There are too few samples, or no labels where the criterion needs them.
        ShapeError: Too few examples for the criterion, or no such representation.
        DegenerateFeaturesError: A score is undefined; the message names the block.
    """
    scores = score_criteria(
        model,
        batches,
        [criterion],
        accelerator=accelerator,
        candidates=candidates,
        reference=reference,
        representation=representation,
        config=config,
    )
    return scores[criterion]


def score_criteria(
    model: PreTrainedModel | BlockStack,
    batches: Batches,
    criteria: list[str],
    *,
    accelerator: Accelerator | None = None,
    candidates: Iterable[int] | None = None,
    reference: PreTrainedModel | None = None,
    representation: str | None = None,
    config: ScoringConfig | None = None,
) -> dict[str, list[BlockScore]]:
    """Scores blocks by several criteria in one pass, which share every forward.

    Args and errors as `score_blocks`; `criteria` are names as there.

    Returns:
        {criterion: one score for each candidate, by index}.
    """
    config, batches = config or ScoringConfig(), checked(batches, "calibration")
    scorer = BlockScorer(
        model,
        criteria,
        candidates,
        config,
        accelerator=accelerator,
        reference=reference,
        representation=representation,
        groups=1 if config.interval is None else GROUPS,
    )
    progress = Progress("score", count_of(batches), accelerator)
    with closing(progress), closing(scorer):
        scorer.feed(progress.counting(batches))
        return block_scores(scorer)


def block_scores(scorer: BlockScorer) -> dict[str, list[BlockScore]]:
    """What a scorer has found so far, by criterion."""
    config, importances = scorer.config, scorer.importances()
    intervals = scorer.intervals(config.interval) if config.interval is not None else {}
    return {
        name: [
            BlockScore(
                index,
                scorer.stack.names[index],
                value,
                scorer.samples_of(name),
                name,
                intervals[name][place] if intervals else None,
                config.seed,
                scorer.reference,
                config.precision,
                scorer.estimator(name),
            )
            for place, (index, value) in enumerate(zip(scorer.candidates, values, strict=True))
        ]
        for name, values in importances.items()
    }
