"""Means and covariances of components drawn anew with every star held at its place within its component.

Where errors are larger than a component is wide, true values say how wide it is far more sharply than the measurements
do, and Gibbs' sampler, which draws the widths given true values and true values given the widths, creeps. Here what is
held is not the true value x of a star but u, where it lies in units of its component:

    x = mu + L u,   Sigma = L L^T,   so that   y ~ N(mu + L u, S)

is a linear regression with the known errors of the measurements. Narrow components are redrawn freely by this, wide
ones by the usual step, and a chain that takes both in turn goes about as fast as the better of the two.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hbcal._typing import Array, Float
from hbcal.mixture_jumps import log_prior
from hbcal.numerics.component_fit import log_volume
from hbcal.numerics.stars import Stars, pair, places
from hbcal.programs.dp_mixture import MixturePriors

TRIES = 12  # angles on the ellipse; what is still outside the slice then stays where it is
RIDGE = 1.0  # sd that entries of L are given in the Gaussian part and relieved of in the other


def noncentred(
    key: Array,
    stars: Stars,
    which: Array,
    true: Float[Array, "n_block n_dim n_lane"],
    mean: Float[Array, "n_comp n_dim"],
    root: Float[Array, "n_comp n_dim n_dim"],
    priors: MixturePriors,
) -> tuple[Array, Array]:
    """Draw means and roots of covariances given where in its component each star lies.

    The regression makes mu and L together Gaussian, but for the prior of Sigma, whose density in L is

        p(L) = p(Sigma) 2^n_dim prod_r L_rr^(n_dim - r + 1),   r = 1 ... n_dim:

    so elliptical slice sampling, which has no step to tune, with each component on an ellipse of its own.

    Args:
        key: of the draws.
        stars: with values.
        which: component of each star, (n_block, n_lane); n_comp is the background.
        true: values, as `draw_true` gives them.
        mean, root: of the components, the background left out.
        priors: of the program.

    Returns:
        Means and lower triangular roots.

    Errors:
        None. An error below 1e-4 counts as that: a star without error says nothing here.

    Example:
        >>> stars, root = tiny_mixture().stars, jnp.eye(2)[None]
        >>> which, true = jnp.zeros(stars.real.shape, int), jnp.asarray(stars.value)
        >>> mean, root = noncentred(jax.random.PRNGKey(0), stars, which, true, jnp.zeros((1, 2)), root, MixturePriors())
        >>> mean.shape, bool((jnp.diagonal(root[0]) > 0).all())
        ((1, 2), True)

    Source: Yu and Meng 2011, Journal of Computational and Graphical Statistics 20, 531; Murray, Adams and MacKay 2010,
    JMLR W&CP 9, 541.
    """
    (k, d), keys = mean.shape, jax.random.split(key, 4)
    row = np.array([r for r in range(d) for _ in range(r + 2)])  # mu_1 L_11, mu_2 L_21 L_22, ...
    column = np.array([a for r in range(d) for a in range(r + 2)])

    def unpacked(theta: Array) -> tuple[Array, Array]:
        whole = jnp.zeros((k, d, d + 1)).at[:, row, column].set(theta)
        root = whole[:, :, 1:]
        return whole[:, :, 0], root * jnp.sign(jnp.diagonal(root, axis1=1, axis2=2))[:, None, :]

    def log_rest(theta: Array) -> Array:
        root = unpacked(theta)[1]
        return log_prior(root, priors) + log_volume(root) + 0.5 * ((root / RIDGE) ** 2).sum((1, 2))

    ridge = np.where(column == 0, priors.mean, RIDGE) ** -2.0
    curve, pull = _regression(stars, which, true, mean, root, row, column)
    factor = jnp.linalg.cholesky(curve + jnp.diag(ridge)[None])
    centre = jax.scipy.linalg.cho_solve((factor, True), pull[..., None])[..., 0]
    noise = jax.random.normal(keys[0], (*centre.shape, 1))
    other = jax.scipy.linalg.solve_triangular(factor, noise, lower=True, trans=1)[..., 0]
    here = jnp.concatenate([mean[:, :, None], root], axis=2)[:, row, column]
    level = log_rest(here) + jnp.log(jax.random.uniform(keys[1], (k,)))
    angle = 2.0 * np.pi * jax.random.uniform(keys[2], (k,))

    def shrink(state: Any, key: Array) -> tuple[Any, None]:
        theta, found, low, high, angle = state
        new = centre + (here - centre) * jnp.cos(angle)[:, None] + other * jnp.sin(angle)[:, None]
        take = ~found & (log_rest(new) > level)
        low, high = jnp.where(angle < 0.0, angle, low), jnp.where(angle < 0.0, high, angle)
        next_angle = low + (high - low) * jax.random.uniform(key, (k,))
        return (jnp.where(take[:, None], new, theta), found | take, low, high, next_angle), None

    state = (here, jnp.zeros(k, bool), angle - 2.0 * np.pi, angle, angle)
    return unpacked(jax.lax.scan(shrink, state, jax.random.split(keys[3], TRIES))[0][0])


def _regression(
    stars: Stars, which: Array, true: Array, mean: Array, root: Array, row: np.ndarray, column: np.ndarray
) -> tuple[Array, Array]:
    """Curvature and pull of the measurements on (mu, L) of each component: sum_i W b b^T and W y b, b = (1, u).

    Stars are sorted by component first: a block has one or two of them then, and only those are computed.
    """
    (k, d), n_lane = mean.shape, jnp.shape(stars.real)[1]
    row_b, column_b = np.tril_indices(d + 1)
    inverse = jax.scipy.linalg.solve_triangular(root, jnp.broadcast_to(jnp.eye(d), root.shape), lower=True)
    w, value = jnp.asarray(stars.precision), jnp.asarray(stars.value)
    wy = [sum(w[:, pair(max(i, j), min(i, j))] * value[:, j] for j in range(d)) for i in range(d)]
    component = jnp.where(jnp.asarray(stars.real) > 0.0, which, k).ravel()
    order = jnp.argsort(component)

    def sort(rows: Array) -> Array:
        of_star = jnp.moveaxis(rows, 2, 1).reshape(-1, rows.shape[1])
        return of_star[order].reshape(-1, n_lane, rows.shape[1])

    def one(total: Any, block: Any) -> tuple[Any, None]:
        which, true, w, wy = block

        def of(c: Array, total: Any) -> Any:
            u = (true - mean[c][None]) @ inverse[c].T
            b = jnp.append(jnp.ones((n_lane, 1)), u, axis=1) * (which == c)[:, None]
            curve, pull = total
            return curve.at[c].add(w.T @ (b[:, row_b] * b[:, column_b])), pull.at[c].add(wy.T @ b)

        return jax.lax.fori_loop(which[0], jnp.minimum(which[-1] + 1, k), of, total), None

    blocks = component[order].reshape(-1, n_lane), sort(true), sort(w), sort(jnp.stack(wy, axis=1))
    nothing = jnp.zeros((k, w.shape[1], len(row_b))), jnp.zeros((k, d, d + 1))
    curve, pull = jax.lax.scan(one, nothing, blocks)[0]
    return curve[:, places(row, row), places(column, column)], pull[:, row, column]
