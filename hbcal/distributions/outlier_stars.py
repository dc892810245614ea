"""Measurements of many stars, some of them outliers; true values are integrated out under a flat prior."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.nn import logsumexp
from numpyro.distributions import constraints

from hbcal._pytree import pytree
from hbcal._typing import AnyArray, Array, Float, Int
from hbcal.numerics.outliers import INFLATION, hypotheses, outlier_log_joint

NEVER = -1e4  # log odds of a survey without outliers: finite, since the gradient of log 0 is not


@pytree
class Stratum:
    """The stars of one label (and category) that have equally many measurements: dense tables, nothing masked.

    Attributes:
        phi: design rows of the measurements that are not an anchor's, (n_free_seen, n_term).
        who: whose each of them is, one-hot, (n_free_seen, n_free).
        place: where each of them stands in the ravelled tables, (n_free_seen,).
        spread: b = spread @ coef, (n_free * n_term, n_coef), as in `hbcal.distributions.flat_stars.Block`.
        err2: squared reported errors, (n_star, n_seen), 0 where none was reported.
        psi: design of the log floor, (n_star, n_seen, n_floor_term).
        scale_at: which error scale multiplies each error, -1 for none (a = 1).
        floor_at: which floor each measurement has, -1 for none (tau = 0).
        rate_at: which outlier rate each measurement has, -1 for none.
        given: log odds of being an outlier where there is no rate; `NEVER`, or what a list of cluster members says.
    """

    phi: Float[AnyArray, "n_free_seen n_term"]
    who: Float[AnyArray, "n_free_seen n_free"]
    place: Int[AnyArray, " n_free_seen"]
    spread: Float[AnyArray, "n_free_term n_coef"]
    err2: Float[AnyArray, "n_star n_seen"]
    psi: Float[AnyArray, "n_star n_seen n_floor_term"]
    scale_at: Int[AnyArray, "n_star n_seen"]
    floor_at: Int[AnyArray, "n_star n_seen"]
    rate_at: Int[AnyArray, "n_star n_seen"]
    given: Float[AnyArray, "n_star n_seen"]

    def variance(self, error_scale: AnyArray, floor: AnyArray, floor_trend: AnyArray) -> Float[Array, "n_star n_seen"]:
        """V = (a e)^2 + (tau exp(gamma . psi))^2; the last entry, which -1 picks, is that of a survey without one."""
        a2 = jnp.append(error_scale**2, 1.0)[self.scale_at]
        tau2 = jnp.append(floor**2, 0.0)[self.floor_at]
        if self.psi.shape[-1]:
            gamma = jnp.concatenate([floor_trend, jnp.zeros((1, self.psi.shape[-1]))])[self.floor_at]
            tau2 = tau2 * jnp.exp(2.0 * (self.psi * gamma).sum(-1))
        return a2 * self.err2 + tau2

    def log_odds(self, rate: AnyArray) -> Float[Array, "n_star n_seen"]:
        """log rate / (1 - rate) of each measurement, or what is given."""
        sampled = jnp.append(jnp.log(rate) - jnp.log1p(-rate), NEVER)[self.rate_at]
        return jnp.where(jnp.asarray(self.rate_at) < 0, self.given, sampled)

    def mean(self, coef: Float[AnyArray, " n_coef"]) -> Float[Array, "n_star n_seen"]:
        """What the calibration adds to the true value in each measurement: phi . (E theta), 0 for anchors."""
        each = (jnp.asarray(self.spread) @ coef).reshape(self.who.shape[1], self.phi.shape[1])
        shift = ((jnp.asarray(self.phi) @ each.T) * self.who).sum(1)
        return jnp.zeros(self.err2.size).at[self.place].set(shift, unique_indices=True).reshape(self.err2.shape)


class OutlierStars(dist.Distribution):
    """p(y) with every true value (flat) integrated out and every pattern of outliers summed over.

    The density is that of the differences between the measurements of a star, see `hbcal.numerics.outliers`. Samples
    put every true value at zero.

    Args:
        means: what the calibration adds, one (n_star, n_seen) per stratum; the value is their measurements, stratum
            after stratum, star after star.
        variances: noise variance without outliers, same shapes.
        log_odds: of being an outlier, same shapes.
    """

    support = constraints.real_vector
    pytree_data_fields = ("means", "variances", "log_odds")

    def __init__(
        self, means: tuple[Array, ...], variances: tuple[Array, ...], log_odds: tuple[Array, ...], **kwargs: Any
    ):
        self.means, self.variances, self.log_odds = tuple(means), tuple(variances), tuple(log_odds)
        super().__init__((), (sum(m.size for m in self.means),), **kwargs)

    def log_joint(self, value: AnyArray) -> list[Array]:
        """Per stratum, log q(h) p(y | h) of every star and hypothesis."""
        out, start = [], 0
        for mean, var, odds in zip(self.means, self.variances, self.log_odds, strict=True):
            y = jnp.asarray(value[start : start + mean.size]).reshape(mean.shape)
            start += mean.size
            out.append(outlier_log_joint(y - mean, var, odds))
        return out

    def log_prob(self, value: AnyArray) -> Array:
        """log p(y | calibration, noise, rates)."""
        return _total(self, value)

    def responsibility(self, value: AnyArray) -> Array:
        """Probability of each measurement to be an outlier, in the order of the value."""
        joint = self.log_joint(value)
        each = [
            (jnp.exp(j - logsumexp(j, axis=1)[:, None]) @ hypotheses(m.shape[1])).reshape(-1)
            for j, m in zip(joint, self.means, strict=True)
        ]
        return jnp.concatenate(each)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw who is an outlier, then measurements of stars whose true value is zero."""
        parts = []
        for mean, var, odds in zip(self.means, self.variances, self.log_odds, strict=True):
            key, key_which, key_noise = jax.random.split(key, 3)
            which = jnp.asarray(hypotheses(mean.shape[1]))
            h = jax.random.categorical(key_which, odds @ which.T, axis=-1, shape=(*sample_shape, mean.shape[0]))
            sd = jnp.sqrt(var * jnp.where(which[h] > 0, INFLATION, 1.0))
            noise = jax.random.normal(key_noise, (*sample_shape, *mean.shape))
            parts.append((mean + sd * noise).reshape(*sample_shape, -1))
        return jnp.concatenate(parts, axis=-1)


@jax.jit  # compiled once wherever NumPyro evaluates a program step by step
def _total(stars: OutlierStars, value: Array) -> Array:
    return sum((logsumexp(j, axis=1).sum() for j in stars.log_joint(value)), jnp.zeros(()))
