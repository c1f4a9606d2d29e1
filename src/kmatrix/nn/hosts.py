"""Modules of torch that read the weights of their layers instead of calling them, and how they are made to call."""

from __future__ import annotations

from torch import nn

from kmatrix.nn.attention import MultiheadAttention

_WAS = "_kmatrix_shortcut"


def settle_hosts_(model: nn.Module) -> None:
    """Make the transformer layers of torch call their layers where these are not ordinary any more.

    In ``eval()`` without gradients, ``nn.TransformerEncoderLayer`` hands the weights of its layers to one fused
    function. It does so only where ``activation_relu_or_gelu`` says that the activation is one of the two that the
    function knows, so that attribute is set to 0 where a layer is not an ``nn.Linear``, and put back where all are.
    Likewise ``nn.TransformerEncoder`` packs padded batches for that function only if ``use_nested_tensor``.

    Args:
        model: changed in place.
    """
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            _settle(module, "activation_relu_or_gelu", 0, _is_ordinary(module))
        elif isinstance(module, nn.TransformerEncoder):
            layers = [m for m in module.modules() if isinstance(m, nn.TransformerEncoderLayer)]
            _settle(module, "use_nested_tensor", False, all(map(_is_ordinary, layers)))


def _settle(host: nn.Module, name: str, off: int | bool, ordinary: bool) -> None:
    """Turn a shortcut off, or back to what it was."""
    if not ordinary and getattr(host, name, off) != off:
        setattr(host, _WAS, getattr(host, name))
        setattr(host, name, off)
    elif ordinary and hasattr(host, _WAS):
        setattr(host, name, getattr(host, _WAS))
        delattr(host, _WAS)


def _is_ordinary(layer: nn.TransformerEncoderLayer) -> bool:
    attention = layer.self_attn
    called = (layer.linear1, layer.linear2, getattr(attention, "out_proj", None))
    return isinstance(attention, nn.MultiheadAttention) and all(isinstance(m, nn.Linear) for m in called)


def opened(module: nn.Module) -> MultiheadAttention | None:
    """An ordinary attention of torch with layers for its projections; None for anything else."""
    if type(module) is not nn.MultiheadAttention or "forward" in vars(module):
        return None
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(m, kind) for m in (module, module.out_proj) for kind in hooks):
        return None
    packed = (
        ("in_proj_weight",)
        if module._qkv_same_embed_dim
        else ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    )
    if any(name not in module._parameters for name in packed) or "weight" not in module.out_proj._parameters:
        return None
    return MultiheadAttention.from_attention(module)
