"""Simulated data: the same seed gives the same sky, files say what memory says, and the truth is the truth."""

import tomllib

import numpy as np
import pandas as pd
import pytest

from hbcal import HbcalError, load_recipe, simulate
from hbcal.catalogue.observe import observe
from hbcal.recipe import packaged_recipes, parse_recipe


def keyed(catalogue):
    """Measurements by (star, survey, label), in one order."""
    names = np.array(catalogue.surveys)[catalogue.survey], np.array(catalogue.labels)[catalogue.label]
    frame = pd.DataFrame({"star": catalogue.stars[catalogue.star].astype(str), "survey": names[0], "label": names[1]})
    return frame.assign(value=catalogue.value, error=catalogue.error).sort_values(["star", "survey", "label"])


def test_a_seed_decides_everything():
    first, again, other = (simulate("textbook", seed=seed, n_star=60) for seed in (3, 3, 4))
    assert first.catalogue.digest() == again.catalogue.digest()
    assert first.truth.identical(again.truth)
    assert first.catalogue.digest() != other.catalogue.digest()


@pytest.mark.parametrize("name", ["textbook", "kepler_giants", "seismic_pipelines", "demo", "pipeline_response"])
def test_files_say_what_memory_says(name, tmp_path):
    simulated = simulate(name, tmp_path / "sky", seed=1, n_star=150)
    recipe = load_recipe(name)
    read, kept = keyed(observe(recipe, tmp_path / "sky")), keyed(simulated.catalogue)
    low, high = ([recipe.labels[label].range[i] for label in kept["label"]] for i in (0, 1))
    kept = kept[kept["value"].between(low, high)]  # what cannot be true is left out when it is read
    both = kept.merge(read, on=["star", "survey", "label"], suffixes=("", "_read"))
    assert len(both) == len(kept) == len(read)
    np.testing.assert_allclose(both["value_read"], both["value"], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(both["error_read"], both["error"], rtol=1e-9)
    stars = pd.read_csv(tmp_path / "sky" / "truth_stars.csv")
    np.testing.assert_allclose(stars[list(simulated.catalogue.labels)], simulated.z, rtol=1e-12)
    truth = pd.read_csv(tmp_path / "sky" / "truth.csv").set_index(["quantity", "survey", "label"])
    survey, label = next((s, l) for q, s, l in truth.index if q == "floor")
    kept_floor = float(simulated.truth["floor"].sel(survey=survey, label=label).squeeze())
    assert float(truth.loc[("floor", survey, label), "value"]) == pytest.approx(kept_floor, rel=1e-12)


def test_a_label_that_is_its_own_covariate_agrees_with_itself():
    cat = simulate("kepler_giants", seed=1, n_star=200).catalogue
    rows = np.flatnonzero(cat.survey == cat.surveys.index("apogee"))
    own = cat.x[cat.star[rows], cat.surveys.index("apogee"), cat.covariates.index("logg")]
    np.testing.assert_allclose(cat.value[rows], own, atol=1e-12)


def test_values_held_fixed_are_the_truth():
    values = {"offset": {"s1.fe_h": 0.7}, "trend": {"s2.fe_h.x1": -0.4}, "floor": {"s1.fe_h": 0.0, "s2.fe_h": 0.0}}
    errors = {"error_scale": {"s1.fe_h": 1e-9, "s2.fe_h": 1e-9}}
    s = simulate("textbook", seed=1, n_star=50, values={**values, **errors})
    assert float(s.truth["offset"].sel(survey="s1", label="fe_h").squeeze()) == 0.7
    cat = s.catalogue
    rows = np.flatnonzero(cat.survey == 1)  # without noise a measurement is truth + zero point + trend
    slope = s.truth["trend"].sel(survey="s1", label="fe_h").to_numpy().ravel()
    expected = s.z[cat.star[rows], 0] + 0.7 + cat.x[cat.star[rows], 1] @ slope
    np.testing.assert_allclose(cat.value[rows], expected, atol=1e-8)
    assert s.truth["trend"].sel(survey="s2", term="x1").item() == -0.4


def test_values_that_cannot_be_held_are_refused():
    with pytest.raises(HbcalError, match="did you mean 'offset'"):
        simulate("textbook", n_star=20, values={"ofset": {"s1.fe_h": 1.0}})
    with pytest.raises(HbcalError, match="which this recipe does not have"):
        simulate("textbook", n_star=20, values={"offset": {"s9.fe_h": 1.0}})
    with pytest.raises(HbcalError, match="must be a finite number"):
        simulate("textbook", n_star=20, values={"offset": {"s1.fe_h": float("nan")}})


def test_overlaps_and_errors_can_be_taken_from_data(tiny_run):
    pattern = tiny_run.catalogue
    s = simulate(tiny_run.recipe, seed=9, data=pattern)
    assert list(s.catalogue.stars) == list(pattern.stars)
    np.testing.assert_array_equal(s.catalogue.error, pattern.error)
    assert not np.allclose(s.catalogue.value, pattern.value)


def test_the_noise_is_what_the_truth_says():
    values = {"error_scale": {"s1.fe_h": 1.5}, "floor": {"s1.fe_h": 0.1}}
    s = simulate("textbook", seed=2, n_star=4000, values=values)
    cat = s.catalogue
    rows = np.flatnonzero(cat.survey == 1)
    slope = s.truth["trend"].sel(survey="s1", label="fe_h").to_numpy().ravel()
    shift = float(s.truth["offset"].sel(survey="s1").squeeze()) + cat.x[cat.star[rows], 1] @ slope
    z = (cat.value[rows] - s.z[cat.star[rows], 0] - shift) / np.sqrt((1.5 * cat.error[rows]) ** 2 + 0.01)
    assert abs(z.std() - 1.0) < 4.0 / np.sqrt(2 * len(rows))
    assert abs(z.mean()) < 4.0 / np.sqrt(len(rows))


def test_without_an_anchor_offsets_sum_to_zero():
    text = packaged_recipes()["textbook"].read_text().replace('anchor = ["fe_h"]', "")
    s = simulate(parse_recipe(tomllib.loads(text), text), seed=1, n_star=100)
    assert abs(float(s.truth["offset"].sum())) < 1e-12
    np.testing.assert_allclose(s.truth["trend"].sum("survey"), 0.0, atol=1e-12)
