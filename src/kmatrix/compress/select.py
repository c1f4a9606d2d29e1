"""Which layers of a model are to be compressed, and why the others are not."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import cast

import torch
from torch import nn

from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix.nn.surgery import FilterFn, Site, Skipped, survey

Filter = FilterFn | str | Iterable[str]
"""A function of the module and its name, or patterns of names such as ``"*.mlp.*"``; ``"!head"`` leaves out."""
TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def select(model: nn.Module, filter_fn: Filter | None = None) -> tuple[list[Site], list[Skipped]]:
    """The layers to compress, each once whatever the number of its names, and those left out with the reason.

    Args:
        model: any module.
        filter_fn: which layers to look at; all if not given. Of patterns, a name must match one (any, if all begin
            with ``!``) and none of those behind a ``!``.

    Raises:
        DtypeError: if the filter is neither a function nor made of patterns.
        ArgumentError: if a pattern matches no layer of the model.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> [site.name for site in select(model, "!2")[0]]
        ['0']
    """
    chosen, skipped = [], []
    sites, left = survey(model, _as_function(model, filter_fn))
    for site in sites:
        reason = _why_not(site)
        if reason is None:
            chosen.append(site)
        else:
            skipped.append(Skipped(site.names, reason))
    return chosen, [*left, *skipped]


def _why_not(site: Site) -> str | None:
    module = site.module
    weight = module.get_parameter("weight")
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        return f"a convolution in {module.groups} groups is block diagonal already"
    if weight.dtype not in TYPES:
        return f"its weight holds {weight.dtype}"
    if weight.is_meta:
        return "its weight holds no numbers (meta device)"
    if not bool(torch.isfinite(weight.detach()).all()):
        return "its weight holds numbers that are not finite"
    return None


def _as_function(model: nn.Module, filter_fn: Filter | None) -> FilterFn | None:
    if filter_fn is None:
        return None
    if callable(filter_fn):
        return filter_fn
    patterns = [filter_fn] if isinstance(filter_fn, str) else list(cast("Iterable[object]", filter_fn))
    for pattern in patterns:
        if not isinstance(pattern, str):
            way_out = 'pass a function (module, name) -> bool, or patterns such as "*.mlp.*"'
            raise DtypeError(complaint("select", "filter_fn", repr(pattern), "not a pattern", way_out))
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    texts = cast("list[str]", patterns)
    for text in texts:
        if not any(fnmatchcase(name, text.removeprefix("!")) for name in names):
            shown = ", ".join(names[1:6])
            way_out = f"name modules as model.named_modules() does, for example {shown}"
            raise ArgumentError(complaint("select", "filter_fn", repr(text), "matches no module", way_out))
    wanted = [t for t in texts if not t.startswith("!")] or ["*"]
    unwanted = [t[1:] for t in texts if t.startswith("!")]

    def matches(module: nn.Module, name: str) -> bool:
        return any(fnmatchcase(name, t) for t in wanted) and not any(fnmatchcase(name, t) for t in unwanted)

    return matches
