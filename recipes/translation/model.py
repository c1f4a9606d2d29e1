"""The DynamicConv encoder and decoder for translation (Wu et al., arXiv 1901.10430), without gated linear units.

A layer is a block of a lightweight convolution whose kernels are computed from each position, attention to the source
(decoder only), and a feed-forward block, each added to what went in and normalised after it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PAD, EOS, UNK = 0, 1, 2
"""Words that every dictionary begins with; EOS is also what the decoder begins with."""


@dataclass(frozen=True)
class Size:
    """How large a model is.

    Attributes:
        width: of embeddings and of the convolutions.
        hidden: of the feed-forward blocks.
        heads: of the convolutions and of attention.
        encoder: kernel sizes of the encoder's layers.
        decoder: kernel sizes of the decoder's layers.
        source: words of the source language.
        target: words of the target language.
    """

    width: int = 512
    hidden: int = 1024
    heads: int = 4
    encoder: tuple[int, ...] = (3, 7, 15, 31, 31, 31, 31)
    decoder: tuple[int, ...] = (3, 7, 15, 31, 31, 31)
    source: int = 8848
    target: int = 6632

    def with_words(self, source: int, target: int) -> Size:
        """The same model for other dictionaries."""
        return replace(self, source=source, target=target)


@dataclass(frozen=True)
class Dropout:
    """Shares of numbers that training sets to zero.

    Attributes:
        block: of what each block adds, and of embeddings.
        attention: of attention weights.
        kernel: of the kernels of the convolutions.
    """

    block: float = 0.3
    attention: float = 0.1
    kernel: float = 0.1


class DynamicConv(nn.Module):
    """``y[t] = sum_k softmax_k(W x[t])[k] x[t + k - P]``: one kernel for each position and head.

    ``P`` centres the kernel, or lets it end at its own position if ``causal``. Beyond both ends is zero; the softmax
    runs over all of the kernel even there.
    """

    def __init__(self, width: int, heads: int, kernel: int, causal: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.kernel, self.dropout = heads, kernel, dropout
        self.before = kernel - 1 if causal else kernel // 2
        self.weight = nn.Linear(width, heads * kernel, bias=False)
        nn.init.xavier_uniform_(self.weight.weight)

    def kernels(self, x: Tensor) -> Tensor:
        """``(batch, time, width) -> (batch, time, heads, kernel)``."""
        weights = _by_heads(self.weight(x), self.heads).softmax(-1)
        return F.dropout(weights, self.dropout, self.training)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, time, width) -> (batch, time, width)``."""
        batch, time, _ = x.shape
        kernels = self.kernels(x).transpose(1, 2).reshape(batch * self.heads, time, self.kernel)
        # Padded by the number of rows and read in rows one shorter, each kernel moves one further than the last.
        longer = F.pad(kernels, (0, time)).flatten(1)
        moved = longer[:, : time * (time + self.kernel - 1)].view(-1, time, time + self.kernel - 1)
        band = moved[:, :, self.before : self.before + time]
        heads = _by_heads(x, self.heads).transpose(1, 2).flatten(0, 1)
        return torch.bmm(band, heads).view(batch, self.heads, time, -1).transpose(1, 2).flatten(2)

    def last(self, window: Tensor) -> Tensor:
        """The output at the last of ``kernel`` positions, ``(batch, kernel, width) -> (batch, 1, width)``."""
        kernels = self.kernels(window[:, -1:]).squeeze(1).unsqueeze(2)
        heads = _by_heads(window, self.heads).transpose(1, 2)
        return torch.matmul(kernels, heads).flatten(1).unsqueeze(1)


class ConvBlock(nn.Module):
    """Linear, dynamic convolution, linear."""

    def __init__(self, size: Size, kernel: int, causal: bool, dropout: Dropout) -> None:
        super().__init__()
        self.linear1: nn.Module = dense(size.width, size.width)
        self.conv = DynamicConv(size.width, size.heads, kernel, causal, dropout.kernel)
        self.linear2: nn.Module = dense(size.width, size.width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``mask (batch, time)`` is true where there is no word."""
        x = self.linear1(x)
        if mask is not None:
            x = x.masked_fill(mask.unsqueeze(-1), 0.0)
        y: Tensor = self.linear2(self.conv(x))
        return y

    def step(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """One position, with what the convolution saw before it: ``(batch, kernel - 1, width)``."""
        window = torch.cat([cache, self.linear1(x)], 1)
        y: Tensor = self.linear2(self.conv.last(window))
        return y, window[:, 1:]


class Attention(nn.Module):
    """Attention of the target to the source, several heads."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q, self.k, self.v, self.out = (dense(width, width) for _ in range(4))

    def memory(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a source, ``(batch, heads, time, width / heads)`` each."""
        return self._split(self.k(source)), self._split(self.v(source))

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """``mask (batch, time)`` is true where the source has no word."""
        keys, values = memory
        q = self._split(self.q(x)) * keys.shape[-1] ** -0.5
        scores = q @ keys.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(mask[:, None, None], -torch.inf)
        weights = F.dropout(scores.softmax(-1), self.dropout, self.training)
        y: Tensor = self.out((weights @ values).transpose(1, 2).flatten(2))
        return y

    def _split(self, x: Tensor) -> Tensor:
        return _by_heads(x, self.heads).transpose(1, 2)


class FeedForward(nn.Module):
    """Linear, ReLU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1: nn.Module = dense(width, hidden)
        self.fc2: nn.Module = dense(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(F.relu(self.fc1(x)))
        return y


class EncoderLayer(nn.Module):
    """Convolution block and feed-forward block."""

    def __init__(self, size: Size, kernel: int, dropout: Dropout) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout.block)
        self.conv, self.norm1 = ConvBlock(size, kernel, False, dropout), nn.LayerNorm(size.width)
        self.ffn, self.norm2 = FeedForward(size.width, size.hidden), nn.LayerNorm(size.width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.norm1(x + self.dropout(self.conv(x, mask)))
        y: Tensor = self.norm2(x + self.dropout(self.ffn(x)))
        return y


class DecoderLayer(nn.Module):
    """Convolution block, attention to the source, feed-forward block."""

    def __init__(self, size: Size, kernel: int, dropout: Dropout) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout.block)
        self.conv, self.norm1 = ConvBlock(size, kernel, True, dropout), nn.LayerNorm(size.width)
        self.attention = Attention(size.width, size.heads, dropout.attention)
        self.norm2 = nn.LayerNorm(size.width)
        self.ffn, self.norm3 = FeedForward(size.width, size.hidden), nn.LayerNorm(size.width)

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        return self._rest(x, self.conv(x), memory, mask)

    def step(
        self, x: Tensor, cache: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """One position; what the convolution will need at the next one comes back."""
        y, cache = self.conv.step(x, cache)
        return self._rest(x, y, memory, mask), cache

    def _rest(self, x: Tensor, y: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        x = self.norm1(x + self.dropout(y))
        x = self.norm2(x + self.dropout(self.attention(x, memory, mask)))
        z: Tensor = self.norm3(x + self.dropout(self.ffn(x)))
        return z


@dataclass
class State:
    """What decoding carries from one position to the next.

    Attributes:
        mask: where the source has no word, ``(batch, time)``.
        memories: keys and values of each layer.
        caches: what the convolution of each layer saw, ``(batch, kernel - 1, width)``.
        position: how many words there are.
    """

    mask: Tensor | None
    memories: list[tuple[Tensor, Tensor]]
    caches: list[Tensor]
    position: int = 0

    def select(self, rows: Tensor) -> State:
        """The state with these sentences of the batch, in this order."""
        return State(
            None if self.mask is None else self.mask[rows],
            [(keys[rows], values[rows]) for keys, values in self.memories],
            [cache[rows] for cache in self.caches],
            self.position,
        )


class Translator(nn.Module):
    """From words to the scores of the next word.

    Example:
        >>> import torch
        >>> model = Translator(Size(16, 32, 2, (3,), (3, 5), 40, 30)).eval()
        >>> model(torch.randint(3, 40, (2, 7)), torch.randint(3, 30, (2, 5))).shape
        torch.Size([2, 5, 30])
    """

    def __init__(self, size: Size, dropout: Dropout | None = None) -> None:
        super().__init__()
        dropout = dropout or Dropout(0.0, 0.0, 0.0)
        self.size = size
        self.source = _embedding(size.source, size.width)
        self.target = _embedding(size.target, size.width)
        self.dropout = nn.Dropout(dropout.block)
        self.encoder = nn.ModuleList(EncoderLayer(size, k, dropout) for k in size.encoder)
        self.decoder = nn.ModuleList(DecoderLayer(size, k, dropout) for k in size.decoder)
        output = nn.Linear(size.width, size.target, bias=False)
        nn.init.normal_(output.weight, std=size.width**-0.5)
        self.output: nn.Module = output

    @property
    def layers(self) -> list[DecoderLayer]:
        """Those of the decoder."""
        return cast(list[DecoderLayer], list(self.decoder))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Scores of every next word, ``(batch, time, words)``, where ``target`` begins with EOS."""
        mask = source.eq(PAD)
        encoded = self.encode(source, mask)
        x = self.dropout(self.embed(self.target, target))
        for layer in self.layers:
            x = layer(x, layer.attention.memory(encoded), mask)
        scores: Tensor = self.output(x)
        return scores

    def encode(self, source: Tensor, mask: Tensor | None) -> Tensor:
        """What the encoder makes of a source, ``(batch, time, width)``."""
        x = self.dropout(self.embed(self.source, source))
        for layer in self.encoder:
            x = layer(x, mask)
        encoded: Tensor = x
        return encoded

    def start(self, source: Tensor) -> State:
        """The state of a batch of sources before the first word."""
        mask = source.eq(PAD)
        encoded = self.encode(source, mask)
        memories = [layer.attention.memory(encoded) for layer in self.layers]
        caches = [encoded.new_zeros(len(source), k - 1, self.size.width) for k in self.size.decoder]
        return State(mask if bool(mask.any()) else None, memories, caches)

    def step(self, words: Tensor, state: State) -> Tensor:
        """Scores of the word after ``words (batch,)``, ``(batch, words)``; the state moves on."""
        x = self.embed(self.target, words.unsqueeze(1), state.position)
        for number, layer in enumerate(self.layers):
            x, state.caches[number] = layer.step(x, state.caches[number], state.memories[number], state.mask)
        state.position += 1
        scores: Tensor = self.output(x[:, 0])
        return scores

    def embed(self, table: nn.Embedding, words: Tensor, first: int = 0) -> Tensor:
        """Words as vectors, with their positions."""
        x: Tensor = table(words) * math.sqrt(self.size.width)
        return x + positions(first + words.shape[1], self.size.width, x.device)[first:].to(x.dtype)


def _by_heads(x: Tensor, heads: int) -> Tensor:
    """The last axis in equal parts."""
    return x.reshape(*x.shape[:-1], heads, -1)


def positions(count: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Sines and cosines of falling frequencies, ``(count, width)`` (Vaswani et al., 2017)."""
    half = width // 2
    rates = torch.exp(-math.log(10_000.0) / max(half - 1, 1) * torch.arange(half, device=device))
    angles = torch.arange(count, device=device).unsqueeze(1) * rates
    return F.pad(torch.cat([angles.sin(), angles.cos()], 1), (0, width - 2 * half))


def dense(inputs: int, outputs: int) -> nn.Linear:
    """A dense layer with the start of the paper's model: uniform after Glorot, no bias at first."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _embedding(words: int, width: int) -> nn.Embedding:
    table = nn.Embedding(words, width, padding_idx=PAD)
    nn.init.normal_(table.weight, std=width**-0.5)
    nn.init.zeros_(table.weight[PAD].detach())
    return table
