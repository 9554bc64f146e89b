"""`accelerate launch har_prune/run.py RECIPE [key=value ...]`: a whole run, from data to a verified checkpoint.

`har-prune run` does the same in one process. Started again with the same recipe, both continue.
"""

import sys
from pathlib import Path

if sys.path and sys.path[0] == str(Path(__file__).resolve().parent):
    # Launched as a file, Python puts this folder first, and har_prune.data would shadow any module called data.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from har_prune.commands.app import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
