"""The real program: physics it must show, grids that survive a kill. Skipped, with the reason, where it is absent."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hbcal._errors import HbcalError
from hbcal.spectra.container import read_spectra
from hbcal.synthesis.abundances import mixture
from hbcal.synthesis.atmospheres import digest
from hbcal.synthesis.broaden import broaden
from hbcal.synthesis.grid import ROUNDING, synthesize_grid
from hbcal.synthesis.marcs import mod_text, read_name
from hbcal.synthesis.store import read_provenance
from hbcal.synthesis.turbospectrum import Turbospectrum, read_spectrum, synthesize

from .conftest import GRID, SUN, grey

WIDE = (8480.0, 8680.0, 0.2)


@pytest.fixture
def spectrum(turbospectrum, home):
    """Compute one spectrum of a grey star."""
    count = iter(range(99))

    def compute(window, x_fe=None, *, m_h=0.0, geometry="spherical", vmicro=1.0):
        folder = home / f"work{next(count)}"
        folder.mkdir()
        abundances = mixture(SUN, m_h, 0.0, x_fe or {})
        return synthesize(
            turbospectrum,
            grey(5500.0, 4.4, m_h),
            abundances,
            vmicro,
            window,
            [home / "lines.txt"],
            folder,
            geometry=geometry,
        )

    return compute


def test_lines_are_where_the_list_has_them(spectrum):
    wave, flux = spectrum(WIDE)
    np.testing.assert_allclose(wave, 8480.0 + 0.2 * np.arange(1001))
    assert flux.max() <= 1.0
    for line in (8498.023, 8542.091, 8662.141):
        near = np.abs(wave - line) < 5
        assert abs(wave[near][flux[near].argmin()] - line) <= 0.1 + 1e-9
        assert flux[near].min() < 0.75
    _, without = spectrum(WIDE, {"Ca": -20.0, "Ti": -20.0})
    np.testing.assert_allclose(without, 1.0, atol=2 * ROUNDING)


def test_a_weak_line_grows_with_its_abundance(spectrum):
    """On the linear part of the curve of growth the equivalent width goes as the number of atoms."""
    width = [
        np.sum(1.0 - spectrum((8599.0, 8601.0, 0.005), {"Ti": x, "Ca": -20.0})[1]) * 0.005 for x in (-0.6, -0.3, 0.0)
    ]
    np.testing.assert_allclose(np.diff(np.log10(width)), 0.3, atol=0.006)  # 2 % of saturation
    _, poor = spectrum((8599.0, 8601.0, 0.005), {"Ti": -0.3, "Ca": -20.0}, geometry="plane_parallel")
    assert np.sum(1.0 - poor) * 0.005 == pytest.approx(width[1], rel=1e-3)  # a flat model has no other transfer


def run(home, out, *more, **settings):
    command = [sys.executable, "-m", "hbcal.cli", "synthesize", home / "grid.toml", "--out", out, *more]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True, **settings
    )


def test_a_grid_survives_a_kill(turbospectrum, home):
    """Killed in the middle, resumed, and equal to the bit to a run that nobody disturbed."""
    whole = run(home, home / "whole.npz", "--workers", "2")
    told = whole.communicate()
    assert whole.returncode == 0, told
    assert "synthesis: 6/6 spectra" in told[1]
    assert "6 spectra, 0 failed" in told[0]

    parts = home / "killed.npz.parts"
    process = run(home, home / "killed.npz", "--workers", "1")
    while len(list(parts.glob("0*.npz"))) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (home / "killed.npz").exists()
    kept = sorted(parts.glob("0*.npz"))
    assert 2 <= len(kept) < 6
    before = {path.name: path.stat().st_mtime_ns for path in kept}
    for path in kept:
        with np.load(path) as part:  # whole, however the process died
            assert part["flux"].shape == (1001,)

    kept[-1].write_bytes(kept[-1].read_bytes()[:100])  # and where a disk spoils one, it is computed again
    refused = run(home, home / "killed.npz")
    assert "holds an interrupted run: choose another --out, or go on with --resume" in refused.communicate()[1]
    assert refused.returncode == 2

    process = run(home, home / "killed.npz", "--resume")
    while process.poll() is None and parts.exists():
        for name, changed in list(before.items())[:-1]:
            with contextlib.suppress(FileNotFoundError):  # the parts go at the end
                assert (parts / name).stat().st_mtime_ns == changed  # nothing is computed twice
        time.sleep(0.05)
    told = process.communicate()
    assert process.returncode == 0, told
    assert f"synthesis: {len(kept) - 1}/6 spectra are there already" in told[1]
    assert not parts.exists()
    one, other = (read_spectra([home / f"{name}.npz"], labels=True) for name in ("whole", "killed"))
    assert (one.flux == other.flux).all()
    assert (one.labels == other.labels).all()
    assert one.star.tolist() == [f"grey-{i}" for i in range(6)]
    assert one.label_names == ("teff", "logg", "m_h", "mg_fe")
    assert not list(home.glob("*.part"))


def test_resuming_another_grid_is_refused_and_the_same_is_not_computed_again(turbospectrum, home):
    text = GRID.replace("mg_fe = [0.0, 0.2, 0.4]", "mg_fe = [0.0]").replace("[5200.0, 5600.0]", "[5200.0]")
    (home / "grid.toml").write_text(text)
    lines = []
    made = synthesize_grid(home / "grid.toml", home / "x.npz", progress=lines.append)
    assert lines == [f"synthesis: 1/1 spectra, {lines[0].split()[-2]} s"]
    written = (home / "x.npz").read_bytes()
    again = synthesize_grid(home / "grid.toml", home / "x.npz", resume=True, progress=lines.append)
    assert len(lines) == 1
    assert (again.spectra.flux == made.spectra.flux).all()
    with pytest.raises(HbcalError, match=r"x\.npz exists: choose another"):
        synthesize_grid(home / "grid.toml", home / "x.npz")
    (home / "lines.txt").write_text((home / "lines.txt").read_text().replace("-1.450", "-1.440"))
    with pytest.raises(HbcalError, match="stems from another grid: 'line_lists' differ"):
        synthesize_grid(home / "grid.toml", home / "x.npz", resume=True)
    assert (home / "x.npz").read_bytes() == written


def test_provenance_says_what_was_used(turbospectrum, home):
    text = GRID.replace("mg_fe = [0.0, 0.2, 0.4]", "mg_fe = [0.1]").replace("[5200.0, 5600.0]", "[5000.0]")
    (home / "grid.toml").write_text(text)
    synthesize_grid(home / "grid.toml", home / "x.npz")
    said = read_provenance(home / "x.npz")
    assert said["line_lists"] == [{"name": "lines.txt", "sha256": digest([home / "lines.txt"])}]
    used = [path for path in (home / "grey").iterdir() if path.name.startswith("p5000") and "z+0.00" in path.name]
    assert said["atmospheres"] == {"axes": ["teff", "logg", "m_h"], "n_models": 2, "sha256": digest(used)}
    assert said["program"]["sha256"] == turbospectrum.digest
    assert set(said["made_by"]) == {"hbcal", "program", "babsma_lu", "bsyn_lu"}
    assert said["declared"]["window"] == {"low": 8480.0, "high": 8680.0, "step": 0.2, "resolution": 0.0, "margin": 10.0}
    assert said["stars"]["labels"] == [[5000.0, 4.2, 0.0, 0.1]]
    with np.load(home / "x.npz") as file:
        assert file["meta_names"].tolist() == ["vmicro", "alpha_m"]
        assert file["meta"][0].tolist() == [said["stars"]["vmicro"][0], 0.0]


def test_resolution_is_whole_at_the_ends_of_the_window(turbospectrum, home):
    text = GRID.replace("mg_fe = [0.0, 0.2, 0.4]", "mg_fe = [0.0]").replace("[5200.0, 5600.0]", "[5200.0]")
    narrow = text.replace("low = 8480.0", "low = 8540.0").replace("high = 8680.0", "high = 8560.0")
    fluxes = []
    for i, toml in enumerate((text, narrow.replace("step = 0.2", "step = 0.2\nresolution = 5000.0\nmargin = 125.0"))):
        (home / "grid.toml").write_text(toml)
        fluxes.append(synthesize_grid(home / "grid.toml", home / f"{i}.npz").spectra)
    wide, cut = fluxes
    expected = broaden(wide.wave, wide.flux, 5000.0)[:, (wide.wave > 8539.9) & (wide.wave < 8560.1)]
    np.testing.assert_allclose(cut.flux, expected, atol=3e-5)


def test_stars_that_fail_leave_the_others(turbospectrum, home):
    """The hotter models have more layers than the program's arrays: it stops at them, and only at them."""
    for model in (home / "grey").glob("p6000*"):
        said = read_name(model.name)
        model.write_text(mod_text(grey(6000.0, said["logg"], said["m_h"], n_layer=140)))
    (home / "grid.toml").write_text(GRID.replace("[5200.0, 5600.0]", "[5000.0, 6000.0]"))
    made = synthesize_grid(home / "grid.toml", home / "x.npz")
    assert set(made.failed) == {"grey-3", "grey-4", "grey-5"}
    assert read_spectra([home / "x.npz"], labels=True).star.tolist() == ["grey-0", "grey-1", "grey-2"]
    assert read_provenance(home / "x.npz")["failed"] == made.failed
    lines = []  # resuming tries the failed ones again, and them alone
    again = synthesize_grid(home / "grid.toml", home / "x.npz", resume=True, progress=lines.append)
    assert again.failed == made.failed
    assert lines[0] == "synthesis: 3/6 spectra are there already"
    assert len(lines) == 4
    (home / "grid.toml").write_text(GRID.replace("[5200.0, 5600.0]", "[6000.0]"))
    with pytest.raises(HbcalError, match=r"All 3 star\(s\) failed; grey-0: babsma_lu ended .* saying .*Increase NDP"):
        synthesize_grid(home / "grid.toml", home / "y.npz")
    assert not (home / "y.npz").exists()


def test_a_failure_quotes_the_program(turbospectrum, home):
    folder = home / "work"
    folder.mkdir()
    broken = Turbospectrum(turbospectrum.babsma, turbospectrum.bsyn, home)  # a DATA folder without data
    with pytest.raises(
        HbcalError, match=r"babsma_lu ended with status \d+ and no result, saying .*Fortran runtime error"
    ):
        synthesize(broken, grey(5500.0, 4.4, 0.0), SUN, 1.0, WIDE, [home / "lines.txt"], folder)


@pytest.mark.parametrize("text", ["", "8480.000 0.9 1.0\n", "8480.000 NaN 1.0\n8480.200 0.9 1.0\n", "a b c\n"])
def test_a_spectrum_cut_off_is_refused(text, tmp_path):
    (tmp_path / "s").write_text(text)
    with pytest.raises(HbcalError, match="Turbospectrum wrote"):
        read_spectrum(tmp_path / "s", (8480.0, 8480.2, 0.2))


@pytest.mark.data
def test_spectra_made_elsewhere_with_the_same_program(turbospectrum, marcs_models, tmp_path):
    """The shared grid: Turbospectrum and MARCS interpolated by another package, 13 labels, neither broadened."""
    theirs = Path(os.environ.get("HBCAL_TEST_DATA", "../shared/data")) / "spectra/synthetic_turbospectrum_rvs_galah.npz"
    lines = list(turbospectrum.data.parents[2].glob("COM/linelists/nlte_ges_linelist*"))
    if not theirs.is_file() or not lines:
        pytest.skip(f"no {theirs}, or no line list beside Turbospectrum; set HBCAL_TEST_DATA")
    data = np.load(theirs)
    ours = {"feh": "fe_h", "alpha": "alpha_m", "teff": "teff", "logg": "logg", "vmicro": "vmicro"}
    rows = [0, 7]
    stars = [
        {
            ours.get(name, f"{name.lower()}_fe"): float(value)
            for name, value in zip(data["label_names"], data["labels"][i], strict=True)
        }
        for i in rows
    ]
    table = "\n".join("[[stars]]\n" + "\n".join(f"{k} = {v!r}" for k, v in star.items()) for star in stars)
    isotopes = '{ "6.012" = 0.9375, "6.013" = 0.0625 }'
    (tmp_path / "grid.toml").write_text(
        f"""name = "theirs"
window = {{ low = 8460.0, high = 8700.0, step = 0.1, margin = 0.0 }}
lines = {{ files = [{json.dumps(str(lines[0]))}, "DATA/Hlinedata"], isotopes = {isotopes} }}
atmospheres = {{ folder = {json.dumps(marcs_models)}, geometry = "plane_parallel" }}
{table}
"""
    )
    spectra = synthesize_grid(tmp_path / "grid.toml", tmp_path / "x.npz").spectra
    for i, flux in zip(rows, spectra.flux, strict=True):
        theirs_flux = data["rvs_flux_u16"][i] / data["scale"]
        assert np.corrcoef(flux, theirs_flux)[0, 1] > 0.9999
        assert np.std(flux - theirs_flux) < 0.001
