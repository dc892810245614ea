"""Correlated labels integrated out, against dense linear algebra and against the labels taken one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

from hbcal.numerics.collapse import gram
from hbcal.numerics.correlated import gram_correlated, visit_precisions
from hbcal.numerics.small import factor, forward, log_det, root_inverse

N_STAR, N_VISIT, N_FREE, N_LABEL, N_TERM, N_COEF = 6, 4, 3, 3, 2, 7


def visits(seed):
    """Stars that have a label twice at least or not at all, a design for every label, a full covariance per visit."""
    rng = np.random.default_rng(seed)
    seen = rng.random((N_STAR, N_VISIT, N_LABEL)) < 0.6
    seen[0], seen[1, :, 2] = True, False
    seen &= (seen.sum(1) > 1)[:, None]
    y = np.where(seen, rng.normal(5.0, 2.0, seen.shape), 0.0)
    root = rng.normal(size=(*seen.shape, N_LABEL))
    cov = np.einsum("ivlk,ivmk->ivlm", root, root) + 0.1 * np.eye(N_LABEL)
    phi = np.where(seen[:, :N_FREE, :, None], rng.normal(size=(N_STAR, N_FREE, N_LABEL, N_TERM)), 0.0)
    return y, seen, cov, phi, rng.normal(size=(N_FREE * N_LABEL * N_TERM, N_COEF))


def dense(y, seen, cov, phi, spread, theta):
    """log p(y | theta) of the contrasts of every star and label, made orthonormal; -1/2 log n for each flat z."""
    shift = np.zeros(y.shape)
    shift[:, :N_FREE] = (phi * (spread @ theta).reshape(1, N_FREE, N_LABEL, N_TERM)).sum(-1)
    total = 0.0
    for i in range(N_STAR):
        visit, label = np.nonzero(seen[i])
        noise = np.array(
            [[cov[i, v, l, m] if v == w else 0.0 for w, m in zip(visit, label, strict=True)]
             for v, l in zip(visit, label, strict=True)]
        )  # fmt: skip
        rows = []
        for l in np.unique(label):
            at = np.flatnonzero(label == l)
            contrast = np.zeros((len(at) - 1, len(label)))
            contrast[:, at] = linalg.helmert(len(at))
            rows.append(contrast)
            total -= 0.5 * np.log(len(at))
        contrast = np.concatenate(rows)
        r = contrast @ (y[i] - shift[i])[visit, label]
        c = contrast @ noise @ contrast.T
        total -= 0.5 * (r @ np.linalg.solve(c, r) + np.linalg.slogdet(2 * np.pi * c)[1])
    return total


def value(g, theta):
    return float(g.const - 0.5 * (g.square - 2 * theta @ g.linear + theta @ g.precision @ theta))


@pytest.mark.parametrize("seed", range(5))
def test_the_quadratic_is_the_dense_density(seed):
    given = visits(seed)
    g = gram_correlated(*map(jnp.asarray, given))
    for theta in np.random.default_rng(seed).normal(size=(3, N_COEF)):
        assert value(g, theta) == pytest.approx(dense(*given, theta), rel=1e-9)


def test_without_correlation_it_is_each_label_by_itself():
    y, seen, cov, phi, _ = visits(1)
    var = np.einsum("ivll->ivl", cov)
    cov = var[..., None] * np.eye(N_LABEL)
    n_row = N_FREE * N_TERM
    spread = np.zeros((N_FREE, N_LABEL, N_TERM, N_LABEL * n_row))
    for l in range(N_LABEL):
        spread[:, l, :, l * n_row : (l + 1) * n_row] = np.eye(n_row).reshape(N_FREE, N_TERM, n_row)
    joint = gram_correlated(*map(jnp.asarray, (y, seen, cov, phi, spread.reshape(-1, N_LABEL * n_row))))
    parts = [
        gram(*map(jnp.asarray, (
            y[has, :, l], seen[has, :, l], np.where(seen[has, :, l], var[has, :, l], 1.0), phi[has, :, l], np.eye(n_row)
        )))
        for l in range(N_LABEL) for has in [seen[:, :, l].any(1)]
    ]  # fmt: skip
    np.testing.assert_allclose(joint.precision, linalg.block_diag(*[p.precision for p in parts]), atol=1e-10)
    np.testing.assert_allclose(joint.linear, np.concatenate([p.linear for p in parts]), rtol=1e-9)
    assert float(joint.const) == pytest.approx(sum(float(p.const) for p in parts), rel=1e-10)
    assert float(joint.square) == pytest.approx(sum(float(p.square) for p in parts), rel=1e-9)


def test_what_is_not_seen_does_not_matter():
    y, seen, cov, phi, spread = visits(2)
    other = np.where(seen, y, 77.0)
    both = seen[..., :, None] & seen[..., None, :]
    for changed in ((other, seen, cov, phi, spread), (y, seen, np.where(both, cov, 9.0), phi, spread)):
        a, b = (gram_correlated(*map(jnp.asarray, x)) for x in ((y, seen, cov, phi, spread), changed))
        assert all(np.array_equal(p, q) for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_gradients_are_finite_with_unseen_labels():
    y, seen, cov, phi, spread = map(jnp.asarray, visits(3))
    found = jax.grad(lambda c: gram_correlated(y, seen, c, phi, spread).const)(cov)
    assert np.isfinite(found).all()


def test_stars_of_anchors_alone_tell_the_noise():
    y, seen, cov, _, _ = map(jnp.asarray, visits(1))
    bare = gram_correlated(y, seen, cov, jnp.zeros((N_STAR, 0, N_LABEL, N_TERM)), jnp.zeros((0, N_COEF)))
    nothing = np.zeros((N_STAR, N_FREE, N_LABEL, N_TERM))
    expected = dense(*map(np.asarray, (y, seen, cov)), nothing, np.zeros((nothing[0].size, N_COEF)), np.zeros(N_COEF))
    assert value(bare, np.zeros(N_COEF)) == pytest.approx(expected, rel=1e-9)
    assert not np.asarray(bare.precision).any()


def test_an_all_but_exact_measurement_costs_no_digits():
    """The anchor of the second label is 10^12 times more precise than the rest: the others' design survives."""
    y, seen, cov, phi, spread = visits(4)
    seen[:] = True
    cov[:, 3] = np.eye(N_LABEL) * 1e-12
    g = gram_correlated(*map(jnp.asarray, (y, seen, cov, phi, spread)))
    exact = np.zeros((N_COEF, N_COEF))
    for i in range(N_STAR):
        for v in range(N_FREE):  # z is known: every other visit stands by itself
            rows = np.einsum("lt,ltp->lp", phi[i, v], spread.reshape(N_FREE, N_LABEL, N_TERM, N_COEF)[v])
            exact += rows.T @ np.linalg.solve(cov[i, v], rows)
    np.testing.assert_allclose(g.precision, exact, rtol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_small_factors_are_lapack_s(n):
    rng = np.random.default_rng(n)
    root = rng.normal(size=(20, n, n))
    a = root @ np.swapaxes(root, 1, 2) + 0.2 * np.eye(n)
    rows, b = factor(jnp.asarray(a)), rng.normal(size=(20, n))
    np.testing.assert_allclose(log_det(rows), np.linalg.slogdet(a)[1], rtol=1e-9, atol=1e-9)
    inverse = np.linalg.inv(np.linalg.cholesky(a))
    np.testing.assert_allclose(root_inverse(rows), inverse, rtol=1e-9, atol=1e-9)
    solved = np.stack(forward(rows, [jnp.asarray(b[:, k]) for k in range(n)]), axis=1)
    np.testing.assert_allclose(solved, np.einsum("ikl,il->ik", inverse, b), rtol=1e-8, atol=1e-9)


def test_precision_of_the_labels_seen():
    _, seen, cov, _, _ = visits(5)
    precision, noise = visit_precisions(jnp.asarray(cov), jnp.asarray(seen))
    for i, v in np.argwhere(seen.any(2)):
        at = np.flatnonzero(seen[i, v])
        some = cov[i, v][np.ix_(at, at)]
        np.testing.assert_allclose(np.asarray(precision)[i, v][np.ix_(at, at)], np.linalg.inv(some), rtol=1e-8)
        assert float(noise[i, v]) == pytest.approx(np.linalg.slogdet(2 * np.pi * some)[1], rel=1e-9)
