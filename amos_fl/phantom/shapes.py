"""Smooth implicit shapes: functions that are negative inside and about the distance in mm from the surface.

Inigo Quilez's bounds for ellipsoids and round cones serve; every shape knows the box it lies in, so that
it is evaluated nowhere else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from amos_fl.phantom.pose import Slab, Slices

FAR = np.float32(1e3)
NO_TURN = np.eye(3)


def turned(x_deg: float = 0, y_deg: float = 0, z_deg: float = 0) -> np.ndarray:
    """The rotation (3, 3) about x, then y, then z."""
    a, b, c = np.deg2rad([x_deg, y_deg, z_deg])
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return rz @ ry @ rx


def curve(points: np.ndarray | Sequence[Sequence[float]], segments: int) -> np.ndarray:
    """A Catmull-Rom curve through `points` (n, any columns), sampled at segments + 1 places."""
    p = np.asarray(points, float)
    padded = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    at = np.linspace(0, len(p) - 1, segments + 1)
    i = np.minimum(at.astype(int), len(p) - 2)
    t = (at - i)[:, None]
    a, b, c, d = padded[i], padded[i + 1], padded[i + 2], padded[i + 3]
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


def smooth_union(a: np.ndarray, b: np.ndarray, blend_mm: float) -> np.ndarray:
    h = np.maximum(blend_mm - np.abs(a - b), 0) / blend_mm
    return np.minimum(a, b) - h * h * np.float32(blend_mm / 4)


def smooth_cut(a: np.ndarray, b: np.ndarray, blend_mm: float) -> np.ndarray:
    """The intersection of two shapes with a rounded edge."""
    h = np.maximum(blend_mm - np.abs(a - b), 0) / blend_mm
    return np.maximum(a, b) + h * h * np.float32(blend_mm / 4)


def into(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, centre: np.ndarray, turn: np.ndarray = NO_TURN
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates along the columns of `turn` from `centre`, each an array of its own."""
    q = [c - np.float32(o) for c, o in zip((x, y, z), centre, strict=True)]
    if turn is NO_TURN:
        return q[0], q[1], q[2]
    t = turn.astype(np.float32)
    u, v, w = (q[0] * t[0, i] for i in range(3))
    for i, total in enumerate((u, v, w)):
        total += q[1] * t[1, i]
        total += q[2] * t[2, i]
    return u, v, w


def ellipsoid_field(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, centre: np.ndarray, semi: np.ndarray, turn: np.ndarray = NO_TURN
) -> np.ndarray:
    """About the signed distance in mm to an ellipsoid whose axes are the columns of `turn`."""
    q = into(x, y, z, centre, turn)
    for axis, r in enumerate(semi):
        axis_field = q[axis]
        axis_field *= np.float32(1 / r)
        axis_field *= axis_field
    slope = q[0] * np.float32(1 / semi[0] ** 2)
    slope += q[1] * np.float32(1 / semi[1] ** 2)
    slope += q[2] * np.float32(1 / semi[2] ** 2)
    value = q[0]
    value += q[1]
    value += q[2]
    np.sqrt(slope, out=slope)
    slope += np.float32(1e-6)
    value -= 1
    value /= slope
    value *= np.float32(0.5)
    return value


@dataclass(frozen=True)
class Ellipsoid:
    centre: np.ndarray
    semi_mm: np.ndarray
    turn: np.ndarray = field(default_factory=lambda: NO_TURN)

    def bounds(self, margin_mm: float) -> tuple[np.ndarray, np.ndarray]:
        reach = np.sqrt((self.turn**2) @ (np.asarray(self.semi_mm) ** 2)) + margin_mm
        return self.centre - reach, self.centre + reach

    def field(self, slab: Slab, margin_mm: float) -> tuple[Slices, np.ndarray] | None:
        """The voxels of the shape's box and its field there; None where the slab misses it."""
        box = slab.box(*self.bounds(margin_mm))
        if box is None:
            return None
        return box, ellipsoid_field(slab.x[box], slab.y[box], slab.z[box], self.centre, self.semi_mm, self.turn)


@dataclass(frozen=True)
class Sculpted:
    """An ellipsoid's box with a field of its own: `carve(x, y, z)` gives it from patient coordinates."""

    low: np.ndarray
    high: np.ndarray
    carve: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

    def field(self, slab: Slab, margin_mm: float) -> tuple[Slices, np.ndarray] | None:
        box = slab.box(self.low - margin_mm, self.high + margin_mm)
        if box is None:
            return None
        return box, self.carve(slab.x[box], slab.y[box], slab.z[box]).astype(np.float32, copy=False)


@dataclass(frozen=True)
class Tube:
    """Round cones along a line. `line` is (n, 4): x, y, z, radius in mm.

    `flat` stretches space around the line's first point: a tube with flat = (1.3, 0.8, 1) is an ellipse,
    wider than deep.
    """

    line: np.ndarray
    flat: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def field(self, slab: Slab, margin_mm: float) -> tuple[Slices, np.ndarray] | None:
        flat = np.array(self.flat)
        line = self.line
        reach = line[:, 3:] * flat + margin_mm
        low, high = line[:, :3] - reach, line[:, :3] + reach
        whole = slab.box(low.min(0), high.max(0))
        if whole is None:
            return None
        field_mm = np.full([s.stop - s.start for s in whole], FAR, np.float32)
        boxes = slab.boxes(np.minimum(low[:-1], low[1:]), np.maximum(high[:-1], high[1:]))
        for a, b, box in zip(line[:-1], line[1:], boxes, strict=True):
            if box is None:
                continue
            place = tuple(slice(max(s.start, w.start), min(s.stop, w.stop)) for s, w in zip(box, whole, strict=True))
            if any(s.start >= s.stop for s in place):
                continue
            view = field_mm[
                tuple(slice(s.start - w.start, s.stop - w.start) for s, w in zip(place, whole, strict=True))
            ]
            np.minimum(view, _round_cone(slab, place, a, b, flat), out=view)
        return whole, field_mm


def _round_cone(slab: Slab, place: tuple[slice, ...], a: np.ndarray, b: np.ndarray, flat: np.ndarray) -> np.ndarray:
    start, along = (a[:3] / flat).astype(np.float32), ((b[:3] - a[:3]) / flat).astype(np.float32)
    q = []
    for c, f, s in zip((slab.x, slab.y, slab.z), flat, start, strict=True):
        d = c[place] - s if f == 1 else c[place] * np.float32(1 / f) - s
        q.append(d)
    per_length = along / (along @ along + np.float32(1e-9))
    h = q[0] * per_length[0]
    h += q[1] * per_length[1]
    h += q[2] * per_length[2]
    np.clip(h, 0, 1, out=h)
    for d, v in zip(q, along, strict=True):
        d -= h * v
        d *= d
    far = q[0]
    far += q[1]
    far += q[2]
    np.sqrt(far, out=far)
    h *= np.float32(b[3] - a[3])
    h += np.float32(a[3])
    far -= h
    return far
