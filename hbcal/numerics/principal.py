"""A spectrum's principal components in units of its noise, missing pixels filled with what the others say."""

from __future__ import annotations

import numpy as np

FILLS = 5


def principal_directions(y: np.ndarray, n: int) -> np.ndarray:
    """The first principal directions of rows, by whichever of the two Gram matrices is smaller.

    Args:
        y: (n_row, n_column), its mean taken out.
        n: how many.

    Returns:
        (n_column, n), of unit length, the widest first.

    Errors:
        None.

    Example:
        >>> np.abs(principal_directions(np.array([[3.0, 0.0], [0.0, 1.0], [-3.0, 0.0]]), 1)).ravel().tolist()
        [1.0, 0.0]
    """
    if y.shape[0] >= y.shape[1]:
        return np.linalg.eigh(y.T @ y)[1][:, : -n - 1 : -1]
    found = y.T @ np.linalg.eigh(y @ y.T)[1][:, : -n - 1 : -1]
    return found / np.maximum(np.linalg.norm(found, axis=0), 1e-300)


def principal_scores(flux: np.ndarray, flux_err: np.ndarray, n_dim: int) -> np.ndarray:
    """Scores on the first principal components of (flux - mean) / noise, noise being each pixel's typical one.

    Args:
        flux, flux_err: (n_star, n_pix), NaN where missing.
        n_dim: how many components are wanted.

    Returns:
        (n_star, n_dim or as many as there are), the widest first. Photon noise adds about one to the variance of each.

    Errors:
        None; a pixel that no star has does not count.

    Example:
        >>> level = np.linspace(-1.0, 1.0, 5)[:, None]
        >>> scores = principal_scores(level * np.ones((5, 4)), np.full((5, 4), 0.1), 1)
        >>> np.abs(scores).round(6).ravel().tolist()  # four pixels, each ten times its noise
        [20.0, 10.0, 0.0, 10.0, 20.0]
    """
    seen = np.isfinite(flux)
    n_seen = np.maximum(seen.sum(axis=0), 1)
    middle = np.where(seen, flux, 0.0).sum(axis=0) / n_seen
    noise = np.sqrt((np.where(seen, flux_err, 0.0) ** 2).sum(axis=0) / n_seen)
    noise = np.where(noise > 0, noise, np.inf)
    y = np.where(seen, flux - middle, 0.0) / noise
    n_dim = min(n_dim, *y.shape)
    for _ in range(0 if seen.all() else FILLS - 1):
        across = principal_directions(y, n_dim)
        y = np.where(seen, y, (y @ across) @ across.T)
    return y @ principal_directions(y, n_dim)


def n_beyond_noise(scores: np.ndarray, n_pix: int) -> int:
    """How many components are wider than those of noise alone can be.

        n sd^2 > (sqrt(n) + sqrt(n_pix))^2

    Args:
        scores: of `principal_scores`, (n_star, n_dim).
        n_pix: pixels they are of.

    Returns:
        A number between 0 and n_dim.

    Errors:
        None.

    Example:
        >>> noise = np.random.default_rng(0).normal(size=(200, 300))
        >>> n_beyond_noise(principal_scores(noise, np.ones_like(noise), 20), 300) <= 1
        True

    Source: Marchenko and Pastur 1967, Mathematics of the USSR-Sbornik 1, 457.
    """
    edge = (np.sqrt(len(scores)) + np.sqrt(n_pix)) ** 2
    return int(((scores**2).sum(axis=0) > edge).sum())
