"""What a star's labels leave open: its microturbulence and its [alpha/M], by relations from the literature."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def holtzman2018(logg: float) -> float:
    """Microturbulence of giants and dwarfs in APOGEE.

        log10 vmicro = 0.226 - 0.0228 g + 0.0297 g^2 - 0.0113 g^3,   g = log g

    Args:
        logg: log10 of cm/s2.

    Returns:
        Microturbulence, km/s.

    Errors:
        None.

    Example:
        >>> round(holtzman2018(2.0), 2)
        1.62

    Source:
        Holtzman et al. 2018, AJ 156, 125.
    """
    return float(10.0 ** (0.226 - 0.0228 * logg + 0.0297 * logg**2 - 0.0113 * logg**3))


def solar_alpha(m_h: float) -> float:
    """No enhancement.

    Args:
        m_h: [M/H], dex.

    Returns:
        [alpha/M] = 0, dex.

    Errors:
        None.

    Example:
        >>> solar_alpha(-1.0)
        0.0
    """
    return 0.0


def marcs_alpha(m_h: float) -> float:
    """Enhancement of the standard composition of MARCS.

        [alpha/M] = 0.4 for [M/H] <= -1, 0 for [M/H] >= 0, -0.4 [M/H] between

    Args:
        m_h: [M/H], dex.

    Returns:
        [alpha/M], dex.

    Errors:
        None.

    Example:
        >>> marcs_alpha(-2.0), marcs_alpha(-0.5), marcs_alpha(0.3)
        (0.4, 0.2, 0.0)

    Source:
        Gustafsson et al. 2008, A&A 486, 951.
    """
    return float(np.clip(-0.4 * m_h, 0.0, 0.4))


VMICRO: dict[str, Callable[[float], float]] = {"holtzman2018": holtzman2018}
ALPHA_M: dict[str, Callable[[float], float]] = {"solar": solar_alpha, "marcs": marcs_alpha}
