import numpy as np
import pytest

from hbcal.numerics.gauge import zero_sum_basis


@pytest.mark.parametrize("n", [1, 2, 3, 7, 20])
def test_columns_are_orthonormal_and_sum_to_zero(n):
    basis = zero_sum_basis(n)
    assert basis.shape == (n, n - 1)
    np.testing.assert_allclose(basis.T @ basis, np.eye(n - 1), atol=1e-14)
    np.testing.assert_allclose(basis.sum(0), 0.0, atol=1e-14)


def test_prior_is_the_independent_one_conditioned_on_the_sum():
    """Independent offsets of unit sd, given that they sum to zero, have covariance I - 11^T / n; all exchangeable."""
    for n in (2, 5):
        basis = zero_sum_basis(n)
        np.testing.assert_allclose(basis @ basis.T, np.eye(n) - 1.0 / n, atol=1e-14)


def test_no_surveys_have_no_gauge():
    with pytest.raises(ValueError, match="at least one survey"):
        zero_sum_basis(0)
