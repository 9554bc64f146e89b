"""The leave-one-subject-out runs together: one table, and the test over the subjects of all data sets.

    python benchmarks/loso_tables.py runs/loso_utd_mhad2 runs/loso_utd_mhad1 runs/loso_wharf

Each folder is that of a run with `test_subject: all`; its loso.json, loso.md and confusion.png are kept beside the
table.
A difference of the pruned network is paired over the subjects of all data sets, each subject once.
"""

import argparse
import json
import shutil
from pathlib import Path

from measuring import RESULTS, write_result

from har_prune.evaluation.significance import paired_difference


def main() -> None:
    """Writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    given = parser.parse_args()
    found = {run.name: json.loads((run / "loso.json").read_text(encoding="utf-8")) for run in given.runs}
    table: list[dict[str, str]] = []
    differences: dict[str, list[float]] = {}
    for run in given.runs:
        for suffix in ("json", "md"):
            shutil.copyfile(run / f"loso.{suffix}", RESULTS / f"{run.name}.{suffix}")
        shutil.copyfile(run / "confusion.png", RESULTS / f"{run.name}.png")
        for network, figures in found[run.name]["overall"].items():
            against = found[run.name]["pruned_against"].get(network)
            points = "" if against is None else f"{100 * against['mean']:+.2f} ± {100 * against['ci95']:.2f}"
            table.append({
                "run": run.name,
                "network": network,
                "accuracy %, mean of folds": f"{100 * figures['accuracy']['mean']:.2f}",
                "95 % interval": f"± {100 * figures['accuracy']['ci95']:.2f}",
                **{
                    f"pooled {key} %": f"{100 * figures['pooled'][key]:.2f}"
                    for key in ("accuracy", "balanced_accuracy", "macro_f1")
                },
                "pruned against it, points": points,
                "p": "" if against is None else f"{against['p']:.3f}",
            })  # fmt: skip
            for row in found[run.name]["subjects"].values():
                differences.setdefault(network, []).append(row["pruned"]["accuracy"] - row[network]["accuracy"])
    for network, values in differences.items():
        together = paired_difference(values)
        if network != "pruned":
            table.append({
                "run": f"all, {together.subjects} subjects",
                "network": network,
                "pruned against it, points": f"{100 * together.mean:+.2f} ± {100 * together.ci95:.2f}",
                "p": f"{together.p:.4f}",
            })  # fmt: skip
    facts = {"commands": [values["command"] for values in found.values()]}
    write_result("loso", "Leave one subject out: pruned networks beside their controls", facts, table)


if __name__ == "__main__":
    main()
