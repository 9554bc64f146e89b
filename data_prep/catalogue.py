"""The data sets of this package, by their names on the command line."""

from data_prep import utd_mhad, wharf
from data_prep.recordings import DataSet

DATA_SETS: dict[str, DataSet] = {
    "wharf": wharf.DATA_SET,
    "utd_mhad": utd_mhad.DATA_SET,
}
