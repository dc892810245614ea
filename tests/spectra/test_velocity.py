"""The Earth's motion, against what GALAH's own pipeline found for five stars of one field."""

import numpy as np
import pytest

from hbcal import HbcalError
from hbcal.spectra.velocity import SITES, barycentric_correction, to_barycentre

# GALAH reduction 6.0, objects 210115000101001 to -005: ra_icrs, dec_icrs, v_bary_eff; mjd 59229.4797, at the AAT
GALAH = np.array([
    (87.74803, 7.98963, -13.355537), (87.35173, 8.014498, -13.544003), (87.041756, 8.087696, -13.693967),
    (87.0459, 8.07617, -13.691362), (87.757515, 7.9219685, -13.347182),
])  # fmt: skip


def test_against_galahs_pipeline():
    ra, dec, published = GALAH.T
    found = barycentric_correction(ra, dec, np.full(5, 59229.47970061943), "aat")
    np.testing.assert_allclose(found, published, atol=0.005)  # they agree to 0.0005
    elsewhere = barycentric_correction(ra, dec, np.full(5, 59229.47970061943), "apo")
    assert np.abs(elsewhere - published).min() > 0.1  # the turn of the Earth alone is 0.4 km/s


def test_redshifts_multiply():
    c = 299792.458
    v, w = 250.0, -29.0
    np.testing.assert_allclose(to_barycentre(np.array(v), np.array(w)), c * ((1 + v / c) * (1 + w / c) - 1), rtol=1e-9)


def test_unknown_site():
    with pytest.raises(HbcalError, match="did you mean 'xinglong'"):
        barycentric_correction(np.zeros(1), np.zeros(1), np.zeros(1), "xinlong")
    assert all(abs(lon) <= 180 and abs(lat) <= 90 for lon, lat, _ in SITES.values())
