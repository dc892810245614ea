"""Stars as a mixture's kernel wants them: elements and error covariances in blocks, with stars as lanes."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from hbcal._pytree import pytree
from hbcal._typing import AnyArray, Array, Float

BLOCK = 256  # stars; with ten components the numbers of a block fill a core's second cache
LEAST = 1e-8  # variance, in squares of the unit, that S^-1 counts every error as at least


@pytree
class Stars:
    """What was measured of stars, in blocks of `BLOCK` of them; the last block is filled up.

    Attributes:
        value: 0 where nothing was measured.
        error: lower triangle of S, row after row, 0 where nothing was measured.
        root: of R, S = R R^T, likewise; S may be singular.
        precision: of (S + 1e-8 I)^-1 of what was measured, likewise.
        seen: 1 where something was measured, else 0.
        real: 1 for a star, 0 for what fills the last block.
        shift: how a value moves with each number u of a calibration that the stars share; none where n_shift is 0.
    """

    value: Float[AnyArray, "n_block n_dim n_lane"]
    error: Float[AnyArray, "n_block n_pair n_lane"]
    root: Float[AnyArray, "n_block n_pair n_lane"]
    precision: Float[AnyArray, "n_block n_pair n_lane"]
    seen: Float[AnyArray, "n_block n_dim n_lane"]
    real: Float[AnyArray, "n_block n_lane"]
    shift: Float[AnyArray, "n_block n_dim n_shift n_lane"]

    def with_value(self, value: AnyArray) -> Stars:
        """The same stars, had they been measured as `value` says."""
        return replace(self, value=value)

    def moved(self, u: Float[AnyArray, " n_shift"]) -> Stars:
        """The stars on the common scale, were their calibration u: value + shift u."""
        nothing = jnp.zeros((*jnp.shape(self.value)[:2], 0, jnp.shape(self.value)[2]))
        by = jnp.einsum("bdsl,s->bdl", self.shift, u)
        return replace(self, value=self.value + by, shift=nothing)


def pack_stars(value: np.ndarray, covariance: np.ndarray, shift: np.ndarray | None = None) -> Stars:
    """Put stars into blocks.

    Args:
        value: (n_star, n_dim), any unit; NaN where an element was not measured.
        covariance: of the errors, (n_star, n_dim, n_dim), unit squared; those of missing elements have no influence.
        shift: (n_star, n_dim, n_shift), unit; None for stars without a calibration.

    Returns:
        `Stars`.

    Errors:
        ValueError when the shapes disagree.

    Example:
        >>> stars = pack_stars(np.array([[1.0, np.nan], [0.0, 2.0]]), np.tile(np.eye(2), (2, 1, 1)))
        >>> stars.value.shape, stars.seen[0, :, 0].tolist(), float(stars.real.sum())
        ((1, 2, 256), [1.0, 0.0], 2.0)
        >>> unblocked(stars.precision, 2).round(6).tolist()
        [[1.0, 0.0, 0.0], [1.0, 0.0, 1.0]]
    """
    n, d = value.shape
    if covariance.shape != (n, d, d):
        raise ValueError(f"{value.shape} values need covariances ({n}, {d}, {d}), not {covariance.shape}.")
    seen = np.isfinite(value)
    row, column = np.tril_indices(d)
    both = seen[:, :, None] & seen[:, None, :]
    error = np.where(both, covariance, 0.0)
    precision = np.linalg.inv(error + np.eye(d) * np.where(seen, LEAST, 1.0)[:, None, :])
    size, turn = np.linalg.eigh(error)
    shift = np.zeros((n, d, 0)) if shift is None else shift
    moves = _blocks(np.where(seen[:, :, None], shift, 0.0).reshape(n, d * shift.shape[2]))
    root = np.linalg.qr((turn * np.sqrt(np.maximum(size, 0.0))[:, None, :]).swapaxes(1, 2), mode="r").swapaxes(1, 2)
    return Stars(
        _blocks(np.where(seen, value, 0.0)), _blocks(error[:, row, column]), _blocks(root[:, row, column]),
        _blocks(np.where(both, precision, 0.0)[:, row, column]), _blocks(seen.astype(float)),
        _blocks(np.ones((n, 1)))[:, 0], moves.reshape(len(moves), d, shift.shape[2], BLOCK),
    )  # fmt: skip


def _blocks(rows: np.ndarray) -> np.ndarray:
    """(n, m) as (n_block, m, BLOCK), filled with zeros."""
    n_block = -(-len(rows) // BLOCK)
    filled = np.zeros((n_block * BLOCK, rows.shape[1]))
    filled[: len(rows)] = rows
    return np.ascontiguousarray(filled.reshape(n_block, BLOCK, -1).swapaxes(1, 2))


def unblocked(rows: AnyArray, n_star: int) -> Array:
    """What a block has per star, (n_block, ..., BLOCK), as (n_star, ...).

    Args:
        rows: any.
        n_star: how many stars there are.

    Returns:
        The array, stars first.

    Errors:
        None.

    Example:
        >>> unblocked(pack_stars(np.array([[1.0], [2.0]]), np.ones((2, 1, 1))).value, 2).tolist()
        [[1.0], [2.0]]
    """
    rows = jnp.moveaxis(jnp.asarray(rows), -1, 1)
    return rows.reshape(-1, *rows.shape[2:])[:n_star]


def lower(matrix: AnyArray) -> Array:
    """The lower triangle of matrices, row after row.

    Args:
        matrix: (..., n_dim, n_dim).

    Returns:
        (..., n_pair).

    Errors:
        None.

    Example:
        >>> lower(jnp.array([[1.0, 9.0], [2.0, 3.0]])).tolist()
        [1.0, 2.0, 3.0]
    """
    row, column = np.tril_indices(matrix.shape[-1])
    return jnp.asarray(matrix)[..., row, column]


def square(triangle: AnyArray) -> Array:
    """Symmetric matrices of their lower triangles, as `lower` gives them.

    Args:
        triangle: (..., n_pair).

    Returns:
        (..., n_dim, n_dim).

    Errors:
        None.

    Example:
        >>> square(jnp.array([1.0, 2.0, 3.0])).tolist()
        [[1.0, 2.0], [2.0, 3.0]]
    """
    d = int((2 * triangle.shape[-1]) ** 0.5)
    return jnp.asarray(triangle)[..., places(np.arange(d), np.arange(d))]


def places(i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Where the entries (i, j) of a symmetric matrix stand in its lower triangle, row after row.

    Args:
        i, j: rows and columns, in any order.

    Returns:
        Places, (len(i), len(j)).

    Errors:
        None.

    Example:
        >>> places(np.array([0, 2]), np.array([1])).tolist()
        [[1], [4]]
    """
    high, low = np.maximum.outer(i, j), np.minimum.outer(i, j)
    return high * (high + 1) // 2 + low


def pair(i: int, j: int) -> int:
    """Where an entry of a lower triangle stands, row after row.

    Args:
        i, j: row and column, j <= i.

    Returns:
        Its place.

    Errors:
        None.

    Example:
        >>> pair(2, 1)
        4
    """
    return i * (i + 1) // 2 + j
