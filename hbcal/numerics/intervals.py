"""Intervals between quantiles of weighted draws, and distances in units of a covariance."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr


def weighted_quantiles(draws: np.ndarray, share: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Quantiles of weighted draws: each stands for half of its share to either side.

    Args:
        draws: (n_star, n_draw, n_label).
        share: (n_star, n_draw), ones summed.
        levels: (n_level,), between 0 and 1.

    Returns:
        (n_star, n_label, n_level).

    Errors:
        None.

    Example:
        >>> draws = np.array([[[3.0], [1.0], [2.0]]])
        >>> weighted_quantiles(draws, np.full((1, 3), 1 / 3), np.array([0.0, 0.5])).round(6).tolist()
        [[[1.0, 2.0]]]
    """
    order = np.argsort(draws, axis=1)
    value = np.take_along_axis(draws, order, axis=1)
    share = np.take_along_axis(np.broadcast_to(share[:, :, None], draws.shape), order, axis=1)
    middle = np.cumsum(share, axis=1) - 0.5 * share
    out = np.empty((draws.shape[0], draws.shape[2], len(levels)))
    at = lambda rows, where: np.take_along_axis(rows, where[:, None], axis=1)[:, 0]  # noqa: E731
    for i, level in enumerate(levels):
        above = np.clip((middle < level).sum(axis=1), 1, draws.shape[1] - 1)
        low, high = at(middle, above - 1), at(middle, above)
        part = np.clip((level - low) / np.maximum(high - low, 1e-300), 0.0, 1.0)
        out[:, :, i] = (1.0 - part) * at(value, above - 1) + part * at(value, above)
    return out


def interval_level(apart: np.ndarray, share: np.ndarray, err: np.ndarray) -> np.ndarray:
    """Of what probability the interval between quantiles of draws is that just reaches the truth.

    Args:
        apart: truth less draws, (n_star, n_draw, n_label).
        share: of the draws, (n_star, n_draw), ones summed.
        err: of the truth, by which the draws are blurred, (n_star, n_label).

    Returns:
        (n_star, n_label): uniform between 0 and 1 where claims hold.

    Errors:
        None.

    Example:
        >>> interval_level(np.array([[[-1.0], [1.0]]]), np.full((1, 2), 0.5), np.zeros((1, 1))).tolist()
        [[0.0]]
    """
    err = err[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        below = np.where(err > 0, ndtr(apart / err), 0.5 + 0.5 * np.sign(apart))
    return np.abs(2.0 * np.einsum("sd,sdl->sl", share, below) - 1.0)


def distance(off: np.ndarray, cov: np.ndarray) -> np.ndarray:
    """Mahalanobis distances, squared: off' cov^-1 off.

    Args:
        off: (..., n_label).
        cov: (..., n_label, n_label), positive; one may serve many along any axis of length one.

    Returns:
        (...), not negative.

    Errors:
        None.

    Example:
        >>> distance(np.array([[2.0, 0.0], [0.0, 3.0]]), np.array([[[4.0, 0.0], [0.0, 1.0]]])).tolist()
        [1.0, 9.0]
    """
    solved = np.einsum("...ij,...j->...i", np.linalg.inv(cov), off)
    return np.maximum((off * solved).sum(axis=-1), 0.0)


def joint_level(around: np.ndarray, share: np.ndarray, apart: np.ndarray, cov: np.ndarray) -> np.ndarray:
    """Which share of the draws lies nearer to the posterior's mean than the truth does, in units of a covariance.

    Args:
        around: draws less the mean, blurred by the error of the truth, (n_star, n_draw, n_label).
        share: of the draws, (n_star, n_draw), ones summed.
        apart: truth less mean, or mean less truth, (n_star, n_label).
        cov: of mean less truth, (n_star, n_label, n_label).

    Returns:
        (n_star,): uniform between 0 and 1 where claims of joint regions hold.

    Errors:
        None.

    Example:
        >>> draws = np.array([[[0.5, 0.0], [0.0, 2.0], [1.0, 1.0], [3.0, 0.0]]])
        >>> joint_level(draws, np.full((1, 4), 0.25), np.array([[1.5, 0.0]]), np.eye(2)[None]).tolist()
        [0.5]
    """
    nearer = distance(around, cov[:, None]) < distance(apart, cov)[:, None]
    return (share * nearer).sum(axis=1)
