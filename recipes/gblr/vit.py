"""A small vision transformer, written plainly: every matrix is an ``nn.Linear``."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.models import Attention, Block


class Looking(Attention):
    """Attention that sees all patches, in both directions."""

    def forward(self, x: Tensor, cache: Tensor | None = None, position: int = 0) -> Tensor:
        """There is nothing to remember between patches, so ``cache`` and ``position`` are not used."""
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(-2))


class ViT(nn.Module):
    """Square patches of an image, blocks of attention and two matrices, the mean over patches, ten logits."""

    def __init__(
        self,
        width: int = 128,
        layers: int = 3,
        heads: int = 4,
        side: int = 28,
        patch: int = 7,
        classes: int = 10,
        channels: int = 1,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.embedding = nn.Linear(channels * patch * patch, width)
        self.positions = nn.Parameter(torch.randn((side // patch) ** 2, width) * 0.02)
        self.blocks = nn.ModuleList()
        for _ in range(layers):
            block = Block(width, heads)
            block.attention = Looking(width, heads)
            self.blocks.append(block)
            with torch.no_grad():  # the sum of 2 * layers branches keeps the size of one
                block.attention.out.weight.mul_((2 * layers) ** -0.5)
                block.down.weight.mul_((2 * layers) ** -0.5)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def patches(self, images: Tensor) -> Tensor:
        """Images (batch, side, side), or with channels last, as (batch, patches, numbers)."""
        tiles = images.unflatten(2, (-1, self.patch)).unflatten(1, (-1, self.patch))
        return tiles.transpose(2, 3).flatten(3).flatten(1, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes)."""
        x = self.embedding(self.patches(images)) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))
