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


def sticks(weight: Float[AnyArray, " n_comp"]) -> Float[Array, " n_stick"]:
    """The sticks of weights, the inverse of `log_weights`.

    Args:
        weight: w, positive, adding up to one.

    Returns:
        v, one fewer, kept off 0 and 1 by 1e-12.

    Errors:
        None.

    Example:
        >>> sticks(jnp.array([0.5, 0.25, 0.25])).tolist()
        [0.5, 0.5]
    """
    left = jnp.cumsum(jnp.asarray(weight)[::-1])[::-1]  # of each component and those after it: no difference of ones
    return jnp.clip(jnp.asarray(weight)[:-1] / left[:-1], 1e-12, 1.0 - 1e-12)


def reorder(key: Array, log_weight: Float[Array, " n_comp"], concentration: Array) -> Array:
    """A new order of the components, drawn so that the posterior stays as it is.

    Nothing but the prior of the weights knows the order, and given the weights it is

        p(order) ∝ w_last^(concentration - 1) / prod_{k < n_comp} (w_k + w_k+1 + ... + w_last).

    Proposed is an order biased by size, taken with probability min(1, (w'_last / w_last)^concentration).

    Args:
        key: of the draw.
        log_weight: ln w in the order there is.
        concentration: of the Dirichlet process.

    Returns:
        Which component comes first, second, ..., (n_comp,).

    Errors:
        None.

    Example:
        >>> order = reorder(jax.random.PRNGKey(0), jnp.log(jnp.array([1e-9, 1.0 - 2e-9, 1e-9])), jnp.array(1.0))
        >>> int(order[0])  # the heavy one comes to the front, as it would in draws of the prior
        1

    Source: Papaspiliopoulos and Roberts 2008, Biometrika 95, 169, who swap two at a time.
    """
    key_order, key_take = jax.random.split(key)
    new = jnp.argsort(-(log_weight + jax.random.gumbel(key_order, log_weight.shape)))
    gain = concentration * (log_weight[new[-1]] - log_weight[-1])
    take = jnp.log(jax.random.uniform(key_take)) < gain
    return jnp.where(take, new, jnp.arange(log_weight.shape[0]))


def left_over(n_comp: int, concentration: AnyArray) -> np.ndarray:
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
    return (alpha / (1.0 + alpha)) ** (n_comp - 1)
