"""Moves between the components of a mixture that NUTS alone would wait for: a sweep of Gibbs' sampler, site by site.

Stars are given to components, their true values drawn, and then everything else given those: sticks, concentration and
background exactly; the means exactly; the covariances, whose prior is not conjugate, by Metropolis' rule with two
proposals, the inverse Wishart that the stars ask for and a draw of the prior. Then means and covariances are drawn once
more with the stars held at their places within their components (`hbcal.mixture_noncentred`). Before all that single
components jump (`hbcal.mixture_jumps`), and now and then one of them (`hbcal.mixture_births`) or a pair
(`hbcal.mixture_pairs`) is fitted anew. At last the components are put in a new order. Each step leaves the posterior of
`hbcal.programs.dp_mixture` as it is, so sweeps may stand between transitions of NUTS, or alone as a fast sampler of the
same posterior.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from hbcal._typing import Array
from hbcal.mixture_births import birth
from hbcal.mixture_jumps import Atoms, inverse_wishart, jump, log_prior
from hbcal.mixture_noncentred import noncentred
from hbcal.mixture_pairs import repair
from hbcal.numerics.star_draws import draw_component, draw_true
from hbcal.numerics.star_mixture import log_joint
from hbcal.numerics.stars import lower, square
from hbcal.numerics.sticks import log_weights, reorder, sticks
from hbcal.programs.dp_mixture import MixtureDesign, MixturePriors, components

Sites = Mapping[str, Any]  # site -> array, or number
PRIORS = MixturePriors()
JUMPS = 2  # of single components, tried in each sweep
BIRTHS = 0.6  # share of the sweeps in which a component is fitted anew beside the others
REPAIRS = 0.02  # and in which a pair of components is
LEAST = 0.1  # of the inverse Wishart: its prior scale, in squares of the prior's median sd


def sweep(
    key: Array, sites: Sites, design: MixtureDesign, y: Array, *, priors: MixturePriors = PRIORS
) -> dict[str, Array]:
    """One sweep of Gibbs' sampler over all sites of `dp_mixture`.

    Args:
        key: of its draws.
        sites: where the chain is.
        design, y, priors: of the program.

    Returns:
        Where the chain is next.

    Errors:
        None.

    Example:
        >>> import numpyro
        >>> from hbcal.programs.dp_mixture import dp_mixture
        >>> design = tiny_mixture()
        >>> model = numpyro.handlers.trace(numpyro.handlers.seed(dp_mixture, 0)).get_trace(design)
        >>> sites = {name: site["value"] for name, site in model.items() if site["type"] == "sample"}
        >>> y = sites.pop("y")
        >>> moved = jax.jit(sweep)(jax.random.PRNGKey(1), sites, design, y)
        >>> sorted(moved) == sorted(sites), bool(jnp.isfinite(moved["mean"]).all())
        (True, True)

    Source: Ishwaran and James 2001, Journal of the American Statistical Association 96, 161; true values as missing
    data: Bovy, Hogg and Roweis 2011, Annals of Applied Statistics 5, 1657.
    """
    keys = jax.random.split(key, 13)
    stars = design.stars.with_value(y)
    n_comp, d = sites["mean"].shape
    log_weight, mean, root = components(sites, priors)
    density = log_joint(stars, jnp.zeros(n_comp + 1), mean, lower(root @ jnp.swapaxes(root, 1, 2)))
    atoms = Atoms(jnp.exp(log_weights(sites["stick"])), sites["mean"], root[:n_comp], density)

    given = stars, sites["background"], sites["concentration"], priors

    def once(atoms: Atoms, key: Array) -> tuple[Atoms, None]:
        return jump(key, atoms, *given), None

    atoms = jax.lax.scan(once, atoms, jax.random.split(keys[5], JUMPS))[0]
    stay = lambda atoms: atoms  # noqa: E731
    atoms = jax.lax.cond(jax.random.bernoulli(keys[11], BIRTHS), lambda at: birth(keys[12], at, *given), stay, atoms)
    atoms = jax.lax.cond(jax.random.bernoulli(keys[8], REPAIRS), lambda at: repair(keys[9], at, *given), stay, atoms)
    mean, root = (jnp.concatenate([new, old[n_comp:]]) for new, old in ((atoms.mean, mean), (atoms.root, root)))
    log_weight = log_weight.at[:n_comp].set(jnp.log1p(-sites["background"]) + jnp.log(atoms.weight))
    joint = log_weight[None, :, None] + atoms.density
    which = draw_component(keys[0], joint)
    true = draw_true(keys[1], stars, which, mean, root)
    here = jax.nn.one_hot(which, n_comp + 1, axis=1, dtype=true.dtype) * stars.real[:, None, :]
    n = here.sum((0, 2))
    first = jnp.einsum("bkl,bil->ki", here, true)[:n_comp]
    row, column = np.tril_indices(d)
    second = jnp.einsum("bkl,bpl->kp", here, true[:, row] * true[:, column])[:n_comp]

    new_mean = _mean(keys[2], n[:n_comp], first, root[:n_comp], priors)
    about = second - _pairs(new_mean, first) - _pairs(first, new_mean) + n[:n_comp, None] * _pairs(new_mean, new_mean)
    new_root = _covariance(keys[3], n[:n_comp], square(about), root[:n_comp], priors)
    new_mean, new_root = noncentred(keys[10], stars, which, true, new_mean, new_root, priors)
    sd = jnp.sqrt((new_root**2).sum(2))

    after = jnp.cumsum(n[:n_comp][::-1])[::-1]
    stick = jnp.clip(
        jax.random.beta(keys[4], 1.0 + n[: n_comp - 1], sites["concentration"] + after[1:]), 1e-12, 1 - 1e-12
    )
    background = jax.random.beta(keys[6], 1.0 + n[n_comp], 1.0 / priors.background - 1.0 + after[0])
    log_weight = log_weights(stick)
    order, concentration = reorder(keys[7], log_weight, priors.concentration)
    return {
        "background": jnp.clip(background, 1e-12, 1.0 - 1e-12), "concentration": concentration,
        "corr": (new_root / sd[:, :, None])[order], "mean": new_mean[order], "sd": sd[order],
        "stick": sticks(log_weight[order]),
    }  # fmt: skip


def _pairs(a: Array, b: Array) -> Array:
    row, column = np.tril_indices(a.shape[1])
    return a[:, row] * b[:, column]


def _mean(key: Array, n: Array, total: Array, root: Array, priors: MixturePriors) -> Array:
    """Means given true values and covariances: Gaussian, with precision 1 / priors.mean^2 + n Sigma^-1."""
    d = total.shape[1]
    eye = jnp.eye(d)
    inverse = jax.scipy.linalg.solve_triangular(root, jnp.broadcast_to(eye, root.shape), lower=True)
    prec = jnp.swapaxes(inverse, 1, 2) @ inverse
    factor = jnp.linalg.cholesky(n[:, None, None] * prec + eye[None] / priors.mean**2)
    middle = jax.scipy.linalg.cho_solve((factor, True), (prec @ total[:, :, None]))
    noise = jax.random.normal(key, (*total.shape, 1))
    return (middle + jax.scipy.linalg.solve_triangular(factor, noise, lower=True, trans=1))[:, :, 0]


def _covariance(key: Array, n: Array, about: Array, root: Array, priors: MixturePriors) -> Array:
    """Roots of covariances given true values and means: two proposals, each taken or not."""
    d, keys = root.shape[1], jax.random.split(key, 5)
    freedom = d + 1.0
    scale = LEAST * priors.sd[0] ** 2 * jnp.eye(d)[None]

    def log_target(root: Array) -> Array:
        half = jax.scipy.linalg.solve_triangular(root, jnp.broadcast_to(jnp.eye(d), root.shape), lower=True)
        log_det = 2.0 * jnp.log(jnp.diagonal(root, axis1=1, axis2=2)).sum(1)
        trace = lambda m: jnp.einsum("kij,kil,kjl->k", half, half, jnp.broadcast_to(m, root.shape))  # noqa: E731
        fit = -0.5 * n * log_det - 0.5 * trace(about)
        conjugate = -0.5 * (freedom + d + 1.0) * log_det - 0.5 * trace(scale)
        # what a proposal of the prior, and one of the inverse Wishart, has to make up
        return jnp.stack([fit, log_prior(root, priors) - conjugate])

    def choose(key: Array, kind: int, old: Array, new: Array) -> Array:
        take = jnp.log(jax.random.uniform(key, n.shape)) < log_target(new)[kind] - log_target(old)[kind]
        return jnp.where(take[:, None, None], new, old)

    sd = dist.LogNormal(np.log(priors.sd[0]), priors.sd[1]).sample(keys[0], root.shape[:2])
    corr = dist.LKJCholesky(d, priors.correlation).sample(keys[1], (len(root),))
    root = choose(keys[2], 0, root, sd[:, :, None] * corr)
    return choose(keys[4], 1, root, inverse_wishart(keys[3], freedom + n, scale + about))


def scales(sites: Sites, design: MixtureDesign, y: Array, *, priors: MixturePriors = PRIORS) -> dict[str, Array]:
    """How far each unconstrained number of a site may wander, were the components independent: NUTS' step per number.

    A component of n stars has its means to sd / sqrt(n), the logarithms of its widths to 1 / sqrt(2 n), and so on; one
    without stars wanders as its prior does.

    Args:
        sites: any, near where the chain is.
        design, y, priors: of the program.

    Returns:
        Standard deviations per site, of the shape of its unconstrained numbers.

    Errors:
        None.

    Example:
        >>> sites = {"stick": jnp.full(2, 0.5), "sd": jnp.ones((3, 2)), "background": 0.01}
        >>> {name: value.shape for name, value in scales(sites, tiny_mixture(), tiny_mixture().stars.value).items()}
        {'background': (), 'concentration': (), 'corr': (3, 1), 'mean': (3, 2), 'sd': (3, 2), 'stick': (2,)}
    """
    n_star, (k, d) = jnp.asarray(design.stars.real).sum(), sites["sd"].shape
    weight = jnp.exp(log_weights(sites["stick"]))
    n = (n_star * weight)[:, None]
    left = n_star * jnp.cumsum(weight[::-1])[::-1][:-1]
    of_stick = left * sites["stick"] * (1.0 - sites["stick"])
    b = jnp.asarray(sites["background"])
    return {
        "background": (1.0 + n_star * b * (1.0 - b)) ** -0.5, "concentration": jnp.asarray(k**-0.5),
        "corr": jnp.broadcast_to((4.0 + n) ** -0.5, (k, d * (d - 1) // 2)),
        "mean": (priors.mean**-2.0 + n / sites["sd"] ** 2) ** -0.5,
        "sd": jnp.broadcast_to((priors.sd[1] ** -2.0 + 2.0 * n) ** -0.5, (k, d)),
        "stick": (0.3 + of_stick) ** -0.5,
    }  # fmt: skip
