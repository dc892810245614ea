"""A component taken out of a mixture and fitted anew where a star lies, beside the others: births, deaths, removals.

A small population draws its stars from several components at once, so that no pair of them (`hbcal.mixture_pairs`) can
make room for it. Here all others stay as they are and only hand over what they hold.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betaln

from hbcal._typing import Array
from hbcal.mixture_jumps import Atoms, draw_base, log_base, taken
from hbcal.mixture_pairs import deconvolved
from hbcal.numerics.component_fit import draw_fit, fitted, log_fit
from hbcal.numerics.star_mixture import log_joint
from hbcal.numerics.stars import Stars, lower, unblocked
from hbcal.programs.dp_mixture import MixturePriors

BEGIN = 0.03, 0.5  # share of the stars, and widths in the prior's, from which a fit begins
NEWTON = 6  # steps; twice as many are taken a fifth more often, and cost as much again
FEW = 0.02  # share of the stars: larger components are taken out less often, in inverse proportion
FAR = 0.2  # a component drawn from the prior has a share ~ Beta(0.2, 1 + 0.2 n_star)


def log_drawn(weight: Array) -> Array:
    """ln of the odds that a component is the one to be fitted anew: small ones first.

    Args:
        weight: (n_comp,).

    Returns:
        (n_comp,).

    Errors:
        None.

    Example:
        >>> [round(float(p), 3) for p in jnp.exp(log_drawn(jnp.array([0.98, 0.02, 0.0])))]
        [0.013, 0.329, 0.658]
    """
    return jax.nn.log_softmax(-jnp.log(weight + FEW))


def birth(
    key: Array, atoms: Atoms, stars: Stars, background: Array, concentration: Array, priors: MixturePriors
) -> Atoms:
    """Try to put a component where it is needed, or one that is not needed out of the way.

    A component, small ones first, b with odds 1 / (w_b + 0.02), and a star, evenly, are drawn. From the star on, a
    Gaussian is fitted beside the mixture of all other components and the background, and proposed is, with even odds,
    what its posterior looks like there (`hbcal.numerics.component_fit`) or a draw of the prior; its share s changes
    those of the others to (1 - s) of what they are among themselves. The fit knows nothing of the component it may
    replace: so Metropolis' rule needs the density of proposals at the new one and the old.

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
        >>> moved = birth(jax.random.PRNGKey(0), atoms, stars, jnp.array(0.01), jnp.array(1.0), MixturePriors())
        >>> float(moved.weight.sum().round(6))
        1.0
    """
    (k, d), keys = atoms.mean.shape, jax.random.split(key, 10)
    b = jax.random.categorical(keys[0], -jnp.log(atoms.weight + FEW))
    n_star, stays = jnp.asarray(stars.real).sum(), jnp.arange(k) != b
    among = jnp.where(stays, jnp.log(atoms.weight) - jnp.log1p(-atoms.weight[b]), -jnp.inf)
    # the fit takes the background for one of the others, whose shares s changes; the rule below does not
    rest = jnp.append(jnp.log1p(-background) + among, jnp.log(background))
    other = jax.nn.logsumexp(rest[None, :, None] + atoms.density, axis=1)

    seed = jax.random.categorical(keys[1], jnp.log(stars.real).ravel())
    begin = unblocked(stars.value, stars.real.size)[seed][None]
    narrow = (BEGIN[1] * priors.sd[0]) ** 2 * jnp.eye(d)[None]
    n, mean, covariance = deconvolved(stars, BEGIN[0] * n_star[None], begin, narrow, priors, other)
    base = partial(log_base, priors=priors)
    odds = jnp.log(n[0]) - jnp.log(n_star - n[0])
    fit = fitted(stars, odds, mean, jnp.linalg.cholesky(covariance), base, NEWTON, other)

    here = jax.random.bernoulli(keys[2])
    share_here, mean_here, root_here = draw_fit(keys[3], fit)
    mean_far, root_far = draw_base(keys[np.array([5, 4, 6])], d, priors)
    share_far = jax.random.beta(keys[7], FAR, 1.0 + FAR * n_star)
    share = jnp.clip(jnp.where(here, share_here, share_far), 1e-12, 1.0 - 1e-12)
    mean, root = jnp.where(here, mean_here[0], mean_far), jnp.where(here, root_here[0], root_far)
    column = log_joint(stars, jnp.zeros(1), mean[None], lower((root @ root.T)[None]))[:, 0]
    weight = jnp.where(stays, (1.0 - share) * jnp.exp(among), share)
    moved = Atoms(weight, atoms.mean.at[b].set(mean), atoms.root.at[b].set(root), atoms.density.at[:, b].set(column))

    def log_ratio(atoms: Atoms) -> Array:
        """ln of the density of the component and its share, less that of its being proposed; and of its being drawn."""
        mean, root, share = atoms.mean[b][None], atoms.root[b][None], atoms.weight[b]
        log_weight = jnp.append(jnp.log1p(-background) + jnp.log(atoms.weight), jnp.log(background))
        like = (jax.nn.logsumexp(log_weight[None, :, None] + atoms.density, axis=1) * stars.real).sum()
        prior = base(mean, root)[0]
        p, q = FAR, 1.0 + FAR * n_star
        far = prior + (p - 1.0) * jnp.log(share) + (q - 1.0) * jnp.log1p(-share) - betaln(p, q)
        proposed = jnp.logaddexp(log_fit(share, mean, root, fit), far)
        drawn = log_drawn(atoms.weight)[b]
        return like + prior + (k - 2.0) * jnp.log1p(-share) - proposed + drawn  # others' shares have (1 - s)^(k - 2)

    gain = log_ratio(moved) - log_ratio(atoms)
    return taken(keys[8], keys[9], atoms, moved, gain, concentration)
