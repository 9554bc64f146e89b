"""A data set of four subjects, and what makes the quickstart small enough to run all its folds."""

from pathlib import Path

from data_prep.hub_folder import new_folder, write
from data_prep.readers import synthetic
from data_prep.recordings import Windowing


def four_subjects(folder: Path) -> list[str]:
    """Overrides that make the quickstart a small run over four subjects, whose data are written into a folder."""
    reader = synthetic.reader(4)
    with new_folder(folder) as partial:
        write(reader, reader.parts(partial, synthetic.INFO), Windowing(synthetic.INFO), partial)
    return [
        f"data.name_or_path={folder}", "data.test_subject=all", "data.protocol=loso",
        "data.test_subjects=[]", "train.epochs=0.2", "model.config.num_hidden_layers=2", "prune.target={blocks: 1}",
        "prune.calibration={samples: 32, execution_plan: {micro_batch: 32}}", "heal=null", "controls=[]",
        "evaluate.latency=false", "data.validation_fraction=0.3",
    ]  # fmt: skip
