"""Every format gives the same arrays; ids are exact; units are converted or refused."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import MaskedColumn, Table

from hbcal import HbcalError
from hbcal.catalogue.read import Columns, column_names, read_columns
from hbcal.catalogue.values import check_errors, in_range, to_unit

GAIA = 4295806720123456789  # more digits than a float64 holds
IDS = [GAIA, GAIA + 1, GAIA + 2]
TEFF = [5000.0, np.nan, 4750.5]
KIND = ["RC", "", "RGB"]
FORMATS = ("t.csv", "t.csv.gz", "t.ecsv", "t.parquet", "t.fits", "t.fits.gz")
WANTED = {"id": "text", "teff": "number", "kind": "text"}


def write(path, unit=None, masked=False):
    """The same three stars in the format of the suffix."""
    if ".csv" in path.suffixes:
        text = "id,teff,kind,note\n" + "".join(
            f'{i},{"" if np.isnan(t) else t},{k},"a, ""b""\nc"\n' for i, t, k in zip(IDS, TEFF, KIND, strict=True)
        )
        with (gzip.open if path.suffix == ".gz" else open)(path, "wt") as file:
            file.write(text)
    elif path.suffix == ".parquet":
        fields = [
            pa.field("id", pa.int64()),
            pa.field("teff", pa.float64(), metadata={"unit": unit} if unit else None),
            pa.field("kind", pa.string()),
        ]
        pq.write_table(pa.table([IDS, TEFF, KIND], schema=pa.schema(fields)), path)
    else:
        table = Table({"id": np.array(IDS, np.int64), "teff": TEFF, "kind": KIND})
        if unit:
            table["teff"].unit = unit
        if masked:
            table["teff"] = MaskedColumn(table["teff"], mask=np.isnan(TEFF), unit=unit)
        table.write(path, format="ascii.ecsv" if path.suffix == ".ecsv" else "fits")
    return path


@pytest.mark.parametrize("masked", [False, True], ids=["nan", "masked"])
@pytest.mark.parametrize("name", FORMATS)
def test_formats_agree(name, masked, tmp_path):
    path = write(tmp_path / name, masked=masked)
    got = read_columns(path, WANTED)
    assert got.values["id"].tolist() == [str(i) for i in IDS]
    np.testing.assert_array_equal(got.values["teff"], TEFF)
    assert got.values["teff"].dtype == np.float64
    assert got.values["kind"].tolist() == KIND
    assert got.row.tolist() == [1, 2, 3]
    assert column_names(path)[:3] == ["id", "teff", "kind"]


def test_parquet_ids_survive_nulls(tmp_path):
    pq.write_table(pa.table({"id": pa.array([GAIA, None], pa.int64())}), tmp_path / "t.parquet")
    assert read_columns(tmp_path / "t.parquet", {"id": "text"}).values["id"].tolist() == [str(GAIA), ""]


def test_categories_of_parquet_and_whole_floats_are_text(tmp_path):
    frame = pd.DataFrame({"kind": pd.Categorical(["RC", None]), "state": [1.0, np.nan]})
    frame.to_parquet(tmp_path / "t.parquet")
    got = read_columns(tmp_path / "t.parquet", {"kind": "text", "state": "text"}).values
    assert got["kind"].tolist() == ["RC", ""]
    assert got["state"].tolist() == ["1", ""]


def test_single_precision_is_read_as_it_is(tmp_path):
    Table({"x": np.array([0.1, 2.5], np.float32)}).write(tmp_path / "t.fits")
    got = read_columns(tmp_path / "t.fits", {"x": "number"}).values["x"]
    assert got.tolist() == [float(np.float32(0.1)), 2.5]


@pytest.mark.parametrize("name", ["t.ecsv", "t.parquet", "t.fits"])
def test_the_file_states_units(name, tmp_path):
    assert read_columns(write(tmp_path / name, unit="kK"), WANTED).units == {"teff": "kK"}


@pytest.mark.parametrize("word", ["", "nan", "NaN", "NA", "null", "None", "--", " "])
def test_words_for_missing(word, tmp_path):
    (tmp_path / "t.csv").write_text(f"a,b\n1.5,x\n{word},{word}\n")
    got = read_columns(tmp_path / "t.csv", {"a": "number", "b": "text"}).values
    np.testing.assert_array_equal(got["a"], [1.5, np.nan])
    assert got["b"].tolist() == ["x", ""]


def test_sentinels_are_missing_values(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n-9999,x\n-9999.0,-9999\n1,y\n-99999999,z\n")
    got = read_columns(tmp_path / "t.csv", {"a": "number", "b": "text"}, (-9999.0, -99999999.0)).values
    np.testing.assert_array_equal(got["a"], [np.nan, np.nan, 1.0, np.nan])
    assert got["b"].tolist() == ["x", "", "y", "z"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", ""], ids=["newline", "windows", "blank line", "none"])
def test_line_ends_and_a_byte_order_mark(end, tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfa,b\r\n1,2\r\n3,4" + end.encode())
    assert read_columns(tmp_path / "t.csv", {"a": "number"}).values["a"].tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n3", "truncated: its last line has 1 of 2"),
        ("a,b\n1\n3,4\n", "damaged: 1 line(s)"),
        (
            "a,b\n1,2,3\n4,5,6\n",
            "damaged: 2 line(s) have more or fewer than the header's 2 fields, first line 2 with 3",
        ),
        ('a,b\n1,"2\n', "cannot be read"),
        ("", "empty"),
        ("a,b\n", "no rows"),
        ("a,b\n1,x\n", "first 'x' in row 1"),
    ],
    ids=["cut", "short", "long", "open quote", "empty", "header only", "text"],
)
def test_damaged_csv(text, words, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(HbcalError, match=r"t\.csv") as raised:
        read_columns(tmp_path / "t.csv", {"a": "number", "b": "number"})
    assert words in str(raised.value)


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.7, 0.98])
@pytest.mark.parametrize("name", ["t.csv.gz", "t.parquet", "t.fits"])
def test_a_cut_anywhere_is_noticed(name, keep, tmp_path):
    path = tmp_path / name
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=3000), "b": rng.normal(size=3000)})
    if path.suffix == ".fits":
        Table.from_pandas(frame).write(path)
    else:
        frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(HbcalError, match=r"t\.(csv\.gz|parquet|fits) cannot be read"):
        read_columns(path, {"a": "number", "b": "number"})


def test_rot_inside_a_parquet_file_is_noticed(tmp_path):
    path = tmp_path / "t.parquet"
    pd.DataFrame({"a": np.random.default_rng(0).normal(size=3000)}).to_parquet(path)
    content = bytearray(path.read_bytes())
    content[4:60] = b"\xff" * 56  # the page's header; the footer, read first, stays whole
    path.write_bytes(content)
    with pytest.raises(HbcalError, match=r"t\.parquet cannot be read"):
        read_columns(path, {"a": "number"})


@pytest.mark.parametrize(
    ("have", "want", "got"),
    [
        ("kK", "K", 3000.0), ("K", "kK", 0.003), ("", "K", 3.0), ("K", "K", 3.0), ("dex", "", 3.0), ("", "dex", 3.0),
        ("dex(cm/s2)", "dex", 3.0), ("[cm/s2]", "[cm/s2]", 3.0), ("mHz", "uHz", 3000.0), ("km/s", "m/s", 3000.0),
    ],
)  # fmt: skip
def test_units_that_convert(have, want, got):
    assert to_unit(np.array([3.0]), have, want, "column 'x'")[0] == pytest.approx(got)


@pytest.mark.parametrize(
    ("have", "want"), [("K", "dex"), ("dex", "K"), ("km/s", "K"), ("dex(cm/s2)", "K"), ("K", "bogus")]
)
def test_units_that_do_not(have, want):
    with pytest.raises(HbcalError, match=r"column 'x' .*(cannot be converted|not a unit)"):
        to_unit(np.array([3.0]), have, want, "column 'x'")


def test_checks_count_and_locate():
    with pytest.raises(HbcalError, match=r"2 zero error\(s\), first in row 7"):
        check_errors(np.array([0.1, 0.0, np.nan, 0.0]), "e", "t.csv", row=np.array([2, 7, 8, 9]))
    with pytest.raises(HbcalError, match="2 of 3 values outside"):
        in_range(np.array([1.0, 99.0, 98.0, np.nan]), (0.0, 5.0), "column 'x'", "K")


def test_columns_without_a_name_may_be_several(tmp_path):
    (tmp_path / "t.csv").write_text("id,x,,\n7,1.5,,\n")
    assert read_columns(tmp_path / "t.csv", {"x": "number"}).values["x"].tolist() == [1.5]


def test_a_unit_stated_twice_must_be_the_same():
    columns = Columns(Path("t.fits"), {"nu": np.ones(1)}, {"nu": "uHz"}, np.array([1]))
    assert columns.unit("nu", "") == columns.unit("nu", "1e-6 Hz") == "uHz"
    with pytest.raises(HbcalError, match=r"'nu' of t\.fits is in 'uHz' by the file and in 'Hz' by the recipe"):
        columns.unit("nu", "Hz")
