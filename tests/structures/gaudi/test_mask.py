"""The mask against boxcars, its tables against the definition, and its gradients against finite differences."""

import math

import pytest
import torch

from kmatrix import ArgumentError, DtypeError
from kmatrix.ops import use_backend
from kmatrix.structures.gaudi import gaudi_mask, masked
from kmatrix.structures.gaudi.content import reference_masked
from kmatrix.structures.gaudi.mask import steps_of, tables, windows

SIZES = [1, 2, 3, 7, 8, 45, 64, 97]
SIGMAS = [0.7, 5.0, 100.0, math.inf]


def every_box(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole widths and starts of all boxes on small circles, and of many on large ones."""
    step = 1 if n < 10 else n // 8
    widths = torch.tensor(sorted({0, 1, n - 1, n, *range(0, n + 1, step)}))
    grid = torch.cartesian_prod(widths, torch.arange(0, n, step))
    return grid[:, 0].double(), grid[:, 1].double()


def boxcars(width: torch.Tensor, start: torch.Tensor, n: int) -> torch.Tensor:
    return ((torch.arange(n) - start[:, None]) % n < width[:, None]).double()


def by_tables(width: torch.Tensor, start: torch.Tensor, n: int, sigma: float) -> torch.Tensor:
    return masked(torch.ones(len(width), n, dtype=torch.float64), width / n, start / n, table(n, sigma))


def table(n: int, sigma: float) -> torch.Tensor:
    return tables(n, sigma, dtype=torch.float64)


@pytest.mark.parametrize("n", SIZES)
def test_masks_of_whole_boxes_are_boxcars(n: int) -> None:
    width, start = every_box(n)
    expected = boxcars(width, start, n)
    defined = gaudi_mask(width / n, start / n, n)
    assert (defined - expected).abs().max() < 1e-12
    assert torch.equal(by_tables(width, start, n, math.inf), expected)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("n", SIZES)
def test_tables_give_what_transforms_give(n: int, sigma: float) -> None:
    width, start = every_box(n)
    defined = gaudi_mask(width / n, start / n, n, sigma)
    assert (by_tables(width, start, n, sigma) - defined).abs().max() < 1e-12


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_sum_is_the_width_whatever_sigma_is(sigma: float) -> None:
    width, start = torch.rand(20, dtype=torch.float64), torch.rand(20, dtype=torch.float64)
    assert torch.allclose(gaudi_mask(width, start, 33, sigma).sum(-1), 33 * width, atol=1e-12)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("n", SIZES)
def test_gradients_are_those_of_the_definition(n: int, sigma: float) -> None:
    width, start = every_box(n)
    content, weight = torch.randn(2, len(width), n, dtype=torch.float64)
    inputs = [t.clone().requires_grad_() for t in (content, width / n, start / n)]
    own = masked(*inputs, table(n, sigma))
    found = torch.autograd.grad((own * weight).sum(), inputs)
    defined = inputs[0] * gaudi_mask(*inputs[1:], n, sigma)
    expected = torch.autograd.grad((defined * weight).sum(), inputs)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() < 1e-12 * n * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize("sigma", [5.0, math.inf])
@pytest.mark.parametrize("n", [7, 8, 45])
def test_gradients_are_finite_differences(n: int, sigma: float) -> None:
    width, start = (t / n for t in every_box(n))
    content, weight = torch.randn(2, len(width), n, dtype=torch.float64)
    inputs = (width.requires_grad_(), start.requires_grad_())
    (masked(content, *inputs, table(n, sigma)) * weight).sum().backward()

    def total(w: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return (content * weight * gaudi_mask(w, s, n, sigma)).sum(-1)

    step = 1e-6
    with torch.no_grad():
        by_width = (total(width + step, start) - total(width - step, start)) / (2 * step)
        by_start = (total(width, start + step) - total(width, start - step)) / (2 * step)
    assert width.grad is not None and start.grad is not None
    for found, expected in ((width.grad, by_width), (start.grad, by_start)):
        assert (found - expected).abs().max() < 1e-7 * float(expected.abs().max())


def test_the_definition_passes_gradcheck() -> None:
    width, start = torch.rand(2, 5, dtype=torch.float64)
    for sigma in SIGMAS:
        assert torch.autograd.gradcheck(
            lambda w, s, sigma=sigma: gaudi_mask(w, s, 9, sigma),
            (width.requires_grad_(), start.requires_grad_()),
        )


def test_empty_boxes_learn_their_width_and_not_their_start() -> None:
    n = 16
    zero = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    start = torch.tensor([0.0, 0.25, 0.9], dtype=torch.float64, requires_grad=True)
    product = masked(torch.ones(3, n, dtype=torch.float64), zero, start, table(n, 4.0))
    assert not product.any()
    product[:, 5].sum().backward()
    assert zero.grad is not None and start.grad is not None
    assert (zero.grad != 0).all() and not start.grad.any()


def test_rounding_goes_straight_through() -> None:
    n, content = 10, torch.randn(2, 10, dtype=torch.float64)
    at = [torch.tensor([0.31, 0.78], dtype=torch.float64), torch.tensor([0.97, 0.42], dtype=torch.float64)]
    near = [torch.tensor([0.3, 0.8], dtype=torch.float64), torch.tensor([0.0, 0.4], dtype=torch.float64)]
    products, gradients = [], []
    for pair in (at, near):
        inputs = [t.requires_grad_() for t in pair]
        products.append(masked(content, *inputs, table(n, 3.0)))
        gradients.append(torch.autograd.grad((products[-1] ** 2).sum(), inputs))
    assert torch.equal(*products)
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_many_boxes_are_masked_in_parts_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    content = torch.randn(50, 12, dtype=torch.float64, requires_grad=True)
    width, start = (torch.rand(50, dtype=torch.float64, requires_grad=True) for _ in range(2))
    results = []
    for numbers in (1, 12 * 7, 10**6):
        monkeypatch.setattr("kmatrix.structures.gaudi.content._NUMBERS_AT_ONCE", numbers)
        product = masked(content, width, start, table(12, 2.0))
        results.append((product, *torch.autograd.grad(product.cos().sum(), (content, width, start))))
    for one in results[1:]:
        assert all(torch.allclose(a, b, rtol=1e-13) for a, b in zip(one, results[0], strict=True))


def test_complex_content_is_masked_in_both_parts() -> None:
    pairs = torch.randn(6, 9, 2, dtype=torch.float64, requires_grad=True)
    width, start = (torch.rand(6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.randn(6, 9, 2, dtype=torch.float64)
    whole = masked(pairs, width, start, table(9, 2.0))
    parts = torch.stack([masked(pairs[..., k], width, start, table(9, 2.0)) for k in range(2)], -1)
    assert torch.equal(whole, parts)
    inputs = (pairs, width, start)
    for one, other in zip(
        torch.autograd.grad((whole * weight).sum(), inputs),
        torch.autograd.grad((parts * weight).sum(), inputs),
        strict=True,
    ):
        assert torch.allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_definition_in_plain_torch_says_the_same(sigma: float) -> None:
    for shape in ((20, 11), (20, 11, 2)):
        content = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        inputs = (content, *(torch.rand(20, dtype=torch.float64, requires_grad=True) for _ in range(2)))
        weight = torch.randn_like(content)
        results = []
        for operation in (masked, reference_masked):
            product = operation(*inputs, table(11, sigma))
            results.append((product, *torch.autograd.grad((product * weight).sum(), inputs)))
        assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 2)])
def test_second_derivatives_are_those_of_the_definition(shape: tuple[int, ...]) -> None:
    content, weight = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2))
    width, start = (torch.rand(6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    inputs = (content, width, start)
    assert (
        torch.autograd.gradgradcheck(  # steps of widths are rounded away, so there are no differences of them
            lambda c: masked(c, width.detach(), start.detach(), table(9, 2.0)).sin(), (content,)
        )
    )
    results = []
    for operation in (masked, reference_masked):
        first = torch.autograd.grad(
            (operation(*inputs, table(9, 2.0)).sin() * weight).sum(), inputs, create_graph=True
        )
        penalty = sum(g.square().sum() for g in first)
        results.append((*first, *torch.autograd.grad(penalty, (*inputs, weight))))
    for one, other in zip(*results, strict=True):
        assert one.abs().max() > 0 and torch.allclose(one, other, rtol=1e-11, atol=1e-11)


def test_vmap_and_functional_gradients() -> None:
    content, width, start = torch.randn(4, 5, 8), torch.rand(4, 5), torch.rand(5)
    own = tables(8, 3.0, dtype=torch.float32)

    def total(c: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return masked(c, w, start, own).sin().sum()

    together = torch.func.vmap(torch.func.grad(total, argnums=(0, 1)))(content, width)
    for k in range(4):
        alone = torch.func.grad(total, argnums=(0, 1))(content[k], width[k])
        assert all(torch.allclose(t[k], a, atol=1e-6) for t, a in zip(together, alone, strict=True))


def test_windows_copy_nothing() -> None:
    own = table(30, 5.0)
    assert windows(own[0]).data_ptr() == own.data_ptr()
    first, last = steps_of(torch.ones(1), torch.full((1,), 29 / 30), 30)
    assert 0 <= int(last) <= int(first) < len(windows(own[0]))


def test_what_is_no_mask_is_refused() -> None:
    with pytest.raises(ArgumentError, match="sigma"):
        gaudi_mask(torch.rand(2), torch.rand(2), 8, 0.0)
    with pytest.raises(ArgumentError, match="n"):
        gaudi_mask(torch.rand(2), torch.rand(2), 0)
    with pytest.raises(DtypeError, match="floating"):
        gaudi_mask(torch.ones(2, dtype=torch.int64), torch.rand(2), 8)


@pytest.mark.parametrize("sigma", [4.0, math.inf])
@pytest.mark.parametrize("content_dtype", [torch.float16, torch.float32, torch.float64])
def test_the_kernels_give_what_torch_gives(content_dtype: torch.dtype, sigma: float) -> None:
    wide = torch.float32 if content_dtype == torch.float16 else content_dtype
    width, start = (torch.rand(12, dtype=wide) for _ in range(2))
    content, own = torch.randn(12, 35).to(content_dtype), tables(35, sigma, dtype=wide)
    upstream = torch.randn(35, 12).to(content_dtype).mT  # not contiguous, as that of a transposed product
    results = []
    for backend in ("native", "portable"):
        inputs = [t.clone().requires_grad_() for t in (content, width, start)]
        with use_backend(backend):
            y = masked(*inputs, own)
            results.append((y.detach(), *torch.autograd.grad(y, inputs, upstream)))
            both = torch.autograd.grad(masked(*inputs, own).sum(), inputs)  # from one number, expanded
        results[-1] += both
    eps = torch.finfo(content_dtype).eps
    for one, other in zip(*results, strict=True):
        assert (one - other).abs().max() <= 50 * eps * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize("sigma", [4.0, math.inf])
def test_content_passes_gradcheck(sigma: float) -> None:
    width, start = torch.rand(2, 4, dtype=torch.float64)
    content = torch.randn(4, 21, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: masked(c, width, start, table(21, sigma)), (content,))
