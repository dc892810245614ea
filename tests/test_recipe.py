"""Recipes: values only, every name and number checked, the closest valid word named."""

import tomllib
from dataclasses import fields, is_dataclass

import pytest

from hbcal import HbcalError
from hbcal.recipe import load_recipe, packaged_recipes, parse_recipe

PACKAGED = sorted(packaged_recipes())


def table(name="textbook"):
    return tomllib.loads(packaged_recipes()[name].read_text())


def test_a_recipe_without_a_file_is_written_out(tmp_path):
    made = parse_recipe(table("seismic_pipelines") | {"title": "another"})
    (tmp_path / "recipe.toml").write_text(made.text)
    assert load_recipe(tmp_path / "recipe.toml") == made
    assert made.text != parse_recipe(table("seismic_pipelines")).text  # a run tells recipes apart by their text


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_recipes_load(name, tmp_path):
    recipe = load_recipe(name)
    assert recipe.name == name
    copy = tmp_path / "copy.toml"
    copy.write_text(recipe.text)  # a run keeps this text and must be able to read it again
    assert load_recipe(copy) == recipe
    assert all(recipe.unit(label) for label in recipe.labels)


def set_in(whole, path, value):
    *way, last = path.split(".")
    at = whole
    for key in way:
        at = at[int(key)] if isinstance(at, list) else at.setdefault(key, {})
    at[last] = value
    return whole


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("titel", "x", "unknown key 'titel' (did you mean 'title'?)"),
        ("labels.fe_h.floor_scal", 0.1, "'labels' entry 'fe_h' has an unknown key 'floor_scal'"),
        ("trend.0.knots", 3, "'trend' entry 1 has an unknown key 'knots'"),
        ("trend.0.options", 3, "key 'options' must be a table"),
        ("trend.0.decay", "fast", "'decay' must be of type float, not 'fast'"),
        ("trend.0.degree", True, "'degree' must be of type int, not True"),
        ("trend.0.per", "x1", "has per = 'x1', which has no levels"),
        ("trend.0.covariates", ["x1", ""], "trend names an unknown covariate ''"),
        ("trend.0.covariates", [], "names neither covariates nor a category"),
        ("trend.0.surveys", ["s9"], "trend names an unknown survey 's9'"),
        ("trend.0.labels", ["fe"], "trend names an unknown label 'fe'"),
        ("trend.0.sd", -0.2, "exactly one of sd and scale"),
        ("trend.0.scale", float("nan"), "exactly one of sd and scale"),
        ("floor", [{"basis": "spline", "covariates": ["x1"], "knots": 1}], "at least 2 knots"),
        ("floor", [{"basis": "hsgp", "covariates": ["x1"], "length": 0.0}], "positive lengths"),
        ("program", "crossval", "'program' is 'crossval' (did you mean 'crosscal'?)"),
        ("labels", {}, "declares no label"),
        ("labels", 3, "'labels' must be a table, not 3"),
        ("labels.fe_h.floor_scale", 0.0, "floor_scale of label 'fe_h' is 0.0"),
        ("labels.fe_h.range", [1.0, 1.0], "Label 'fe_h' has the range [1, 1]"),
        ("surveys", {"s0": {}}, "declares 1 survey"),
        ("surveys.s0.free", ["flor"], "unknown quantity to free 'flor' (did you mean 'floor'?)"),
        ("covariates.x1.scale", 0, "scale of covariate 'x1' is 0.0"),
        ("covariates.x1.centre", float("inf"), "centre of covariate 'x1' is inf"),
        ("covariates.x1.own", "fe", "covariate 'x1' names an unknown label 'fe'"),
        ("covariates.x1", {"own": "fe_h", "bits": [1]}, "has own and bits: it can be of one kind only"),
        ("covariates.x1", {"missing": "unknown"}, "has no levels"),
        ("covariates.x1", {"levels": ["a", "a"]}, "lists a level twice"),
        ("covariates.x1.bits", [-1], "a bit is a number from 0 to 52"),
        ("data.0.columns", {"values": "y"}, "unknown column of a long table 'values' (did you mean 'value'?)"),
        ("data.1.columns", {"value": "y"}, "unknown column of a stars table 'value'"),
        ("data.0.within", {"snr": [3.0, 1.0]}, "filter within 'snr'"),
        ("data.0.measurements", [{"survey": "s1", "label": "fe_h", "value": "y"}], "is long but lists measurements"),
        ("data.0.layout", "wide", "is wide but lists no measurements"),
        ("data.1.covariates.x3", {"column": "x3"}, "unknown covariate 'x3'"),
        ("data.1.covariates.x1", {"column": "x1", "survey": "s8"}, "unknown survey 's8'"),
        ("sampling.draws", 2, "draws = 2: it must be at least 4"),
        ("sampling.target_accept", 1.0, "target_accept = 1.0"),
        ("priors.error_scale", 0.0, "prior error_scale is 0.0"),
        ("clip", -3.0, "clip is -3.0"),
        ("simulate.n_star", 1, "n_star = 1"),
        ("simulate.seen.s1", 1.5, "seen of 's1' is 1.5"),
        ("simulate.star_low.x9", 0.0, "'star_low' names an unknown name 'x9'"),
        ("simulate.error_low.fe_h", 0.0, "error_low of 'fe_h' is 0.0"),
    ],
)
def test_bad_values_say_where(path, value, words):
    with pytest.raises(HbcalError) as raised:
        parse_recipe(set_in(table(), path, value))
    assert words in str(raised.value)


def test_a_wide_entry_takes_two_errors_at_most():
    whole = table("kepler_giants")
    whole["data"][0]["measurements"][1]["error"] = ["a", "b", "c"]
    with pytest.raises(HbcalError, match="3 error columns for 'LOGG_SEIS'"):
        parse_recipe(whole)


def test_a_category_is_no_numeric_covariate():
    whole = table("kepler_giants")
    whole["trend"][0]["covariates"] = ["evstate"]
    with pytest.raises(HbcalError, match="use per = 'evstate'"):
        parse_recipe(whole)


def test_one_value_may_stand_for_a_list():
    whole = set_in(table(), "surveys.s0.anchor", "fe_h")
    assert parse_recipe(whole).surveys["s0"].anchor == ("fe_h",)


def test_options_of_a_basis_stand_beside_the_trends_own_keys():
    assert load_recipe("kepler_giants").trend[0].options == {"degree": 3}
    assert parse_recipe(set_in(table(), "trend.0.decay", 1)).trend[0].options == {"degree": 1, "decay": 1.0}


def frozen(value):
    if is_dataclass(value):
        return all(frozen(getattr(value, f.name)) for f in fields(value)) and value.__dataclass_params__.frozen
    return not isinstance(value, list)


@pytest.mark.parametrize("name", PACKAGED)
def test_a_recipe_is_values_only(name):
    assert frozen(load_recipe(name))


def test_unknown_and_unreadable_recipes(tmp_path):
    with pytest.raises(HbcalError, match="did you mean 'kepler_giants'"):
        load_recipe("kepler_giant")
    (tmp_path / "r.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(HbcalError, match=r"r\.toml cannot be read as TOML"):
        load_recipe(tmp_path / "r.toml")
    (tmp_path / "d.toml").mkdir()
    with pytest.raises(HbcalError, match="cannot be read as TOML"):
        load_recipe(tmp_path / "d.toml")
