"""True labels of training stars: errors do not bias the linear model, and what is missing gets its uncertainty."""

import numpy as np

from hbcal.numerics.true_labels import true_labels

RNG = np.random.default_rng(0)
N = 6000
SEEN = RNG.normal(size=(N, 2))
ROOT = np.array([[0.3, 0.0], [0.1, 0.2]])
TRUE = SEEN @ np.array([[1.0, 0.2], [0.0, 0.8]]) + RNG.normal(size=(N, 2)) @ ROOT.T
ERR = np.broadcast_to(RNG.uniform(0.1, 0.6, size=(N, 1)), (N, 2))
REPORTED = TRUE + ERR * RNG.normal(size=(N, 2))


def test_the_scatter_of_true_labels_is_found_under_their_errors():
    _, _, scatter = true_labels(REPORTED, ERR, SEEN)
    np.testing.assert_allclose(scatter, ROOT @ ROOT.T, atol=0.012)
    ignored = true_labels(REPORTED, np.zeros((N, 2)), SEEN)[2]  # the defect: labels taken at face value
    assert np.abs(ignored - ROOT @ ROOT.T).max() > 0.1


def test_errors_of_the_answer_are_as_large_as_they_say():
    mean, cov, _ = true_labels(REPORTED, ERR, SEEN)
    left = mean - TRUE
    chi2 = np.einsum("il,il->i", left, np.linalg.solve(cov, left[..., None])[..., 0])
    assert abs(chi2.mean() - 2.0) < 5 * np.sqrt(4.0 / N)


def test_a_missing_label_comes_from_the_spectrum_and_the_other_label():
    gaps = REPORTED.copy()
    gaps[::3, 0] = np.nan
    mean, cov, _ = true_labels(gaps, ERR, SEEN)
    left = (mean - TRUE)[::3, 0]
    assert np.isfinite(mean).all()
    assert abs((left**2 / cov[::3, 0, 0]).mean() - 1.0) < 0.12
    assert (cov[::3, 0, 0] < 0.09).all()  # better than the spectrum alone, whose variance is 0.09


def test_exact_labels_come_back():
    mean, _, _ = true_labels(TRUE, np.full((N, 2), np.nan), SEEN)
    np.testing.assert_allclose(mean, TRUE, atol=1e-6)
