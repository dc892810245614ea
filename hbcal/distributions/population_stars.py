"""Measurements of the stars of one population, whose true labels are integrated out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints

from hbcal._pytree import pytree, static
from hbcal._typing import AnyArray, Array, Bool, Float
from hbcal.distributions.flat_stars import Block
from hbcal.numerics.structural import star_log_density


@pytree
class Group:
    """The stars that the same surveys saw: a table per label that they have measurements of, star by star the same.

    Attributes:
        blocks: per label, what was seen and the design of each measurement at the reference of the true labels.
        slopes: per label, how its design rows grow with the true labels, (n_star, n_free, n_term, n_label).
        label_of: which label each block is of.
        name: of the group.
    """

    blocks: tuple[Block, ...]
    slopes: tuple[Float[AnyArray, "n_star n_free _ n_label"], ...]
    label_of: tuple[int, ...] = static()
    name: str = static()

    @property
    def seen(self) -> Bool[Array, "n_star n_slot"]:
        """Where a measurement exists, the labels side by side."""
        return jnp.concatenate([jnp.asarray(block.seen) for block in self.blocks], axis=1)

    def shift(self, coef: tuple[Array, ...]) -> Float[Array, "n_star n_slot"]:
        """What the calibration adds to the true label at the reference, given the coefficients of every label."""
        return jnp.concatenate([b.mean(coef[l]) for b, l in zip(self.blocks, self.label_of, strict=True)], axis=1)

    def trend(self, coef: tuple[Array, ...]) -> Float[Array, "n_star n_slot n_label"]:
        """beta J: what the trends in true labels add to the response of each measurement."""
        parts = []
        for block, slope, l in zip(self.blocks, self.slopes, self.label_of, strict=True):
            _, n_free, n_term = block.phi.shape
            each = (jnp.asarray(block.spread) @ coef[l]).reshape(n_free, n_term)
            n_star, n_slot = block.seen.shape
            free = jnp.einsum("iskl,sk->isl", slope, each)
            parts.append(jnp.concatenate([free, jnp.zeros((n_star, n_slot - n_free, slope.shape[3]))], axis=1))
        return jnp.concatenate(parts, axis=1)

    def variance(self, error_scale: AnyArray, floor: AnyArray, floor_trend: AnyArray) -> Float[Array, "n_star n_slot"]:
        """Noise variance, and 1 where nothing was seen."""
        noise = (jnp.asarray(error_scale), jnp.asarray(floor), jnp.asarray(floor_trend))
        return jnp.concatenate([b.variance(*noise) for b in self.blocks], axis=1)

    def stars(
        self, coef: tuple[Array, ...], var: Array, centre: Array, root: Array, reference: Array
    ) -> PopulationStars:
        """The distribution of the group's measurements: y = z_l + shift + beta J (z - reference) + noise.

        Args:
            coef: per label, its coefficients.
            var: noise variance, as `variance` gives it.
            centre, root: mean of the population and Cholesky factor of its covariance.
            reference: true labels at which the trends vanish.
        """
        trend = self.trend(coef)
        n_label = centre.shape[0]
        own = [jnp.full(b.seen.shape[1], l) for b, l in zip(self.blocks, self.label_of, strict=True)]
        label = jax.nn.one_hot(jnp.concatenate(own), n_label)
        mean = self.shift(coef) + (label @ centre)[None] + trend @ (centre - reference)
        return PopulationStars(mean, label[None] + trend, var, self.seen, root)


class PopulationStars(dist.Distribution):
    """p(y) with the true labels of every star integrated out over a Gaussian population; a value is a flat vector.

    Args:
        mean: of each measurement, (n_star, n_slot); the value is such a table, ravelled.
        response: how it responds to the star's true labels, (n_star, n_slot, n_label).
        var: noise variance, (n_star, n_slot).
        seen: where a measurement exists; the others do not matter, and samples have noise there.
        root: Cholesky factor of the population's covariance, (n_label, n_label).
    """

    support = constraints.real_vector
    pytree_data_fields = ("mean_table", "response", "var", "seen", "root")

    def __init__(self, mean: Array, response: Array, var: Array, seen: Array, root: Array, **kwargs: Any):
        self.mean_table, self.response, self.var, self.seen, self.root = mean, response, var, seen, root
        super().__init__((), (mean.size,), **kwargs)

    def log_prob(self, value: AnyArray) -> Array:
        """log p(y | calibration, noise, population), see `hbcal.numerics.structural`."""
        return _total(self, value)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw true labels from the population, then measurements."""
        key_star, key_noise = jax.random.split(key)
        n_star, _, n_label = self.response.shape
        away = jax.random.normal(key_star, (*sample_shape, n_star, n_label)) @ self.root.T
        noise = jax.random.normal(key_noise, (*sample_shape, *self.mean_table.shape))
        y = self.mean_table + jnp.einsum("isl,...il->...is", self.response, away) + jnp.sqrt(self.var) * noise
        return y.reshape(*sample_shape, -1)


@jax.jit  # compiled once wherever NumPyro evaluates a program step by step
def _total(stars: PopulationStars, value: Array) -> Array:
    residual = jnp.where(stars.seen, value.reshape(stars.mean_table.shape) - stars.mean_table, 0.0)
    return star_log_density(residual, stars.response, stars.var, stars.seen, stars.root).sum()
