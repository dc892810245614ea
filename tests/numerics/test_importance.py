"""Laplace and its check, against densities of which everything is known."""

import jax
import jax.numpy as jnp
import numpy as np
from arviz_stats.base import array_stats
from scipy.stats import chi2, f, kstest

from hbcal.numerics.importance import DOF, closer, frames, newton_mode, resampled, weigh_around

COV = np.array([[1.0, 0.6], [0.6, 2.0]])


def gaussian(x):
    left = x - jnp.array([1.0, -2.0])
    return -0.5 * left @ jnp.linalg.solve(jnp.asarray(COV), left)


def noise(n):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(n, 2)) / np.sqrt(rng.chisquare(DOF, size=(n, 1)) / DOF))


def test_mode_and_covariance_of_a_gaussian_from_afar():
    mode, root = newton_mode(gaussian, jnp.array([6.0, 6.0]))
    np.testing.assert_allclose(mode, [1.0, -2.0], atol=1e-8)
    np.testing.assert_allclose(root @ root.T, COV, rtol=1e-8)


def test_a_start_where_the_curvature_has_the_wrong_sign_still_climbs():
    def two_hills(x):  # a saddle at zero: plain Newton would stay on it or run downhill
        return jnp.logaddexp(-2.0 * (x[0] - 2.0) ** 2, -2.0 * (x[0] + 2.0) ** 2) - 0.5 * x[1] ** 2

    mode, _ = newton_mode(two_hills, jnp.array([0.2, 1.0]))
    np.testing.assert_allclose(mode, [2.0, 0.0], atol=1e-5)


def test_weighted_moments_are_the_gaussians_and_k_hat_says_so():
    mode, root = newton_mode(gaussian, jnp.zeros(2))
    draws, weight = weigh_around(gaussian, mode, root, noise(4000))
    _, k_hat = array_stats.psislw(-np.asarray(weight))
    p = np.asarray(jax.nn.softmax(weight))
    mean = p @ np.asarray(draws)
    left = np.asarray(draws) - mean
    assert k_hat < 0.5
    np.testing.assert_allclose(mean, [1.0, -2.0], atol=0.1)  # 4,000 draws: 0.022 is one standard error
    np.testing.assert_allclose((p[:, None] * left).T @ left, COV, atol=0.2)


def test_a_planted_second_hill_is_told_by_k_hat():
    def hidden(x):  # the other hill holds nearly all of the mass
        return jnp.logaddexp(gaussian(x), 4.0 + gaussian(x - jnp.array([3.0, 3.0])))

    mode, root = newton_mode(gaussian, jnp.zeros(2))
    _, weight = weigh_around(hidden, mode, 0.3 * root, noise(4000))
    assert array_stats.psislw(-np.asarray(weight))[1] > 0.7


def test_a_guess_far_off_and_too_narrow_is_moved_to_where_the_density_is():
    mode, root = newton_mode(gaussian, jnp.zeros(2))
    centre, narrow, k_hats = mode + jnp.array([1.5, -2.0]), 0.3 * root, []
    for _ in range(4):
        draws, weight = weigh_around(gaussian, centre, narrow, noise(4000))
        k_hats.append(array_stats.psislw(-np.asarray(weight))[1])
        centre, narrow = closer(draws, weight)
    np.testing.assert_allclose(centre, [1.0, -2.0], atol=0.15)
    assert k_hats[0] > 0.7
    assert k_hats[-1] < 0.3


def test_draws_in_frames_are_of_the_student_t():
    t = frames(np.random.default_rng(1), 400, 24, 3)
    inner = t[np.arange(400), np.random.default_rng(2).integers(24, size=400)]  # any draw of each star: independent
    assert kstest((inner**2).sum(axis=1) / 3.0, f(3, DOF).cdf).pvalue > 1e-3
    assert kstest(inner[:, 0] / np.linalg.norm(inner, axis=1), "uniform", (-1.0, 2.0)).pvalue > 1e-3  # Archimedes


def test_draws_in_frames_leave_a_covariance_without_the_error_of_a_sample():
    """And the planted defect, as many independent draws: their joint regions are far too small."""
    rng, n, n_star = np.random.default_rng(3), 4, 1500
    independent = rng.normal(size=(n_star, 48, n)) / np.sqrt(rng.chisquare(DOF, size=(n_star, 48, 1)) / DOF)
    truth, held = rng.normal(size=(n_star, n)), []
    for t in (frames(rng, n_star, 48, n), independent):
        draws, weight = jax.vmap(lambda t: weigh_around(lambda x: -0.5 * x @ x, jnp.zeros(n), jnp.eye(n), t))(
            jnp.asarray(t)
        )
        share, draws = np.asarray(jax.nn.softmax(weight, axis=1)), np.asarray(draws)
        mean = np.einsum("sd,sdl->sl", share, draws)
        left = draws - mean[:, None]
        cov = np.einsum("sd,sdl,sdm->slm", share, left, left)
        off = truth - mean
        far = np.einsum("sl,sl->s", off, np.linalg.solve(cov, off[..., None])[..., 0])
        held.append((far < chi2.ppf(0.683, n)).mean())
    error = np.sqrt(0.683 * 0.317 / n_star)
    assert abs(held[0] - 0.683) < 3.3 * error
    assert held[1] < 0.683 - 3.3 * error


def test_resampled_draws_are_as_often_there_as_their_shares_say():
    rng = np.random.default_rng(3)
    draws, share = rng.normal(size=(40, 96, 2)), rng.exponential(size=(40, 96)) ** 3
    share[7] = np.nan  # a star without an answer
    told = resampled(rng, draws, 5.0 * share)
    assert told.shape == draws.shape
    np.testing.assert_array_equal(np.sort(told[7], axis=0), np.sort(draws[7], axis=0))
    wanted = 96 * share / share.sum(axis=1, keepdims=True)
    often = (told[:, :, None, 0] == draws[:, None, :, 0]).sum(axis=1)
    sound = np.arange(40) != 7
    assert (np.abs(often - wanted)[sound] < 1.0).all()
    first, last = told[sound][:, :48].mean(axis=(0, 1)), told[sound][:, 48:].mean(axis=(0, 1))
    assert np.abs(first - last).max() < 0.2  # in no order: a part of the draws stands for all
