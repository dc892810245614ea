"""The main job: what it leaves behind, what it refuses, what it says when a posterior fails."""

import json
import os
import subprocess
import sys
import tomllib
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.table import Table

from hbcal import HbcalError, calibrate, simulate
from hbcal.calibration import ConvergenceWarning
from hbcal.recipe import packaged_recipes, parse_recipe

TINY = {"workers": 0, "chains": 2, "warmup": 60, "draws": 60}


def fit(recipe, catalogue, out, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return calibrate(recipe, catalogue, out, **{**TINY, **settings})


def edited(*changes):
    """The textbook recipe with some of its text replaced."""
    text = packaged_recipes()["textbook"].read_text().replace("s0 = 0.03", "s0 = 0.5")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse_recipe(tomllib.loads(text), text)


@pytest.fixture(scope="session")
def unanchored(tmp_path_factory):
    recipe = edited(('anchor = ["fe_h"]', ""))
    return fit(recipe, simulate(recipe, seed=1, n_star=80).catalogue, tmp_path_factory.mktemp("free") / "run")


def test_a_run_holds_what_it_promises(tiny_run):
    names = {path.name for path in tiny_run.path.iterdir()}
    promised = {"posterior.nc", "summary.ecsv", "diagnostics.json", "recipe.toml", "provenance.json"}
    assert promised | {"offsets.png", "before_after.png", "overlap.txt", "run.json"} == names
    tree = xr.open_datatree(tiny_run.path / "posterior.nc", engine="h5netcdf")
    posterior = tree["posterior"]
    pair = ("chain", "draw", "survey", "label")
    dims = {"offset": pair, "trend": (*pair, "term"), "error_scale": pair, "floor": pair}
    assert {name: posterior[name].dims for name in dims} == dims
    assert list(posterior["term"].values) == ["x1", "x2"]
    for name in ("offset", "trend", "floor"):
        assert json.loads(posterior[name].attrs["units"]) == {"fe_h": "dex"}
    assert {"sample_stats", "observed_data", "constant_data"} <= set(tree.children)
    assert {"hbcal", "seed", "sources", "versions", "identity", "scale"} <= set(tree.attrs)
    tree.close()
    assert json.loads((tiny_run.path / "diagnostics.json").read_text()) == tiny_run.diagnostics
    assert json.loads((tiny_run.path / "provenance.json").read_text())["recipe"] == "textbook"


def test_an_anchor_is_fixed_and_the_others_are_not(tiny_run):
    anchor = tiny_run.posterior.sel(survey="s0", label="fe_h")
    assert (anchor["offset"] == 0).all()
    assert (anchor["error_scale"] == 1).all()
    assert (anchor["floor"] == 0).all()
    assert (tiny_run.posterior["floor"].sel(survey="s1").std() > 0).all()


def test_the_summary_is_a_table_others_can_read(tiny_run):
    table = Table.read(tiny_run.path / "summary.ecsv")
    row = table[(table["quantity"] == "offset") & (table["survey"] == "s1")][0]
    draws = tiny_run.posterior["offset"].sel(survey="s1", label="fe_h").to_numpy()
    assert row["unit"] == "dex"
    assert row["mean"] == pytest.approx(draws.mean())
    assert row["q16"] < row["mean"] < row["q84"]
    assert {"r_hat", "ess_bulk", "ess_tail"} <= set(table.colnames)


def test_a_complete_run_is_returned_and_another_seed_refused(tiny_run):
    settings = {"workers": 0, "chains": 2, "warmup": 100, "draws": 200}
    again = calibrate(tiny_run.recipe, tiny_run_data(), tiny_run.path, resume=True, **settings)
    xr.testing.assert_identical(again.posterior, tiny_run.posterior)
    with pytest.raises(HbcalError, match="started with another settings"):
        calibrate(tiny_run.recipe, tiny_run_data(), tiny_run.path, resume=True, seed=7, **settings)
    with pytest.raises(HbcalError, match="in use"):
        calibrate(tiny_run.recipe, tiny_run_data(), tiny_run.path, **settings)


def tiny_run_data():
    text = packaged_recipes()["textbook"].read_text()
    text = text.replace("n_star = 1000", "n_star = 80").replace("s0 = 0.03", "s0 = 0.5")
    return simulate(parse_recipe(tomllib.loads(text), text), seed=1).catalogue


def test_a_posterior_that_fails_is_kept_and_said_loudly(tiny_sky, tmp_path):
    with pytest.warns(ConvergenceWarning, match="failed its diagnostics"):
        run = calibrate(edited(), tiny_sky.catalogue, tmp_path / "run", **{**TINY, "draws": 8})
    assert not run.passed
    assert (tmp_path / "run" / "posterior.nc").exists()


def test_the_command_exits_with_3_unless_told_otherwise(tmp_path):
    simulate(edited(), tmp_path / "sky", seed=1, n_star=60)
    hbcal = Path(sys.executable).parent / "hbcal"
    few = ["--data", tmp_path / "sky", "--chains", "1", "--warmup", "5", "--draws", "5"]
    for out, extra, status in ((tmp_path / "a", [], 3), (tmp_path / "b", ["--accept-failed"], 0)):
        command = [hbcal, "calibrate", "textbook", *few, "--out", out, *extra]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=dict(os.environ))
        assert done.returncode == status, done.stderr
        assert "DIAGNOSTICS FAILED" in done.stderr
        assert (out / "posterior.nc").exists()


def test_without_an_anchor_every_draw_sums_to_zero_and_the_scale_is_relative(unanchored):
    np.testing.assert_allclose(unanchored.posterior["offset"].sum("survey"), 0.0, atol=1e-12)
    np.testing.assert_allclose(unanchored.posterior["trend"].sum("survey"), 0.0, atol=1e-12)
    assert unanchored.scale == {"fe_h": "relative scale"}
    assert "relative scale" in (unanchored.path / "provenance.json").read_text()
    assert "relative scale" in (unanchored.path / "summary.ecsv").read_text()


def test_the_floors_of_two_surveys_are_reported_as_their_sum(tmp_path):
    recipe = edited(
        ('[surveys.s0]\nanchor = ["fe_h"]', "[surveys.s0]"), ("\n[surveys.s2]\n", "\n"), (", s2 = 0.65", "")
    )
    run = fit(recipe, simulate(recipe, seed=1, n_star=60).catalogue, tmp_path / "run")
    provenance = json.loads((run.path / "provenance.json").read_text())
    assert provenance["floor_sums_only"] == {"fe_h": ["s0", "s1"]}


def test_planted_outliers_are_left_out_and_anchors_kept(tmp_path):
    recipe = edited(('program = "crosscal"', 'program = "crosscal"\nclip = 5.0'))
    sky = simulate(recipe, seed=1, n_star=300).catalogue
    shared = np.bincount(sky.star)[sky.star] == 3
    planted = np.flatnonzero(shared & (sky.survey == 1))[:3]
    value = sky.value.copy()
    value[planted] += 3.0
    run = fit(recipe, replace(sky, value=value), tmp_path / "run")
    kept = run.catalogue
    ids = {(str(kept.stars[i]), int(s)) for i, s in zip(kept.star, kept.survey, strict=True)}
    for row in planted:
        assert (str(sky.stars[sky.star[row]]), 1) not in ids
    assert (kept.survey == 0).sum() == (sky.survey == 0).sum()
    (counted,) = [
        n for why, n in json.loads(run.tree.attrs["left_out"]).items() if "sigma from the starting fit" in why
    ]
    assert len(planted) <= counted <= len(planted) + 2
