"""Which layers of a model are to be compressed, and why the others are not."""

from __future__ import annotations

import torch
from torch import nn

from kmatrix.nn.filters import Filter as Filter
from kmatrix.nn.filters import as_function
from kmatrix.nn.surgery import Site, Skipped, survey

TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def select(model: nn.Module, filter_fn: Filter | None = None) -> tuple[list[Site], list[Skipped]]:
    """The layers to compress, each once whatever the number of its names, and those left out with the reason.

    Args:
        model: any module.
        filter_fn: which layers to look at; all if not given. Of patterns, a name of it must match one (any, if all
            begin with ``!``) and none those behind a ``!``.

    Raises:
        DtypeError: if the filter is neither a function nor made of patterns.
        ArgumentError: if a pattern matches no module of the model.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> [site.name for site in select(model, "!2")[0]]
        ['0']
    """
    chosen, skipped = [], []
    sites, left = survey(model, None if filter_fn is None else as_function("select", model, filter_fn))
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
