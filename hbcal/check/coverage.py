"""Are intervals as wide as they say? Coverage and scatter of standardised residuals."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Coverage:
    """Standardised residuals summarised.

    Attributes:
        n: how many.
        median, sd: of z; sd is robust, 1.4826 MAD.
        within_68, within_95: fraction with |z| <= 1 and <= 1.96.
    """

    n: int
    median: float
    sd: float
    within_68: float
    within_95: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def failures(self, sd_slack: float = 0.15, median_slack: float = 0.15) -> list[str]:
        """What is wrong beyond slack and chance (3 standard errors); empty when nothing is."""
        chance = 3.0 / np.sqrt(max(self.n, 1))
        out = []
        if abs(self.sd - 1.0) > sd_slack + chance:
            out.append(f"residuals scatter {self.sd:.2f} times what the posterior says")
        if abs(self.median) > median_slack + 1.25 * chance:
            out.append(f"residuals are off by {self.median:+.2f} sd in the median")
        if abs(self.within_95 - 0.95) > 0.04 + chance * 0.22:
            out.append(f"95% intervals cover {100 * self.within_95:.1f}%")
        return out


def coverage(z: np.ndarray) -> Coverage:
    """Summarise standardised residuals z = (observed - predicted) / predicted sd.

    Args:
        z: any shape, dimensionless; NaN is ignored.

    Returns:
        `Coverage`.

    Errors:
        ValueError when nothing is finite.

    Example:
        >>> c = coverage(np.random.default_rng(0).normal(size=20000))
        >>> c.failures()
        []
        >>> coverage(2 * np.random.default_rng(0).normal(size=20000)).failures()[0]
        'residuals scatter 2.01 times what the posterior says'
    """
    z = np.asarray(z, float).ravel()
    z = z[np.isfinite(z)]
    if not z.size:
        raise ValueError("coverage needs at least one finite residual.")
    middle = float(np.median(z))
    sd = float(1.4826 * np.median(np.abs(z - middle)))
    return Coverage(len(z), middle, sd, float((np.abs(z) <= 1.0).mean()), float((np.abs(z) <= 1.96).mean()))
