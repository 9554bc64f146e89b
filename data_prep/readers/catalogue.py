"""The data sets of this package, by their names on the command line. A new one is a module and a line here."""

from data_prep.readers import mhealth, pamap2, uci_har, usc_had, utd_mhad, wharf, wisdm
from data_prep.recordings import DataSet

DATA_SETS: dict[str, DataSet] = {
    "wharf": wharf.DATA_SET,
    "utd_mhad": utd_mhad.DATA_SET,
    "uci_har": uci_har.DATA_SET,
    "wisdm": wisdm.DATA_SET,
    "pamap2": pamap2.DATA_SET,
    "mhealth": mhealth.DATA_SET,
    "usc_had": usc_had.DATA_SET,
}
