"""Measurements of several labels at once, their errors correlated; true labels and coefficients are integrated out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints

from hbcal._pytree import pytree, static
from hbcal._typing import AnyArray, Array, Bool, Float
from hbcal.numerics.collapse import Gram, collapsed_log_density
from hbcal.numerics.correlated import gram_correlated, unit_where_unseen


@pytree
class Visits:
    """Stars that much the same surveys saw: per visit of a survey a vector over the labels.

    Attributes:
        seen: where a measurement exists, (n_star, n_visit, n_label); visits of calibrated surveys come first.
        phi: design rows, (n_star, n_free, n_label, n_term); 0 where not seen, and where the survey is an anchor.
        spread: b = spread @ theta, theta those of all labels, (n_free * n_label * n_term, n_coef).
        err: reported errors, (n_star, n_visit, n_label), 0 where none was reported.
        psi: design of the log floor, (n_star, n_visit, n_label, n_floor_term); 0 where not seen.
        corr: correlations of the reported errors as they were given, (n_star, n_visit, n_label, n_label).
        given: where they were, (n_star, n_visit); elsewhere those of the survey stand in.
        scale_of: which error scale multiplies the errors, per visit and label, -1 for none (a = 1).
        floor_of: which floor, per visit and label, -1 for none (tau = 0).
        corr_of: which fitted correlation each visit has, -1 for none.
        name: of the stars.
    """

    seen: Bool[AnyArray, "n_star n_visit n_label"]
    phi: Float[AnyArray, "n_star n_free n_label n_term"]
    spread: Float[AnyArray, "n_free_label_term n_coef"]
    err: Float[AnyArray, "n_star n_visit n_label"]
    psi: Float[AnyArray, "n_star n_visit n_label n_floor_term"]
    corr: Float[AnyArray, "n_star n_visit n_label n_label"]
    given: Bool[AnyArray, "n_star n_visit"]
    scale_of: tuple[tuple[int, ...], ...] = static()
    floor_of: tuple[tuple[int, ...], ...] = static()
    corr_of: tuple[int, ...] = static()
    name: str = static(default="")

    @jax.jit  # compiled once wherever NumPyro evaluates a program step by step; inside a jit it changes nothing
    def covariance(
        self, error_scale: Array, floor: Array, floor_trend: Array, corr: tuple[Array, ...]
    ) -> Float[Array, "n_star n_visit n_label n_label"]:
        """C_lm = a_l e_l R_lm a_m e_m + tau_l R'_lm tau_m, R as given or else R', and R' that of the survey."""
        n_label, n_psi = self.seen.shape[2], self.psi.shape[3]
        one, none = jnp.ones(()), jnp.zeros(n_psi)
        scale = jnp.array([[error_scale[k] if k >= 0 else one for k in row] for row in self.scale_of])
        tau = jnp.array([[floor[k] if k >= 0 else 0.0 * one for k in row] for row in self.floor_of])
        gamma = jnp.array([[floor_trend[k] if k >= 0 else none for k in row] for row in self.floor_of])
        quoted = scale[None] * self.err
        wide = tau[None] * jnp.exp(jnp.einsum("ivlm,vlm->ivl", self.psi, gamma))
        eye = jnp.eye(n_label)
        fitted = jnp.stack([corr[k] if k >= 0 else eye for k in self.corr_of])[None]
        of_errors = jnp.where(self.given[..., None, None], self.corr, fitted)
        return _outer(quoted) * of_errors + _outer(wide) * fitted

    def mean(self, coef: Float[Array, " n_coef"]) -> Float[Array, "n_star n_visit n_label"]:
        """What the calibration adds to the true labels, 0 for anchors."""
        _, n_free, n_label, n_term = self.phi.shape
        shift = jnp.einsum("ivlt,vlt->ivl", self.phi, (self.spread @ coef).reshape(n_free, n_label, n_term))
        return jnp.pad(shift, ((0, 0), (0, self.seen.shape[1] - n_free), (0, 0)))


def _outer(x: Array) -> Array:
    return x[..., :, None] * x[..., None, :]


class CorrelatedStars(dist.Distribution):
    """p(y) with every true label (flat) and every coefficient (Gaussian) integrated out.

    A value is a table (n_row, n_label): the visits of the stars, star by star, group after group. Samples put every
    true label at zero, and have noise of variance 1 where nothing was seen.

    Args:
        groups: the stars.
        covariances: of the noise of each visit, group by group, as `Visits.covariance` gives them.
        prior_sd: of the coefficients of all labels, (n_coef,).
    """

    support = constraints.real_matrix
    pytree_data_fields = ("groups", "covariances", "prior_sd")

    def __init__(self, groups: tuple[Visits, ...], covariances: tuple[Array, ...], prior_sd: Array, **kwargs: Any):
        self.groups, self.covariances, self.prior_sd = tuple(groups), tuple(covariances), prior_sd
        n_row, n_label = sum(g.seen.shape[0] * g.seen.shape[1] for g in groups), groups[0].seen.shape[2]
        super().__init__((), (n_row, n_label), **kwargs)

    def grams(self, value: Array) -> list[Gram]:
        """The quadratic form in the coefficients, group by group."""
        out, start = [], 0
        for group, cov in zip(jax.tree.map(jnp.asarray, self.groups), self.covariances, strict=True):
            end = start + group.seen.shape[0] * group.seen.shape[1]
            table = value[start:end].reshape(group.seen.shape)
            out.append(gram_correlated(table, group.seen, cov, group.phi, group.spread))
            start = end
        return out

    def log_prob(self, value: AnyArray) -> Array:
        """log p(y | noise, prior sd), see `hbcal.numerics.correlated`."""
        return _collapse(self, value)[0]

    def conditional(self, value: AnyArray) -> tuple[Array, Array]:
        """Mean, and Cholesky factor of the precision, of the coefficients given the measurements."""
        return _collapse(self, value)[1:]

    def given(self, coef: Array) -> dist.Distribution:
        """The measurements of stars whose true labels are zero, given the coefficients, (n_coef,)."""
        n_label = self.event_shape[1]
        mean = jnp.concatenate([group.mean(coef).reshape(-1, n_label) for group in self.groups])
        return dist.MultivariateNormal(mean, self._noise()).to_event(1)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw coefficients from their prior, then measurements of stars whose true labels are zero."""
        key_coef, key_noise = jax.random.split(key)
        white = jax.random.normal(key_coef, (*sample_shape, self.prior_sd.shape[0]))
        noise = jax.random.normal(key_noise, (*sample_shape, *self.event_shape))
        root = jnp.linalg.cholesky(self._noise())

        def one(white: Array, noise: Array) -> Array:
            mean = self.given(self.prior_sd * white).mean
            return mean + jnp.einsum("rlm,rm->rl", root, noise)

        return jnp.vectorize(one, signature="(k),(r,l)->(r,l)")(white, noise)

    def _noise(self) -> Array:
        """Covariance of every row, 1 where nothing was seen, (n_row, n_label, n_label)."""
        pairs = zip(self.groups, self.covariances, strict=True)
        parts = [unit_where_unseen(cov, jnp.asarray(group.seen)) for group, cov in pairs]
        return jnp.concatenate([part.reshape(-1, *part.shape[-2:]) for part in parts])


@jax.jit
def _collapse(stars: CorrelatedStars, value: Array) -> tuple[Array, Array, Array]:
    return collapsed_log_density(stars.grams(value), stars.prior_sd)
