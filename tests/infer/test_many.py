"""Many posteriors side by side: right in one mode, and right in two where NUTS alone is not."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from arviz_stats.base import array_stats
from scipy.stats import kstest

from hbcal.infer.many import ManySettings, sample_many
from hbcal.infer.task import Task

RARE, AWAY = 0.3, 4.0


def two_modes(shift):
    """A share RARE of the probability lies at -AWAY, the rest at AWAY, in the first number; the second is white."""
    lump = dist.MixtureSameFamily(
        dist.Categorical(jnp.array([RARE, 1.0 - RARE])), dist.Normal(jnp.array([-AWAY, AWAY]), 0.5)
    )
    x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real_vector, (), (2,)))
    numpyro.factor("density", lump.log_prob(x[0] - shift) + dist.Normal().log_prob(x[1]))


def drawn(settings, n=16):
    """Weighted draws of a wide Gaussian stand for what importance sampling finds."""
    rng = np.random.default_rng(0)
    shift = np.arange(n, dtype=float)
    near = 5.0 * rng.normal(size=(n, 96, 2))
    first, second = near[..., 0], near[..., 1]
    lumps = RARE * np.exp(-2.0 * (first + AWAY) ** 2) + (1.0 - RARE) * np.exp(-2.0 * (first - AWAY) ** 2)
    weight = (lumps + 1e-300) * np.exp(-0.5 * second**2 + 0.5 * (near**2).sum(-1) / 25.0)
    near[..., 0] += shift[:, None]
    share = weight / weight.sum(axis=1, keepdims=True)
    draws, diverging = jax.jit(
        lambda: sample_many(
            Task(two_modes), "x", jnp.asarray(shift), jnp.asarray(near), jnp.asarray(share), jax.random.PRNGKey(1),
            settings,
        )
    )()  # fmt: skip
    return np.asarray(draws) - np.stack([shift, 0.0 * shift], axis=1)[:, None, None, :], diverging


def test_modes_get_their_shares_with_jumps_and_not_without():
    draws, _ = drawn(ManySettings(draws=400))
    share = (draws[..., 0] < 0).mean(axis=(1, 2))
    ess = array_stats.ess(draws[..., 0], chain_axis=1, draw_axis=2)
    assert np.median(ess) > 400
    assert (np.abs(share - RARE) < 4.0 * np.sqrt(RARE * (1.0 - RARE) / ess)).all()
    assert kstest(draws[:, :, ::8, 1].ravel(), "norm").pvalue > 1e-3
    alone, _ = drawn(ManySettings(draws=400, jumps=0))
    assert np.median(array_stats.rhat(alone[..., 0], chain_axis=1, draw_axis=2)) > 1.2


@pytest.mark.parametrize("jumps", [0, 3])
def test_a_gaussian_posterior_is_that_of_the_closed_form(jumps):
    def program(y):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(x[0] + 0.5 * x[1], 0.5), obs=y)

    y = np.linspace(-2.0, 2.0, 8)
    slope = np.array([1.0, 0.5])
    cov = np.linalg.inv(np.eye(2) + np.outer(slope, slope) / 0.25)
    mean = y[:, None] * (cov @ slope / 0.25)
    rng = np.random.default_rng(1)
    near = mean[:, None] + 1.5 * rng.multivariate_normal(np.zeros(2), cov, (8, 96))
    share = np.full((8, 96), 1.0 / 96)
    draws, _ = sample_many(
        Task(program), "x", jnp.asarray(y), jnp.asarray(near), jnp.asarray(share), jax.random.PRNGKey(0),
        ManySettings(draws=300, jumps=jumps),
    )  # fmt: skip
    white = np.linalg.solve(np.linalg.cholesky(cov), (np.asarray(draws) - mean[:, None, None]).reshape(-1, 2).T)
    assert kstest(white[:, ::10].ravel(), "norm").pvalue > 1e-3
