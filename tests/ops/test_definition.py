"""The definition of the chain product, against matrices written out entry by entry."""

from __future__ import annotations

import torch

from kmatrix.ops.definition import (
    Pattern,
    flatten_patterns,
    reference_chain_matmul,
    unflatten_patterns,
)


def test_is_the_product_of_its_matrices(example, dense, dtype) -> None:
    weights = example.draw(dtype)
    x = torch.randn(4, example.cols, dtype=dtype)
    want = x @ dense(weights, example.patterns).T
    torch.testing.assert_close(reference_chain_matmul(x, weights, example.patterns), want)


def test_pattern_counts(example, dense) -> None:
    for p in example.patterns:
        matrix = dense([torch.ones(p)], [p])
        assert matrix.shape == (p.rows, p.cols)
        assert int(matrix.sum()) == p.numel


def test_transposed_pattern_is_that_of_the_transpose(dense) -> None:
    p = Pattern(2, 3, 4, 5)
    w = torch.randn(p)
    torch.testing.assert_close(dense([w.transpose(1, 2)], [p.transposed]), dense([w], [p]).T)


def test_patterns_default_to_the_shapes() -> None:
    w = torch.randn(2, 3, 4, 5)
    x = torch.randn(40)
    want = reference_chain_matmul(x, [w], [Pattern(2, 3, 4, 5)])
    assert torch.equal(reference_chain_matmul(x, [w]), want)


def test_flattening_round_trip(example) -> None:
    assert unflatten_patterns(flatten_patterns(example.patterns)) == tuple(example.patterns)
    assert unflatten_patterns([]) == ()
