"""Simulation-based calibration of the mixture on numbers that need no names of components, NUTS and sweeps together.

Truth and stars are drawn from the prior, the posterior is sampled by the very steps that `hbcal.populations` takes, and
the truth must rank uniformly. Ignoring the errors of the stars is the planted defect.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.handlers import seed, trace

from hbcal.check.sbc import ranks, uniformity, verdict
from hbcal.infer.moves import Moves, moving_kernel
from hbcal.infer.potential import Potential
from hbcal.infer.task import Settings, Task
from hbcal.mixture_moves import scales, sweep
from hbcal.numerics.star_mixture import log_joint
from hbcal.numerics.stars import lower, pack_stars, unblocked
from hbcal.population_design import NOISE
from hbcal.programs.dp_mixture import MixtureDesign, MixturePriors, components, dp_mixture

N_SIM, N_STAR, D, K, KEPT, EVERY, SWEEPS = 160, 60, 2, 4, 63, 6, 3
PRIORS = MixturePriors(background=0.05)


@pytest.fixture(scope="module", name="design")
def _design():
    rng = np.random.default_rng(0)
    value = np.zeros((N_STAR, D))
    value[rng.random(value.shape) < 0.15] = np.nan
    stars = jax.tree.map(
        lambda leaf: leaf[..., :64], pack_stars(value, 0.3**2 * rng.uniform(0.5, 2.0, (N_STAR, 1, 1)) * np.eye(D))
    )
    nothing = np.zeros((5, D, D))
    points = jax.tree.map(lambda leaf: leaf[..., :5], pack_stars(rng.normal(size=(5, D)), nothing))
    return MixtureDesign(stars, points, rng.integers(N_STAR, size=(5, 2)), N_STAR, D, K)


def functionals(sites, design, y):
    log_weight, mean, root = components(sites, PRIORS)
    covariance = lower(root @ jnp.swapaxes(root, 1, 2))
    share = unblocked(
        jax.nn.softmax(log_joint(design.stars.with_value(y), log_weight, mean, covariance), axis=1), N_STAR
    )
    first, second = share[jnp.asarray(design.pairs[:, 0])], share[jnp.asarray(design.pairs[:, 1])]
    density = jax.nn.logsumexp(log_joint(design.points, log_weight, mean, covariance), axis=1)[0]
    weight = jnp.exp(log_weight[:-1])
    return jnp.concatenate([
        density, (first * second).sum(1), jnp.stack([sites["concentration"], sites["background"], (weight**2).sum()])
    ])  # fmt: skip


NAMES = (
    *(f"density {i}" for i in range(5)),
    *(f"together {i}" for i in range(5)),
    "concentration",
    "background",
    "w^2",
)


def offenders(design, fitted):
    """Ranks of the truth for stars simulated with `design`'s errors and fitted with those of `fitted`."""
    task = Task(dp_mixture, (), {"priors": PRIORS}, moves=Moves(sweep, scales, NOISE, SWEEPS))
    settings = Settings(warmup=100, draws=KEPT * EVERY, max_tree_depth=5)
    potential = Potential(task)

    def one(key):
        key_prior, key_start, key_chain = jax.random.split(key, 3)
        model = trace(seed(lambda: dp_mixture(design, priors=PRIORS), key_prior)).get_trace()
        truth = {name: site["value"] for name, site in model.items() if site["type"] == "sample"}
        y = truth.pop("y")
        other = trace(seed(lambda: dp_mixture(design, priors=PRIORS), key_start)).get_trace()
        args = (fitted, y)
        start = potential.straight({name: other[name]["value"] for name in truth}, args)
        z, unravel = jax.flatten_util.ravel_pytree(start)
        init, step = moving_kernel(potential, settings, unravel)

        def kept(state, _):
            state = jax.lax.fori_loop(0, EVERY, lambda _, state: step(state, args), state)
            sites = potential.sites(unravel(state.z), args)
            return state, functionals(sites, design, y)

        state = jax.lax.fori_loop(0, settings.warmup, lambda _, state: step(state, args), init(key_chain, z, args))
        return functionals(truth, design, y), jax.lax.scan(kept, state, None, length=KEPT)[1]

    with jax.numpy_rank_promotion("allow"):  # NUTS itself adds vectors to matrices
        keys = jax.random.split(jax.random.PRNGKey(0), N_SIM)
        truth, draws = (np.asarray(each) for each in jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=16))(keys))
    return verdict({
        name: uniformity(ranks(truth[:, j], draws[:, :, j]), KEPT) for j, name in enumerate(NAMES)
    })  # fmt: skip


@pytest.mark.slow
def test_ranks_are_uniform(design):
    assert not offenders(design, design)


@pytest.mark.slow
def test_errors_that_are_ignored_are_caught(design):
    exact = replace(design.stars, error=0.0 * design.stars.error, root=0.0 * design.stars.root)
    assert offenders(design, replace(design, stars=exact))
