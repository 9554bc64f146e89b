"""Every error a user can meet. Each message says what came, what is allowed, and what to do.

All of them derive from `HarPruneError` and from the built-in error a caller would expect, so both
`except HarPruneError` and `except ValueError` work. The command line turns them into exit code 2.
"""

import difflib
from collections.abc import Iterable


class HarPruneError(Exception):
    """Base class of all errors har_prune raises on bad input."""


class RecipeError(HarPruneError, ValueError):
    """A recipe file is missing, not YAML, or has unknown keys, wrong types or values out of range."""


class DataError(HarPruneError, ValueError):
    """A data set is missing, empty, not in the expected format, or holds values that cannot be used."""


class CheckpointError(HarPruneError, ValueError):
    """A checkpoint is missing, corrupt, or does not fit the data."""


class NotAModelError(HarPruneError, TypeError):
    """Something else than a model of transformers was given, or one that is wrapped."""


class UnknownFamilyError(HarPruneError, LookupError):
    """No block family is registered for a model type and the probe found no residual blocks."""


class UnknownCriterionError(HarPruneError, LookupError):
    """No importance criterion is registered under a name."""


class NotRemovableError(HarPruneError, ValueError):
    """A block that was asked to go cannot be removed, or the family cannot represent its removal."""


class UndeclaredLayerListError(HarPruneError, ValueError):
    """A config list is as long as the model is deep, or seems to name blocks, and its family does not mention it."""


class ShapeError(HarPruneError, ValueError):
    """Features or inputs have the wrong shape."""


class DegenerateFeaturesError(HarPruneError, ValueError):
    """Features are constant or not finite, so a similarity is undefined."""


class UnreachableTargetError(HarPruneError, ValueError):
    """No allowed sequence of removals reaches the target."""


class OutputFolderError(HarPruneError, ValueError):
    """An output folder holds something else than what this run may continue or write."""


class FormatError(HarPruneError, ValueError):
    """A record of a run has a format that this version does not know."""


class SaveVerificationError(HarPruneError, RuntimeError):
    """A saved folder did not load back as the model that was saved; nothing was left behind."""


class HubError(HarPruneError, OSError):
    """A model hub refused a request, or cannot be reached; nothing was changed there."""


class DivergedError(HarPruneError, RuntimeError):
    """The training loss is no longer finite."""


class ProcessGroupError(HarPruneError, RuntimeError):
    """The number of launched processes is not the number of processes that know of each other."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The question `Did you mean 'x'?` with the nearest known word, or nothing when none is near.

    >>> did_you_mean("epoch", ["epochs", "seed"])
    " Did you mean 'epochs'?"
    """
    matches = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""


class ExportError(HarPruneError, RuntimeError):
    """A network cannot be exported, or its export does not give the same answers."""
