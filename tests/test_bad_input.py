"""The bad-input table: every row is a mistake a user makes, and the sentence that must come back.

Whatever the mistake: exit status 2, exactly one line on stderr, no traceback, nothing made, nothing changed on disk.
"""

import json
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hbcal
from hbcal.cli import main
from hbcal.recipe import packaged_recipes


@dataclass(frozen=True)
class Good:
    """Input with nothing wrong: two data folders and a finished run."""

    textbook: Path
    giants: Path
    run: Path


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    home = tmp_path_factory.mktemp("good")
    hbcal.simulate("textbook", home / "textbook", n_star=60, seed=3)
    hbcal.simulate("kepler_giants", home / "giants", n_star=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 60 draws are far too few, and it says so
        hbcal.calibrate("textbook", home / "textbook", home / "run", chains=2, draws=60, warmup=60, workers=0)
    with h5py.File(home / "run" / "posterior.nc", "r+") as file:  # else its warning would be a second line
        passed = json.loads(file.attrs["diagnostics"]) | {"passed": True, "failures": []}
        file.attrs["diagnostics"] = json.dumps(passed)
    return Good(home / "textbook", home / "giants", home / "run")


def command(argv, monkeypatch, capfd):
    """Run the command line in this process: exit status, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["hbcal", *map(str, argv)])
    with pytest.raises(SystemExit) as stopped:
        main()
    told = capfd.readouterr()
    return stopped.value.code or 0, told.out, told.err


def on_disk(*folders):
    return {path: path.read_bytes() if path.is_file() else None for folder in folders for path in folder.rglob("*")}


# ---- the data of `textbook`: long, Parquet -------------------------------------------------------------------------


def calibrate(recipe, data, tmp, *more):
    return ["calibrate", recipe, "--data", data, "--out", tmp / "out", *more]


def long(change, *, file="observations.parquet"):
    """`textbook` with one table changed: `change` takes the frame, and returns it or changes it in place."""

    def build(tmp, good):
        data = Path(shutil.copytree(good.textbook, tmp / "data"))
        frame = pd.read_parquet(data / file)
        changed = change(frame)
        (frame if changed is None else changed).to_parquet(data / file)
        return calibrate("textbook", data, tmp)

    return build


def put(column, rows, value):
    def change(frame):
        if isinstance(value, str):
            frame[column] = frame[column].astype(object)
        frame.loc[frame.index[rows], column] = value

    return change


def stars(change):
    return long(change, file="stars.parquet")


def half(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def damaged(change, *, file="observations.parquet"):
    """`textbook` with the bytes of one file changed."""

    def build(tmp, good):
        data = Path(shutil.copytree(good.textbook, tmp / "data"))
        change(data / file)
        return calibrate("textbook", data, tmp)

    return build


def as_file(name, change):
    """`textbook` with its observations in a file of another kind, whose bytes are then changed."""

    def build(tmp, good):
        data = Path(shutil.copytree(good.textbook, tmp / "data"))
        write_as(pd.read_parquet(data / "observations.parquet"), data / name)
        change(data / name)
        return calibrate(recipe_file(tmp, ("observations.parquet", name)), data, tmp)

    return build


def write_as(frame, path):
    from astropy.table import Table

    if path.name.endswith((".csv", ".csv.gz")):
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix in (".ecsv", ".fits"):
        columns = {c: frame[c].to_numpy(dtype=str if frame[c].dtype.kind in "OUT" else None) for c in frame}
        Table(columns).write(path, format="ascii.ecsv" if path.suffix == ".ecsv" else "fits")


def recipe_file(tmp, *changes, name="textbook"):
    text = packaged_recipes()[name].read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp / "recipe.toml").write_text(text)
    return tmp / "recipe.toml"


def recipe(*changes, name="textbook"):
    """A packaged recipe with some of its text replaced."""

    def build(tmp, good):
        data = {"textbook": good.textbook, "kepler_giants": good.giants}[name]
        return calibrate(recipe_file(tmp, *changes, name=name), data, tmp)

    return build


def in_kelvin(path):
    table = pq.read_table(path)
    at = table.column_names.index("value")
    pq.write_table(table.cast(table.schema.set(at, pa.field("value", pa.float64(), metadata={"unit": "K"}))), path)


def line(number, text):
    def change(path):
        lines = path.read_text().splitlines()
        lines[number] = text
        path.write_text("\n".join(lines) + "\n")

    return change


def cut(path):
    path.write_text(path.read_text().rstrip().rsplit(",", 2)[0])


def split_sky(frame):
    """s1 keeps the even stars and s2 the odd ones; the anchor saw some of the even ones."""
    even = frame["star"].str[-1].astype(int) % 2 == 0
    seen = frame[(frame["survey"] == "s1") & even]
    return pd.concat([seen, frame[(frame["survey"] == "s2") & ~even], seen.head(5).assign(survey="s0", error=0.01)])


# ---- the data of `kepler_giants`: wide, CSV, compressed ------------------------------------------------------------


def wide(change):
    def build(tmp, good):
        data = Path(shutil.copytree(good.giants, tmp / "data"))
        frame = pd.read_csv(data / GIANTS)
        changed = change(frame)
        (frame if changed is None else changed).to_csv(data / GIANTS, index=False)
        return calibrate("kepler_giants", data, tmp)

    return build


def wide_damaged(change):
    def build(tmp, good):
        data = Path(shutil.copytree(good.giants, tmp / "data"))
        change(data / GIANTS)
        return calibrate("kepler_giants", data, tmp)

    return build


GIANTS = "kepler_giants_apogee_seismic.csv.gz"


# ---- folders, settings, other commands -----------------------------------------------------------------------------


def options(*more):
    return lambda tmp, good: calibrate("textbook", good.textbook, tmp, *more)


def in_use(tmp, good):
    (tmp / "out").mkdir()
    (tmp / "out" / "thesis.tex").write_text("years of work")


def is_file(tmp, good):
    (tmp / "out").write_text("years of work")


def prepared(prepare, *argv):
    """A command whose words may use {tmp}, {textbook}, {giants}, {run}, after something was put in place."""

    def build(tmp, good):
        if prepare:
            prepare(tmp, good)
        return [str(word).format(tmp=tmp, **vars(good)) for word in argv]

    return build


def file(name, content):
    def prepare(tmp, good):
        if isinstance(content, str):
            (tmp / name).write_text(content)
        else:
            write_as(pd.DataFrame(content), tmp / name)

    return prepare


def other_json(tmp, good):
    in_use(tmp, good)
    (tmp / "out" / "run.json").write_text('{"scripts": {}}')


def damaged_run(tmp, good):
    shutil.copytree(good.run, tmp / "run")
    half(tmp / "run" / "posterior.nc")


CALIBRATE = ("calibrate", "textbook", "--data", "{textbook}", "--out")
RESUME = ("calibrate", "textbook", "--data", "{textbook}", "--out", "{run}", "--resume", "--chains", 2, "--warmup", 60)
APPLY = ("apply", "{run}", "{tmp}/t.csv", "--survey", "s1", "--out", "{tmp}/a.csv")
TABLE = {"star": ["a", "b"], "fe_h": [0.1, 0.2], "fe_h_err": [0.05, 0.04], "x1": [0.0, 0.1], "x2": [0.0, 0.1]}
IN_KELVIN = """# %ECSV 1.0
# ---
# datatype:
# - {name: star, datatype: string}
# - {name: survey, datatype: string}
# - {name: label, datatype: string}
# - {name: error, unit: K, datatype: float64}
# schema: astropy-2.0
star survey label error
a s1 fe_h 0.1
"""
PREDICT = ("predict", "{run}", "{tmp}/q.csv", "--out", "{tmp}/p.csv")
QUERY = {"star": ["star01"], "survey": ["s1"], "label": ["fe_h"], "error": [0.05]}
SIMULATE = ("simulate", "textbook", "--out", "{tmp}/out")

CASES = {
    # what is wrong with a measurement
    "wrong unit": (damaged(in_kelvin), "value column of observations.parquet", "'K'", "'dex'", "correct the unit"),
    "value in a wrong unit": (long(lambda t: t.assign(value=1e3 * t.value)), "fe_h of survey", "outside [-20, 20] dex",
        "unit or the column is probably wrong"),
    "no star id": (long(put("star", [2, 3, 4], None)), "observations.parquet has 3 row(s) without a star id"),
    "infinite value": (long(put("value", [7], np.inf)), "fe_h of survey", "1 infinite value(s)", "empty them"),
    "negative error": (long(put("error", [4, 9], -0.1)), "'error' of observations.parquet", "2 negative", "row 5"),
    "zero error": (long(put("error", [0], 0.0)), "'error' of observations.parquet", "1 zero error(s)", "row 1"),
    "infinite error": (long(put("error", [1], np.inf)), "'error' of observations.parquet", "1 infinite", "row 2"),
    "text in a number column": (long(lambda t: t.assign(value=["high", *t.value.astype(str)[1:]])), "'value'",
        "1 row(s)",
        "'high' in row 1"),
    "exact copies": (long(lambda t: pd.concat([t, t.head(3)])), "3 measurement(s) are exact copies",
        "remove the copies"),
    "unknown survey": (long(put("survey", [0, 1], "S1")), "2 row(s) of unknown survey 'S1'", "did you mean 's1'"),
    "unknown label": (long(put("label", [0], "feh")), "1 row(s) of unknown label 'feh'", "did you mean 'fe_h'"),
    "one survey only": (long(lambda t: t[t.survey == "s1"]), "Only one survey has data ('s1')"),
    "disconnected surveys": (long(split_sky), "2 groups", "{s0, s1} and {s2}", "declare an anchor"),
    "empty overlap": (long(lambda t: split_sky(t).query("survey != 's0'")), "overlap is empty", "same star ids"),
    "half an asymmetric error": (long(lambda t: t.rename(columns={"error": "error_lower"})), "'error_lower' without"),
    # covariates
    "constant covariate": (stars(lambda t: t.assign(x1=0.5)), "covariate 'x1' of survey", "0.5 for all", "constant"),
    "covariate missing for every star": (stars(lambda t: t.assign(x2=np.nan)), "'x2' of survey", "missing for all"),
    "covariates of other stars": (stars(lambda t: t.assign(star="x" + t.star)), "'x1' of survey", "missing for all"),
    "infinite covariate": (stars(put("x1", [5], -np.inf)), "'x1' of stars.parquet", "1 infinite value(s)"),
    "covariate in a wrong unit": (wide(lambda t: t.assign(TEFF_FIT=t.TEFF_FIT / 1e3)), "'TEFF_FIT'", "200 of 200",
        "[2500, 9000] K", "unit or the column is probably wrong"),
    "a column name twice": (wide(lambda t: pd.concat([t, t[["TEFF_FIT"]]], axis=1)), "column name(s) more than once",
        "'TEFF_FIT'", "rename"),
    "unknown category": (wide(lambda t: t.assign(CONS_EVSTATES="giant")), "'evstate'", "not one of RGB, RC, unknown"),
    "duplicate ids, stars table": (stars(lambda t: pd.concat([t, t.head(2)])), "stars.parquet has 2 star id(s) in more",
        "keep one of each"),
    "duplicate ids, wide table": (wide(lambda t: pd.concat([t, t.head(1)])), f"{GIANTS} has 1 star id(s) in more",
        "visits = true"),
    "ids rounded by floating point": (long(lambda t: t.assign(star=6.1e18 + 1e9 * np.arange(len(t)))), "'star'",
        "floating point", "store it as integers or as text"),
    # files
    "truncated Parquet": (damaged(half), "observations.parquet cannot be read", "truncated", "get it again"),
    "truncated csv.gz": (wide_damaged(half), f"{GIANTS} cannot be read", "truncated", "get it again"),
    "truncated CSV": (as_file("o.csv", cut), "o.csv is truncated", "3 of 5 fields", "get it again"),
    "truncated FITS": (as_file("o.fits", half), "o.fits cannot be read", "truncated", "get it again"),
    "truncated ECSV": (as_file("o.ecsv", lambda p: p.write_text(p.read_text()[:-25])), "o.ecsv cannot be read",
        "truncated", "get it again"),
    "CSV with a comma too many": (as_file("o.csv", line(3, "star01,s1,fe_h,0,1,0.1")), "o.csv is damaged", "1 line(s)",
        "line 4 with 6"),
    "CSV in another encoding": (as_file("o.csv", lambda p: p.write_bytes(p.read_bytes().replace(b"star0",
        b"\xe9toile"))),
        "o.csv cannot be read", "utf-8"),
    "CSV named Parquet": (damaged(lambda p: p.write_text("star,survey\n1,2\n")), "observations.parquet cannot be read"),
    "empty CSV": (as_file("o.csv", lambda p: p.write_text("")), "o.csv is empty"),
    "empty Parquet": (damaged(lambda p: p.write_bytes(b"")), "observations.parquet cannot be read"),
    "empty FITS": (as_file("o.fits", lambda p: p.write_bytes(b"")), "o.fits cannot be read"),
    "header only": (as_file("o.csv", lambda p: p.write_text(p.read_text().split("\n")[0] + "\n")), "o.csv has no rows"),
    "no rows": (long(lambda t: t.head(0)), "observations.parquet has no rows"),
    "missing column": (long(lambda t: t.drop(columns="value")), "lacks 1 column(s)", "'value'", "correct the recipe"),
    "missing file": (damaged(Path.unlink), "observations.parquet does not exist", "check the folder"),
    "unknown kind of file": (recipe(("observations.parquet", "observations.xlsx")), "observations.xlsx does not exist"),
    "missing data folder": (prepared(None, "calibrate", "textbook", "--data", "{tmp}/nowhere", "--out", "{tmp}/out"),
        "nowhere", "does not exist", "check --data"),
    "data is a file": (prepared(file("d.csv", "a,b\n"), "calibrate", "textbook", "--data", "{tmp}/d.csv", "--out",
        "{tmp}/o"),
        "d.csv is a file", "--data names a folder"),
    # recipes
    "typo in a key": (recipe(("clip = 3.0", "clipp = 3.0"), name="kepler_giants"), "unknown key 'clipp'", "'clip'"),
    "typo in a nested key": (recipe(("degree = 1", "degre = 1")), "'trend' entry 1", "'degre'",
        "did you mean 'degree'"),
    "typo in a column's role": (recipe(('layout = "long"', 'layout = "long"\ncolumns = { valu = "y" }')), "'valu'",
        "did you mean 'value'"),
    "typo in a survey's share": (recipe(("seen = { s0", "seen = { s00")), "'seen'", "'s00'", "did you mean 's0'"),
    "missing key": (recipe(('unit = "dex"', "")), "'labels' entry 'fe_h'", "lacks the key 'unit'"),
    "wrong type": (recipe(("offset_sd = 0.3", 'offset_sd = "wide"')), "'offset_sd' must be of type float", "'wide'"),
    "wrong layout": (recipe(('layout = "long"', 'layout = "tall"')), "'layout' is 'tall'", "long, stars, wide"),
    "unknown basis": (recipe(("polynomial", "polynomal")), "unknown basis 'polynomal'", "did you mean 'polynomial'"),
    "basis of a wrong type": (recipe(('"polynomial"', '["polynomial"]')), "unknown basis ['polynomial']"),
    "option of a wrong type": (recipe(("degree = 1", "degree = 1.5")), "'degree' must be of type int", "1.5"),
    "option of a wrong value": (recipe(("degree = 1", "degree = 0")), "'trend' entry 1", "degree >= 1, got 0"),
    "unknown covariate": (recipe(('covariates = ["x1", "x2"]', 'covariates = ["x1", "x3"]')), "trend", "'x3'"),
    "anchor of an unknown label": (recipe(('anchor = ["fe_h"]', 'anchor = ["fe/h"]')), "survey 's0'", "'fe/h'",
        "'fe_h'"),
    "no prior scale": (recipe(("offset_sd = 0.3", "")), "Label 'fe_h'", "exactly one of offset_sd", "in dex"),
    "two prior scales": (recipe(("sd = 0.2", "sd = 0.2\nscale = 0.2")), "trend", "exactly one of sd and scale"),
    "infinite prior": (recipe(("offset_sd = 0.3", "offset_sd = inf")), "Label 'fe_h'", "positive and finite"),
    "range upside down": (recipe(("range = [-20.0, 20.0]", "range = [20.0, -20.0]")), "Label 'fe_h'", "[20, -20]"),
    "range of three": (recipe(("range = [-20.0, 20.0]", "range = [1, 2, 3]")), "'range' must be a pair [low, high]"),
    "filter that keeps nothing": (recipe(('layout = "long"', 'layout = "long"\nkeep = { survey = ["s7"] }')),
        "No row of observations.parquet passes", "loosen keep"),
    "recipe is not TOML": (recipe(('name = "textbook"', "name = textbook")), "recipe.toml cannot be read as TOML"),
    "unknown recipe": (prepared(None, "calibrate", "textbok", "--data", "{textbook}", "--out", "{tmp}/out"),
        "'textbok'",
        "did you mean 'textbook'"),
    "missing recipe": (prepared(None, "calibrate", "my.toml", "--data", "{textbook}", "--out", "{tmp}/out"), "my.toml",
        "does not exist"),
    "an anchor simulated without errors": (lambda tmp, good: ("simulate",
        recipe_file(tmp, ("error_low = { fe_h = 0.03 }", "")), "--out", tmp / "out"),
        "no error_low for fe_h of anchor 's0'"),
    # where to write, and how much
    "output folder in use": (prepared(in_use, *CALIBRATE, "{tmp}/out"), "out is in use", "choose another", "--resume"),
    "output is a file": (prepared(is_file, *CALIBRATE, "{tmp}/out"), "out is a file", "--out names a folder"),
    "output below a file": (prepared(is_file, *CALIBRATE, "{tmp}/out/run"), "out is a file", "choose another"),
    "output read-only": (prepared(None, *CALIBRATE, "/proc/hbcal/run"), "/proc is not writable", "choose another"),
    "negative draws": (options("--draws", -5), "number of draws is -5", "at least 4"),
    "no chains": (options("--chains", 0), "number of chains is 0", "at least 1"),
    "unknown device": (options("--device", "tpu"), "'tpu'", "auto, cpu or gpu"),
    "resume with another seed": (prepared(None, *RESUME, "--draws", 60, "--seed", 5), "another settings",
        "resume it with"),
    "resume with more draws": (prepared(None, *RESUME, "--draws", 80), "another settings", "choose another --out"),
    "resume what is not a run": (prepared(in_use, *CALIBRATE, "{tmp}/out", "--resume"), "not a run of hbcal"),
    "resume over another program's run.json": (prepared(other_json, *CALIBRATE, "{tmp}/out", "--resume"),
        "run.json is not",
        "choose another"),
    "anchors only": (recipe(("[surveys.s1]", '[surveys.s1]\nanchor = ["fe_h"]'), ("[surveys.s2]",
        '[surveys.s2]\nanchor = ["fe_h"]')), "Every survey that reports 'fe_h' is an anchor", "nothing to calibrate"),
    "demo in use": (prepared(in_use, "demo", "--out", "{tmp}/out"), "out is in use"),
    "simulate in use": (prepared(in_use, *SIMULATE), "out is in use"),
    "simulate one star": (prepared(None, *SIMULATE, "--n-star", 1), "number of stars is 1", "at least 2"),
    "simulate a typo": (prepared(file("v.toml", "[ofset]\n's1.fe_h' = 0.1\n"), *SIMULATE, "--values", "{tmp}/v.toml"),
        "'ofset'", "did you mean 'offset'"),
    "simulate an unknown survey": (prepared(file("v.toml", "[offset]\n's7.fe_h' = 0.1\n"), *SIMULATE, "--values",
        "{tmp}/v.toml"), "'s7.fe_h'", "does not have"),
    "simulate text for a value": (prepared(file("v.toml", "[offset]\n's1.fe_h' = 'high'\n"), *SIMULATE, "--values",
        "{tmp}/v.toml"), "'s1.fe_h'", "'high'", "number"),
    "values are not TOML": (prepared(file("v.toml", "offset"), *SIMULATE, "--values", "{tmp}/v.toml"), "v.toml",
        "TOML"),
    # apply, predict, check
    "apply what is not a run": (prepared(file("t.csv", TABLE), "apply", "{textbook}", *APPLY[2:]), "textbook",
        "not a finished run", "--resume"),
    "apply a damaged run": (prepared(damaged_run, "apply", "{tmp}/run", *APPLY[2:]), "posterior.nc cannot be read",
        "again"),
    "apply to an unknown survey": (prepared(file("t.csv", TABLE), *APPLY[:4], "s7", *APPLY[5:]), "no survey 's7'",
        "'s"),
    "apply to a missing table": (prepared(None, *APPLY), "t.csv does not exist"),
    "apply without a label": (prepared(file("t.csv", {"star": ["a"], "x1": [0.1]}), *APPLY), "no column with a label",
        "'s1'",
        "'fe_h'"),
    "apply without ids": (prepared(file("t.csv", {"id": ["a"], "fe_h": [0.1]}), *APPLY),
        "t.csv has no column of star ids"),
    "apply to text": (prepared(file("t.csv", TABLE | {"fe_h": [0.1, "rich"]}), *APPLY), "'fe_h'", "1 row(s)",
        "'rich' in row 2"),
    "apply to a negative error": (prepared(file("t.csv", TABLE | {"fe_h_err": [0.1, -1]}), *APPLY),
        "'fe_h_err' of t.csv",
        "1 negative", "row 2"),
    "apply to an infinite value": (prepared(file("t.csv", TABLE | {"fe_h": [np.inf, 1]}), *APPLY), "1 infinite fe_h"),
    "apply onto a file": (prepared(file("a.csv", "mine"), *APPLY), "a.csv exists already", "--overwrite"),
    "apply to an unknown kind": (prepared(file("t.csv", TABLE), *APPLY[:-1], "{tmp}/a.doc"),
        "a.doc is of an unknown kind"),
    "apply into no folder": (prepared(file("t.csv", TABLE), *APPLY[:-1], "{tmp}/no/a.csv"), "no of the output a.csv",
        "make it first"),
    "apply onto a folder": (prepared(lambda tmp, good: (tmp / "a.csv").mkdir(), *APPLY, "--overwrite"), "is a folder"),
    "predict without a column": (prepared(file("q.csv", {"star": ["a"], "survey": ["s1"]}), *PREDICT), "q.csv lacks 1",
        "'label'"),
    "predict with a negative error": (prepared(file("q.csv", QUERY | {"error": [-1]}), *PREDICT),
        "1 negative error(s)"),
    "predict with errors in another unit": (prepared(file("q.ecsv", IN_KELVIN), *PREDICT[:2], "{tmp}/q.ecsv",
        *PREDICT[3:]), "error column of q.ecsv", "'K'", "'dex'"),
    "predict onto a file": (prepared(file("p.csv", "mine"), *PREDICT), "p.csv exists already"),
    "predict from nothing": (prepared(None, *PREDICT), "q.csv does not exist"),
    "check what is not a run": (prepared(None, "check", "{tmp}"), "not a finished run"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_sentence(name, good, tmp_path, monkeypatch, capfd):
    build, *words = CASES[name]
    argv = build(tmp_path, good)
    before = on_disk(tmp_path, good.textbook, good.giants, good.run)
    status, out, err = command(argv, monkeypatch, capfd)
    assert status == 2, (out, err)
    assert out == ""
    assert err.startswith("hbcal: ")
    assert err.count("\n") == 1, err
    for word in words:
        assert word in err
    assert err.rstrip().endswith("."), err
    assert on_disk(tmp_path, good.textbook, good.giants, good.run) == before


@pytest.mark.parametrize("name", ["negative error", "typo in a nested key", "output folder in use"])
def test_bad_input_in_a_process_of_its_own(name, good, tmp_path):
    build, *words = CASES[name]
    argv = build(tmp_path, good)
    done = subprocess.run(
        [sys.executable, "-m", "hbcal.cli", *map(str, argv)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in ("hbcal: ", *words))


@pytest.mark.parametrize(
    "argv",
    [
        ["calibrate", "textbook"],
        ["calibrat"],
        ["simulate", "textbook", "--out", "x", "--seed", "-1"],
        ["apply", "--outt", "x"],
    ],
    ids=["missing option", "unknown command", "negative seed", "unknown option"],
)
def test_usage_errors_are_no_tracebacks(argv, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    status, _, err = command(argv, monkeypatch, capfd)
    assert status == 2
    assert "Traceback" not in err
    assert "Usage:" in err
    assert not list(tmp_path.iterdir())
