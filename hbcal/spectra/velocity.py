"""Barycentric bookkeeping: what the Earth's motion adds to a velocity."""

from __future__ import annotations

import numpy as np

from hbcal._errors import HbcalError, closest
from hbcal.numerics.wavelength import SPEED_OF_LIGHT

# longitude and latitude in degrees east and north, height in m; 0.01 degrees are 0.1 m/s
SITES = {
    "apo": (-105.8203, 32.7804, 2788.0),  # APOGEE north
    "lco": (-70.6926, -29.0146, 2380.0),  # APOGEE south
    "aat": (149.0661, -31.2770, 1164.0),  # GALAH
    "xinglong": (117.5775, 40.3933, 960.0),  # LAMOST
}


def barycentric_correction(ra: np.ndarray, dec: np.ndarray, mjd: np.ndarray, site: str) -> np.ndarray:
    """What has to be added to a measured velocity to bring it to the barycentre of the Solar system.

    Args:
        ra, dec: ICRS, degrees, (n_star,).
        mjd: middle of the exposure, modified Julian date in UTC, (n_star,).
        site: a name of `SITES`.

    Returns:
        The correction, km/s, (n_star,); see `to_barycentre`.

    Errors:
        HbcalError for an unknown site.

    Source:
        astropy.coordinates.SkyCoord.radial_velocity_correction, good to 3 m/s; Wright & Eastman 2014, PASP 126, 838.

    Example:
        >>> star = np.array([87.748]), np.array([7.990]), np.array([59229.480])
        >>> barycentric_correction(*star, "aat").round(1).tolist()
        [-13.4]
    """
    from astropy import units
    from astropy.coordinates import EarthLocation, SkyCoord
    from astropy.time import Time
    from astropy.utils import iers

    if site not in SITES:
        raise HbcalError(f"There is no site {site!r}{closest(site, SITES)}.")
    lon, lat, height = SITES[site]
    where = EarthLocation.from_geodetic(lon * units.deg, lat * units.deg, height * units.m)
    stars = SkyCoord(np.asarray(ra) * units.deg, np.asarray(dec) * units.deg)
    with iers.conf.set_temp("auto_download", False), iers.conf.set_temp("iers_degraded_accuracy", "ignore"):
        # the turn of the Earth since the last table is known to a second, and a second is 0.03 m/s
        correction = stars.radial_velocity_correction("barycentric", obstime=Time(mjd, format="mjd"), location=where)
    return correction.to_value(units.km / units.s)


def to_barycentre(velocity: np.ndarray, correction: np.ndarray) -> np.ndarray:
    """A measured velocity at the barycentre: redshifts multiply, so that the sum has a product beside it.

    v = v_measured + v_correction + v_measured v_correction / c

    Args:
        velocity: measured, km/s, any shape.
        correction: of `barycentric_correction`, km/s.

    Returns:
        The velocity at the barycentre, km/s.

    Errors:
        None.

    Source:
        Wright & Eastman 2014, PASP 126, 838, eq. 2.

    Example:
        >>> float(to_barycentre(np.array(300.0), np.array(30.0)).round(3))
        330.03
    """
    return velocity + correction + velocity * correction / SPEED_OF_LIGHT
