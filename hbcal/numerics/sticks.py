"""Weights from broken sticks: w_k = v_k prod_{l<k} (1 - v_l), the last component taking what is left."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from hbcal._typing import AnyArray, Array, Float


def log_weights(stick: Float[AnyArray, " n_stick"]) -> Float[Array, " n_comp"]:
    """ln w of n_stick + 1 components.

    Args:
        stick: v, each in (0, 1).

    Returns:
        Logarithms; the weights add up to one.

    Errors:
        None.

    Example:
        >>> jnp.exp(log_weights(jnp.array([0.5, 0.5]))).tolist()
        [0.5, 0.25, 0.25]

    Source: Sethuraman 1994, Statistica Sinica 4, 639.
    """
    left = jnp.concatenate([jnp.zeros(1), jnp.cumsum(jnp.log1p(-jnp.asarray(stick)))])
    return left + jnp.append(jnp.log(stick), 0.0)


def sticks(log_weight: Float[AnyArray, " n_comp"]) -> Float[Array, " n_stick"]:
    """The sticks of weights, the inverse of `log_weights`.

    Args:
        log_weight: ln w; the weights add up to one.

    Returns:
        v, one fewer, kept off 0 and 1 by 1e-15.

    Errors:
        None.

    Example:
        >>> sticks(jnp.log(jnp.array([0.5, 0.25, 0.25]))).round(6).tolist()
        [0.5, 0.5]
    """
    left = jax.lax.cumlogsumexp(jnp.asarray(log_weight), reverse=True)  # of each component and those after it
    return jnp.clip(jnp.exp((log_weight - left)[:-1]), 1e-15, 1.0 - 1e-15)


def reorder(key: Array, log_weight: Float[Array, " n_comp"], concentration: tuple[float, float]) -> tuple[Array, Array]:
    """A new order of the components and a new concentration, drawn so that the posterior stays as it is.

    Nothing but the prior of the weights knows the order. Given the weights, with concentration ~ Gamma(a, b) integrated
    out and R_k = w_k + w_k+1 + ... + w_last,

        p(order) ∝ (b - ln w_last)^-(a + n_comp - 1) / (w_last prod_{1 < k < n_comp} R_k)
        concentration ~ Gamma(a + n_comp - 1, b - ln w_last)

    Proposed is an order biased by size, of which the second line is the whole density, and then swaps of two components
    at random: an order with a heavy component at the end, once there, is left by swaps alone.

    Args:
        key: of the draw.
        log_weight: ln w in the order there is.
        concentration: a and b, of the Gamma prior.

    Returns:
        Which component comes first, second, ..., (n_comp,), and the concentration.

    Errors:
        None.

    Example:
        >>> heavy_last = jnp.log(jnp.array([1e-4, 1e-4, 1.0 - 2e-4]))
        >>> order, concentration = reorder(jax.random.PRNGKey(0), heavy_last, (2.0, 2.0))
        >>> int(order[0])  # the heavy one comes to the front, as it would in draws of the prior
        2

    Source: Papaspiliopoulos and Roberts 2008, Biometrika 95, 169, for swaps.
    """
    n_comp, (a, b) = log_weight.shape[0], concentration
    key_order, key_take, key_pairs, key_swap, key_last = jax.random.split(key, 5)

    def log_last(log_w: Array) -> Array:
        return -(a + n_comp - 1.0) * jnp.log(b - log_w[-1])

    def log_order(order: Array) -> Array:
        log_w = log_weight[order]
        left = jax.lax.cumlogsumexp(log_w, reverse=True)
        return log_last(log_w) - log_w[-1] - left[1:-1].sum()

    def swap(order: Array, item: tuple[Array, Array]) -> tuple[Array, None]:
        (i, j), log_uniform = item
        new = order.at[i].set(order[j]).at[j].set(order[i])
        return jnp.where(log_uniform < log_order(new) - log_order(order), new, order), None

    now = jnp.arange(n_comp)
    new = jnp.argsort(-(log_weight + jax.random.gumbel(key_order, log_weight.shape)))
    gain = log_last(log_weight[new]) - log_last(log_weight)
    order = jnp.where(jnp.log(jax.random.uniform(key_take)) < gain, new, now)
    pairs = jax.random.randint(key_pairs, (2 * n_comp, 2), 0, n_comp)
    order = jax.lax.scan(swap, order, (pairs, jnp.log(jax.random.uniform(key_swap, (2 * n_comp,)))))[0]
    return order, jax.random.gamma(key_last, a + n_comp - 1.0) / (b - log_weight[order][-1])


def left_over(n_comp: int, concentration: AnyArray | float) -> np.ndarray:
    """What truncation leaves out: the mean weight of all components beyond the first n_comp - 1 of endless many.

        E[prod_{k < n_comp} (1 - v_k)] = (concentration / (1 + concentration))^(n_comp - 1)

    Args:
        n_comp: components kept, the last of which stands for the rest.
        concentration: any shape.

    Returns:
        Shares, of that shape.

    Errors:
        None.

    Example:
        >>> float(left_over(11, 1.0))
        0.0009765625

    Source: Ishwaran and James 2001, Journal of the American Statistical Association 96, 161.
    """
    alpha = np.asarray(concentration)
    return np.asarray((alpha / (1.0 + alpha)) ** (n_comp - 1))
