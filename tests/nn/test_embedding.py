"""``km.nn.Embedding``: rows on demand, tied to the output layer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import kmatrix as km
from kmatrix.nn.embedding import rows

CASES = [
    (km.Dense(), 50, 8),
    (km.LowRank(3), 50, 8),
    (km.Monarch(4), 50, 8),
    (km.Monarch(order=3), 50, 8),
    (km.Butterfly(), 60, 8),
    (km.Kronecker(), 60, 8),
    (km.Kronecker(rank=2), 12, 20),
    (km.BLAST(2, 3), 50, 8),
    (km.GroupShuffle(4), 48, 8),
    (km.BlockLowRank(4, 1), 48, 8),
    (km.Diagonal(), 9, 5),
    (km.Toeplitz(), 50, 8),
    (km.OrthogonalButterfly(), 12, 12),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize(("structure", "m", "n"), CASES, ids=str)
def test_rows_are_those_of_the_matrix(structure: km.Structure, m: int, n: int, dtype: torch.dtype) -> None:
    if isinstance(structure, km.OrthogonalButterfly) and dtype.is_complex:
        structure = km.OrthogonalButterfly(unitary=True)
    A = structure.random(m, n, dtype=dtype)
    for index in (
        torch.tensor([[3, m - 1, 0], [7, 7, 2]]),
        torch.arange(m),
        torch.zeros(0, 2).long(),
        torch.tensor(4).int(),
    ):
        torch.testing.assert_close(rows(A, index), A.to_dense()[index.long()], rtol=1e-12, atol=1e-13)
    index = torch.tensor([1, 4, 4])
    got = torch.autograd.grad(rows(A, index).abs().square().sum(), list(A.parameters()))
    want = torch.autograd.grad(A.to_dense()[index].abs().square().sum(), list(A.parameters()))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_tied_to_the_output_layer() -> None:
    embed = km.nn.Embedding(50, 8, structure=km.LowRank(3))
    model = nn.Sequential(embed, km.nn.Linear.from_matrix(embed.matrix))
    assert sum(p.numel() for p in model.parameters()) == 3 * 58
    index = torch.tensor([[1, 2], [3, 49]])
    model(index).logsumexp(-1).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    other = copy.deepcopy(model)
    assert other[0].matrix is other[1].matrix
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(index), model(index))
    assert len([p for g in km.nn.param_groups(model, lr=1.0) for p in g["params"]]) == 2


def test_compiles_and_exports() -> None:
    for structure in (km.LowRank(3), km.Monarch(4), km.Toeplitz()):
        embed = km.nn.Embedding(50, 8, structure=structure, padding_idx=1)
        index = torch.tensor([[1, 2], [3, 49]])
        torch.compiler.reset()
        compiled = torch.compile(embed, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(index), embed(index))
        torch.testing.assert_close(torch.export.export(embed, (index,)).module()(index), embed(index))
        meta = km.nn.Embedding(50, 8, structure=structure, device="meta")
        assert meta(index.to("meta")).shape == (2, 2, 8)


@pytest.mark.parametrize("structure", [km.LowRank(3), km.BlockLowRank(2), km.Toeplitz()], ids=str)
def test_exports_with_any_batch(structure: km.Structure) -> None:
    embed = km.nn.Embedding(50, 8, structure=structure)
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(embed, (torch.tensor([[1, 2], [3, 49]]),), dynamic_shapes=dynamic)
    for batch in (1, 3, 40):
        index = torch.randint(50, (batch, 2))
        torch.testing.assert_close(program.module()(index), embed(index))


@pytest.mark.parametrize("capped", [False, True])
def test_rows_of_long_tables_do_not_write_them_out(capped: bool) -> None:
    model = nn.Sequential(km.nn.Embedding(50, 8, structure=km.Monarch(2)))
    if capped:
        assert km.nn.rms_cap_(model) == 1
    matrix = model[0].matrix
    for name in ("to_dense", "rforward"):
        setattr(matrix, name, None)
    index = torch.arange(50)
    y = model[0](index)
    del matrix.to_dense, matrix.rforward
    torch.testing.assert_close(y, matrix.to_dense())


def test_padding_reads_as_zeros_and_is_not_trained() -> None:
    embed = km.nn.Embedding(20, 8, padding_idx=-1, structure=km.Dense())
    assert embed.padding_idx == 19 and "padding_idx=19" in repr(embed)
    y = embed(torch.tensor([19, 2]))
    assert not y[0].any() and bool(y[1].all())
    y.sum().backward()
    grad = embed.matrix.factors[0].grad[0, :, :, 0]
    assert not grad[19].any() and bool(grad[2].all())
    torch.testing.assert_close(embed.weight[torch.tensor([19, 2])], y)


def test_from_embedding() -> None:
    dense = nn.Embedding(20, 8, padding_idx=2)
    embed = km.nn.Embedding.from_embedding(dense, km.Dense())
    index = torch.tensor([0, 2, 7])
    torch.testing.assert_close(embed(index), dense(index))
    with pytest.raises(km.ArgumentError, match=r"max_norm=1\.0"):
        km.nn.Embedding.from_embedding(nn.Embedding(20, 8, max_norm=1.0), km.Dense())


def test_what_is_refused() -> None:
    for structure in (km.LowRank(3), km.Butterfly(), km.Toeplitz()):
        embed = km.nn.Embedding(20, 8, structure=structure)
        for index in (-1, 20):
            with pytest.raises(km.ArgumentError, match="the matrix has 20 rows; use 0 to 19"):
                embed(torch.tensor([3, index]))
    with pytest.raises(km.DtypeError, match="not whole numbers"):
        embed(torch.tensor([1.0]))
    with pytest.raises(km.DtypeError, match="not a tensor"):
        embed([3, 4])
    with pytest.raises(km.DtypeError, match="not a StructuredMatrix"):
        km.nn.Embedding.from_matrix(torch.zeros(20, 8))  # type: ignore[arg-type]
    with pytest.raises(km.ArgumentError, match="padding_idx=20"):
        km.nn.Embedding(20, 8, padding_idx=20, structure=km.LowRank(3))
