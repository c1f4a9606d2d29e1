"""A target that is known only by its products: a scipy LinearOperator in, a fast explicit operator out.

    python examples/scipy_operator.py

The operator solves a small diffusion problem, so every product with it costs a linear solve.
"""

import numpy as np
import scipy.sparse
from scipy.sparse.linalg import LinearOperator, cg, splu

import kmatrix as km

n = 128
laplace = scipy.sparse.diags([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], [-1, 0, 1])
factorised = splu((scipy.sparse.eye(n) + 50 * laplace).tocsc())
solve = LinearOperator((n, n), matvec=factorised.solve, matmat=factorised.solve, dtype=np.float64)

# The entries are learnt with n products; nothing else is known of the operator.
f = km.fit(solve, tol=1e-5)
print(f.matrix.structure)
print(f.certificate)

# It has what the black box lacked: an adjoint, a gradient, entries; and scipy takes it back.
A = f.matrix.aslinearoperator()
b = np.random.default_rng(0).standard_normal(n)
print("relative error of one solve:", np.linalg.norm(A @ b - solve @ b) / np.linalg.norm(solve @ b))

# As a preconditioner, a rough fit is enough: conjugate gradients on the same problem.
rough = km.fit(solve, tol=1e-2).matrix
steps: dict[str, int] = {"without": 0, "with": 0}
for name, M in (("without", None), ("with", ((rough + rough.T) * 0.5).aslinearoperator())):

    def count(_: np.ndarray, name: str = name) -> None:
        steps[name] += 1

    cg(scipy.sparse.eye(n) + 50 * laplace, b, rtol=1e-8, M=M, callback=count)
print(f"conjugate gradient steps: {steps['without']} without, {steps['with']} with the fit as preconditioner")
assert f.relative_error <= 1e-5
assert steps["with"] < steps["without"]
