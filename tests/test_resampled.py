"""Labels of resampled spectra: neighbouring pixels share noise, and posteriors have to know."""

from dataclasses import replace

import numpy as np
import pytest

from hbcal.emulator.nuisances import Nuisances
from hbcal.label import label_spectra
from hbcal.spectra.container import as_spectra, read_spectra, write_spectra
from hbcal.spectra.convert import Steps, convert, prepare
from hbcal.spectra.formats import read_any
from hbcal.training import train_emulator

N_PIX, ERR = 160, 0.05
TRUE = np.arange(5000.0, 5000.0 + N_PIX)


def sky(rng, n, wave, err):
    """Spectra with lines whose depths follow two labels."""
    x = rng.uniform(-1.0, 1.0, (n, 2))
    line = lambda at: np.exp(-0.5 * ((wave - at) / 4.0) ** 2)  # noqa: E731
    depth = 0.4 + 0.2 * x[:, :1] + 0.05 * x[:, :1] * x[:, 1:]
    flux = 1.0 - depth * (line(5030) + 0.5 * line(5100)) - (0.3 + 0.2 * x[:, 1:]) * (line(5060) + 0.7 * line(5130))
    found = {
        "wave": wave, "flux": flux + err * rng.normal(size=flux.shape), "flux_err": np.full(flux.shape, err),
        "star": [f"s{i}" for i in range(n)], "labels": x, "labels_err": np.zeros_like(x), "label_names": ["teff", "m"],
    }  # fmt: skip
    return as_spectra(found, "here")


@pytest.fixture(scope="module", name="emulator")
def _emulator(tmp_path_factory):
    out = tmp_path_factory.mktemp("resampled") / "model"
    return train_emulator(sky(np.random.default_rng(0), 900, TRUE, 0.02), out, method="quadratic", noise="independent")


@pytest.fixture(scope="module", name="moved")
def _moved():
    """Half a pixel away, and brought onto the emulator's."""
    return prepare(sky(np.random.default_rng(1), 1200, np.arange(4998.5, 5000.0 + N_PIX + 1), ERR), Steps(wave=TRUE))


def held(found, spectra):
    """Shares of the stars whose labels lie in 68.3% intervals and 95% regions."""
    off = found["value"].to_numpy() - spectra.labels
    cov = found["covariance"].to_numpy()
    z = off / np.sqrt(np.einsum("sll->sl", cov))
    joint = np.einsum("sl,slm,sm->s", off, np.linalg.inv(cov), off)
    return (np.abs(z) < 1.0).mean(), (joint < 5.99).mean(), float(found["chi2"].median())


@pytest.mark.parametrize("nuisances", [Nuisances(), Nuisances(continuum=1)])
def test_intervals_hold_and_without_correlations_they_do_not(emulator, moved, nuisances):
    some = moved.take(slice(300 if nuisances.some else None))
    told = label_spectra(emulator, some, fast=True, nuisances=nuisances)
    within, joint, chi2 = held(told, some)
    noise = np.sqrt(0.25 / len(some.star))
    assert abs(within - 0.683) < 4 * noise
    assert abs(joint - 0.95) < 2 * noise
    assert 0.8 < chi2 < 1.05  # the smoothest noise has less than the share that is always its own
    forgetful = replace(some, flux_corr=np.empty((*some.flux.shape, 0)))
    within, joint, _ = held(label_spectra(emulator, forgetful, fast=True, nuisances=nuisances), some)
    assert within < 0.683 - 4 * noise
    assert joint < 0.9  # the planted defect: as many shares of noise as pixels


def test_spectra_as_they_are_have_independent_noise(emulator):
    some = sky(np.random.default_rng(2), 600, TRUE, ERR)
    assert prepare(some, Steps(wave=TRUE)).flux_corr.shape == (600, N_PIX, 0)
    within, joint, _ = held(label_spectra(emulator, some, fast=True), some)
    assert abs(within - 0.683) < 0.06
    assert abs(joint - 0.95) < 0.03


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_correlations_live_in_the_file(tmp_path, moved, suffix):
    """Converted, read, cut to some pixels: the same posterior."""
    raw = sky(np.random.default_rng(1), 3, np.arange(4998.5, 5000.0 + N_PIX + 1), ERR)
    write_spectra(raw, tmp_path / "raw.npz")
    assert convert([tmp_path / "raw.npz"], tmp_path / f"b{suffix}", steps=Steps(wave=TRUE)) == (3, 0)
    found = read_any([tmp_path / f"b{suffix}"])
    np.testing.assert_array_equal(found.flux_corr, prepare(raw, Steps(wave=TRUE)).flux_corr)
    assert abs(found.flux_corr[:, 5:50, 0] - 0.5).max() < 1e-6
    assert read_spectra([tmp_path / f"b{suffix}"]).take(slice(1)).flux_corr.shape[0] == 1


def test_too_wide_correlations_are_told(tmp_path):
    write_spectra(sky(np.random.default_rng(1), 3, TRUE, ERR), tmp_path / "raw.npz")
    said = []
    convert([tmp_path / "raw.npz"], tmp_path / "b.npz", steps=Steps(powers=(5000.0, 500.0)), progress=said.append)
    assert sum("more than 12 pixels" in line for line in said) == 1
    assert not read_spectra([tmp_path / "b.npz"]).flux_corr.shape[2]
