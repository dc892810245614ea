"""Conformance of every row of the table of bases, then what each basis promises of its own."""

import numpy as np
import pytest

from hbcal.numerics.bases import BASES, columns, hsgp, polynomial, spline

OPTIONS = {
    "polynomial": [{}, {"degree": 3}, {"degree": 2, "decay": 0.1}, {"degree": 3, "hold": 2.5}],
    "spline": [{}, {"knots": 2}, {"knots": 8, "low": -1.0, "high": 3.0}],
    "hsgp": [{}, {"functions": 1}, {"functions": 20, "length": 0.5, "half_width": 5.0}],
}
ROWS = [(name, options) for name, each in OPTIONS.items() for options in each]


def points(n_covariate, n=40):
    u = np.random.default_rng(2).normal(0.0, 1.5, (n, n_covariate))
    u[0], u[1], u[2] = 0.0, 50.0, -50.0  # the reference, and far outside
    return u


def test_every_basis_is_tried_here():
    assert OPTIONS.keys() == BASES.keys()
    for name, each in OPTIONS.items():
        assert {k for options in each for k in options} == set(BASES[name].options)


@pytest.mark.parametrize("n_covariate", [1, 3])
@pytest.mark.parametrize(("name", "options"), ROWS)
def test_conformance(name, options, n_covariate):
    u, names = points(n_covariate), ["a", "b", "c"][:n_covariate]
    out = columns(name, u, names, options)
    n_term = len(out.names)
    assert out.values.shape == (len(u), n_term)
    assert out.weights.shape == (n_term,)
    assert len(set(out.names)) == n_term
    assert all(any(c in term for c in names) for term in out.names)
    assert np.isfinite(out.values).all()
    assert (out.weights > 0).all()
    # the zero point is a column of its own: the constant must not be one of these
    dense = np.random.default_rng(3).uniform(-3.0, 3.0, (400, n_covariate))
    whole = np.column_stack([np.ones(400), columns(name, dense, names, options).values])
    assert np.linalg.matrix_rank(whole) == n_term + 1
    # rows are independent of each other, so applying to one star is applying to all
    np.testing.assert_allclose(columns(name, u[3:4], names, options).values, out.values[3:4], rtol=1e-12)
    assert columns(name, u[:0], names, options).values.shape == (0, n_term)


def test_polynomial_is_all_monomials():
    u = points(2)
    out = polynomial(u, ["a", "b"], degree=3, decay=0.5)
    a, b = u.T
    assert out.names == ["a", "b", "a^2", "a*b", "b^2", "a^3", "a^2*b", "a*b^2", "b^3"]
    expected = np.stack([a, b, a * a, a * b, b * b, a**3, a * a * b, a * b * b, b**3], axis=1)
    np.testing.assert_allclose(out.values, expected, rtol=1e-12)
    np.testing.assert_allclose(out.weights, [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25])


def test_a_held_polynomial_bends_no_further():
    u = np.array([[1.0, -2.0], [9.0, -2.0], [2.5, -40.0]])
    held = polynomial(u, ["a", "b"], degree=3, hold=2.5)
    np.testing.assert_array_equal(held.values, polynomial(np.clip(u, -2.5, 2.5), ["a", "b"], degree=3).values)
    with pytest.raises(ValueError, match="positive"):
        polynomial(u, ["a", "b"], hold=0.0)


def test_spline_columns_sum_to_nothing_over_the_range_and_stay_at_its_ends():
    grid = np.linspace(-2.0, 2.0, 401)[:, None]
    out = spline(grid, ["x"], knots=6)
    np.testing.assert_allclose(out.values.mean(0), 0.0, atol=1e-12)
    beyond = spline(np.array([[-2.0], [-9.0], [2.0], [9.0]]), ["x"], knots=6).values
    np.testing.assert_allclose(beyond[0], beyond[1])
    np.testing.assert_allclose(beyond[2], beyond[3])


def test_spline_with_the_constant_spans_cubics():
    grid = np.linspace(-2.0, 2.0, 101)
    design = np.column_stack([np.ones(101), spline(grid[:, None], ["x"], knots=5).values])
    for power in range(4):
        fitted = design @ np.linalg.lstsq(design, grid**power, rcond=None)[0]
        np.testing.assert_allclose(fitted, grid**power, atol=1e-10)


def test_hsgp_is_the_squared_exponential_kernel():
    """sum_k weight_k^2 phi_k(u) phi_k(v) = exp(-(u - v)^2 / 2 l^2), well inside the box."""
    u = np.linspace(-1.5, 1.5, 31)[:, None]
    for length in (0.7, 1.0, 2.0):
        out = hsgp(u, ["x"], functions=40, length=length, half_width=8.0)
        kernel = (out.values * out.weights**2) @ out.values.T
        np.testing.assert_allclose(kernel, np.exp(-0.5 * ((u - u.T) / length) ** 2), atol=2e-3)


def test_hsgp_default_is_close_enough_to_use():
    u = np.linspace(-2.0, 2.0, 41)[:, None]
    out = hsgp(u, ["x"])
    kernel = (out.values * out.weights**2) @ out.values.T
    np.testing.assert_allclose(kernel, np.exp(-0.5 * (u - u.T) ** 2), atol=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda u: polynomial(u, ["x"], degree=0), "degree >= 1"),
        (lambda u: spline(u, ["x"], knots=1), "at least 2 knots"),
        (lambda u: spline(u, ["x"], low=1.0, high=1.0), "low < high"),
        (lambda u: hsgp(u, ["x"], functions=0), "functions >= 1"),
        (lambda u: hsgp(u, ["x"], length=0.0), "positive lengths"),
        (lambda u: columns("fourier", u, ["x"], {}), "fourier"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises((ValueError, KeyError), match=message):
        call(np.zeros((2, 1)))
