"""Complaints of recipes about what they were given, which the command prints in one line."""

import kmatrix as km


class RecipeError(km.ArgumentError):
    """A name, a number or a folder of results that a recipe cannot use."""


class MismatchError(km.KMatrixError, RuntimeError):
    """What should compute the same function does not, so that its time would mean nothing."""


class DataError(RecipeError):
    """Data that are missing or not what they should be."""


def complaint(where: str, argument: str, got: object, reason: str, way_out: str) -> str:
    """Word a complaint as the library does: who, which argument, what it was, why not, and what to do instead."""
    return f"{where}: {argument}={got}: {reason}; {way_out}"
