"""Table 7 of arXiv 2012.14966: Frobenius errors at n = 256."""

from __future__ import annotations

from collections.abc import Mapping

MINIMUM = {"k": 0.0, "low-rank": 0.0, "sparse": 0.0, "convolution": 0.0, "fastfood": 0.0}
LOW_RANK = {
    "k": 14.9, "low-rank": 0.0, "sparse": 10.8, "convolution": 14.6, "fastfood": 11.6, "random": 15.5
}  # fmt: skip
SPARSE = {
    "k": 11.7, "low-rank": 12.2, "sparse": 0.0, "convolution": 13.1, "fastfood": 7.1, "random": 14.1
}  # fmt: skip
LEARNED = {
    "k": 0.0, "low-rank": 0.01, "sparse": 8.0, "convolution": 0.0, "fastfood": 5.1, "random": 14.5
}  # fmt: skip

TABLES: Mapping[str, Mapping[str, float]] = {
    "construction": MINIMUM,
    "low-rank": LOW_RANK,
    "sparse": SPARSE,
    "gradient": LEARNED,
}
