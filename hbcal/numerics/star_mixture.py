"""Stars with error covariances of their own under a mixture of Gaussians: density and gradient in one pass.

    ln p(x) = sum_i ln sum_k w_k N(x_i; mu_k, Sigma_k + S_i),

where of each star only the elements that were measured count. The hot spot of `hbcal.programs.dp_mixture`: the Cholesky
factors of N K small matrices. They are unrolled over their entries, with stars and components as lanes, in blocks of
stars that stay in the cache; and the gradient, which reverse mode would find by storing every entry of every factor, is
found on the way,

    r_ik = p(k | x_i),   V = Sigma_k + S_i,   alpha = V^-1 (x_i - mu_k)
    d/d ln w_k = sum_i r_ik,   d/d mu_k = sum_i r_ik alpha,   d/d Sigma_k = 1/2 sum_i r_ik (alpha alpha^T - V^-1)
    d/d x_i = -sum_k r_ik alpha.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hbcal._pytree import pytree
from hbcal._typing import AnyArray, Array, Float

BLOCK = 256  # stars; with ten components the numbers of a block fill a core's second cache
LOG_2PI = float(np.log(2.0 * np.pi))


@pytree
class Stars:
    """What was measured of stars, in blocks of `BLOCK` of them; the last block is filled up.

    Attributes:
        value: 0 where nothing was measured.
        error: lower triangle of S, row after row, 0 where nothing was measured.
        root: of R, S = R R^T, likewise; S may be singular.
        seen: 1 where something was measured, else 0.
        real: 1 for a star, 0 for what fills the last block.
    """

    value: Float[AnyArray, "n_block n_dim n_lane"]
    error: Float[AnyArray, "n_block n_pair n_lane"]
    root: Float[AnyArray, "n_block n_pair n_lane"]
    seen: Float[AnyArray, "n_block n_dim n_lane"]
    real: Float[AnyArray, "n_block n_lane"]

    def with_value(self, value: AnyArray) -> Stars:
        """The same stars, had they been measured as `value` says."""
        return replace(self, value=value)


def pack_stars(value: np.ndarray, covariance: np.ndarray) -> Stars:
    """Put stars into blocks.

    Args:
        value: (n_star, n_dim), any unit; NaN where an element was not measured.
        covariance: of the errors, (n_star, n_dim, n_dim), unit squared; those of missing elements have no influence.

    Returns:
        `Stars`.

    Errors:
        ValueError when the shapes disagree.

    Example:
        >>> stars = pack_stars(np.array([[1.0, np.nan], [0.0, 2.0]]), np.tile(np.eye(2), (2, 1, 1)))
        >>> stars.value.shape, stars.seen[0, :, 0].tolist(), float(stars.real.sum())
        ((1, 2, 256), [1.0, 0.0], 2.0)
    """
    n, d = value.shape
    if covariance.shape != (n, d, d):
        raise ValueError(f"{value.shape} values need covariances ({n}, {d}, {d}), not {covariance.shape}.")
    seen = np.isfinite(value)
    row, column = np.tril_indices(d)
    error = np.where(seen[:, :, None] & seen[:, None, :], covariance, 0.0)
    size, turn = np.linalg.eigh(error)
    root = np.linalg.qr((turn * np.sqrt(np.maximum(size, 0.0))[:, None, :]).swapaxes(1, 2), mode="r").swapaxes(1, 2)
    return Stars(
        _blocks(np.where(seen, value, 0.0)), _blocks(error[:, row, column]), _blocks(root[:, row, column]),
        _blocks(seen.astype(float)), _blocks(np.ones((n, 1)))[:, 0],
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


def unlower(rows: AnyArray) -> Array:
    """Symmetric matrices of their lower triangles, the inverse of `lower`.

    Args:
        rows: (..., n_pair).

    Returns:
        (..., n_dim, n_dim).

    Errors:
        None.

    Example:
        >>> unlower(jnp.array([1.0, 2.0, 3.0])).tolist()
        [[1.0, 2.0], [2.0, 3.0]]
    """
    d = int((2 * rows.shape[-1]) ** 0.5)
    at = np.array([[_at(max(i, j), min(i, j)) for j in range(d)] for i in range(d)])
    return jnp.asarray(rows)[..., at]


@jax.custom_vjp
def log_likelihood(
    stars: Stars,
    log_weight: Float[Array, " n_comp"],
    mean: Float[Array, "n_comp n_dim"],
    covariance: Float[Array, "n_comp n_pair"],
) -> Float[Array, ""]:
    """ln p(x) of all stars.

    Args:
        stars: from `pack_stars`.
        log_weight: ln w; need not add up to one.
        mean: mu, unit of the stars.
        covariance: lower triangle of Sigma, unit squared, as `lower` gives it.

    Returns:
        The sum over stars; differentiable once, in the values of the stars, too.

    Errors:
        None: a covariance that is not positive definite gives NaN.

    Example:
        >>> stars = pack_stars(np.array([[0.0], [np.nan]]), np.full((2, 1, 1), 3.0))
        >>> got = log_likelihood(stars, jnp.zeros(1), jnp.zeros((1, 1)), jnp.ones((1, 1)))
        >>> float(got.round(6)) == round(-0.5 * float(np.log(2 * np.pi * 4.0)), 6)  # a star without a measurement is 1
        True
    """

    def one(total: Array, block: Stars) -> tuple[Array, None]:
        joint = log_weight[:, None] + _solve(block, mean[..., None], covariance[..., None])[0]
        return total + (jax.nn.logsumexp(joint, axis=0) * block.real).sum(), None

    return jax.lax.scan(one, jnp.zeros(()), stars)[0]


def log_joint(
    stars: Stars,
    log_weight: Float[Array, " n_comp"],
    mean: Float[Array, "n_comp n_dim"],
    covariance: Float[Array, "n_comp n_pair"],
) -> Float[Array, "n_block n_comp n_lane"]:
    """ln w_k N(x_i; mu_k, Sigma_k + S_i) of every star and component.

    Args:
        stars, log_weight, mean, covariance: as for `log_likelihood`.

    Returns:
        Logarithms, block by block; `unblocked` puts stars first.

    Errors:
        None.

    Example:
        >>> stars = pack_stars(np.array([[0.0]]), np.zeros((1, 1, 1)))
        >>> unblocked(log_joint(stars, jnp.zeros(2), jnp.array([[0.0], [1.0]]), jnp.ones((2, 1))), 1).round(3).tolist()
        [[-0.919, -1.419]]
    """
    return jax.lax.map(
        lambda block: log_weight[:, None] + _solve(block, mean[..., None], covariance[..., None])[0], stars
    )


def draw_measured(
    key: Array,
    stars: Stars,
    log_weight: Float[Array, " n_comp"],
    mean: Float[Array, "n_comp n_dim"],
    root: Float[Array, "n_comp n_dim n_dim"],
) -> tuple[Array, Array]:
    """Simulate stars with these errors.

    Args:
        key: of the draw.
        stars: whose errors, and which of whose elements are measured.
        log_weight, mean, root: of the components, Sigma = root root^T.

    Returns:
        Component of each star, (n_block, n_lane), and what is measured, (n_block, n_dim, n_lane), 0 where nothing is.

    Errors:
        None.

    Example:
        >>> stars = pack_stars(np.zeros((1, 1)), np.zeros((1, 1, 1)))
        >>> log_weight, mean, root = jnp.array([-999.0, 0.0]), jnp.array([[0.0], [5.0]]), jnp.full((2, 1, 1), 1e-9)
        >>> which, value = draw_measured(jax.random.PRNGKey(0), stars, log_weight, mean, root)
        >>> int(which[0, 0]), float(value[0, 0, 0].round(6))
        (1, 5.0)
    """
    n_block, d, n_lane = stars.value.shape
    key_which, key_true, key_error = jax.random.split(key, 3)
    which = jax.random.categorical(key_which, log_weight, shape=(n_block, n_lane))
    noise = jax.random.normal(key_true, (n_block, n_lane, d))
    true = mean[which] + (root[which] * noise[..., None, :]).sum(-1)
    row, column = np.tril_indices(d)
    error = jax.random.normal(key_error, stars.value.shape)
    blur = jnp.zeros(stars.value.shape).at[:, row].add(jnp.asarray(stars.root) * error[:, column])
    return which, jnp.asarray(stars.seen) * (jnp.moveaxis(true, 2, 1) + blur)


def draw_true(
    key: Array, stars: Stars, which: Array, mean: Float[Array, "n_comp n_dim"], root: Float[Array, "n_comp n_dim n_dim"]
) -> Float[Array, "n_block n_dim n_lane"]:
    """True values of stars whose component is known, given what was measured of them.

        t = t0 + Sigma V^-1 (x - x0),   t0 ~ N(mu, Sigma),   x0 ~ N(t0, S),

    of the measured elements; the others follow through Sigma.

    Args:
        key: of the draw.
        stars: from `pack_stars`.
        which: component of each, (n_block, n_lane), integers.
        mean, root: of the components, Sigma = root root^T with a lower triangular root.

    Returns:
        A draw per star, unit of the stars.

    Errors:
        None.

    Example:
        >>> stars = pack_stars(np.array([[4.0, np.nan]]), np.zeros((1, 2, 2)))  # no error: the value itself
        >>> root = jnp.array([[[1.0, 0.0], [0.5, 1e-6]]])
        >>> drawn = draw_true(jax.random.PRNGKey(0), stars, jnp.zeros((1, 256), int), jnp.zeros((1, 2)), root)
        >>> unblocked(drawn, 1).round(3).tolist()
        [[4.0, 2.0]]

    Source: the rule of Matheron, Journel and Huijbregts 1978, Mining Geostatistics, chapter VII.
    """
    n_block, d, n_lane = stars.value.shape
    tri, cov = lower(root), lower(root @ jnp.swapaxes(root, 1, 2))

    def one(item: Any) -> Array:
        key, block, which = item
        noise, error = jax.random.normal(key, (2, d, n_lane))
        here = jax.nn.one_hot(which, mean.shape[0], axis=0, dtype=mean.dtype)  # a product is faster than a gather
        mu, sigma, half = mean.T @ here, cov.T @ here, tri.T @ here
        spread = [mu[i] + sum(half[_at(i, j)] * noise[j] for j in range(i + 1)) for i in range(d)]
        blur = [sum(block.root[_at(i, j)] * error[j] for j in range(i + 1)) for i in range(d)]
        off_by = jnp.stack([spread[i] + blur[i] for i in range(d)])
        _, off, inverse, z = _solve(block, off_by[None], sigma[None])
        alpha = [block.seen[i] * each[0] for i, each in enumerate(_back(off, inverse, z))]
        both = lambda i, j: sigma[_at(max(i, j), min(i, j))]  # noqa: E731
        return jnp.stack([spread[i] + sum(both(i, j) * alpha[j] for j in range(d)) for i in range(d)])

    return jax.lax.map(one, (jax.random.split(key, n_block), stars, which))


def _at(i: int, j: int) -> int:
    return i * (i + 1) // 2 + j


def _solve(block: Stars, mean: Array, covariance: Array) -> tuple[Array, dict[tuple[int, int], Array], list, list]:
    """ln N of every component and star of a block, (n_comp, n_lane); L, 1 / L_jj and L^-1 (x - mu), entry by entry.

    Means (n_comp, n_dim, n_lane or 1) and covariances may differ from star to star.
    """
    d, (value, error, seen) = mean.shape[1], (block.value, block.error, block.seen)
    off: dict[tuple[int, int], Array] = {}
    inverse: list[Array] = []
    for j in range(d):  # an element that was not measured becomes a row of the identity
        left = seen[j][None] * (covariance[:, _at(j, j)] + error[_at(j, j)][None]) + (1.0 - seen[j])[None]
        for k in range(j):
            left = left - off[j, k] ** 2
        inverse.append(jax.lax.rsqrt(left))
        for i in range(j + 1, d):
            left = (seen[i] * seen[j])[None] * (covariance[:, _at(i, j)] + error[_at(i, j)][None])
            for k in range(j):
                left = left - off[i, k] * off[j, k]
            off[i, j] = left * inverse[j]
    z: list[Array] = []
    for i in range(d):
        left = seen[i][None] * (value[i][None] - mean[:, i])
        for k in range(i):
            left = left - off[i, k] * z[k]
        z.append(left * inverse[i])
    total = 0.5 * LOG_2PI * jnp.asarray(seen).sum(0)[None]
    for i in range(d):
        total = total + 0.5 * z[i] ** 2 - jnp.log(inverse[i])
    return -total, off, inverse, z


def _back(off: dict[tuple[int, int], Array], inverse: list[Array], z: list[Array]) -> list[Array]:
    """alpha = L^-T z = V^-1 (x - mu)."""
    d = len(inverse)
    alpha: list[Array] = [z[0]] * d
    for i in reversed(range(d)):
        left = z[i]
        for k in range(i + 1, d):
            left = left - off[k, i] * alpha[k]
        alpha[i] = left * inverse[i]
    return alpha


def _invert(off: dict[tuple[int, int], Array], inverse: list[Array]) -> dict[tuple[int, int], Array]:
    """V^-1, its lower triangle."""
    d = len(inverse)
    root: dict[tuple[int, int], Array] = {}
    for i in range(d):
        root[i, i] = inverse[i]
        for j in range(i):
            left = off[i, j] * root[j, j]
            for k in range(j + 1, i):
                left = left + off[i, k] * root[k, j]
            root[i, j] = -left * inverse[i]
    whole = {}
    for i in range(d):
        for j in range(i + 1):
            left = root[i, i] * root[i, j]
            for k in range(i + 1, d):
                left = left + root[k, i] * root[k, j]
            whole[i, j] = left
    return whole


def _value_and_gradient(stars: Stars, log_weight: Array, mean: Array, covariance: Array) -> tuple[Array, Any]:
    n_comp, d = mean.shape

    def one(carry: Any, block: Stars) -> Any:
        # without the barriers XLA computes the factors again for each of the sums below
        log_density, off, inverse, z = jax.lax.optimization_barrier(
            _solve(block, mean[..., None], covariance[..., None])
        )
        joint = log_weight[:, None] + log_density
        top = joint.max(0)
        each = jnp.exp(joint - top[None])
        total = each.sum(0)
        share = each * (block.real / total)[None]
        alpha, whole = jax.lax.optimization_barrier((_back(off, inverse, z), _invert(off, inverse)))
        pull = [share * (block.seen[i][None] * alpha[i]) for i in range(d)]
        bend = [
            (0.5 if i == j else 1.0)  # an entry off the diagonal stands for two
            * (share * (block.seen[i] * block.seen[j])[None] * (alpha[i] * alpha[j] - whole[i, j])).sum(1)
            for i in range(d)
            for j in range(i + 1)
        ]
        found = (
            ((top + jnp.log(total)) * block.real).sum(), share.sum(1),
            jnp.stack([each.sum(1) for each in pull], axis=1), jnp.stack(bend, axis=1),
        )  # fmt: skip
        return jax.tree.map(jnp.add, carry, found), jnp.stack([-each.sum(0) for each in pull])

    nothing = (jnp.zeros(()), jnp.zeros(n_comp), jnp.zeros((n_comp, d)), jnp.zeros(covariance.shape))
    (value, *slopes), of_stars = jax.lax.scan(one, nothing, stars)
    return value, (of_stars, *slopes)


def _forward(stars: Stars, log_weight: Array, mean: Array, covariance: Array) -> tuple[Array, Any]:
    value, slopes = _value_and_gradient(stars, log_weight, mean, covariance)
    return value, (slopes, stars)


def _backward(kept: Any, pulled: Array) -> tuple[Any, ...]:
    (of_stars, *slopes), stars = kept
    of_stars = jax.tree.map(jnp.zeros_like, stars).with_value(pulled * of_stars)
    return of_stars, *(pulled * slope for slope in slopes)


log_likelihood.defvjp(_forward, _backward)
