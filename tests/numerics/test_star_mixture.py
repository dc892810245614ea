"""The mixture kernel against its dense twin: value, gradient, missing elements, draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from hbcal.numerics.star_draws import draw_measured, draw_true
from hbcal.numerics.star_mixture import log_joint, log_likelihood
from hbcal.numerics.stars import BLOCK, lower, pack_stars, unblocked


def sky(n_star, d, n_comp, missing, seed=0):
    rng = np.random.default_rng(seed)
    root = 0.3 * rng.normal(size=(n_star, d, d))
    value = rng.normal(size=(n_star, d))
    value[rng.random(value.shape) < missing] = np.nan
    spread = rng.normal(size=(n_comp, d, d))
    covariance = spread @ spread.swapaxes(1, 2) / d + 0.5 * np.eye(d)
    weight = rng.dirichlet(np.ones(n_comp))
    rest = (np.log(weight), rng.normal(size=(n_comp, d)), covariance)
    return value, root @ root.swapaxes(1, 2), *map(jnp.asarray, rest)


def dense(value, error, seen, log_weight, mean, covariance):
    """The same sum by library calls; a row of the identity stands for what was not measured."""

    def one(x, s, here):
        both = here[:, None] & here[None, :]
        total = jnp.where(both[None], covariance + s[None], jnp.eye(len(x))[None])
        off = jnp.where(here[None, :], x[None] - mean, 0.0)
        away = jnp.linalg.solve(total, off[..., None])[..., 0]
        log_n = -0.5 * (off * away).sum(1) - 0.5 * jnp.linalg.slogdet(total)[1]
        return jax.nn.logsumexp(log_weight + log_n) - 0.5 * here.sum() * jnp.log(2 * jnp.pi)

    return jax.vmap(one)(value, error, seen).sum()


@pytest.mark.parametrize(
    ("n_star", "d", "missing"), [(300, 1, 0.0), (40, 2, 0.3), (300, 3, 0.2), (20, 6, 0.0), (20, 6, 0.4)]
)
def test_value_and_gradient_are_those_of_the_dense_twin(n_star, d, missing):
    value, error, log_weight, mean, covariance = sky(n_star, d, 4, missing)
    stars, seen = pack_stars(value, error), np.isfinite(value)
    ours = lambda x, w, m, c: log_likelihood(stars.with_value(x), w, m, lower(c))  # noqa: E731
    twin = lambda x, w, m, c: dense(x, jnp.asarray(error), jnp.asarray(seen), w, m, c)  # noqa: E731
    packed, plain = jnp.asarray(stars.value), jnp.asarray(np.where(seen, value, 0.0))
    rest = (log_weight, mean, covariance)
    found, slopes = jax.value_and_grad(ours, argnums=(0, 1, 2, 3))(packed, *rest)
    wanted, true = jax.value_and_grad(twin, argnums=(0, 1, 2, 3))(plain, *rest)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    np.testing.assert_allclose(unblocked(slopes[0], n_star), true[0], atol=1e-11)
    np.testing.assert_allclose(slopes[1], true[1], atol=1e-10)
    np.testing.assert_allclose(slopes[2], true[2], atol=1e-10)
    both = true[3] + jnp.swapaxes(true[3], 1, 2)  # the twin has every off-diagonal entry twice, `lower` once
    np.testing.assert_allclose(lower(slopes[3] + jnp.swapaxes(slopes[3], 1, 2)), lower(both), atol=1e-9)


def test_an_element_that_no_star_has_does_not_count():
    value, error, log_weight, mean, covariance = sky(50, 3, 3, 0.2)
    value[:, 1] = np.nan
    two = [0, 2]
    whole = log_likelihood(pack_stars(value, error), log_weight, mean, lower(covariance))
    cut = error[:, two][:, :, two], covariance[:, two][:, :, two]
    part = log_likelihood(pack_stars(value[:, two], cut[0]), log_weight, mean[:, two], lower(cut[1]))
    np.testing.assert_allclose(whole, part, rtol=1e-13)


def test_what_fills_a_block_and_stars_without_anything_have_no_influence():
    value, error, log_weight, mean, covariance = sky(BLOCK + 3, 2, 3, 0.0)
    alone = log_likelihood(pack_stars(value, error), log_weight, mean, lower(covariance))
    more = np.concatenate([value, np.full((9, 2), np.nan)]), np.concatenate([error, np.full((9, 2, 2), np.nan)])
    np.testing.assert_allclose(
        log_likelihood(pack_stars(*more), log_weight, mean, lower(covariance)), alone, rtol=1e-13
    )
    each = unblocked(log_joint(pack_stars(value, error), log_weight, mean, lower(covariance)), len(value))
    np.testing.assert_allclose(jax.nn.logsumexp(each, axis=1).sum(), alone, rtol=1e-13)


def test_true_values_are_drawn_from_what_is_known_of_them():
    """Mean and covariance of t given x in closed form, of a star with a missing element and correlated errors."""
    n, d = 40_000, 3
    x, mu = np.array([0.5, np.nan, -1.0]), np.array([0.0, 0.3, 0.1])
    sigma = np.array([[1.0, 0.5, 0.2], [0.5, 0.8, 0.1], [0.2, 0.1, 0.6]])
    s = np.array([[0.4, 0.0, 0.15], [0.0, 9.0, 0.0], [0.15, 0.0, 0.3]])
    stars = pack_stars(np.tile(x, (n, 1)), np.tile(s, (n, 1, 1)))
    which = jnp.zeros(stars.real.shape, int)
    root = jnp.linalg.cholesky(jnp.asarray(sigma))[None]
    drawn = np.asarray(unblocked(draw_true(jax.random.PRNGKey(0), stars, which, jnp.asarray(mu)[None], root), n))
    seen = [0, 2]
    gain = sigma[:, seen] @ np.linalg.inv((sigma + s)[np.ix_(seen, seen)])
    mean, left = mu + gain @ (x - mu)[seen], sigma - gain @ sigma[seen]
    z = (drawn.mean(0) - mean) / np.sqrt(np.diag(left) / n)
    assert np.abs(z).max() < 4.5  # one false alarm in 10^5
    error = np.sqrt((left**2 + np.outer(np.diag(left), np.diag(left))) / n)
    assert (np.abs(np.cov(drawn.T) - left) / error).max() < 4.5
    assert drawn.shape == (n, d)


def test_simulated_stars_follow_the_mixture():
    value, error, _, mean, covariance = sky(1, 2, 2, 0.0)
    n = 30_000
    stars = pack_stars(np.tile(value, (n, 1)), np.tile(error, (n, 1, 1)))
    root = jnp.linalg.cholesky(jnp.asarray(covariance))
    which, found = draw_measured(jax.random.PRNGKey(1), stars, jnp.log(jnp.array([0.3, 0.7])), jnp.asarray(mean), root)
    which, found = np.asarray(which).ravel()[:n], np.asarray(unblocked(found, n))
    assert abs(which.mean() - 0.7) < 4.5 * np.sqrt(0.21 / n)
    one = found[which == 1]
    mean, total = np.asarray(mean), np.asarray(covariance[1]) + error[0]
    level = ((one - mean[1]) @ np.linalg.inv(total) * (one - mean[1])).sum(1)
    assert abs(level.mean() - 2.0) < 4.5 * np.sqrt(4.0 / len(one))
    assert np.isfinite(multivariate_normal(mean[1], total).logpdf(one)).all()
