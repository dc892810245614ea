"""Effective draws per second of hbcal's mixture against the textbook's, in NumPyro and in PyMC, on the same stars.

    python benchmarks/populations_textbook.py [--n 1000] [--dim 4] [--components 10] [--draws 300] [--rivals ...]

The textbook's Dirichlet-process mixture is the same model: broken sticks, LKJ correlations, log-normal widths, a
background, the components of stars summed over; its stars have covariances of their own, and its factors are the
library's. What is compared is the smallest bulk ESS of what no naming of components changes (log density at 50 points,
co-clustering of 50 pairs, the concentration) over the seconds that sampling took; hbcal's include compilation, starts,
diagnostics, figures and everything else that `populations` does, the rivals' their compilation and sampling alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from arviz_stats.base import array_stats
from numpyro.infer import MCMC, NUTS
from populations_truth import joint
from scipy.special import logsumexp

from hbcal.calibration import ConvergenceWarning
from hbcal.catalogue.abundances import Abundances
from hbcal.population_design import Posed, pose
from hbcal.population_recipe import parse_populations
from hbcal.populations import populations
from hbcal.programs.dp_mixture import MixturePriors

PRIORS = MixturePriors()


def sky(n: int, d: int) -> Abundances:
    """Four populations that overlap, every star with errors of its own."""
    rng = np.random.default_rng(0)
    which, mean = rng.choice(4, n, p=[0.5, 0.25, 0.15, 0.1]), 0.2 * rng.normal(size=(4, d))
    err = 0.035 * 10 ** (0.3 * rng.normal(size=(n, d)))
    value = mean[which] + 0.08 * rng.normal(size=(n, d)) + err * rng.normal(size=(n, d))
    names = tuple(f"x{i}" for i in range(d))
    star = np.array([f"s{i}" for i in range(n)], object)
    return Abundances(star, names, ("dex",) * d, value, err[:, :, None] ** 2 * np.eye(d), {})


def textbook(value: Any, error: Any, k: int) -> None:
    """The program as a textbook has it."""
    d = value.shape[1]
    concentration = numpyro.sample("concentration", dist.Gamma(*PRIORS.concentration))
    background = numpyro.sample("background", dist.Beta(1.0, 1.0 / PRIORS.background - 1.0))
    stick = numpyro.sample("stick", dist.Beta(jnp.ones(k - 1), concentration).to_event(1))
    mean = numpyro.sample("mean", dist.Normal(0.0, PRIORS.mean).expand([k, d]).to_event(2))
    sd = numpyro.sample("sd", dist.LogNormal(np.log(PRIORS.sd[0]), PRIORS.sd[1]).expand([k, d]).to_event(2))
    corr = numpyro.sample("corr", dist.LKJCholesky(d, PRIORS.correlation).expand([k]).to_event(1))
    root = sd[:, :, None] * corr
    weight = jnp.append(stick, 1.0) * jnp.append(1.0, jnp.cumprod(1.0 - stick))
    weight = jnp.append((1.0 - background) * weight, background)
    whole = jnp.concatenate([root @ jnp.swapaxes(root, 1, 2), PRIORS.background_sd**2 * jnp.eye(d)[None]])
    means = jnp.concatenate([mean, jnp.zeros((1, d))])
    each = dist.MultivariateNormal(means[None], covariance_matrix=whole[None] + error[:, None])
    numpyro.deterministic("weight", weight)
    numpyro.deterministic("means", means)
    numpyro.deterministic("covariance", whole)
    numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(probs=weight), each), obs=value)


def in_numpyro(value: np.ndarray, error: np.ndarray, k: int, draws: int) -> tuple[float, dict[str, np.ndarray]]:
    begun = time.monotonic()
    mcmc = MCMC(NUTS(textbook), num_warmup=draws, num_samples=draws, num_chains=2, chain_method="sequential",
                progress_bar=False)  # fmt: skip
    mcmc.run(jax.random.PRNGKey(0), jnp.asarray(value), jnp.asarray(error), k)
    found = {name: np.asarray(each) for name, each in mcmc.get_samples(group_by_chain=True).items()}
    return time.monotonic() - begun, found


def in_pymc(value: np.ndarray, error: np.ndarray, k: int, draws: int) -> tuple[float, dict[str, np.ndarray]]:
    import pymc as pm
    import pytensor.tensor as pt
    from pytensor.tensor.blockwise import Blockwise
    from pytensor.tensor.slinalg import Cholesky, SolveTriangular

    d = value.shape[1]
    begun = time.monotonic()
    with pm.Model():
        concentration = pm.Gamma("concentration", *PRIORS.concentration)
        background = pm.Beta("background", 1.0, 1.0 / PRIORS.background - 1.0)
        stick = pm.Beta("stick", 1.0, concentration, shape=k - 1)
        mean = pm.Normal("mean", 0.0, PRIORS.mean, shape=(k, d))
        roots = []
        for j in range(k):
            width = pm.LogNormal.dist(np.log(PRIORS.sd[0]), PRIORS.sd[1], shape=d)
            root, _, _ = pm.LKJCholeskyCov(f"root{j}", n=d, eta=PRIORS.correlation, sd_dist=width)
            roots.append(root)
        root = pt.stack(roots)
        weight = pt.concatenate([stick, [1.0]]) * pt.concatenate([[1.0], pt.cumprod(1.0 - stick)])
        weight = pm.Deterministic("weight", pt.concatenate([(1.0 - background) * weight, [background]]))
        wide = PRIORS.background_sd**2 * np.eye(d)[None]
        whole = pm.Deterministic("covariance", pt.concatenate([root @ root.transpose(0, 2, 1), wide]))
        means = pm.Deterministic("means", pt.concatenate([mean, np.zeros((1, d))]))
        factor = Blockwise(Cholesky(lower=True))(whole[None] + error[:, None])
        off = value[:, None] - means[None]
        solved = Blockwise(SolveTriangular(lower=True, b_ndim=1))(factor, off)
        log_det = pt.log(pt.diagonal(factor, axis1=-2, axis2=-1)).sum(-1)
        each = pt.log(weight)[None] - 0.5 * (solved**2).sum(-1) - log_det - 0.5 * d * np.log(2.0 * np.pi)
        pm.Potential("y", pt.logsumexp(each, axis=1).sum())
        trace = pm.sample(draws=draws, tune=draws, chains=2, cores=2, progressbar=False, random_seed=1,
                          compute_convergence_checks=False)  # fmt: skip
    found = {name: trace["posterior"][name].to_numpy() for name in ("weight", "means", "covariance", "concentration")}
    return time.monotonic() - begun, found


def functionals(found: dict[str, np.ndarray], stars: Abundances, posed: Posed) -> dict[str, np.ndarray]:
    """What no naming of components changes, (chain, draw) each; the stars scaled."""
    n_dim = stars.value.shape[1]
    points = Abundances(stars.star[:50], stars.elements, stars.units, posed.points, np.zeros((50, n_dim, n_dim)), {})
    out: dict[str, list[Any]] = {}
    shape = found["concentration"].shape
    first, second = (stars.take(posed.pairs[:, k]) for k in (0, 1))
    for at in np.ndindex(*shape):
        mixture = tuple(found[name][at] for name in ("weight", "means", "covariance"))
        density = logsumexp(joint(points, *mixture), axis=1)
        share = [np.exp(each - logsumexp(each, axis=1)[:, None]) for each in
                 (joint(first, *mixture), joint(second, *mixture))]  # fmt: skip
        for name, values in (("log_density", density), ("coclustering", (share[0] * share[1]).sum(1))):
            for i, one in enumerate(values):
                out.setdefault(f"{name}{i}", []).append(one)
    return {name: np.reshape(values, shape) for name, values in out.items()} | {"concentration": found["concentration"]}


def worst(drawn: dict[str, np.ndarray], seconds: float) -> dict[str, float]:
    ess = min(float(array_stats.ess(each, chain_axis=0, draw_axis=1, method="bulk")) for each in drawn.values())
    r_hat = max(float(array_stats.rhat(each, chain_axis=0, draw_axis=1)) for each in drawn.values())
    return {"seconds": seconds, "bulk ESS": ess, "R-hat": r_hat, "ESS per second": ess / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=4)
    parser.add_argument("--components", type=int, default=10)
    parser.add_argument("--draws", type=int, default=300, help="of the rivals, after as many of warmup, in two chains")
    parser.add_argument("--rivals", nargs="*", default=["numpyro", "pymc"], choices=["numpyro", "pymc"])
    options = parser.parse_args()
    stars = sky(options.n, options.dim)
    elements = {name: {"value": name, "error": [f"{name}_err"]} for name in stars.elements}
    recipe = parse_populations({
        "name": "textbook", "title": "t", "elements": elements, "stars": {"file": "none"},
        "mixture": {"components": options.components},
    })  # fmt: skip
    posed = pose(stars, recipe, 1)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        run = populations(recipe, stars, Path(folder) / "run")
        seconds = time.monotonic() - begun
        drawn = {"concentration": run.posterior["concentration"].to_numpy()}
        for name in ("log_density", "coclustering"):
            values = run.posterior[name].to_numpy()
            drawn |= {f"{name}{i}": values[:, :, i] for i in range(values.shape[2])}
    result = {"hbcal": worst(drawn, seconds)}
    print(json.dumps(result), flush=True)
    value = (stars.value - posed.centre) / posed.unit
    error = stars.covariance / posed.unit[:, None] / posed.unit[None, :]
    within = Abundances(stars.star, stars.elements, stars.units, value, error, {})
    for name in options.rivals:
        rival = {"numpyro": in_numpyro, "pymc": in_pymc}[name]
        seconds, found = rival(value, error, options.components, options.draws)
        result[name] = worst(functionals(found, within, posed), seconds)
        result[name]["ratio"] = result["hbcal"]["ESS per second"] / result[name]["ESS per second"]
        print(json.dumps({name: result[name]}), flush=True)


if __name__ == "__main__":
    main()
