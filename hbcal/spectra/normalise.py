"""Spectra over a smooth curve through themselves: without brightness, reddening and the instrument's response."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.sparse import csr_matrix

from hbcal._errors import HbcalError
from hbcal.spectra.container import Spectra

REACH = 3.0  # widths; pixels farther away do not count


def normalised(spectra: Spectra, width: float) -> Spectra:
    """Divide every spectrum by a smooth curve through itself, which knows nothing of lines narrower than that.

        c(wave) = a,   a, b minimise sum_p k_p (f_p - a - b (wave_p - wave))^2,
        k_p = exp(-(wave_p - wave)^2 / 2 width^2)

    over the pixels that are there: a straight line near each wavelength, so that a tilt leaves no trace where spectra
    end. It is linear in the flux, and the same for stars of any brightness; broad lines and bands are flattened, for
    training and labelled spectra alike. Errors are divided by it, too; its own are not in them, since as many pixels as
    a width holds share it.

    Args:
        spectra: whose flux is positive on the average wherever they have pixels.
        width: sd of the Gaussian, in the unit of the wavelengths; many times that of a line.

    Returns:
        The spectra; NaN where the curve is not positive.

    Errors:
        HbcalError for a width that is not positive, or narrower than three pixels.

    Example:
        >>> one = np.ones((1, 50))
        >>> seen = Spectra(np.arange(50.0), 7.0 * one, one, np.array(["a"]), one[:, :0], one[:, :0], ())
        >>> normalised(seen, 10.0).flux.round(6).max()
        np.float64(1.0)

    Source: Cleveland 1979, JASA 74, 829 (local linear fits); a running mean instead: Ho et al. 2017, ApJ 836, 5.
    """
    wave = spectra.wave
    if not (np.isfinite(width) and width > 3.0 * np.median(np.diff(wave))):
        raise HbcalError(
            f"Spectra cannot be divided by a curve of the width {width:g}: give one of many pixels, which are "
            f"{np.median(np.diff(wave)):g} apart."
        )
    low, high = np.searchsorted(wave, wave - REACH * width), np.searchsorted(wave, wave + REACH * width, "right")
    count = high - low
    column = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(low, count)
    row = np.repeat(np.arange(len(wave)), count)
    off = (wave[column] - wave[row]) / width
    near = [csr_matrix((np.exp(-0.5 * off**2) * off**k, (row, column))) for k in range(3)]
    there = np.isfinite(spectra.flux)
    s0, s1, s2 = ((each @ there.T.astype(float)).T for each in near)
    t0, t1 = ((each @ np.where(there, spectra.flux, 0.0).T).T for each in near[:2])
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (s2 * t0 - s1 * t1) / (s0 * s2 - s1**2)
    mean = np.where(mean > 0, mean, np.nan)
    return replace(spectra, flux=spectra.flux / mean, flux_err=spectra.flux_err / mean)
