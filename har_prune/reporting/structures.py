"""What went in each step, in words: blocks, or units inside them; and how it was chosen between the two."""

from har_prune.pruning.history import PruningHistory, PruningStep


def removed_text(step: PruningStep) -> str:
    """Blocks by index in the original network, or units by kind; "-" for nothing.

    >>> from har_prune.evaluation.cost import Cost
    >>> step = PruningStep(1, (), (0, 1), (), None, Cost(1, 1), {}, None, "", 0.0, removed_units={"channels": 24})
    >>> removed_text(step)
    '24 channels'
    """
    units = [f"{count} {kind}" for kind, count in step.removed_units.items()]
    return ", ".join([*map(str, step.removed), *units]) or "-"


def units_left(history: PruningHistory, block: int) -> list[str]:
    """Of a block of the result, by its index in the original network: "12 of 16 channels" for each kind narrowed."""
    before, after = history.before, history.after
    found = []
    for kind, units in after.units.items():
        old = before.units[kind][before.remaining.index(block)]
        new = units[after.remaining.index(block)]
        if new < old:
            found.append(f"{new} of {old} {kind}")
    return found


def choice_text(step: PruningStep) -> str:
    """How a step chose between a block and units; "" where there was no choice.

    >>> from har_prune.evaluation.cost import Cost
    >>> from har_prune.pruning.history import Choice
    >>> choice = Choice("widths", {"blocks": 0.9443, "widths": 0.9979}, {"blocks": 80, "widths": 81})
    >>> choice_text(PruningStep(1, (), (), (), None, Cost(1, 1), {}, None, "", 0.0, choice=choice))
    'widths: CKA 0.9979 against 0.9443'
    """
    if step.choice is None:
        return ""
    taken = step.choice.taken
    others = [value for name, value in step.choice.similarity.items() if name != taken]
    return f"{taken}: CKA {step.choice.similarity[taken]:.4f} against {', '.join(f'{value:.4f}' for value in others)}"
