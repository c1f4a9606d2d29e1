"""The shipped measurement is the one we think it is."""

from __future__ import annotations

import hashlib
from importlib import resources

import numpy as np

from kmatrix.data import kemar_hrir

SHA256_OF_FLOAT32 = "64abc65d969f11c3eba4c8488baa6131683a2d1f70aca2b1134ea4bd848f2768"


def test_shape_and_type() -> None:
    hrir = kemar_hrir()
    assert hrir.shape == (1250, 200)
    assert hrir.dtype == np.float64
    assert np.isfinite(hrir).all()


def test_values_are_the_published_float32_numbers() -> None:
    hrir = kemar_hrir()
    single = hrir.astype("<f4")
    assert np.array_equal(single, hrir)
    assert hashlib.sha256(single.tobytes()).hexdigest() == SHA256_OF_FLOAT32


def test_every_call_returns_its_own_array() -> None:
    first = kemar_hrir()
    first[:] = 0
    assert np.abs(kemar_hrir()).max() > 1


def test_rows_run_over_azimuth_from_left_to_right_then_elevation() -> None:
    grid = kemar_hrir().reshape(25, 50, 200)
    energy = np.square(grid).sum(axis=(1, 2))
    assert energy[0] > 10 * energy[-1]  # the left ear hears a source on the left much louder
    front = 8  # elevation 0
    onset = np.abs(grid[:, front]).argmax(axis=-1)
    assert onset[0] < onset[12] < onset[-1]  # and earlier


def test_terms_of_the_data_ship_with_it() -> None:
    notice = (resources.files("kmatrix.data") / "NOTICE.cipic.txt").read_text(encoding="utf-8")
    assert "The Regents of the University of California" in notice
