"""A target that is known only by its products: a scipy LinearOperator in, a fast explicit operator out.

    python examples/scipy_operator.py

The operator solves a small diffusion problem, so every product with it costs a linear solve.
"""

from collections.abc import Callable

import numpy as np
import scipy.sparse
from scipy.sparse.linalg import LinearOperator, cg, splu

import kmatrix as km

n = 96
laplace = scipy.sparse.diags([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], [-1, 0, 1])
system = (scipy.sparse.eye(n) + 50 * laplace).tocsc()
factorised = splu(system)
solve = LinearOperator((n, n), matvec=factorised.solve, matmat=factorised.solve, dtype=np.float64)

# The entries are learnt with n products; nothing else is known of the operator.
f = km.fit(solve, tol=1e-3, of="flops")
print(f.matrix.structure)
print(f.certificate)

# It has what the black box lacked: an adjoint, a gradient, entries; and scipy takes it back.
A = f.matrix.aslinearoperator()
b = np.random.default_rng(0).standard_normal(n)
print("relative error of one solve:", np.linalg.norm(A @ b - solve @ b) / np.linalg.norm(solve @ b))

# A fit to few digits is a good preconditioner: conjugate gradients on the same problem.
M = ((f.matrix + f.matrix.T) * 0.5).aslinearoperator()
steps = {"without": 0, "with": 0}


def count(name: str) -> Callable[[np.ndarray], None]:
    """A callback that counts the steps of one run."""

    def step(_: np.ndarray) -> None:
        steps[name] += 1

    return step


cg(system, b, rtol=1e-8, callback=count("without"))
cg(system, b, rtol=1e-8, M=M, callback=count("with"))
print(f"conjugate gradient steps: {steps['without']} without, {steps['with']} with the fit as preconditioner")
assert f.relative_error <= 1e-3
assert steps["with"] < steps["without"]
