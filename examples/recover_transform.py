"""Hand `fit` nothing but numbers and get the fast algorithm back: a shuffled cosine transform, recovered.

python examples/recover_transform.py
"""

import numpy as np
import scipy.fft

import kmatrix as km

n = 128
rng = np.random.default_rng(0)
rows, columns = rng.permutation(n), rng.permutation(n)

# A cosine transform whose rows and columns were shuffled: 16,384 numbers without visible structure.
W = scipy.fft.dct(np.eye(n), axis=0, norm="ortho")[rows][:, columns]

f = km.fit(W, tol=1e-10)

print(f.method)
print(f.certificate)
for attempt in f.history:
    print(f"  {attempt.family:<20} {'met' if attempt.met else 'no':<4} {attempt.note[:80]}")

# It multiplies, transposes and differentiates like any structured matrix.
x = rng.standard_normal(n)
print("largest difference of a product:", np.abs(f.matrix @ x - W @ x).max())
assert np.allclose(f.matrix.T @ (f.matrix @ x), x)  # the transform was orthogonal, and so is what was found
assert f.relative_error < 1e-12
assert f.certificate.num_params < W.size / 3
