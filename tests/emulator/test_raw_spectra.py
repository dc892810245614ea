"""Spectra that nobody divided by their continuum, and tables of labels as surveys have them."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from hbcal import HbcalError
from hbcal.emulator.files import load_emulator, save_emulator
from hbcal.evaluation import summary
from hbcal.label import label_spectra
from hbcal.spectra.normalise import normalised
from hbcal.training import CoverageWarning, train_emulator


def raw(spectra, seed):
    """Of stars that are bright or faint and red or blue, with a gap between two detectors."""
    rng, at = np.random.default_rng(seed), np.linspace(-1.0, 1.0, len(spectra.wave))
    level = 10.0 ** rng.uniform(0.0, 2.0, (len(spectra.star), 1)) * np.exp(
        0.3 * rng.normal(size=(len(spectra.star), 1)) * at
    )
    flux, err = spectra.flux * level, spectra.flux_err * level
    flux[:, 140:150] = np.nan
    return replace(spectra, flux=flux, flux_err=np.where(np.isnan(flux), np.nan, err))


def test_raw_spectra_are_told_as_well_as_normalised_ones(world, trained, tmp_path):
    seen, _ = world.observe(600, 1, label_err=0.1)
    fresh, labels = world.observe(300, 41)
    kind = {"method": "quadratic", "noise": "independent"}
    train_emulator(raw(seen, 2), tmp_path / "model", normalise=40.0, **kind)
    emulator = load_emulator(tmp_path / "model")
    found = label_spectra(emulator, raw(fresh, 3), fast=True)
    rms = lambda one: (((one["value"].to_numpy() - labels) / world.scale) ** 2).mean() ** 0.5  # noqa: E731
    assert rms(found) < 1.2 * rms(label_spectra(trained, fresh, fast=True))
    told = summary(found, labels, np.zeros_like(labels))
    for name in ("teff", "logg", "fe_h"):
        assert abs(told[name]["within_68"] - 0.683) < 0.09
    assert float(found["flag"].mean()) < 0.05

    lines = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CoverageWarning)
        plain = train_emulator(raw(seen, 2), tmp_path / "plain", progress=lines.append, **kind)
    assert any("levels differ" in line and "--normalise" in line for line in lines)
    assert rms(label_spectra(plain, raw(fresh, 3), fast=True)) > 3.0 * rms(found)  # planted: nobody normalised


def test_the_curve_is_that_of_the_pixels_that_are_there(world):
    seen = raw(world.observe(3, 5)[0], 1)
    seen.flux[0, 20] = np.nan
    told, wave = normalised(seen, 12.0), seen.wave
    for i, p in ((0, 25), (1, 139), (2, 299)):
        near = np.isfinite(seen.flux[i]) & (np.abs(wave - wave[p]) <= 36.0)
        weight = np.exp(-0.5 * ((wave[near] - wave[p]) / 12.0) ** 2)
        mean = np.polyval(np.polyfit(wave[near] - wave[p], seen.flux[i, near], 1, w=np.sqrt(weight)), 0.0)
        assert told.flux[i, p] == pytest.approx(seen.flux[i, p] / mean, rel=1e-9)
        assert told.flux_err[i, p] == pytest.approx(seen.flux_err[i, p] / mean, rel=1e-9)
    np.testing.assert_array_equal(np.isnan(told.flux), np.isnan(seen.flux))
    np.testing.assert_allclose(normalised(replace(seen, flux=7.0 * seen.flux), 12.0).flux, told.flux, rtol=1e-12)
    for width in (0.5, -1.0, np.nan):
        with pytest.raises(HbcalError, match="give one of many pixels"):
            normalised(seen, width)


def test_labels_are_chosen_and_told(world, tmp_path):
    seen, labels = world.observe(400, 1)
    rows = [f"{s},{t:.1f},30,{g:.3f},0.05,{f:.3f}" for s, (t, g, f) in zip(seen.star, labels, strict=True)]
    rows[3] = f"{seen.star[3]},-9999,-9999,2.5,0.05,0.0"
    (tmp_path / "t.csv").write_text("star,teff,teff_err,logg,logg_err,fe_h\n" + "\n".join(rows) + "\n")
    lines, kind = [], {"labels": tmp_path / "t.csv", "method": "quadratic", "noise": "independent"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CoverageWarning)  # lines know of log g and [Fe/H]
        emulator = train_emulator(seen, tmp_path / "m", label_names="teff", progress=lines.append, **kind)
    assert emulator.known.label_names == ("teff",)
    assert lines[0] == (
        "labels of t.csv: teff, logg, of 400 of 400 stars; not taken, without errors in <label>_err: 'fe_h'"
    )
    assert "left out: 1, no label" in lines
    assert abs(float(emulator.known.centre[0]) - 4800.0) < 60.0  # -9999 is no temperature
    for names, said in (
        (["tef"], "'tef' is not there .did you mean 'teff'"),
        (["logg", "logg"], "'logg' is named twice"),
    ):
        with pytest.raises(HbcalError, match=said):
            train_emulator(seen, tmp_path / "n", label_names=names, **kind)
    save_emulator(emulator, tmp_path / "again", {})
    assert load_emulator(tmp_path / "again").known.normalise == 0.0
