"""Training labels as they may be: each star's true labels given what was reported, its error, and the spectrum."""

from __future__ import annotations

import numpy as np

ROUNDS, SETTLED = 300, 1e-4  # expectation maximisation is slow where labels are noisier than the spectrum
EXACT = 1e-4  # error of a label reported without one, in units of its scatter
RIDGE = 1e-3


def true_labels(reported: np.ndarray, err: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and covariance of each star's true labels x, from a linear model that the labels' errors do not bias.

        x_i ~ N(B' s_i, R),    reported_il ~ N(x_il, err_il^2) where there is one

    B and R by expectation maximisation. A label without noise comes back as it was; a missing one as the spectrum and
    the star's other labels tell it, with the uncertainty that this leaves.

    Args:
        reported: labels of order one, (n_star, n_label), NaN where missing.
        err: their errors, same units; NaN or 0 for none.
        seen: what the spectrum says, (n_star, n_feature), of order one.

    Returns:
        Means (n_star, n_label), covariances (n_star, n_label, n_label), and R.

    Errors:
        None; a label that no star has is the caller's to refuse.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> s = rng.normal(size=(4000, 1))
        >>> x = s + 0.1 * rng.normal(size=(4000, 1))
        >>> y = x + 0.3 * rng.normal(size=(4000, 1))
        >>> mean, cov, _ = true_labels(y, np.full((4000, 1), 0.3), s)
        >>> [round(float(sd), 1) for sd in ((y - x).std(), (mean - x).std(), np.sqrt(cov[0, 0, 0]))]
        [0.3, 0.1, 0.1]

    Source: Dempster, Laird and Rubin 1977, JRSS B 39, 1, for missing data in a linear model.
    """
    there = np.isfinite(reported)
    noise = np.where(np.isfinite(err) & (err > EXACT), err, EXACT)
    known = np.where(there, noise**-2.0, 0.0)
    value = np.where(there, reported, 0.0)
    design = np.column_stack([np.ones(len(seen)), seen])
    gram = design.T @ design + RIDGE * np.eye(design.shape[1])
    spread = np.nanvar(np.where(there, reported, np.nan), axis=0)
    mean = np.where(there, reported, np.nanmean(np.where(there, reported, np.nan), axis=0))
    cov = np.where(there, np.minimum(noise**2, spread), spread)[:, :, None] * np.eye(mean.shape[1])
    scatter = np.zeros((mean.shape[1], mean.shape[1]))
    for _ in range(ROUNDS):
        expected = design @ np.linalg.solve(gram, design.T @ mean)
        left = mean - expected
        before, scatter = scatter, (left.T @ left + cov.sum(0)) / len(mean) + EXACT**2 * np.eye(mean.shape[1])
        inverse = np.linalg.inv(scatter)
        cov = np.linalg.inv(inverse + known[:, :, None] * np.eye(mean.shape[1]))
        mean = np.einsum("ilm,im->il", cov, expected @ inverse + known * value)
        if np.abs(scatter - before).max() < SETTLED * np.diag(scatter).min():
            break
    return mean, cov, scatter
