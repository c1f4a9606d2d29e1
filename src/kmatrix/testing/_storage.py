"""Conformance tests of storage: state dicts and files."""

from __future__ import annotations

from pathlib import Path

import torch

from kmatrix.structures import Structure, StructuredMatrix
from kmatrix.structures.serialization import describe, load, save
from kmatrix.testing._examples import Example, Examples


class Storage(Examples):
    """Does it come back as it was?"""

    def test_state_dict_round_trip(self, example: Example, dtype: torch.dtype) -> None:
        structure, m, n = example
        A = self.member(example, dtype)
        state = A.state_dict()
        assert all(isinstance(value, torch.Tensor) for value in state.values()), "not tensors alone"
        B = structure.empty(m, n, dtype=dtype)
        B.load_state_dict(state)
        assert torch.equal(A.to_dense(), B.to_dense()), "loaded another matrix"

    def test_state_dict_assigned_to_a_meta_matrix(self, example: Example, dtype: torch.dtype) -> None:
        structure, m, n = example
        A = self.member(example, dtype)
        B = structure.empty(m, n, dtype=dtype, device="meta")
        B.load_state_dict(A.state_dict(), assign=True)
        assert (B.dtype, B.device) == (A.dtype, A.device), f"holds {B.dtype} on {B.device}"
        assert torch.equal(A.to_dense(), B.to_dense()), "loaded another matrix"

    def test_file_round_trip(self, example: Example, dtype: torch.dtype, tmp_path: Path) -> None:
        A = self.member(example, dtype)
        path = tmp_path / "A.safetensors"
        save(A, path, certificate={"relative_error": 0.5})
        own = _own_classes(A)
        B = load(path, structures=own)
        assert type(B) is type(A) and B.structure == A.structure, f"saved {A.structure}, loaded {B.structure}"
        assert (B.shape, B.dtype) == (A.shape, A.dtype)
        kept, loaded = A.state_dict(), B.state_dict()
        assert list(kept) == list(loaded), f"saved {list(kept)}, loaded {list(loaded)}"
        for name, value in kept.items():
            assert value.dtype == loaded[name].dtype and torch.equal(value, loaded[name]), f"{name} differs"
        assert torch.equal(A.to_dense(), B.to_dense()), "the same numbers multiply differently"
        found = describe(path, structures=own)
        assert (found.shape, found.structure, found.dtype) == (A.shape, A.structure, A.dtype)
        assert (found.num_params, found.flops) == (A.num_params, A.flops)
        assert found.certificate == {"relative_error": 0.5}


def _own_classes(matrix: StructuredMatrix) -> set[type[Structure]]:
    """The structure classes in a matrix that files name only if the reader has them."""
    kinds = {type(part.structure) for part in matrix.modules() if isinstance(part, StructuredMatrix)}
    return {kind for kind in kinds if not kind.__module__.startswith("kmatrix.")}
