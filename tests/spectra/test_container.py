"""The plain container: three kinds of file, one content; a piece at a time; complete or absent."""

import tracemalloc
from dataclasses import fields, replace

import numpy as np
import pytest

from hbcal import HbcalError
from hbcal.spectra import store
from hbcal.spectra.container import Spectra, agreeing, as_spectra, iter_spectra, join, read_spectra, write_spectra

SUFFIXES = (".npz", ".h5", ".hdf5", ".zarr")


def spectra(n_star=7, n_pix=5, seed=0):
    rng = np.random.default_rng(seed)
    flux, err = rng.normal(size=(n_star, n_pix)), rng.uniform(1, 2, size=(n_star, n_pix))
    flux[2, 3] = err[2, 3] = np.nan
    labels = rng.normal(size=(n_star, 2))
    star = np.array([f"⊙ {i}" for i in range(n_star)])
    meta = rng.normal(size=(n_star, 1))
    wave = np.geomspace(1, 2, n_pix)
    return Spectra(wave, flux, err, star, labels, abs(labels), ("teff", "[Fe/H]"), meta, ("rv",))


def same(a, b):
    for each in fields(Spectra):
        np.testing.assert_array_equal(getattr(a, each.name), getattr(b, each.name), err_msg=each.name)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read(tmp_path, suffix):
    path = tmp_path / f"s{suffix}"
    assert write_spectra(spectra(), path) == 7
    same(read_spectra([path], labels=True), spectra())
    pieces = list(iter_spectra([path], 3))
    assert [len(piece.star) for piece in pieces] == [3, 3, 1]
    again = tmp_path / f"again{suffix}"
    assert write_spectra(iter_spectra([path], 2), again) == 7  # written in pieces, as it was read
    same(read_spectra([again]), spectra())
    assert sorted(tmp_path.iterdir()) == sorted([path, again])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_without_labels_and_meta(tmp_path, suffix):
    bare = replace(spectra(), labels=np.empty((7, 0)), labels_err=np.empty((7, 0)), label_names=(), meta_names=())
    write_spectra(bare, tmp_path / f"s{suffix}")
    found = read_spectra([tmp_path / f"s{suffix}"])
    same(found, bare)
    assert found.labels.shape == (7, 0) == found.meta.shape
    assert np.isnan(found.about("rv")).all()


def test_kinds_mix_and_columns_of_meta_find_their_place(tmp_path):
    first, second = spectra(), replace(spectra(), star=np.array([f"b{i}" for i in range(7)]))
    second = replace(second, meta=np.column_stack([second.meta * 2, second.meta]), meta_names=("snr", "rv"))
    write_spectra(first, tmp_path / "a.npz")
    write_spectra(second, tmp_path / "b.h5")
    both = read_spectra([tmp_path / "a.npz", tmp_path / "b.h5"])
    assert both.meta_names == ("rv",)
    np.testing.assert_array_equal(both.about("rv"), np.tile(first.meta[:, 0], 2))


def test_taking_stars_takes_all_that_is_theirs(tmp_path):
    s, rows = spectra(), np.array([5, 1])
    taken = s.take(rows)
    for name in ("flux", "flux_err", "star", "labels", "labels_err", "meta"):
        np.testing.assert_array_equal(getattr(taken, name), getattr(s, name)[rows])
    assert s.take(s.about("rv") > 9).flux.shape == (0, 5)


def test_seven_arguments_still_build_it():
    s = spectra()
    old = Spectra(s.wave, s.flux, s.flux_err, s.star, s.labels, s.labels_err, s.label_names)
    assert old.meta.shape == (7, 0)
    assert replace(old, flux=old.flux * 2).meta.shape == (7, 0)


def test_a_mask_hides_and_bytes_are_text(tmp_path):
    mask = np.zeros((1, 3), bool)
    mask[0, 1] = True
    np.savez(tmp_path / "a.npz", wave=[1, 2, 3], flux=[[1, 2, 3]], flux_err=[[1, 1, 1]], star=[b"a"], mask=mask)
    found = read_spectra([tmp_path / "a.npz"])
    np.testing.assert_array_equal(found.flux, [[1, np.nan, 3]])
    assert found.star.tolist() == ["a"]


def test_arrays_stored_by_columns(tmp_path):
    s = spectra()
    np.savez(
        tmp_path / "a.npz", wave=s.wave, flux=np.asfortranarray(s.flux), flux_err=s.flux_err.T.copy().T, star=s.star
    )
    pieces = list(iter_spectra([tmp_path / "a.npz"], 3))
    np.testing.assert_array_equal(np.concatenate([piece.flux for piece in pieces]), s.flux)
    np.testing.assert_array_equal(np.concatenate([piece.flux_err for piece in pieces]), s.flux_err)


@pytest.mark.parametrize("text", ["<U5", "S5", "T"])
@pytest.mark.filterwarnings("ignore")  # of Zarr, that text in its format 3 is not settled
def test_zarr_as_others_write_it(tmp_path, text):
    import zarr

    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    star = np.array(["a", "bcd"])
    star = star.astype(np.dtypes.StringDType() if text == "T" else text)
    arrays = {"wave": np.array([1.0, 2.0]), "flux": np.ones((2, 2), "f4"), "flux_err": np.ones((2, 2), "f4")}
    for key, array in (arrays | {"star": star, "label_names": star}).items():
        group.create_array(key, data=array)
    group.create_array("labels", data=np.ones((2, 2)))
    group.create_array("labels_err", data=np.ones((2, 2)))
    found = read_spectra([tmp_path / "a.zarr"], labels=True)
    assert found.star.tolist() == ["a", "bcd"]
    assert found.label_names == ("a", "bcd")
    assert found.flux.dtype == float


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".zarr"])
def test_reading_in_pieces_needs_little_memory(tmp_path, suffix):
    n_star, n_pix, n = 24000, 300, 500
    flux = np.ones((n_star, n_pix))
    arrays = {"wave": np.arange(1.0, n_pix + 1), "flux": flux, "flux_err": flux, "star": np.arange(n_star).astype(str)}
    path = tmp_path / f"s{suffix}"
    if suffix == ".npz":
        np.savez_compressed(path, **arrays)  # compressed: not even a memory map could do it
    else:
        store.write_store([arrays], path, ("flux", "flux_err", "star"))
    if suffix != ".npz":
        next(iter_spectra([path], n))  # what HDF5, Zarr and their modules need is not ours
    tracemalloc.start()
    seen = sum(len(piece.star) for piece in iter_spectra([path], n))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen == n_star
    assert peak < 0.5 * flux.nbytes, f"{peak / flux.nbytes:.2f} of one array"  # two arrays would be 2


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".zarr"])
def test_a_writer_that_fails_leaves_nothing_and_what_was_there(tmp_path, suffix):
    path = tmp_path / f"s{suffix}"
    write_spectra(spectra(), path)

    def broken():
        yield spectra(seed=1)
        raise HbcalError("The second piece is bad.")

    with pytest.raises(HbcalError, match="second piece"):
        write_spectra(broken(), path)
    assert list(tmp_path.iterdir()) == [path]
    same(read_spectra([path]), spectra())


def test_stars_one_by_one_are_written_together(tmp_path, monkeypatch):
    import zarr

    monkeypatch.setattr("hbcal.spectra.container.N_BATCH", 4)
    one = [replace(spectra(1 + 3), star=np.array([f"{k}{i}" for i in range(4)])) for k in range(3)]
    single = [list(iter_spectra([_saved(piece, tmp_path / f"{k}.npz")], 1)) for k, piece in enumerate(one)]
    assert write_spectra((star for stars in single for star in stars), tmp_path / "all.zarr") == 12
    flux = zarr.open_group(tmp_path / "all.zarr", mode="r")["flux"]
    assert flux.chunks == (4, 5)
    assert read_spectra([tmp_path / "all.zarr"]).star.tolist() == [f"{k}{i}" for k in range(3) for i in range(4)]


def _saved(piece, path):
    write_spectra(piece, path)
    return path


def test_zarr_without_its_library_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zarr", None)
    with pytest.raises(HbcalError, match=r"hbcal-surveys\[zarr\]"):
        write_spectra(spectra(), tmp_path / "s.zarr")


def test_long_words_are_refused_rather_than_cut(tmp_path, monkeypatch):
    monkeypatch.setattr("hbcal.spectra.container.N_BATCH", 1)
    long = replace(spectra(), star=np.array([f"{i:070d}" for i in range(7)]))
    assert write_spectra([long], tmp_path / "a.zarr") == 7
    assert read_spectra([tmp_path / "a.zarr"]).star.tolist() == long.star.tolist()
    with pytest.raises(HbcalError, match="64 letters"):
        write_spectra([spectra(), long], tmp_path / "b.zarr")


def test_members_are_read_forward_and_again(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(20.0).reshape(10, 2), y=np.float64(3.0))
    with store.open_store(tmp_path / "a.npz") as arrays:
        x = arrays["x"]
        for rows in (slice(0, 2), slice(5, 6), slice(1, 3), slice(8, 99)):
            np.testing.assert_array_equal(x[rows], np.arange(20.0).reshape(10, 2)[rows])
        assert arrays["y"][:] == 3.0


GOOD = {"wave": [1, 2], "flux": [[1, 1]], "flux_err": [[1, 1]], "star": ["a"]}
FAULTS = {
    "labels of another length": ({"labels": [[1.0]]}, "labels has the shape", "(1, 0)"),
    "meta without names": ({"meta": [[1.0]]}, "meta has the shape"),
    "NaN in wave": ({"wave": [1, np.nan]}, "wave must be"),
    "wave that falls": ({"wave": [2, 1]}, "wave must be"),
    "one pixel": ({"wave": [1], "flux": [[1]], "flux_err": [[1]]}, "two or more"),
    "negative errors": ({"flux_err": [[1, -1]]}, "1 value(s) of flux_err are negative"),
    "text for numbers": ({"flux": [["a", "b"]]}, "flux is not numbers"),
    "one spectrum without its axis": ({"flux": [1, 1]}, "flux has the shape (2,)"),
    "an id for all": ({"star": "a"}, "star has the shape ()"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_the_arrays(name):
    change, *words = FAULTS[name]
    with pytest.raises(HbcalError) as told:
        as_spectra(GOOD | change, "here")
    assert all(word in str(told.value) for word in ("here", *words)), told.value


def test_correlations_of_noise():
    """Shapes, what no noise can have, what is missing, and files that say more than the first."""
    found = {"wave": [1, 2, 3], "flux": np.ones((2, 3)), "flux_err": np.ones((2, 3)), "star": ["a", "b"]}
    assert as_spectra(found, "here").flux_corr.shape == (2, 3, 0)
    corr = np.full((2, 3, 1), 0.5)
    corr[0, 0] = np.nan
    holed = found | {"flux_err": [[1, 1, 1], [1, 0, 1]], "flux_corr": corr}
    np.testing.assert_array_equal(as_spectra(holed, "here").flux_corr[:, :, 0], [[0.0, 0.5, 0.0], [0.0, 0.0, 0.0]])
    with pytest.raises(HbcalError, match=r"here: flux_corr of 1 star\(s\) \('b'\) is of no noise"):
        as_spectra(found | {"flux_corr": corr * [[[1.0]], [[1.9]]]}, "here")
    with pytest.raises(HbcalError, match=r"flux_corr has the shape \(2, 3\)"):
        as_spectra(found | {"flux_corr": corr[:, :, 0]}, "here")
    with pytest.raises(HbcalError, match=r"flux_corr is not numbers"):
        as_spectra(found | {"flux_corr": corr.astype(str)}, "here")
    wild = corr.copy()
    wild[0, 0] = np.inf  # at a pixel that is not there
    gone = found | {"flux_err": [[0, 1, 1], [1, 1, 1]], "flux_corr": wild}
    assert np.isfinite(as_spectra(gone, "here").flux_corr).all()
    one, other = as_spectra(found, "one"), as_spectra(found | {"star": ["c", "d"], "flux_corr": corr}, "two")
    for pair in ((one, other), (other, one)):
        assert join(agreeing([("a", pair[0]), ("b", pair[1])])).flux_corr.shape == (4, 3, 1)
