"""Jumps of single components of a mixture: one is taken out of where it is and tried inside or beside another.

A component that no star needs is found again where a population hides in the wings of a larger one, and one that two
components share is given up: neither NUTS nor Gibbs' sampler crosses the valley between, which is narrow and deep.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import multigammaln
from scipy.special import betaln

from hbcal._typing import Array
from hbcal.numerics.star_mixture import log_joint
from hbcal.numerics.stars import Stars, lower
from hbcal.programs.dp_mixture import MixturePriors

FREEDOM = 8.0  # beyond the dimension, of the proposal's inverse Wishart: widths within about a third of the other's
SPLIT = 0.2  # how much of the two's weight the moved one gets ~ Beta(0.2, 1)


class Atoms(NamedTuple):
    """Components in the order of their sticks, and what the stars say of them.

    Attributes:
        weight: (n_comp,), adding up to one.
        mean: (n_comp, n_dim).
        root: lower triangular, Sigma = root root^T, (n_comp, n_dim, n_dim).
        density: ln N(x; mu_k, Sigma_k + S) of every star, the background's last, (n_block, n_comp + 1, n_lane).
    """

    weight: Array
    mean: Array
    root: Array
    density: Array


def log_prior(root: Array, priors: MixturePriors) -> Array:
    """ln p(Sigma) of each component, a density in the entries of the lower triangle of Sigma.

    Args:
        root: lower triangular, Sigma = root root^T, (n_comp, n_dim, n_dim).
        priors: of the program.

    Returns:
        (n_comp,).

    Errors:
        None.

    Example:
        >>> found = float(jnp.exp(log_prior(jnp.eye(1)[None], MixturePriors(sd=(1.0, 0.5)))[0]))
        >>> round(found * 2.0 * 0.5 * (2.0 * np.pi) ** 0.5, 6)  # the density of the sd, over 2 sd
        1.0

    Source: Lewandowski, Kurowicka and Joe 2009, Journal of Multivariate Analysis 100, 1989, equation 16.
    """
    d, eta = root.shape[-1], priors.correlation
    k = np.arange(1, d)
    half = eta + 0.5 * (d - k - 1.0)
    whole = (((2.0 * eta - 2.0 + d - k) * np.log(2.0) + betaln(half, half)) * (d - k)).sum()
    whole += d * np.log(2.0 * priors.sd[1] * np.sqrt(2.0 * np.pi))
    log_sd = 0.5 * jnp.log((root**2).sum(2))
    log_corr = jnp.log(jnp.diagonal(root, axis1=1, axis2=2)) - log_sd
    # the volume of (sd, R) per volume of Sigma is prod sd^-d; one more power of sd belongs to the log-normal density
    each = -0.5 * ((log_sd - np.log(priors.sd[0])) / priors.sd[1]) ** 2 - (1.0 + d) * log_sd
    return (each + 2.0 * (eta - 1.0) * log_corr).sum(1) - whole


def log_unordered(weight: Array, concentration: Array) -> Array:
    """ln p(w) of weights in the order of their sticks, over the probability that they come in that order by size.

        p(w) ∝ w_last^(alpha - 1) / prod_{1 < k < n_comp} R_k,   R_k = w_k + ... + w_last
        q(order) = prod_k w_k / R_k,   so   p / q ∝ w_last^alpha / prod_k w_k

    A component that gains stars far down the order of the sticks would pay for every stick before it. So a move draws
    the order anew, biased by size, and this is what is left of the density.

    Args:
        weight: (n_comp,), adding up to one.
        concentration: alpha, of the Dirichlet process.

    Returns:
        A number.

    Errors:
        None.

    Example:
        >>> float(log_unordered(jnp.array([0.5, 0.25, 0.25]), jnp.array(1.0)).round(6)) == round(float(np.log(8.0)), 6)
        True
    """
    return concentration * jnp.log(weight[-1]) - jnp.log(weight).sum()


def reordered(key: Array, atoms: Atoms) -> Atoms:
    """The same components in an order drawn anew, biased by size.

    Args:
        key: of the draw.
        atoms: any.

    Returns:
        `Atoms`.

    Errors:
        None.

    Example:
        >>> density = jnp.zeros((1, 3, 256))
        >>> atoms = Atoms(jnp.array([1e-9, 1.0]), jnp.array([[0.0], [9.0]]), jnp.ones((2, 1, 1)), density)
        >>> reordered(jax.random.PRNGKey(0), atoms).mean.ravel().tolist()
        [9.0, 0.0]
    """
    order = jnp.argsort(-(jnp.log(atoms.weight) + jax.random.gumbel(key, atoms.weight.shape)))
    all_of = jnp.append(order, len(order))  # the background stays the last
    return Atoms(atoms.weight[order], atoms.mean[order], atoms.root[order], atoms.density[:, all_of])


def taken(key_order: Array, key_take: Array, atoms: Atoms, moved: Atoms, gain: Array, concentration: Array) -> Atoms:
    """What Metropolis' rule makes of a move, its order drawn anew.

    Args:
        key_order, key_take: of the order and of the decision.
        atoms, moved: before and after.
        gain: ln of the ratio of densities over that of proposals, but for the prior of the weights.
        concentration: of the Dirichlet process.

    Returns:
        One of the two.

    Errors:
        None: a gain that is not a number is not taken.

    Example:
        >>> atoms = Atoms(jnp.full(2, 0.5), jnp.zeros((2, 1)), jnp.ones((2, 1, 1)), jnp.zeros((1, 3, 256)))
        >>> keys = jax.random.split(jax.random.PRNGKey(0))
        >>> taken(*keys, atoms, atoms._replace(mean=jnp.ones((2, 1))), jnp.array(jnp.nan), jnp.array(1.0)).mean.sum()
        Array(0., dtype=float64)
    """
    moved = reordered(key_order, moved)
    gain += log_unordered(moved.weight, concentration) - log_unordered(atoms.weight, concentration)
    take = jnp.log(jax.random.uniform(key_take)) < gain
    return jax.tree.map(lambda new, old: jnp.where(take, new, old), moved, atoms)


def draw_share(key: Array) -> Array:
    """A draw of Beta(0.2, 1), whose distribution function is x^0.2: quicker to compile than draws of any beta.

    Args:
        key: of the draw.

    Returns:
        A number between 0 and 1.

    Errors:
        None.

    Example:
        >>> found = jax.vmap(draw_share)(jax.random.split(jax.random.PRNGKey(0), 4000))
        >>> bool(abs(found.mean() - 1.0 / 6.0) < 0.02)
        True
    """
    return jax.random.uniform(key) ** (1.0 / SPLIT)


def draw_base(keys: Array, n_dim: int, priors: MixturePriors) -> tuple[Array, Array]:
    """A mean and a root from the prior of components, the base distribution of the Dirichlet process.

    Args:
        keys: three, of the mean, the widths and the correlations.
        n_dim: elements.
        priors: of the program.

    Returns:
        (n_dim,) and (n_dim, n_dim).

    Errors:
        None.

    Example:
        >>> mean, root = draw_base(jax.random.split(jax.random.PRNGKey(0), 3), 2, MixturePriors())
        >>> mean.shape, root.shape
        ((2,), (2, 2))
    """
    sd = dist.LogNormal(np.log(priors.sd[0]), priors.sd[1]).sample(keys[1], (n_dim,))
    corr = dist.LKJCholesky(n_dim, priors.correlation).sample(keys[2])
    return priors.mean * jax.random.normal(keys[0], (n_dim,)), sd[:, None] * corr


def log_base(mean: Array, root: Array, priors: MixturePriors) -> Array:
    """ln of the density that `draw_base` has, in the mean and the entries of Sigma.

    Args:
        mean, root: (n_comp, n_dim) and (n_comp, n_dim, n_dim).
        priors: of the program.

    Returns:
        (n_comp,).

    Errors:
        None.

    Example:
        >>> one = jnp.ones((1, 1))
        >>> found = log_base(0.0 * one, one[None], MixturePriors(mean=2.0)) - log_prior(one[None], MixturePriors())
        >>> round(float(jnp.exp(found)[0]), 6) == round(1.0 / (2.0 * (2.0 * np.pi) ** 0.5), 6)
        True
    """
    return log_prior(root, priors) + dist.Normal(0.0, priors.mean).log_prob(mean).sum(1)


def inverse_wishart(key: Array, freedom: Array, scale: Array) -> Array:
    """Lower triangular roots of draws of inverse Wishart distributions: Bartlett's decomposition of the precision.

    Args:
        key: of the draws.
        freedom: degrees of freedom, (n,), more than n_dim - 1.
        scale: (n, n_dim, n_dim); the mean of a draw is scale / (freedom - n_dim - 1).

    Returns:
        (n, n_dim, n_dim).

    Errors:
        None.

    Example:
        >>> root = inverse_wishart(jax.random.PRNGKey(0), jnp.full(4000, 5.0), jnp.full((4000, 1, 1), 3.0))
        >>> bool(abs((root**2).mean() - 1.0) < 0.1)
        True
    """
    d = scale.shape[1]
    key_chi, key_noise = jax.random.split(key)
    # the precision is L^-T B B^T L^-1 with scale = L L^T, so L B^-T is a root of the covariance
    chi = jnp.sqrt(2.0 * jax.random.gamma(key_chi, 0.5 * (freedom[:, None] - jnp.arange(d)[None])))
    bartlett = jnp.tril(jax.random.normal(key_noise, scale.shape), -1) + chi[:, :, None] * jnp.eye(d)[None]
    turned = jax.scipy.linalg.solve_triangular(
        bartlett, jnp.swapaxes(jnp.linalg.cholesky(scale), 1, 2), lower=True
    )  # fmt: skip
    return jnp.linalg.cholesky(jnp.swapaxes(turned, 1, 2) @ turned)


def log_inverse_wishart(root: Array, freedom: Array, scale_root: Array) -> Array:
    """ln of the density that `inverse_wishart` has, in the entries of the lower triangle of Sigma.

    Args:
        root: lower triangular, Sigma = root root^T, (n, n_dim, n_dim).
        freedom: degrees of freedom, (n,).
        scale_root: lower triangular root of the scale, (n, n_dim, n_dim).

    Returns:
        (n,).

    Errors:
        None.

    Example:
        >>> one = jnp.ones((1, 1, 1))
        >>> found = float(jnp.exp(log_inverse_wishart(one, jnp.full(1, 2.0), one))[0])
        >>> round(found, 6) == round(0.5 * float(np.exp(-0.5)), 6)  # 1 / Sigma ~ chi^2 of 2 degrees
        True
    """
    d = root.shape[-1]
    log_det = lambda half: 2.0 * jnp.log(jnp.diagonal(half, axis1=1, axis2=2)).sum(1)  # noqa: E731
    turned = jax.scipy.linalg.solve_triangular(root, scale_root, lower=True)
    shape = 0.5 * freedom * (log_det(scale_root) - d * np.log(2.0)) - 0.5 * (freedom + d + 1.0) * log_det(root)
    return shape - 0.5 * (turned**2).sum((1, 2)) - jax.vmap(lambda x: multigammaln(0.5 * x, d))(freedom)


def log_drawn(weight: Array, a: Array, b: Array) -> Array:
    """ln of the odds that the component a is drawn by weight, b set aside.

    Args:
        weight: (n_comp,).
        a, b: numbers of two components.

    Returns:
        A number.

    Errors:
        None.

    Example:
        >>> float(jnp.exp(log_drawn(jnp.array([0.5, 0.3, 0.2]), 0, 2)).round(3))
        0.625
    """
    return jnp.log(weight[a]) - jnp.log1p(-weight[b])


def jump(
    key: Array, atoms: Atoms, stars: Stars, background: Array, concentration: Array, priors: MixturePriors
) -> Atoms:
    """Try to move one component inside or beside another.

    A component b, drawn evenly, is proposed anew beside an a drawn by weight: half of the time from the prior, else

        mu_b ~ N(mu_a, Sigma_a),   Sigma_b ~ InverseWishart(n_dim + 8, 7 Sigma_a),

    with w_a + w_b kept and w_b / (w_a + w_b) ~ Beta(0.2, 1), the sticks in a new order, and taken or not by Metropolis'
    rule on the density with the stars' components summed over. A component without stars looks like the prior: so the
    way back has a chance.

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
        >>> moved = jump(jax.random.PRNGKey(0), atoms, stars, jnp.array(0.01), jnp.array(1.0), MixturePriors())
        >>> float(moved.weight.sum().round(6))
        1.0
    """
    k, d = atoms.mean.shape
    keys = jax.random.split(key, 10)
    b = jax.random.randint(keys[0], (), 0, k)
    a = jax.random.categorical(keys[1], jnp.where(jnp.arange(k) == b, -jnp.inf, jnp.log(atoms.weight)))
    both, centre, half = atoms.weight[a] + atoms.weight[b], atoms.mean[a], atoms.root[a]
    share = jnp.clip(draw_share(keys[2]), 1e-12, 1.0 - 1e-12)
    near, noise = jax.random.bernoulli(keys[3]), jax.random.normal(keys[4], (d,))
    mean_far, root_far = draw_base(keys[np.array([4, 6, 7])], d, priors)
    mean = jnp.where(near, centre + half @ noise, mean_far)
    shape = inverse_wishart(keys[5], jnp.full(1, d + FREEDOM), (FREEDOM - 1.0) * (half @ half.T)[None])[0]
    root = jnp.where(near, shape, root_far)
    weight = atoms.weight.at[b].set(share * both).at[a].set((1.0 - share) * both)
    column = log_joint(stars, jnp.zeros(1), mean[None], lower((root @ root.T)[None]))[:, 0]
    moved = Atoms(weight, atoms.mean.at[b].set(mean), atoms.root.at[b].set(root), atoms.density.at[:, b].set(column))

    def log_prior_of(atoms: Atoms) -> Array:
        return log_base(atoms.mean[b][None], atoms.root[b][None], priors)[0]

    def log_target(atoms: Atoms) -> Array:
        log_weight = jnp.append(jnp.log1p(-background) + jnp.log(atoms.weight), jnp.log(background))
        fit = (jax.nn.logsumexp(log_weight[None, :, None] + atoms.density, axis=1) * stars.real).sum()
        return fit + log_prior_of(atoms)

    def log_proposal(atoms: Atoms) -> Array:
        """ln q(b | a) over that of drawing a for the way back, without what is the same there and back."""
        off = jax.scipy.linalg.solve_triangular(half, atoms.mean[b] - centre, lower=True)
        scale = (FREEDOM - 1.0) ** 0.5 * half[None]
        wishart = log_inverse_wishart(atoms.root[b][None], jnp.full(1, d + FREEDOM), scale)[0]
        nearby = wishart - 0.5 * (off**2 + np.log(2.0 * np.pi)).sum() - jnp.log(jnp.diagonal(half)).sum()
        return (
            (SPLIT - 1.0) * jnp.log(atoms.weight[b] / both)
            + jnp.logaddexp(nearby, log_prior_of(atoms))
            - log_drawn(atoms.weight, a, b)
        )

    gain = log_target(moved) - log_target(atoms) + log_proposal(atoms) - log_proposal(moved)
    return taken(keys[9], keys[8], atoms, moved, gain, concentration)
