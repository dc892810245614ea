"""Two sequences at fixed [Fe/H] that no component tells apart by itself: found when they are there, and only then."""

import numpy as np

from hbcal.population_split import split_at

AT = np.linspace(-0.6, 0.2, 9)
ALPHA = np.array([[1.0, 0.0], [-1.0, 1.0]])  # [Mg/Fe] at fixed [Fe/H]


def sequences(gap, n_draw=5):
    """Low- and high-alpha sequences in ([Fe/H], [Mg/H]), three components each, shares changing along [Fe/H]."""
    rng = np.random.default_rng(0)
    x = np.array([-0.5, -0.2, 0.1])
    weight = np.concatenate([[0.1, 0.3, 0.3], [0.2, 0.08, 0.02]])
    mean = np.concatenate([np.stack([x, x], 1), np.stack([x, x + gap], 1)]) + 0.002 * rng.normal(size=(n_draw, 6, 2))
    along = np.array([[1.0, 0.9], [0.9, 0.81]]) * 0.15**2
    return np.tile(np.log(weight), (n_draw, 1)), mean, np.tile(along + np.diag([0.0, 0.03**2]), (n_draw, 6, 1, 1))


def test_two_sequences_part_at_fixed_iron_and_their_shares_are_right():
    log_weight, mean, covariance = sequences(0.25)
    found = split_at(log_weight, mean, covariance, AT, ALPHA)
    assert (found.two == 1.0).all()
    here = np.exp(log_weight[0])[:, None] * np.exp(-0.5 * ((AT[None] - mean[0, :, :1]) / 0.15) ** 2)
    np.testing.assert_allclose(found.upper[0], here[3:].sum(0) / here.sum(0), atol=0.01)
    assert (np.diff(np.nanmean(found.upper, 0)) < 0).all()  # the fewer, the richer in iron


def test_one_sequence_does_not_part():
    found = split_at(*sequences(0.04), AT, ALPHA)
    assert (found.two == 0.0).all()
    assert np.isnan(found.upper).all()


def test_a_few_stars_apart_are_no_peak():
    log_weight, mean, covariance = sequences(0.25)
    rare = np.log(np.where(np.arange(6) < 3, np.exp(log_weight), 0.03 * np.exp(log_weight)))
    found = split_at(rare, mean, covariance, AT, ALPHA)
    assert (found.two[AT > -0.4] == 0.0).all()


def test_a_component_far_off_in_iron_changes_nothing():
    """Nor does a component so far off that none of its stars has this [Fe/H] hide the two peaks of the others."""
    near = sequences(0.25)
    far = np.full((5, 1), np.log(0.02)), np.full((5, 1, 2), 50.0), np.tile(np.eye(2) * 0.1**2, (5, 1, 1, 1))
    found = split_at(*(np.append(*both, axis=1) for both in zip(near, far, strict=True)), AT, ALPHA)
    np.testing.assert_allclose(found.upper, split_at(*near, AT, ALPHA).upper, atol=1e-6)
