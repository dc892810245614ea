"""The collapsed likelihood against what it claims to equal: dense linear algebra, and quadrature over z."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, linalg, stats

from hbcal.numerics.collapse import Gram, collapsed_log_density, conditional_draw, gram


def block(seed, n_star=7, n_slot=4, n_free=3, n_term=2, n_coef=5):
    """A block in which every star has at least two measurements, some exactly two, one all of them."""
    rng = np.random.default_rng(seed)
    seen = rng.random((n_star, n_slot)) < 0.6
    seen[0] = True
    for i in np.flatnonzero(seen.sum(1) < 2):
        seen[i, rng.choice(n_slot, 2, replace=False)] = True
    y = np.where(seen, rng.normal(5.0, 2.0, seen.shape), 0.0)
    var = np.where(seen, rng.uniform(0.1, 2.0, seen.shape), 1.0)
    phi = np.where(seen[:, :n_free, None], rng.normal(size=(n_star, n_free, n_term)), 0.0)
    return y, seen, var, phi, rng.normal(size=(n_free * n_term, n_coef))


def contrasts(n):
    """Orthonormal rows that sum to zero: scipy's Helmert matrix, not the package's own."""
    return linalg.helmert(n)


def dense(y, seen, var, phi, spread, sd):
    """Contrasts of every star, their design and covariance, and the constant -1/2 sum log n_i.

    A flat z_i adds -1/2 log n_i to the density of the contrasts: with u = sum_s y_s / sqrt(n), z has density 1 along
    z, that is 1/sqrt(n) along u.
    """
    n_star, n_free, n_term = phi.shape
    design = np.zeros((*seen.shape, spread.shape[1]))
    design[:, :n_free] = np.einsum("isk,skp->isp", phi, spread.reshape(n_free, n_term, spread.shape[1]))
    ys, rows, noise, const = [], [], [], 0.0
    for i in range(n_star):
        at = seen[i]
        h = contrasts(at.sum())
        ys.append(h @ y[i, at])
        rows.append(h @ design[i, at])
        noise.append(h @ np.diag(var[i, at]) @ h.T)
        const -= 0.5 * np.log(at.sum())
    design = np.concatenate(rows)
    noise = linalg.block_diag(*noise)
    return np.concatenate(ys), design, noise, noise + design @ np.diag(sd**2) @ design.T, const


def as_jax(*arrays):
    return [jnp.asarray(a) for a in arrays]


@pytest.mark.parametrize("seed", range(5))
def test_density_equals_the_dense_normal_of_contrasts(seed):
    parts = block(seed)
    sd = np.random.default_rng(seed + 100).uniform(0.2, 2.0, parts[-1].shape[1])
    logp, _, _ = collapsed_log_density([gram(*as_jax(*parts))], jnp.asarray(sd))
    y, _, _, cov, const = dense(*parts, sd)
    assert float(logp) == pytest.approx(stats.multivariate_normal(None, cov).logpdf(y) + const, rel=1e-11)


def test_blocks_add():
    one, two = block(1), block(2, n_star=4, n_slot=3)
    sd = np.full(5, 0.7)
    logp, mean, factor = collapsed_log_density([gram(*as_jax(*one)), gram(*as_jax(*two))], jnp.asarray(sd))
    (y1, d1, n1, _, c1), (y2, d2, n2, _, c2) = dense(*one, sd), dense(*two, sd)
    design, y = np.concatenate([d1, d2]), np.concatenate([y1, y2])
    cov = linalg.block_diag(n1, n2) + design @ np.diag(sd**2) @ design.T
    assert float(logp) == pytest.approx(stats.multivariate_normal(None, cov).logpdf(y) + c1 + c2, rel=1e-11)
    # and the coefficients given y, by dense conditioning of the joint Gaussian
    gain = np.diag(sd**2) @ design.T @ np.linalg.inv(cov)
    np.testing.assert_allclose(mean, gain @ y, rtol=1e-9)
    posterior = np.diag(sd**2) - gain @ design @ np.diag(sd**2)
    np.testing.assert_allclose(np.linalg.inv(np.asarray(factor @ factor.T)), posterior, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_density_equals_integration_over_z_by_quadrature(seed):
    """Given the coefficients, log p(y | b) of the Gram is the sum of log of one-dimensional integrals."""
    y, seen, var, phi, spread = block(seed)
    theta = np.random.default_rng(seed).normal(size=spread.shape[1])
    g = gram(*as_jax(y, seen, var, phi, spread))
    found = g.const - 0.5 * (g.square - 2.0 * theta @ g.linear + theta @ g.precision @ theta)
    n_star, n_free, n_term = phi.shape
    shift = np.zeros(seen.shape)
    shift[:, :n_free] = np.einsum("isk,sk->is", phi, (spread @ theta).reshape(n_free, n_term))
    total = 0.0
    for i in range(n_star):
        at, sd = seen[i], np.sqrt(var[i])
        centre = np.average((y - shift)[i, at], weights=1 / var[i, at])

        def density(z, i=i, at=at, sd=sd):
            return stats.norm.pdf(y[i, at], z + shift[i, at], sd[at]).prod()

        value, _ = integrate.quad(density, centre - 15, centre + 15, points=[centre], epsabs=0, epsrel=1e-11, limit=400)
        total += np.log(value)
    assert float(found) == pytest.approx(total, rel=1e-9)


def test_density_equals_integration_over_everything_by_quadrature():
    """One coefficient, two stars: z of each and the coefficient integrated out numerically."""
    y, var = np.array([[1.3, 0.2], [0.9, -0.4]]), np.array([[0.3, 0.2], [0.5, 0.1]])
    phi, seen = np.array([[[1.0]], [[0.6]]]), np.ones((2, 2), bool)
    logp, _, _ = collapsed_log_density([gram(*as_jax(y, seen, var, phi, np.eye(1)))], jnp.array([0.8]))

    def star(i, b):
        return integrate.quad(
            lambda z: stats.norm.pdf(y[i], z + np.array([phi[i, 0, 0] * b, 0.0]), np.sqrt(var[i])).prod(), -12, 12,
            points=[0.0], epsrel=1e-10,
        )[0]  # fmt: skip

    whole = integrate.quad(lambda b: star(0, b) * star(1, b) * stats.norm.pdf(b, 0, 0.8), -6, 6, epsrel=1e-9)[0]
    assert float(logp) == pytest.approx(np.log(whole), rel=1e-8)


def test_a_large_common_value_costs_no_digits():
    parts = block(3)
    sd = jnp.full(5, 0.5)
    far = (np.where(parts[1], parts[0] + 5e5, 0.0), *parts[1:])
    near = collapsed_log_density([gram(*as_jax(*parts))], sd)[0]
    assert float(collapsed_log_density([gram(*as_jax(*far))], sd)[0]) == pytest.approx(float(near), rel=1e-9)


def test_what_was_not_seen_has_no_influence_on_value_or_gradient():
    y, seen, var, phi, spread = as_jax(*block(4))

    def logp(y, var, fill):
        values = jnp.where(seen, y, fill)
        return collapsed_log_density([gram(values, seen, var, phi, spread)], jnp.ones(5))[0]

    assert float(logp(y, var, 0.0)) == float(logp(y, var, 1e6))
    by_y, by_var = jax.grad(logp, argnums=(0, 1))(y, var, 3.0)
    assert np.isfinite(by_y).all()
    assert np.isfinite(by_var).all()
    assert (np.asarray(by_y)[~np.asarray(seen)] == 0).all()
    assert (np.asarray(by_var)[~np.asarray(seen)] == 0).all()


def test_gradient_equals_finite_differences():
    y, seen, var, phi, spread = as_jax(*block(5))

    def logp(log_sd, log_var):
        return collapsed_log_density([gram(y, seen, var * jnp.exp(log_var), phi, spread)], jnp.exp(log_sd))[0]

    at = (jnp.full(5, -0.3), jnp.float64(0.2))
    by_sd, by_var = jax.grad(logp, argnums=(0, 1))(*at)
    step = 1e-5
    for j in range(5):
        e = step * jnp.eye(5)[j]
        assert float(by_sd[j]) == pytest.approx(
            float((logp(at[0] + e, at[1]) - logp(at[0] - e, at[1])) / (2 * step)), rel=1e-6, abs=1e-8
        )
    assert float(by_var) == pytest.approx(float((logp(at[0], at[1] + step) - logp(at[0], at[1] - step)) / (2 * step)))


@pytest.mark.parametrize(("n_free", "n_term"), [(0, 1), (1, 0)], ids=["anchors only", "no terms"])
def test_stars_without_design_constrain_noise_only(n_free, n_term):
    y, seen, var, _, _ = block(6)
    g = gram(*as_jax(y, seen, var, np.zeros((7, n_free, n_term)), np.zeros((n_free * n_term, 2))))
    assert not np.asarray(g.precision).any()
    assert not np.asarray(g.linear).any()
    values, _, noise, _, const = dense(y, seen, var, np.zeros((7, 0, 1)), np.zeros((0, 2)), np.ones(2))
    assert float(g.const - 0.5 * g.square) == pytest.approx(
        stats.multivariate_normal(None, noise).logpdf(values) + const
    )


def test_draws_have_the_conditional_mean_and_covariance():
    rng = np.random.default_rng(8)
    factor = jnp.asarray(np.tril(rng.normal(size=(3, 3)), -1) + np.diag([1.0, 2.0, 0.5]))
    mean = jnp.array([1.0, -2.0, 0.0])
    # the map is affine: its value at 0 and its columns say everything, no sampling noise
    np.testing.assert_allclose(conditional_draw(mean, factor, jnp.zeros(3)), mean)
    columns = np.stack([conditional_draw(mean, factor, row) - mean for row in jnp.eye(3)], axis=1)
    np.testing.assert_allclose(
        columns @ columns.T, np.linalg.inv(np.asarray(factor @ factor.T)), rtol=1e-10, atol=1e-12
    )


def test_a_precision_that_is_not_positive_gives_nan():
    bad = Gram(-2.0 * jnp.eye(1), jnp.zeros(1), jnp.zeros(()), jnp.zeros(()))
    assert np.isnan(collapsed_log_density([bad], jnp.ones(1))[0])


def test_an_all_but_exact_measurement_costs_no_digits():
    """Two measurements know the sum of their variances alone: how it is split must not show in the precision."""
    rng = np.random.default_rng(0)
    y, seen, phi = rng.normal(size=(30, 2)), np.ones((30, 2), bool), rng.normal(size=(30, 2, 2))
    split = lambda v: gram(*as_jax(y, seen, np.broadcast_to([1.0 - v, v], (30, 2)), phi, np.eye(4)))  # noqa: E731
    np.testing.assert_allclose(split(1e-14).precision, split(0.5).precision, rtol=1e-10)
