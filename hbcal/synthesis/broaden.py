"""Broadening of a spectrum to the resolution of an instrument."""

from __future__ import annotations

import numpy as np

from hbcal.numerics.linear_maps import broadening_map


def broaden(wave: np.ndarray, flux: np.ndarray, resolution: float) -> np.ndarray:
    """Convolve with a Gaussian of constant resolving power.

        f'_j = sum_i A_ji f_i / sum_i A_ji,   A of `hbcal.numerics.linear_maps.broadening_map`, FWHM_j = lambda_j / R

    Args:
        wave: (n_pix,) increasing.
        flux: (..., n_pix), nothing missing.
        resolution: R = lambda / FWHM; 0 leaves the spectrum as it is.

    Returns:
        (..., n_pix); near an end the kernel is cut off there, so compute a margin and drop it.

    Errors:
        None.

    Example:
        >>> wave = 5000.0 + 0.1 * np.arange(201)
        >>> flux = broaden(wave, (np.arange(201) == 100) * 1.0, 5000.0)
        >>> round(flux.sum().item(), 3), round(flux[105].item() / flux[100].item(), 2)  # half as high at 0.5 A
        (1.0, 0.5)
    """
    if resolution == 0.0:
        return flux
    a = broadening_map(wave, wave / resolution)
    return np.asarray((a @ np.moveaxis(flux, -1, 0)).T / a.sum(axis=1))
