"""Which stars a grid has."""

import tomllib

import numpy as np
import pytest

from hbcal._errors import HbcalError
from hbcal.synthesis.atmospheres import open_atmospheres
from hbcal.synthesis.spec import load_grid, parse_grid
from hbcal.synthesis.stars import expand, inside, physical

from .conftest import GRID


def table(**changes):
    return {k: v for k, v in (tomllib.loads(GRID) | changes).items() if v is not None}


def test_axes_are_multiplied(tmp_path):
    stars = expand(parse_grid(table(), tmp_path))
    assert stars.label_names == ("teff", "logg", "m_h", "mg_fe")
    assert stars.star == tuple(f"grey-{i}" for i in range(6))
    assert stars.labels[:, 0].tolist() == [5200.0] * 3 + [5600.0] * 3
    assert stars.labels[:, 3].tolist() == [0.0, 0.2, 0.4] * 2


def test_a_draw_is_the_same_for_the_same_seed_and_fills_its_box(tmp_path):
    draw = {
        "n": 500,
        "seed": 7,
        "low": {"logg": 4.0, "teff": 5000, "fe_h": -0.5},
        "high": {"logg": 4.5, "teff": 6000, "fe_h": 0.0},
    }
    stars = expand(parse_grid(table(axes=None, draw=draw), tmp_path))
    again = expand(parse_grid(table(axes=None, draw=draw), tmp_path))
    other = expand(parse_grid(table(axes=None, draw=draw | {"seed": 8}), tmp_path))
    assert stars.label_names == ("teff", "logg", "fe_h")
    assert (stars.labels == again.labels).all()
    assert (stars.labels != other.labels).all()
    unit = (stars.labels - [5000, 4.0, -0.5]) / [1000, 0.5, 0.5]
    assert unit.min() >= 0
    assert unit.max() <= 1
    assert np.abs(unit.mean(0) - 0.5).max() < 4 * np.sqrt(1 / 12 / 500)
    assert stars.star[3] == "grey-003"


def test_a_table_and_a_list_say_the_same(tmp_path):
    (tmp_path / "s.csv").write_text("logg,star,teff,m_h\n4.2,sun,5500,0.0\n4.3,other,5600,-0.1\n")
    told = expand(parse_grid(table(axes=None, table="s.csv"), tmp_path))
    rows = [{"teff": 5500, "logg": 4.2, "m_h": 0.0}, {"teff": 5600, "logg": 4.3, "m_h": -0.1}]
    listed = expand(parse_grid(table(axes=None, stars=rows), tmp_path))
    assert told.star == ("sun", "other")
    assert told.label_names == listed.label_names
    assert (told.labels == listed.labels).all()


def test_relations_fill_in_only_what_is_no_label(tmp_path):
    spec = parse_grid(table(alpha="marcs"), tmp_path)
    star = {"teff": 5000.0, "logg": 2.0, "m_h": -1.5}
    assert physical(spec, star)["alpha_m"] == 0.4
    assert physical(spec, star)["vmicro"] == pytest.approx(10**0.2088)
    assert physical(spec, star | {"alpha_m": 0.1, "vmicro": 1.1}) == star | {"alpha_m": 0.1, "vmicro": 1.1}


def test_stars_outside_are_dropped_when_asked(home):
    spec = parse_grid(
        table(
            axes={"teff": [5200, 7000], "logg": [4.2], "m_h": [0.0]}, atmospheres={"folder": "grey", "outside": "drop"}
        ),
        home,
    )
    kept = inside(spec, expand(spec), open_atmospheres(home / "grey"))
    assert kept.star == ("grey-0",)


MISTAKES = {
    "typo in a key": ({"windw": {}}, "unknown key 'windw'", "did you mean 'window'"),
    "typo in a label": ({"axes": {"tef": [5000], "logg": [4], "m_h": [0]}}, "unknown label 'tef'", "mean 'teff'"),
    "no such element": ({"axes": {"teff": [5000], "logg": [4], "m_h": [0], "xx_fe": [0]}}, "unknown label 'xx_fe'"),
    "two metallicities": ({"axes": {"teff": [5000], "logg": [4], "m_h": [0], "fe_h": [0]}}, "one of m_h and fe_h"),
    "no gravity": ({"axes": {"teff": [5000], "m_h": [0]}}, "it needs teff, logg"),
    "an empty axis": ({"axes": {"teff": [], "logg": [4], "m_h": [0]}}, "no values for 'teff'"),
    "text for a number": ({"axes": {"teff": ["hot"], "logg": [4], "m_h": [0]}}, "must be of type float", "'hot'"),
    "infinite label": ({"axes": {"teff": [float("inf")], "logg": [4], "m_h": [0]}}, "1 star(s)", "no number"),
    "two ways to say": ({"stars": [{"teff": 5000, "logg": 4, "m_h": 0}]}, "axes and stars", "exactly one"),
    "no way to say": ({"axes": None}, "has none of axes, stars, table and draw"),
    "window reversed": ({"window": {"low": 8700, "high": 8460, "step": 0.1}}, "[8700, 8460]", "low < high"),
    "step too long": ({"window": {"low": 8460, "high": 8700, "step": 500}}, "step of 500"),
    "too many pixels": ({"window": {"low": 4000, "high": 9000, "step": 0.001}}, "999,000 at most"),
    "negative resolution": ({"window": {"low": 1, "high": 9, "step": 1, "resolution": -1}}, "resolution is -1"),
    "margin beyond zero": ({"window": {"low": 8, "high": 9, "step": 0.1, "margin": 9}}, "margin is 9"),
    "no line list": ({"lines": {"files": []}}, "name no files"),
    "wrong geometry": ({"atmospheres": {"folder": "x", "geometry": "flat"}}, "'flat'", "plane_parallel"),
    "uneven stars": (
        {"axes": None, "stars": [{"teff": 5e3, "logg": 4.0, "m_h": 0.0}, {"teff": 5e3, "logg": 4.0, "fe_h": 0.0}]},
        "1 entries", "entry 2",
    ),
    "draw with one side": ({"axes": None, "draw": {"n": 2, "low": {"teff": 5000, "logg": 4, "m_h": 0}}}, "give both"),
    "draw reversed": (
        {"axes": None, "draw": {"n": 2, "low": {"teff": 6e3, "logg": 4.0, "m_h": 0.0},
            "high": {"teff": 5e3, "logg": 4.0, "m_h": 0.0}}},
        "low above high for 'teff'",
    ),
    "no such table": ({"axes": None, "table": "nowhere.csv"}, "nowhere.csv does not exist"),
    "table cut off": ({"axes": None, "table": "cut.csv"}, "cut.csv is damaged in line 3"),
    "table without stars": ({"axes": None, "table": "head.csv"}, "head.csv has no stars"),
    "a star twice": ({"axes": None, "table": "twice.csv"}, "1 star(s)", "more than once ('sun')"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake, tmp_path):
    changes, *words = MISTAKES[mistake]
    (tmp_path / "cut.csv").write_text("teff,logg,m_h\n5000,4.2,0.0\n5000,4.2\n")
    (tmp_path / "head.csv").write_text("teff,logg,m_h\n")
    (tmp_path / "twice.csv").write_text("star,teff,logg,m_h\nsun,5000,4.2,0.0\nsun,5000,4.3,0.0\n")
    with pytest.raises(HbcalError) as told:
        expand(parse_grid(table(**changes), tmp_path))
    for word in words:
        assert word in str(told.value), str(told.value)
    assert str(told.value).endswith(".")


def test_a_file_that_is_no_toml(tmp_path):
    (tmp_path / "g.toml").write_text("name = ")
    with pytest.raises(HbcalError, match="cannot be read as TOML"):
        load_grid(tmp_path / "g.toml")
