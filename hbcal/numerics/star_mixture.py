"""Stars with error covariances of their own under a mixture of Gaussians: density and gradient in one pass.

    ln p(x) = sum_i ln sum_k w_k N(x_i; mu_k, Sigma_k + S_i),

where of each star only the elements that were measured count. The hot spot of `hbcal.programs.dp_mixture`: the Cholesky
factors of N K small matrices. They are unrolled over their entries, with stars and components as lanes, in blocks of
stars (`hbcal.numerics.stars`) that stay in the cache; and the gradient, which reverse mode would find by storing every
entry of every factor, is found on the way,

    r_ik = p(k | x_i),   V = Sigma_k + S_i,   alpha = V^-1 (x_i - mu_k)
    d/d ln w_k = sum_i r_ik,   d/d mu_k = sum_i r_ik alpha,   d/d Sigma_k = 1/2 sum_i r_ik (alpha alpha^T - V^-1)
    d/d x_i = -sum_k r_ik alpha.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hbcal._typing import Array, Float
from hbcal.numerics.stars import Stars, pair

LOG_2PI = float(np.log(2.0 * np.pi))


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
        >>> from hbcal.numerics.stars import lower, pack_stars, unblocked
        >>> stars = pack_stars(np.array([[0.0], [np.nan]]), np.full((2, 1, 1), 3.0))
        >>> got = log_likelihood(stars, jnp.zeros(1), jnp.zeros((1, 1)), jnp.ones((1, 1)))
        >>> float(got.round(6)) == round(-0.5 * float(np.log(2 * np.pi * 4.0)), 6)  # a star without a measurement is 1
        True
    """

    def one(total: Array, block: Stars) -> tuple[Array, None]:
        joint = log_weight[:, None] + solve(block, mean[..., None], covariance[..., None])[0]
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
        >>> from hbcal.numerics.stars import lower, pack_stars, unblocked
        >>> stars = pack_stars(np.array([[0.0]]), np.zeros((1, 1, 1)))
        >>> unblocked(log_joint(stars, jnp.zeros(2), jnp.array([[0.0], [1.0]]), jnp.ones((2, 1))), 1).round(3).tolist()
        [[-0.919, -1.419]]
    """
    return jax.lax.map(
        lambda block: log_weight[:, None] + solve(block, mean[..., None], covariance[..., None])[0], stars
    )


def solve(block: Stars, mean: Array, covariance: Array) -> tuple[Array, dict[tuple[int, int], Array], list, list]:
    """The Cholesky factors L of a block, L L^T = Sigma + S, and what is solved with them.

    Args:
        block: one block of stars.
        mean: (n_comp, n_dim, n_lane), or 1 where it is the same for all stars.
        covariance: (n_comp, n_pair, n_lane), likewise.

    Returns:
        ln N (n_comp, n_lane); entries of L below the diagonal; 1 / L_jj; L^-1 (x - mu), entry by entry.

    Errors:
        None.

    Example:
        >>> from hbcal.numerics.stars import pack_stars
        >>> stars = pack_stars(np.array([[2.0]]), np.full((1, 1, 1), 3.0))
        >>> block = jax.tree.map(lambda leaf: leaf[0], stars)
        >>> float(solve(block, jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1)))[3][0][0, 0])  # 2 / sqrt(1 + 3)
        1.0
    """
    d, (value, error, seen) = mean.shape[1], (block.value, block.error, block.seen)
    off: dict[tuple[int, int], Array] = {}
    inverse: list[Array] = []
    for j in range(d):  # an element that was not measured becomes a row of the identity
        left = seen[j][None] * (covariance[:, pair(j, j)] + error[pair(j, j)][None]) + (1.0 - seen[j])[None]
        for k in range(j):
            left = left - off[j, k] ** 2
        inverse.append(jax.lax.rsqrt(left))
        for i in range(j + 1, d):
            left = (seen[i] * seen[j])[None] * (covariance[:, pair(i, j)] + error[pair(i, j)][None])
            for k in range(j):
                left = left - off[i, k] * off[j, k]
            off[i, j] = left * inverse[j]
    z: list[Array] = []
    for i in range(d):
        left = seen[i][None] * (value[i][None] - mean[:, i])
        for k in range(i):
            left = left - off[i, k] * z[k]
        z.append(left * inverse[i])
    volume, off_by = inverse[0], z[0] ** 2
    for i in range(1, d):
        volume, off_by = volume * inverse[i], off_by + z[i] ** 2
    # one logarithm per star and component; one per element would be a third of the work
    return jnp.log(volume) - 0.5 * (off_by + LOG_2PI * jnp.asarray(seen).sum(0)[None]), off, inverse, z


def back(off: dict[tuple[int, int], Array], inverse: list[Array], z: list[Array]) -> list[Array]:
    """alpha = L^-T z = V^-1 (x - mu).

    Args:
        off, inverse, z: of `solve`.

    Returns:
        Entry by entry.

    Errors:
        None.

    Example:
        >>> [float(x) for x in back({}, [jnp.array(0.5)], [jnp.array(1.0)])]
        [0.5]
    """
    d = len(inverse)
    alpha: list[Array] = [z[0]] * d
    for i in reversed(range(d)):
        left = z[i]
        for k in range(i + 1, d):
            left = left - off[k, i] * alpha[k]
        alpha[i] = left * inverse[i]
    return alpha


def solved(
    block: Stars, mean: Float[Array, "n_comp n_dim"], covariance: Float[Array, "n_comp n_pair"]
) -> tuple[Array, Array, Array]:
    """What a block of stars says of each component.

    Args:
        block: one block of `Stars`.
        mean, covariance: as for `log_likelihood`.

    Returns:
        ln N (n_comp, n_lane), V^-1 (x - mu) (n_comp, n_dim, n_lane), and the lower triangle of V^-1, (n_comp, n_pair,
        n_lane), V = Sigma + S; 0 where nothing was measured.

    Errors:
        None.

    Example:
        >>> from hbcal.numerics.stars import pack_stars
        >>> block = jax.tree.map(lambda leaf: leaf[0], pack_stars(np.array([[8.0]]), np.full((1, 1, 1), 3.0)))
        >>> [float(each.ravel()[0]) for each in solved(block, jnp.zeros((1, 1)), jnp.ones((1, 1)))[1:]]
        [2.0, 0.25]
    """
    d = mean.shape[1]
    # without the barriers XLA computes the factors again for each of the entries
    log_density, off, inverse, z = jax.lax.optimization_barrier(solve(block, mean[..., None], covariance[..., None]))
    pull, whole = jax.lax.optimization_barrier((back(off, inverse, z), _invert(off, inverse)))
    alpha = jnp.stack([block.seen[i][None] * each for i, each in enumerate(pull)], axis=1)
    both = [(block.seen[i] * block.seen[j])[None] * whole[i, j] for i in range(d) for j in range(i + 1)]
    return log_density, alpha, jnp.stack(both, axis=1)


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
            solve(block, mean[..., None], covariance[..., None])
        )
        joint = log_weight[:, None] + log_density
        top = joint.max(0)
        each = jnp.exp(joint - top[None])
        total = each.sum(0)
        share = each * (block.real / total)[None]
        alpha, whole = jax.lax.optimization_barrier((back(off, inverse, z), _invert(off, inverse)))
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
