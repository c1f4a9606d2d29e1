"""Example data that ships with kmatrix: one measured matrix, so that examples run on real numbers."""

from __future__ import annotations

from importlib import resources

import numpy as np
import numpy.typing as npt

__all__ = ["kemar_hrir"]


def kemar_hrir() -> npt.NDArray[np.float64]:
    """Read the head-related impulse responses of a KEMAR manikin's left ear: a ``1250 x 200`` matrix.

    Row ``50 i + j`` is the response to a click from azimuth ``i`` and elevation ``j`` of the CIPIC grid: 25
    azimuths from -80 to 80 degrees, left to right, and 50 elevations, ``-45 + 5.625 j`` degrees. Columns are
    200 samples at 44.1 kHz of relative sound pressure. The file holds float32; the values come back unchanged
    as float64, the precision in which errors are certified.

    Returns:
        A new array of shape ``(1250, 200)``.

    Example:
        >>> import kmatrix.data
        >>> W = kmatrix.data.kemar_hrir()
        >>> W.shape, W.dtype
        ((1250, 200), dtype('float64'))

    Reference: Algazi, Duda, Thompson and Avendano, "The CIPIC HRTF database", WASPAA 2001, subject 021. The
    terms of the data stand beside it in ``NOTICE.cipic.txt``.
    """
    file = resources.files(__name__) / "kemar_hrir.npz"
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        return np.asarray(archive["left"], dtype=np.float64)
