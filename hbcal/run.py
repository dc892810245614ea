"""A finished run: look at it, apply it, ask it for predictions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from hbcal._errors import HbcalError, closest, some
from hbcal.apply import LEVELS, Applied, apply_draws, calibration_covariance
from hbcal.catalogue.catalogue import Catalogue
from hbcal.catalogue.target import Query, Target, read_query, read_target
from hbcal.catalogue.write import TABLES, write_table
from hbcal.folder import check_file, read_tree
from hbcal.infer.diagnose import Judged, table
from hbcal.invert import invert_draws, inverted_covariance
from hbcal.predict import Predicted, predict_draws
from hbcal.recipe import Recipe, load_recipe
from hbcal.tree import IN_LABEL_UNITS, catalogue_of, unclipped

if TYPE_CHECKING:
    from hbcal.identify import Identifiability


@dataclass(frozen=True)
class Run(Judged):
    """A calibration: its recipe, its posterior, and what can be done with them.

    Attributes:
        path: folder.
        recipe: as it was run.
        tree: ArviZ DataTree; ``tree["posterior"]`` has offset[survey, label], trend[survey, label, term],
            error_scale[survey, label], floor[survey, label], in the labels' units; with clusters also
            cluster_mean[cluster, label] and cluster_spread[kind, label]; where it is fitted
            correlation[survey, label, label_2].
    """

    path: Path
    recipe: Recipe
    tree: xr.DataTree

    @cached_property
    def posterior(self) -> xr.Dataset:
        """The draws, dims (chain, draw, survey, label, ...)."""
        return self.tree["posterior"].to_dataset().load()

    @cached_property
    def catalogue(self) -> Catalogue:
        """The measurements that were fitted."""
        return catalogue_of(self.tree)

    @property
    def unclipped(self) -> Catalogue:
        """The measurements that were fitted, and those that were clipped."""
        if not self.recipe.clip:
            return self.catalogue
        if "clipped_data" not in self.tree:
            raise HbcalError(f"The run in {self.path} kept no clipped measurements: run calibrate again.")
        return unclipped(self.tree)

    @property
    def scale(self) -> dict[str, str]:
        """Label -> "anchored on ..." or "relative scale"."""
        return json.loads(self.tree.attrs["scale"])

    def calibrated_labels(self, survey: str) -> tuple[str, ...]:
        """Labels of a survey that the run put on the common scale."""
        if survey not in self.recipe.surveys:
            return ()
        offset = self.posterior["offset"].sel(survey=survey)
        return tuple(str(l) for l in self.posterior["label"].values if np.isfinite(offset.sel(label=l)).all())

    def apply(self, source: str | Path | Target, survey: str) -> Applied:
        """Put every row of a table on the common scale.

        Args:
            source: file (the recipe's column names, or star, <label>, <label>_err and covariates), or a `Target`.
            survey: whose rows they are.

        Returns:
            `Applied`, one row per row given, in that order, label units.

        Errors:
            HbcalError for an unknown survey or a bad table.

        Example:
            >>> applied = tiny_run().apply(tiny_folder() / "observations.parquet", survey="s1")
            >>> first = {name: values[:1] for name, values in applied.columns.items()}  # a row of another survey
            >>> first["fe_h"].tolist(), first["reason"].tolist()
            ([nan], ['not a row of s1'])
        """
        target = source if isinstance(source, Target) else self.read(source, survey)
        if self.recipe.program == "crosscal_structural" and target.correlation:
            pairs = [" and ".join(sorted(pair)) for pair in target.correlation]
            raise HbcalError(
                f"The table gives correlations ({some(pairs)}), but crosscal_structural takes errors as independent: "
                "take them out of the table."
            )
        put = invert_draws if self.recipe.program == "crosscal_structural" else apply_draws
        return put(self.recipe, self.posterior, self.catalogue, target, self.scale)

    def read(self, source: str | Path, survey: str) -> Target:
        """Read a table of a survey's rows, as `apply` does; see `hbcal.catalogue.target.read_target`."""
        if survey not in self.recipe.surveys:
            raise HbcalError(f"The run knows no survey {survey!r}{closest(survey, self.recipe.surveys)}.")
        fitted = self.calibrated_labels(survey)
        if not fitted:
            raise HbcalError(
                f"The run in {self.path} calibrated no label of survey {survey!r}: it had no data to do so."
            )
        return read_target(self.recipe, Path(source), survey, fitted, self.catalogue)

    def predict(self, source: str | Path | Query) -> Predicted:
        """What would survey S report for star i, label l?

        Args:
            source: file with columns star, survey, label and perhaps error, or a `Query`.

        Returns:
            `Predicted`, in the order asked, label units.

        Errors:
            HbcalError for a bad table.

        Example:
            >>> one = np.array(["star01"], dtype=object)
            >>> query = Query(one, np.array(["s2"], object), np.array(["fe_h"], object), np.array([0.05]))
            >>> answer = tiny_run().predict(query).columns
            >>> bool(answer["sd"][0] > 0.05), bool(answer["q16"][0] < answer["q50"][0] < answer["q84"][0])
            (True, True)
        """
        query = source if isinstance(source, Query) else read_query(Path(source), self.recipe)
        return predict_draws(self.recipe, self.posterior, self.catalogue, query)

    def covariance(self, source: str | Path | Target, survey: str, label: str) -> np.ndarray:
        """Full covariance between the rows of a table; see `hbcal.apply.calibration_covariance`.

        Args:
            source: file or `Target`, as for `apply`.
            survey, label: which.

        Returns:
            (n_row, n_row), label unit squared.

        Errors:
            HbcalError for a label the run did not calibrate, or a bad table.

        Example:
            >>> tiny_run().covariance(tiny_target(), "s1", "fe_h").shape
            (3, 3)
        """
        target = source if isinstance(source, Target) else self.read(source, survey)
        shared = inverted_covariance if self.recipe.program == "crosscal_structural" else calibration_covariance
        return shared(self.recipe, self.posterior, self.catalogue, target, label)

    def identifiability(
        self, progress: Callable[[str], None] | None = None, drop: Sequence[str] | None = None
    ) -> Identifiability:
        """Say what the run's data can tell and what not; see `hbcal.identify.identifiability`.

        Args:
            progress: called with lines of text.
            drop: sources whose influence is asked for; all where none is named.

        Returns:
            `hbcal.identify.Identifiability`, label units; its ``text()`` is for people.

        Errors:
            HbcalError for a source the run does not have, and when its data cannot be prepared.

        Example:
            >>> report = tiny_run().identifiability()
            >>> int(report.network["n_star"].sel(label="fe_h", survey="s1", other="s2"))
            38
        """
        from hbcal.identify import identifiability

        return identifiability(self, progress, drop)

    def write_summary(self, path: Path) -> None:
        """Write mean, sd, quantiles and diagnostics of every quantity as ECSV.

        Args:
            path: where to.

        Returns:
            Nothing.

        Errors:
            OSError when the disk says no.

        Example:
            >>> import tempfile
            >>> from hbcal.catalogue.read import column_names
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     tiny_run().write_summary(Path(folder) / "summary.ecsv")
            ...     column_names(Path(folder) / "summary.ecsv")[:6]
            ['quantity', 'survey', 'label', 'term', 'unit', 'mean']
        """
        rows: dict[str, list[Any]] = {}
        stats = table(self.posterior)
        for name, variable in self.posterior.data_vars.items():
            values = variable.transpose("chain", "draw", ...).to_numpy()
            flat = values.reshape(values.shape[0] * values.shape[1], *values.shape[2:])
            dims = [str(d) for d in variable.dims if d not in ("chain", "draw")]
            for at in np.ndindex(*flat.shape[1:]):
                draws = flat[(slice(None), *at)]
                if not np.isfinite(draws).all():
                    continue
                where = {d: str(self.posterior[d].values[i]) for d, i in zip(dims, at, strict=True)}
                label = where.get("label", "")
                unit = self.recipe.unit(label) if label and name in IN_LABEL_UNITS else ""
                row = {
                    "quantity": str(name), "survey": where.get("survey", ""), "label": label,
                    "term": " ".join(v for d, v in where.items() if d not in ("survey", "label")), "unit": unit,
                    "mean": draws.mean(), "sd": draws.std(),
                    **dict(zip(LEVELS, np.quantile(draws, tuple(LEVELS.values())), strict=True)),
                    **{k: float(v[at]) for k, v in stats[str(name)].items()},
                }  # fmt: skip
                for key, value in row.items():
                    rows.setdefault(key, []).append(value)
        columns = {k: np.array(v, dtype=object if isinstance(v[0], str) else float) for k, v in rows.items()}
        meta = {"diagnostics": self.diagnostics_text, "scale": json.dumps(self.scale)}
        write_table(path, columns, {}, meta)

    def write_figures(self, folder: Path) -> None:
        """Draw the run's figures into a folder.

        Args:
            folder: where to.

        Returns:
            Nothing.

        Errors:
            OSError when the disk says no.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     tiny_run().write_figures(Path(folder))
            ...     sorted(path.name for path in Path(folder).iterdir())
            ['before_after.png', 'offsets.png']
        """
        from hbcal.figures import before_after, forest, within_clusters

        forest(self, folder / "offsets.png")
        before_after(self, folder / "before_after.png")
        if self.catalogue.members is not None:
            within_clusters(self, folder / "clusters.png")


def open_run(path: str | Path) -> Run:
    """Open what `calibrate` kept.

    Args:
        path: folder of the run.

    Returns:
        The `Run`; posterior in label units.

    Errors:
        HbcalError when the folder is not a finished run, or its posterior is damaged.

    Example:
        >>> open_run("nowhere")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        hbcal._errors.HbcalError: nowhere is not a finished run of hbcal: it lacks posterior.nc; ...
    """
    path = Path(path)
    if not (path / "posterior.nc").is_file() or not (path / "recipe.toml").is_file():
        raise HbcalError(
            f"{path} is not a finished run of hbcal: it lacks posterior.nc; finish it with calibrate --resume."
        )
    return Run(path, load_recipe(path / "recipe.toml"), read_tree(path / "posterior.nc", "calibrate"))


def keep_run(run: Run, folder: Path) -> None:
    """Copy what `open_run` needs of a run, so that what was built on it can be checked without it.

    Args:
        run: a finished run.
        folder: where to; made where it is not there.

    Returns:
        Nothing.

    Errors:
        OSError when the disk says no.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     keep_run(tiny_run(), Path(folder) / "kept")
        ...     open_run(Path(folder) / "kept").recipe.name == tiny_run().recipe.name
        True
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("recipe.toml", "posterior.nc"):  # the last makes it a finished one
        shutil.copyfile(run.path / name, folder / f"{name}.part")
        (folder / f"{name}.part").replace(folder / name)


def write_applied(applied: Applied, path: Path, *, overwrite: bool = False) -> None:
    """Write calibrated rows to a table, or to ``.nc`` in the shared label schema.

    Args:
        applied: as `Run.apply` gives it.
        path: ``.csv``, ``.ecsv``, ``.parquet``, ``.fits`` or ``.nc``.
        overwrite: whether an existing file may be replaced.

    Returns:
        Nothing.

    Errors:
        HbcalError when the file cannot be written or exists.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_applied(tiny_run().apply(tiny_target(), "s1"), Path(folder) / "out.nc")
        ...     xr.load_dataset(Path(folder) / "out.nc")["covariance"].dims
        ('star', 'label', 'label_2')
    """
    check_file(path, [*TABLES, ".nc"], overwrite=overwrite)
    if path.suffix == ".nc":
        beside = path.with_name(path.name + ".part")
        applied.to_dataset().to_netcdf(beside, engine="h5netcdf")
        beside.replace(path)
        return
    meta = {"survey": applied.survey, "scale": json.dumps(dict(applied.scale))}
    write_table(path, {"star": applied.star, **applied.columns}, applied.units, meta)
