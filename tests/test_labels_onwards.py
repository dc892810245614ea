"""What `hbcal label` writes goes on as it is: a survey to calibrate, abundances to find populations in."""

import warnings
from dataclasses import replace

import jax
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import hbcal.populations
from hbcal import calibrate
from hbcal.calibration import ConvergenceWarning
from hbcal.catalogue.abundances import read_abundances
from hbcal.catalogue.observe import observe
from hbcal.emulator.files import save_emulator
from hbcal.labelling import label_files
from hbcal.population_recipe import parse_populations
from hbcal.populations import populations
from hbcal.recipe import parse_recipe
from hbcal.spectra.container import write_spectra

N, ODD, GAP = 300, 12, 3  # stars; of those, spectra that are none; a star with a missing pixel
OFFSET = {"teff": 60.0, "fe_h": -0.05}  # of the spectra's labels, from the reference
ERROR = {"teff": 30.0, "fe_h": 0.02}
WITHOUT_FLAGGED = {"keep": {"flag": [False]}}


@pytest.fixture(scope="module", name="home")
def _home(tiny_emulator, tiny_spectra, tmp_path_factory):
    """Labels of new spectra, the first of them flat, and a reference survey of the same stars."""
    home = tmp_path_factory.mktemp("onwards")
    spectra = tiny_spectra(N, 7)
    flux = spectra.flux.copy()
    flux[:ODD], flux[ODD + GAP, 2] = 1.0, np.nan
    save_emulator(tiny_emulator, home / "emulator", {})
    write_spectra(replace(spectra, flux=flux), home / "spectra.npz")
    label_files(home / "emulator", [home / "spectra.npz"], home / "labels.nc", fast=True)
    rng, rows = np.random.default_rng(1), {"star": spectra.star}
    for l, name in enumerate(OFFSET):
        rows[name] = spectra.labels[:, l] - OFFSET[name] + ERROR[name] * rng.normal(size=N)
        rows[f"{name}_err"] = np.full(N, ERROR[name])
    pd.DataFrame(rows).to_csv(home / "reference.csv", index=False)
    return home


@pytest.fixture(scope="module", name="labels")
def _labels(home):
    found = xr.load_dataset(home / "labels.nc", engine="h5netcdf")
    assert found["flag"].to_numpy()[:ODD].all()
    assert np.isnan(found["value"].to_numpy()[ODD + GAP]).all()
    return found


def survey_recipe(program="crosscal_correlated", **entry):
    measured = [{"survey": "reference", "label": n, "value": n, "error": f"{n}_err"} for n in OFFSET]
    return parse_recipe({
        "name": "onwards", "title": "labels of spectra against a reference", "program": program,
        "labels": {
            "teff": {"unit": "K", "offset_sd": 100.0, "floor_scale": 30.0},
            "fe_h": {"unit": "dex", "offset_sd": 0.2, "floor_scale": 0.03},
        },
        "surveys": {"reference": {"anchor": list(OFFSET)}, "spectra": {}},
        "data": [
            {"file": "reference.csv", "layout": "wide", "measurements": measured},
            {"file": "labels.nc", "layout": "labels", "survey": "spectra"} | entry,
        ],
    })  # fmt: skip


def stars_recipe(**stars):
    elements = {n: {"value": n, "error": [f"{n}_err"], "unit": u} for n, u in (("teff", "K"), ("fe_h", "dex"))}
    return parse_populations({
        "name": "onwards", "title": "labels of spectra", "elements": elements, "mixture": {"components": 2},
        "sampling": {"fast_warmup": 50, "fast_draws": 50, "fast_sweeps": 2, "extend": 1},
        "stars": {"file": "labels.nc"} | stars,
    })  # fmt: skip


def answered(labels, *, flagged):
    """Which stars have labels, those that are flagged among them or not."""
    return np.isfinite(labels["value"].to_numpy()[:, 0]) & (flagged | ~labels["flag"].to_numpy())


def test_a_survey_takes_values_and_covariances_as_they_were_written(home, labels):
    cat = observe(survey_recipe(), home)
    rows = answered(labels, flagged=True)
    assert "flagged" not in cat.sources[0]
    assert cat.sources[1]["flagged"] == int(labels["flag"].to_numpy()[rows].sum()) >= ODD
    value, cov = labels["value"].to_numpy()[rows], labels["covariance"].to_numpy()[rows]
    sd = np.sqrt(np.einsum("sll->sl", cov))
    for l in range(2):
        here = (cat.survey == 1) & (cat.label == l)
        assert cat.stars[cat.star[here]].tolist() == labels["star"].to_numpy()[rows].tolist()
        np.testing.assert_array_equal(cat.value[here], value[:, l])
        np.testing.assert_array_equal(cat.error[here], sd[:, l])
        np.testing.assert_allclose(cat.correlation[here, 1 - l], cov[:, 0, 1] / sd.prod(axis=1), rtol=1e-12)


def test_a_survey_can_leave_flagged_stars_out(home, labels):
    cat = observe(survey_recipe(**WITHOUT_FLAGGED), home)
    assert cat.left_out["flag not among the values kept"] == int(labels["flag"].sum()) >= ODD + 1
    assert cat.sources[1]["flagged"] == 0
    assert (cat.survey == 1).sum() == 2 * answered(labels, flagged=False).sum()


def test_labels_are_calibrated_beside_another_survey(home):
    recipe = survey_recipe("crosscal", **WITHOUT_FLAGGED)  # label by label: a third of the time to compile
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # few draws; the offsets are found far beyond that
        run = calibrate(recipe, home, home / "run", chains=2, warmup=100, draws=100, workers=0)
    for name, truth in OFFSET.items():
        offset = run.posterior["offset"].sel(survey="spectra", label=name).to_numpy()
        assert abs(offset.mean() - truth) < 3.3 * offset.std()  # false alarm 1 in 1,000
        assert offset.std() < 0.2 * abs(truth)  # and nothing else would pass
    applied = run.apply(home / "labels.nc", "spectra")
    assert len(applied.star) == N
    reason = applied.columns["reason"]
    assert [bool(why) for why in reason].count(True) == 1
    assert reason[ODD + GAP]


def test_populations_take_values_and_covariances_as_they_were_written(home, labels):
    found, rows = read_abundances(stars_recipe(), home), answered(labels, flagged=True)
    assert found.star.tolist() == labels["star"].to_numpy()[rows].tolist()
    np.testing.assert_array_equal(found.value, labels["value"].to_numpy()[rows])
    np.testing.assert_allclose(found.covariance, labels["covariance"].to_numpy()[rows], rtol=1e-12)
    np.testing.assert_array_equal(found.flag, labels["flag"].to_numpy()[rows])
    assert found.left_out == {"star without any element": 1}


def test_populations_can_leave_flagged_stars_out(home, labels):
    found, rows = read_abundances(stars_recipe(**WITHOUT_FLAGGED), home), answered(labels, flagged=False)
    assert found.star.tolist() == labels["star"].to_numpy()[rows].tolist()
    np.testing.assert_allclose(found.covariance, labels["covariance"].to_numpy()[rows], rtol=1e-12)
    assert found.left_out == {"flag not among the values kept": int(labels["flag"].sum())}
    assert not found.flag.any()


def told_of_flagged(labels):
    rows = answered(labels, flagged=True)
    return int(rows.sum()), int(labels["flag"].to_numpy()[rows].sum())


class Begun(Exception):
    """Sampling would begin, which takes a minute to compile."""


@pytest.mark.parametrize("stars", [{}, WITHOUT_FLAGGED])
def test_populations_say_how_many_flagged_stars_take_part(home, labels, tmp_path, monkeypatch, stars):
    def stop(taken, *_):
        raise Begun(len(taken.star))

    monkeypatch.setattr(hbcal.populations, "_sampled", stop)
    said, (n, n_flagged) = [], told_of_flagged(labels)
    with jax.numpy_rank_promotion("allow"), pytest.raises(Begun, match=str(n - n_flagged * bool(stars))):
        populations(stars_recipe(**stars), home, tmp_path / "run", fast=True, progress=said.append)
    line = f"{n_flagged} flagged star(s) take part: keep = {{ flag = [false] }} in [stars] leaves them out"
    assert [each for each in said if "flagged star(s)" in each] == ([] if stars else [line])


@pytest.mark.slow
def test_the_report_says_how_many_flagged_stars_took_part(home, labels, tmp_path):
    with warnings.catch_warnings(), jax.numpy_rank_promotion("allow"):  # NumPyro's LKJ multiplies vectors by matrices
        warnings.simplefilter("ignore", ConvergenceWarning)
        run = populations(stars_recipe(), home, tmp_path / "run", fast=True, chains=1, workers=0)
    n, n_flagged = told_of_flagged(labels)
    assert f"\n{n} stars, {n_flagged} of them flagged, 2 elements" in (run.path / "report.txt").read_text()
    written = run.tree["observed_data"]["covariance"].to_numpy()
    np.testing.assert_allclose(written, labels["covariance"].to_numpy()[answered(labels, flagged=True)], rtol=1e-12)
