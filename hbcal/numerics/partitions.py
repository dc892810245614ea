"""Partitions of stars: how far apart two are, and the one that stands best for many draws of them."""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

MOST = 4000  # stars of which a tree is made: its distances are MOST^2 / 2 numbers


def coclustering(draws: np.ndarray) -> np.ndarray:
    """How often two stars are in one component.

    Args:
        draws: component of each star in each draw, (n_draw, n_star), integers from 0.

    Returns:
        Shares of the draws, (n_star, n_star), float32.

    Errors:
        None.

    Example:
        >>> coclustering(np.array([[0, 0, 1], [2, 1, 1]])).tolist()
        [[1.0, 0.5, 0.0], [0.5, 1.0, 0.5], [0.0, 0.5, 1.0]]
    """
    n_draw, n_star = draws.shape
    out = np.zeros((n_star, n_star), np.float32)
    for draw in draws:
        here = np.equal(draw[None, :], np.unique(draw)[:, None]).astype(np.float32)
        out += here.T @ here
    return out / n_draw


def variation_of_information(one: np.ndarray, other: np.ndarray) -> float:
    """Distance between two partitions, in bits: 0 for the same one, log2(n_star) at most.

        VI = H(one | other) + H(other | one)

    Args:
        one, other: cluster of each star, (n_star,), integers from 0.

    Returns:
        The distance, bits.

    Errors:
        None.

    Example:
        >>> variation_of_information(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]))
        0.0
        >>> variation_of_information(np.array([0, 0, 0, 0]), np.array([0, 0, 1, 1]))
        1.0

    Source: Meila 2007, Journal of Multivariate Analysis 98, 873.
    """
    width = int(other.max()) + 1
    both = np.bincount(one.astype(np.int64) * width + other, minlength=(int(one.max()) + 1) * width)
    table = both.reshape(-1, width) / len(one)
    entropy = lambda p: -(p[p > 0] * np.log2(p[p > 0])).sum()  # noqa: E731
    return float(max(2.0 * entropy(table) - entropy(table.sum(0)) - entropy(table.sum(1)), 0.0))


def distances(partition: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """`variation_of_information` between a partition and each draw of it.

    Args:
        partition: (n_star,).
        draws: (n_draw, n_star).

    Returns:
        Bits, (n_draw,).

    Errors:
        None.

    Example:
        >>> distances(np.array([0, 0]), np.array([[0, 0], [0, 1]])).tolist()
        [0.0, 1.0]
    """
    return np.array([variation_of_information(partition, draw) for draw in draws])


def credible_bounds(away: np.ndarray, draws: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, ...]:
    """Partitions at the edge of the credible ball: the coarsest and the finest of its draws, and the farthest.

    Of the draws within the `level` quantile of the distances, the farthest of those with the fewest clusters, the
    farthest of those with the most, and the farthest of all.

    Args:
        away: distance of each draw from the representative partition, bits, (n_draw,).
        draws: (n_draw, n_star).
        level: of the ball.

    Returns:
        Coarsest, finest and farthest, (n_star,) each.

    Errors:
        None.

    Example:
        >>> draws = np.array([[0, 0, 1], [0, 0, 0], [0, 1, 2]])
        >>> [one.tolist() for one in credible_bounds(np.array([0.0, 0.9, 0.7]), draws, 1.0)]
        [[0, 0, 0], [0, 1, 2], [0, 0, 0]]

    Source: Wade and Ghahramani 2018, Bayesian Analysis 13, 559.
    """
    inside = np.flatnonzero(away <= np.quantile(away, level))
    n = np.array([len(np.unique(draws[s])) for s in inside])
    of = lambda some: draws[some[np.argmax(away[some])]]  # noqa: E731
    return of(inside[n == n.min()]), of(inside[n == n.max()]), of(inside)


def representative(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The partition nearest to all draws, and how far each of them is from it.

    Looked through are draws and cuts of the tree that average linkage grows from their co-clustering; what is
    looked for is the smallest expected variation of information.

    Args:
        draws: component of each star in each draw, (n_draw, n_star), integers from 0.

    Returns:
        Cluster of each star, numbered from 0 by decreasing size, and the distance of each draw, bits: 95% of them are
        within their 95th percentile, the radius of a credible ball.

    Errors:
        None.

    Example:
        >>> best, away = representative(np.array([[0, 0, 1, 1]] * 9 + [[0, 0, 0, 0]]))
        >>> best.tolist(), float(away.max())
        ([0, 0, 1, 1], 1.0)

    Source: Wade and Ghahramani 2018, Bayesian Analysis 13, 559.
    """
    candidates = [*draws[:: max(len(draws) // 50, 1)]]
    if draws.shape[1] <= MOST:
        apart = 1.0 - coclustering(draws).astype(float)
        np.fill_diagonal(apart, 0.0)
        tree = linkage(squareform(apart, checks=False), "average")
        candidates += [fcluster(tree, k, "maxclust") - 1 for k in range(1, 2 + max(len(np.unique(d)) for d in draws))]
    few = draws[:: max(len(draws) // 100, 1)]
    best = candidates[int(np.argmin([distances(each, few).mean() for each in candidates]))]
    order = np.argsort(-np.bincount(best), kind="stable")
    numbered = np.argsort(order)[best]
    return numbered, distances(numbered, draws)
