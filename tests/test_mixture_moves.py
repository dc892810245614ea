"""Gibbs' sampler and its jumps: stars simulated from the prior, moved once or more, must still follow the prior.

Parameters are drawn from the prior, stars from them, and then the parameters moved given the stars: whatever the moves,
the parameters' distribution is the prior again (Geweke 2004, JASA 99, 799). It sees a wrong acceptance, a wrong
Jacobian, a wrong conditional, in one test without any reference chain.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.handlers import seed, trace
from scipy.stats import ks_2samp, ttest_rel

import hbcal.mixture_births as mixture_births
import hbcal.mixture_jumps as mixture_jumps
import hbcal.mixture_moves as moves
from hbcal.mixture_births import birth
from hbcal.mixture_jumps import Atoms, draw_base, jump
from hbcal.mixture_moves import sweep
from hbcal.numerics.star_mixture import log_joint
from hbcal.numerics.stars import lower, pack_stars
from hbcal.numerics.sticks import log_weights
from hbcal.programs.dp_mixture import MixtureDesign, MixturePriors, dp_mixture

N, N_STAR, D, K, SWEEPS = 1000, 30, 2, 3, 2
ALARM = 1e-4  # of each comparison
PRIORS = MixturePriors(correlation=1.5, background=0.1)


@pytest.fixture(scope="module", name="design")
def _design():
    rng = np.random.default_rng(0)
    value = np.zeros((N_STAR, D))
    value[rng.random(value.shape) < 0.2] = np.nan
    root = 0.3 * rng.normal(size=(N_STAR, D, D))
    stars = pack_stars(value, root @ root.swapaxes(1, 2))
    stars = jax.tree.map(lambda leaf: leaf[..., :32], stars)  # a small block
    return MixtureDesign(stars, stars, np.zeros((1, 2), int), N_STAR, D, K)


def functions(sites):
    """Numbers that do and do not depend on the order of the components."""
    weight = jnp.exp(log_weights(sites["stick"]))
    middle = weight @ sites["mean"]
    return jnp.stack([
        sites["concentration"], sites["background"], weight[0], weight[-1], weight.max(), middle[0],
        (weight @ (sites["mean"] - middle[None]) ** 2)[1], weight @ jnp.log(sites["sd"][:, 0]),
        jnp.log(sites["sd"][-1, 1]), weight @ sites["corr"][:, 1, 0], sites["corr"][0, 1, 0], sites["mean"][-1, 0],
    ])  # fmt: skip


def moved(design, key, n_sweep, priors=PRIORS):
    def one(key):
        key_prior, *keys = jax.random.split(key, n_sweep + 1)
        model = trace(seed(lambda: dp_mixture(design, priors=PRIORS), key_prior)).get_trace()
        sites = {name: site["value"] for name, site in model.items() if site["type"] == "sample"}
        y = sites.pop("y")
        for each in keys:
            sites = sweep(each, sites, design, y, priors=priors)
        return functions(sites)

    run = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=200))
    return np.asarray(run(jax.random.split(jax.random.PRNGKey(key), N)))


def worst(one, other):
    return min(ks_2samp(a, b).pvalue for a, b in zip(one.T, other.T, strict=True))


def mean_moved(before, after):
    """The same chains before and after, of which few moved: their differences tell more than the two samples do."""
    return ttest_rel(before, after).pvalue.min()


@pytest.fixture(scope="module", name="fresh")
def _fresh(design):
    return moved(design, 0, 0)


def test_sweeps_leave_prior_and_simulation(design, fresh):
    assert worst(fresh, moved(design, 1, SWEEPS)) > ALARM


def jumped(move, n, n_move, n_star, d=2, k=3):
    """Components drawn from the prior before and after moves that few stars, or none, have a say in."""
    few = pack_stars(np.zeros((max(n_star, 1), d)), np.tile(0.1 * np.eye(d), (max(n_star, 1), 1, 1)))
    few = jax.tree.map(lambda leaf: leaf[..., : max(n_star, 1)], few)
    few = few if n_star else replace(few, real=np.zeros((1, 1)))
    alpha, background = jnp.array(1.5), jnp.array(0.1)

    def one(key):
        key_stick, key_which, key_true, *keys = jax.random.split(key, 3 + k + n_move)
        stick = jnp.append(jax.random.beta(key_stick, 1.0, alpha, (k - 1,)), 1.0)
        weight = stick * jnp.append(1.0, jnp.cumprod(1.0 - stick[:-1]))
        mean, root = jax.vmap(lambda key: draw_base(jax.random.split(key, 3), d, PRIORS))(jnp.stack(keys[:k]))
        centre, half = (jnp.concatenate([a, b[None]]) for a, b in ((mean, jnp.zeros(d)), (root, 3.0 * jnp.eye(d))))
        odds = jnp.log(jnp.append((1.0 - background) * weight, background))
        which = jax.random.categorical(key_which, odds, shape=(few.real.size,))
        noise = jax.random.normal(key_true, (2, few.real.size, d))
        value = centre[which] + jnp.einsum("nij,nj->ni", half[which], noise[0]) + 0.1**0.5 * noise[1]
        stars = few.with_value(value.T[None])
        density = log_joint(stars, jnp.zeros(k + 1), centre, lower(half @ jnp.swapaxes(half, 1, 2)))
        begin = Atoms(weight, mean, root, density)
        step = lambda atoms, key: (move(key, atoms, stars, background, alpha, PRIORS), None)  # noqa: E731
        end = jax.lax.scan(step, begin, jnp.stack(keys[k:]))[0]
        return [
            jnp.stack([at.weight[0], at.weight.max(), at.weight[-1], at.mean[0, 0], jnp.log(at.root[0, 0, 0])])
            for at in (begin, end)
        ]

    return [np.asarray(each) for each in jax.jit(jax.vmap(one))(jax.random.split(jax.random.PRNGKey(5), n))]


def test_jumps_of_nobody_leave_the_prior(monkeypatch):
    """Where stars hold components, a wrong odds of drawing one hardly shows; of the prior alone, it does."""
    assert worst(*jumped(jump, 8_000, 20, 0)) > ALARM
    right = mixture_jumps.log_drawn
    monkeypatch.setattr(mixture_jumps, "log_drawn", lambda *given: -right(*given))
    assert worst(*jumped(jump, 8_000, 20, 0)) < ALARM


@pytest.mark.slow
def test_births_beside_a_dozen_stars_leave_prior_and_simulation(monkeypatch):
    assert mean_moved(*jumped(birth, 8_000, 10, 12)) > ALARM
    monkeypatch.setattr(mixture_births, "log_drawn", jnp.zeros_like)  # any component as likely
    assert mean_moved(*jumped(birth, 8_000, 10, 12)) < ALARM


@pytest.mark.slow
def test_a_wrong_prior_of_the_covariances_is_caught(design, fresh):
    assert worst(fresh, moved(design, 1, SWEEPS, replace(PRIORS, sd=(0.5, 0.7)))) < ALARM


@pytest.mark.slow
def test_a_jump_that_forgets_the_prior_of_the_weights_is_caught(design, fresh, monkeypatch):
    monkeypatch.setattr(moves, "JUMPS", 20)
    monkeypatch.setattr(moves, "REPAIRS", 0.0)
    monkeypatch.setattr(moves, "BIRTHS", 0.0)
    assert worst(fresh, moved(design, 1, 1)) > ALARM
    monkeypatch.setattr("hbcal.mixture_jumps.log_unordered", lambda weight, concentration: 0.0)
    assert worst(fresh, moved(design, 1, 1)) < ALARM


@pytest.mark.slow
@pytest.mark.parametrize(
    ("repairs", "births", "forgotten"),
    [
        pytest.param(1.0, 0.0, "mixture_pairs.log_fit", id="pairs"),  # any fit as likely
        pytest.param(0.0, 1.0, "mixture_births.log_fit", id="births"),
        pytest.param(0.0, 0.0, "mixture_noncentred.log_volume", id="places"),  # the volume of Sigma per volume of L
    ],
)
def test_each_move_leaves_prior_and_simulation(design, fresh, monkeypatch, repairs, births, forgotten):
    monkeypatch.setattr(moves, "JUMPS", 0)
    monkeypatch.setattr(moves, "REPAIRS", repairs)
    monkeypatch.setattr(moves, "BIRTHS", births)
    assert worst(fresh, moved(design, 1, 4)) > ALARM
    monkeypatch.setattr(f"hbcal.{forgotten}", lambda *args: jnp.zeros(()))
    assert worst(fresh, moved(design, 1, 4)) < ALARM
