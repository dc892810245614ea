"""`FlatStars` against the dense Gaussian it stands for, and what a missing or a shifted entry may do: nothing."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, stats

from hbcal.distributions.flat_stars import Block, FlatStars, split, stack

SCALE, FLOOR = jnp.array([1.3, 0.8]), jnp.array([0.2, 0.5])
GAMMA = jnp.array([[0.4], [-0.3]])
SD = jnp.array([0.7, 0.4, 1.1])


def block(seed, n_star):
    """Three slots: two surveys to calibrate (the second without errors for some stars), and an anchor."""
    rng = np.random.default_rng(seed)
    seen = rng.random((n_star, 3)) < 0.7
    seen[seen.sum(1) < 2] = True
    err2 = np.where(seen, rng.uniform(0.05, 0.4, seen.shape) ** 2, 0.0)
    err2[: n_star // 2, 1] = 0.0
    phi = np.where(seen[:, :2, None], np.stack([np.ones((n_star, 2)), rng.normal(size=(n_star, 2))], axis=2), 0.0)
    return Block(
        seen, phi, rng.normal(size=(4, 3)), err2, rng.normal(size=(n_star, 3, 1)) * seen[:, :, None],
        (0, 1, -1), (0, 1, -1), "b",
    )  # fmt: skip


@pytest.fixture
def blocks():
    return block(0, 6), block(1, 4)


def stars_of(blocks, scale=SCALE, floor=FLOOR, gamma=GAMMA, sd=SD):
    return FlatStars(blocks, tuple(b.variance(scale, floor, gamma) for b in blocks), sd)


def helmert(blocks):
    """All within-star contrasts of a stacked value, and the constant of the flat prior."""
    rows, at, const = [], 0, 0.0
    n = sum(b.seen.size for b in blocks)
    for b in blocks:
        for seen in np.asarray(b.seen):
            there = at + np.flatnonzero(seen)
            h = np.zeros((len(there) - 1, n))
            h[:, there] = linalg.helmert(len(there))
            rows.append(h)
            const -= 0.5 * np.log(len(there))
            at += len(seen)
    return np.concatenate(rows), const


def dense(blocks, scale=SCALE, floor=FLOOR, gamma=GAMMA, sd=SD):
    """Covariance of a stacked value given z, built entry by entry."""
    variances, designs = [], []
    for b in blocks:
        n_star, n_free, n_term = b.phi.shape
        for i in range(n_star):
            for s in range(b.seen.shape[1]):
                a = scale[b.scale_of[s]] if b.scale_of[s] >= 0 else 1.0
                tau = floor[b.floor_of[s]] * np.exp(gamma[b.floor_of[s]] @ b.psi[i, s]) if b.floor_of[s] >= 0 else 0.0
                variances.append(float(a**2 * b.err2[i, s] + tau**2) if b.seen[i, s] else 1.0)
                row = np.zeros(len(sd))
                if s < n_free:
                    row = b.phi[i, s] @ b.spread[s * n_term : (s + 1) * n_term]
                designs.append(row)
    design = np.array(designs)
    return np.diag(variances) + design @ np.diag(np.asarray(sd) ** 2) @ design.T


def values(blocks, seed=3):
    return jnp.asarray(np.random.default_rng(seed).normal(0.0, 1.0, sum(b.seen.size for b in blocks)))


def test_log_prob_is_the_density_of_the_contrasts(blocks):
    h, const = helmert(blocks)
    y = values(blocks)
    expected = stats.multivariate_normal(None, h @ dense(blocks) @ h.T).logpdf(h @ np.asarray(y)) + const
    assert float(stars_of(blocks).log_prob(y)) == pytest.approx(expected, rel=1e-11)


def test_conditional_is_dense_gaussian_conditioning(blocks):
    h, _ = helmert(blocks)
    y = values(blocks)
    design = np.concatenate(
        [
            np.concatenate(
                [np.einsum("isk,skp->isp", b.phi, b.spread.reshape(2, 2, 3)), np.zeros((len(b.phi), 1, 3))], axis=1
            ).reshape(-1, 3)
            for b in blocks
        ]
    )
    prior = np.diag(np.asarray(SD) ** 2)
    gain = prior @ design.T @ h.T @ np.linalg.inv(h @ dense(blocks) @ h.T)
    mean, factor = stars_of(blocks).conditional(y)
    np.testing.assert_allclose(mean, gain @ h @ np.asarray(y), rtol=1e-9)
    covariance = np.linalg.inv(np.asarray(factor @ factor.T))
    np.testing.assert_allclose(covariance, prior - gain @ h @ design @ prior, rtol=1e-8, atol=1e-12)


def test_samples_have_the_covariance_of_the_density(blocks):
    """Each whitened contrast has mean 0 and variance 1, and all are independent; limits at 5 standard errors."""
    n = 20_000
    h, _ = helmert(blocks)
    factor = np.linalg.cholesky(h @ dense(blocks) @ h.T)
    y = np.asarray(stars_of(blocks).sample(jax.random.PRNGKey(0), (n,)))
    white = np.linalg.solve(factor, h @ y.T)
    assert np.abs(white.mean(1)).max() < 5 / np.sqrt(n)
    spread = white @ white.T / n - np.eye(len(white))
    assert np.abs(np.diag(spread)).max() < 5 * np.sqrt(2 / n)
    assert np.abs(spread - np.diag(np.diag(spread))).max() < 5 / np.sqrt(n)


def test_a_constant_added_to_a_star_changes_nothing(blocks):
    stars, y = stars_of(blocks), values(blocks)
    moved = [t + 100.0 * jnp.arange(len(t))[:, None] for t in split(blocks, y)]
    assert float(stars.log_prob(stack(moved))) == pytest.approx(float(stars.log_prob(y)), rel=1e-10)
    np.testing.assert_allclose(stars.conditional(stack(moved))[0], stars.conditional(y)[0], rtol=1e-9)


def test_a_missing_entry_has_no_influence_and_no_gradient(blocks):
    missing = ~np.concatenate([np.asarray(b.seen).ravel() for b in blocks])
    assert missing.sum() > 3

    def logp(y, scale, floor, gamma, blocks):
        return stars_of(blocks, scale, floor, gamma).log_prob(y)

    y = values(blocks)
    at = (jnp.where(missing, 0.0, y), SCALE, FLOOR, GAMMA)
    wild = tuple(
        replace(
            b,
            err2=np.where(b.seen, b.err2, 1e12),
            psi=np.where(b.seen[:, :, None], b.psi, 7.0),
        )
        for b in blocks
    )
    value, gradient = jax.value_and_grad(logp, argnums=(0, 1, 2, 3))(*at, blocks)
    wild_value, wild_gradient = jax.value_and_grad(logp, argnums=(0, 1, 2, 3))(
        jnp.where(missing, 1e9, y), SCALE, FLOOR, GAMMA, wild
    )
    assert float(value) == float(wild_value)
    for one, other in zip(gradient, wild_gradient, strict=True):
        assert np.isfinite(other).all()
        np.testing.assert_array_equal(one, other)
    assert (np.asarray(gradient[0])[missing] == 0).all()


def test_errors_of_zero_and_floors_of_zero_are_finite_where_they_do_not_meet(blocks):
    no_floor = stars_of(tuple(replace(b, err2=np.where(b.seen, 0.01, 0.0)) for b in blocks), floor=jnp.zeros(2))
    assert np.isfinite(no_floor.log_prob(values(blocks)))
    bare = tuple(replace(b, err2=b.err2 * np.array([0.0, 0.0, 1.0])) for b in blocks)
    assert np.isfinite(stars_of(bare).log_prob(values(blocks)))


def test_it_is_a_pytree_that_survives_vmap(blocks):
    """As every NumPyro distribution must: containers are rebuilt from tracers and nothing checks them."""
    floors = jnp.stack([FLOOR, 2 * FLOOR])
    together = jax.vmap(lambda floor: stars_of(blocks, floor=floor).log_prob(values(blocks)))(floors)
    apart = [stars_of(blocks, floor=floor).log_prob(values(blocks)) for floor in floors]
    np.testing.assert_allclose(together, apart, rtol=1e-12)
    leaves, tree = jax.tree.flatten(stars_of(blocks))
    again = jax.tree.unflatten(tree, leaves)
    assert again.event_shape == (sum(b.seen.size for b in blocks),)
    assert float(again.log_prob(values(blocks))) == pytest.approx(float(apart[0]), rel=1e-12)


def test_split_undoes_stack(blocks):
    y = values(blocks)
    tables = split(blocks, y)
    assert [t.shape for t in tables] == [b.seen.shape for b in blocks]
    np.testing.assert_array_equal(stack(tables), y)
