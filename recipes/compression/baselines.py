"""The methods to be measured against: truncated SVDs of all matrices, a few lines of torch each.

Every one replaces a matrix m x n by two, r x n and m x r, and keeps the bias. They differ in what the SVD minimises
(the error of the weights, or that of the outputs on calibration data, as SVD-LLM does) and in how ranks are chosen.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def layers(model: nn.Module, chosen: Callable[[nn.Module, str], bool]) -> dict[str, nn.Linear]:
    """The linear layers that may be replaced, by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and chosen(m, n)}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def second_moments(model: nn.Module, names: Iterable[str], inputs: Iterable[Tensor]) -> dict[str, Tensor]:
    """The sum of x x^T over all inputs x that each layer sees, in float64."""
    wanted = {name: model.get_submodule(name) for name in names}
    moments: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].detach().flatten(0, -2).double()
            moments[name] = moments[name].add_(x.T @ x) if name in moments else x.T @ x

        return hook

    handles = [module.register_forward_pre_hook(watch(name)) for name, module in wanted.items()]
    try:
        for batch in inputs:
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return moments


def truncated(weight: Tensor, rank: int, moment: Tensor | None) -> tuple[Tensor, Tensor]:
    """Two factors (m, r) and (r, n) nearest to a weight: in the Frobenius norm, or in that of the outputs.

    With C = S S^T the second moment of the inputs, the error of the outputs is the norm of (W - U V) S. So the answer
    is the truncated SVD of W S, times the inverse of S (Wang et al. 2024, SVD-LLM; here with the eigenvectors of C, for
    inputs that do not span the space).
    """
    w = weight.detach().double()
    if moment is None:
        left, values, right = torch.linalg.svd(w, full_matrices=False)
        root = values[:rank].sqrt()
        return left[:, :rank] * root, root[:, None] * right[:rank]
    variances, axes = torch.linalg.eigh(moment)
    scales = variances.clamp(min=float(variances[-1]) * 1e-10).sqrt()
    left, values, right = torch.linalg.svd(w @ (axes * scales), full_matrices=False)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, (root[:, None] * right[:rank] / scales) @ axes.T


def replace(model: nn.Module, ranks: dict[str, int], moments: dict[str, Tensor] | None) -> None:
    """Put two layers in the place of each of ``ranks``, in the model itself."""
    for name, rank in ranks.items():
        dense = model.get_submodule(name)
        assert isinstance(dense, nn.Linear)
        u, v = truncated(dense.weight, rank, None if moments is None else moments[name])
        first = nn.Linear(dense.in_features, rank, bias=False)
        second = nn.Linear(rank, dense.out_features, bias=dense.bias is not None)
        with torch.no_grad():
            first.weight.copy_(v)
            second.weight.copy_(u)
            if dense.bias is not None:
                second.bias.copy_(dense.bias)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, nn.Sequential(first, second))


def uniform_ranks(model: nn.Module, names: Iterable[str], most: int) -> dict[str, int]:
    """Ranks by one ratio for all layers, the largest with which the whole model has at most ``most`` parameters.

    A layer whose two factors would not be smaller than itself stays dense.
    """
    shapes = {n: model.get_submodule(n).weight.shape for n in names}  # type: ignore[union-attr]
    fixed = parameters(model) - sum(m * n for m, n in shapes.values())

    def at(ratio: float) -> dict[str, int]:
        return {name: max(1, int(ratio * m * n / (m + n))) for name, (m, n) in shapes.items()}

    def size(ranks: dict[str, int]) -> int:
        return fixed + sum(min(m * n, ranks[name] * (m + n)) for name, (m, n) in shapes.items())

    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if size(at(middle)) <= most else (low, middle)
    return {name: rank for name, rank in at(low).items() if rank * sum(shapes[name]) < shapes[name].numel()}


def ranks_of(model: nn.Module, counts: dict[str, int]) -> dict[str, int]:
    """Ranks that give each layer at most the parameters that another method gave it (without its bias)."""
    ranks = {}
    for name, count in counts.items():
        m, n = model.get_submodule(name).weight.shape  # type: ignore[union-attr]
        if count < m * n:
            ranks[name] = max(1, count // (m + n))
    return ranks
