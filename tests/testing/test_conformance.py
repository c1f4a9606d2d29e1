"""The suite itself: matrices with one planted fault each, and the test that must find it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kmatrix.structures import Dense
from kmatrix.structures.chain import ChainMatrix
from kmatrix.testing import StructureConformance

f64, c128 = torch.float64, torch.complex128


class Conjugating(ChainMatrix):
    def _rmatmul(self, x: Tensor) -> Tensor:
        return super()._rmatmul(x.conj()).conj()


class Affine(ChainMatrix):
    def _matmul(self, x: Tensor) -> Tensor:
        return super()._matmul(x) + 1


class Detached(ChainMatrix):
    @property
    def weights(self) -> tuple[Tensor, ...]:
        return tuple(w.detach() for w in super().weights)


class Forgetful(ChainMatrix):
    """It forgets a number when it is saved."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._factor = [torch.ones(())]

    def _matmul(self, x: Tensor) -> Tensor:
        return super()._matmul(x) * self._factor[0]

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        super().reset_parameters(generator)
        self._factor = [torch.tensor(2.0)]


class Sharing(ChainMatrix):
    def __deepcopy__(self, memo: object) -> Sharing:
        return self


class Careless(ChainMatrix):
    """It checks nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return self._matmul(x[..., : self.shape[1]].to(self.dtype))


class InPlace(ChainMatrix):
    def _matmul(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x[..., 0] += 1
        return super()._matmul(x)


class Aliasing(ChainMatrix):
    def _matmul(self, x: Tensor) -> Tensor:
        return x


class Rough(ChainMatrix):
    def _matmul(self, x: Tensor) -> Tensor:
        return super()._matmul(x) * (1 + 1e-9 * torch.sin(x.real.sum()))


class Branching(ChainMatrix):
    def _matmul(self, x: Tensor) -> Tensor:
        return super()._matmul(x) if float(x.detach().real.sum()) < 1e9 else x


class Global(ChainMatrix):
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        super().reset_parameters(None)


class Complex(ChainMatrix):
    """It holds complex parameters."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.more = nn.Parameter(torch.zeros(0, dtype=c128))


class Wasteful(ChainMatrix):
    """It holds more numbers than it counts."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.more = nn.Parameter(torch.zeros(3, dtype=f64))


class Dear(ChainMatrix):
    """It costs more than it says."""

    def _matmul(self, x: Tensor) -> Tensor:
        return super()._matmul(x) + super()._matmul(x) * 0


class Allocating(ChainMatrix):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("table", torch.zeros(3), persistent=False)


@dataclass(frozen=True)
class Faulty(Dense):
    """Dense matrices of a kind that has a fault."""

    kind: type[ChainMatrix] = ChainMatrix

    def empty(self, m: int, n: int, *, dtype: torch.dtype | None = None, device: Any = None) -> ChainMatrix:
        dtype = self._admit(m, n, dtype)
        return self.kind(self, (m, n), self.layout(m, n), dtype=dtype, device=device)


def faulty(kind: type[ChainMatrix]) -> StructureConformance:
    """The suite, for a structure whose members are of the given kind."""

    class Suite(StructureConformance):
        examples = ((Faulty(kind), 3, 3),)
        counted_by_torch = True

    return Suite()


def run(suite: StructureConformance, name: str, dtype: torch.dtype, folder: Path) -> None:
    """One test of the suite, as pytest would call it."""
    test: Callable[..., None] = getattr(suite, name)
    values = {
        "example": suite.examples[0],
        "first": suite.examples[0],
        "dtype": dtype,
        "lower": suite.lower_precisions()[0],
        "tmp_path": folder,
    }
    names = test.__code__.co_varnames[1 : test.__code__.co_argcount]
    test(**{name: values[name] for name in names})


FAULTS = [
    (Conjugating, "test_the_adjoint_is_the_adjoint", c128),
    (Conjugating, "test_transposes_agree_with_those_of_the_dense_matrix", c128),
    (Affine, "test_it_is_linear", f64),
    (Affine, "test_products_of_every_shape_are_those_of_the_dense_matrix", f64),
    (Affine, "test_sums_products_and_multiples", f64),
    (Affine, "test_real_and_complex_mix_within_a_precision", f64),
    (Affine, "test_directional_derivatives", f64),
    (Detached, "test_every_parameter_gets_a_gradient", f64),
    (Detached, "test_the_dense_matrix_is_differentiable", f64),
    (Forgetful, "test_state_dict_round_trip", f64),
    (Forgetful, "test_state_dict_assigned_to_a_meta_matrix", f64),
    (Sharing, "test_copies_are_independent_and_equal", f64),
    (Careless, "test_wrong_input_is_refused", f64),
    (InPlace, "test_inputs_of_any_memory_layout", f64),
    (Aliasing, "test_the_output_does_not_share_memory_with_the_input", f64),
    (Rough, "test_products_of_every_shape_are_those_of_the_dense_matrix", f64),
    (Branching, "test_vmap", f64),
    (Branching, "test_compiles_whole", f64),
    (Branching, "test_exports_with_any_batch", f64),
    (Branching, "test_meta_device", f64),
    (Global, "test_random_members", f64),
    (Complex, "test_counts_its_numbers", c128),
    (Wasteful, "test_counts_its_numbers", f64),
    (Dear, "test_counts_its_operations", f64),
    (Allocating, "test_meta_device", f64),
    (Wasteful, "test_file_round_trip", f64),
]


@pytest.mark.parametrize(
    ("kind", "name", "dtype"), FAULTS, ids=[f"{kind.__name__}-{name}" for kind, name, _ in FAULTS]
)
def test_a_planted_fault_is_found(
    kind: type[ChainMatrix], name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    with pytest.raises(Exception):  # noqa: B017  (whatever it raises, the test fails)
        run(faulty(kind), name, dtype, tmp_path)


SOUND = sorted({name for _, name, _ in FAULTS} - {"test_file_round_trip"})


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("dtype", [f64, c128])
def test_the_same_structure_without_a_fault_passes(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    run(faulty(ChainMatrix), name, dtype, tmp_path)


def test_a_file_of_a_structure_with_foreign_fields_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="which has no plain form"):
        run(faulty(ChainMatrix), "test_file_round_trip", f64, tmp_path)
