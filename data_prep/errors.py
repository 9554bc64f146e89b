"""The one error of this package."""


class PrepError(ValueError):
    """Raw files that are not what the publisher documents; the message names file and line, or field."""
