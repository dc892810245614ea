"""What Turbospectrum's two programs are told, as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from hbcal._errors import HbcalError


def babsma_input(
    model: str, opacities: str, window: tuple[float, float, float], star: Sequence[str], vmicro: float
) -> str:
    """What babsma, which computes continuous opacities, reads.

    Args:
        model: file of the atmosphere.
        opacities: file to write.
        window: lowest and highest wavelength and step, Angstrom (air).
        star: the lines of `composition_lines`.
        vmicro: microturbulence, km/s.

    Returns:
        The text for its standard input.

    Errors:
        None.

    Example:
        >>> print(babsma_input("a.mod", "a.opac", (8460.0, 8700.0, 0.1), ["'METALLICITY:' '0.0'"], 1.0).splitlines()[3])
        'MODELINPUT:' 'a.mod'
    """
    low, high, step = window
    return "\n".join(
        [
            f"'LAMBDA_MIN:' '{low - step:.6f}'",
            f"'LAMBDA_MAX:' '{high + step:.6f}'",
            f"'LAMBDA_STEP:' '{step:.6f}'",
            f"'MODELINPUT:' '{model}'",
            "'MARCS-FILE:' '.true.'",
            f"'MODELOPAC:' '{opacities}'",
            *star,
            "'XIFIX:' 'T'",
            f"{vmicro:.3f}",
            "",
        ]
    )


def bsyn_input(
    opacities: str, spectrum: str, window: tuple[float, float, float], star: Sequence[str], lines: Sequence[str],
    geometry: str,
) -> str:  # fmt: skip
    """What bsyn, which computes the spectrum, reads.

    Args:
        opacities: file that babsma wrote.
        spectrum: file to write.
        window: lowest and highest wavelength and step, Angstrom (air).
        star: the lines of `composition_lines`.
        lines: files of the line lists.
        geometry: "spherical" or "plane_parallel" transfer.

    Returns:
        The text for its standard input; the four numbers at its end are those of Turbospectrum's own examples.

    Errors:
        None.

    Example:
        >>> said = bsyn_input("a.opac", "a.spec", (8460.0, 8700.0, 0.1), [], ["ges.txt"], "spherical").splitlines()
        >>> said[-7:-4]
        ["'NFILES:' '1'", 'ges.txt', "'SPHERICAL:' 'T'"]
    """
    low, _, step = window
    high = low + (n_pixels(window) - 0.7) * step  # bsyn cuts (high - low) / step off: ask for a third of a step more
    return "\n".join(
        [
            f"'LAMBDA_STEP:' '{step:.6f}'",
            f"'LAMBDA_MIN:' '{low:.6f}'",
            f"'LAMBDA_MAX:' '{high:.6f}'",
            "'INTENSITY/FLUX:' 'Flux'",
            "'ABFIND:' '.false.'",
            f"'MODELOPAC:' '{opacities}'",
            f"'RESULTFILE:' '{spectrum}'",
            *star,
            f"'NFILES:' '{len(lines)}'",
            *lines,
            f"'SPHERICAL:' '{'T' if geometry == 'spherical' else 'F'}'",
            "30", "300.00", "15", "1.3", "",
        ]
    )  # fmt: skip


def composition_lines(abundances: np.ndarray, isotopes: Mapping[str, float]) -> list[str]:
    """What both programs are told of the composition: every element's abundance, so that nothing is left to defaults.

    Args:
        abundances: (92,) logarithmic number abundances, hydrogen at 12, dex.
        isotopes: fraction by isotope, such as {"6.012": 0.94, "6.013": 0.06}.

    Returns:
        Lines of input.

    Errors:
        None.

    Example:
        >>> composition_lines(np.array([12.0, 10.93]), {"6.012": 1.0})[5:]
        ["'INDIVIDUAL ABUNDANCES:' '2'", '1 12.000', '2 10.930', "'ISOTOPES:' '1'", '6.012 1.0000']
    """
    scales = ("METALLICITY:", "ALPHA/Fe:", "HELIUM:", "R-PROCESS:", "S-PROCESS:")
    lines = [f"'{name}' '0.000'" for name in scales]
    lines.append(f"'INDIVIDUAL ABUNDANCES:' '{len(abundances)}'")
    lines += [f"{z} {value:.3f}" for z, value in enumerate(abundances, 1)]
    if isotopes:
        lines += [f"'ISOTOPES:' '{len(isotopes)}'", *(f"{name} {share:.4f}" for name, share in isotopes.items())]
    return lines


def n_pixels(window: tuple[float, float, float]) -> int:
    """Count the pixels from the lowest to the highest wavelength.

    Args:
        window: lowest and highest wavelength and step, Angstrom.

    Returns:
        How many there are, the lowest among them, and the highest where it is a whole number of steps away.

    Errors:
        None.

    Example:
        >>> n_pixels((8460.0, 8700.0, 0.1))
        2401
    """
    low, high, step = window
    return math.floor((high - low) / step + 1e-6) + 1


def check_window(window: tuple[float, float, float]) -> None:
    """Refuse a window that no spectrum has.

    Args:
        window: lowest and highest wavelength and step, Angstrom.

    Returns:
        Nothing.

    Errors:
        HbcalError where low, high and step are not in order, or Turbospectrum's arrays are too short.

    Example:
        >>> check_window((8460.0, 8700.0, 0.1))
    """
    low, high, step = window
    if not (0 < low < high < np.inf and 0 < step < high - low):
        raise HbcalError(
            f"The window is [{low:g}, {high:g}] with a step of {step:g}: give low < high, and a step that fits."
        )
    if (high - low) / step > 999_000:
        raise HbcalError(
            f"The window [{low:g}, {high:g}] has {(high - low) / step:.0f} steps of {step:g}: Turbospectrum takes "
            "999,000 at most; widen the step, or split the window."
        )
