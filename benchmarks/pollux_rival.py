"""Labels of spectra from pollux (Lux, Horta et al. 2025), a rival of `benchmarks/xp_labels.py`.

As its documentation says: spectra and labels are linear in latent vectors; train on both, find the latents of new stars
from the flux alone, predict their labels. Flux is stretched as for hbcal's emulators and standardised with pollux's own
preprocessor. How many latents, and whether the labels too have a scatter to fit, is decided by training stars kept
aside; from there Adam goes on with all of them until the loss settles. pollux 0.1.0 allows ``xmmutablemap>=0.2.0`` and
works with 0.2.0: ``pip install pollux==0.1.0 xmmutablemap==0.2.0``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import numpyro
import xarray as xr

from hbcal._errors import HbcalError
from hbcal.emulator.base import SOFTENING, median_of, stretched
from hbcal.spectra.container import Spectra

RATE, STEPS = 1e-2, 2000  # of Adam, its documentation's
ROUND, SETTLED, LONGEST = (
    500,
    1e-3,
    600.0,
)  # steps with all stars, until they lower the loss by less per pixel, or seconds
N_FEW, N_ASIDE, PIECE = 3000, 1500, 500  # training stars to choose with, others to choose by; stars of a call


@dataclass(frozen=True)
class Choice:
    """What pollux leaves to whoever uses it.

    Attributes:
        n_latent: the size of the latent vectors.
        scatter: the outputs with a scatter to fit beside their errors.
    """

    n_latent: int
    scatter: tuple[str, ...]


CHOICES = tuple(Choice(n, scatter) for n in (8, 16, 32) for scatter in (("flux",), ("flux", "label")))


def pollux() -> Any:
    """The package, which nothing else here needs."""
    try:
        import pollux
    except ImportError as error:
        raise HbcalError(
            f"The rival pollux cannot be imported ({error}): pip install pollux==0.1.0 xmmutablemap==0.2.0."
        ) from None
    return pollux


def stretched_err(flux: np.ndarray, flux_err: np.ndarray) -> np.ndarray:
    """Errors of `hbcal.emulator.base.stretched`."""
    return flux_err / np.hypot(flux, SOFTENING * median_of(flux))


def scales(train: Spectra) -> dict[str, Any]:
    """pollux's preprocessors, from the training stars alone."""
    from_data = pollux().data.ShiftScalePreprocessor.from_data
    return {"flux": from_data(stretched(train.flux)), "label": from_data(train.labels)}


def as_data(spectra: Spectra, scale: dict[str, Any], *outputs: str) -> Any:
    """Spectra as pollux takes them."""
    lux = pollux()
    arrays = {
        "flux": (stretched(spectra.flux), stretched_err(spectra.flux, spectra.flux_err)),
        "label": (spectra.labels, spectra.labels_err),
    }
    made = {name: lux.data.OutputData(*arrays[name], preprocessor=scale[name]) for name in outputs}
    return lux.data.PolluxData(**made).preprocess()


def lux(train: Spectra, choice: Choice) -> Any:
    """The model that pollux has for labels and spectra."""
    n_label, n_pix = train.labels.shape[1], train.flux.shape[1]
    return pollux().Lux(choice.n_latent, n_label, n_pix, intrinsic_scatter=list(choice.scatter))


def fit(model: Any, data: Any, steps: int, begin: Any = None) -> tuple[Any, float]:
    """Parameters, and the loss at the end per pixel of the data."""
    found, told = model.optimize(
        data, steps, jax.random.PRNGKey(0), numpyro.optim.Adam(RATE), initial_params=begin, progress=False
    )
    return found, float(told.losses[-1]) / data["flux"].data.size


def fit_all(model: Any, data: Any, few: Any) -> tuple[Any, list[float]]:
    """Parameters that few stars were fitted with, fitted further with all; and the loss after each round."""
    begun, losses = time.time(), [np.inf]
    found = model.optimize_iterative(data, blocks=["latents"], fixed_pars=model.output_pars(few), progress=False).params
    while len(losses) < 3 or (losses[-2] - losses[-1] > SETTLED and time.time() - begun < LONGEST):
        found, loss = fit(model, data, ROUND, found)
        losses.append(loss)
    return found, losses[1:]


def labels_of(test: Spectra, scale: dict[str, Any], model: Any, found: Any) -> tuple[np.ndarray, np.ndarray]:
    """Labels from the flux alone, and their covariances: of the latents, and of the labels' scatter where it is fitted.

    For a model that is linear in the latents these are pollux's exact posterior widths, says its documentation.
    """
    trained = model.output_pars(found)
    to_label = np.asarray(trained["label"]["data"]["A"])
    extra = np.asarray(trained["label"].get("err", {}).get("s", np.zeros(len(to_label))))
    value, cov = [], []
    for first in range(0, len(test.star), PIECE):
        data = as_data(test.take(slice(first, first + PIECE)), scale, "flux")
        told = model.optimize_iterative(data, blocks=["latents"], fixed_pars=trained, progress=False).params
        spread = np.asarray(model.latent_uncertainties(data, told, names="flux", covariance=True))
        value.append(np.asarray(model.predict_outputs(trained, latents=told["latents"], names="label")["label"]))
        cov.append(to_label @ spread @ to_label.T + np.diag(extra**2))
    unit = np.asarray(scale["label"].scale)
    values = np.asarray(scale["label"].inverse_transform(np.concatenate(value)))
    return values, np.concatenate(cov) * unit[:, None] * unit


def rival(
    train: Spectra, test: Spectra, choices: tuple[Choice, ...] = CHOICES, say: Callable[[str], None] = print
) -> tuple[xr.Dataset, dict[str, Any]]:
    """Train pollux, label the test stars.

    Args:
        train, test: spectra with labels, no pixel and no label missing.
        choices: tried on `N_ASIDE` of the training stars.
        say: told of each.

    Returns:
        Labels and covariances of the test stars by the names of the label schema; what was chosen, and seconds.

    Errors:
        HbcalError where pollux is not installed.
    """
    order = np.random.default_rng(0).permutation(len(train.star))
    few, aside = train.take(order[:N_FEW]), train.take(order[N_FEW:][:N_ASIDE])
    scale, begun, tried = scales(train), time.time(), []
    for choice in choices:
        model = lux(few, choice)
        found, loss = fit(model, as_data(few, scale, "flux", "label"), STEPS)
        off = labels_of(aside, scale, model, found)[0] - aside.labels
        robust = 1.4826 * np.median(np.abs(off - np.median(off, axis=0)), axis=0)
        tried.append((float((robust / train.labels.std(axis=0)).mean()), choice, found))
        say(f"pollux, {choice}: robust sd {robust.round(3).tolist()}, loss {loss:.4f}, {time.time() - begun:.0f} s")
    _, best, found = min(tried, key=lambda each: each[0])
    chosen, model = time.time(), lux(train, best)
    found, losses = fit_all(model, as_data(train, scale, "flux", "label"), found)
    say(f"pollux, all {len(train.star)} stars: loss {losses}, {time.time() - chosen:.0f} s")
    trained = time.time()
    value, cov = labels_of(test, scale, model, found)
    labels = list(test.label_names)
    told = xr.Dataset(
        {"value": (("star", "label"), value), "covariance": (("star", "label", "label_2"), cov),
         "flag": ("star", np.zeros(len(test.star), bool))},
        {"star": test.star.astype(object), "label": labels, "label_2": labels},
    )  # fmt: skip
    about = {
        "latents": best.n_latent, "scatter of": list(best.scatter), "loss": losses, "choosing [s]": chosen - begun,
        "training [s]": trained - chosen, "per second": len(test.star) / (time.time() - trained),
    }  # fmt: skip
    return told, about
