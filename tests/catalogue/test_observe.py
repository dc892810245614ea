"""From files to a catalogue: units, filters, visits, covariates, and what is left out and counted."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

import hbcal
from hbcal import HbcalError
from hbcal.catalogue.observe import observe
from hbcal.design import prepare
from hbcal.recipe import parse_recipe

LONG = {"file": "t.csv", "layout": "long"}


def recipe(*data, covariates=None, **more):
    table = {
        "name": "test",
        "title": "two surveys",
        "labels": {"teff": {"unit": "K", "range": [2500.0, 9000.0], "offset_sd": 100.0, "floor_scale": 50.0}},
        "surveys": {"a": {}, "b": {}},
        "data": list(data),
        "covariates": covariates or {},
    }
    return parse_recipe(table | more)


def rows(n=20):
    rng = np.random.default_rng(0)
    star = np.repeat([f"s{i:02d}" for i in range(n)], 2)
    value = rng.uniform(4500, 5500, 2 * n)
    return pd.DataFrame({"star": star, "survey": ["a", "b"] * n, "label": "teff", "value": value, "error": 50.0})


def wide(n=4):
    return pd.DataFrame({"id": range(n), "A": 5000.0 + np.arange(n), "B": 5100.0 + np.arange(n), "EB": 40.0})


def measured(*columns, **more):
    """A data entry for `wide`, with these error columns for b."""
    a, b = {"survey": "a", "label": "teff", "value": "A"}, {"survey": "b", "label": "teff", "value": "B"}
    return {"file": "t.csv", "layout": "wide", "star": "id", "measurements": [a, b | {"error": list(columns)}]} | more


def as_frame(cat):
    """A catalogue's measurements, whatever their order."""
    columns = {
        "star": cat.stars[cat.star],
        "survey": cat.survey,
        "label": cat.label,
        "value": cat.value,
        "error": cat.error,
    }
    return pd.DataFrame(columns).sort_values(["star", "survey", "value"]).reset_index(drop=True)


def test_long_table(tmp_path):
    rows().to_csv(tmp_path / "t.csv", index=False)
    cat = observe(recipe(LONG), tmp_path)
    assert (cat.n_star, cat.surveys, cat.labels) == (20, ("a", "b"), ("teff",))
    np.testing.assert_array_equal(cat.value, rows()["value"])
    np.testing.assert_array_equal(cat.error, 50.0)
    assert cat.left_out == {}
    assert [(s["file"], s["rows"]) for s in cat.sources] == [("t.csv", 40)]
    assert len(cat.sources[0]["sha256"]) == 64


def test_splitting_a_file_changes_nothing(tmp_path):
    rows().to_csv(tmp_path / "t.csv", index=False)
    rows()[:17].to_csv(tmp_path / "one.csv", index=False)
    rows()[17:].to_parquet(tmp_path / "two.parquet")
    whole = observe(recipe(LONG), tmp_path)
    parts = [LONG | {"file": "one.csv"}, LONG | {"file": "two.parquet"}]
    assert observe(recipe(*parts), tmp_path).digest() == whole.digest()
    swapped = observe(recipe(*parts[::-1]), tmp_path)
    pd.testing.assert_frame_equal(as_frame(swapped), as_frame(whole))


@pytest.mark.parametrize("column", ["value", "error"])
@pytest.mark.parametrize("suffix", ["ecsv", "fits", "parquet"])
def test_units_of_the_file_are_converted(suffix, column, tmp_path):
    """A value column in kK whose error column is in kK (stated or not), or values in K whose errors are in kK."""
    frame = rows()
    units = {"value": "kK"} if column == "value" else {"value": "K", "error": "kK"}
    for name in ("value", "error") if column == "value" else ("error",):
        frame[name] /= 1000.0
    path = tmp_path / f"t.{suffix}"
    if suffix == "parquet":
        table = pa.Table.from_pandas(frame, preserve_index=False)
        fields = [f.with_metadata({"unit": units[f.name]}) if f.name in units else f for f in table.schema]
        pq.write_table(table.cast(pa.schema(fields)), path)
    else:
        table = Table({n: frame[n].to_numpy(str if frame[n].dtype.kind in "OU" else None) for n in frame})
        for name, unit in units.items():
            table[name].unit = unit
        table.write(path, format="ascii.ecsv" if suffix == "ecsv" else "fits")
    cat = observe(recipe(LONG | {"file": path.name}), tmp_path)
    np.testing.assert_allclose(cat.value, rows()["value"], rtol=1e-12)
    np.testing.assert_allclose(cat.error, 50.0, rtol=1e-12)


def test_the_recipe_states_units_of_a_file_without(tmp_path):
    wide().assign(A=5.0, C=[0.4, 0.5, 0.6, 0.7]).to_csv(tmp_path / "t.csv", index=False)
    entry = measured("EB", covariates={"colour": {"column": "C", "unit": "mmag"}})
    entry["measurements"][0]["unit"] = "kK"
    cat = observe(recipe(entry, covariates={"colour": {"unit": "mag"}}), tmp_path)
    np.testing.assert_allclose(cat.value[cat.survey == 0], 5000.0)
    np.testing.assert_allclose(cat.x[:, 0, 0], [0.0004, 0.0005, 0.0006, 0.0007])


def test_renamed_columns(tmp_path):
    names = {"star": "id", "survey": "who", "value": "y", "error": "e"}
    rows().rename(columns=names).to_csv(tmp_path / "t.csv", index=False)
    cat = observe(recipe(LONG | {"columns": names}), tmp_path)
    assert cat.n_star == 20
    np.testing.assert_array_equal(cat.error, 50.0)


def test_asymmetric_errors_of_a_long_table(tmp_path):
    frame = rows().drop(columns="error").assign(error_lower=30.0, error_upper=50.0)
    frame.loc[0, "error_upper"] = np.nan
    frame.to_csv(tmp_path / "t.csv", index=False)
    cat = observe(recipe(LONG), tmp_path)
    assert np.isnan(cat.error[0])
    np.testing.assert_array_equal(cat.error[1:], 40.0)
    frame.assign(error_lower=-1.0).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(HbcalError, match=r"'error_lower' of t\.csv has 40 negative"):
        observe(recipe(LONG), tmp_path)


def test_asymmetric_errors_of_a_wide_table(tmp_path):
    wide().assign(EB2=[60.0, 60.0, np.nan, 60.0]).to_csv(tmp_path / "t.csv", index=False)
    cat = observe(recipe(measured("EB", "EB2")), tmp_path)
    np.testing.assert_array_equal(cat.error[cat.survey == 1], [50.0, 50.0, np.nan, 50.0])
    assert np.isnan(cat.error[cat.survey == 0]).all()


def test_log10(tmp_path):
    wide().assign(A=[10.0, 100.0, 1000.0, -1.0], EA=[1.0, 1.0, 1.0, -1.0]).to_csv(tmp_path / "t.csv", index=False)
    entry = measured("EB", missing=[-1.0])
    entry["measurements"][0] |= {"transform": "log10", "error": "EA", "label": "lg"}
    labels = {"teff": {"unit": "K", "offset_sd": 1.0}, "lg": {"unit": "dex", "offset_sd": 1.0}}
    cat = observe(recipe(entry, labels=labels), tmp_path)
    np.testing.assert_allclose(cat.value[cat.label == 1], [1.0, 2.0, 3.0])
    np.testing.assert_allclose(cat.error[cat.label == 1], np.array([0.1, 0.01, 0.001]) / np.log(10.0))
    assert cat.left_out == {"no value": 1}
    with pytest.raises(HbcalError, match=r"column 'A' of t\.csv has 1 value\(s\) <= 0"):
        observe(recipe(entry | {"missing": [-7.0], "measurements": [dict(entry["measurements"][0], error=[])]},
                       labels=labels), tmp_path)  # fmt: skip


def test_repeated_visits_are_kept(tmp_path):
    twice = pd.concat([wide(), wide().assign(A=4990.0, B=np.nan)])
    twice.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(HbcalError, match=r"4 star id.* visits = true"):
        observe(recipe(measured("EB")), tmp_path)
    cat = observe(recipe(measured("EB", visits=True)), tmp_path)
    assert cat.n_star == 4
    assert np.bincount(cat.survey).tolist() == [8, 4]
    assert cat.left_out == {"no value": 4}


def test_what_is_missing_is_counted_and_what_cannot_be_is_too(tmp_path):
    frame = rows()
    frame.loc[[0, 5], "value"] = np.nan
    frame.loc[7, "value"] = -9999.0
    frame.loc[9, "value"] = 90.0
    frame.loc[11, "error"] = np.nan
    frame.to_csv(tmp_path / "t.csv", index=False)
    cat = observe(recipe(LONG | {"missing": [-9999.0]}), tmp_path)
    assert cat.left_out == {"no value": 3, "teff of b outside its range": 1}
    assert len(cat.value) == 36
    assert np.isnan(cat.error).sum() == 1


def test_filters_are_counted_and_come_before_every_check(tmp_path):
    frame = rows().assign(flag=0, snr=np.linspace(1, 100, 40))
    frame.loc[[2, 3], "flag"] = 7
    frame.loc[2, "error"] = -1.0  # both would be refused, were they not filtered out
    frame.loc[3, "survey"] = "c"
    frame.to_csv(tmp_path / "t.csv", index=False)
    cat = observe(recipe(LONG | {"keep": {"flag": [0, 1]}, "within": {"snr": [20.0, 200.0]}}), tmp_path)
    assert cat.left_out == {"flag not among the values kept": 2, "snr outside [20, 200]": 6}
    assert len(cat.value) == 32


def test_rows_are_numbered_as_in_the_file(tmp_path):
    frame = rows().assign(flag=0)
    frame.loc[:9, "flag"] = 1
    frame.loc[12, "error"] = 0.0
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(HbcalError, match="first in row 13"):
        observe(recipe(LONG | {"keep": {"flag": 0}}), tmp_path)


def test_text_filter(tmp_path):
    rows().to_csv(tmp_path / "t.csv", index=False)
    assert set(observe(recipe(LONG | {"keep": {"survey": "a"}}), tmp_path).survey) == {0}


def test_covariates_of_every_kind(tmp_path):
    frame = wide().assign(
        SNR=[10.0, np.nan, 30.0, -9999.0],
        FLAG=[0, 1, 4, 6],
        KIND=["RC", "RGB", "", "dwarf"],
        A=[5000.0, np.nan, 5002.0, 5003.0],
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    columns = {
        "snr": {"column": "SNR", "survey": "a"},
        "warned": {"column": "FLAG"},
        "kind": {"column": "KIND"},
    }
    kinds = {
        "snr": {"range": [0.0, 1000.0]},
        "warned": {"bits": [1, 2]},
        "kind": {"levels": ["RC", "RGB"], "missing": "unknown"},
        "self": {"own": "teff"},
        "both": {"consensus": "teff"},
    }
    cat = observe(recipe(measured("EB", covariates=columns), covariates=kinds), tmp_path)
    x = {name: cat.x[:, :, c] for c, name in enumerate(cat.covariates)}
    order = [cat.stars.tolist().index(s) for s in "0123"]
    np.testing.assert_array_equal(x["snr"][order], [[10, np.nan], [np.nan] * 2, [30, np.nan], [np.nan] * 2])
    np.testing.assert_array_equal(x["warned"][order], [[0, 0], [0, 0], [1, 1], [1, 1]])
    np.testing.assert_array_equal(x["kind"][order], [[0, 0], [1, 1], [2, 2], [-1, -1]])
    np.testing.assert_array_equal(x["self"][order], [[5000, 5100], [np.nan, 5101], [5002, 5102], [5003, 5103]])
    np.testing.assert_array_equal(x["both"][order], [[5050, 5050], [5101, 5101], [5052, 5052], [5053, 5053]])
    assert dict(zip(cat.covariates, cat.star_level.tolist(), strict=True)) == {
        "snr": False, "warned": True, "kind": True, "self": False, "both": True,
    }  # fmt: skip


def test_a_file_without_a_value_does_not_erase_anothers(tmp_path):
    rows().to_csv(tmp_path / "t.csv", index=False)
    ids = [f"s{i:02d}" for i in range(20)]
    pd.DataFrame({"star": ids, "x": np.arange(20.0)}).to_csv(tmp_path / "one.csv", index=False)
    pd.DataFrame({"star": ids, "x": [100.0] + [np.nan] * 19}).to_csv(tmp_path / "two.csv", index=False)
    parts = [{"file": f, "layout": "stars", "covariates": {"x": {"column": "x"}}} for f in ("one.csv", "two.csv")]
    cat = observe(recipe(LONG, *parts, covariates={"x": {}}), tmp_path)
    np.testing.assert_array_equal(cat.x[:, 0, 0], [100.0, *range(1, 20)])


def test_a_category_is_one_per_star(tmp_path):
    frame = pd.concat([wide().assign(KIND="RC"), wide().assign(KIND=["RGB", "RC", "RC", "RC"], A=4990.0, B=np.nan)])
    frame.to_csv(tmp_path / "t.csv", index=False)
    entry = measured("EB", visits=True, covariates={"kind": {"column": "KIND"}})
    kinds = {"kind": {"levels": ["RC", "RGB"]}}
    with pytest.raises(HbcalError, match="'kind' differs between the rows of 1 star"):
        observe(recipe(entry, covariates=kinds), tmp_path)


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_infinite_flags_are_refused(bad, tmp_path):
    wide().assign(FLAG=[0.0, 1.0, bad, 2.0]).to_csv(tmp_path / "t.csv", index=False)
    entry = measured("EB", covariates={"warned": {"column": "FLAG"}})
    with pytest.raises(HbcalError, match=r"'FLAG' of t\.csv has 1 infinite"):
        observe(recipe(entry, covariates={"warned": {"bits": [1]}}), tmp_path)


@pytest.mark.parametrize("suffix", [".csv", ".ecsv", ".parquet", ".fits"])
def test_long_integer_ids_match_between_files(suffix, tmp_path):
    ids = 4295806720123456789 + np.arange(4)
    for name, column in (("a", "A"), ("b", "B")):
        table = Table({"id": ids if name == "a" else ids[::-1], column: wide()[column].to_numpy()})
        path = tmp_path / (name + suffix)
        if suffix == ".parquet":
            table.to_pandas().to_parquet(path)
        else:
            table.write(path, format={".csv": "ascii.csv", ".ecsv": "ascii.ecsv", ".fits": "fits"}[suffix])
    entries = [
        {
            "file": n + suffix,
            "layout": "wide",
            "star": "id",
            "measurements": [{"survey": n, "label": "teff", "value": n.upper()}],
        }
        for n in "ab"
    ]
    cat = observe(recipe(*entries), tmp_path)
    assert cat.stars.tolist() == [str(i) for i in ids]
    assert cat.star.tolist() == [0, 1, 2, 3, 3, 2, 1, 0]


def leaves(design):
    import jax

    return jax.tree.leaves(design)


def test_stars_without_a_covariate_are_left_out_and_counted():
    data = hbcal.simulate("textbook", n_star=100, seed=3).catalogue
    recipe = hbcal.load_recipe("textbook")
    some = np.flatnonzero(data.x[:, 1, 0] > 0.5)
    x = data.x.copy()
    x[some, :, 0] = np.nan
    prepared = prepare(recipe, hbcal.catalogue.catalogue.Catalogue(**{**vars(data), "x": x}))
    lost = {
        f"x1 of {s} missing": int((np.isin(data.star, some) & (data.survey == i)).sum())
        for i, s in ((1, "s1"), (2, "s2"))
    }
    assert min(lost.values()) > 0
    assert dict(prepared.catalogue.left_out) == lost
    assert not np.isin(prepared.catalogue.star[prepared.catalogue.survey > 0], some).any()


def test_a_survey_without_data_changes_nothing(tmp_path):
    rows().to_csv(tmp_path / "t.csv", index=False)
    two = recipe(LONG)
    three = recipe(LONG, surveys={"a": {}, "c": {}, "b": {}})
    one, other = prepare(two, observe(two, tmp_path)), prepare(three, observe(three, tmp_path))
    for a, b in zip(leaves(one.design), leaves(other.design), strict=True):
        np.testing.assert_array_equal(a, b)
    assert one.overlap == other.overlap
    np.testing.assert_array_equal(other.expand[0][1], 0.0)


@pytest.mark.data
@pytest.mark.parametrize(("name", "n_star"), [("kepler_giants", 8148), ("seismic_pipelines", 5163)])
def test_real_catalogues_are_read(name, n_star, catalogues):
    cat = observe(hbcal.load_recipe(name), catalogues)
    assert cat.n_star == n_star
    assert np.isfinite(cat.value).all()
    assert not any("range" in reason for reason in cat.left_out)
