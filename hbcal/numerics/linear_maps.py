"""Resampling and broadening as sparse linear maps, so that the covariance of the noise goes along: A C A'."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array, csr_array, diags_array, issparse
from scipy.special import ndtr

from hbcal._typing import Float
from hbcal.numerics.banded import possible, tapered

FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))  # of a Gaussian, in units of sigma
REACH = 5.0  # how far a Gaussian reaches, sigma: 6e-7 of it lies beyond
UNRELATED = 1e-4  # a correlation that is none: what a band of them adds up to is below `hbcal.numerics.banded.WHITE`
GAP = 3.0  # a step of more than GAP times its smaller neighbour is a gap between detectors, not a pixel


def _pixels(wave: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges of the pixels, left and right, (n_pix,) each, and which steps are gaps, (n_pix - 1,)."""
    step = np.diff(wave)
    aside = np.concatenate([[np.inf], step, [np.inf]])
    gap = step > GAP * np.minimum(aside[:-2], aside[2:])
    half = np.where(gap, np.nan, step / 2)
    left, right = np.concatenate([[np.nan], half]), np.concatenate([half, [np.nan]])
    left, right = np.where(np.isnan(left), right, left), np.where(np.isnan(right), left, right)
    return wave - np.nan_to_num(left), wave + np.nan_to_num(right), gap


def _rows(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each entry of a matrix whose row j reaches from column first_j to last_j, exclusive."""
    n_each = np.maximum(last - first, 0)
    row = np.repeat(np.arange(len(first)), n_each)
    start = np.repeat(np.cumsum(n_each) - n_each, n_each)
    return row, np.arange(len(row)) - start + first[row]


def linear_map(wave: Float[np.ndarray, " n_pix"], to: Float[np.ndarray, " n_to"]) -> csr_array:
    """Linear interpolation, as a matrix.

    A_ji = 1 - |to_j - wave_i| / step for the two pixels beside to_j, 0 for the others; rows beyond the ends, and rows
    in a gap between detectors, are empty.

    Args:
        wave: increasing, (n_pix,).
        to: where the flux is wanted, (n_to,).

    Returns:
        A, (n_to, n_pix).

    Errors:
        None.

    Example:
        >>> linear_map(np.array([1.0, 2.0, 3.0]), np.array([1.25, 4.0])).toarray().tolist()
        [[0.75, 0.25, 0.0], [0.0, 0.0, 0.0]]
    """
    _, _, gap = _pixels(wave)
    left = np.clip(np.searchsorted(wave, to, side="right") - 1, 0, len(wave) - 2)
    share = (to - wave[left]) / (wave[left + 1] - wave[left])
    share = np.where(np.abs(share - share.round()) < 1e-9, share.round(), share)  # a pixel on a pixel has no neighbour
    inside = (share >= 0) & (share <= 1) & ~(gap[left] & (share > 0) & (share < 1))
    row = np.flatnonzero(inside)
    share, left = share[inside], left[inside]
    weight, at = np.concatenate([1 - share, share]), np.concatenate([left, left + 1])
    full = weight > 0
    made = coo_array((weight[full], (np.tile(row, 2)[full], at[full])), shape=(len(to), len(wave)))
    return made.tocsr()


def conserving_map(wave: Float[np.ndarray, " n_pix"], to: Float[np.ndarray, " n_to"]) -> csr_array:
    """Resampling that conserves flux, as a matrix on flux densities.

    A_ji = |pixel_i and pixel_j| / |pixel_j|: the mean of the flux density over the new pixel, edges being half way
    between centres.

    Args:
        wave: centres of the pixels, increasing, (n_pix,).
        to: centres of the new pixels, increasing, (n_to,).

    Returns:
        A, (n_to, n_pix); a row sums to the share of the new pixel that is covered.

    Errors:
        None.

    Source:
        Carnall 2017, arXiv:1705.05165, eq. 3.

    Example:
        >>> conserving_map(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.5, 3.5])).toarray().tolist()
        [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    low, high, _ = _pixels(wave)
    new_low, new_high, _ = _pixels(to)
    row, at = _rows(np.searchsorted(high, new_low, side="right"), np.searchsorted(low, new_high, side="left"))
    overlap = np.minimum(high[at], new_high[row]) - np.maximum(low[at], new_low[row])
    overlap = np.maximum(overlap, 0.0) / (new_high - new_low)[row]
    return coo_array((overlap, (row, at)), shape=(len(to), len(wave))).tocsr()


def broadening_map(wave: Float[np.ndarray, " n_pix"], fwhm: Float[np.ndarray, " n_pix"]) -> csr_array:
    """Convolution with a Gaussian whose width may change along the spectrum, as a matrix.

    A_ji = Phi((right_i - wave_j) / sigma_j) - Phi((left_i - wave_j) / sigma_j), sigma = FWHM / 2.3548: integrated over
    the pixels, so that a width of far less than a pixel leaves the spectrum as it was.

    Args:
        wave: centres of the pixels, increasing, (n_pix,).
        fwhm: full width at half maximum of the Gaussian at each pixel, > 0, in the unit of the wavelengths.

    Returns:
        A, (n_pix, n_pix), banded; a row sums to the share of the Gaussian that lies on pixels.

    Errors:
        None.

    Example:
        >>> broadening_map(np.arange(5.0), np.full(5, 1e-3)).toarray().diagonal().tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    low, high, _ = _pixels(wave)
    sigma = fwhm / FWHM
    first, last = np.searchsorted(high, wave - REACH * sigma), np.searchsorted(low, wave + REACH * sigma, side="right")
    row, at = _rows(first, last)
    weight = ndtr((high[at] - wave[row]) / sigma[row]) - ndtr((low[at] - wave[row]) / sigma[row])
    return coo_array((weight, (row, at)), shape=(len(wave), len(wave))).tocsr()


def carry(
    a: csr_array, flux: Float[np.ndarray, "n_star n_pix"], err: Float[np.ndarray, "n_star n_pix"], least: float = 0.5
) -> tuple[Float[np.ndarray, "n_star n_to"], Float[np.ndarray, "n_star n_to"]]:
    """Spectra through a linear map, missing pixels having no influence.

    flux_j = sum_i A_ji m_i f_i / W_j,   err_j^2 = sum_i (A_ji m_i e_i)^2 / W_j^2,   W_j = sum_i A_ji m_i,   m_i being 1
    where pixel i was seen: the errors are the diagonal of `carry_covariance`, and `carry_noise` says the rest.

    Args:
        a: A, with non-negative entries and rows that sum to at most 1, (n_to, n_pix).
        flux, err: spectra and their errors, NaN where missing, (n_star, n_pix).
        least: the smallest W_j that still counts as seen.

    Returns:
        Flux and error, (n_star, n_to); NaN where less than `least` of the weight was seen.

    Errors:
        None.

    Example:
        >>> a = linear_map(np.array([1.0, 2.0]), np.array([1.5]))
        >>> [float(each[0, 0]) for each in carry(a, np.array([[1.0, 3.0]]), np.array([[0.6, 0.8]]))]
        [2.0, 0.5]
    """
    seen = np.isfinite(flux) & np.isfinite(err)
    weight = (a @ seen.T.astype(float)).T
    weight = np.where(weight >= least, weight, np.nan)
    value = (a @ np.where(seen, flux, 0.0).T).T / weight
    var = (a.multiply(a) @ np.where(seen, err, 0.0).T ** 2).T / weight**2
    return value, np.sqrt(var)


def n_neighbours(a: csr_array, n_band: int = 0) -> int:
    """How many of the next pixels a pixel's noise goes together with, behind a linear map.

    Args:
        a: A, as for `carry`.
        n_band: how many it goes together with before.

    Returns:
        The largest k with corr(j, j + k) beyond `UNRELATED`, and one more where that is not 0, for maps of the same
        kind that are a fraction of a pixel apart; 0 where A is diagonal and there were none before.

    Errors:
        None.

    Example:
        >>> n_neighbours(linear_map(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.5, 2.5, 3.5])))
        2
    """
    n_pix = a.shape[1]
    near = range(-min(n_band, n_pix - 1), min(n_band, n_pix - 1) + 1)
    cov = (a @ diags_array([np.ones(n_pix - abs(k)) for k in near], offsets=list(near)) @ a.T).tocoo()
    var = np.maximum(cov.diagonal(), 1e-300)
    related = np.abs(cov.data) > UNRELATED * np.sqrt(var[cov.row] * var[cov.col])
    far = int(np.abs(cov.row - cov.col)[related].max(initial=0))
    return min(far + 1, a.shape[0] - 1) if far else 0


def carry_noise(
    a: csr_array, err: Float[np.ndarray, "n_star n_pix"], corr: Float[np.ndarray, "n_star n_pix n_old"], n_band: int,
    least: float = 0.5,
) -> tuple[Float[np.ndarray, "n_star n_to"], Float[np.ndarray, "n_star n_to n_band"]]:  # fmt: skip
    """The noise of spectra behind a linear map: errors, and how that of a pixel goes together with that of the next.

        err_j = sqrt(C'_jj),   rho_jk = C'_j,j+k / (err_j err_j+k),   C' as of `carry_covariance`, k = 1 ... n_band

    Args:
        a: A, as for `carry`.
        err, corr: of the old pixels, NaN where missing; no columns of `corr` where these are independent.
        n_band: how many of the next pixels, at least as many as `n_neighbours` says.
        least: as for `carry`.

    Returns:
        Errors, NaN where a pixel was not seen, and rho, in single precision; 0 where a pixel was not seen or there is
        no next one.

    Errors:
        None.

    Example:
        >>> a = linear_map(np.array([1.0, 2.0, 3.0]), np.array([1.5, 2.5]))
        >>> err, corr = carry_noise(a, np.ones((1, 3)), np.zeros((1, 3, 0)), 1)
        >>> err.round(3).tolist(), corr[0, :, 0].tolist()
        ([[0.707, 0.707]], [0.5, 0.0])
    """
    seen, n = np.isfinite(err), a.shape[0]
    off = range(1, min(n_band, n - 1) + 1)
    both = np.zeros((1 + len(off), len(err), n))
    if corr.shape[2]:
        for i, (sd, one) in enumerate(zip(err, corr, strict=True)):
            cov = carry_covariance(a, covariance_of(np.where(seen[i], sd, 0.0), one), seen[i], least)
            for k in range(1 + len(off)):
                both[k, i, : n - k] = np.nan_to_num(cov.diagonal(k))
    else:
        var = np.where(seen, err, 0.0).T ** 2
        weight = (a @ seen.T.astype(float)).T
        weight = np.where(weight >= least, weight, np.inf)
        for k in range(1 + len(off)):
            pair = csr_array(a[: n - k].multiply(a[k:]))
            both[k, :, : n - k] = (pair @ var).T / (weight[:, : n - k] * weight[:, k:])
    sd, rho = np.sqrt(both[0]), np.zeros((len(err), n, n_band), np.float32)
    for k in off:
        scale = sd[:, :-k] * sd[:, k:]
        rho[:, :-k, k - 1] = np.where(scale > 0, both[k, :, :-k] / np.where(scale > 0, scale, 1.0), 0.0)
    for i in range(len(rho)):
        # a pixel of huge errors reaches farther than the band, which was chosen for equal ones
        if n_band and not possible(rho[i], sd[i] > 0):
            rho[i] = tapered(rho[i])
    return np.where(sd > 0, sd, np.nan), rho


def covariance_of(sd: Float[np.ndarray, " n_pix"], corr: Float[np.ndarray, "n_pix n_band"]) -> csr_array:
    """The covariance of noise whose neighbouring pixels go together.

    Args:
        sd: of the pixels.
        corr: of each with the next ones.

    Returns:
        (n_pix, n_pix), banded.

    Errors:
        None.

    Example:
        >>> covariance_of(np.array([1.0, 2.0]), np.array([[0.5], [0.0]])).toarray().tolist()
        [[1.0, 1.0], [1.0, 4.0]]
    """
    n, near = len(sd), range(1, min(corr.shape[1], len(sd) - 1) + 1)
    above = [corr[:-k, k - 1] * sd[:-k] * sd[k:] for k in near]
    made = diags_array([sd**2, *above, *above], offsets=[0, *near, *(-k for k in near)], shape=(n, n))
    return csr_array(made)


def carry_covariance(
    a: csr_array, cov: np.ndarray | csr_array, seen: np.ndarray, least: float = 0.5
) -> np.ndarray | csr_array:
    """The covariance of one spectrum's pixels behind a linear map: C' = B C B' with B = diag(1 / W) A diag(m).

    Args:
        a: A, as for `carry`, (n_to, n_pix).
        cov: C, (n_pix, n_pix), dense or sparse, or its diagonal, (n_pix,); whatever it says of a missing pixel is
            ignored.
        seen: m, true where a pixel was seen, (n_pix,).
        least: as for `carry`.

    Returns:
        C', (n_to, n_to): dense for a dense C, sparse and banded for others; NaN on the diagonal of a new pixel
        that was not seen, nothing else being said of it.

    Errors:
        None.

    Example:
        >>> a = linear_map(np.array([1.0, 2.0, 3.0]), np.array([1.5, 2.5]))
        >>> carry_covariance(a, np.ones(3), np.ones(3, bool)).toarray().tolist()
        [[0.5, 0.25], [0.25, 0.5]]
    """
    weight = a @ seen.astype(float)
    answered = weight >= least
    b = (
        diags_array(np.where(answered, 1.0 / np.where(answered, weight, 1.0), 0.0))
        @ a
        @ diags_array(seen.astype(float))
    )
    hole = np.where(answered, 0.0, np.nan)
    if cov.ndim == 1 or issparse(cov):
        middle = cov if issparse(cov) else diags_array(np.where(seen, cov, 0.0))
        out = csr_array(b @ middle @ b.T)
        return out if answered.all() else csr_array(out + diags_array(hole))
    dense = b @ np.where(seen[:, None] & seen, cov, 0.0) @ b.T
    dense[~answered, ~answered] = np.nan
    return dense
