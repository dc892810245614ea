"""MARCS models: the format, the interpolation between models, the hull; all on own grey models."""

import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest

from hbcal._errors import HbcalError
from hbcal.synthesis.abundances import ABSENT, ELEMENTS, mixture, solar_scale
from hbcal.synthesis.atmospheres import LOGARITHMIC, corners, interpolate, open_atmospheres
from hbcal.synthesis.marcs import COLUMNS, MORE, mod_text, read_mod, read_name

from .conftest import SUN, grey, name

# as the MARCS site describes it: a header, 92 abundances, a table of 9 and one of 8 columns, then partial pressures
WRITTEN = """s4500_g+2.0_m1.0_t02_st_z-0.50_a+0.20_c+0.00_n+0.00_o+0.20_r+0.00_s+0.00
  4500.      Teff [K].         Last iteration; yyyymmdd=20000101
  2.3252E+10 Flux [erg/cm2/s]
  1.0000E+02 Surface gravity [cm/s2]
  2.0        Microturbulence parameter [km/s]
  1.0        Mass [Msun]
 -0.50 +0.20 Metallicity [Fe/H] and [alpha/Fe]
  1.1530E+12 Radius [cm] at Tau(Rosseland)=1.0
    100.0000 Luminosity [Lsun]
  1.50 8.00 0.076 0.00 are the convection parameters: alpha, nu, y and beta
  0.75000 0.24000 0.01000 are X, Y and Z, 12C/13C=89 (=solar)
Logarithmic chemical number abundances, H always 12.00
{abundances}
   2 Number of depth points
Model structure
 k lgTauR  lgTau5    Depth     T        Pe          Pg         Prad       Pturb
  1 -5.00 -4.8000 -1.234E+10  3000.5  1.0000E-03  2.0000E+01  3.0000E-01  0.0000E+00
  2  2.00  1.9000  5.678E+09  9000.0  4.0000E+02  5.0000E+04  6.0000E+00  0.0000E+00
 k lgTauR    KappaRoss   Density   Mu      Vconv   Fconv/F      RHOX
  1 -5.00  1.1000E-04  2.2000E-10 1.259  0.000E+00 0.00000  7.700000E-01
  2  2.00  3.3000E-01  4.4000E-08 1.200  5.500E+05 0.95000  8.800000E+02
Assorted logarithmic partial pressures
  k  lgPgas   H I    H-     H2     H2+    H2O    OH     CH     CO     CN     C2
  1   1.30   1.29 -10.00  -3.00 -10.00  -3.00  -3.00  -5.00  -1.00  -6.00 -10.00
  2   4.70   4.69  -1.00  -1.00  -1.00  -3.00  -1.00  -1.00   0.00  -1.00  -3.00
"""


def written():
    numbers = "\n".join(
        "".join(f"{v:7.2f}" for v in np.where(SUN == ABSENT, -99, SUN)[i : i + 10]) for i in range(0, 92, 10)
    )
    return WRITTEN.format(abundances=numbers)


def test_a_model_is_read_number_by_number(tmp_path):
    path = tmp_path / name(4500, 2.0, -0.5, 0.2, kind="s")
    path.write_text(written())
    model = read_mod(path)
    assert (model.teff, model.logg, model.m_h, model.alpha_m, model.vmicro) == (4500.0, 2.0, -0.5, 0.2, 2.0)
    assert model.spherical
    assert model.radius == 1.153e12
    assert model.abundances[ELEMENTS.index("Fe")] == 7.5
    first = {"lg_tau_ross": 2.0, "lg_tau_5000": 1.9, "depth": 5.678e9, "temperature": 9000.0, "p_e": 400.0}
    last = {"density": 4.4e-8, "mu": 1.2, "v_conv": 5.5e5, "f_conv": 0.95, "rhox": 880.0, "kappa_ross": 0.33}
    for column, value in (first | last | {"p_gas": 5e4, "p_rad": 6.0, "p_turb": 0.0}).items():
        assert model.layers[column][1] == value
    zipped = tmp_path / "same.mod.gz"
    zipped.write_bytes(gzip.compress(written().encode()))
    assert read_mod(zipped).layers["p_gas"].tolist() == model.layers["p_gas"].tolist()


@pytest.mark.parametrize("model", [grey(5777, 4.44, -0.3, 0.1), grey(4000, 1.5, 0.0)])
def test_what_is_written_is_read_back(model, tmp_path):
    (tmp_path / "x.mod").write_text(mod_text(model))
    again = read_mod(tmp_path / "x.mod")
    assert (again.teff, again.logg, again.m_h, again.alpha_m) == (model.teff, model.logg, model.m_h, model.alpha_m)
    assert not again.spherical
    np.testing.assert_allclose(again.abundances, model.abundances, atol=0.0051)
    for column in (*COLUMNS, *MORE):
        np.testing.assert_allclose(again.layers[column], model.layers[column], rtol=6e-4, atol=0.0051)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7, 0.93])
def test_a_truncated_model_is_refused(share, tmp_path):
    text = mod_text(grey(5777, 4.44, 0.0))
    (tmp_path / "x.mod").write_text(text[: int(share * len(text))])
    with pytest.raises(HbcalError, match="truncated; get it again"):
        read_mod(tmp_path / "x.mod")


def test_a_truncated_compressed_model_is_refused(tmp_path):
    packed = gzip.compress(mod_text(grey(5777, 4.44, 0.0)).encode())
    (tmp_path / "x.mod.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(HbcalError, match="truncated; get it again"):
        read_mod(tmp_path / "x.mod.gz")


def test_names_that_are_not_of_models_are_left_out(home):
    carbon = name(7000, 4.0, 0.0).replace("_c+0.00", "_c+0.30")
    for odd in (name(7000, 4.0, 0.0) + ".filled", "notes.txt", name(7000, 4.0, 0.0).replace(".mod", ".flx"), carbon):
        (home / "grey" / odd).write_text("")
    found = open_atmospheres(home / "grey")
    assert len(found.files) == 8
    assert found.nodes == ((5000.0, 6000.0), (4.0, 4.5), (-0.5, 0.0))
    assert read_name("x" + name(7000, 4.0, 0.0)) is None


def test_of_models_alike_the_one_of_one_solar_mass_counts(tmp_path):
    for mass, vmicro in itertools.product(("0.5", "1.0", "5.0"), ("02", "05")):
        (tmp_path / name(4000, 1.0, 0.0, kind="s", mass=mass, vmicro=vmicro)).write_text("")
    (only,) = open_atmospheres(tmp_path).files.values()
    assert only.name.startswith("s4000_g+1.0_m1.0_t02")


def test_alpha_is_an_axis_where_models_differ_in_it_alone(tmp_path):
    for m_h, alpha_m in ((-0.5, 0.2), (0.0, 0.0)):
        (tmp_path / name(5000, 4.0, m_h, alpha_m)).write_text("")
    assert open_atmospheres(tmp_path).axes == ("teff", "logg", "m_h")
    (tmp_path / name(5000, 4.0, 0.0, 0.4)).write_text("")
    assert open_atmospheres(tmp_path).axes == ("teff", "logg", "m_h", "alpha_m")


def test_weights_reproduce_the_star(home):
    models = open_atmospheres(home / "grey")
    star = {"teff": 5432.1, "logg": 4.21, "m_h": -0.33}
    around = corners(models, star)
    assert len(around) == 8
    assert sum(around.values()) == pytest.approx(1.0, abs=1e-10)
    mean = sum(w * np.array([np.log(t), g, m]) for (t, g, m), w in around.items())
    np.testing.assert_allclose(mean, [np.log(5432.1), 4.21, -0.33], atol=1e-9)


def test_interpolation_is_exact_for_power_laws_and_at_the_nodes(home):
    """Grey models: T ~ Teff and P ~ 10^(log g) at fixed depth, so ln T and ln P are linear in ln Teff and log g."""
    models = open_atmospheres(home / "grey")
    between, exact = interpolate(models, {"teff": 5400.0, "logg": 4.2, "m_h": -0.2}), grey(5400.0, 4.2, -0.2)
    for column in ("temperature", "p_gas", "density", "kappa_ross", "rhox", "lg_tau_5000"):
        np.testing.assert_allclose(between.layers[column], exact.layers[column], rtol=3e-4, atol=6e-3)
    assert between.teff == pytest.approx(5400.0)
    assert not between.spherical
    sun = solar_scale(between.abundances, between.m_h, between.alpha_m)
    np.testing.assert_allclose(sun, SUN, atol=0.006)
    node = interpolate(models, {"teff": 5000.0, "logg": 4.5, "m_h": 0.0})
    for column, values in read_mod(models.files[5000.0, 4.5, 0.0]).layers.items():
        np.testing.assert_allclose(node.layers[column], values, rtol=1e-12)
    assert set(LOGARITHMIC) <= {*COLUMNS, *MORE}


def test_a_hole_is_outside(home):
    (home / "grey" / name(5000, 4.0, -0.5)).unlink()
    models = open_atmospheres(home / "grey")
    assert corners(models, {"teff": 5500.0, "logg": 4.2, "m_h": -0.2}) is None
    assert corners(models, {"teff": 6000.0, "logg": 4.2, "m_h": -0.2}) is not None  # that side of the cell is whole
    assert corners(models, {"teff": 6000.1, "logg": 4.2, "m_h": -0.2}) is None


def test_other_compositions_and_depths_do_not_mix(home):
    folder = home / "grey"
    other = folder / name(7000, 4.0, 0.0).replace("_st_", "_ap_")
    other.write_text("")
    with pytest.raises(HbcalError, match="mixes models of the compositions 'ap', 'st'"):
        open_atmospheres(folder)
    other.unlink()
    (folder / name(5000, 4.0, -0.5)).write_text(mod_text(grey(5000, 4.0, -0.5, n_layer=30)))
    with pytest.raises(HbcalError, match="different optical depths"):
        interpolate(open_atmospheres(folder), {"teff": 5500.0, "logg": 4.2, "m_h": -0.2})


def test_one_element_moves_alone():
    star = mixture(SUN, -0.5, 0.3, {"Mg": 0.1, "C": -0.2})
    expected = {"Fe": -0.5, "Na": -0.5, "Mg": -0.4, "Si": -0.2, "C": -0.7, "He": 0.0, "H": 0.0}
    for symbol, change in expected.items():
        assert star[ELEMENTS.index(symbol)] - SUN[ELEMENTS.index(symbol)] == pytest.approx(change)
    assert star[ELEMENTS.index("Tc")] == ABSENT
    np.testing.assert_allclose(solar_scale(mixture(SUN, -1.2, 0.4, {}), -1.2, 0.4), SUN)


def test_no_folder(tmp_path):
    with pytest.raises(HbcalError, match="has no file named like a MARCS model"):
        open_atmospheres(tmp_path)
    with pytest.raises(HbcalError, match="There is no model atmosphere"):
        read_mod(Path("nowhere"))
