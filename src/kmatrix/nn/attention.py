"""Attention whose projections are layers of their own, so that they can be structured."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, complaint
from kmatrix.nn._layer import checked_structure
from kmatrix.nn.linear import Linear
from kmatrix.structures import Structure

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


class MultiheadAttention(nn.Module):
    """``nn.MultiheadAttention`` with four layers instead of packed weights: queries, keys, values and output.

    ``nn.MultiheadAttention`` multiplies with its weights itself, so nothing can stand in for them. This one calls
    its projections, takes the same arguments and gives the same results, and ``nn.TransformerEncoderLayer`` and
    ``nn.TransformerDecoderLayer`` take it in its place.

    Args:
        embed_dim: size of queries and outputs.
        num_heads: heads that attend in parallel; it divides ``embed_dim``.
        dropout: probability that an attention weight is dropped in training.
        bias: whether the projections have a bias.
        add_bias_kv: whether to append a learned key and value to each sequence.
        add_zero_attn: whether to append a key and value of zeros.
        kdim: size of keys; ``embed_dim`` if not given.
        vdim: size of values; ``embed_dim`` if not given.
        batch_first: whether inputs are ``(batch, length, size)`` instead of ``(length, batch, size)``.
        structure: the class of matrices of all four projections.
        device: where the numbers live.
        dtype: number type; the default dtype of torch if not given.

    Raises:
        ArgumentError: if the heads do not divide ``embed_dim``, or a projection has no member of the structure.

    Example:
        >>> import torch, kmatrix as km
        >>> attention = km.nn.MultiheadAttention(64, 4, batch_first=True, structure=km.Monarch(4))
        >>> x = torch.randn(2, 5, 64)
        >>> attention(x, x, x, need_weights=False)[0].shape
        torch.Size([2, 5, 64])

    Reference: Vaswani et al., Attention is all you need (2017).
    """

    # What nn.TransformerEncoderLayer asks before it takes a shortcut that bypasses the projections: both say no.
    in_proj_bias = None
    _qkv_same_embed_dim = False

    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module
    out_proj: nn.Module
    bias_k: nn.Parameter | None
    bias_v: nn.Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        *,
        structure: Structure,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        checked_structure("MultiheadAttention", structure)
        self._set_up(embed_dim, num_heads, dropout, add_zero_attn, kdim, vdim, batch_first)
        for name, size in zip(
            (*_PROJECTIONS, "out_proj"), (embed_dim, self.kdim, self.vdim, embed_dim), strict=True
        ):
            layer = Linear(size, embed_dim, bias, structure=structure, device=device, dtype=dtype)
            setattr(self, name, layer)
        for name in ("bias_k", "bias_v"):
            extra = (
                nn.Parameter(torch.empty(1, 1, embed_dim, device=device, dtype=dtype))
                if add_bias_kv
                else None
            )
            self.register_parameter(name, extra)
        self.reset_parameters()

    def _set_up(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float,
        add_zero_attn: bool,
        kdim: int | None,
        vdim: int | None,
        batch_first: bool,
    ) -> None:
        nn.Module.__init__(self)
        self.embed_dim = check_size("MultiheadAttention", "embed_dim", embed_dim)
        self.num_heads = check_size("MultiheadAttention", "num_heads", num_heads)
        if embed_dim % num_heads:
            reason = f"does not divide embed_dim={embed_dim}"
            raise ArgumentError(
                complaint("MultiheadAttention", "num_heads", num_heads, reason, "choose a divisor")
            )
        self.kdim = embed_dim if kdim is None else check_size("MultiheadAttention", "kdim", kdim)
        self.vdim = embed_dim if vdim is None else check_size("MultiheadAttention", "vdim", vdim)
        self.head_dim = embed_dim // num_heads
        self.dropout = dropout
        self.add_zero_attn = add_zero_attn
        self.batch_first = batch_first

    @classmethod
    def from_attention(
        cls, dense: nn.MultiheadAttention, structure: Structure | None = None
    ) -> MultiheadAttention:
        """The same attention, its projections as layers of their own.

        Args:
            dense: the trained attention.
            structure: into which to fit the four weights; without one the projections are ordinary ``nn.Linear``
                with the very numbers of ``dense``, and the function is the same.

        Example:
            >>> import torch, kmatrix as km
            >>> dense = torch.nn.MultiheadAttention(8, 2)
            >>> type(km.nn.MultiheadAttention.from_attention(dense).q_proj).__name__
            'Linear'
        """
        made = cls.__new__(cls)
        made._set_up(
            dense.embed_dim,
            dense.num_heads,
            dense.dropout,
            dense.add_zero_attn,
            dense.kdim,
            dense.vdim,
            dense.batch_first,
        )
        for name, layer in _opened(dense).items():
            setattr(made, name, layer if structure is None else Linear.from_linear(layer, structure))
        made.register_parameter("bias_k", cast("nn.Parameter | None", dense.bias_k))
        made.register_parameter("bias_v", cast("nn.Parameter | None", dense.bias_v))
        return made.train(dense.training)

    def reset_parameters(self) -> None:
        """Redraw all numbers at their recommended start."""
        for name in (*_PROJECTIONS, "out_proj"):
            self.get_submodule(name).reset_parameters()  # type: ignore[operator]
        for extra in (self.bias_k, self.bias_v):
            if extra is not None:
                nn.init.xavier_normal_(extra)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend, with the arguments and results of ``nn.MultiheadAttention.forward``."""
        batched = query.ndim == 3
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        if is_causal and attn_mask is None:
            way_out = (
                "pass the causal mask too, for example nn.Transformer.generate_square_subsequent_mask(L)"
            )
            raise ArgumentError(
                complaint("MultiheadAttention", "is_causal", True, "it only describes attn_mask", way_out)
            )
        q, k, v = self._projected(query, key, value)
        hint = is_causal and key_padding_mask is None and not need_weights
        extra = k.shape[-2] - key.shape[-2]
        mask = None if hint and not extra else self._mask(q, extra, key_padding_mask, attn_mask)
        dropped = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.mT / math.sqrt(self.head_dim)
            weights = torch.softmax(scores if mask is None else scores + mask, -1)
            weights = functional.dropout(weights, dropped) if dropped else weights
            heads = weights @ v
        else:
            heads = functional.scaled_dot_product_attention(
                q, k, v, mask, dropout_p=dropped, is_causal=hint and mask is None
            )
        out = self.out_proj(heads.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return out if self.batch_first else out.transpose(0, 1), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values by heads: ``(batch, heads, length, head_dim)`` each."""
        q, k, v = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(k.shape[0], 1, -1)], 1)
            v = torch.cat([v, self.bias_v.expand(v.shape[0], 1, -1)], 1)
        if self.add_zero_attn:
            k, v = functional.pad(k, (0, 0, 0, 1)), functional.pad(v, (0, 0, 0, 1))
        q, k, v = (x.view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2) for x in (q, k, v))
        return q, k, v

    def _mask(self, q: Tensor, extra: int, padding: Tensor | None, given: Tensor | None) -> Tensor | None:
        """Both masks as numbers to add to the scores; what was appended to the keys is never masked."""
        masks = []
        if given is not None:
            added = _additive(given, q.dtype)
            masks.append(added.view(-1, self.num_heads, *added.shape[1:]) if added.ndim == 3 else added)
        if padding is not None:
            masks.append(_additive(padding, q.dtype)[:, None, None, :])
        if not masks:
            return None
        return functional.pad(masks[0] if len(masks) == 1 else masks[0] + masks[1], (0, extra))

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, batch_first={self.batch_first}"


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as numbers to add: minus infinity where a boolean one forbids."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -math.inf)


def _opened(dense: nn.MultiheadAttention) -> dict[str, nn.Linear]:
    """The four projections as layers with the numbers of the packed weights."""
    if dense._qkv_same_embed_dim:
        weights = dense.in_proj_weight.chunk(3)
    else:
        weights = (dense.q_proj_weight, dense.k_proj_weight, dense.v_proj_weight)
    biases = [None] * 3 if dense.in_proj_bias is None else dense.in_proj_bias.chunk(3)
    layers = {}
    for name, weight, bias in zip(_PROJECTIONS, weights, biases, strict=True):
        layers[name] = _linear(weight, bias)
    layers["out_proj"] = _linear(dense.out_proj.weight, dense.out_proj.bias)
    return layers


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta", dtype=weight.dtype)
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
    return layer
