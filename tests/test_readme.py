"""The README runs as it stands: every command and every piece of Python, in order, in one empty folder."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hbcal
from hbcal.cli import app
from hbcal.recipe import parse_recipe

ROOT = Path(hbcal.__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def run(language, code, folder):
    """Run one block as a reader would; what it prints."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    if language == "bash":
        code = "\n".join(line for line in code.splitlines() if not line.startswith("make "))
        command = ["bash", "-euc", code]
    else:
        command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_readme_runs(tmp_path):
    assert {language for language, _ in BLOCKS} == {"bash", "python", "toml"}
    said = "".join(run(language, code, tmp_path) for language, code in BLOCKS if language != "toml")
    assert "PASSED" in said
    table = (tmp_path / "calibrated.ecsv").read_text()
    promised = re.findall(r"^\| (`.*?) \|", README, flags=re.MULTILINE)
    columns = [name for cell in promised for name in re.findall(r"`(\w+)`", cell)]
    assert {"fe_h", "fe_h_err", "fe_h_err_star", "extrapolated", "reason"} <= set(columns)
    names = {f"fe_h{name}" if name.startswith("_") else name for name in columns}
    assert names <= set(re.findall(r"name: (\w+)", table))
    answers = (tmp_path / "answers.csv").read_text().splitlines()
    assert answers[0] == "star,survey,label,mean,sd,q05,q16,q50,q84,q95,reason"
    assert [line.split(",")[0] for line in answers[1:]] == ["star007", "star008"]
    told = json.loads((tmp_path / "how_good" / "report.json").read_text())
    assert told["all"]["teff"]["robust_sd"] < 60.0
    assert 0.6 < told["all"]["joint"]["within_68"] < 0.77
    assert "without s1: s2 " in (tmp_path / "report" / "report.txt").read_text()


def test_the_recipe_in_the_readme_is_one(tmp_path):
    block, more = (code for language, code in BLOCKS if language == "toml")
    (tmp_path / "recipe.toml").write_text(block)
    recipe = hbcal.load_recipe(tmp_path / "recipe.toml")
    assert recipe.name == tomllib.loads(block)["name"] == "mine"
    assert recipe.surveys["benchmarks"].anchor == ("fe_h",)
    table, added = tomllib.loads(block), tomllib.loads(more)
    table["labels"]["teff"] = {"unit": "K", "offset_sd": 100.0}
    table["surveys"] |= added["surveys"]
    table["data"] += added["data"]
    recipe = parse_recipe({**table, "program": "crosscal_correlated"})
    assert recipe.surveys["mine"].correlated == ("teff", "fe_h")
    assert recipe.data[-1].correlations[0].kind == "covariance"


def test_every_link_and_command_of_the_readme_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target
    for command in re.findall(r"`hbcal (\w+)", README) + re.findall(r"^hbcal (\w+)", README, flags=re.MULTILINE):
        assert command in {
            each.name or each.callback.__name__ for each in (*app.registered_commands, *app.registered_groups)
        }
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_a_block_that_fails_is_noticed(tmp_path):
    with pytest.raises(AssertionError):
        run("bash", "hbcal check nowhere", tmp_path)
