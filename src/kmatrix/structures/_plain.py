"""What may be kept beside a matrix in its file: plain JSON values, not too many."""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Mapping
from typing import Any, Protocol

from kmatrix._errors import ArgumentError, complaint
from kmatrix.structures._safetensors import short

MAX_CERTIFICATE_BYTES = 2**20
MAX_DEPTH = 64


class SupportsJson(Protocol):
    """What gives itself as plain JSON values, as ``Certificate`` does."""

    def to_json(self) -> Mapping[str, Any]:
        """The plain values."""


def plain_certificate(certificate: Mapping[str, Any] | SupportsJson) -> dict[str, Any]:
    """The certificate in plain JSON values: numbers of numpy and tuples become those of Python and lists.

    Raises:
        ArgumentError: if it holds anything else, or too much.
    """
    if not isinstance(certificate, Mapping) and callable(getattr(certificate, "to_json", None)):
        certificate = certificate.to_json()
    if not isinstance(certificate, Mapping):
        way_out = "pass Fit.certificate, or a dict of plain values"
        raise ArgumentError(complaint("save", "certificate", short(certificate), "not a mapping", way_out))
    plain: dict[str, Any] = _plain(certificate, "certificate", 0)
    size = len(json.dumps(plain))
    if size > MAX_CERTIFICATE_BYTES:
        reason = f"longer than {MAX_CERTIFICATE_BYTES} bytes"
        raise ArgumentError(complaint("save", "certificate", f"{size} bytes", reason, "keep less in it"))
    return plain


def _plain(value: object, where: str, depth: int) -> Any:
    if depth <= MAX_DEPTH:
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, numbers.Integral):
            return int(value)
        if isinstance(value, numbers.Real) and math.isfinite(value):
            return float(value)
        if isinstance(value, list | tuple):
            return [_plain(item, f"{where}[{k}]", depth + 1) for k, item in enumerate(value)]
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {key: _plain(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
    way_out = "keep finite numbers, strings, lists and dicts with string keys"
    raise ArgumentError(complaint("save", where, short(value), "not plain JSON", way_out))
