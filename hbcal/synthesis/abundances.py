"""Abundances of a star from its labels, on the scale its model atmospheres are on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

ELEMENTS = (
    "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar", "K", "Ca",
    "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Kr", "Rb", "Sr", "Y",
    "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb", "Te", "I", "Xe", "Cs", "Ba", "La", "Ce",
    "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu", "Hf", "Ta", "W", "Re", "Os", "Ir",
    "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po", "At", "Rn", "Fr", "Ra", "Ac", "Th", "Pa", "U",
)  # fmt: skip
ALPHA = ("O", "Ne", "Mg", "Si", "S", "Ar", "Ca", "Ti")
ABSENT = -29.0  # what Turbospectrum takes for "none of it"; MARCS headers say -99


def solar_scale(abundances: np.ndarray, m_h: float, alpha_m: float) -> np.ndarray:
    """Undo the composition of a model atmosphere: the Sun's abundances as its grid has them.

        A_sun(X) = A(X) - [M/H] - [alpha/M] (X an alpha element),   H and He unchanged

    Taken from the atmospheres themselves, so that [X/Fe] = 0 means the same in the lines as in the structure.

    Args:
        abundances: (92,) logarithmic number abundances of the model, hydrogen at 12, dex.
        m_h: its [M/H], dex.
        alpha_m: its [alpha/M], dex.

    Returns:
        (92,) the Sun's, dex; `ABSENT` where the model has none.

    Errors:
        None.

    Example:
        >>> model = np.full(92, 5.0)
        >>> sun = solar_scale(model, -1.0, 0.4)
        >>> sun[ELEMENTS.index("Fe")].item(), sun[ELEMENTS.index("Mg")].item(), sun[0].item()
        (6.0, 5.6, 5.0)
    """
    return np.where(abundances < -20.0, ABSENT, abundances - _scaling(m_h, alpha_m))


def mixture(sun: np.ndarray, m_h: float, alpha_m: float, x_fe: Mapping[str, float]) -> np.ndarray:
    """Abundances of a star.

        A(X) = A_sun(X) + [M/H] + [X/Fe] where given, else A_sun(X) + [M/H] + [alpha/M] (X an alpha element)

    Args:
        sun: (92,) the Sun's abundances, dex.
        m_h: [M/H] of the star, which is its [Fe/H], dex.
        alpha_m: [alpha/M] of O, Ne, Mg, Si, S, Ar, Ca and Ti, dex.
        x_fe: [X/Fe] by symbol; replaces what [alpha/M] would say, dex.

    Returns:
        (92,) abundances, hydrogen at 12, dex.

    Errors:
        ValueError for a symbol that is no element.

    Example:
        >>> star = mixture(np.full(92, 7.5), -0.5, 0.2, {"Mg": 0.3})
        >>> [round(star[ELEMENTS.index(x)].item(), 3) for x in ("Fe", "Mg", "Si", "He")]
        [7.0, 7.3, 7.2, 7.5]
    """
    scaling = _scaling(m_h, alpha_m)
    for symbol, value in x_fe.items():
        scaling[ELEMENTS.index(symbol)] = m_h + value
    return np.where(sun < -20.0, ABSENT, sun + scaling)


def _scaling(m_h: float, alpha_m: float) -> np.ndarray:
    """What is added to the Sun's abundances, (92,)."""
    out = np.full(len(ELEMENTS), m_h)
    out[:2] = 0.0
    out[[ELEMENTS.index(x) for x in ALPHA]] += alpha_m
    return out
