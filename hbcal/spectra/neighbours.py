"""``flux_corr``: how the noise of each pixel of a spectrum goes together with that of the next ones."""

from __future__ import annotations

import numpy as np

from hbcal._errors import HbcalError, some
from hbcal.numerics.banded import possible


def checked(corr: np.ndarray, seen: np.ndarray, star: np.ndarray, where: str) -> np.ndarray:
    """Correlations between pixels that are there, where any noise can have them.

    Args:
        corr: (n_star, n_pix, n_band), NaN for none.
        seen: which pixels are there, (n_star, n_pix).
        star: ids.
        where: the file, for messages.

    Returns:
        The correlations, in single precision.

    Errors:
        HbcalError for text, and where a star's make no positive definite matrix.

    Example:
        >>> corr = np.full((1, 3, 1), 0.5)
        >>> checked(corr, np.array([[True, True, False]]), np.array(["a"]), "here")[0, :, 0].tolist()
        [0.5, 0.0, 0.0]
    """
    if corr.dtype.kind not in "fiu":
        raise HbcalError(f"{where}: flux_corr is not numbers but {corr.dtype}: write it as floats.")
    found, n_pix = corr.astype(np.float32), corr.shape[1]
    for k in range(1, corr.shape[2] + 1):
        both = np.zeros_like(seen)
        both[:, : max(n_pix - k, 0)] = seen[:, :-k] & seen[:, k:]
        found[:, :, k - 1][~both | np.isnan(found[:, :, k - 1])] = 0.0
    bad = (
        []
        if not corr.shape[2]
        else [str(s) for s, one, there in zip(star, found, seen, strict=True) if not possible(one, there)]
    )
    if bad:
        raise HbcalError(
            f"{where}: flux_corr of {len(bad)} star(s) ({some(bad)}) is of no noise: it must hold the correlation of "
            "each pixel with the next ones, and make a positive definite matrix."
        )
    return found


def between(corr: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Correlations between some of the pixels: the next one may have been one of those farther away.

    Args:
        corr: (n_star, n_pix, n_band).
        rows: the pixels, increasing, (n,).

    Returns:
        (n_star, n, n_band).

    Errors:
        None.

    Example:
        >>> corr = np.tile(np.array([0.5, 0.2]), (1, 5, 1))
        >>> between(corr, np.array([0, 2, 3]))[0, :, 0].round(1).tolist()
        [0.2, 0.5, 0.0]
    """
    n_band = corr.shape[2]
    out = np.zeros((len(corr), len(rows), n_band), corr.dtype)
    for k in range(1, min(n_band, len(rows) - 1) + 1):
        far = rows[k:] - rows[:-k]
        near = np.flatnonzero(far <= n_band)
        out[:, near, k - 1] = corr[:, rows[near], far[near] - 1]
    return out
