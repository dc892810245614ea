"""Quantiles of mixtures against a root finder that knows nothing of Newton."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from hbcal.numerics.mixture import mixture_quantiles

LEVELS = np.array([0.001, 0.025, 0.16, 0.5, 0.84, 0.975, 0.999])


def oracle(mean, sd, level):
    return optimize.brentq(
        lambda q: stats.norm.cdf(q, mean, sd).mean() - level, (mean - 10 * sd).min(), (mean + 10 * sd).max(), xtol=1e-13
    )


def cases():
    rng = np.random.default_rng(0)
    yield "posterior of an offset", rng.normal(0.2, 0.03, 200), np.full(200, 0.1)
    yield "sd varies", rng.normal(size=100), rng.lognormal(0.0, 0.7, 100)
    yield "kelvin", rng.normal(5000.0, 20.0, 300), np.full(300, 80.0)
    yield "one component", np.array([1.0]), np.array([2.0])
    yield "as wide as their means", rng.normal(size=400), np.full(400, 1.0)


def extremes():
    rng = np.random.default_rng(1)
    yield "narrow beside wide", np.array([0.0, 0.0, 0.1]), np.array([1e-3, 1.0, 10.0])
    yield "two far modes", np.array([-5.0, 5.0, 5.0]), np.array([0.1, 0.3, 0.3])
    yield "nearly discrete", rng.normal(size=53), np.full(53, 1e-3)


def quantiles(mean, sd, weight):
    return mixture_quantiles(*(jnp.asarray(x)[None] for x in (mean, sd, weight)), jnp.asarray(LEVELS))[0]


def params(each):
    return [pytest.param(m, s, id=name) for name, m, s in each]


@pytest.mark.parametrize(("mean", "sd"), params(cases()))
def test_against_brentq(mean, sd):
    found = mixture_quantiles(
        jnp.asarray(mean)[None], jnp.asarray(sd)[None], jnp.ones((1, len(sd))), jnp.asarray(LEVELS)
    )[0]
    expected = [oracle(mean, sd, level) for level in LEVELS]
    np.testing.assert_allclose(found, expected, atol=1e-9 * np.sqrt(mean.var() + (sd**2).mean()))


def test_outliers_are_a_wide_component_of_small_weight():
    rng = np.random.default_rng(2)
    mean, sd = np.tile(rng.normal(size=50), 2), np.repeat([1.0, 10.0], 50)
    weight = np.repeat([0.97, 0.03], 50) / 50
    found = quantiles(mean, sd, 7.0 * weight)  # need not be normalised
    cdf = [float((weight * stats.norm.cdf((q - mean) / sd)).sum()) for q in found]
    np.testing.assert_allclose(cdf, LEVELS, atol=1e-9)


def test_a_component_of_no_weight_has_no_influence():
    mean, sd = np.array([0.0, 1.0]), np.array([1.0, 2.0])
    found = quantiles(np.append(mean, 1e6), np.append(sd, 1e5), np.array([1.0, 1.0, 0.0]))
    np.testing.assert_allclose(found, quantiles(mean, sd, np.ones(2)), rtol=1e-12)


@pytest.mark.parametrize(("mean", "sd"), params(extremes()))
def test_strange_mixtures_are_answered_to_a_thousandth_of_their_width(mean, sd):
    """Newton is of little use where the density has gaps; the bracket halves on."""
    found = mixture_quantiles(
        jnp.asarray(mean)[None], jnp.asarray(sd)[None], jnp.ones((1, len(sd))), jnp.asarray(LEVELS)
    )[0]
    expected = [oracle(mean, sd, level) for level in LEVELS]
    np.testing.assert_allclose(found, expected, atol=1e-3 * (mean.max() - mean.min() + 18 * sd.max()))


def test_quantiles_are_ordered_and_rows_do_not_mix():
    rng = np.random.default_rng(1)
    mean, sd = rng.normal(size=(20, 30)), rng.uniform(0.1, 1.0, (20, 30))
    found = np.asarray(mixture_quantiles(*map(jnp.asarray, (mean, sd, np.ones_like(sd), LEVELS))))
    assert (np.diff(found, axis=1) > 0).all()
    alone = mixture_quantiles(*map(jnp.asarray, (mean[7:8], sd[7:8], np.ones((1, 30)), LEVELS)))
    np.testing.assert_allclose(alone[0], found[7], rtol=1e-12)


def test_nan_in_nan_out():
    found = mixture_quantiles(
        jnp.array([[jnp.nan, 0.0], [0.0, 0.0]]), jnp.ones((2, 2)), jnp.ones((2, 2)), jnp.array([0.5])
    )
    assert np.isnan(found[0, 0])
    assert found[1, 0] == pytest.approx(0.0, abs=1e-12)
