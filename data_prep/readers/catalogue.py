"""The data sets of this package, by their names on the command line. A new one is a module and a line here."""

from data_prep.readers import mhealth, pamap2, uci_har, usc_had, utd_mhad, wharf, wisdm
from data_prep.recordings import Reader

READERS: dict[str, Reader] = {
    "wharf": wharf.READER,
    "utd_mhad": utd_mhad.READER,
    "uci_har": uci_har.READER,
    "wisdm": wisdm.READER,
    "pamap2": pamap2.READER,
    "mhealth": mhealth.READER,
    "usc_had": usc_had.READER,
}
