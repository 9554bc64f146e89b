"""The Markdown report of a run: what was run, on what, and what came of it."""

from har_prune.pruning.history import PruningHistory
from har_prune.reporting.names import in_markdown, printable
from har_prune.reporting.robustness import robustness_markdown, robustness_of
from har_prune.reporting.trajectory import chosen_note, trajectory_markdown


def run_report(history: PruningHistory, command: str) -> str:
    """A report that says how each number came about.

    Args:
        history: The record of the run.
        command: The command that made it.
    """
    minutes = sum(step.seconds for step in history.iterations) / 60
    samples = sum(step.healing.samples_seen for step in history.iterations if step.healing)
    lines = [
        "# Pruning run",
        "",
        f"    {printable(command)}",
        "",
        *made_with(history),
        f"- seed {history.seed}; scoring, healing and evaluation took {minutes:.1f} minutes and "
        f"{samples:,} training examples, all iterations together",
        "",
        trajectory_markdown(history),
        "",
        f"In bold: the network that was saved. {chosen_note(history)}",
    ]
    per_class = history.after.metrics[history.shown_split].per_class
    if per_class:
        lines += [
            "",
            f"## {history.shown_split}, by class",
            "",
            "| class | precision | recall | F1 | support |",
        ]
        lines.append("|---|---|---|---|---|")
        for name, row in per_class.items():
            figures = " | ".join(f"{row[key]:.3f}" for key in ("precision", "recall", "f1"))
            lines.append(f"| {in_markdown(name)} | {figures} | {row['support']} |")
    lines += robustness_markdown(robustness_of(history))
    return "\n".join(lines) + "\n"


def made_with(history: PruningHistory) -> list[str]:
    """Lines that say with which commit, versions and machine a run was made."""
    environment = dict(history.environment)
    machine, commit = environment.pop("machine", {}), environment.pop("commit", "unknown")
    return [
        f"- commit: {commit}",
        f"- versions: {', '.join(f'{name} {version}' for name, version in environment.items())}",
        f"- machine: {', '.join(f'{name} {value}' for name, value in machine.items() if value is not None)}",
    ]
