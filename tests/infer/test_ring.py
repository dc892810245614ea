"""Straightened coordinates: the same posterior, and a determinant that autodiff agrees with."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.flatten_util import ravel_pytree
from scipy.stats import kstest

from hbcal.infer.fold import SUFFIX
from hbcal.infer.ring import Arc, Chain, Ring
from hbcal.infer.sample import sample
from hbcal.infer.task import Settings, Task

RING = Ring("a", f"tau{SUFFIX}", np.array([1, 0]), np.array([0, 2]), np.array([0.05, 2.0]))


def scatter(y):
    """Two surveys with error scales; the third floor belongs to none."""
    a = numpyro.sample("a", dist.LogNormal(0.0, 0.3).expand([2]).to_event(1))
    tau = numpyro.sample("tau", dist.HalfNormal(jnp.array([0.1, 1.0, 3.0])).to_event(1))
    sd = jnp.sqrt(jnp.array([(0.05 * a[1]) ** 2 + tau[0] ** 2, (2.0 * a[0]) ** 2 + tau[2] ** 2, tau[1] ** 2]))
    numpyro.sample("y", dist.Normal(0.0, sd[:, None]).to_event(2), obs=y)


def data():
    return np.random.default_rng(3).normal(size=(3, 40)) * np.array([[0.07], [2.5], [0.8]])


ARC = Arc(f"tau{SUFFIX}", np.array([0]), np.array([2]))
UPON = Ring("a", f"tau{SUFFIX}", np.array([1]), np.array([1]), np.array([0.05]))  # a floor more for the second scale


@pytest.mark.parametrize("ring", [RING, ARC, Chain((RING, UPON))], ids=["ring", "arc", "chain"])
@pytest.mark.parametrize("seed", range(5))
def test_determinant_and_inverse(seed, ring):
    rng = np.random.default_rng(seed)
    z = {"a": jnp.asarray(rng.normal(size=2)), f"tau{SUFFIX}": jnp.asarray(3.0 * rng.normal(size=3))}
    flat, unravel = ravel_pytree(z)
    jacobian = jax.jacobian(lambda x: ravel_pytree(ring.bent(unravel(x))[0])[0])(flat)
    bent, log_det = ring.bent(z)
    assert log_det == pytest.approx(np.linalg.slogdet(np.asarray(jacobian))[1], rel=1e-10)
    assert ravel_pytree(ring.straight(bent))[0] == pytest.approx(np.asarray(flat), rel=1e-9)


def test_the_posterior_is_the_same_and_steps_are_fewer(tmp_path):
    y, settings = data(), Settings(chains=2, warmup=300, draws=1000, thin=2, seed=1, workers=0)
    bent, bent_stats = sample(Task(scatter, (y,), fold=("tau",)), settings, tmp_path / "bent")
    straight, stats = sample(Task(scatter, (y,), fold=("tau",), ring=Chain((RING,))), settings, tmp_path / "straight")
    for name in ("a", "tau"):
        for k in range(straight[name].shape[2]):
            one, other = (s[name][:, ::10, k].ravel() for s in (bent, straight))
            assert kstest(one, other).pvalue > 1e-3
    assert stats["num_steps"].mean() < bent_stats["num_steps"].mean()


def test_a_wrong_determinant_would_be_caught(tmp_path):
    """Without data the floor is its prior; with the determinant left out it is not, and the test must see that."""

    class Forgetful(Ring):
        def bent(self, z):
            return super().bent(z)[0], jnp.zeros(())

    wrong = Forgetful(RING.scale, RING.floor, RING.scale_at, RING.floor_at, RING.error)
    nothing = np.zeros((3, 0))  # so the posterior is the prior
    settings = Settings(chains=2, warmup=300, draws=1000, thin=2, seed=1, workers=0)
    p = []
    for name, ring in (("right", RING), ("wrong", wrong)):
        sites, _ = sample(Task(scatter, (nothing,), fold=("tau",), ring=ring), settings, tmp_path / name)
        p.append(kstest(sites["tau"][:, ::10, 0].ravel() / 0.1, "halfnorm").pvalue)
    assert p[0] > 1e-3
    assert p[1] < 1e-3
