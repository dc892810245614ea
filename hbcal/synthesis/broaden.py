"""Broadening of a spectrum to the resolution of an instrument."""

from __future__ import annotations

import numpy as np

FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))


def broaden(wave: np.ndarray, flux: np.ndarray, resolution: float) -> np.ndarray:
    """Convolve with a Gaussian of constant resolving power.

        f'_i = sum_j w_ij f_j / sum_j w_ij,   w_ij = exp(-(lambda_j - lambda_i)^2 / (2 sigma_i^2)),
        sigma_i = lambda_i / (R FWHM_1),   FWHM_1 = 2 sqrt(2 ln 2)

    Args:
        wave: (n_pix,) equally spaced.
        flux: (..., n_pix).
        resolution: R = lambda / FWHM; 0 leaves the spectrum as it is.

    Returns:
        (..., n_pix); within 5 sigma of an end the kernel is cut off there, so compute a margin and drop it.

    Errors:
        ValueError where the pixels are not equally spaced.

    Example:
        >>> wave = 5000.0 + 0.1 * np.arange(201)
        >>> flux = broaden(wave, (np.arange(201) == 100) * 1.0, 5000.0)
        >>> round(flux.sum().item(), 3), round((1 / flux[100] / np.sqrt(2 * np.pi) * 0.1 * FWHM).item(), 2)  # FWHM 1 A
        (1.0, 1.0)
    """
    if resolution == 0.0:
        return flux
    step = wave[1] - wave[0]
    if not np.allclose(np.diff(wave), step, rtol=1e-3):
        raise ValueError("broaden needs equally spaced pixels: resample first.")
    sigma = wave / (resolution * FWHM) / step  # in pixels
    reach = int(np.ceil(5.0 * sigma.max()))
    total, norm = np.zeros(np.shape(flux)), np.zeros(len(wave))
    for shift in range(-reach, reach + 1):
        to = slice(max(0, -shift), min(len(wave), len(wave) - shift))
        at = slice(to.start + shift, to.stop + shift)
        weight = np.exp(-0.5 * (shift / sigma[to]) ** 2)
        total[..., to] += weight * flux[..., at]
        norm[to] += weight
    return total / norm
