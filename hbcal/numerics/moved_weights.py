"""An emulator's weights moved in velocity, broadened and bent by a continuum: what a star's spectrum may do besides."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline

from hbcal._typing import Float
from hbcal.numerics.wavelength import SPEED_OF_LIGHT

GAP = 5.0  # times the usual spacing of pixels: what is farther apart is another arm of the spectrograph
LEAST = 4  # pixels of a stretch
NODES, SHARES = np.polynomial.hermite_e.hermegauss(5)
SHARES = SHARES / SHARES.sum()


class Curves(NamedTuple):
    """Functions of ln(wavelength), one cubic spline for each stretch of pixels without a gap.

    Attributes:
        ln_wave: of the pixels, (n_pix,).
        stretch: number of each pixel's stretch, (n_pix,), -1 where in none.
        splines: one for each stretch.
    """

    ln_wave: np.ndarray
    stretch: np.ndarray
    splines: tuple[CubicSpline, ...]


def stretches(wave: Float[np.ndarray, " n_pix"], there: np.ndarray) -> np.ndarray:
    """Which stretch of wavelengths without a gap each pixel lies in.

    Args:
        wave: increasing, positive.
        there: whether a pixel is of use, (n_pix,).

    Returns:
        0, 1, ... in order of wavelength; -1 for pixels of no use and for those with too few neighbours.

    Errors:
        None.

    Example:
        >>> stretches(np.r_[5000.0:5004.0, 5100.0:5104.0, 5200.0], np.ones(9, bool)).tolist()
        [0, 0, 0, 0, 1, 1, 1, 1, -1]
    """
    out, at = np.full(len(wave), -1), np.flatnonzero(there)
    if len(at) < LEAST:
        return out
    ln_wave = np.log(wave)
    part = np.cumsum(np.r_[False, np.diff(ln_wave[at]) > GAP * np.median(np.diff(ln_wave))])
    kept = np.flatnonzero(np.bincount(part) >= LEAST)
    number = np.full(part[-1] + 1, -1)
    number[kept] = np.arange(len(kept))
    out[at] = number[part]
    return out


def continuum_terms(
    wave: Float[np.ndarray, " n_pix"], stretch: np.ndarray, degree: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Legendre polynomials of the wavelength, P_0 ... P_degree for each stretch, which runs from -1 to 1.

    Args:
        wave, stretch: of the pixels.
        degree: of the highest.

    Returns:
        (n_pix, n_term), zero outside the stretch; and the terms' names.

    Errors:
        None.

    Example:
        >>> terms, names = continuum_terms(np.arange(1.0, 6.0), np.zeros(5, int), 1)
        >>> names, terms[:, 1].tolist()
        (('continuum_0', 'continuum_1'), [-1.0, -0.5, 0.0, 0.5, 1.0])
    """
    n, columns, names = int(stretch.max(initial=-1)) + 1, [], []
    for s in range(n):
        at = stretch == s
        low, high = wave[at].min(), wave[at].max()
        values = np.polynomial.legendre.legvander(2.0 * (wave - low) / (high - low) - 1.0, degree)
        columns.append(np.where(at[:, None], values, 0.0))
        names += [f"continuum_{f'{s}_' if n > 1 else ''}{k}" for k in range(degree + 1)]
    return np.concatenate(columns, axis=1) if columns else np.zeros((len(wave), 0)), tuple(names)


def curves(wave: Float[np.ndarray, " n_pix"], stretch: np.ndarray, values: np.ndarray) -> Curves:
    """Splines through values at pixels.

    Args:
        wave, stretch: of the pixels.
        values: (n_pix,) or (n_pix, n).

    Returns:
        `Curves`.

    Errors:
        None.

    Example:
        >>> made = curves(np.arange(1.0, 6.0), np.zeros(5, int), np.ones(5))
        >>> len(made.splines)
        1
    """
    ln_wave = np.log(wave)
    parts = [stretch == s for s in range(int(stretch.max(initial=-1)) + 1)]
    return Curves(ln_wave, stretch, tuple(CubicSpline(ln_wave[at], values[at]) for at in parts))


def moved(made: Curves, velocity: float, broadening: float, order: int = 0) -> np.ndarray:
    """Curves as seen from a star that recedes, its lines broadened; or derivatives of that by ln(wavelength).

        f(u) = (K_b g)(u - ln(1 + v / c)),   K_b g(u) = E[g(u - z sqrt(b) / c)],  z ~ N(0, 1)

    the expectation by five points of Gauss and Hermite, right as long as sqrt(b) is not much wider than a line. The
    derivative of f by b is f'' / (2 c^2), that by v is -f' / c.

    Args:
        made: g.
        velocity: v, km/s.
        broadening: b >= 0, variance that lines gain in velocity, (km/s)^2.
        order: of the derivative by u.

    Returns:
        f at the pixels, shape of the values, zero at those in no stretch; beyond a stretch its end goes on.

    Errors:
        None.

    Example:
        >>> wave = np.linspace(5000.0, 5010.0, 101)
        >>> line = lambda centre, width: np.exp(-0.5 * ((wave - centre) / width) ** 2)
        >>> seen = moved(curves(wave, np.zeros(101, int), line(5005.0, 0.4)), 30.0, 0.0)
        >>> bool(np.abs(seen - line(5005.0 * (1 + 30.0 / SPEED_OF_LIGHT), 0.4)).max() < 2e-3)
        True
    """
    n = made.splines[0].c.shape[2:] if made.splines else ()
    width = np.sqrt(broadening) / SPEED_OF_LIGHT
    points = list(zip(SHARES, NODES, strict=True)) if broadening else [(1.0, 0.0)]
    out = np.zeros((len(made.ln_wave), *n))
    for s, spline in enumerate(made.splines):
        at = made.stretch == s
        u = made.ln_wave[at] - np.log1p(velocity / SPEED_OF_LIGHT)
        low, high = spline.x[0], spline.x[-1]
        out[at] = sum(p * spline(np.clip(u - z * width, low, high), order) for p, z in points)
    return out


def line_width(made: Curves) -> float:
    """How broad the lines of a spectrum are, as an sd in km/s.

        sigma^2 = 3 <g'^2> / (2 <g''^2>)

    exact for Gaussian lines far from each other; the step by which a velocity can be searched for.

    Args:
        made: of one spectrum.

    Returns:
        sigma; infinite for a spectrum without a curve.

    Errors:
        None.

    Example:
        >>> wave = np.linspace(5000.0, 5010.0, 201)
        >>> g = np.exp(-0.5 * ((wave - 5005.0) / 0.3) ** 2)
        >>> round(line_width(curves(wave, np.zeros(201, int), g))), round(0.3 / 5005 * SPEED_OF_LIGHT)
        (18, 18)
    """
    slope, bend = ((moved(made, 0.0, 0.0, order) ** 2).sum() for order in (1, 2))
    return float(SPEED_OF_LIGHT * np.sqrt(1.5 * slope / bend)) if bend > 0 else float("inf")
