"""The job `train`: labelled spectra in, an emulator file out."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hbcal
from hbcal._errors import HbcalError
from hbcal._pytree import pytree, static
from hbcal._typing import AnyArray, Array, Float
from hbcal.numerics.label_density import LabelDensity, label_density
from hbcal.numerics.last_layer import LastLayer, last_layer
from hbcal.spectra.container import Spectra

SOFTENING = 0.3  # of asinh, in units of a star's median flux: spectra of hot and cool stars alike are then near linear
RIDGE = 1e-6
N_KERNEL, N_NEAR = 1000, 60


@pytree
class Emulator:
    """Labels to spectra, with the emulator's own error, and how densely the training stars fill label space.

    Attributes:
        layer: the last layer; its pixels are arcsinh(flux / SOFTENING).
        density: of scaled labels.
        typical: ln p of the training labels, sorted, (n_star,): what counts as outside.
        usual: chi2 of the training spectra, sorted, (n_star,): what counts as a misfit.
        centre, unit: of the labels, (n_label,): x = (label - centre) / unit.
        wave: (n_pix,).
        label_names: (n_label,).
    """

    layer: LastLayer
    density: LabelDensity
    typical: AnyArray
    usual: AnyArray
    centre: AnyArray
    unit: AnyArray
    wave: AnyArray
    label_names: tuple[str, ...] = static()

    def log_joint(self, x: Float[Array, "n_label"], seen: Float[Array, "n_feature"], rest: Array) -> Array:
        """ln p(spectrum | labels) + ln p(labels), up to a number.

        Args:
            x: scaled labels.
            seen, rest: of `LastLayer.compress`.

        Returns:
            A number.

        Errors:
            None.

        Example:
            >>> model = train_quadratic(tiny_spectra())
            >>> seen, rest = model.layer.compress(jnp.zeros((1, 6)))
            >>> bool(jnp.isfinite(model.log_joint(jnp.zeros(2), seen[0], rest[0])))
            True
        """
        return self.layer.log_density(quadratic(x), seen, rest) + self.density.log_density(x)


def quadratic(x: Float[Array, "n_label"]) -> Array:
    """One, the labels, and their products: the features of a quadratic model of spectra.

    Args:
        x: scaled labels.

    Returns:
        (1 + n_label + n_label (n_label + 1) / 2) features.

    Errors:
        None.

    Example:
        >>> quadratic(jnp.array([2.0, 3.0])).tolist()
        [1.0, 2.0, 3.0, 4.0, 6.0, 9.0]

    Source: Ness et al. 2015, ApJ 808, 16, equation 3.
    """
    upper = np.triu_indices(x.shape[0])
    return jnp.concatenate([jnp.ones(1), x, (x[:, None] * x[None, :])[upper]])


def stretched(flux: np.ndarray) -> np.ndarray:
    """arcsinh(flux / SOFTENING): the pixels that an emulator speaks of.

    Args:
        flux: in units of the star's own median flux.

    Returns:
        The same shape.

    Errors:
        None.

    Example:
        >>> float(stretched(np.zeros(1))[0])
        0.0
    """
    return np.arcsinh(flux / SOFTENING)


def train_quadratic(spectra: Spectra) -> Emulator:
    """An emulator that is quadratic in the labels, in closed form.

    Args:
        spectra: with labels, normalised; stars with a missing pixel or label are left out.

    Returns:
        The emulator.

    Errors:
        HbcalError where too few whole stars are left, or a label does not vary.

    Example:
        >>> train_quadratic(tiny_spectra()).label_names
        ('teff', 'fe_h')
    """
    whole = np.isfinite(spectra.labels).all(1) & np.isfinite(spectra.flux).all(1)
    labels, flux = spectra.labels[whole], stretched(spectra.flux[whole])
    n_label, n_pix = len(spectra.label_names), len(spectra.wave)
    least = 2 * (n_pix + 1 + n_label + n_label * (n_label + 1) // 2)
    if not n_label or len(labels) < least:
        raise HbcalError(
            f"{len(labels)} of {len(whole)} training stars have every label and pixel; a quadratic emulator of {n_pix} "
            f"pixels and their correlation needs {least}: give more stars, or fewer pixels."
        )
    centre, unit = labels.mean(0), labels.std(0)
    if not (unit > 0).all():
        flat = spectra.label_names[int(np.argmin(unit))]
        raise HbcalError(f"The label {flat!r} is the same for all {len(labels)} training stars: leave it out.")
    x = (labels - centre) / unit
    features = np.asarray(jax.vmap(quadratic)(jnp.asarray(x)))
    layer = last_layer(features, flux, RIDGE)
    density = label_density(x, n_kernel=N_KERNEL, n_near=N_NEAR, seed=0)
    typical = np.sort(np.asarray(jax.lax.map(density.log_density, jnp.asarray(x), batch_size=256)))
    usual = np.sort(np.asarray(jax.vmap(layer.chi2)(jnp.asarray(features), *layer.compress(jnp.asarray(flux)))))
    return Emulator(layer, density, typical, usual, centre, unit, spectra.wave, spectra.label_names)


def save_emulator(emulator: Emulator, path: Path) -> None:
    """Write an emulator as one ``.npz``, whole or not at all.

    Args:
        emulator: to keep.
        path: where; must end in .npz.

    Returns:
        Nothing.

    Errors:
        HbcalError for another suffix; OSError where it cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_emulator(train_quadratic(tiny_spectra()), Path(folder) / "model.npz")
        ...     load_emulator(Path(folder) / "model.npz").label_names
        ('teff', 'fe_h')
    """
    if path.suffix != ".npz":
        raise HbcalError(f"{path}: an emulator is kept as .npz: give the file that suffix.")
    arrays: dict[str, Any] = {"about": json.dumps({"hbcal": hbcal.__version__, "label_names": emulator.label_names})}
    for name, part in _parts(emulator).items():
        arrays |= {f"{name}.{f.name}": np.asarray(getattr(part, f.name)) for f in fields(part) if _kept(f)}
    beside = path.with_name(f".{path.name}.part")
    with beside.open("wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def load_emulator(path: Path) -> Emulator:
    """Read what `save_emulator` wrote.

    Args:
        path: of the ``.npz``.

    Returns:
        The emulator.

    Errors:
        HbcalError where there is no such file, or it is damaged or not an emulator.

    Example:
        >>> load_emulator(Path("nowhere.npz"))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: nowhere.npz: there is no such emulator: train one with hbcal train emulator.
    """
    if not path.is_file():
        raise HbcalError(f"{path}: there is no such emulator: train one with hbcal train emulator.")
    try:
        with np.load(path, allow_pickle=False) as data:
            names = tuple(json.loads(str(data["about"]))["label_names"])
            part = {
                kind: cls(**{f.name: data[f"{kind}.{f.name}"] for f in fields(cls)})
                for kind, cls in (("layer", LastLayer), ("density", LabelDensity))
            }
            own = {f.name: data[f"emulator.{f.name}"] for f in fields(Emulator) if _kept(f)}
            return Emulator(**part, **own, label_names=names)
    except Exception as error:  # zip, JSON or a missing array: what matters is that it is not a whole emulator
        raise HbcalError(f"{path} is not a whole emulator ({error}): train it again.") from None


def _parts(emulator: Emulator) -> dict[str, Any]:
    return {"emulator": emulator, "layer": emulator.layer, "density": emulator.density}


def _kept(field: Any) -> bool:
    """Whether a field is an array of its own."""
    return field.name not in ("layer", "density", "label_names")
