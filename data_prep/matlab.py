"""MATLAB files (format 5), read without running anything."""

from pathlib import Path
from typing import Any

from scipy.io import loadmat

from data_prep.errors import PrepError


def matlab_variable(path: Path, name: str) -> Any:
    """A variable of a .mat file.

    Raises:
        PrepError: The file is damaged, of another format, or has no such variable.
    """
    variables = matlab_variables(path)
    if name not in variables:
        raise PrepError(f"{path} has no variable {name!r}; it has {', '.join(sorted(variables)) or 'none'}.")
    return variables[name]


def matlab_variables(path: Path) -> dict[str, Any]:
    """All variables of a .mat file, vectors and single values squeezed.

    Raises:
        PrepError: The file is damaged or of another format.
    """
    try:
        found = loadmat(path, squeeze_me=True)
    except Exception as error:  # a cut-off file raises whatever the reader was doing
        raise PrepError(f"{path} is damaged or no MATLAB 5 file ({error}): download it again.") from error
    return {name: value for name, value in found.items() if not name.startswith("__")}
