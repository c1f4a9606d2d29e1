"""What takes the place of the matrices of a model's blocks, and what it costs.

The embedding and the head stay dense. A cost is the number of multiplications with one vector; FLOPs are twice that.
"""

from collections.abc import Callable

import torch
from torch import nn

import kmatrix as km

from ..common.errors import RecipeError, complaint

Shape = tuple[int, int]
Rule = Callable[[str, Shape], km.Structure]


def dense_matrices(model: nn.Module) -> dict[str, nn.Linear]:
    """The matrices of the blocks of a dense model, by name."""
    found = model.named_modules()
    return {name: m for name, m in found if name.startswith("blocks.") and isinstance(m, nn.Linear)}


def costs(model: nn.Module) -> dict[str, int]:
    """Multiplications of each matrix of the blocks with one vector."""
    found = {}
    for name, module in model.named_modules():
        if name.startswith("blocks."):
            if isinstance(module, km.nn.Linear):
                found[name] = module.matrix.flops // 2
            elif isinstance(module, nn.Linear):
                found[name] = module.weight.numel()
    return found


def rank_within(cost: float, shape: Shape) -> int:
    """The largest rank of at most a cost; at least one."""
    m, n = shape
    return max(1, min(int(cost / (m + n) + 1e-9), m, n))


def largest(candidates: list[km.Structure], shape: Shape, cost: float) -> km.Structure:
    """The candidate with the most FLOPs of at most a cost."""
    fitting = []
    for structure in candidates:
        try:
            if structure.flops(*shape) <= 2 * cost:
                fitting.append(structure)
        except km.ArgumentError:
            continue
    if not fitting:
        reason = f"nothing of at most {cost:.0f} multiplications for {shape[0]} x {shape[1]}"
        raise RecipeError(complaint("gblr", "budget", "", reason, "use a larger one"))
    return max(fitting, key=lambda structure: structure.flops(*shape))


def rule(method: str, budget: float, ranks: dict[str, int]) -> Rule:
    """The structure of a matrix by its name and shape, each within the budget; of low rank the ranks that are given."""

    def low_rank(name: str, shape: Shape) -> km.Structure:
        return km.LowRank(ranks[name])

    def block_low_rank(name: str, shape: Shape) -> km.Structure:
        grids = [km.BlockLowRank((p, p), rank) for p in (2, 4) for rank in range(1, min(shape) // p + 1)]
        return largest(list(grids), shape, budget * shape[0] * shape[1])

    def monarch(name: str, shape: Shape) -> km.Structure:
        return largest([km.Monarch(p) for p in range(2, 33)], shape, budget * shape[0] * shape[1])

    def random_boxes(name: str, shape: Shape) -> km.Structure:
        return km.GBLR(budget=budget)

    rules: dict[str, Rule] = {
        "low-rank": low_rank,
        "low-rank-learned": low_rank,
        "block-low-rank": block_low_rank,
        "monarch": monarch,
        "gblr-random": random_boxes,
    }
    return rules[method]


def ranks_of(spent: dict[str, int], shapes: dict[str, Shape]) -> dict[str, int]:
    """Ranks that spend on each matrix what another method spent there, as nearly as whole ranks can, and not more.

    All are rounded down, and what that leaves goes to those that lost most, as long as it reaches. A rank is at least
    one: where that costs more than was spent, the largest ranks pay for it.
    """
    ranks = {name: rank_within(spent[name], shape) for name, shape in shapes.items()}
    price = {name: sum(shape) for name, shape in shapes.items()}
    left = sum(spent.values()) - sum(rank * price[name] for name, rank in ranks.items())
    while left < 0 and max(ranks.values()) > 1:
        largest_one = max(ranks, key=lambda name: ranks[name])
        ranks[largest_one] -= 1
        left += price[largest_one]
    for name in sorted(ranks, key=lambda name: ranks[name] - spent[name] / price[name]):
        if price[name] <= left and ranks[name] < min(shapes[name]):
            ranks[name] += 1
            left -= price[name]
    return ranks


def swap(model: nn.Module, choose: Rule, fit: bool) -> None:
    """Put structured layers in the place of the matrices of a dense model, in the model itself.

    Args:
        model: a dense model.
        choose: the structure of each matrix.
        fit: whether each takes the place of its weight (nearest in the Frobenius norm), or starts anew: with the
            structure's own start, at the size of the weight that it replaces.
    """
    for name, dense in dense_matrices(model).items():
        structure = choose(name, (dense.out_features, dense.in_features))
        if fit:
            layer = km.nn.Linear.from_linear(dense, structure)
        else:
            layer = km.nn.Linear(
                dense.in_features, dense.out_features, structure=structure, device=dense.weight.device
            )
            match_size(layer.matrix, dense.weight)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer)


@torch.no_grad()
def match_size(matrix: km.StructuredMatrix, weight: torch.Tensor) -> None:
    """Scale a fresh matrix to the Frobenius norm of a fresh weight: branches are scaled by their depth in both."""
    first = next(matrix.parameters())  # the product is linear in each of its factors
    first.mul_(torch.linalg.matrix_norm(weight) / torch.linalg.matrix_norm(matrix.to_dense()))
