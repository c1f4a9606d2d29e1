"""The typed errors of kmatrix: one wording for every complaint.

Every message names the function or class that complains, the argument, the value it got, the reason, and the
way out. Nothing in the library raises a bare ``ValueError`` or uses ``assert`` on what a user passed.
"""

from __future__ import annotations


class KMatrixError(Exception):
    """Base class of every error that kmatrix raises on purpose."""


class ArgumentError(KMatrixError, ValueError):
    """An argument has an unusable value or shape."""


class DtypeError(KMatrixError, TypeError):
    """An argument has a number type that the operation cannot take."""


class FileFormatError(KMatrixError, ValueError):
    """A file is unreadable, of a version we do not know, or not what it claims to be."""


class FitError(KMatrixError, RuntimeError):
    """A fit could not produce any member of the requested structure."""


class BackendUnavailableError(KMatrixError, RuntimeError):
    """A backend was asked for by name and cannot run here."""


def complaint(where: str, argument: str, got: object, reason: str, way_out: str) -> str:
    """Word a complaint: who, which argument, what it was, why not, and what to do instead."""
    return f"{where}: {argument}={got}: {reason}; {way_out}"
