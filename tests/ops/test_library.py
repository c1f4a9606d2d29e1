"""The registered operators: schema, fake tensors, batching rules, FLOPs, compilation and export."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils import flop_counter
from torch.utils.flop_counter import FlopCounterMode

from kmatrix._errors import ArgumentError, DtypeError
from kmatrix.ops import Pattern, chain_matmul, library
from kmatrix.ops.definition import flatten_patterns, reference_chain_matmul
from kmatrix.ops.library import CHAIN_MATMUL, CHAIN_MATMUL_BACKWARD, decomposition


def arguments(
    example: Any, dtype: torch.dtype, requires_grad: bool
) -> tuple[Tensor, list[Tensor], list[int]]:
    x = torch.randn(3, example.cols, dtype=dtype, requires_grad=requires_grad)
    return x, example.draw(dtype, requires_grad=requires_grad), flatten_patterns(example.patterns)


def test_opcheck(mixed, dtype) -> None:
    real = not dtype.is_complex
    x, weights, flat = arguments(mixed, dtype, real)
    torch.library.opcheck(CHAIN_MATMUL, (x, weights, flat))
    grad = torch.randn(3, mixed.rows, dtype=dtype, requires_grad=real)
    torch.library.opcheck(CHAIN_MATMUL_BACKWARD, (grad, x, weights, flat, real))


@pytest.mark.parametrize("trained", ["x", "weights", "both"])
def test_gradients_of_the_operator(example, dtype, trained: str) -> None:
    x, weights, flat = arguments(example, dtype, True)
    inputs = x.requires_grad_(trained != "weights"), *[w.requires_grad_(trained != "x") for w in weights]

    def product(x: Tensor, *weights: Tensor) -> Tensor:
        return CHAIN_MATMUL(x, weights, flat)

    assert gradcheck(product, inputs, fast_mode=True, check_batched_grad=True)
    assert gradgradcheck(product, inputs, fast_mode=True, check_batched_grad=True)


def test_the_operator_saves_its_inputs_only(mixed) -> None:
    x, weights, flat = arguments(mixed, torch.float64, True)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        CHAIN_MATMUL(x, weights, flat)
    assert sorted(t.data_ptr() for t in saved) == sorted(t.data_ptr() for t in (x, *weights))


def test_fake_tensors_have_the_real_strides(example) -> None:
    x, weights, flat = arguments(example, torch.float32, False)
    for same in (x, x[:1], x[0], x.t().contiguous().t(), x[:0], x[None, :, None]):
        real = CHAIN_MATMUL(same, weights, flat)
        meta = CHAIN_MATMUL(same.to("meta"), [w.to("meta") for w in weights], flat)
        assert meta.device.type == "meta"
        assert (meta.shape, meta.stride(), meta.dtype) == (real.shape, real.stride(), real.dtype)


def test_meta_device(mixed) -> None:
    x = torch.empty(4, mixed.cols, device="meta", requires_grad=True)
    weights = [w.to("meta").requires_grad_() for w in mixed.draw()]
    y = chain_matmul(x.double(), weights, mixed.patterns)
    assert (y.shape, y.device.type) == ((4, mixed.rows), "meta")
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape


def test_outputs_are_new_tensors(example) -> None:
    x, weights, flat = arguments(example, torch.float64, False)
    grad = torch.randn(3, example.rows, dtype=torch.float64)
    outputs = [CHAIN_MATMUL(x, weights, flat), *CHAIN_MATMUL_BACKWARD(grad, x, weights, flat, True)]
    places = [t.untyped_storage().data_ptr() for t in (x, *weights, grad, *outputs)]
    assert len(set(places)) == len(places)
    assert all(t.is_contiguous() for t in outputs)


def test_nothing_written_to_the_inputs(example, dtype) -> None:
    x, weights, flat = arguments(example, dtype, False)
    grad = torch.randn(3, example.rows, dtype=dtype)
    before = [t.clone() for t in (x, *weights, grad)]
    CHAIN_MATMUL(x, weights, flat)
    CHAIN_MATMUL_BACKWARD(grad, x, weights, flat, True)
    assert all(torch.equal(t, old) for t, old in zip((x, *weights, grad), before, strict=True))


def test_the_operator_resolves_lazy_bits(mixed) -> None:
    x, weights, flat = arguments(mixed, torch.complex128, False)
    want = reference_chain_matmul(
        x.conj().resolve_conj(), [w.conj().resolve_conj() for w in weights], mixed.patterns
    )
    torch.testing.assert_close(CHAIN_MATMUL(x.conj(), [w.conj() for w in weights], flat), want)
    real = [w.conj().imag for w in weights]
    assert real[0].is_neg()
    want = reference_chain_matmul(-x.imag, [-w.imag for w in weights], mixed.patterns)
    torch.testing.assert_close(CHAIN_MATMUL(x.conj().imag, real, flat), want)


UNFIT: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "vectors too short": ({"x": torch.ones(3, 4)}, ArgumentError, "x.shape"),
    "a number": ({"x": torch.ones(())}, ArgumentError, "x.shape"),
    "weight too small": (
        {"weights": [torch.ones(1, 2, 8, 1), torch.ones(1, 2, 1, 1)]},
        ArgumentError,
        "shape",
    ),
    "weights missing": ({"weights": [torch.ones(1, 2, 8, 1)]}, ArgumentError, "patterns"),
    "factors that do not follow": ({"patterns": [1, 2, 8, 1, 1, 2, 3, 1]}, ArgumentError, "weights"),
    "three sizes": ({"patterns": [1, 2, 8, 1, 1, 2, 2]}, ArgumentError, "four sizes"),
    "sizes below 0": ({"patterns": [-1, 2, 8, -1, 1, 2, 2, 1]}, ArgumentError, "four sizes"),
    "wider weights": (
        {"weights": [torch.ones(1, 2, 8, 1).double(), torch.ones(1, 2, 2, 1)]},
        DtypeError,
        "dtype",
    ),
    "whole numbers": (
        {
            "x": torch.ones(3, 8, dtype=torch.int32),
            "weights": [torch.ones(1, 2, 8, 1, dtype=torch.int32), torch.ones(1, 2, 2, 1, dtype=torch.int32)],
        },
        DtypeError,
        "x",
    ),
}
UNFIT_GRADS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "too short": ({"grad": torch.ones(3, 1)}, ArgumentError, "grad.shape"),
    "fewer vectors": ({"grad": torch.ones(2, 2)}, ArgumentError, "grad.shape"),
    "narrower": ({"grad": torch.ones(3, 2).half()}, DtypeError, "grad.dtype"),
}


@pytest.mark.parametrize("changes", UNFIT)
def test_the_operators_check_what_they_are_given(changes: str) -> None:
    change, error, what = UNFIT[changes]
    fit: dict[str, Any] = {
        "x": torch.ones(3, 8),
        "weights": [torch.ones(1, 2, 8, 1), torch.ones(1, 2, 2, 1)],
        "patterns": [1, 2, 8, 1, 1, 2, 2, 1],
    }
    CHAIN_MATMUL(*fit.values())
    with pytest.raises(error, match=what):
        CHAIN_MATMUL(*{**fit, **change}.values())
    with pytest.raises(error, match=what):
        CHAIN_MATMUL_BACKWARD(torch.ones(3, 2), *{**fit, **change}.values(), True)


@pytest.mark.parametrize("changes", UNFIT_GRADS)
def test_the_backward_operator_checks_its_gradient(changes: str) -> None:
    change, error, what = UNFIT_GRADS[changes]
    rest = torch.ones(3, 8), [torch.ones(1, 2, 8, 1)], [1, 2, 8, 1], True
    CHAIN_MATMUL_BACKWARD(torch.ones(3, 2), *rest)
    with pytest.raises(error, match=what):
        CHAIN_MATMUL_BACKWARD(change["grad"], *rest)


def test_the_operators_take_tensors_of_one_device() -> None:
    weight = torch.ones(1, 2, 8, 1, device="meta")
    with pytest.raises(ArgumentError, match="device"):
        library._kernel(torch.ones(3, 8), [weight], [1, 2, 8, 1])  # torch itself picks the meta kernel


def test_the_operator_autocasts(mixed) -> None:
    x, weights, flat = arguments(mixed, torch.float32, False)
    with torch.autocast("cpu", dtype=torch.float16):
        y = CHAIN_MATMUL(x, weights, flat)
    assert torch.equal(y, CHAIN_MATMUL(x.half(), [w.half() for w in weights], flat))


@pytest.mark.parametrize("need_x", [True, False])
def test_batching_rule_of_the_backward_operator(mixed, dtype, need_x: bool) -> None:
    x, weights, flat = arguments(mixed, dtype, False)
    grad = torch.randn(2, 3, mixed.rows, dtype=dtype)
    stacked = torch.stack([weights[0], weights[0].sin()], 1)
    got = torch.vmap(
        lambda g, w: CHAIN_MATMUL_BACKWARD(g, x, [w, *weights[1:]], flat, need_x), in_dims=(0, 1)
    )(grad, stacked)
    for i in range(2):
        want = CHAIN_MATMUL_BACKWARD(grad[i], x, [stacked[:, i], *weights[1:]], flat, need_x)
        torch.testing.assert_close([g[i] for g in got], want)


@pytest.fixture
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter that has not met kmatrix yet, as when its module is loaded last."""
    for operator in (torch.ops.kmatrix.chain_matmul, torch.ops.kmatrix.chain_matmul_backward):
        monkeypatch.delitem(flop_counter.flop_registry, operator, raising=False)


@pytest.mark.usefixtures("untold")
def test_flops_are_counted_by_definition(example) -> None:
    x, weights, _ = arguments(example, torch.float32, False)
    with FlopCounterMode(display=False) as counter:
        chain_matmul(x, weights, example.patterns)
    assert counter.get_total_flops() == 2 * 3 * sum(p.numel for p in example.patterns)


@pytest.mark.usefixtures("untold")
@pytest.mark.parametrize("trained", ["x", "weights", "both"])
def test_flops_of_training(mixed, trained: str) -> None:
    x, weights, _ = arguments(mixed, torch.float32, True)
    x.requires_grad_(trained != "weights")
    for w in weights:
        w.requires_grad_(trained != "x")
    sizes = [p.numel for p in mixed.patterns]
    forward, recomputed, weight_gradients = sum(sizes), sum(sizes[:-1]), sum(sizes)
    backward = {
        "x": sum(sizes),
        "weights": recomputed + weight_gradients + sum(sizes[1:]),
        "both": recomputed + weight_gradients + sum(sizes),
    }
    with FlopCounterMode(display=False) as counter:
        chain_matmul(x, weights, mixed.patterns).sum().backward()
    assert counter.get_total_flops() == 2 * 3 * (forward + backward[trained])


@pytest.mark.usefixtures("untold")
def test_flops_as_dense() -> None:
    x, w = torch.randn(5, 7), torch.randn(3, 7)
    with FlopCounterMode(display=False) as ours:
        chain_matmul(x, [w.reshape(1, 3, 7, 1)])
    with FlopCounterMode(display=False) as theirs:
        torch.nn.functional.linear(x, w)
    assert ours.get_total_flops() == theirs.get_total_flops()


class Layer(torch.nn.Module):
    def __init__(self, example: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterList(example.draw(dtype))
        self.patterns = example.patterns

    def forward(self, x: Tensor) -> Tensor:
        return 2 * chain_matmul(x, list(self.weights), self.patterns)


def operators(program: torch.export.ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch copying its own program
@pytest.mark.parametrize("strict", [False, True])
def test_export_with_open_batch(mixed, dtype, strict: bool) -> None:
    layer = Layer(mixed, dtype)
    x = torch.randn(5, mixed.cols, dtype=dtype)
    shapes = {"x": {0: torch.export.Dim("batch")}}
    program = torch.export.export(layer, (x,), dynamic_shapes=shapes, strict=strict)
    assert operators(program) == ["kmatrix.chain_matmul.default", "aten.mul.Tensor"]
    stock = program.run_decompositions({torch.ops.kmatrix.chain_matmul.default: decomposition})
    assert all(name.startswith("aten.") for name in operators(stock))
    for batch in (1, 5, 8):
        x = torch.randn(batch, mixed.cols, dtype=dtype)
        torch.testing.assert_close(program.module()(x), layer(x))
        torch.testing.assert_close(stock.module()(x), layer(x))


@pytest.fixture
def fresh_compiler() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh_compiler")
def test_compile_forward_and_backward(mixed, dtype) -> None:
    layer = Layer(mixed, dtype)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for batch in (5, 6, 7):
        x = torch.randn(batch, mixed.cols, dtype=dtype, requires_grad=True)
        leaves = [x, *layer.parameters()]
        got = torch.autograd.grad(compiled(x).abs().sum(), leaves)
        torch.testing.assert_close(got, torch.autograd.grad(layer(x).abs().sum(), leaves))
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.usefixtures("fresh_compiler")
def test_compile_once_for_all_batches_and_sizes() -> None:
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    def product(x: Tensor, w: Tensor) -> Tensor:
        return chain_matmul(x, [w])

    compiled = torch.compile(product, fullgraph=True, backend=counter)
    for batch, a in ((3, 4), (5, 6), (7, 8), (9, 10), (11, 12)):
        x, w = torch.randn(batch, 2 * a), torch.randn(a, 3, 2, 1)
        torch.testing.assert_close(compiled(x, w), product(x, w))
    assert counter.frame_count == 2  # once as seen first, once with open sizes


@pytest.mark.usefixtures("fresh_compiler")
def test_compile_with_transforms_and_autocast(mixed) -> None:
    weights = mixed.draw(torch.float32)
    x = torch.randn(4, mixed.cols)

    def per_sample(x: Tensor) -> Tensor:
        def loss(v: Tensor) -> Tensor:
            return chain_matmul(v, weights, mixed.patterns).sin().sum()

        return torch.func.vmap(torch.func.grad(loss))(x)

    compiled = torch.compile(per_sample, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), per_sample(x))

    def lowered(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return chain_matmul(x, weights, mixed.patterns)

    compiled = torch.compile(lowered, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), lowered(x))
    assert compiled(x).dtype == torch.bfloat16


def test_graphs_hold_one_operator(mixed) -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    x, weights, _ = arguments(mixed, torch.float32, False)
    graph = make_fx(lambda x, *weights: chain_matmul(x, weights, mixed.patterns))(x, *weights).graph
    assert [str(n.target) for n in graph.nodes if n.op == "call_function"] == ["kmatrix.chain_matmul.default"]


def test_the_example_has_ties(mixed) -> None:
    """What the tests above rely on: the weights are not simply of the shapes of the patterns."""
    assert mixed.shapes != [tuple(p) for p in mixed.patterns]
    assert mixed.patterns[0] == Pattern(6, 2, 3, 1)
