"""Own grey atmospheres in the format of MARCS, an own line list of four lines, and the real program where it is."""

import itertools
import os

import numpy as np
import pytest

from hbcal._errors import HbcalError
from hbcal.synthesis.abundances import ABSENT, ALPHA, ELEMENTS
from hbcal.synthesis.marcs import Atmosphere, mod_text
from hbcal.synthesis.turbospectrum import VARIABLE, find_turbospectrum

# round numbers near the Sun's, so that nothing here is anybody's table
SUN = np.full(92, ABSENT)
SUN[[ELEMENTS.index(x) for x in ("H", "He", "C", "N", "O", "Mg", "Si", "Ca", "Ti", "Fe", "Na")]] = [
    12.0, 10.9, 8.4, 7.8, 8.7, 7.5, 7.5, 6.3, 5.0, 7.5, 6.2,
]  # fmt: skip

# four lines of Ca II and Ti I: wavelength in air, lower level in eV, log gf
LINES = """'20.000              '    2         3
'Ca II  LTE'
  8498.023  1.692 -1.450    2.500    6.0  1.00E+08 'd' 'p'   0.0    1.0 'Ca II'
  8542.091  1.700 -0.500    2.500    6.0  1.00E+08 'd' 'p'   0.0    1.0 'Ca II'
  8662.141  1.692 -0.760    2.500    4.0  1.00E+08 'd' 'p'   0.0    1.0 'Ca II'
'22.000              '    1         1
'Ti I   LTE'
  8600.000  1.500 -2.600    2.500    5.0  1.00E+08 'd' 'p'   0.0    1.0 'Ti I, made up'
"""
GRID = """name = "grey"

[window]
low = 8480.0
high = 8680.0
step = 0.2

[lines]
files = ["lines.txt"]

[atmospheres]
folder = "grey"

[axes]
teff = [5200.0, 5600.0]
logg = [4.2]
m_h = [0.0]
mg_fe = [0.0, 0.2, 0.4]
"""


def grey(teff, logg, m_h, alpha_m=0.0, n_layer=40):
    """A grey atmosphere: Eddington's T(tau), hydrostatic, with constant opacity and electrons from metals.

    T^4 = 3/4 Teff^4 (tau + 2/3),   P = g tau / kappa
    """
    lg_tau = np.linspace(-4.0, 1.9, n_layer)
    tau, kappa = 10.0**lg_tau, 0.3
    temperature = (0.75 * teff**4 * (tau + 2 / 3)) ** 0.25
    p_gas = 10.0**logg * tau / kappa
    saha = (temperature / 5040.0) ** 2.5 * 10.0 ** (-13.6 * 5040.0 / temperature - 0.48) * 1e6
    p_e = p_gas * 10.0 ** (m_h - 4.0) + np.sqrt(saha * p_gas)
    density = p_gas * 1.26 * 1.66e-24 / (1.38e-16 * temperature)
    scaled = SUN + np.where(np.arange(92) > 1, m_h, 0.0)
    scaled[[ELEMENTS.index(x) for x in ALPHA]] += alpha_m
    rhox = tau / kappa
    zero = np.zeros(n_layer)
    layers = {
        "lg_tau_ross": lg_tau, "lg_tau_5000": lg_tau, "depth": np.cumsum(np.gradient(rhox) / density) * 1.0,
        "temperature": temperature, "p_e": p_e, "p_gas": p_gas, "p_rad": zero + 1.0, "p_turb": zero,
        "kappa_ross": zero + kappa, "density": density, "mu": zero + 1.26, "v_conv": zero, "f_conv": zero, "rhox": rhox,
    }  # fmt: skip
    return Atmosphere(teff, logg, m_h, alpha_m, 1.0, 1.0, np.where(SUN == ABSENT, -99.0, scaled), layers)


def name(teff, logg, m_h, alpha_m=0.0, *, kind="p", mass="0.0", vmicro="01"):
    return (
        f"{kind}{teff:.0f}_g{logg:+.1f}_m{mass}_t{vmicro}_st_z{m_h:+.2f}_a{alpha_m:+.2f}_c+0.00_n+0.00_o+0.00_r+0.00"
        "_s+0.00.mod"
    )


@pytest.fixture
def home(tmp_path):
    """A folder with grid.toml, its line list, and eight grey models."""
    (tmp_path / "grey").mkdir()
    for key in itertools.product((5000.0, 6000.0), (4.0, 4.5), (-0.5, 0.0)):
        (tmp_path / "grey" / name(*key)).write_text(mod_text(grey(*key)))
    (tmp_path / "lines.txt").write_text(LINES)
    (tmp_path / "grid.toml").write_text(GRID)
    return tmp_path


@pytest.fixture(scope="session")
def turbospectrum():
    """The real program; skips where there is none."""
    try:
        return find_turbospectrum()
    except HbcalError as error:
        pytest.skip(f"no Turbospectrum: {error}")


@pytest.fixture(scope="session")
def marcs_models():
    """The folder of real atmospheres; skips where there is none."""
    folder = os.environ.get("HBCAL_MARCS", "")
    if not os.path.isdir(folder):
        pytest.skip(f"no MARCS atmospheres: set HBCAL_MARCS to their folder, and {VARIABLE} to Turbospectrum's")
    return folder
