"""The grids that docs/synthesis.md shows are grids."""

import re
import tomllib
from pathlib import Path

import pytest

import hbcal
from hbcal.synthesis.relations import ALPHA_M, VMICRO
from hbcal.synthesis.spec import parse_grid
from hbcal.synthesis.stars import expand

DOC = Path(hbcal.__file__).parents[1] / "docs" / "synthesis.md"


def blocks():
    return [tomllib.loads(text) for text in re.findall(r"```toml\n(.*?)```", DOC.read_text(), flags=re.DOTALL)]


@pytest.mark.parametrize(("which", "n_star"), list(enumerate((40, 27, 1, 2))))
def test_every_grid_is_one(which, n_star, tmp_path):
    (tmp_path / "stars.csv").write_text("star,teff,logg,fe_h\na,5000,4.0,0.0\nb,5000,4.5,0.0\n")
    first, *others = blocks()
    table = first if which == 0 else {k: v for k, v in first.items() if k != "draw"} | others[which - 1]
    assert len(expand(parse_grid(table, tmp_path)).star) == n_star


def test_the_relations_it_names_are_there():
    text = DOC.read_text()
    assert all(f'alpha = "{name}"' in text for name in ALPHA_M)
    assert set(VMICRO) == {"holtzman2018"}
    assert "Holtzman et al. 2018" in text
