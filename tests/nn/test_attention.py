"""Attention with layers for its projections, and transformer layers of torch that hold structured layers."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kmatrix as km

SIZES = [dict(zip(("batch_first", "bias", "kv", "zero", "kdim"), c, strict=True)) for c in (
    (True, True, False, False, None),
    (False, True, True, False, None),
    (True, False, False, True, None),
    (False, True, True, True, 6),
)]  # fmt: skip
MASKS = ["none", "bool", "float", "heads", "padding", "bool and padding"]


def pair(
    batch_first: bool, bias: bool, kv: bool, zero: bool, kdim: int | None
) -> tuple[nn.MultiheadAttention, km.nn.MultiheadAttention]:
    torch.manual_seed(1)
    dense = nn.MultiheadAttention(
        8,
        2,
        bias=bias,
        add_bias_kv=kv,
        add_zero_attn=zero,
        kdim=kdim,
        vdim=kdim,
        batch_first=batch_first,
        dtype=torch.float64,
    )
    return dense, km.nn.MultiheadAttention.from_attention(dense)


def masks(kind: str) -> dict[str, Tensor]:
    forbidden = torch.ones(4, 5).tril(1).logical_not()
    padding = torch.arange(5).expand(3, 5) >= torch.tensor([5, 4, 3]).unsqueeze(1)
    return {
        "none": {},
        "bool": {"attn_mask": forbidden},
        "float": {"attn_mask": torch.randn(4, 5, dtype=torch.float64)},
        "heads": {"attn_mask": torch.randn(6, 4, 5, dtype=torch.float64)},
        "padding": {"key_padding_mask": padding},
        "bool and padding": {"attn_mask": forbidden, "key_padding_mask": padding},
    }[kind]


def inputs(sizes: dict[str, Any]) -> list[Tensor]:
    made = [torch.randn(3, 4, 8), *(torch.randn(3, 5, sizes["kdim"] or 8) for _ in range(2))]
    return [x.double() if sizes["batch_first"] else x.double().transpose(0, 1) for x in made]


@pytest.mark.parametrize("sizes", SIZES, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("kind", MASKS)
def test_equals_the_attention_of_torch(sizes: dict[str, Any], kind: str) -> None:
    dense, opened = pair(**sizes)
    arguments, given = inputs(sizes), masks(kind)
    for weights, averaged in ((True, True), (True, False), (False, True)):
        want = dense(*arguments, need_weights=weights, average_attn_weights=averaged, **given)
        got = opened(*arguments, need_weights=weights, average_attn_weights=averaged, **given)
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)
    parameters = list(opened.parameters())
    assert all(g is not None for g in torch.autograd.grad(got[0].sum(), parameters))


def test_causal_hint_and_single_sequences() -> None:
    dense, opened = pair(True, True, False, False, None)
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    causal = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    for weights in (True, False):
        arguments = {"attn_mask": causal, "is_causal": True, "need_weights": weights}
        torch.testing.assert_close(opened(x, x, x, **arguments), dense(x, x, x, **arguments))
    torch.testing.assert_close(opened(x[0], x[0], x[0]), dense(x[0], x[0], x[0]))
    with pytest.raises(km.ArgumentError, match="is_causal"):
        opened(x, x, x, is_causal=True)


def test_structured_from_scratch_and_fitted() -> None:
    attention = km.nn.MultiheadAttention(16, 4, batch_first=True, add_bias_kv=True, structure=km.Monarch(4))
    x = torch.randn(2, 3, 16)
    attention(x, x, x)[0].sum().backward()
    assert all(p.grad is not None for p in attention.parameters())
    torch.compiler.reset()
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, x, x, need_weights=False)[0], attention(x, x, x)[0])
    dense = nn.MultiheadAttention(16, 4, batch_first=True)
    exact = km.nn.MultiheadAttention.from_attention(dense, km.Dense())
    torch.testing.assert_close(exact(x, x, x), dense(x, x, x))
    with pytest.raises(km.ArgumentError, match="num_heads=3"):
        km.nn.MultiheadAttention(16, 3, structure=km.Monarch(4))


def test_dropout_acts_in_training_only() -> None:
    dense = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
    opened = km.nn.MultiheadAttention.from_attention(dense)
    x = torch.randn(2, 6, 8)
    for weights in (True, False):
        assert not torch.equal(*(opened(x, x, x, need_weights=weights)[0] for _ in range(2)))
        assert torch.equal(*(opened.eval()(x, x, x, need_weights=weights)[0] for _ in range(2)))
        opened.train()


def replaced(model: nn.Module) -> None:
    km.replace_linear_(model, km.LowRank(3))


def opened_and_replaced(model: nn.Module) -> None:
    km.nn.open_attention_(model)
    replaced(model)


def by_hand(model: nn.Module) -> None:
    """What a user may do: torch then reads the dense weights, which are right, if slow."""
    for layer in model.layers:  # type: ignore[union-attr]
        layer.linear1 = km.nn.Linear.from_linear(layer.linear1, km.Monarch(2))
        layer.self_attn.out_proj = km.nn.Linear.from_linear(layer.self_attn.out_proj, km.LowRank(2))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("change", [replaced, opened_and_replaced, by_hand])
@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_layers_give_the_same_in_every_mode(change: Any, norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(
        8, 2, 16, 0.0, "gelu", batch_first=True, norm_first=norm_first, dtype=torch.float64
    )
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first)
    change(model)
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    padding = torch.arange(5) >= torch.tensor([5, 4, 3]).unsqueeze(1)
    want = model(x), model(x, src_key_padding_mask=padding)[~padding]
    for training, grad in product((True, False), (True, False)):
        model.train(training)
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(model(x), want[0])
            torch.testing.assert_close(model(x, src_key_padding_mask=padding)[~padding], want[1])


@pytest.mark.parametrize("change", [replaced, opened_and_replaced])
def test_transformer_layers_call_what_they_hold(change: Any) -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    change(model)
    calls = []
    for module in model.modules():
        if isinstance(module, km.nn.Linear):
            # A hook on the layer would itself keep torch from its shortcut.
            forward = module.matrix.forward
            module.matrix.forward = lambda x, bias=None, f=forward: (calls.append(1), f(x, bias))[1]
    with torch.no_grad():
        model(torch.randn(3, 5, 8))
    assert len(calls) == 2 * (2 if change is replaced else 6)


def test_the_shortcut_comes_back_with_dense_layers() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    assert km.replace_linear_(model, km.LowRank(2), lambda m, name: "linear1" in name).replaced
    assert model.layers[0].activation_relu_or_gelu == 0 and not model.use_nested_tensor
    copied = copy.deepcopy(model)
    for encoder in (model, copied):
        km.densify_(encoder)
        assert encoder.layers[0].activation_relu_or_gelu == 2 and encoder.use_nested_tensor


def test_decoders_and_opening() -> None:
    model = nn.Transformer(8, 2, 1, 1, 16, 0.0, batch_first=True, dtype=torch.float64)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    want = model(x, x)
    assert len(km.nn.open_attention_(model, lambda m, name: "decoder" in name)) == 2
    torch.testing.assert_close(model(x, x), want)
    assert km.nn.open_attention_(model) == ["encoder.layers.0.self_attn"]
    torch.testing.assert_close(model(x, x), want)
    hooked = nn.ModuleList([nn.MultiheadAttention(8, 2)])
    hooked[0].register_forward_hook(lambda module, args, y: None)
    assert km.nn.open_attention_(hooked) == []
