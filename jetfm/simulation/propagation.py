"""Particles in a solenoid: from production vertex to the calorimeter surface, without loops.

All events of a batch are treated at once. Formulas: a helix in a uniform field along +z; the same
quantities as Delphes' ParticlePropagator (release 3.5.0), in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from jetfm.simulation.detector_card import Tracker

SPEED_OF_LIGHT = 0.299792458  # GeV / (T m): pT = 0.2998 |q| B r


@dataclass
class Particles:
    """Stable particles of several events as flat arrays of equal length.

    Attributes
    ----------
    event : index of the event
    pid : PDG code
    px, py, pz, energy : GeV
    mass : GeV
    charge : in units of e
    x, y, z : production vertex, mm
    """

    event: np.ndarray
    pid: np.ndarray
    px: np.ndarray
    py: np.ndarray
    pz: np.ndarray
    energy: np.ndarray
    mass: np.ndarray
    charge: np.ndarray
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray

    def __len__(self) -> int:
        return len(self.event)

    def select(self, where: np.ndarray) -> Particles:
        """The particles at a mask or at indices."""
        return Particles(**{f.name: getattr(self, f.name)[where] for f in fields(self)})


@dataclass
class Arrival:
    """Where particles reach the calorimeter, and their track parameters.

    Attributes
    ----------
    eta, phi : of the point on the surface, seen from the origin
    d0, dz : impact parameters [mm] with respect to the beam line: d0 = (x_d p_y - y_d p_x) / pT at
        the point of closest approach, dz = z_d (Delphes sign; zero for neutral particles)
    phi_track : azimuth of the momentum at closest approach
    """

    eta: np.ndarray
    phi: np.ndarray
    d0: np.ndarray
    dz: np.ndarray
    phi_track: np.ndarray


def inside(particles: Particles, tracker: Tracker) -> np.ndarray:
    """Mask of the particles born inside the cylinder with a transverse momentum.

    As in Delphes (``RadiusMax`` defaults to ``Radius``) the others leave no signal at all: a
    long-lived particle that decays behind the surface is lost, its daughters included.
    """
    radius, half_length = 1e3 * tracker.radius, 1e3 * tracker.half_length
    born_inside = (np.hypot(particles.x, particles.y) < radius) & (abs(particles.z) < half_length)
    return born_inside & (particles.px**2 + particles.py**2 > 1e-9)


def propagate(particles: Particles, tracker: Tracker) -> Arrival:
    """Follow particles to the surface of the cylinder.

    Parameters
    ----------
    particles : particles for which ``inside`` holds
    tracker : radius and half length of the cylinder, field

    Returns
    -------
    Arrival
        One entry per particle.
    """
    pt = np.hypot(particles.px, particles.py)
    slope = particles.pz / pt
    x, y = 1e-3 * particles.x, 1e-3 * particles.y
    ux, uy = particles.px / pt, particles.py / pt
    x_t, y_t, length = _straight(x, y, ux, uy, slope, particles, tracker)
    phi_track = np.arctan2(particles.py, particles.px)
    d0, dz = np.zeros(len(pt)), np.zeros(len(pt))

    curved = np.flatnonzero((particles.charge != 0) & (tracker.field > 0))
    if len(curved):
        bent = _helix(particles.select(curved), pt[curved], slope[curved], tracker)
        for straight, value in zip((x_t, y_t, length, phi_track, d0, dz), bent, strict=True):
            straight[curved] = value
    z_t = 1e-3 * particles.z + slope * length
    return Arrival(
        eta=np.arcsinh(z_t / np.maximum(np.hypot(x_t, y_t), 1e-9)),
        phi=np.arctan2(y_t, x_t),
        d0=d0,
        dz=dz,
        phi_track=phi_track,
    )


def _length_to_end(z: np.ndarray, slope: np.ndarray, half_length: float) -> np.ndarray:
    """Transverse path [m] to the end cap that a particle flies towards."""
    gap = np.copysign(half_length, slope) - 1e-3 * z
    return np.divide(gap, slope, out=np.full_like(gap, np.inf), where=np.abs(slope) > 1e-12)


def _straight(x, y, ux, uy, slope, particles, tracker):
    """End point (x, y) and transverse path [m] of straight flight along the vector (ux, uy)."""
    along, across = x * ux + y * uy, x * uy - y * ux
    length = np.sqrt(np.maximum(tracker.radius**2 - across**2, 0.0)) - along
    length = np.minimum(length, _length_to_end(particles.z, slope, tracker.half_length))
    return x + ux * length, y + uy * length, length


def _helix(particles, pt, slope, tracker):
    """End point (x, y), transverse path [m], azimuth, d0 and dz [mm] at closest approach."""
    x, y = 1e-3 * particles.x, 1e-3 * particles.y
    phi = np.arctan2(particles.py, particles.px)
    sense = np.sign(particles.charge)  # a positive particle turns clockwise: phi falls
    radius = pt / (SPEED_OF_LIGHT * np.abs(particles.charge) * tracker.field)  # m
    x_c, y_c = x + sense * radius * np.sin(phi), y - sense * radius * np.cos(phi)
    r_c = np.hypot(x_c, y_c)

    # Angles are counted along the flight, from the production vertex.
    phi_closest = np.arctan2(sense * x_c, -sense * y_c)
    to_closest = sense * (phi - phi_closest)
    to_closest -= 2 * np.pi * np.round(to_closest / (2 * np.pi))
    cosine = (radius**2 + r_c**2 - tracker.radius**2) / np.maximum(2 * radius * r_c, 1e-12)
    to_barrel = to_closest + np.arccos(np.clip(cosine, -1.0, 1.0))
    to_barrel[radius + r_c < tracker.radius] = np.inf  # spirals inside
    to_end = _length_to_end(particles.z, slope, tracker.half_length) / radius
    angle = np.minimum(to_barrel, to_end)
    angle = np.where(np.isfinite(angle), angle, 0.0)  # pz = 0 and spiralling: stays where it is

    phi_t = phi - sense * angle
    x_t = x_c - sense * radius * np.sin(phi_t)
    y_t = y_c + sense * radius * np.cos(phi_t)
    # At closest approach the point lies on the line through the origin and the axis of the helix.
    d0 = 1e3 * sense * (r_c - radius)
    dz = particles.z + 1e3 * slope * radius * to_closest
    return x_t, y_t, radius * angle, phi_closest, d0, dz
