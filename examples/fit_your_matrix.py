"""Fit your own matrix to a tolerance, look at the trade, save it and load it again.

    python examples/fit_your_matrix.py [W.npy]

Without a file, the matrix is a gravity-like interaction of two clusters of points.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import kmatrix as km


def interaction(n: int) -> np.ndarray:
    """1 / distance between points of a noisy spiral: smooth away from the diagonal, no rank to speak of on it."""
    angle = np.linspace(0, 6 * np.pi, n)
    points = np.stack([angle * np.cos(angle), angle * np.sin(angle)], axis=1)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    return 1.0 / (0.1 + distances)


W = np.load(sys.argv[1]) if len(sys.argv) > 1 else interaction(96)

# What kind of matrix is it? Every family at a quarter of the numbers, best first.
for attempt in sorted(km.compare(W, budgets=(0.25,)), key=lambda a: a.relative_error or 0.0)[:4]:
    print(f"{attempt.relative_error:.1e}  {attempt.num_params:>7,}  {attempt.structure}")

# The cheapest structure within one percent, or an honest Dense with the reason.
f = km.fit(W, tol=1e-2)
print(f"\n{f.matrix.structure}\n{f.reason}\n{f.certificate}")

with TemporaryDirectory() as folder:
    path = Path(folder) / "A.safetensors"
    km.save(f.matrix, path, certificate=f.certificate.to_json())
    A = km.load(path)
    print(f"\nsaved in {path.stat().st_size:,} bytes; the dense matrix takes {W.nbytes:,}")

x = np.random.default_rng(0).standard_normal(W.shape[1])
assert np.allclose(A @ x, f.matrix @ x)
assert f.relative_error <= 1e-2
