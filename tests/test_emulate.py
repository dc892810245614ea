"""What emulators expect of spectra, against spectra of known labels; and labels that are none."""

import numpy as np
import pytest
from scipy.stats import chi2, kstest

from hbcal import HbcalError
from hbcal.emulate import emulate
from hbcal.emulator.base import median_of


def by_name(spectra):
    return dict(zip(spectra.label_names, spectra.labels.T, strict=True))


def far(off, told):
    """Squared distance of residuals in the covariance that is claimed, as a probability: uniform if it is right."""
    root = told["root"].to_numpy()
    cov = root @ np.swapaxes(root, 1, 2) + told["variance"].to_numpy()[:, :, None] * np.eye(off.shape[1])
    return chi2.cdf(np.einsum("sp,sp->s", off, np.linalg.solve(cov, off[..., None])[..., 0]), off.shape[1])


def test_residuals_are_as_the_emulator_says(tiny_emulator, tiny_spectra):
    spectra = tiny_spectra(400, 9)
    told = emulate(tiny_emulator, by_name(spectra))
    off = spectra.flux / median_of(spectra.flux) - told["flux"].to_numpy()
    assert kstest(far(off, told), "uniform").pvalue > 1e-3
    assert kstest(far(1.3 * off, told), "uniform").pvalue < 1e-6  # planted: errors too small
    np.testing.assert_array_equal(told["wave"], spectra.wave)


def test_far_labels_are_flagged_and_bad_ones_refused(tiny_pixels):
    told = emulate(
        tiny_pixels, {"fe_h": np.array([-0.2, 3.0]), "teff": np.array([5000.0, 9000.0]), "more": np.zeros(2)}
    )
    assert told["flag"].to_numpy().tolist() == [False, True]
    with pytest.raises(HbcalError, match=r"label.s. 'fe_h' are not given"):
        emulate(tiny_pixels, {"teff": np.array([5000.0])})
    assert emulate(tiny_pixels, {"teff": 5000, "fe_h": -0.2}).sizes["star"] == 1
    for odd in (
        {"teff": np.zeros(2), "fe_h": np.zeros(3)},
        {"teff": "hot", "fe_h": 0.0},
        {"teff": np.zeros((2, 2)), "fe_h": 1},
    ):
        with pytest.raises(HbcalError, match="Labels must be as many numbers each"):
            emulate(tiny_pixels, odd)
    with pytest.raises(HbcalError, match="There is no star"):
        emulate(tiny_pixels, {"teff": np.zeros(0), "fe_h": np.zeros(0)})
    with pytest.raises(HbcalError, match="1 of 2 stars have a label that is no number, first in row 2"):
        emulate(tiny_pixels, {"teff": np.array([5000.0, np.nan]), "fe_h": np.zeros(2)})
