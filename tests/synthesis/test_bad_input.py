"""The bad-input table of `hbcal synthesize`: exit status 2, one sentence on stderr, nothing made."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from hbcal.cli import main
from hbcal.synthesis.turbospectrum import VARIABLE

from .conftest import name


def edit(*changes):
    """grid.toml with some of its text replaced."""

    def prepare(home):
        text = (home / "grid.toml").read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (home / "grid.toml").write_text(text)

    return prepare


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@dataclass(frozen=True)
class Case:
    """What is done to a good folder, the options, and the words that must come back."""

    prepare: object
    words: tuple[str, ...]
    options: tuple[str, ...] = ()
    out: str = "out.npz"


CASES = {
    "no grid": Case(lambda home: (home / "grid.toml").unlink(), ("grid.toml does not exist", "check the path")),
    "typo in a key": Case(edit(("[lines]", "[line]")), ("unknown key 'line'", "did you mean 'lines'")),
    "typo in a nested key": Case(edit(("step", "stepp")), ("key 'window'", "'stepp'", "did you mean 'step'")),
    "typo in a label": Case(edit(("mg_fe", "mgfe")), ("unknown label 'mgfe'", "did you mean 'mg_fe'")),
    "window reversed": Case(edit(("8480.0", "8780.0")), ("[8780, 8680]", "give low < high")),
    "no atmospheres": Case(edit(('"grey"\n\n[axes]', '"marcs"\n\n[axes]')), ("no folder of atmospheres", "marcs")),
    "folder without models": Case(edit(('folder = "grey"', 'folder = "."')), ("no file named like a MARCS model",)),
    "labels outside": Case(
        edit(("5600.0]", "6600.0]")),
        ("3 of 6 star(s) are outside", "teff 5000 to 6000", "grey-3 (teff = 6600", "'grey-4", "and 1 more", "drop"),
    ),
    "all outside, even if dropped": Case(
        edit(("[5200.0, 5600.0]", "[6600.0]"), ('"grey"\n\n[axes]', '"grey"\noutside = "drop"\n\n[axes]')),
        ("3 of 3 star(s) are outside",),
    ),
    "a hole": Case(
        lambda home: (home / "grey" / name(6000, 4.5, 0.0)).unlink(), ("6 of 6 star(s) are outside", "with holes")
    ),
    "truncated atmosphere": Case(
        lambda home: half(home / "grey" / name(6000, 4.5, 0.0)), ("cannot be read as a MARCS model", "get it again")
    ),
    "no line list": Case(lambda home: (home / "lines.txt").unlink(), ("1 line list(s)", "lines.txt", "lines.files")),
    "output of another kind": Case(lambda home: None, ("out.fits must end in .npz",), out="out.fits"),
    "output in use": Case(lambda home: (home / "out.npz").write_text("thesis"), ("out.npz exists", "--resume")),
    "output of something else": Case(
        lambda home: (home / "out.npz").write_text("thesis"), ("out.npz is no file of spectra",), ("--resume",)
    ),
    "interrupted before": Case(lambda home: (home / "out.npz.parts").mkdir(), ("interrupted run", "--resume")),
    "no folder to write to": Case(lambda home: None, ("there is no folder",), out="nowhere/out.npz"),
    "no workers": Case(lambda home: None, ("workers is 0",), ("--workers", "0")),
}
NEED_PROGRAM = {"output of something else"}


def on_disk(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def command(argv, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["hbcal", "synthesize", *map(str, argv)])
    with pytest.raises(SystemExit) as stopped:
        main()
    told = capfd.readouterr()
    return stopped.value.code or 0, told.out, told.err


def refused(home, argv, words, monkeypatch, capfd):
    before = on_disk(home)
    status, out, err = command(argv, monkeypatch, capfd)
    assert (status, out) == (2, ""), err
    assert err.startswith("hbcal: ")
    assert err.count("\n") == 1, err
    assert err.rstrip().endswith("."), err
    for word in words:
        assert word in err, err
    assert on_disk(home) == before


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case, home, monkeypatch, capfd, request):
    if case in NEED_PROGRAM:
        request.getfixturevalue("turbospectrum")
    CASES[case].prepare(home)
    argv = [home / "grid.toml", "--out", home / CASES[case].out, *CASES[case].options]
    refused(home, argv, CASES[case].words, monkeypatch, capfd)


def executable(path):
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


PROGRAMS = {
    "not on the PATH": (False, (), (), ("There is no babsma_lu on the PATH", VARIABLE, "docs/synthesis.md")),
    "not in the folder": (True, (), (), ("There is no babsma_lu in the folder", f"that {VARIABLE} names")),
    "half of it": (True, ("babsma_lu",), (), ("There is no bsyn_lu in the folder",)),
    "not executable": (True, (), ("babsma_lu", "bsyn_lu"), ("babsma_lu cannot be executed",)),
    "without data": (True, ("babsma_lu", "bsyn_lu"), (), ("no folder DATA is near", VARIABLE)),
}


@pytest.mark.parametrize("case", PROGRAMS)
def test_no_program(case, home, monkeypatch, capfd):
    names_it, executables, plain, words = PROGRAMS[case]
    folder = home / "program"
    folder.mkdir()
    for each in executables:
        executable(folder / each)
    for each in plain:
        (folder / each).write_text("")
        Path(folder / each).chmod(0o644)
    monkeypatch.setenv(VARIABLE, str(folder) if names_it else "")
    monkeypatch.setenv("PATH", str(folder))
    refused(home, [home / "grid.toml", "--out", home / "out.npz"], words, monkeypatch, capfd)
