"""Tables a run is applied to, and queries: every way of naming columns, rows in the order given."""

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table

from hbcal import HbcalError
from hbcal.catalogue.observe import observe
from hbcal.catalogue.target import read_query, read_target
from hbcal.recipe import parse_recipe

IDS = ["7", "3", "5"]


@pytest.fixture
def recipe():
    names = {"star": "id", "survey": "who", "value": "y", "error": "e"}
    columns = [{"survey": s, "label": "teff", "value": f"TEFF_{s}", "error": f"E_{s}"} for s in "ab"]
    covariates = {"snr": {"column": "SNR_a", "survey": "a"}, "kind": {"column": "KIND"}}
    return parse_recipe({
        "name": "test",
        "title": "two surveys, two labels, a wide and a long file",
        "labels": {
            "teff": {"unit": "K", "range": [2500.0, 9000.0], "offset_sd": 100.0},
            "fe_h": {"unit": "dex", "range": [-5.0, 1.5], "offset_sd": 0.1},
        },
        "surveys": {"a": {}, "b": {}},
        "covariates": {"snr": {}, "kind": {"levels": ["RC", "RGB"]}, "own": {"own": "teff"}},
        "data": [
            {"file": "w.csv", "layout": "wide", "star": "id", "measurements": columns, "covariates": covariates},
            {"file": "l.csv", "layout": "long", "columns": names},
        ],
    })  # fmt: skip


@pytest.fixture
def known(recipe, tmp_path):
    wide = {"id": [3, 5], "TEFF_a": [5000.0, 5100.0], "TEFF_b": [5050.0, 5150.0], "E_a": 50.0, "E_b": 60.0}
    pd.DataFrame(wide | {"SNR_a": [30.0, 50.0], "KIND": ["RC", "RGB"]}).to_csv(tmp_path / "w.csv", index=False)
    long = {"id": [3, 3], "who": ["a", "b"], "label": "fe_h", "y": [0.1, 0.2], "e": 0.1}
    pd.DataFrame(long).to_csv(tmp_path / "l.csv", index=False)
    return observe(recipe, tmp_path)


def read(recipe, known, tmp_path, columns, name="t.csv", survey="a", fitted=("teff", "fe_h")):
    path = tmp_path / name
    if name.endswith(".csv"):
        pd.DataFrame(columns).to_csv(path, index=False)
    else:
        columns.write(path)
    return read_target(recipe, path, survey, fitted, known)


def test_the_recipes_names(recipe, known, tmp_path):
    columns = {"id": IDS, "TEFF_a": [5000.0, 5200.0, np.nan], "E_a": [50.0, np.nan, 50.0], "SNR_a": 9.0, "KIND": "RC"}
    got = read(recipe, known, tmp_path, columns)
    assert got.star.tolist() == IDS
    assert list(got.value) == ["teff"]
    np.testing.assert_array_equal(got.value["teff"], [5000.0, 5200.0, np.nan])
    np.testing.assert_array_equal(got.error["teff"], [50.0, np.nan, 50.0])
    # the last star has no value here: its own-label covariate is the one the run has stored
    np.testing.assert_array_equal(got.x, [[9.0, 0.0, 5000.0], [9.0, 0.0, 5200.0], [9.0, 0.0, 5100.0]])
    assert got.reason.tolist() == ["", "", ""]
    assert not got.one_label


def test_own_names_and_covariates_of_the_runs_stars(recipe, known, tmp_path):
    got = read(recipe, known, tmp_path, {"star": IDS, "teff": 5000.0, "fe_h": [0.1, 0.2, 0.3], "fe_h_err": 0.05})
    assert set(got.value) == {"teff", "fe_h"}
    assert np.isnan(got.error["teff"]).all()
    np.testing.assert_array_equal(got.error["fe_h"], 0.05)
    np.testing.assert_array_equal(got.x[:, 0], [np.nan, 30.0, 50.0])
    np.testing.assert_array_equal(got.x[:, 1], [np.nan, 0.0, 1.0])


@pytest.mark.parametrize("names", [("star", "survey", "label", "value", "error"), ("id", "who", "label", "y", "e")])
def test_long_tables(names, recipe, known, tmp_path):
    columns = (IDS, ["a", "b", "a"], ["fe_h", "fe_h", "mg_fe"], [0.1, 0.2, 0.3], [0.01, 0.02, 0.03])
    got = read(recipe, known, tmp_path, dict(zip(names, columns, strict=True)))
    assert got.star.tolist() == IDS
    np.testing.assert_array_equal(got.value["fe_h"], [0.1, np.nan, np.nan])
    np.testing.assert_array_equal(got.error["fe_h"], [0.01, np.nan, np.nan])
    assert got.reason.tolist() == ["", "not a row of a", "label not calibrated for a"]
    assert got.one_label


def test_asymmetric_errors_of_a_long_table(recipe, known, tmp_path):
    columns = {"star": IDS, "survey": "a", "label": "fe_h", "value": 0.1, "error_lower": 0.02, "error_upper": 0.04}
    np.testing.assert_allclose(read(recipe, known, tmp_path, columns).error["fe_h"], 0.03)


@pytest.mark.parametrize("name", ["t.ecsv", "t.fits"])
def test_units_are_converted(name, recipe, known, tmp_path):
    table = Table({"star": IDS, "teff": [5.0, 5.1, 5.2], "teff_err": [50.0, 60.0, 70.0]})
    table["teff"].unit, table["teff_err"].unit = "kK", "K"
    got = read(recipe, known, tmp_path, table, name)
    np.testing.assert_allclose(got.value["teff"], [5000.0, 5100.0, 5200.0])
    np.testing.assert_allclose(got.error["teff"], [50.0, 60.0, 70.0])
    table["teff"].unit = "km"
    with pytest.raises(HbcalError, match="'km', which cannot be converted to 'K'"):
        read(recipe, known, tmp_path, table, "u" + name)


def test_rows_without_an_answer_stay(recipe, known, tmp_path):
    got = read(recipe, known, tmp_path, {"star": ["7", "", "5"], "teff": [5000.0, 5000.0, 90.0]})
    assert got.reason.tolist() == ["", "no star id", ""]
    assert got.impossible["teff"].tolist() == [False, False, True]
    assert np.isnan(got.value["teff"][2])


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"teff": [5000.0]}, "no column of star ids"),
        ({"star": ["7"], "snr": [1.0]}, "no column with a label .*'TEFF_a'"),
        ({"star": ["7"], "TEFF_a": [5000.0]}, "lacks its error column 'E_a'"),
        ({"star": ["7"], "teff": [np.inf]}, "1 infinite teff"),
        ({"star": ["7"], "teff": [5.0]}, "1 of 1 teff values outside .* unit or the column is probably wrong"),
        ({"star": ["7"], "teff": [5e3], "teff_err": [0.0]}, "'teff_err' .* 1 zero error"),
        ({"star": ["7"], "teff": ["hot"]}, "'hot' in row 1"),
    ],
)
def test_bad_tables(columns, words, recipe, known, tmp_path):
    with pytest.raises(HbcalError, match=words):
        read(recipe, known, tmp_path, columns)


def test_queries_keep_their_order(recipe, tmp_path):
    columns = {"star": ["9", "1", "9"], "survey": ["b", "a", "x"], "label": "teff"}
    pd.DataFrame(columns).to_csv(tmp_path / "q.csv", index=False)
    query = read_query(tmp_path / "q.csv", recipe)
    assert query.star.tolist() == ["9", "1", "9"]
    assert query.survey.tolist() == ["b", "a", "x"]
    assert np.isnan(query.error).all()
    pd.DataFrame(columns | {"error": [0.1, np.nan, 0.2]}).to_csv(tmp_path / "q.csv", index=False)
    np.testing.assert_array_equal(read_query(tmp_path / "q.csv", recipe).error, [0.1, np.nan, 0.2])
    pd.DataFrame(columns | {"error": [0.1, np.nan, -0.2]}).to_csv(tmp_path / "q.csv", index=False)
    with pytest.raises(HbcalError, match=r"1 negative error.* row 3"):
        read_query(tmp_path / "q.csv", recipe)
