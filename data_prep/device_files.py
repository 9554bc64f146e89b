"""Files of accelerometers as devices write them: .cwa (Axivity), .gt3x (ActiGraph), .bin (GENEActiv), by actfast."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep.errors import PrepError

SUFFIXES = (".cwa", ".gt3x", ".bin")
TIME = "time"  # ns since 1970 by the device's own clock, which knows no zone
_NAMES = {"acceleration": "acc", "gyroscope": "gyro", "rotation": "gyro", "magnetometer": "mag"}


def read_device(path: Path) -> pd.DataFrame:
    """The samples of a device: `time`, acc_x, acc_y, acc_z in g; gyro_x, gyro_y, gyro_z in deg/s where it has some.

    Args:
        path: The file.

    Raises:
        PrepError: actfast is not installed, or cannot read the file.
    """
    try:
        import actfast
    except ImportError as error:
        raise PrepError(f"{path}: files of devices need actfast: pip install 'har_prune[devices]'.") from error
    try:
        series: dict[str, Any] = actfast.read(str(path))["timeseries"]
        motion = next(part for part in series.values() if "acceleration" in part)
    except (Exception, StopIteration) as error:  # whatever a damaged file makes it raise
        raise PrepError(f"{path} cannot be read: {str(error).strip() or 'it holds no acceleration'}.") from error
    columns = {TIME: np.asarray(motion["datetime"])}
    for name, values in motion.items():
        if name in _NAMES and np.ndim(values) == 2 and np.shape(values)[1] == 3:
            columns |= {f"{_NAMES[name]}_{axis}": values[:, place] for place, axis in enumerate("xyz")}
    table = pd.DataFrame(columns)
    if not len(table):
        raise PrepError(f"{path}: the file holds no samples.")
    table.index = pd.RangeIndex(1, 1 + len(table))
    return table
