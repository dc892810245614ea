"""Directions in which the data cannot move: bases that leave them out."""

from __future__ import annotations

import numpy as np


def zero_sum_basis(n: int) -> np.ndarray:
    """Orthonormal basis of the vectors of length n that sum to zero (Helmert's contrasts).

    The gauge of a label without an anchor: offsets = basis @ theta sum to zero over the surveys, and theta ~ N(0, sd^2)
    independent is the same prior as offsets ~ N(0, sd^2) conditioned on their sum.

    Args:
        n: number of surveys, >= 1.

    Returns:
        Array (n, n - 1) with orthonormal columns, each summing to zero.

    Errors:
        ValueError when n < 1.

    Example:
        >>> zero_sum_basis(2).round(3).tolist()
        [[0.707], [-0.707]]
    """
    if n < 1:
        raise ValueError(f"a zero-sum basis needs at least one survey, got {n}.")
    basis = np.zeros((n, n - 1))
    for k in range(1, n):
        basis[:k, k - 1] = 1.0
        basis[k, k - 1] = -k
        basis[:, k - 1] /= np.sqrt(k * (k + 1.0))
    return basis
