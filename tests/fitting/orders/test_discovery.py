"""Discovery: fast transforms come back from their entries, in any order of rows and columns, at machine precision."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.fft
import scipy.linalg
import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, DtypeError
from kmatrix._permutations import Index, bit_reversal, digit_reversal, is_permutation, prime_factors, stride
from kmatrix.fitting.orders.discovery import Discovery, NotFound, discover
from kmatrix.fitting.problem import TimeUp
from kmatrix.ops import chain_matmul

RNG = np.random.default_rng(11)


def hartley(n: int) -> np.ndarray:
    f = np.fft.fft(np.eye(n))
    return f.real - f.imag


TRANSFORMS: dict[str, Callable[[int], np.ndarray]] = {
    "dft": lambda n: np.fft.fft(np.eye(n)),
    "idft": lambda n: np.fft.ifft(np.eye(n)),
    "hadamard": lambda n: scipy.linalg.hadamard(n) / math.sqrt(n),
    "hartley": hartley,
    "dct2": lambda n: scipy.fft.dct(np.eye(n), axis=0, norm="ortho"),
    "dct3": lambda n: scipy.fft.dct(np.eye(n), type=3, axis=0),
    "dct4": lambda n: scipy.fft.dct(np.eye(n), type=4, axis=0),
    "dst2": lambda n: scipy.fft.dst(np.eye(n), axis=0),
}


def tensor(a: np.ndarray) -> Tensor:
    return torch.from_numpy(
        np.ascontiguousarray(a, dtype=np.complex128 if np.iscomplexobj(a) else np.float64)
    )


def bp(n: int) -> Index:
    """A random permutation of the family that is learnt level by level: separate, reverse halves."""
    p = np.arange(n).reshape(1, n)
    while p.shape[1] > 1:
        separate, first, second = RNG.integers(0, 2, 3)
        if separate:
            p = np.concatenate([p[:, 0::2], p[:, 1::2]], 1)
        left, right = np.split(p, 2, axis=1)
        p = np.stack([left[:, ::-1] if first else left, right[:, ::-1] if second else right], 1)
        p = p.reshape(-1, p.shape[2])
    return p.ravel()


def orders(n: int) -> dict[str, Index]:
    named = {"random": RNG.permutation(n), "reversed": digit_reversal(prime_factors(n))}
    if n & (n - 1) == 0:
        named["bp"] = bp(n)
    named |= {f"stride {k}": stride(k, n) for k in range(2, n) if n % k == 0}
    return named


def check(matrix: Tensor, tol: float = 1e-12) -> Discovery:
    """Discover, and compare the chain under the orders found with the matrix, entry for entry."""
    found = discover(matrix, tol)
    assert isinstance(found, Discovery), found.reasons
    assert is_permutation(found.row_perm)
    assert is_permutation(found.col_perm)
    permuted = matrix[torch.from_numpy(found.row_perm)][:, torch.from_numpy(found.col_perm)]
    product = chain_matmul(torch.eye(matrix.shape[1], dtype=matrix.dtype), found.factors.weights).T
    error = float(torch.linalg.vector_norm(product - permuted) / torch.linalg.vector_norm(matrix))
    assert error <= max(tol, 1e-12)
    assert found.num_params == sum(w.numel() for w in found.factors.weights) < matrix.numel()
    return found


CASES = [
    (name, n) for n in (8, 16, 64) for name in TRANSFORMS if (name, n) != ("dct4", 8)
]  # 8: no gain in rank 2


@pytest.mark.parametrize(("name", "n"), [*CASES, ("dct2", 128), ("hartley", 128)])
def test_any_order_of_rows_or_columns(name: str, n: int) -> None:
    matrix = tensor(TRANSFORMS[name](n))
    check(matrix)
    for p in map(torch.from_numpy, orders(n).values()):
        check(matrix[p])
        check(matrix[:, p])


@pytest.mark.parametrize("n", [36, 81, 100])
@pytest.mark.parametrize("name", ["dft", "hartley", "dct2", "dst2"])
def test_sizes_that_are_no_power_of_two(name: str, n: int) -> None:
    matrix = tensor(TRANSFORMS[name](n))
    check(matrix)
    p, q = (torch.from_numpy(RNG.permutation(n)) for _ in range(2))
    for shuffled in (matrix[p], matrix[:, q], matrix[p][:, q]):
        check(shuffled)


@pytest.mark.parametrize(("name", "n"), [*CASES, ("dft", 256), ("dct2", 256), ("dst2", 256)])
def test_both_orders_unknown(name: str, n: int) -> None:
    check(tensor(TRANSFORMS[name](n)[RNG.permutation(n)][:, RNG.permutation(n)]))


@pytest.mark.parametrize("n", [16, 36, 64, 100, 256])
@pytest.mark.parametrize("name", ["dft", "idft", "hadamard"])
def test_tile_rank_one_costs_n_times_the_sum_of_the_prime_factors(name: str, n: int) -> None:
    if name == "hadamard" and n & (n - 1):
        return
    matrix = tensor(TRANSFORMS[name](n)[RNG.permutation(n)][:, RNG.permutation(n)])
    found = check(matrix)
    assert set(found.ranks) == {1}
    assert found.num_params == n * sum(prime_factors(n))


@pytest.mark.parametrize("name", ["dct2", "dst2"])
def test_real_transforms_cost_twice_that_at_most(name: str) -> None:
    n = 256
    found = check(tensor(TRANSFORMS[name](n)[RNG.permutation(n)]))
    assert max(found.ranks) == 2
    assert found.num_params <= 2 * n * sum(prime_factors(n))


def test_natural_and_bit_reversed_orders_are_kept() -> None:
    found = check(tensor(TRANSFORMS["hadamard"](32)))
    assert np.array_equal(found.row_perm, np.arange(32))
    assert np.array_equal(found.col_perm, np.arange(32))
    found = check(tensor(TRANSFORMS["dft"](32)))
    assert np.array_equal(found.row_perm, np.arange(32))
    assert np.array_equal(found.col_perm, bit_reversal(32))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(
    ("pairs", "ranks"),
    [
        ([(2, 2)] * 6, [1] * 5),
        ([(3, 3), (5, 5), (4, 4)], [1, 1]),
        ([(4, 4)] * 3, [2, 2]),
        ([(8, 6), (6, 8)], [1]),
        ([(4, 5), (3, 2), (4, 6)], [2, 2]),
    ],
    ids=str,
)
def test_chains_of_random_numbers(pairs: list[tuple[int, int]], ranks: list[int], dtype: torch.dtype) -> None:
    rho = [1, *ranks, 1]
    shapes = [
        (
            math.prod(c for _, c in pairs[i + 1 :]),
            rho[i + 1] * b,
            c * rho[i],
            math.prod(b for b, _ in pairs[:i]),
        )
        for i, (b, c) in enumerate(pairs)
    ]
    n = math.prod(c for _, c in pairs)
    dense = chain_matmul(torch.eye(n, dtype=dtype), [torch.randn(s, dtype=dtype) for s in shapes]).T
    shuffled = dense[torch.randperm(dense.shape[0])][:, torch.randperm(n)]
    found = check(shuffled)
    assert found.num_params <= sum(math.prod(s) for s in shapes)


def test_two_dimensional_dct_with_both_orders_unknown() -> None:
    one = TRANSFORMS["dct2"](16)
    found = check(tensor(np.kron(one, one)[RNG.permutation(256)][:, RNG.permutation(256)]))
    assert found.num_params < 256 * 256 / 5


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_scaled_rows_and_columns(scale: float) -> None:
    left, right = (torch.rand(64, dtype=torch.float64) + 0.1 for _ in range(2))
    for name in ("dft", "dct2"):
        matrix = scale * left[:, None] * tensor(TRANSFORMS[name](64)) * right
        check(matrix[torch.randperm(64)])


@pytest.mark.parametrize(("noise", "tol"), [(1e-8, 1e-6), (1e-6, 1e-4), (1e-4, 1e-3)])
@pytest.mark.parametrize("name", ["dft", "hadamard", "dct2"])
def test_noise_below_the_tolerance(name: str, noise: float, tol: float) -> None:
    clean = tensor(TRANSFORMS[name](64)[RNG.permutation(64)])
    dirt = torch.randn(clean.shape, dtype=clean.dtype)
    dirt *= noise * torch.linalg.vector_norm(clean) / torch.linalg.vector_norm(dirt)
    found = check(clean + dirt, tol)
    assert max(found.ranks) <= 2
    assert found.factors.relative_error <= 1.001 * noise


def test_zero_rows_and_columns_are_no_obstacle() -> None:
    for name in ("dft", "dct2"):
        matrix = tensor(TRANSFORMS[name](64)[RNG.permutation(64)])
        matrix[[3, 40]] = 0
        matrix[:, 5] = 0
        check(matrix)


@pytest.mark.parametrize(
    "matrix",
    [
        torch.randn(64, 64, dtype=torch.float64),
        torch.randn(60, 90, dtype=torch.complex128),
        torch.linalg.qr(torch.randn(96, 96, dtype=torch.float64)).Q,
        torch.zeros(16, 16, dtype=torch.float64),
        torch.ones(1, 1, dtype=torch.float64),
        torch.randn(3, 1, dtype=torch.float64),
        tensor(np.fft.fft(np.eye(31))),
        tensor(np.fft.fft(np.eye(2 * 67))[:67]),
    ],
    ids=["gaussian", "complex", "orthogonal", "zeros", "1x1", "3x1", "prime", "half of 2 x prime"],
)
def test_an_honest_no(matrix: Tensor) -> None:
    found = discover(matrix)
    assert isinstance(found, NotFound)
    assert all(str(matrix.numel()) in reason for reason in found.reasons)
    assert found.reasons


def test_same_seed_same_answer() -> None:
    matrix = tensor(TRANSFORMS["dct2"](64)[RNG.permutation(64)][:, RNG.permutation(64)])
    first, second = (discover(matrix, seed=7) for _ in range(2))
    assert isinstance(first, Discovery)
    assert isinstance(second, Discovery)
    assert np.array_equal(first.col_perm, second.col_perm)
    assert all(torch.equal(v, w) for v, w in zip(first.factors.weights, second.factors.weights, strict=True))


@pytest.mark.parametrize(
    ("matrix", "tol", "error", "match"),
    [
        (torch.eye(4), 0.0, DtypeError, "double"),
        (torch.zeros(4, dtype=torch.float64), 0.0, ArgumentError, "not a matrix"),
        (torch.zeros(0, 4, dtype=torch.float64), 0.0, ArgumentError, "not a matrix"),
        (torch.eye(4, dtype=torch.float64) * math.inf, 0.0, ArgumentError, "infinity"),
        (torch.eye(4, dtype=torch.float64), -1.0, ArgumentError, "finite number"),
    ],
)
def test_refuses_what_cannot_be_searched(
    matrix: Tensor, tol: float, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        discover(matrix, tol)


@pytest.mark.parametrize("error", [TimeUp, KeyboardInterrupt])
def test_what_is_found_when_time_is_up_is_kept(error: type[BaseException]) -> None:
    n = 45  # odd sizes are not folded, so that the search goes on in hope of a better price
    target = tensor(TRANSFORMS["dct2"](n)[np.random.default_rng(0).permutation(n)])
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    full = discover(target, check=count)
    assert isinstance(full, Discovery) and not full.interrupted
    assert calls > 10

    def stopped(after: int) -> Discovery | NotFound | None:
        left = iter(range(after))

        def check() -> None:
            if next(left, None) is None:
                raise error("now")

        try:
            return discover(target, check=check)
        except error:
            return None

    ends = [stopped(after) for after in (0, calls - 10, calls - 1)]
    assert ends[0] is None
    for end in ends[1:]:
        assert isinstance(end, Discovery) and end.interrupted
        assert end.factors.relative_error < 1e-12
