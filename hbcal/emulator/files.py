"""An emulator as a folder: ``model.safetensors`` holds its numbers, ``about.json`` what they are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hbcal._errors import HbcalError
from hbcal.emulator.autoregressive import AutoregressiveEmulator, Components
from hbcal.emulator.base import Emulator, Known
from hbcal.emulator.full import FullEmulator
from hbcal.emulator.pixels import Components as PixelComponents
from hbcal.emulator.pixels import Hidden, PixelEmulator, Quadratic
from hbcal.folder import put, write_text
from hbcal.networks.autoregressive import Autoregressive, asleep, stacked
from hbcal.networks.guide import Guide
from hbcal.numerics.gaussian_process import Kernel, Processes
from hbcal.numerics.label_density import LabelDensity
from hbcal.numerics.last_layer import LastLayer
from hbcal.numerics.pixel_layer import PixelLayer

MODEL, ABOUT = "model.safetensors", "about.json"


def save_emulator(emulator: Emulator, folder: Path, about: dict[str, Any]) -> None:
    """Write an emulator; ``about.json`` comes last, so that a folder that has it is whole.

    Args:
        emulator: trained.
        folder: where to.
        about: what there is to say of it; JSON values.

    Returns:
        Nothing.

    Errors:
        OSError when the disk says no.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_emulator(tiny_emulator(), Path(folder), {"method": "quadratic"})
        ...     load_emulator(Path(folder)).known.label_names
        ('teff', 'fe_h')
    """
    from safetensors.numpy import save

    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f"{MODEL}.part"
    content = save({name: np.asarray(leaf, order="C") for name, leaf in _named(emulator).items()})
    beside.write_bytes(content)
    put(beside, folder / MODEL)
    known = emulator.known
    stated = {
        "kind": KIND_OF[type(emulator)], "labels": list(known.label_names), "meta": list(known.meta_names),
        "normalise": known.normalise, "shape": _shape(emulator), "sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    write_text(folder / ABOUT, json.dumps({**about, **stated}, indent=1))


def load_emulator(folder: Path) -> Emulator:
    """Read what `save_emulator` wrote.

    Args:
        folder: of the emulator.

    Returns:
        The emulator.

    Errors:
        HbcalError where there is none, its training has not ended, or a file is damaged.

    Example:
        >>> load_emulator(Path("nowhere"))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: nowhere holds no emulator: train one with hbcal train emulator.
    """
    from safetensors.numpy import load

    if not (folder / ABOUT).is_file():
        begun = (folder / "training").is_dir()
        raise HbcalError(
            f"{folder} holds an emulator whose training has not ended: go on with --resume." if begun
            else f"{folder} holds no emulator: train one with hbcal train emulator."
        )  # fmt: skip
    try:
        about = json.loads((folder / ABOUT).read_text())
        content = (folder / MODEL).read_bytes()
        if hashlib.sha256(content).hexdigest() != about.get("sha256"):
            raise ValueError(f"{MODEL} is not the file that was written")
        found = load(content)
        bare = BARE[about["kind"]](about)
        named, tree = jax.tree_util.tree_flatten_with_path(bare)
        return jax.tree.unflatten(tree, [jnp.asarray(found[_name(path)]) for path, _ in named])
    except Exception as error:  # JSON, a missing array, a torn file: what matters is that it is not a whole emulator
        raise HbcalError(f"{folder} is not a whole emulator ({error}): train it again.") from None


def about_emulator(folder: Path) -> dict[str, Any]:
    """What was said of an emulator when it was saved.

    Args:
        folder: of an emulator that `load_emulator` reads.

    Returns:
        The content of ``about.json``.

    Errors:
        OSError where there is none.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_emulator(tiny_emulator(), Path(folder), {"method": "quadratic"})
        ...     about_emulator(Path(folder))["method"]
        'quadratic'
    """
    return json.loads((folder / ABOUT).read_text())


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _named(emulator: Emulator) -> dict[str, np.ndarray]:
    return {_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(emulator)[0]}


def _shape(emulator: Emulator) -> dict[str, Any]:
    """What a bare emulator of the same structure is made from."""
    if isinstance(emulator, PixelEmulator):
        return {"features": type(emulator.features).__name__}
    if not isinstance(emulator, AutoregressiveEmulator):
        return {}
    net = nnx.merge(emulator.graph, emulator.states)
    return {
        "n_label": net.labels_in.kernel[...].shape[1], "n_dim": net.mean_out.kernel[...].shape[2],
        "hidden": net.middle.kernel[...].shape[1], "n_net": net.middle.kernel[...].shape[0],
    }  # fmt: skip


NUMBER: Any = 0  # stands where an array is to come


def _known(about: dict[str, Any]) -> Known:
    n = NUMBER
    return Known(
        n, n, LabelDensity(n, n, n), *(n,) * 7, tuple(about["labels"]), tuple(about["meta"]), about["normalise"]
    )


def _bare_full(about: dict[str, Any]) -> Emulator:
    return FullEmulator(_known(about), LastLayer(*(NUMBER,) * 3), NUMBER)


def _bare_autoregressive(about: dict[str, Any]) -> Emulator:
    """The graphs, with numbers that are to be replaced."""
    size = about["shape"]
    net = Autoregressive(
        size["n_label"], 1, size["n_dim"], n_lead=1, hidden=(size["hidden"],) * 2, dropout=0.0, rngs=nnx.Rngs(0)
    )
    guide = Guide(1 + size["n_dim"], size["n_label"], hidden=size["hidden"], dropout=0.0, rngs=nnx.Rngs(0))
    graph, states = stacked([net])
    guide_graph, guide_state = asleep(guide)
    return AutoregressiveEmulator(
        _known(about), Components(*(NUMBER,) * 6), NUMBER, states, guide_state, graph, guide_graph
    )


def _bare_pixels(about: dict[str, Any]) -> Emulator:
    n = NUMBER
    features = {
        "Quadratic": Quadratic, "Hidden": lambda: Hidden(n, n, n, n),
        "Components": lambda: PixelComponents(Processes(n, Kernel(n, n, n, n, n), n, n, n, n, n), n, n, n),
    }[about["shape"]["features"]]()  # fmt: skip
    return PixelEmulator(_known(about), PixelLayer(n, n, n, n), features, n)


KIND_OF = {FullEmulator: "full", PixelEmulator: "pixels", AutoregressiveEmulator: "autoregressive"}
BARE = {"full": _bare_full, "pixels": _bare_pixels, "autoregressive": _bare_autoregressive}
