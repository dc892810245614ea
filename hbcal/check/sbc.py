"""Simulation-based calibration: truth drawn from the prior must rank uniformly among its posterior draws.

Talts et al. 2018, arXiv:1804.06788; the envelope test follows Sailynoja, Burkner and Vehtari 2022, Statistics and
Computing 32, 32. One false alarm in a hundred is the rate for a whole table of quantities, by Bonferroni.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import stats

FALSE_ALARM = 0.01


def ranks(truth: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Rank of the truth among posterior draws, thinned to near independence by the caller.

    Args:
        truth: (n_simulation,), any unit.
        draws: (n_simulation, n_draw), same unit.

    Returns:
        Integers in 0 ... n_draw, (n_simulation,).

    Errors:
        ValueError when the shapes disagree.

    Example:
        >>> ranks(np.array([0.5]), np.array([[0.1, 0.2, 0.9]])).tolist()
        [2]
    """
    if draws.ndim != 2 or len(truth) != len(draws):
        raise ValueError(f"ranks need truth (n,) and draws (n, m), got {truth.shape} and {draws.shape}.")
    return (draws < truth[:, None]).sum(1)


def uniformity(rank: np.ndarray, n_draw: int) -> float:
    """p-value of the ranks being uniform: the smaller of two tests, corrected for there being two.

    A Kolmogorov-Smirnov test on the jittered ranks sees a shift; a chi-square of the spread, mean (2u - 1)^2 against
    1/3, sees posteriors that are too wide or too narrow.

    Args:
        rank: (n_simulation,), integers in 0 ... n_draw.
        n_draw: number of draws behind each rank.

    Returns:
        p-value in [0, 1].

    Errors:
        ValueError when a rank is impossible.

    Example:
        >>> u = np.random.default_rng(0).integers(0, 100, 500)
        >>> uniformity(u, 99) > 0.01, uniformity(u // 2, 99) < 0.01
        (True, True)
    """
    if rank.min() < 0 or rank.max() > n_draw:
        raise ValueError(f"a rank lies outside 0 ... {n_draw}.")
    u = (rank + 0.5) / (n_draw + 1.0)  # the midpoint of a rank's cell: deterministic, and exact enough for n_draw >= 50
    shift = stats.kstest(u, "uniform").pvalue
    spread = (2.0 * u - 1.0) ** 2  # mean 1/3, variance 4/45 under uniformity
    z = (spread.mean() - 1.0 / 3.0) / np.sqrt(4.0 / 45.0 / len(u))
    return float(min(1.0, 2.0 * min(shift, 2.0 * stats.norm.sf(abs(z)))))


def verdict(p_values: Mapping[str, float]) -> dict[str, float]:
    """Quantities whose ranks are not uniform at a family-wide false-alarm rate of 1%.

    Args:
        p_values: quantity -> p-value of `uniformity`.

    Returns:
        The offenders and their p-values; empty when all is well.

    Errors:
        None.

    Example:
        >>> verdict({"a": 0.4, "b": 1e-6})
        {'b': 1e-06}
    """
    limit = FALSE_ALARM / max(len(p_values), 1)
    return {name: p for name, p in p_values.items() if p < limit}
