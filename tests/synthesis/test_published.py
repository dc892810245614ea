"""Published grids: tiny files in the formats they are published in."""

import gzip

import numpy as np
import pytest
from astropy.io import fits

from hbcal._errors import HbcalError
from hbcal.emulator.choose import noiseless
from hbcal.synthesis.broaden import broaden
from hbcal.synthesis.published import read_marcs_fluxes, read_phoenix

from .conftest import name

WAVE = np.linspace(5000.0, 5010.0, 11)


@pytest.fixture
def marcs(tmp_path):
    """A wave file and two fluxes, one of them compressed."""
    (tmp_path / "flx_wavelengths.vac").write_text("".join(f"{w:12.3f}\n" for w in WAVE))
    paths = [tmp_path / name(*labels).replace(".mod", ".flx") for labels in ((5000, 4.0, -0.5, 0.2), (4500, 4.5, 0.0))]
    paths[1] = paths[1].with_name(paths[1].name + ".gz")
    paths[0].write_text("".join(f"{1e6 + i:12.5E}\n" for i in range(11)))
    paths[1].write_bytes(gzip.compress(b"  1.5000-101\n" + b"  2.00000E+06\n" * 10))
    return paths, tmp_path / "flx_wavelengths.vac"


@pytest.fixture
def phoenix(tmp_path):
    """A wave file and a spectrum."""
    fits.writeto(tmp_path / "WAVE.fits", WAVE)
    header = fits.Header({"PHXTEFF": 5100.0, "PHXLOGG": 4.5, "PHXM_H": -1.0, "PHXALPHA": 0.4, "BUNIT": "erg/s/cm^2/cm"})
    path = tmp_path / "lte05100-4.50-1.0.Alpha=+0.40.PHOENIX-ACES-AGSS-COND-2011-HiRes.fits"
    fits.writeto(path, np.arange(1e14, 12e14, 1e14, dtype=np.float32), header)
    return path, tmp_path / "WAVE.fits"


def test_marcs_fluxes(marcs):
    spectra = read_marcs_fluxes(*marcs)
    np.testing.assert_allclose(spectra.wave, WAVE)
    assert spectra.label_names == ("teff", "logg", "m_h", "alpha_m")
    assert spectra.labels.tolist() == [[5000.0, 4.0, -0.5, 0.2], [4500.0, 4.5, 0.0, 0.0]]
    assert spectra.flux[1, 0] == 1.5e-101  # Fortran leaves the E of a three-digit exponent out
    assert spectra.flux[1, 1] == 2e6
    np.testing.assert_allclose(spectra.flux_err[0], 5e-5 * spectra.flux[0])
    assert noiseless(spectra)
    cut = read_marcs_fluxes(*marcs, window=(5002.5, 5006.0))
    assert cut.wave.tolist() == [5003.0, 5004.0, 5005.0, 5006.0]
    assert cut.flux.shape == (2, 4)


def test_a_flux_of_nothing_is_missing(marcs):
    paths, wave_file = marcs
    paths[0].write_text("".join(f"{1e6 * (i > 2):12.5E}\n" for i in range(11)))
    spectra = read_marcs_fluxes(paths, wave_file)
    assert np.isnan(spectra.flux[0, :3]).all()
    assert np.isfinite(spectra.flux_err).sum() == 19


def test_phoenix(phoenix):
    path, wave_file = phoenix
    spectra = read_phoenix([path], wave_file, window=(5001.0, 5002.0), relative_err=0.01)
    assert spectra.labels.tolist() == [[5100.0, 4.5, -1.0, 0.4]]
    np.testing.assert_allclose(spectra.flux, [[2e6, 3e6]], rtol=1e-6)  # per Angstrom
    np.testing.assert_allclose(spectra.flux_err, [[2e4, 3e4]], rtol=1e-6)


def test_marcs_mistakes(marcs):
    (first, second), wave_file = marcs
    renamed = first.rename(first.with_name("sun.flx"))
    with pytest.raises(HbcalError, match="its labels are unknown"):
        read_marcs_fluxes([renamed], wave_file)
    second.write_bytes(second.read_bytes()[:-9])
    with pytest.raises(HbcalError, match="truncated; get it again"):
        read_marcs_fluxes([second], wave_file)
    renamed.rename(first).write_text("1.0\n2.0\n")
    with pytest.raises(HbcalError, match=r"has 2 pixels but .* has 11"):
        read_marcs_fluxes([first], wave_file)
    first.write_text("1.0\nflux\n")
    with pytest.raises(HbcalError, match="cannot be read"):
        read_marcs_fluxes([first], wave_file)


def test_phoenix_mistakes(phoenix, tmp_path):
    path, wave_file = phoenix
    with pytest.raises(HbcalError, match=r"The window \[6000, 5000\] has no pixel"):
        read_phoenix([path], wave_file, window=(6000.0, 5000.0))
    bare = tmp_path / "bare.fits"
    fits.writeto(bare, WAVE)
    with pytest.raises(HbcalError, match="lacks 'PHXTEFF', 'PHXLOGG', 'PHXM_H', 'PHXALPHA'"):
        read_phoenix([bare], wave_file)
    fits.setval(path, "BUNIT", value="Jy")
    with pytest.raises(HbcalError, match="unit 'Jy' instead of"):
        read_phoenix([path], wave_file)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(HbcalError, match="cannot be read as FITS"):
        read_phoenix([path], wave_file)


def test_broadening_adds_variances():
    """A Gaussian line of width s, broadened with sigma, is one of width sqrt(s^2 + sigma^2) and the same area."""
    wave, s, resolution = 5000.0 + 0.02 * np.arange(2001), 0.3, 10_000.0
    line = lambda width: np.exp(-0.5 * ((wave - 5020.0) / width) ** 2) / width  # noqa: E731
    sigma = 5020.0 / resolution / np.sqrt(8.0 * np.log(2.0))
    expected = line(np.sqrt(s**2 + sigma**2 + 0.02**2 / 12))  # the pixel, too, is a width
    # sigma changes by 1e-4 of itself across a line
    np.testing.assert_allclose(broaden(wave, line(s), resolution), expected, atol=2e-4 * expected.max())
    np.testing.assert_allclose(broaden(wave, np.ones((2, 2001)), resolution), 1.0)
