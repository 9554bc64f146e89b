"""`test_subject: all` and `seeds`: one run for each subject and seed, and what they say together."""

import json
from collections.abc import Callable, Iterable
from typing import Any

from har_prune.data.load import LabelledData, load_configured
from har_prune.data.protocols import check_folds
from har_prune.errors import DataError, OutputFolderError, RecipeError
from har_prune.pruning.history import PruningHistory
from har_prune.pruning.store import RunFolder, refuse_other_training
from har_prune.recipe.schema import Recipe
from har_prune.reporting.folds import FOLDS, folds_report, folds_summary, plot_confusion
from har_prune.runtime.console import say
from har_prune.runtime.files import whole_file, write_json

ALL = "all"
_LONGEST = 200  # bytes of a subject's name; file systems allow 255, and the folder's name has more in it


def is_all_folds(recipe: Recipe) -> bool:
    """Whether a recipe means every subject in turn."""
    return recipe.data.protocol == "loso" and recipe.data.test_subject == ALL


def folds_of(recipe: Recipe, data: LabelledData | None = None) -> dict[str, list[Recipe]]:
    """The recipes of each fold by its test subject, one for each seed; a run has a folder of its own in output_dir.

    Args:
        recipe: The recipe of all folds.
        data: Its data set; None = loaded here.

    Raises:
        DataError: A fold cannot be split, e.g. because nobody else performs an activity, or a subject's name cannot
            name a folder.
        RecipeError: A result to push, where there is one for each subject.
        OutputFolderError: A fold has no original in `original_from`, or one that was trained by other settings.
    """
    if recipe.save.push_to_hub is not None:
        raise RecipeError("save.push_to_hub: test_subject 'all' has a result for each subject; push one by hand.")
    data = load_configured(recipe.data) if data is None else data
    subjects = subjects_of(data)
    for subject in subjects:
        _refuse_as_folder(subject)
    check_folds(data, recipe.data)
    folds = {subject: [_fold(seeded, subject) for seeded in seeded_recipes(recipe)] for subject in subjects}
    refuse_other_originals(fold for runs in folds.values() for fold in runs)
    return folds


def refuse_other_originals(recipes: Iterable[Recipe]) -> None:
    """Looks ahead whether all runs that take over an original will find one that was trained by the same settings.

    Raises:
        OutputFolderError: One will not.
    """
    for recipe in recipes:
        if recipe.original_from is not None and not (recipe.output_dir / "original").exists():
            refuse_other_training(recipe.original_from, recipe.training)


def seeded_recipes(recipe: Recipe) -> list[Recipe]:
    """The recipe of each seed; where there is one seed, the recipe itself."""
    if not recipe.seeds:
        return [recipe]
    return [recipe.inside(f"seed-{seed}", seed=seed, seeds=()) for seed in recipe.seeds]


def subjects_of(data: LabelledData) -> list[str]:
    """All subjects of a data set, in the order of their names with numbers by value: s2 before s10."""
    if data.subjects is None:
        raise RecipeError("test_subject 'all' needs data with subjects, and this data set has none.")
    return sorted(data.subject_codes[0].tolist(), key=_natural)


def _refuse_as_folder(subject: str) -> None:
    """A name with a separator would leave output_dir, and too long a one would fail after hours of other folds."""
    fits = subject.isprintable() and len(subject.encode()) <= _LONGEST
    if not fits or not subject.strip(". ") or "/" in subject or "\\" in subject:
        shown = subject if len(subject) <= 40 else f"{subject[:40]}..."
        raise DataError(
            f"test_subject 'all' keeps each fold in a folder fold-SUBJECT, and subject {shown!r} cannot name one: "
            f"allowed are up to {_LONGEST} bytes of printable characters without / and \\, and not dots alone. Rename "
            "it in the column 'subject' of the data, or name it in test_subject for a run of its own."
        )


def _natural(name: str) -> list[Any]:
    digits = "".join(character if character.isdecimal() else " " for character in name).split()
    letters = "".join(character for character in name if not character.isdecimal())
    return [letters, *map(int, digits)]


def _fold(recipe: Recipe, subject: str) -> Recipe:
    return recipe.inside(f"fold-{subject}", data=recipe.data.model_copy(update={"test_subject": subject}))


def refuse_other_data(recipe: Recipe, folds: dict[str, list[Recipe]], data: LabelledData) -> None:
    """Keeps the fingerprint of the data beside the folds; those that have ended must have been made with the same.

    Raises:
        OutputFolderError: They were made with other data.
    """
    path = recipe.output_dir / "data.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else data.fingerprint
    made = any((fold.output_dir / "pruned").exists() for runs in folds.values() for fold in runs)
    if made and known != data.fingerprint:
        raise OutputFolderError(
            f"folds in {recipe.output_dir} were made with other data than {recipe.data.name_or_path} holds now: "
            "choose another output_dir, or bring the former data back to continue."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, data.fingerprint)


def run_folds(
    folds: dict[str, list[Recipe]], run: Callable[[Recipe], PruningHistory]
) -> dict[str, list[PruningHistory]]:
    """Runs every fold of every seed that has not ended yet; the records by test subject.

    Args:
        folds: As `folds_of` made them.
        run: Runs one recipe and returns its record.
    """
    records: dict[str, list[PruningHistory]] = {subject: [] for subject in folds}
    for place in range(len(next(iter(folds.values())))):  # a whole table of the first seed before the second
        for subject, recipes in folds.items():
            records[subject].append(ended(recipes[place]) or run(recipes[place]))
    return records


def ended(fold: Recipe) -> PruningHistory | None:
    """The record of a fold that has ended; a folder of another recipe is refused."""
    if not (fold.output_dir / "pruned").exists() or not (fold.output_dir / "trajectory.png").exists():
        return None
    history = RunFolder.record_of(fold.output_dir, fold.fingerprint)
    return history if history is not None and set(fold.controls) <= set(history.controls) else None


def keep_summary(recipe: Recipe, histories: dict[str, list[PruningHistory]], command: str) -> None:
    """Writes loso.json, loso.md and confusion.png into the output folder, and says the means."""
    summary = folds_summary(histories)
    made_by = {"command": command, "recipe": recipe.fingerprint, "seeds": list(recipe.seeds)}
    write_json(recipe.output_dir / FOLDS, {**made_by, **summary})
    with whole_file(recipe.output_dir / "loso.md") as partial:
        partial.write_text(folds_report(histories, command), encoding="utf-8")
    with whole_file(recipe.output_dir / "confusion.png") as partial:
        plot_confusion(histories, partial)
    for network, figures in summary["overall"].items():
        accuracy = figures["accuracy"]
        say(f"{network}: accuracy {100 * accuracy['mean']:.2f} ± {100 * accuracy['ci95']:.2f} % (95 %)")
    say(f"Report: {recipe.output_dir / 'loso.md'}; confusion: {recipe.output_dir / 'confusion.png'}")
