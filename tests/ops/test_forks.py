"""Workers that a data loader forks multiply by what their parent made."""

from __future__ import annotations

import multiprocessing

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import kmatrix as km

pytestmark = [
    pytest.mark.skipif(
        "fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system"
    ),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


class Products(Dataset[Tensor]):
    """The rows of a batch, each multiplied by a matrix and by its plan."""

    def __init__(self, x: Tensor, matrix: km.StructuredMatrix) -> None:
        self.x, self.matrix, self.plan = x, matrix, km.ops.prepare(matrix)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Tensor:
        rows = self.x[i].expand(40, -1).contiguous()
        with torch.no_grad():
            return torch.stack([self.matrix(rows)[7], rows[3] @ self.matrix.T, self.plan(rows)[7]])


def test_workers_of_a_data_loader(request: pytest.FixtureRequest) -> None:
    threads = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    matrix, x = km.Butterfly().random(64, 64), torch.randn(6, 64)
    data = Products(x, matrix)
    torch.set_num_threads(2)
    want = torch.stack(
        [data[i] for i in range(len(data))]
    )  # the parent's threads are at work before the fork
    loader = DataLoader(data, batch_size=3, num_workers=2, multiprocessing_context="fork", timeout=60)
    torch.testing.assert_close(torch.cat(list(loader)), want)
    torch.testing.assert_close(want, (x @ matrix.to_dense().detach().mT)[:, None].expand(6, 3, 64))
