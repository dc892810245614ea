"""The mode, where plain L-BFGS does not get to it, and a chain that starts there."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import kstest

from hbcal.infer.optimise import Mode
from hbcal.infer.sample import sample
from hbcal.infer.task import Settings, Task

SD = np.array([1e-6, 3e-4, 1.0, 2000.0])
CORRELATION = 0.9 * np.ones((4, 4)) + 0.1 * np.eye(4)


def correlated(where):
    """A normal whose numbers differ in their sd by nine orders of magnitude."""
    numpyro.sample("x", dist.MultivariateNormal(where, covariance_matrix=jnp.asarray(SD[:, None] * CORRELATION * SD)))


def scatter(y):
    """Two folded scatters of which one is the size of the other's error."""
    with numpyro.plate("kind", 2):
        s = numpyro.sample("s", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.Normal(0.0, jnp.sqrt(0.01 + s[0] ** 2 + s[1] ** 2)), obs=y)


def test_mode_and_laplace_covariance_of_a_normal_are_exact():
    where = np.array([1.0, -2.0, 30.0, 4.0])
    mode = Mode(Task(correlated, (where,), start={"x": np.zeros(4)}))
    assert np.abs((mode((where,))["x"] - where) / SD).max() < 0.02
    assert mode.inverse_mass() / np.outer(SD, SD) == pytest.approx(CORRELATION, rel=1e-3)
    elsewhere = where + 5.0  # other data, no recompilation, from where it was
    assert np.abs((mode((elsewhere,))["x"] - elsewhere) / SD).max() < 0.02


def test_leaves_the_saddle_of_a_folded_site_at_zero():
    y = np.random.default_rng(1).normal(size=200)
    mode = Mode(Task(scatter, (y,), start={"s": np.zeros(2)}, fold=("s",)))
    found = mode((y,))["s"]
    assert np.sqrt(0.01 + found @ found) == pytest.approx(np.sqrt((y**2).mean()), rel=0.02)


def test_chains_are_right_where_numbers_differ_by_nine_orders_of_magnitude(tmp_path):
    """NUTS shrinks its metric towards 1e-3: without the task's own, the step would be 1e-6."""
    where = np.array([1.0, -2.0, 30.0, 4.0])
    covariance = SD[:, None] * CORRELATION * SD
    task = Task(correlated, (where,), start={"x": where}, inverse_mass=covariance)
    sites, stats = sample(task, Settings(chains=2, warmup=100, draws=800, seed=5, workers=0), tmp_path)
    x = (sites["x"] - where) / SD
    assert stats["step_size"].min() > 0.2
    for k in range(4):
        assert kstest(x[:, ::4, k].ravel(), "norm").pvalue > 1e-3
