"""Directions that data leave open: where a posterior is about as wide as its prior."""

from __future__ import annotations

import numpy as np

ROUNDS = 200


def open_directions(cov: np.ndarray, least: float) -> np.ndarray:
    """Directions in prior-whitened space along which the posterior's variance is near the prior's.

        C v = lambda v,    lambda >= least,    where the prior's covariance is the identity

    Args:
        cov: posterior covariance C of the whitened numbers, (n, n).
        least: smallest variance, in units of the prior's, that counts as open; between 0 and 1.

    Returns:
        (n, n_open), orthonormal columns, the widest first.

    Errors:
        LinAlgError for a covariance that is not finite.

    Example:
        >>> open_directions(np.diag([0.01, 0.9]), 0.5).tolist()
        [[0.0], [1.0]]
    """
    values, vectors = np.linalg.eigh(cov)
    return vectors[:, values >= least][:, ::-1]


def varimax(loading: np.ndarray) -> np.ndarray:
    """Rotate a basis of a subspace until each of its directions uses as few numbers as possible (Kaiser 1958).

        maximise over rotations R:   sum_k var_j (L R)_jk^2

    Eigenvectors of nearly equal eigenvalues are an arbitrary mixture; what is rotated can be named.

    Args:
        loading: orthonormal columns L, (n, k).

    Returns:
        L R, (n, k), the same subspace.

    Errors:
        None.

    Example:
        >>> mixed = np.array([[1.0, 1.0], [1.0, -1.0], [0.0, 0.0]]) / np.sqrt(2.0)
        >>> np.abs(varimax(mixed)).round(3).max(axis=0).tolist()
        [1.0, 1.0]
    """
    n, k = loading.shape
    if k < 2:
        return loading
    # a stationary point is no maximum: start from a rotation without symmetry
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(k, k)))
    reached = 0.0
    for _ in range(ROUNDS):
        now = loading @ turn
        u, s, v = np.linalg.svd(loading.T @ (now**3 - now * ((now**2).sum(axis=0) / n)))
        turn = u @ v
        if s.sum() <= reached * (1.0 + 1e-9):
            break
        reached = s.sum()
    return loading @ turn
