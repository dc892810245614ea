"""Measurements of many stars whose true values are integrated out under a flat prior."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

from hbcal._pytree import pytree, static
from hbcal._typing import AnyArray, Array, Bool, Float
from hbcal.numerics.collapse import Gram, collapsed_log_density, gram


@pytree
class Block:
    """The stars of one label (and one category): what was seen, and the design of each measurement.

    Attributes:
        seen: where a measurement exists, (n_star, n_slot); slots of calibrated surveys come first.
        phi: design rows, (n_star, n_free, n_term), the zero point's column of ones first; 0 where not seen.
        spread: b = spread @ theta, (n_free * n_term, n_coef).
        err2: squared reported errors, (n_star, n_slot), 0 where none was reported.
        psi: design of the log floor, (n_star, n_slot, n_floor_term); 0 where not seen.
        scale_of: which error scale multiplies the errors of each slot, -1 for none (a = 1).
        floor_of: which floor each slot has, -1 for none (tau = 0).
        name: of the block, for error messages.
    """

    seen: Bool[AnyArray, "n_star n_slot"]
    phi: Float[AnyArray, "n_star n_free n_term"]
    spread: Float[AnyArray, "n_free_term n_coef"]
    err2: Float[AnyArray, "n_star n_slot"]
    psi: Float[AnyArray, "n_star n_slot n_floor_term"]
    scale_of: tuple[int, ...] = static()
    floor_of: tuple[int, ...] = static()
    name: str = static(default="")

    @jax.jit  # compiled once wherever NumPyro evaluates a program step by step; inside a jit it changes nothing
    def variance(self, error_scale: Array, floor: Array, floor_trend: Array) -> Float[Array, "n_star n_slot"]:
        """V = (a e)^2 + (tau exp(gamma . psi))^2, and 1 where nothing was seen."""
        a2 = jnp.stack([error_scale[i] ** 2 if i >= 0 else jnp.ones(()) for i in self.scale_of])
        tau2 = jnp.stack([floor[i] ** 2 if i >= 0 else jnp.zeros(()) for i in self.floor_of])[None, :]
        if self.psi.shape[-1]:
            gamma = jnp.stack([floor_trend[i] if i >= 0 else jnp.zeros(self.psi.shape[-1]) for i in self.floor_of])
            tau2 = tau2 * jnp.exp(2.0 * jnp.einsum("ism,sm->is", self.psi, gamma))
        return jnp.where(self.seen, a2[None, :] * self.err2 + tau2, 1.0)

    def mean(self, coef: Float[Array, " n_coef"]) -> Float[Array, "n_star n_slot"]:
        """What the calibration adds to the true value in each slot: phi . (E theta), 0 for anchors."""
        n_star, n_free, n_term = self.phi.shape
        shift = jnp.einsum("isk,sk->is", self.phi, (self.spread @ coef).reshape(n_free, n_term))
        return jnp.concatenate([shift, jnp.zeros((n_star, self.seen.shape[1] - n_free))], axis=1)


class FlatStars(dist.Distribution):
    """p(y) with every true value (flat) and every coefficient (Gaussian) integrated out; a value is a flat vector.

    The density is that of the differences between the measurements of a star: adding a constant to one star changes
    nothing. Samples put every true value at zero.

    Args:
        blocks: the stars, block after block; the value is their (n_star, n_slot) tables, ravelled and joined.
        variances: noise variance of each block, shape as `seen`.
        prior_sd: of the coefficients, (n_coef,).
    """

    support = constraints.real_vector
    pytree_data_fields = ("blocks", "variances", "prior_sd")

    def __init__(self, blocks: tuple[Block, ...], variances: tuple[Array, ...], prior_sd: Array, **kwargs: Any):
        self.blocks, self.variances, self.prior_sd = tuple(blocks), tuple(variances), prior_sd
        super().__init__((), (sum(b.seen.size for b in self.blocks),), **kwargs)

    def grams(self, value: Array) -> list[Gram]:
        """The quadratic form in the coefficients, block by block."""
        blocks = jax.tree.map(jnp.asarray, self.blocks)
        tables = split(blocks, value)
        return [gram(y, b.seen, v, b.phi, b.spread) for b, v, y in zip(blocks, self.variances, tables, strict=True)]

    def log_prob(self, value: AnyArray) -> Array:
        """log p(y | noise, prior sd), see `hbcal.numerics.collapse`."""
        return _collapse(self, value)[0]

    def conditional(self, value: AnyArray) -> tuple[Array, Array]:
        """Mean, and Cholesky factor of the precision, of the coefficients given the measurements."""
        return _collapse(self, value)[1:]

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw coefficients from their prior, then measurements of stars whose true value is zero."""
        key_coef, key_noise = jax.random.split(key)
        white = jax.random.normal(key_coef, (*sample_shape, self.prior_sd.shape[0]))
        noise = jax.random.normal(key_noise, (*sample_shape, *self.event_shape))
        sd = jnp.sqrt(stack(list(self.variances)))

        def one(white: Array, noise: Array) -> Array:
            return stack([b.mean(self.prior_sd * white) for b in self.blocks]) + sd * noise

        return jnp.vectorize(one, signature="(k),(n)->(n)")(white, noise)


@jax.jit
def _collapse(stars: FlatStars, value: Array) -> tuple[Array, Array, Array]:
    return collapsed_log_density(stars.grams(value), stars.prior_sd)


def stack(tables: list[Array]) -> Array:
    """Ravel the tables of a label's blocks into one vector.

    Args:
        tables: arrays (n_star, n_slot), one per block.

    Returns:
        A vector of all entries, in order.

    Errors:
        None.

    Example:
        >>> import jax.numpy as jnp
        >>> stack([jnp.ones((2, 2)), jnp.zeros((1, 2))]).shape
        (6,)
    """
    return jnp.concatenate([t.reshape(-1) for t in tables])


def split[A: (Array, np.ndarray)](blocks: tuple[Block, ...], value: A) -> list[A]:
    """Undo `stack`.

    Args:
        blocks: the label's blocks.
        value: vector of all their entries.

    Returns:
        One (n_star, n_slot) table per block.

    Errors:
        TypeError from JAX when the sizes disagree.

    Example:
        >>> split((), jnp.zeros(0))
        []
    """
    tables, start = [], 0
    for block in blocks:
        size = block.seen.size
        tables.append(value[start : start + size].reshape(block.seen.shape))
        start += size
    return tables
