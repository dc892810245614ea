"""How heavy the tails of draws have to be, told by stars whose labels are known."""

from __future__ import annotations

import numpy as np
from scipy.stats import chi2
from scipy.stats import f as fisher

from hbcal._typing import Float
from hbcal.numerics.intervals import distance, interval_level, joint_level

LEAST = 300  # stars: fewer do not tell tails
WANTED = 0.683, 0.95
TAILS = (0.0, 1 / 24, 1 / 12, 1 / 8, 1 / 6, 1 / 5, 1 / 4, 1 / 3)  # 1 / degrees of freedom
STEPS = np.linspace(-0.4, 0.4, 41)  # logs of factors
REACH = np.linspace(1e-3, 9.0, 400)  # Mahalanobis distances of Gaussian draws that are told apart


def heavier(
    off: Float[np.ndarray, "n_star n_draw n_label"], cov: Float[np.ndarray, "n_star n_label n_label"], tail: float
) -> np.ndarray:
    """Draws pushed outward as a Gaussian's would have to be to become a Student t's.

        off' = off t(m) / m,   m^2 = off^T cov^-1 off,   P(chi^2_p > m^2) = P(p F_{p, dof} > t^2)

    Args:
        off: draws less their mean.
        cov: their covariance.
        tail: 1 / dof of the t; 0 leaves them as they are.

    Returns:
        The same shape.

    Errors:
        None. Beyond 9 sd the last factor is kept.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> t = heavier(rng.normal(size=(1, 100000, 1)), np.ones((1, 1, 1)), 1 / 5)
        >>> np.quantile(t, [0.8413, 0.975]).round(1).tolist()  # of t_5: 1.11 and 2.57
        [1.1, 2.6]
    """
    if tail <= 0.0:
        return off
    p = off.shape[-1]
    factor = np.sqrt(p * fisher.isf(chi2.sf(REACH**2, p), p, 1.0 / tail)) / REACH
    safe = np.where((np.linalg.det(cov) > 0.0)[:, None, None], cov, np.eye(p))
    return off * np.interp(np.sqrt(distance(off, safe[:, None])), REACH, factor)[:, :, None]


def fit_tail(off: np.ndarray, cov: np.ndarray, share: np.ndarray, apart: np.ndarray, err: np.ndarray) -> np.ndarray:
    """How heavy the tails of draws have to be, and how wide their cores, for intervals to hold stars of known labels.

    A Gaussian that holds 68.3% of labels within one sd and fewer than 95% within 1.96 has to be a Student t. Degrees of
    freedom are shared by the labels: those with which both intervals of each, and both joint regions, come nearest to
    what they claim.

    Args:
        off: draws less their mean, as wide as `fit_spread` makes them, (n_star, n_draw, n_label).
        cov: their covariance.
        share: of the draws, (n_star, n_draw), ones summed.
        apart: truth less mean, (n_star, n_label), NaN where it is not known.
        err: of the truth, (n_star, n_label).

    Returns:
        1 / dof, and per label the log of the factor on the draws, (1 + n_label,); zeros of fewer than 300 stars.

    Errors:
        None.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> off, cov = rng.normal(size=(3000, 96, 1)), np.ones((3000, 1, 1))
        >>> apart, share = rng.standard_t(4, size=(3000, 1)), np.full((3000, 96), 1 / 96)
        >>> found = fit_tail(off, cov, share, apart, np.zeros((3000, 1)))
        >>> bool(0.15 < found[0] < 0.4), bool(abs(found[1]) < 0.1)
        (True, True)
    """
    best = (np.inf, np.zeros(1 + off.shape[2]))
    if len(off) < LEAST:
        return best[1]
    known = [np.flatnonzero(np.isfinite(apart[:, l])) for l in range(off.shape[2])]
    whole, n_label = np.flatnonzero(np.isfinite(apart).all(axis=1)), off.shape[2]
    noise = np.random.default_rng(0).normal(size=(len(whole), *off.shape[1:])) * err[whole, None]
    total_cov = cov[whole] + err[whole][:, :, None] ** 2 * np.eye(n_label)
    for tail in TAILS:
        moved, found, total = heavier(off, cov, tail), [tail], 0.0
        for l, rows in enumerate(known):
            draws, at, blur = moved[rows][:, :, l : l + 1], apart[rows, None, l : l + 1], err[rows, l : l + 1]
            levels = (interval_level(at - draws * np.exp(step), share[rows], blur) for step in STEPS)
            missed = [max(abs((level < p).mean() - p) for p in WANTED) if rows.size else 0.0 for level in levels]
            found.append(float(STEPS[int(np.argmin(missed))]) if rows.size else 0.0)
            total += min(missed)
        level = joint_level(moved[whole] * np.exp(found[1:]) + noise, share[whole], apart[whole], total_cov)
        total += max(abs((level < p).mean() - p) for p in WANTED) if whole.size else 0.0
        if total < best[0]:
            best = total, np.array(found)
    return best[1]
