"""Draws of stars under a mixture: simulated ones, and the true values of those that were measured."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hbcal._typing import Array, Float, Int
from hbcal.numerics.star_mixture import back, solve
from hbcal.numerics.stars import Stars, lower, pair


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
        >>> from hbcal.numerics.stars import pack_stars, unblocked
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


def draw_component(key: Array, joint: Float[Array, "n_block n_comp n_lane"]) -> Int[Array, "n_block n_lane"]:
    """A component for each star, with probability ∝ exp joint: one random number per star, not one per component.

    Args:
        key: of the draw.
        joint: ln w_k N(x; mu_k, Sigma_k + S), as `log_joint` gives it.

    Returns:
        Its number.

    Errors:
        None.

    Example:
        >>> joint = jnp.log(jnp.tile(jnp.array([0.0, 3.0, 1.0, 0.0])[None, :, None], (1, 1, 4096)))
        >>> which = draw_component(jax.random.PRNGKey(0), joint)
        >>> int(which.min()), int(which.max()), round(float((which == 1).mean()), 1)
        (1, 2, 0.8)
    """
    share = jnp.exp(joint - joint.max(1, keepdims=True))
    level = share.sum(1) * jax.random.uniform(key, share[:, 0].shape)
    below, which = jnp.zeros(level.shape), jnp.zeros(level.shape, int)
    for k in range(share.shape[1] - 1):
        below = below + share[:, k]
        which = which + (below <= level)
    return which


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
        >>> from hbcal.numerics.stars import pack_stars, unblocked
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
        spread = [mu[i] + sum(half[pair(i, j)] * noise[j] for j in range(i + 1)) for i in range(d)]
        blur = [sum(block.root[pair(i, j)] * error[j] for j in range(i + 1)) for i in range(d)]
        off_by = jnp.stack([spread[i] + blur[i] for i in range(d)])
        _, off, inverse, z = solve(block, off_by[None], sigma[None])
        alpha = [block.seen[i] * each[0] for i, each in enumerate(back(off, inverse, z))]
        both = lambda i, j: sigma[pair(max(i, j), min(i, j))]  # noqa: E731
        return jnp.stack([spread[i] + sum(both(i, j) * alpha[j] for j in range(d)) for i in range(d)])

    return jax.lax.map(one, (jax.random.split(key, n_block), stars, which))
