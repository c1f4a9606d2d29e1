"""A decoder whose numbers are settled: one sentence, one word a step, and little around the products.

The same function as ``Translator.step`` at batch 1. Every weight is brought into the form that multiplies fastest:
dense ones in whichever of two layouts is the faster here, chains by ``km.ops.prepare``, the families that work by
transforms with their transforms taken before. What the convolutions saw lies in one buffer per layer, so that a
window is a view of it.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import kmatrix as km

from ..common.toeplitz_like import ToeplitzLikeMatrix
from .model import EOS, DecoderLayer, Translator, positions


class Product(Protocol):
    """``y = A x + b`` for ``x (1, inputs)``; into ``out`` if that is given."""

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor: ...


Known = dict[nn.Parameter, Product]
"""Settled dense layers by their weights: models that share a weight share its settled form, too."""


def settle(layer: nn.Module, known: Known | None = None) -> Product:
    """A layer in the form that multiplies one vector fastest; later changes of its numbers do not reach it."""
    if isinstance(layer, nn.Linear):
        known = {} if known is None else known
        if layer.weight not in known:
            known[layer.weight] = _fastest(dense_forms(layer.weight.detach(), layer.bias), layer.in_features)
        return known[layer.weight]
    if not isinstance(layer, km.nn.Linear):
        return _into(layer)
    matrix, bias = layer.matrix, layer.bias
    if isinstance(matrix, ToeplitzLikeMatrix):
        return _toeplitz_like(matrix, bias)
    if isinstance(matrix.structure, km.ACDC):
        return _acdc(matrix, bias)
    if isinstance(matrix.structure, km.BlockCirculant):
        return _block_circulant(matrix, bias)
    terms = list(getattr(matrix, "members", [matrix]))
    if all(isinstance(term.structure, km.Fastfood) for term in terms):
        return _fastfoods(terms, bias)
    try:
        return km.ops.prepare(matrix, bias=bias)
    except km.KMatrixError:
        return _into(layer)


def dense_forms(weight: Tensor, bias: Tensor | None) -> list[Product]:
    """The ways in which torch multiplies a dense matrix by one vector: as it is, and with its transpose stored."""
    rows, columns = weight.contiguous().clone(), weight.t().contiguous()
    if bias is None:
        straight, moved = rows.t(), columns

        def by_rows(x: Tensor, out: Tensor | None = None) -> Tensor:
            return torch.mm(x, straight) if out is None else torch.mm(x, straight, out=out)

        def by_columns(x: Tensor, out: Tensor | None = None) -> Tensor:
            return torch.mm(x, moved) if out is None else torch.mm(x, moved, out=out)

        return [by_rows, by_columns]
    b = bias.detach().clone()

    def adding(matrix: Tensor) -> Product:
        def product(x: Tensor, out: Tensor | None = None) -> Tensor:
            return torch.addmm(b, x, matrix) if out is None else torch.addmm(b, x, matrix, out=out)

        return product

    return [adding(rows.t()), adding(columns)]


def _fastest(forms: Sequence[Product], inputs: int, rounds: int = 9) -> Product:
    """The fastest of some, each on weights that other memory has pushed out of the nearer caches."""
    x, other = torch.randn(1, inputs), torch.randn(1 << 21)
    times: list[list[float]] = [[] for _ in forms]
    for _ in range(rounds):
        for form, found in zip(forms, times, strict=True):
            other.add_(1.0)
            begin = time.perf_counter()
            form(x)
            found.append(time.perf_counter() - begin)
    medians = [statistics.median(found) for found in times]
    return forms[medians.index(min(medians))]


def _into(function: Callable[[Tensor], Tensor]) -> Product:
    """A function of one vector that cannot write into memory it is given."""

    def product(x: Tensor, out: Tensor | None = None) -> Tensor:
        y = function(x)
        return y if out is None else out.copy_(y)

    return product


def _toeplitz_like(matrix: ToeplitzLikeMatrix, bias: Tensor | None) -> Product:
    """Transforms of the numbers taken before."""
    spectra = [spectrum.detach() for spectrum in matrix.spectra()]
    b = torch.zeros(matrix.shape[0]) if bias is None else bias.detach().clone()
    return _into(lambda x: matrix.multiply(x, *spectra) + b)


def _block_circulant(matrix: Any, bias: Tensor | None) -> Product:
    """Transforms of the numbers taken before; frequencies come first, so that one batched product does them all."""
    m, n = matrix.shape
    p, q, k = matrix.numbers.shape
    spectra = torch.fft.rfft(matrix.numbers.detach()).permute(2, 0, 1).contiguous()
    b = torch.zeros(m) if bias is None else bias.detach().clone()

    def product(x: Tensor) -> Tensor:
        blocks = torch.fft.rfft(x.view(q, k)).t().unsqueeze(-1)
        y: Tensor = torch.fft.irfft(torch.bmm(spectra, blocks).squeeze(-1).t(), k).reshape(1, p * k) + b
        return y

    if (p * k, q * k) != (m, n):  # padded: as it comes
        return _into(lambda x: matrix(x) + b)
    return _into(product)


def _fastfoods(terms: Sequence[Any], bias: Tensor | None) -> Product:
    """All stacks of all terms at once: two Hadamard transforms of a batch, on the kernels for chains."""
    m, n = terms[0].shape
    stacks, size = terms[0].numbers.shape[1:]
    first, second, third = torch.cat([t.numbers.detach() for t in terms], 1).clone()
    offsets = torch.arange(len(terms)).repeat_interleave(stacks * size) * (stacks * size)
    index = torch.cat([t.permutation for t in terms]) + offsets
    transform = km.ops.prepare(km.transforms.hadamard(size, norm="ortho"))
    b = torch.zeros(m) if bias is None else bias.detach().clone()
    shape = (len(terms), stacks * size)

    def product(x: Tensor) -> Tensor:
        mixed = transform(first * x).view(-1).index_select(0, index).view_as(first)
        return (transform(mixed.mul_(second)).mul_(third).view(shape).sum(0, True))[:, :m] + b

    return _into(lambda x: product(nn.functional.pad(x, (0, size - n)) if size > n else x))


def _acdc(matrix: Any, bias: Tensor | None) -> Product:
    """Both cosine transforms as chains."""
    m, n = matrix.shape
    size = max(m, n)
    there, back = (km.ops.prepare(f(size)) for f in (km.transforms.dct, km.transforms.idct))
    layers = [(d.clone(), a.clone()) for d, a in matrix.numbers.detach()]
    b = torch.zeros(m) if bias is None else bias.detach().clone()

    def product(x: Tensor) -> Tensor:
        if size > n:
            x = nn.functional.pad(x, (0, size - n))
        for d, a in layers:
            x = back(there(x).mul_(d)).mul_(a)
        return x[:, :m] + b

    return _into(product)


class SettledLayer:
    """One decoder layer at batch 1.

    Attributes:
        fold: whether the projections of queries and of the result are multiplied into the keys and values of each
            sentence: as many rows as it has words, times heads, instead of those of the projections. Only where
            both are dense.
    """

    def __init__(self, layer: DecoderLayer, kernel: int, limit: int, fold: bool, known: Known) -> None:
        attention, conv = layer.attention, layer.conv
        width = layer.norm1.normalized_shape[0]
        fold = fold and isinstance(attention.q, nn.Linear) and isinstance(attention.out, nn.Linear)
        self.heads, self.width, self.kernel, self.fold = attention.heads, width, kernel, fold
        self.linear1, self.linear2 = settle(conv.linear1, known), settle(conv.linear2, known)
        self.kernels = settle(conv.conv.weight, known)
        self.fc1, self.fc2 = settle(layer.ffn.fc1, known), settle(layer.ffn.fc2, known)
        self.q, self.out = settle(attention.q, known), settle(attention.out, known)
        self.norms = [_norm(norm) for norm in (layer.norm1, layer.norm2, layer.norm3)]
        self.scale = (width // self.heads) ** -0.5
        seen = torch.zeros(limit + kernel - 1, width)
        self.rows = [seen[t + kernel - 1 : t + kernel] for t in range(limit)]
        by_heads = seen.view(-1, self.heads, width // self.heads).transpose(0, 1)
        self.windows = [by_heads[:, t : t + kernel] for t in range(limit)]
        self.keys, self.values = torch.empty(0), torch.empty(0)
        self.key_bias = torch.empty(0)
        if fold:
            self._q, self._q_bias = _by_heads(attention.q, self.heads)
            self._out = _weight(attention.out).t().reshape(self.heads, -1, width)
            self._out_bias = attention.out.bias.detach()

    def begin(self, keys: Tensor, values: Tensor) -> None:
        """The source of a new sentence: keys and values, ``(heads, words, width / heads)`` each."""
        if not self.fold:
            self.keys, self.values = (keys * self.scale).transpose(1, 2), values
            return
        keys = keys * self.scale
        self.keys = torch.bmm(keys, self._q).view(-1, self.width).t()
        self.key_bias = torch.bmm(keys, self._q_bias).view(1, -1)
        # The weights of each head sum to one: the bias goes with the first.
        folded = torch.bmm(values, self._out)
        folded[0] += self._out_bias
        self.values = folded.view(-1, self.width)

    def attend(self, x: Tensor) -> Tensor:
        """Attention to the source, and ``x`` added."""
        if self.fold:
            weights = torch.addmm(self.key_bias, x, self.keys).view(self.heads, -1).softmax(-1)
            return torch.addmm(x, weights.view(1, -1), self.values)
        q = self.q(x).view(self.heads, 1, -1)
        y = self.mix(q)
        return self.out(y.view(1, -1)).add_(x)

    def mix(self, q: Tensor) -> Tensor:
        """What the queries find."""
        return torch.bmm(torch.bmm(q, self.keys).softmax(-1), self.values)

    def convolve(self, h: Tensor, position: int) -> Tensor:
        """The dynamic convolution at a position, whose input is in its row already."""
        kernels = self.kernels(h).view(self.heads, 1, self.kernel).softmax(-1)
        return torch.bmm(kernels, self.windows[position]).view(1, -1)

    def step(self, x: Tensor, position: int) -> Tensor:
        """One position."""
        norm1, norm2, norm3 = self.norms
        h = self.linear1(x, self.rows[position])
        x = norm1(self.linear2(self.convolve(h, position)).add_(x))
        x = norm2(self.attend(x))
        return norm3(self.fc2(self.fc1(x).relu_()).add_(x))


class Settled:
    """A translator for one sentence at a time: greedy decoding.

    Args:
        model: in evaluation mode; its numbers are copied where they change their form.
        limit: most words of a translation.
        fold: as in ``SettledLayer``.
        known: dense layers that are settled already; those of this model come into it.

    Example:
        >>> import torch
        >>> from .model import Size
        >>> model = Translator(Size(16, 32, 2, (3,), (3, 5), 40, 30)).eval()
        >>> len(Settled(model, limit=10).translate(torch.tensor([5, 6, 7, EOS]), words=4))
        4
    """

    def __init__(
        self, model: Translator, limit: int = 200, fold: bool = False, known: Known | None = None
    ) -> None:
        self.model, self.limit = model, limit
        known = {} if known is None else known
        with torch.inference_mode():
            self.layers = [
                SettledLayer(layer, k, limit, fold, known)
                for layer, k in zip(model.layers, model.size.decoder, strict=True)
            ]
            self.output = settle(model.output, known)
            self.memory = _memory([layer.attention for layer in model.layers], model.size.heads)
            self.table = model.target.weight.detach() * math.sqrt(model.size.width)
            self.places: list[Tensor] = [place.unsqueeze(0) for place in positions(limit, model.size.width)]

    @torch.inference_mode()
    def translate(self, source: Tensor, words: int | None = None) -> list[int]:
        """The likeliest next word, one after the other.

        Args:
            source: its words, EOS at the end.
            words: how many to make, whatever they are; None to stop before EOS, or at the limit.
        """
        self.begin(source)
        found: list[int] = []
        word = EOS
        for position in range(self.limit if words is None else words):
            word = self.step(word, position)
            if word == EOS and words is None:
                break
            found.append(word)
        return found

    def begin(self, source: Tensor) -> None:
        """Encode a source and hand it to every layer."""
        encoded = self.model.encode(source.unsqueeze(0), None)[0]
        for layer, (keys, values) in zip(self.layers, self.memory(encoded), strict=True):
            layer.begin(keys, values)

    def step(self, word: int, position: int) -> int:
        """The likeliest word after this one."""
        return int(self.output(self.hidden(word, position)).argmax())

    def hidden(self, word: int, position: int) -> Tensor:
        """What the last layer makes of a word, ``(1, width)``."""
        x = self.places[position] + self.table[word]
        for layer in self.layers:
            x = layer.step(x, position)
        return x


def _memory(attentions: Sequence[Any], heads: int) -> Callable[[Tensor], Any]:
    """Keys and values of all layers from what the encoder made: one product where they are dense."""
    pairs = [(a.k, a.v) for a in attentions]
    flat = [part for pair in pairs for part in pair]
    if not all(isinstance(part, nn.Linear) for part in flat):

        def one_by_one(encoded: Tensor) -> Any:
            split = [part(encoded).unflatten(-1, (heads, -1)).transpose(0, 1).contiguous() for part in flat]
            return zip(split[::2], split[1::2], strict=True)

        return one_by_one
    weight, bias = torch.cat([p.weight.detach() for p in flat]), torch.cat([p.bias.detach() for p in flat])

    def together(encoded: Tensor) -> Any:
        made = torch.addmm(bias, encoded, weight.t()).view(len(encoded), len(flat), heads, -1)
        split = made.permute(1, 2, 0, 3).contiguous()
        return zip(split[::2], split[1::2], strict=True)

    return together


def _norm(norm: nn.LayerNorm) -> Callable[[Tensor], Tensor]:
    shape, eps = tuple(norm.normalized_shape), norm.eps
    weight, bias = norm.weight.detach().clone(), norm.bias.detach().clone()
    return lambda x: torch.layer_norm(x, shape, weight, bias, eps)


def _weight(layer: Any) -> Tensor:
    weight: Tensor = layer.weight.detach()
    return weight


def _by_heads(layer: Any, heads: int) -> tuple[Tensor, Tensor]:
    """The rows of each head of a layer: weights ``(heads, width / heads, width)``, biases ``(heads, ., 1)``."""
    weight = _weight(layer)
    return weight.view(heads, -1, weight.shape[1]).clone(), layer.bias.detach().view(heads, -1, 1).clone()
