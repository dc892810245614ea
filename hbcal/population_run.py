"""A finished run of populations: look at it, ask it who belongs where."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import xarray as xr

from hbcal._errors import HbcalError
from hbcal.catalogue.abundances import Abundances, read_stars
from hbcal.catalogue.read import column_names
from hbcal.common_scale import put_on_scale
from hbcal.folder import read_tree
from hbcal.infer.diagnose import Judged
from hbcal.numerics.partitions import coclustering
from hbcal.numerics.stars import Stars
from hbcal.population_design import scaled
from hbcal.population_draws import Components, log_predictive, membership
from hbcal.population_recipe import PopulationRecipe, StarsSpec, load_populations
from hbcal.run import open_run

COMPLETE = "populations.nc"
CALIBRATION = "calibration"  # folder of what is kept of the calibration that the stars share
CHUNK = 4096  # stars asked for at a time


@dataclass(frozen=True)
class PopulationRun(Judged):
    """A mixture: its recipe, its posterior, and what can be asked of them.

    Attributes:
        path: folder.
        recipe: as it was run.
        tree: DataTree. ``posterior`` holds what convergence is judged on: concentration, background, n_occupied
            (components with 1% of the stars), log_density[point] and coclustering[pair]. ``components`` holds some of
            the draws as they are, ``populations`` the same after components were put together, ``stars`` the partition
            that stands for all draws and the probabilities of membership.
    """

    path: Path
    recipe: PopulationRecipe
    tree: xr.DataTree

    @cached_property
    def posterior(self) -> xr.Dataset:
        """Draws of what does not depend on names of components, dims (chain, draw, ...)."""
        return self.tree["posterior"].to_dataset().load()

    @cached_property
    def populations(self) -> xr.Dataset:
        """Weight, mean and covariance of each population, draw by draw, elements' units."""
        return self.tree["populations"].to_dataset().load()

    @cached_property
    def stars(self) -> xr.Dataset:
        """Population of each fitted star in the representative partition, and its probabilities."""
        return self.tree["stars"].to_dataset().load()

    @property
    def n_occupied(self) -> dict[int, float]:
        """How many components hold 1% of the stars: number -> posterior probability."""
        values, n = np.unique(self.posterior["n_occupied"].to_numpy().astype(int), return_counts=True)
        return {int(k): float(m / n.sum()) for k, m in zip(values, n, strict=True)}

    def coclustering(self, rows: np.ndarray | None = None) -> xr.DataArray:
        """Probability of two fitted stars to be in one component.

        Args:
            rows: numbers of stars; all where None, which is n_star^2 numbers.

        Returns:
            (star, star_2).

        Errors:
            None.

        Example:
            >>> tiny_population_run().coclustering(np.arange(3)).shape
            (3, 3)
        """
        which = self.tree["components"]["component_of"].to_numpy()
        star = self.stars["star"].to_numpy()
        rows = np.arange(len(star)) if rows is None else rows
        found = coclustering(which[:, rows])
        return xr.DataArray(found, dims=("star", "star_2"), coords={"star": star[rows], "star_2": star[rows]})

    def members(self, source: str | Path | Abundances) -> dict[str, np.ndarray]:
        """Who belongs to which population.

        Args:
            source: table with the columns the recipe names, or `Abundances`.

        Returns:
            Columns in the order given: star, population (the likeliest, 0 for none), probability (of that one),
            prob_0 (of none: it lies outside all populations), prob_1 ... with their sd between draws, and reason, why
            a star has no answer.

        Errors:
            HbcalError for a bad table.

        Example:
            >>> answer = tiny_population_run().members(tiny_abundances())
            >>> list(answer)[:4], answer["population"][38:42].tolist()
            (['star', 'population', 'probability', 'prob_0'], [1, 1, 2, 2])
        """
        stars = source if isinstance(source, Abundances) else self.read(Path(source))
        seen = np.isfinite(stars.value).any(axis=1)
        found, of, n_of = self.components, self.population_of, self.stars.sizes["belongs_to"]
        mean, spread = np.full((2, len(stars.star), n_of), np.nan)
        for first in range(0, len(stars.star), CHUNK):
            rows = np.arange(first, min(first + CHUNK, len(stars.star)))
            some = stars.take(np.resize(rows, CHUNK) if len(stars.star) > CHUNK else rows)
            each = membership(self.packed(some), len(some.star), found, of)
            mean[rows, : each[0].shape[1]], spread[rows, : each[0].shape[1]] = (a[: len(rows)] for a in each)
        best = np.where(seen, mean.argmax(1), -1)
        columns: dict[str, np.ndarray] = {
            "star": stars.star, "population": best,
            "probability": np.where(seen, mean[np.arange(len(best)), best], np.nan),
        }  # fmt: skip
        for k in range(n_of):
            columns[f"prob_{k}"] = np.where(seen, mean[:, k], np.nan)
            columns[f"prob_{k}_sd"] = np.where(seen, spread[:, k], np.nan)
        return columns | {"reason": np.where(seen, "", "no element measured").astype(object)}

    def log_predictive(self, stars: Abundances) -> np.ndarray:
        """ln p of the measured elements of stars that were not fitted, under the mean of the draws.

        Args:
            stars: `Abundances` of the same elements.

        Returns:
            (n_star,), natural logarithm of a density in the elements' units.

        Errors:
            None.

        Example:
            >>> tiny_population_run().log_predictive(tiny_abundances()).shape
            (120,)
        """
        volume = (np.isfinite(stars.value) * np.log(self._scale[1])).sum(1)
        return log_predictive(self.packed(stars), len(stars.star), self.components) - volume

    def packed(self, stars: Abundances) -> Stars:
        """Stars as the kernel wants them, scaled as the run's are."""
        return scaled(stars, *self._scale)

    def read(self, path: Path) -> Abundances:
        """All rows of a table of the recipe's columns, unfiltered; see `hbcal.catalogue.abundances.read_stars`."""
        spec = self.recipe.stars
        star = spec.star if spec.star in column_names(path) else "star" if "star" in column_names(path) else spec.star
        stars = read_stars(path, StarsSpec(path.name, star, missing=spec.missing), self.recipe.elements)
        if not (self.path / CALIBRATION).exists():
            return stars
        directions = self.tree["constant_data"]["directions"].to_numpy()
        return put_on_scale(stars, open_run(self.path / CALIBRATION), path, spec.survey, directions)[0]

    @cached_property
    def _scale(self) -> tuple[np.ndarray, np.ndarray]:
        fixed = self.tree["constant_data"]
        return fixed["centre"].to_numpy(), fixed["unit"].to_numpy()

    @cached_property
    def components(self) -> Components:
        """Some of the draws, scaled."""
        centre, unit = self._scale
        draws = self.tree["components"]
        return Components(
            draws["log_weight"].to_numpy(), (draws["mean"].to_numpy() - centre) / unit,
            draws["covariance"].to_numpy() / unit[:, None] / unit[None, :], draws["calibration"].to_numpy(),
        )  # fmt: skip

    @cached_property
    def population_of(self) -> np.ndarray:
        """Population of each component of those draws, (n_draw, n_comp + 1)."""
        return self.tree["components"]["population_of"].to_numpy().astype(int)

    def text(self) -> str:
        """The report: how many populations, what they are, which elements tell them apart."""
        from hbcal.population_report import report

        return report(self)

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
            ...     tiny_population_run().write_figures(Path(folder))
            ...     sorted(path.name for path in Path(folder).iterdir())
            ['coclustering.png', 'populations.png', 'split.png']
        """
        from hbcal.population_report import parting, planes, together

        planes(self, folder / "populations.png")
        if "split" in self.tree:
            parting(self, folder / "split.png")
        together(self, folder / "coclustering.png")


def open_populations(path: str | Path) -> PopulationRun:
    """Open what `hbcal.populations.populations` kept.

    Args:
        path: folder of the run.

    Returns:
        The `PopulationRun`.

    Errors:
        HbcalError when the folder is not a finished run, or its posterior is damaged.

    Example:
        >>> open_populations("nowhere")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        hbcal._errors.HbcalError: nowhere is not a finished run of populations: it lacks populations.nc; ...
    """
    path = Path(path)
    if not (path / COMPLETE).is_file() or not (path / "populations.toml").is_file():
        raise HbcalError(
            f"{path} is not a finished run of populations: it lacks {COMPLETE}; finish it with populations --resume."
        )
    tree = read_tree(path / COMPLETE, "populations")
    return PopulationRun(path, load_populations(path / "populations.toml"), tree)
