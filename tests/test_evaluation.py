"""Coverage from covariances and from draws, label by label and jointly; a posterior that is not Gaussian."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from astropy.io import fits
from astropy.table import Table
from scipy.stats import binom

from hbcal._errors import HbcalError
from hbcal.catalogue.read import read_columns
from hbcal.evaluation import check_truth, evaluate, read_truth, summary

N, N_DRAW = 2000, 400


def made(rng, sample, truth_err=0.0):
    """Labels whose posterior is that of `sample`, the truth one more draw, seen with an error."""
    centre = rng.normal(0.0, 5.0, (N, 1, 2))
    draws = centre + sample((N, N_DRAW, 2))
    truth = (centre + sample((N, 1, 2)))[:, 0] + rng.normal(0.0, 1.0, (N, 2)) * truth_err
    left = draws - draws.mean(axis=1, keepdims=True)
    labels = xr.Dataset(
        {"value": (("star", "label"), draws.mean(axis=1)),
         "covariance": (("star", "label", "label_2"), np.einsum("sdl,sdm->slm", left, left) / N_DRAW),
         "draws": (("star", "draw", "label"), draws)},
        {"star": [f"s{i}" for i in range(N)], "label": ["teff", "fe_h"], "label_2": ["teff", "fe_h"]},
    )  # fmt: skip
    return labels, truth, np.full(truth.shape, truth_err)


def holds(share, claim):
    """By a two-sided test of one in a thousand, with a point in a hundred for what 400 draws do not know."""
    low, high = binom.interval(0.999, N, claim)
    return low / N - 0.01 <= share <= high / N + 0.01


@pytest.mark.parametrize("truth_err", [0.0, 1.0])
def test_draws_and_covariances_of_a_gaussian_hold_what_they_claim(truth_err):
    rng = np.random.default_rng(1)
    root = np.array([[1.0, 0.0], [0.8, 0.6]])
    told = summary(*made(rng, lambda shape: rng.normal(size=shape) @ root.T, truth_err))
    for one in told.values():
        for kind in ("within", "draws"):
            assert holds(one[f"{kind}_68"], 0.683)
            assert holds(one[f"{kind}_95"], 0.95)


def test_draws_know_a_shape_that_covariances_do_not():
    rng = np.random.default_rng(2)
    told = summary(*made(rng, lambda shape: rng.exponential(size=shape) ** 2))
    for name in ("teff", "fe_h", "joint"):
        assert holds(told[name]["draws_68"], 0.683)
        assert holds(told[name]["draws_95"], 0.95)
        assert told[name]["within_68"] > 0.8


@pytest.mark.parametrize(("factor", "right"), [(1.0, True), (1.5, False)])
def test_quantiles_are_judged_too(factor, right):
    rng = np.random.default_rng(5)
    labels, truth, err = made(rng, lambda shape: rng.exponential(size=shape) ** 2)
    levels = [0.025, 0.1587, 0.5, 0.8413, 0.975]
    quantile = labels["draws"].quantile(levels, "draw").rename(quantile="probability") / factor
    told = summary(labels.assign(quantile=quantile.transpose("star", "label", "probability")), truth, err)
    for name in ("teff", "fe_h"):
        assert (holds(told[name]["quantile_68"], 0.683) and holds(told[name]["quantile_95"], 0.95)) == right


def test_draws_that_are_too_narrow_are_caught():
    rng = np.random.default_rng(3)
    labels, truth, err = made(rng, lambda shape: rng.normal(size=shape))
    centre = labels["draws"].mean("draw")
    told = summary(labels.assign(draws=centre + (labels["draws"] - centre) / 1.5), truth, err)
    for one in told.values():
        assert not holds(one["draws_68"], 0.683)
        assert holds(one["within_68"], 0.683)


def test_weights_count():
    rng = np.random.default_rng(4)
    labels, truth, err = made(rng, lambda shape: rng.normal(size=shape))
    twice = xr.concat([labels["draws"], labels["draws"] + 50.0], "draw")
    share = np.repeat([1.0, 0.0], N_DRAW) * np.ones((N, 1))
    weighted = labels.drop_vars("draws").assign(draws=twice, weight=(("star", "draw"), share))
    same, told = summary(labels, truth, err), summary(weighted, truth, err)
    assert told["teff"]["draws_68"] == pytest.approx(same["teff"]["draws_68"], abs=1e-3)  # ties in floating point
    assert told["joint"]["draws_95"] == pytest.approx(same["joint"]["draws_95"], abs=1e-3)


def test_missing_truth_and_missing_answers_leave_the_others(tmp_path):
    rng = np.random.default_rng(5)
    labels, truth, err = made(rng, lambda shape: rng.normal(size=shape))
    truth[:3, 0] = np.nan
    for name in ("value", "covariance", "draws"):
        labels[name][7] = np.nan
    told = summary(labels, truth, err)
    assert [told[name]["n"] for name in ("teff", "fe_h", "joint")] == [N - 4, N - 1, N - 4]
    assert holds(told["joint"]["draws_68"], 0.683)

    labels = labels.assign(flag=("star", np.zeros(N, bool)), reason=("star", np.full(N, "")))
    labels.to_netcdf(tmp_path / "labels.nc", engine="h5netcdf")
    rows = zip(labels["star"].to_numpy(), *truth.T, strict=True)
    text = "".join(f"{star},{'' if np.isnan(a) else a},{b}\n" for star, a, b in rows)
    (tmp_path / "truth.csv").write_text("star,teff,fe_h\n" + text)
    whole = evaluate(tmp_path / "labels.nc", tmp_path / "truth.csv", tmp_path / "out")
    assert whole["all"]["joint"]["draws_68"] == told["joint"]["draws_68"]
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == whole
    report = (tmp_path / "out" / "report.txt").read_text().splitlines()
    assert "of covariances, then of draws" in report[1]
    assert len(report[3]) == len(report[2])
    assert (tmp_path / "out" / "evaluation.png").stat().st_size > 0


def table(folder, *lines):
    path = folder / "truth.csv"
    path.write_text("\n".join(["star,teff,teff_err,survey,g", *lines]) + "\n")
    return path


def test_words_beside_the_labels_are_no_labels(tmp_path):
    told = read_truth(table(tmp_path, "a,5000,50,GALAH,12.5", "b,,,APOGEE,", "c,5100,0,,11"))
    assert sorted(told.labels) == ["g", "teff"]
    np.testing.assert_array_equal(told.labels_err["teff"], [50.0, np.nan, 0.0])
    np.testing.assert_array_equal(told.labels["g"], [12.5, np.nan, 11.0])


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["a,5000,50,x,12", "a,4900,50,x,12"], "1 star.s. in more than one row, 'a'"),
        (["a,5000,50,x,12", "b,hot,50,x,12"], "'teff' .*has text where a number is needed in 1 row"),
        (["a,5000,50 K,x,12", "b,4900,50 K,x,12"], "'teff_err' .*has text where a number is needed in 2 row"),
    ],
)
def test_tables_of_truth_with_mistakes_are_refused(tmp_path, lines, why):
    with pytest.raises(HbcalError, match=why):
        read_truth(table(tmp_path, *lines))


def test_columns_that_are_no_labels_may_hold_anything(tmp_path):
    """Infinite S/N, fill values, truth values: as numbers they are what they are, as words they would be refused."""
    path = tmp_path / "truth.parquet"
    pd.DataFrame({
        "star": [7, 8], "teff": [5e3, 4e3], "teff_err": [50.0, 0.0], "snr": [np.inf, 1e20], "giant": [True, False],
        "parallax_err": [-999.0, 1.0], "survey": ["x", None],
    }).to_parquet(path)  # fmt: skip
    told = read_truth(path)
    assert told.star.tolist() == ["7", "8"]
    assert sorted(told.labels) == ["giant", "snr", "teff"]
    np.testing.assert_array_equal(told.labels["giant"], [1.0, 0.0])
    check_truth(told, ["teff"], "truth.parquet")


def test_negative_errors_of_labels_that_are_compared_are_refused(tmp_path):
    told = read_truth(table(tmp_path, "a,5000,-50,x,12", "b,4900,50,x,12", ",1,1,,", ",2,1,,"))
    with pytest.raises(HbcalError, match=r"'teff_err' of truth\.csv has 1 negative error"):
        check_truth(told, ["teff"], "truth.csv")
    check_truth(told, ["g"], "truth.csv")


def test_truth_may_be_spectra_of_any_format_that_has_labels(tmp_path):
    """Without errors of the labels, too, as training takes them."""
    path = tmp_path / "plain.npz"
    plain = {"wave": [1.0, 2.0], "flux": np.ones((2, 2)), "flux_err": np.ones((2, 2)), "star": ["a", "b"]}
    np.savez(path, **plain)
    with pytest.raises(HbcalError, match="has no labels"):
        read_truth(path)
    np.savez(path, **plain, labels=np.array([[1.0], [2.0]]), label_names=["fe_h"])
    assert read_truth(path).labels["fe_h"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("name", ["truth.fits", "truth.parquet", "truth.ecsv"])
def test_columns_of_several_values_a_row_are_no_labels(tmp_path, name):
    """As PARAM and its covariance of APOGEE's allStar, though they be called errors."""
    columns = {"star": ["a", "b"], "teff": [5e3, 4e3], "teff_err": [50.0, 0.0]}
    several = {"param": np.ones((2, 9)), "param_err": np.ones((2, 9))}
    if name.endswith("parquet"):
        pd.DataFrame(columns | {key: list(values) for key, values in several.items()}).to_parquet(tmp_path / name)
    else:
        form = "fits" if name.endswith("fits") else "ascii.ecsv"
        Table(columns | several | {"cov": np.ones((2, 9, 9))}).write(tmp_path / name, format=form)
    told = read_truth(tmp_path / name)
    assert sorted(told.labels) == ["teff"]
    np.testing.assert_array_equal(told.labels_err["teff"], [50.0, 0.0])
    with pytest.raises(HbcalError, match=rf"{name} has several values a row in 1 column\(s\) that are needed, 'param'"):
        read_columns(tmp_path / name, {"star": "text", "param": "number"})


def aspcapstar(path, **labels):
    """A spectrum as APOGEE publishes it, normalised, its labels in a table of one row."""
    images = [fits.ImageHDU(np.ones(20, "f4")) for _ in range(3)]
    images[0].header["CRVAL1"], images[0].header["CDELT1"] = 4.179, 6e-6
    columns = [fits.Column("APOGEE_ID", "18A", array=["2M00000002+7417074"])]
    columns += [fits.Column("PARAM", "9E", array=[[0.0] * 9])]
    columns += [fits.Column(name, "E", array=[value]) for name, value in labels.items()]
    fits.HDUList([fits.PrimaryHDU(), *images, fits.BinTableHDU.from_columns(columns)]).writeto(path)
    return path


def test_survey_spectra_in_fits_bring_their_labels(tmp_path):
    told = read_truth(aspcapstar(tmp_path / "aspcapStar-x.fits", TEFF=4800.0, TEFF_ERR=10.0, LOGG=2.5))
    assert told.star.tolist() == ["2M00000002+7417074"]
    assert [told.labels["teff"][0], told.labels_err["teff"][0], told.labels["logg"][0]] == [4800.0, 10.0, 2.5]


def test_a_table_with_stars_is_a_table_whatever_else_it_holds(tmp_path):
    """Columns of Gaia's spectra beside the ids do not make it a file of spectra."""
    columns = {"star": ["a", "b"], "teff": [5e3, 4e3], "gaiaedr3_source_id": [1, 2]}
    Table(columns | {"flux": np.ones((2, 3)), "flux_error": np.ones((2, 3))}).write(tmp_path / "truth.fits")
    assert read_truth(tmp_path / "truth.fits").star.tolist() == ["a", "b"]


def test_a_table_without_stars_gets_its_sentence(tmp_path):
    Table({"APOGEE_ID": ["a"], "teff": [5e3]}).write(tmp_path / "allStar.fits")
    with pytest.raises(HbcalError, match=r"allStar.fits has no column 'star' .*: stars are matched by it."):
        read_truth(tmp_path / "allStar.fits")


def test_a_folder_in_use_is_not_to_be_resumed(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("")
    with pytest.raises(HbcalError, match=r"out is in use: choose another --out\.$"):
        evaluate(tmp_path / "labels.nc", tmp_path / "truth.csv", tmp_path / "out")


def test_truth_in_another_unit_is_converted_and_what_lacks_is_said(tmp_path):
    labels, truth, _ = made(np.random.default_rng(3), lambda shape: np.random.default_rng(4).normal(size=shape))
    labels["flag"] = "star", np.zeros(N, bool)
    labels["reason"] = "star", np.full(N, "")
    labels.to_netcdf(tmp_path / "labels.nc", engine="h5netcdf")
    table = Table(
        {"star": labels["star"].to_numpy()[:1500].astype(str), "teff": 1e-3 * truth[:1500, 0], "feh": truth[:1500, 1]}
    )
    table["teff"].unit = "kK"
    table["ra"], table["k"], table["logg"] = np.zeros((3, 1500))  # none of these is judged
    table["ra"].unit, table["k"].unit, table["logg"].unit = "deg", "mag", "log(cm.s**-2)"
    table.write(tmp_path / "truth.ecsv")
    told = evaluate(tmp_path / "labels.nc", tmp_path / "truth.ecsv", tmp_path / "report")
    assert abs(told["all"]["teff"]["median"]) < 0.2
    assert told["n_star_without_truth"] == N - 1500
    text = (tmp_path / "report" / "report.txt").read_text()
    assert "500 stars without" in text
    assert "the truth lacks fe_h (did you mean 'feh'?)" in text
    table["teff"].unit = "km"
    table.write(tmp_path / "wrong.ecsv")
    with pytest.raises(HbcalError, match="cannot be converted"):
        evaluate(tmp_path / "labels.nc", tmp_path / "wrong.ecsv", tmp_path / "other")
    labels.drop_vars("covariance").to_netcdf(tmp_path / "odd.nc", engine="h5netcdf")
    with pytest.raises(HbcalError, match="is no file of labels"):
        evaluate(tmp_path / "odd.nc", tmp_path / "truth.ecsv", tmp_path / "other")
