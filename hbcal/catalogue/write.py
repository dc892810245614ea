"""Write result tables, with units where the format has them; a file is complete or absent, and never overwritten."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

TABLES = (".csv", ".ecsv", ".parquet", ".fits")


def write_table(
    path: Path, columns: Mapping[str, np.ndarray], units: Mapping[str, str], meta: Mapping[str, str]
) -> None:
    """Write columns to CSV, ECSV, Parquet or FITS.

    Args:
        path: where to; the suffix decides the kind.
        columns: name -> (n_row,).
        units: name -> unit; in CSV they are lost.
        meta: for the header.

    Returns:
        Nothing.

    Errors:
        OSError when the disk says no.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as d:
        ...     write_table(Path(d) / "t.csv", {"a": np.array([1.5])}, {}, {})
        ...     (Path(d) / "t.csv").read_text()
        'a\\n1.5\\n'
    """
    suffix = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    beside = path.with_name(path.name.removesuffix(suffix) + ".part" + suffix)
    if suffix in (".csv", ".csv.gz"):
        pd.DataFrame(dict(columns)).to_csv(beside, index=False)
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        arrays = {k: pa.array(v.tolist() if v.dtype.kind == "O" else v) for k, v in columns.items()}
        fields = [pa.field(k, a.type, metadata={"unit": units[k]} if units.get(k) else None) for k, a in arrays.items()]
        pq.write_table(pa.table(list(arrays.values()), schema=pa.schema(fields, metadata=dict(meta))), beside)
    else:
        from astropy.table import Table

        table = Table({k: v.astype(str) if v.dtype.kind == "O" else v for k, v in columns.items()}, meta=dict(meta))
        if path.suffix == ".ecsv":
            for name in table.colnames:
                table[name].unit = units.get(name) or None
            table.write(beside, format="ascii.ecsv", overwrite=True)
        else:
            from astropy.io.fits import table_to_hdu

            hdu = table_to_hdu(table)
            for name in table.colnames:  # past astropy, which drops what the FITS standard does not list, such as dex
                hdu.columns[name].unit = units.get(name) or None
            hdu.writeto(beside, overwrite=True)
    beside.replace(path)
