"""A theorem as code: every permutation is a product of two butterflies whose entries are zeros and ones.

python examples/any_permutation.py
"""

import torch

import kmatrix as km

n = 1000
p = torch.randperm(n, generator=torch.Generator().manual_seed(0))

# Theorem 2 of arXiv 2012.14966: width 1, expansion 1, whatever the permutation.
P = km.constructions.permutation(p)
print(P.structure, f"with {P.num_params:,} numbers; as a dense matrix {n * n:,}")
assert P.structure == km.Kaleidoscope(width=1, expansion=1)

# Exact in every number type, because no number is ever rounded: all are 0 or 1.
for dtype in (torch.float64, torch.float32, torch.bfloat16):
    x = torch.randn(n, dtype=dtype)
    assert torch.equal(P.to(dtype) @ x, x[p])

# Permutations multiply as the theorem says: widths add. And the transpose is the inverse.
PP = km.constructions.product_of([P.float(), P])
assert PP.structure.width == 2
x = torch.randn(n)
assert torch.equal(PP @ x, x[p][p])
assert torch.equal(P.T @ (P @ x), x)

# It is a layer like any other, so a network can start from a known order and learn a better one.
layer = torch.nn.Sequential(P, torch.nn.ReLU(), torch.nn.Linear(n, 10))
layer(torch.randn(32, n)).sum().backward()
print("gradients reach", sum(q.grad is not None for q in P.parameters()), "factors of the permutation")
