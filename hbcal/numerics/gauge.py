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


def regauge(values: np.ndarray, who: np.ndarray, tied: np.ndarray) -> np.ndarray:
    """Move a relative scale: numbers that summed to zero over some surveys are made to sum to zero over others.

        v_st  ->  v_st - mean over who of v_st,    where the term t is tied

    Args:
        values: (..., n_survey, n_term), any unit; may be NaN outside `who`.
        who: over which surveys tied terms sum to zero, (n_survey,).
        tied: which terms have a gauge, (n_term,).

    Returns:
        The same shape; NaN outside `who` stays.

    Errors:
        None.

    Example:
        >>> regauge(np.array([[1.0], [2.0], [6.0]]), np.array([True, True, False]), np.array([True]))[:, 0].tolist()
        [-0.5, 0.5, 4.5]
    """
    if not who.any():
        return values
    middle = values[..., who, :].mean(axis=-2, keepdims=True)
    return values - np.where(tied, middle, 0.0)
