"""Air and vacuum against published pairs and another library; frames and resolution against closed forms."""

import numpy as np
import pytest

from hbcal import HbcalError
from hbcal.numerics.wavelength import SPEED_OF_LIGHT, air_to_vacuum, rest_frame, vacuum_to_air, width_between

# SDSS, "Air and vacuum wavelengths", www.sdss.org/dr7/products/spectra/vacwavelength.html: vacuum, air
PUBLISHED = np.array([
    (4862.721, 4861.363), (4960.295, 4958.911), (5008.239, 5006.843), (6549.86, 6548.05), (6564.614, 6562.801),
    (6585.27, 6583.45), (6718.29, 6716.44), (6732.68, 6730.82),
])  # fmt: skip


def test_published_pairs():
    vacuum, air = PUBLISHED.T
    np.testing.assert_allclose(vacuum_to_air(vacuum), air, atol=0.006)  # they are given to 0.01, by Edlen's formula
    np.testing.assert_allclose(air_to_vacuum(air), vacuum, atol=0.006)
    assert np.abs(vacuum - air).min() > 1.3  # no conversion at all would not pass


def test_there_and_back():
    wave = np.linspace(2500.0, 17000.0, 1001)
    np.testing.assert_allclose(air_to_vacuum(vacuum_to_air(wave)), wave, rtol=1e-14)


def test_against_specutils():
    pytest.importorskip("specutils")
    import subprocess
    import sys

    code = """
import warnings; warnings.simplefilter("ignore")
import numpy as np
from astropy import units as u
from specutils.utils.wcs_utils import vac_to_air
print(*vac_to_air(np.linspace(2500.0, 17000.0, 50) * u.AA, method="Ciddor1996").value)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    theirs = np.array(done.stdout.split(), float)
    np.testing.assert_allclose(vacuum_to_air(np.linspace(2500.0, 17000.0, 50)), theirs, rtol=1e-12)


@pytest.mark.parametrize("wave", [[336.0, 1020.0], [0.5, 2.4], [1e6, 2e6]])
def test_nanometres_are_not_angstrom(wave):
    for convert in (air_to_vacuum, vacuum_to_air):
        with pytest.raises(HbcalError, match="nm or micron"):
            convert(np.array(wave))


def test_rest_frame():
    wave = np.array([5000.0, 6000.0])
    np.testing.assert_allclose(rest_frame(wave * (1 + 100 / SPEED_OF_LIGHT), 100.0), wave, rtol=1e-15)
    relativistic = wave[0] * np.sqrt((1 - 300 / SPEED_OF_LIGHT) / (1 + 300 / SPEED_OF_LIGHT))
    assert abs(rest_frame(wave, 300.0)[0] / relativistic - 1) * SPEED_OF_LIGHT < 0.16  # as its docstring says


def test_widths():
    wave = np.array([4000.0, 8000.0])
    np.testing.assert_allclose(width_between(wave, 5000.0, 3000.0) ** 2, (wave / 3000) ** 2 - (wave / 5000) ** 2)
    np.testing.assert_allclose(width_between(wave, np.inf, 2000.0), wave / 2000)
    for power, wanted in ((2000.0, 3000.0), (2000.0, 2000.0), (2000.0, -1.0)):
        with pytest.raises(HbcalError, match="lower"):
            width_between(wave, power, wanted)
