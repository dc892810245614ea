"""What a run says: every row comes back in its place, errors add up, shared parts are shared, predictions are true."""

import json
import tomllib
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from astropy.table import Table

import hbcal
from hbcal import HbcalError, calibrate, simulate
from hbcal.calibration import ConvergenceWarning
from hbcal.catalogue.target import Query
from hbcal.draws import MOST_DRAWS, draws_of
from hbcal.recipe import packaged_recipes, parse_recipe
from hbcal.run import write_applied

PER_LABEL = ["", "_err", "_err_star", "_err_calibration", "_q025", "_q16", "_q84", "_q975"]


def fit(recipe, catalogue, out):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # few draws: they show what a run says, not how well
        return calibrate(recipe, catalogue, out, workers=0, chains=2, warmup=100, draws=200)


@pytest.fixture(scope="session")
def giants(tmp_path_factory):
    """A run on simulated Kepler giants, and a table of stars to apply it to."""
    home = tmp_path_factory.mktemp("giants")
    text = packaged_recipes()["kepler_giants"].read_text().replace("degree = 3", "degree = 1").split("[[floor]]")
    text = text[0] + "[sampling]" + text[1].split("[sampling]")[1]  # linear, and one floor: the fit takes seconds
    recipe = parse_recipe(tomllib.loads(text), text)
    simulate(recipe, home / "sky", seed=2, n_star=300)
    run = fit(recipe, home / "sky", home / "run")
    table = pd.read_csv(home / "sky" / "kepler_giants_apogee_seismic.csv.gz", dtype={"KIC_ID": str})
    return SimpleNamespace(run=run, table=table, home=home)


def applied_to(giants, table, name):
    path = giants.home / f"{name}.csv"
    table.to_csv(path, index=False)
    return giants.run.apply(path, "apogee")


def test_columns_are_those_promised_and_no_others(giants):
    applied = giants.run.apply(giants.home / "sky" / "kepler_giants_apogee_seismic.csv.gz", "apogee")
    assert list(applied.columns) == [*(f"logg{part}" for part in PER_LABEL), "extrapolated", "reason"]
    assert applied.units == {f"logg{part}": "dex" for part in PER_LABEL}


def test_every_row_comes_back_in_its_place(giants):
    whole = applied_to(giants, giants.table, "whole")
    order = np.random.default_rng(0).permutation(len(giants.table))
    mixed = applied_to(giants, giants.table.iloc[order], "mixed")
    assert list(whole.star) == list(giants.table["KIC_ID"])
    assert list(mixed.star) == list(giants.table["KIC_ID"].iloc[order])
    for name in ("logg", "logg_err", "logg_q975", "extrapolated"):
        np.testing.assert_allclose(mixed.columns[name], whole.columns[name][order], rtol=1e-9, atol=1e-12)


def test_rows_without_an_answer_stay_empty_and_say_why(giants):
    table = giants.table.head(6).copy()
    table["KIC_ID"] = [f"new{i}" for i in range(6)]  # unknown to the run, which could fill covariates in
    table["LOGG_FIT"] = table["LOGG_FIT"].where(table.index != table.index[1])
    table["TEFF_FIT"] = table["TEFF_FIT"].where(table.index != table.index[2])
    table.loc[table.index[3], "CONS_EVSTATES"] = "AGB"
    table.loc[table.index[4], "LOGG_FIT"] = 11.0
    applied = applied_to(giants, table, "holes")
    reason = list(applied.columns["reason"])
    assert reason[0] == reason[5] == ""
    assert reason[1] == "no logg"
    assert reason[2] == "teff missing"
    assert reason[3] == "evstate not a known level"
    assert reason[4] == "logg outside its range"
    answered = np.array([r == "" for r in reason])
    for name in [*(f"logg{part}" for part in PER_LABEL), "extrapolated"]:
        np.testing.assert_array_equal(np.isfinite(applied.columns[name]), answered, err_msg=name)


def test_a_star_without_a_state_where_none_was_fitted_has_no_answer(giants):
    table = giants.table.head(2).copy()
    table["KIC_ID"], table["CONS_EVSTATES"] = ["new0", "new1"], ["", "RGB"]
    reason = applied_to(giants, table, "stateless").columns["reason"]
    assert reason[0] == "no fitted star has evstate 'unknown'"
    assert reason[1] == ""


def test_errors_are_the_sum_of_their_parts_and_quantiles_are_ordered(giants):
    c = applied_to(giants, giants.table, "parts").columns
    np.testing.assert_allclose(c["logg_err"] ** 2, c["logg_err_star"] ** 2 + c["logg_err_calibration"] ** 2, rtol=1e-10)
    for low, high in zip(("_q025", "_q16", "", "_q84"), ("_q16", "", "_q84", "_q975"), strict=True):
        assert (c[f"logg{low}"] < c[f"logg{high}"]).all()
    half = 0.5 * (c["logg_q84"] - c["logg_q16"])
    np.testing.assert_allclose(half, c["logg_err"], rtol=0.1)


def test_extrapolated_is_zero_inside_and_grows_outside(giants):
    fitted = applied_to(giants, giants.table, "inside").columns["extrapolated"]
    steps = giants.table.head(1).loc[giants.table.index[[0] * 5]].copy()
    steps["KIC_ID"], steps["TEFF_FIT"] = [f"new{i}" for i in range(5)], [4700.0, 5400.0, 5600.0, 6000.0, 7000.0]
    outside = applied_to(giants, steps, "outside").columns["extrapolated"]
    assert outside[0] == 0.0
    assert outside[1] > 0.0
    assert (np.diff(outside) > 0).all()
    assert (fitted == 0.0).mean() > 0.95  # the rest are stars whose calibrated value lies past the range of the anchor


def test_extrapolated_is_exactly_zero_for_every_fitted_star_when_no_label_is_a_covariate(tiny_run):
    folder = tiny_run.path.parent / "zero"
    folder.mkdir()
    cat = tiny_run.catalogue
    for survey in ("s1", "s2"):
        rows = np.flatnonzero(cat.survey == cat.surveys.index(survey))
        rows = rows[np.bincount(cat.star)[cat.star[rows]] > 1]
        table = pd.DataFrame({"star": cat.stars[cat.star[rows]], "fe_h": cat.value[rows], "fe_h_err": cat.error[rows]})
        table.to_csv(folder / f"{survey}.csv", index=False)
        applied = tiny_run.apply(folder / f"{survey}.csv", survey)  # covariates are the run's own, by star
        assert (applied.columns["extrapolated"] == 0.0).all()


def test_covariance_between_stars_is_that_of_the_draws(giants):
    path = giants.home / "some.csv"
    giants.table.head(40).to_csv(path, index=False)
    matrix = giants.run.covariance(path, "apogee", "logg")
    applied = giants.run.apply(path, "apogee")
    np.testing.assert_allclose(np.diag(matrix), applied.columns["logg_err"] ** 2, rtol=1e-9)
    assert np.linalg.eigvalsh(matrix).min() > 0
    np.testing.assert_array_equal(matrix, matrix.T)


def test_covariance_off_the_diagonal_is_exactly_that_of_the_shifts(tiny_run):
    cat = tiny_run.catalogue
    rows = np.flatnonzero(cat.survey == 1)[:12]
    folder = tiny_run.path.parent / "shifts"
    folder.mkdir()
    table = pd.DataFrame({"star": cat.stars[cat.star[rows]], "fe_h": cat.value[rows], "fe_h_err": cat.error[rows]})
    table.to_csv(folder / "t.csv", index=False)
    matrix = tiny_run.covariance(folder / "t.csv", "s1", "fe_h")
    posterior = tiny_run.posterior
    assert posterior["offset"].isel(survey=0, label=0).size <= MOST_DRAWS  # all draws are used
    offset = posterior["offset"].sel(survey="s1", label="fe_h").to_numpy().ravel()
    trend = posterior["trend"].sel(survey="s1", label="fe_h").to_numpy().reshape(-1, 2)
    shift = offset + cat.x[cat.star[rows], 1] @ trend.T
    expected = np.cov(shift, bias=True)
    off = ~np.eye(len(rows), dtype=bool)
    np.testing.assert_allclose(matrix[off], expected[off], rtol=1e-9)
    mean = cat.value[rows] - shift.mean(1)
    np.testing.assert_allclose(tiny_run.apply(folder / "t.csv", "s1").columns["fe_h"], mean, rtol=1e-12)


def test_the_anchor_passes_through(giants):
    path = giants.home / "seismic.csv"
    giants.table.head(10).to_csv(path, index=False)
    applied = giants.run.apply(path, "seismology")
    np.testing.assert_allclose(applied.columns["logg"], giants.table["LOGG_SEIS"].head(10), rtol=1e-14)
    np.testing.assert_allclose(applied.columns["logg_err"], giants.table["SIG_LOGG_SEIS"].head(10), rtol=1e-12)
    assert (applied.columns["logg_err_calibration"] == 0).all()


@pytest.mark.parametrize("suffix", ["csv", "ecsv", "parquet", "fits", "nc"])
def test_outputs_hold_the_same_in_every_format(giants, suffix):
    applied = applied_to(giants, giants.table.head(20), f"for_{suffix}")
    out = giants.home / f"out.{suffix}"
    write_applied(applied, out)
    with pytest.raises(HbcalError, match="exists already"):
        write_applied(applied, out)
    if suffix == "nc":
        read = xr.load_dataset(out)
        assert read["value"].dims == ("star", "label")
        assert read["covariance"].dims == ("star", "label", "label_2")
        assert list(read["label"].values) == ["logg"]
        assert {"extrapolation", "flag"} <= set(read.data_vars)
        np.testing.assert_array_equal(read["value"][:, 0], applied.columns["logg"])
        np.testing.assert_allclose(read["covariance"][:, 0, 0], applied.columns["logg_err"] ** 2, rtol=1e-12)
        assert read.attrs["survey"] == "apogee"
        assert "dex" in read.attrs["units"]
        return
    if suffix in ("csv", "parquet"):
        read = pd.read_csv(out, dtype={"star": str}) if suffix == "csv" else pd.read_parquet(out)
        assert list(read) == ["star", *applied.columns]
    else:
        kind = {"format": "ascii.ecsv"} if suffix == "ecsv" else {"format": "fits", "unit_parse_strict": "silent"}
        read = Table.read(out, **kind)  # dex is no unit of the FITS standard, though every survey writes it
        assert read.colnames == ["star", *applied.columns]
        assert str(read["logg_err"].unit) == "dex"
        assert json.loads(read.meta["scale"] if suffix == "ecsv" else read.meta["SCALE"]) == giants.run.scale
    np.testing.assert_allclose(np.asarray(read["logg"], float), applied.columns["logg"], rtol=1e-15)
    assert [str(s) for s in read["star"]] == list(applied.star)


def query(star, survey, label, error):
    names = (np.array(x, dtype=object) for x in (star, survey, label))
    return Query(*names, np.array(error, float))


def test_predict_keeps_the_order_and_says_why_not(tiny_run):
    asked = query(
        ["star05", "nobody", "star01", "star05", "star05"], ["s2", "s1", "s1", "s9", "s1"],
        ["fe_h", "fe_h", "fe_h", "fe_h", "teff"], [0.05, 0.05, np.nan, 0.05, 0.05],
    )  # fmt: skip
    c = tiny_run.predict(asked).columns
    names = ["star", "survey", "label", "mean", "sd", "q05", "q16", "q50", "q84", "q95", "reason"]
    assert list(c) == names
    assert list(c["star"]) == list(asked.star)
    assert c["reason"][1] == "star not in the run"
    assert c["reason"][3] == "survey 's9' not in the run"
    assert c["reason"][4] == "label 'teff' not in the run"
    answered = np.array([True, False, True, False, False])
    for name in names[3:-1]:
        np.testing.assert_array_equal(np.isfinite(c[name]), answered)
    quantiles = np.stack([c[n][answered] for n in ("q05", "q16", "q50", "q84", "q95")])
    assert (np.diff(quantiles, axis=0) > 0).all()


def test_a_prediction_is_what_the_draws_say(tiny_run):
    """By hand: per draw, weigh the star's corrected measurements, add the shift and the noise of a new one."""
    cat, post = tiny_run.catalogue, tiny_run.posterior
    i = next(i for i in range(cat.n_star) if (cat.star == i).sum() == 3)
    means, variances = [], []
    for chain in range(2):
        for draw in range(200):
            at = {"chain": chain, "draw": draw, "label": 0}
            weights, values = [], []
            for row in np.flatnonzero(cat.star == i):
                one = {k: post[k].isel(survey=int(cat.survey[row]), **at) for k in ("offset", "error_scale", "floor")}
                slope = post["trend"].isel(survey=int(cat.survey[row]), **at).to_numpy()
                shift = float(one["offset"]) + float(slope @ cat.x[i, cat.survey[row]])
                noise2 = (float(one["error_scale"]) * cat.error[row]) ** 2 + float(one["floor"]) ** 2
                weights.append(1 / noise2)
                values.append(cat.value[row] - shift)
            z = np.average(values, weights=weights)
            new = {k: float(post[k].isel(survey=2, **at)) for k in ("offset", "error_scale", "floor")}
            shift = new["offset"] + float(post["trend"].isel(survey=2, **at).to_numpy() @ cat.x[i, 2])
            means.append(z + shift)
            variances.append(1 / np.sum(weights) + (new["error_scale"] * 0.04) ** 2 + new["floor"] ** 2)
    c = tiny_run.predict(query([cat.stars[i]], ["s2"], ["fe_h"], [0.04])).columns
    np.testing.assert_allclose(c["mean"][0], np.mean(means), rtol=1e-10)
    np.testing.assert_allclose(c["sd"][0], np.sqrt(np.mean(variances) + np.var(means)), rtol=1e-10)


def test_predictions_of_held_out_measurements_are_calibrated(tiny_run, tmp_path):
    """z-scores of 200 held-out values: their rms has a standard error of 0.05, three of them are allowed."""
    truth = {"error_scale": {"s1.fe_h": 1.3, "s2.fe_h": 0.8}, "floor": {"s1.fe_h": 0.05, "s2.fe_h": 0.1}}
    whole = simulate(tiny_run.recipe, seed=4, n_star=900, values=truth).catalogue
    in_s2 = np.flatnonzero((whole.survey == 2) & (np.bincount(whole.star)[whole.star] > 1))
    held = np.random.default_rng(0).choice(in_s2, 200, replace=False)
    keep = np.ones(len(whole.value), bool)
    keep[held] = False
    run = fit(tiny_run.recipe, whole.select(keep), tmp_path / "run")
    asked = query(whole.stars[whole.star[held]], ["s2"] * 200, ["fe_h"] * 200, whole.error[held])
    c = run.predict(asked).columns
    assert (c["reason"] == "").all()
    z = (whole.value[held] - c["mean"]) / c["sd"]
    assert 0.85 < np.sqrt(np.mean(z**2)) < 1.15
    assert abs(z.mean()) < 0.25
    inside = (whole.value[held] > c["q05"]) & (whole.value[held] < c["q95"])
    assert 0.83 < inside.mean() < 0.97


def test_draws_of_what_was_not_calibrated_are_none(giants, tiny_run):
    assert draws_of(tiny_run.recipe, tiny_run.posterior, "s0", "fe_h").coefficient is None  # an anchor has no shift
    with pytest.raises(KeyError):
        draws_of(tiny_run.recipe, tiny_run.posterior, "s9", "fe_h")


def test_asking_for_what_is_not_there_is_one_sentence(giants, tiny_run, tmp_path):
    with pytest.raises(HbcalError, match="did you mean 'apogee'"):
        giants.run.apply(giants.home / "whole.csv", "apogge")
    with pytest.raises(HbcalError, match="did not calibrate 'teff'"):
        giants.run.covariance(giants.home / "whole.csv", "apogee", "teff")


def test_a_run_opens_as_it_was(tiny_run):
    again = hbcal.open_run(tiny_run.path)
    xr.testing.assert_identical(again.posterior, tiny_run.posterior)
    assert again.catalogue.digest() == tiny_run.catalogue.digest()
    assert again.diagnostics == tiny_run.diagnostics
    assert again.scale == {"fe_h": "anchored on s0"}
