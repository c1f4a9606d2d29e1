"""The two models, written plainly: every matrix is an ``nn.Linear``, as in most code that people want to compress."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MLP(nn.Module):
    """784 - width - width - 10 with ReLU."""

    def __init__(self, width: int = 2048, pixels: int = 784, classes: int = 10) -> None:
        super().__init__()
        self.first = nn.Linear(pixels, width)
        self.second = nn.Linear(width, width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.first(images.flatten(1)))
        return self.head(F.relu(self.second(hidden)))


class Attention(nn.Module):
    """Causal self-attention with separate matrices for queries, keys, values and the output."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        """(batch, length, width) as (batch, heads, length, width / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, cache: Tensor | None = None, position: int = 0) -> Tensor:
        """Attend to what came before: within ``x``, or for one new token in ``cache`` (2, batch, heads, length, _)."""
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        if cache is None:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            cache[0, :, :, position], cache[1, :, :, position] = k[:, :, 0], v[:, :, 0]
            k, v = cache[0, :, :, : position + 1], cache[1, :, :, : position + 1]
            mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(-2))


class Block(nn.Module):
    """Attention and two matrices with GELU, each on a normalised input and added to what came in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, cache: Tensor | None = None, position: int = 0) -> Tensor:
        x = x + self.attention(self.norm_attention(x), cache, position)
        return x + self.down(F.gelu(self.up(self.norm_mlp(x))))


class Transformer(nn.Module):
    """A language model over a small alphabet, with learned positions."""

    def __init__(
        self, symbols: int, width: int = 256, layers: int = 6, heads: int = 4, context: int = 64
    ) -> None:
        super().__init__()
        self.context = context
        self.embedding = nn.Embedding(symbols, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, symbols, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)
        with torch.no_grad():  # the sum of 2 * layers branches keeps the size of one
            for block in self.blocks:
                assert isinstance(block, Block)
                block.attention.out.weight.mul_((2 * layers) ** -0.5)
                block.down.weight.mul_((2 * layers) ** -0.5)

    def forward(self, codes: Tensor) -> Tensor:
        """Logits (batch, length, symbols) of the symbol after each of ``codes`` (batch, length)."""
        x = self.embedding(codes) + self.positions.weight[: codes.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def new_cache(self, batch: int) -> list[Tensor]:
        """Room for keys and values of ``context`` tokens, for each block."""
        heads = self.blocks[0].attention.heads
        size = self.embedding.embedding_dim // heads
        like = self.embedding.weight
        return [like.new_zeros(2, batch, heads, self.context, size) for _ in self.blocks]

    def step(self, codes: Tensor, caches: list[Tensor], position: int) -> Tensor:
        """Logits (batch, symbols) after one more symbol (batch,) at ``position``: a step of decoding."""
        x = (self.embedding(codes) + self.positions.weight[position]).unsqueeze(1)
        for block, cache in zip(self.blocks, caches, strict=True):
            x = block(x, cache, position)
        return self.head(self.norm(x)).squeeze(1)
