"""Noise whose neighbouring pixels go together, as that of resampled spectra: banded covariances, from correlations."""

from __future__ import annotations

import numpy as np
from scipy.linalg import LinAlgError, cholesky_banded

from hbcal._typing import Float

WHITE = 0.01  # of the variance may be lacking: smoothed noise has directions in which there is none, and files round


def bands(
    corr: Float[np.ndarray, "n_pix n_band"], sd: Float[np.ndarray, " n_pix"]
) -> Float[np.ndarray, "n_band n_pix"]:
    """What stands below the diagonal of a covariance, as LAPACK keeps it.

        out[k - 1, p] = (1 - WHITE) corr[p, k - 1] sd_p sd_p+k,   k = 1 ... n_band

    Args:
        corr: of each pixel with the next ones; what reaches beyond the last is not looked at.
        sd: of the pixels, 0 where one is not there.

    Returns:
        The bands, zeros where there is no next pixel.

    Errors:
        None.

    Example:
        >>> bands(np.full((3, 1), 0.5), np.array([1.0, 2.0, 0.0])).round(3).tolist()
        [[0.99, 0.0, 0.0]]
    """
    n_pix, n_band = corr.shape
    out = np.zeros((n_band, n_pix))
    for k in range(1, min(n_band, n_pix - 1) + 1):
        out[k - 1, :-k] = (1.0 - WHITE) * corr[:-k, k - 1].astype(float) * sd[:-k] * sd[k:]
    return out


def smooth_err(
    corr: Float[np.ndarray, "n_star n_pix n_band"], err: Float[np.ndarray, "n_star n_pix"]
) -> Float[np.ndarray, "n_star n_pix"]:
    """Errors of independent pixels that tell features wider than a few pixels as little as correlated noise does.

        err'_p^2 = max(sum_q C_pq, C_pp)

    The covariance itself would say that there is next to no noise from one pixel to the next, where what an emulator,
    or a survey's own resampling, has wrong is not small.

    Args:
        corr: of each pixel's noise with that of the next ones.
        err: of the pixels, NaN where one is not there.

    Returns:
        Errors, never smaller.

    Errors:
        None.

    Example:
        >>> smooth_err(np.full((1, 3, 1), 0.5), np.array([[1.0, 1.0, np.nan]])).round(3).tolist()
        [[1.225, 1.225, nan]]
    """
    sd, n_pix = np.nan_to_num(err), err.shape[1]
    more = np.zeros_like(sd)
    for k in range(1, min(corr.shape[2], n_pix - 1) + 1):
        both = corr[:, :-k, k - 1] * sd[:, :-k] * sd[:, k:]
        more[:, :-k] += both
        more[:, k:] += both
    return np.sqrt(err**2 + np.maximum(more, 0.0))


def tapered(corr: Float[np.ndarray, "n_pix n_band"]) -> Float[np.ndarray, "n_pix n_band"]:
    """Correlations cut off after a band, made such that some noise has them.

    rho_k (1 - k / (n_band + 1)): the product, entry by entry, of two positive definite matrices is one, too.

    Args:
        corr: as of `bands`, of a positive definite matrix but for the cut.

    Returns:
        The like.

    Errors:
        None.

    Example:
        >>> tapered(np.array([[0.9, 0.6], [0.9, 0.0], [0.0, 0.0]])).round(1).tolist()
        [[0.6, 0.2], [0.6, 0.0], [0.0, 0.0]]

    Source: Schur 1911, Crelle's Journal 140, 1; Furrer, Genton and Nychka 2006, J. Comp. Graph. Stat. 15, 502.
    """
    n_band = corr.shape[1]
    return corr * (1.0 - np.arange(1, n_band + 1) / (n_band + 1.0)).astype(corr.dtype)[None]


def possible(corr: Float[np.ndarray, "n_pix n_band"], seen: np.ndarray) -> bool:
    """Whether any noise can have such correlations.

    Args:
        corr: as of `bands`.
        seen: which pixels are there, (n_pix,).

    Returns:
        Whether their matrix is positive definite.

    Errors:
        None.

    Example:
        >>> [possible(np.full((3, 1), rho), np.ones(3, bool)) for rho in (0.5, 0.9)]
        [True, False]
    """
    try:
        cholesky_banded(np.concatenate([np.ones((1, len(corr))), bands(corr, seen.astype(float))]), lower=True)
    except (LinAlgError, ValueError):  # the latter for what is not finite
        return False
    return True
