"""Wavelengths: air and vacuum, the star's frame and ours, resolution."""

from __future__ import annotations

import numpy as np

from hbcal._errors import HbcalError
from hbcal._typing import Float

SPEED_OF_LIGHT = 299792.458  # km/s, exact
SHORTEST, LONGEST = 2000.0, 50000.0  # A; where the dispersion formula of air is of use


def _refractive_index(wave: np.ndarray) -> np.ndarray:
    """Of dry air at 15 C, 101325 Pa and 450 ppm CO2, for vacuum wavelengths in A (Ciddor 1996, eq. 1)."""
    s = (1e4 / wave) ** 2
    return 1.0 + 0.05792105 / (238.0185 - s) + 0.00167917 / (57.362 - s)


def _refuse_range(wave: np.ndarray) -> None:
    if not ((wave > SHORTEST) & (wave < LONGEST)).all():
        raise HbcalError(
            f"Air and vacuum wavelengths are in A, between {SHORTEST:.0f} and {LONGEST:.0f}, not from "
            f"{np.min(wave):g} to {np.max(wave):g}: convert nm or micron first."
        )


def vacuum_to_air(wave: Float[np.ndarray, " n_pix"]) -> Float[np.ndarray, " n_pix"]:
    """Wavelengths in air from wavelengths in vacuum.

    wave_air = wave / n(wave),   n = 1 + 0.05792105 / (238.0185 - s) + 0.00167917 / (57.362 - s),   s = (1e4 A / wave)^2

    Args:
        wave: in vacuum, A, (n_pix,).

    Returns:
        In air at 15 C and 101325 Pa, A.

    Errors:
        HbcalError for wavelengths that cannot be A.

    Source:
        Ciddor 1996, Applied Optics 35, 1566, eq. 1.

    Example:
        >>> vacuum_to_air(np.array([6564.614])).round(2).tolist()
        [6562.8]
    """
    _refuse_range(wave)
    return wave / _refractive_index(wave)


def air_to_vacuum(wave: Float[np.ndarray, " n_pix"]) -> Float[np.ndarray, " n_pix"]:
    """Wavelengths in vacuum from wavelengths in air: the inverse of `vacuum_to_air`, by iteration.

    wave_vacuum = n(wave_vacuum) wave; n changes so little that each step wins five digits.

    Args:
        wave: in air, A, (n_pix,).

    Returns:
        In vacuum, A.

    Errors:
        HbcalError for wavelengths that cannot be A.

    Source:
        Ciddor 1996, Applied Optics 35, 1566, eq. 1.

    Example:
        >>> air_to_vacuum(np.array([6562.801])).round(2).tolist()
        [6564.61]
    """
    _refuse_range(wave)
    vacuum = wave
    for _ in range(4):
        vacuum = wave * _refractive_index(vacuum)
    return vacuum


def rest_frame(wave: Float[np.ndarray, " n_pix"], velocity: float) -> Float[np.ndarray, " n_pix"]:
    """Where an observed pixel lies in the star's own frame.

    wave_rest = wave / (1 + v / c), the surveys' convention v = c z; at 300 km/s it differs from the relativistic one by
    0.15 km/s.

    Args:
        wave: observed, any unit, (n_pix,).
        velocity: v, km/s, positive where the star recedes, in the frame of the wavelengths.

    Returns:
        The wavelengths at rest, in the same unit.

    Errors:
        None.

    Example:
        >>> rest_frame(np.array([5000.0 * (1 + 30.0 / SPEED_OF_LIGHT)]), 30.0).tolist()
        [5000.0]
    """
    return wave / (1.0 + velocity / SPEED_OF_LIGHT)


def width_between(wave: Float[np.ndarray, " n_pix"], power: float, wanted: float) -> Float[np.ndarray, " n_pix"]:
    """The width of the Gaussian that takes spectra from one resolving power to a lower one.

    FWHM = wave sqrt(1 / wanted^2 - 1 / power^2): widths of Gaussians add in squares.

    Args:
        wave: (n_pix,).
        power: R = wave / FWHM that the spectra have; infinite for a synthetic spectrum that was not broadened.
        wanted: R that they shall have.

    Returns:
        The full width at half maximum at each pixel, in the unit of the wavelengths.

    Errors:
        HbcalError where the wanted power is not below the other.

    Example:
        >>> width_between(np.array([5000.0]), 5000.0, 3000.0).round(4).tolist()
        [1.3333]
    """
    if not 0 < wanted < power:
        raise HbcalError(
            f"Spectra of resolving power {power:g} cannot be brought to {wanted:g}: it must be positive and lower."
        )
    return wave * np.sqrt(wanted**-2.0 - power**-2.0)
