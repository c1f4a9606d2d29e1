"""A learnable layer that starts as an exact FFT and adapts to data: ordinary autograd, ordinary optimiser.

    python examples/train_from_fft.py

The data come from samples taken at jittered times, so the FFT is nearly, but not quite, the right transform.
"""

import math

import torch

import kmatrix as km

torch.manual_seed(0)
n, batch = 64, 64

# What the instrument really does: a Fourier transform of samples at slightly wrong times.
times = (torch.arange(n) + 0.05 * torch.randn(n)) / n
truth = torch.exp(-2j * math.pi * torch.outer(torch.arange(n), times)).to(torch.complex64) / math.sqrt(n)


class Layer(torch.nn.Module):
    """A learnable spectral layer: 2 n log2 n complex numbers instead of n**2, and it starts as an exact FFT."""

    def __init__(self) -> None:
        super().__init__()
        self.transform = km.transforms.dft(n, norm="ortho", dtype=torch.complex64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.transform(x)  # (*, n) -> (*, n)


def error(layer: Layer) -> float:
    with torch.no_grad():
        return float(torch.linalg.norm(layer.transform.to_dense() - truth) / torch.linalg.norm(truth))


layer = Layer()
before = error(layer)
optimiser = torch.optim.Adam(layer.parameters(), lr=1e-2)
for _ in range(150):
    x = torch.randn(batch, n, dtype=torch.complex64)
    loss = (layer(x) - x @ truth.mT).abs().square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
after = error(layer)

print(
    f"{layer.transform.num_params:,} numbers of {n * n:,}; relative error {before:.3f} as an FFT, {after:.3f} trained"
)
assert after < before
