"""The closed form of a star whose true labels come from a population, against the dense Gaussian it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from hbcal.numerics.structural import star_log_density


def case(n_label, n_slot, seed):
    rng = np.random.default_rng(seed)
    wide = rng.normal(size=(n_label, n_label + 2))
    return {
        "residual": rng.normal(size=(5, n_slot)), "response": rng.normal(size=(5, n_slot, n_label)),
        "var": rng.uniform(0.01, 0.5, (5, n_slot)), "seen": rng.random((5, n_slot)) < 0.7,
        "root": np.linalg.cholesky(wide @ wide.T),
    }  # fmt: skip


@pytest.mark.parametrize(("n_label", "n_slot"), [(1, 1), (1, 4), (2, 5), (3, 3), (4, 9)])
def test_against_a_dense_gaussian(n_label, n_slot):
    c = case(n_label, n_slot, 10 * n_label + n_slot)
    found = star_log_density(**{k: jnp.asarray(v) for k, v in c.items()})
    for i, log_p in enumerate(np.asarray(found)):
        at = c["seen"][i]
        wide = c["response"][i, at] @ c["root"]
        dense = np.diag(c["var"][i, at]) + wide @ wide.T
        expected = (
            stats.multivariate_normal(np.zeros(at.sum()), dense).logpdf(c["residual"][i, at]) if at.any() else 0.0
        )
        assert log_p == pytest.approx(expected, rel=1e-10, abs=1e-10)


def test_what_was_not_seen_has_exactly_no_influence():
    c = {k: jnp.asarray(v) for k, v in case(2, 6, 3).items()}
    junk = jnp.where(c["seen"], 0.0, 1e6)
    other = {
        **c,
        "residual": c["residual"] + junk,
        "response": c["response"] + junk[:, :, None],
        "var": c["var"] + junk,
    }
    assert (star_log_density(**c) == star_log_density(**other)).all()
    slope = jax.grad(lambda r: star_log_density(**{**c, "residual": r}).sum())(c["residual"])
    assert (np.asarray(slope)[~np.asarray(c["seen"])] == 0.0).all()


def test_a_wide_population_says_what_differences_say():
    """Two measurements of one label, a population a million times as wide: the density of their difference is left."""
    one, var = jnp.ones((1, 2, 1)), jnp.array([[0.3, 0.5]])
    seen, root = jnp.ones((1, 2), bool), jnp.array([[1e6]])
    density = lambda r: float(star_log_density(jnp.array([r]), one, var, seen, root)[0])  # noqa: E731
    expected = stats.norm(0.0, np.sqrt(0.8)).logpdf([1.1, 0.2])
    assert density([1.0, -0.1]) - density([0.3, 0.1]) == pytest.approx(expected[0] - expected[1], abs=1e-6)
