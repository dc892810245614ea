"""Two components of a mixture fitted anew at once: as two, or as one with the other left without stars.

A population that two components share, each with a half, is as likely as one that has one component to itself, or
nearly so; but neither NUTS, nor Gibbs' sampler, nor a jump of one component (`hbcal.mixture_jumps`) goes from the one
to the other, since both components have to change together. Here both are proposed from fits of the stars they hold.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hbcal._typing import Array
from hbcal.mixture_jumps import SPLIT, Atoms, draw_base, draw_share, log_base, taken
from hbcal.numerics.component_fit import draw_fit, fitted, log_fit
from hbcal.numerics.star_draws import draw_component
from hbcal.numerics.star_mixture import log_joint, log_likelihood
from hbcal.numerics.stars import Stars, lower, square, unblocked
from hbcal.programs.dp_mixture import MixturePriors

STEPS = 8  # of expectation maximisation
NEWTON = 12  # steps after them
LEAST = 4.0  # stars that a fitted component counts as at least


def deconvolved(
    stars: Stars, weight: Array, mean: Array, covariance: Array, priors: MixturePriors, other: Array | None = None
) -> Any:
    """Fit a few Gaussians to stars, their errors and missing elements known, by expectation maximisation.

    With the slopes g of ln p, and G the symmetric matrix of those of the covariance,

        n_k = g_ln w,   step = Sigma g_mu / n_k,   Sigma_k <- Sigma + Sigma G Sigma / n_k - step step^T,

    and every covariance is drawn to the prior's as by n_dim + 2 stars.

    Args:
        stars: those whose `real` is 1.
        weight, mean, covariance: where to begin, (k,), (k, n_dim), (k, n_dim, n_dim).
        priors: of the program.
        other: ln p of what stays, (n_block, n_lane), where one component is fitted beside it.

    Returns:
        Stars per component, means and covariances.

    Errors:
        None.

    Example:
        >>> stars = tiny_mixture().stars
        >>> begin = jnp.ones(1), jnp.zeros((1, 2)), jnp.eye(2)[None]
        >>> n, mean, covariance = deconvolved(stars, *begin, MixturePriors())
        >>> float(n[0].round(3))
        120.0

    Source: Bovy, Hogg and Roweis 2011, Annals of Applied Statistics 5, 1657.
    """
    d = mean.shape[1]
    twice = jnp.ones((d, d)) + jnp.eye(d)  # a slope of an entry off the diagonal stands for two
    slopes = jax.grad(log_likelihood, argnums=(1, 2, 3))
    usual = (d + 2.0) * priors.sd[0] ** 2 * jnp.eye(d)[None]

    def step(fit: Any, _: Any) -> Any:
        n, mean, covariance = fit
        share = jnp.log(n / n.sum())
        held = stars
        if other is not None:
            s = n[0] / jnp.asarray(stars.real).sum()
            column = jnp.log(s) + log_joint(stars, jnp.zeros(1), mean, lower(covariance))[:, 0]
            held = replace(stars, real=stars.real * jnp.exp(column - jnp.logaddexp(column, jnp.log1p(-s) + other)))
        n, of_mean, of_covariance = slopes(held, share, mean, lower(covariance))
        n = jnp.clip(n, LEAST, jnp.asarray(stars.real).sum() - LEAST) if other is not None else jnp.maximum(n, LEAST)
        by = jnp.einsum("kij,kj->ki", covariance, of_mean) / n[:, None]
        bent = covariance @ (square(of_covariance) * twice[None]) @ covariance / n[:, None, None]
        new = covariance + bent - by[:, :, None] * by[:, None, :]
        new = 0.5 * (new + jnp.swapaxes(new, 1, 2))
        return (n, mean + by, (n[:, None, None] * new + usual) / (n[:, None, None] + d + 2.0)), None

    return jax.lax.scan(step, (weight, mean, covariance), None, length=STEPS)[0]


def repair(
    key: Array, atoms: Atoms, stars: Stars, background: Array, concentration: Array, priors: MixturePriors
) -> Atoms:
    """Try to fit the stars of two components anew.

    Stars are given to components; a pair is that of a star drawn evenly and of any other, in any order. The stars of
    the pair are fitted by one Gaussian, and, from two of them drawn evenly, by two. Proposed is, with even odds, both
    components near the two, from what their posterior looks like at its mode (`hbcal.numerics.component_fit`), or one
    near the one and the other from the prior, with a share ~ Beta(0.2, 1). Neither which pair is drawn nor the fits
    depend on what the pair is, only on which stars it holds: so Metropolis' rule needs the density of proposals at the
    new pair and the old, and the likelihood of the pair's stars alone.

    Args:
        key: of the draws.
        atoms: where the chain is.
        stars: with values.
        background: share of stars of no population.
        concentration: of the Dirichlet process.
        priors: of the program.

    Returns:
        Where it is next.

    Errors:
        None.

    Example:
        >>> stars, root = tiny_mixture().stars, jnp.tile(jnp.eye(2), (4, 1, 1))
        >>> density = log_joint(stars, jnp.zeros(4), jnp.zeros((4, 2)), lower(root))
        >>> atoms = Atoms(jnp.full(3, 1 / 3), jnp.zeros((3, 2)), root[:3], density)
        >>> moved = repair(jax.random.PRNGKey(0), atoms, stars, jnp.array(0.01), jnp.array(1.0), MixturePriors())
        >>> float(moved.weight.sum().round(6))
        1.0

    Source: after the split and merge of Jain and Neal 2007, Bayesian Analysis 2, 445.
    """
    k, d = atoms.mean.shape
    keys = jax.random.split(key, 13)
    log_weight = jnp.append(jnp.log1p(-background) + jnp.log(atoms.weight), jnp.log(background))
    which = draw_component(keys[0], log_weight[None, :, None] + atoms.density)
    inside = jnp.asarray(stars.real) * (which < k)
    a = which.ravel()[jax.random.categorical(keys[1], jnp.log(inside).ravel())] % k
    b = (a + jax.random.randint(keys[2], (), 1, k)) % k
    turned = jax.random.bernoulli(keys[12])  # whose star it was must not tell the two apart
    a, b = jnp.where(turned, b, a), jnp.where(turned, a, b)
    held = stars.real * ((which == a) | (which == b))
    some = replace(stars, real=held)

    n_held = held.sum()
    seeds = jax.random.categorical(keys[3], jnp.log(held).ravel(), shape=(2,))
    wide = priors.mean**2 * jnp.eye(d)[None]
    _, m_one, s_one = deconvolved(some, n_held[None], jnp.zeros((1, d)), wide, priors)
    value, seen = (unblocked(each, stars.real.size)[seeds] for each in (stars.value, stars.seen))
    begin = jnp.where(seen > 0, value, m_one)
    n_two, m_two, s_two = deconvolved(some, n_held * jnp.full(2, 0.5), begin, jnp.tile(0.5 * s_one, (2, 1, 1)), priors)
    base = partial(log_base, priors=priors)
    one = fitted(some, jnp.zeros(()), m_one, jnp.linalg.cholesky(s_one), base, NEWTON)
    odds = jnp.log(n_two[1]) - jnp.log(n_two[0])
    two = fitted(some, odds, m_two, jnp.linalg.cholesky(s_two), base, NEWTON)

    both = atoms.weight[a] + atoms.weight[b]
    as_two, a_keeps = jax.random.bernoulli(keys[4]), jax.random.bernoulli(keys[5])
    share_two, mean_two, root_two = draw_fit(keys[6], two)
    _, mean_one, root_one = draw_fit(keys[7], one)
    mean_far, root_far = draw_base(keys[np.array([9, 8, 10])], d, priors)
    key_share, key_take, key_order = jax.random.split(keys[11], 3)
    share_one = draw_share(key_share)
    pick = lambda two, kept, far: jnp.where(  # noqa: E731
        as_two, two, jnp.where(a_keeps, jnp.stack([kept, far]), jnp.stack([far, kept]))
    )
    mean, root = pick(mean_two, mean_one[0], mean_far), pick(root_two, root_one[0], root_far)
    share = jnp.clip(jnp.where(as_two, share_two, jnp.where(a_keeps, share_one, 1.0 - share_one)), 1e-12, 1.0 - 1e-12)
    columns = log_joint(stars, jnp.zeros(2), mean, lower(root @ jnp.swapaxes(root, 1, 2)))
    ab = jnp.stack([a, b])
    moved = Atoms(
        atoms.weight.at[b].set(share * both).at[a].set((1.0 - share) * both), atoms.mean.at[ab].set(mean),
        atoms.root.at[ab].set(root), atoms.density.at[:, ab].set(columns),
    )  # fmt: skip

    def log_ratio(atoms: Atoms) -> Array:
        """ln of the density of the pair, less that of its being proposed."""
        mean, root, share = atoms.mean[ab], atoms.root[ab], atoms.weight[b] / both
        shares = jnp.log(jnp.stack([1.0 - share, share]))
        fit = (jax.nn.logsumexp(shares[None, :, None] + atoms.density[:, ab], axis=1) * held).sum()
        prior = base(mean, root)
        beta = lambda x: (SPLIT - 1.0) * jnp.log(x) + np.log(SPLIT)  # noqa: E731
        proposed = jnp.stack([
            np.log(0.5) + log_fit(share, mean, root, two),
            np.log(0.25) + log_fit(share, mean[:1], root[:1], one) + prior[1] + beta(share),
            np.log(0.25) + log_fit(share, mean[1:], root[1:], one) + prior[0] + beta(1.0 - share),
        ])  # fmt: skip
        return fit + prior.sum() - jax.nn.logsumexp(proposed)

    gain = log_ratio(moved) - log_ratio(atoms)
    return taken(key_order, key_take, atoms, moved, gain, concentration)
