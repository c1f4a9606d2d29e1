"""Time and peak memory of compressing a stack of linear layers with random weights, one layer at a time.

python benchmarks/billion.py                     # 60 layers of 4096 x 4096: a billion parameters, minutes
python benchmarks/billion.py --layers 4 --size 1024
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import tempfile
import time
from pathlib import Path

import torch

from kmatrix.compress import compress_stream
from kmatrix.fitting.certificate import machine


def weight(size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, size, generator=generator) / size**0.5


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=60)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--budget", type=float, default=0.5)
    results = Path(__file__).parent / "results" / "billion.json"
    parser.add_argument("--out", type=Path, default=results, help="where the figures go as JSON")
    parser.add_argument("--scratch", type=Path, help="a folder on a disk with room for the factors")
    options = parser.parse_args()
    layers = {f"layer{k}": functools.partial(weight, options.size, k) for k in range(options.layers)}
    before, start = peak_bytes(), time.perf_counter()

    def tell(what: str, done: int, total: int) -> None:
        spent = time.perf_counter() - start
        print(f"{what:24} {done}/{total}  {spent:7.1f} s  {peak_bytes() / 2**20:8.0f} MiB", flush=True)

    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        found = compress_stream(layers, folder, options.budget, progress=tell)
    dense = options.layers * options.size**2
    one_layer = 4 * options.size**2
    figures = {
        "layers": options.layers,
        "size": options.size,
        "parameters": dense,
        "kept": sum(one.num_params for one in found) / dense,
        "mean_error": sum(one.error for one in found) / len(found),
        "seconds": time.perf_counter() - start,
        "peak_bytes": peak_bytes(),
        "peak_over_start_in_layers": (peak_bytes() - before) / one_layer,
        "machine": machine(),
    }
    print(json.dumps(figures, indent=1))
    options.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
