"""Which parts of a model are meant: a function of the module and its name, or patterns of names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from torch import nn

from kmatrix._errors import ArgumentError, DtypeError, complaint

FilterFn = Callable[[nn.Module, str], bool]
Filter = FilterFn | str | Iterable[str]
"""A function of the module and its name, or patterns of names such as ``"*.mlp.*"``; ``"!head"`` leaves out."""


def as_function(where: str, model: nn.Module, filter_fn: Filter | None) -> FilterFn:
    """A filter of any make as a function; without one, all are meant.

    Of patterns, a name of the module must match one (any, if all begin with ``!``) and none of its names those behind
    a ``!``.

    Args:
        where: who asks, for the complaint.
        model: whose names are meant.
        filter_fn: a function, one pattern, or several.

    Raises:
        DtypeError: if the filter is neither a function nor made of patterns.
        ArgumentError: if a pattern matches no module of the model.
    """
    if filter_fn is None:
        return lambda module, name: True
    if callable(filter_fn):
        return filter_fn
    texts = _patterns(where, filter_fn)
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    every = [name for own in names.values() for name in own]
    for text in texts:
        if not any(fnmatchcase(name, text.removeprefix("!")) for name in every):
            shown = ", ".join(name for name in every if name) or "none, as it has no parts"
            shown = shown if len(shown) < 80 else shown[:80].rpartition(", ")[0] + ", ..."
            way_out = f"name modules as model.named_modules() does: {shown}"
            raise ArgumentError(complaint(where, "filter_fn", repr(text), "matches no module", way_out))
    wanted = [t for t in texts if not t.startswith("!")] or ["*"]
    unwanted = [t[1:] for t in texts if t.startswith("!")]

    def matches(module: nn.Module, name: str) -> bool:
        own = names.get(module, [name])
        return _any(own, wanted) and not _any(own, unwanted)

    return matches


def _any(names: list[str], patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _patterns(where: str, given: object) -> list[str]:
    patterns = given if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    texts = []
    for pattern in patterns:
        if not isinstance(pattern, str):
            way_out = 'pass a function (module, name) -> bool, or patterns such as "*.mlp.*"'
            raise DtypeError(complaint(where, "filter_fn", repr(pattern), "not a pattern", way_out))
        texts.append(pattern)
    return texts
