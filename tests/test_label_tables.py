"""A user's prior and labels known besides the spectrum: closed form, what narrows what, tables that are wrong."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from hbcal import HbcalError
from hbcal import label as job
from hbcal.catalogue.label_tables import KnownLabels, read_known, read_prior
from hbcal.emulator.base import Known
from hbcal.emulator.files import save_emulator
from hbcal.emulator.nuisances import Nuisances
from hbcal.emulator.pixels import PixelEmulator, Quadratic
from hbcal.label import label_spectra
from hbcal.labelling import label_files
from hbcal.numerics.label_density import RIDGE, LabelDensity
from hbcal.numerics.pixel_layer import PixelLayer
from hbcal.numerics.spread import n_sign
from hbcal.spectra.container import Spectra, write_spectra

N, N_PIX, NOISE = 48, 40, 0.3
CENTRE, UNIT = np.array([5000.0, 2.5]), np.array([300.0, 0.5])


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(job, "BATCH", 64)


@pytest.fixture(scope="module", name="sky")
def _sky():
    """Spectra that are linear in two labels, log g hardly told by them: every posterior is Gaussian."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(N_PIX, 6)) * [1.0, 0.1, 0.03, 0.0, 0.0, 0.0]
    layer = PixelLayer(weights, np.zeros(N_PIX), 1e-12 * np.eye(6), np.ones(N_PIX))
    density = LabelDensity(np.zeros(1), np.zeros((1, 2)), np.eye(2)[None])
    known = Known(
        CENTRE, UNIT, density, np.array([-np.inf]), np.array([np.inf]), np.zeros((n_sign(2), 2)),
        np.zeros(3), np.ones(()), rng.normal(size=(200, 2)), np.linspace(5000.0, 5010.0, N_PIX), ("teff", "logg"),
    )  # fmt: skip
    x = rng.normal(size=(N, 2))
    flux = weights[:, 0] + x @ weights[:, 1:3].T + NOISE * rng.normal(size=(N, N_PIX))
    ids = np.array([f"s{i}" for i in range(N)])
    none = np.empty((N, 0))
    seen = Spectra(known.wave, flux, np.full_like(flux, NOISE), ids, none, none, ())
    return PixelEmulator(known, layer, Quadratic(), np.zeros((2, 1, 2, 1))), seen


def closed_form(sky, mean, cov, told):
    """Mean and covariance of every star, scaled: prior N(mean, cov), log g measured as told, (value, err)."""
    emulator, seen = sky
    slope = emulator.layer.weights[:, 1:3]
    precision = slope.T @ slope / NOISE**2 + np.linalg.inv(cov) + np.diag([0.0, told[1] ** -2.0])
    pull = (seen.flux - emulator.layer.weights[:, 0]) @ slope / NOISE**2
    pull = pull + np.linalg.solve(cov, mean) + np.array([0.0, told[0] * told[1] ** -2.0])
    return np.linalg.solve(precision, pull.T).T, np.linalg.inv(precision)


def known_of(sky, value, err, stars=slice(None)):
    n = len(sky[1].star[stars])
    gap = np.full(n, np.nan)
    return KnownLabels(sky[1].star[stars], np.stack([gap, np.full(n, value)], 1), np.stack([gap, np.full(n, err)], 1))


@pytest.mark.parametrize("fast", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_prior_and_measurement_agree_with_the_closed_form(sky, fast):
    rng = np.random.default_rng(1)
    root = np.array([[0.6, 0.0], [0.3, 0.5]])
    sample = CENTRE + UNIT * (np.array([0.4, -0.5]) + rng.normal(size=(500, 2)) @ root.T)
    scaled = (sample - CENTRE) / UNIT
    found = label_spectra(sky[0], sky[1], fast=fast, prior=sample, known=known_of(sky, 2.7, 0.1))
    cov = np.cov(scaled.T, bias=True) + RIDGE * np.eye(2)
    mean, post = closed_form(sky, scaled.mean(axis=0), cov, (0.4, 0.2))
    z = ((found["value"].to_numpy() - CENTRE) / UNIT - mean) / np.sqrt(np.diag(post))
    assert np.abs(z.mean(axis=0)).max() < 0.1  # 48 stars of more than 50 effective draws each: an error below 0.02
    ratio = np.einsum("sll->sl", found["covariance"].to_numpy()) / UNIT**2 / np.diag(post)
    assert np.abs(np.log(ratio).mean(axis=0)).max() < 0.12


def test_a_measured_logg_narrows_that_star_alone(sky):
    alone = label_spectra(*sky, fast=True)
    told = label_spectra(*sky, fast=True, known=known_of(sky, 2.6, 0.01, slice(3)))
    sd = lambda found: np.sqrt(found["covariance"].to_numpy()[:, 1, 1])  # noqa: E731
    assert (sd(told)[:3] < 0.013).all()
    assert (sd(alone)[:3] > 0.15).all()
    np.testing.assert_array_equal(told["value"].to_numpy()[3:], alone["value"].to_numpy()[3:])


@pytest.fixture(name="files")
def _files(sky, tmp_path):
    save_emulator(sky[0], tmp_path / "model", {})
    write_spectra(sky[1], tmp_path / "spectra.npz")
    rng = np.random.default_rng(2)
    rows = "\n".join(f"{t:.1f},{g:.3f}" for t, g in CENTRE + UNIT * rng.normal(size=(50, 2)))
    (tmp_path / "prior.csv").write_text(f"teff,logg\n{rows}\n")
    (tmp_path / "known.csv").write_text("star,logg,logg_err\ns0,2.5,0.05\nabsent,1.0,0.1\ns1,,\n")
    return tmp_path


def labelled(files, **more):
    return label_files(files / "model", [files / "spectra.npz"], files / "out.nc", fast=True, **more)


def test_tables_are_told_in_the_output(files):
    labelled(files, prior=files / "prior.csv", known=files / "known.csv", nuisances=Nuisances(continuum=1))
    found = xr.load_dataset(files / "out.nc", engine="h5netcdf")
    assert found.attrs["prior"].endswith("prior.csv")
    assert found.attrs["known"].endswith("known.csv: 1 spectra")
    assert '"continuum": 1' in found.attrs["nuisances"]
    assert found["nuisance_value"].dims == ("star", "nuisance")


def test_another_prior_is_another_labelling(files, monkeypatch):
    def die(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr("hbcal.labelling._write", die)
    with pytest.raises(KeyboardInterrupt):
        labelled(files, prior=files / "prior.csv")
    with pytest.raises(HbcalError, match="another prior"):
        labelled(files, resume=True)
    with pytest.raises(HbcalError, match="another nuisances"):
        labelled(files, prior=files / "prior.csv", resume=True, nuisances=Nuisances(velocity=1.0))


WRONG = {
    "no star in common": ("star,logg,logg_err\nnobody,2.0,0.1\n", "None of the 1 star"),
    "unknown label": ("star,log_g,log_g_err\ns0,2.0,0.1\n", "did you mean 'logg'"),
    "error of zero": ("star,logg,logg_err\ns0,2.0,0.0\n", "1 zero error"),
    "no error": ("star,logg\ns0,2.0\n", "no column 'logg_err'"),
    "no star": ("id,logg,logg_err\ns0,2.0,0.1\n", "no column 'star'"),
    "an error of nothing": ("star,logg_err\ns0,0.1\n", "none with the values"),
    "twice": ("star,logg,logg_err\ns0,2.0,0.1\ns0,2.1,0.1\n", "in more than one row"),
    "nothing measured": ("star,logg,logg_err\ns0,,0.1\n", "no measurement"),
}


@pytest.mark.parametrize("what", WRONG)
def test_known_labels_that_are_wrong(files, what):
    text, said = WRONG[what]
    (files / "wrong.csv").write_text(text)
    with pytest.raises(HbcalError, match=said):
        labelled(files, known=files / "wrong.csv")
    assert not list(files.glob("*out.nc*"))


def test_priors_that_are_wrong(files):
    for text, said in {
        "teff\n5000\n": "lacks 'logg'", "teff,logg\n5000,2.0\n5100,2.5\n": "needs 10",
        "teff,logg\n" + "5000,2.0\n5000,2.5\n" * 6: "the same 'teff'",
    }.items():  # fmt: skip
        (files / "wrong.csv").write_text(text)
        with pytest.raises(HbcalError, match=said):
            read_prior(files / "wrong.csv", ("teff", "logg"))
    assert read_prior(files / "prior.csv", ("logg", "teff")).shape == (50, 2)
    assert read_known(files / "known.csv", ("teff", "logg")).star.tolist() == ["s0", "absent", "s1"]


def test_the_training_stars_still_say_what_is_outside(sky):
    """A prior does not make a strange star a usual one."""
    emulator, seen = sky
    typical = jnp.sort(emulator.known.density.log_density(jnp.asarray(np.random.default_rng(0).normal(size=(500, 2)))))
    emulator = replace(emulator, known=replace(emulator.known, typical=np.asarray(typical)))
    far = CENTRE + UNIT * (np.array([8.0, 8.0]) + 0.1 * np.random.default_rng(1).normal(size=(100, 2)))
    found = label_spectra(emulator, seen, fast=True, prior=far)
    assert (found["k_hat"].to_numpy() < 0.7).all()
    assert (found["extrapolation"].to_numpy() > 0.99).all()
