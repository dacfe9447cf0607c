"""Sky, ground and the rows of buildings, walls and hedges along a street."""

import dataclasses

import cv2
import numpy as np

from sfda_jax.data.scene_canvas import (
    CAMERA_HEIGHT,
    FAR,
    Canvas,
    Colour,
    packed_colours,
    tint,
)
from sfda_jax.data.scene_looks import Look

ROAD, SIDEWALK, BUILDING, WALL, FENCE = 0, 1, 2, 3, 4
VEGETATION, TERRAIN, SKY = 8, 9, 10
NOISE_SIZE = (192, 384)


@dataclasses.dataclass(frozen=True)
class Segment:
    """One stretch of roadside: from `near` to `far` metres ahead.

    `style` are four small integers that pick windows and proportions.
    """

    train_id: int
    near: float
    far: float
    height: float
    style: tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Street:
    """Geometry of one scene, metres; the camera is at x = 0.

    Attributes:
        left, right: kerbs.
        pavement: width of each pavement.
        verge: train id of the ground beyond the pavements, left and right.
        front: distance of the building line from the kerb.
        crossing: depth of a zebra crossing, or 0.
        dashes: phase of the lane marks.
        sides: segments from near to far, left and right.
    """

    left: float
    right: float
    pavement: float
    verge: tuple[int, int]
    front: tuple[float, float]
    crossing: float
    dashes: float
    sides: tuple[tuple[Segment, ...], tuple[Segment, ...]]


def noise_field(rng: np.random.Generator, cells: tuple[int, int]) -> np.ndarray:
    """Smooth noise, uint8 `[192,384]`, of `cells` random values."""
    coarse = rng.integers(0, 256, cells, dtype=np.uint8)
    return cv2.resize(coarse, NOISE_SIZE[::-1], interpolation=cv2.INTER_LINEAR_EXACT)


def fitted(noise: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A noise field at (height, width), uint8."""
    if noise.shape == size:
        return noise
    return cv2.resize(noise, size[::-1], interpolation=cv2.INTER_LINEAR_EXACT)


def draw_sky(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Fills the rows above the horizon with a gradient and clouds."""
    width = canvas.depth.shape[1]
    horizon = canvas.centre[1]
    top, low, cloud = (np.array(c, np.float32)[:, None, None] for c in look.sky(rng))
    down = np.arange(horizon + 1, dtype=np.float32)[:, None] / np.float32(horizon + 1)
    gradient = top * (1 - down) + low * down
    clouds = fitted(noise_field(rng, (9, 7)), (horizon + 1, width)).astype(np.float32)
    clouds += fitted(noise_field(rng, (24, 28)), clouds.shape) * np.float32(0.4)
    cover = np.clip((clouds - 190) * np.float32(0.8 / 60), 0, np.float32(0.8))
    sky = gradient + cover * (cloud - gradient)
    canvas.pixels[: horizon + 1, :, :3] = cv2.merge(list(sky.astype(np.uint8)))
    canvas.pixels[..., 3] = SKY


def draw_skyline(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Closes the street: distant houses and trees around the vanishing point."""
    z = 95.0
    x = -80.0
    while x < 80:
        width = float(rng.integers(6, 16))
        height = float(rng.integers(4, 15))
        if rng.integers(0, 3):
            colour = tint(look.pick(BUILDING, rng), 90)
            canvas.box((x, height / 2), (width / 2, height / 2), colour, BUILDING, z=z)
        else:
            colour = tint(look.pick(VEGETATION, rng), 90)
            canvas.disc((x, height / 3), width * 0.5, colour, VEGETATION, z=z)
        x += width * 0.9


def draw_ground(
    canvas: Canvas, street: Street, look: Look, rng: np.random.Generator
) -> None:
    """Fills everything below the horizon: road with marks, pavements, verges."""
    height, width = canvas.depth.shape
    horizon = canvas.centre[1]
    rows = np.arange(horizon + 1, height, dtype=np.float32)[:, None]
    z = np.float32(canvas.focal * CAMERA_HEIGHT) / (rows - horizon)
    columns = np.arange(width, dtype=np.float32)[None, :] - canvas.centre[0]
    x = columns * (z / np.float32(canvas.focal))

    left, right, wide = street.left, street.right, street.pavement
    ids = np.where(x < 0, *(np.uint8(train_id) for train_id in street.verge))
    ids[(x > left - wide) & (x < right + wide)] = SIDEWALK
    on_road = (x > left) & (x < right)
    ids[on_road] = ROAD

    kinds = (ROAD, SIDEWALK, TERRAIN)
    colours = np.zeros(256, np.uint32)
    colours[list(kinds)] = packed_colours((look.pick(k, rng), k) for k in kinds)
    # A texture that lies on the ground: nearest texel of a world-anchored tile.
    tile = rng.integers(-64, 64, (128, 128)).astype(np.float32)
    tile[::2] = tile[1::2]
    across = (x * 8).astype(np.int32) & 127
    texels = tile[(z * 6).astype(np.int32) & 127, across]
    patches = fitted(noise_field(rng, (14, 10)), x.shape).astype(np.float32) - 128
    fine, broad = look.ground_texture
    relief = texels * fine.take(ids) + patches * broad.take(ids)

    thin = np.maximum(np.float32(0.09), z * np.float32(0.8 / canvas.focal))
    slab = x * np.float32(1 / 1.2)
    joints = (slab - np.floor(slab) < thin) | (np.mod(z, 1.2) < thin * 2)
    joints &= (ids == SIDEWALK) & (z < 25)
    relief[joints] -= look.slab_joint
    relief = relief.astype(np.int16)
    relief = cv2.merge([relief, relief, relief, np.zeros_like(relief)])
    canvas.packed[horizon + 1 :] = colours.take(ids)
    ground = canvas.pixels[horizon + 1 :]
    cv2.add(ground, relief, dst=ground, dtype=cv2.CV_8U)  # saturates
    kerb = (np.abs(x - left) < thin * 2) | (np.abs(x - right) < thin * 2)
    kerb_pixel, mark_pixel = packed_colours(((look.kerb, SIDEWALK), (look.mark, ROAD)))
    np.copyto(canvas.packed[horizon + 1 :], kerb_pixel, where=kerb & (ids == SIDEWALK))
    middle = np.float32((left + right) / 2)
    marks = (np.abs(x - middle) < thin * 1.2) & (np.mod(z + street.dashes, 7) < 3.5)
    inner = np.float32((right - left) / 2 - 0.4)
    marks |= np.abs(np.abs(x - middle) - inner) < thin
    near = street.crossing
    if near:
        marks |= (z > near) & (z < near + 3) & (slab - np.floor(slab) < 0.5)
    np.copyto(canvas.packed[horizon + 1 :], mark_pixel, where=marks & on_road)
    canvas.depth[horizon + 1 :] = np.minimum(z, FAR)


def draw_sides(
    canvas: Canvas, street: Street, look: Look, rng: np.random.Generator
) -> None:
    """Draws both building lines: end walls from far to near, then the fronts."""
    for side, segments in zip((-1, 1), street.sides, strict=True):
        kerb = -street.left if side < 0 else street.right
        line = kerb + street.front[side > 0]
        rows = [(segment, _Surface.of(segment, look, rng)) for segment in segments]
        for segment, surface in reversed(rows):
            _draw_end(canvas, side * line, segment, surface)
        _draw_fronts(canvas, side * line, rows, rng)


@dataclasses.dataclass(frozen=True)
class _Surface:
    """Colours and window grid of one segment."""

    wall: Colour
    window: Colour
    grid: tuple[float, float]
    opening: tuple[float, float]
    lit: int

    @classmethod
    def of(cls, segment: Segment, look: Look, rng) -> "_Surface":
        wide, tall, opening, _ = segment.style
        return cls(
            wall=look.pick(segment.train_id, rng),
            window=look.window(rng),
            grid=(2.0 + 0.5 * wide, 2.8 + 0.3 * tall),
            opening=(0.45 + 0.1 * opening, 0.55),
            lit=int(rng.integers(0, 256)),
        )


def _windows(along: np.ndarray, up: np.ndarray, surface: _Surface):
    """(is window, is lit) over a wall, from metres along it and up it."""
    u, v = along / surface.grid[0], up / surface.grid[1]
    column, floor = np.floor(u), np.floor(v)
    window = (u - column < surface.opening[0]) & (v - floor > 0.3)
    window &= v - floor < 0.3 + surface.opening[1]
    code = (column * 7 + floor * 13 + surface.lit).astype(np.int32)
    return window, (code * 37) % 11 < 4


def _paint(canvas: Canvas, where, inside, pixels, *, shining, z) -> None:
    """Writes packed pixels, glow and depth of what is `inside` a region."""
    np.copyto(canvas.packed[where], pixels, where=inside)
    np.copyto(canvas.glow[where], shining * np.uint8(255), where=inside)
    np.copyto(canvas.depth[where], z, where=inside)


def _draw_end(canvas: Canvas, line: float, segment: Segment, surface) -> None:
    """The wall that faces the camera, from the building line outwards."""
    if segment.train_id != BUILDING or segment.near < 6:
        return
    height, width = canvas.depth.shape
    x, top = canvas.project(line, segment.height, segment.near)
    _, base = canvas.project(line, 0.0, segment.near)
    first, last = (round(x), width) if line > 0 else (0, round(x))
    first, last = max(first, 0), min(last, width)
    rows = slice(max(round(top), 0), min(round(base), height))
    if first >= last or rows.start >= rows.stop:
        return
    scale = np.float32(segment.near / canvas.focal)
    along = (np.arange(first, last, dtype=np.float32) - canvas.centre[0]) * scale
    up = canvas.centre[1] - np.arange(rows.start, rows.stop, dtype=np.float32)
    up = up * scale + CAMERA_HEIGHT
    window, lit = _windows(along[None, :] - np.float32(line), up[:, None], surface)
    palette = packed_colours(
        ((tint(surface.wall, 78), BUILDING), (surface.window, BUILDING))
    )
    _paint(
        *(canvas, (rows, slice(first, last)), np.ones(window.shape, bool)),
        palette.take(window),
        shining=window & lit,
        z=np.float32(segment.near),
    )


def _draw_fronts(canvas: Canvas, line: float, rows, rng) -> None:
    """All surfaces along the street on one side, column by column."""
    height, width = canvas.depth.shape
    columns = np.arange(width)
    half = columns[columns > canvas.centre[0] + 1]
    if line < 0:
        half = columns[columns < canvas.centre[0] - 1]
    z = np.float32(canvas.focal * line) / (half - canvas.centre[0]).astype(np.float32)
    edges = np.array([segment.near for segment, _ in rows], np.float32)
    which = np.searchsorted(edges, z, side="right") - 1
    bumps = noise_field(rng, (2, 40))[0].astype(np.float32)
    for i, (segment, surface) in enumerate(rows):
        mine = np.flatnonzero((which == i) & (z < segment.far))
        if not len(mine) or segment.height == 0:
            continue
        depth = z[mine][None, :]
        nearest = max(float(depth.min()), 0.1)
        first = max(round(canvas.project(0, segment.height, nearest)[1]), 0)
        last = min(round(canvas.project(0, 0, nearest)[1]) + 1, height)
        where = (slice(first, last), slice(half[mine[0]], half[mine[-1]] + 1))
        up = canvas.centre[1] - np.arange(first, last, dtype=np.float32)[:, None]
        up = up * (depth / np.float32(canvas.focal)) + CAMERA_HEIGHT
        top = np.float32(segment.height)
        if segment.train_id == VEGETATION:
            cell = (depth * 14).astype(np.int32) % len(bumps)
            top = top * (np.float32(0.75) + bumps[cell] * np.float32(0.001))
        inside = (up >= 0) & (up < top)
        pixels, shining = _front(segment, surface, depth, up)
        _paint(
            *(canvas, where, inside, pixels),
            shining=shining,
            z=depth,
        )


def _front(segment: Segment, surface: _Surface, depth, up):
    """(packed pixels `[h,w]`, shining `[h,w]`) of one segment's front."""
    along = depth - np.float32(segment.near)
    wall, train_id = surface.wall, segment.train_id
    shining = np.zeros((), bool)
    if train_id == BUILDING:
        window, lit = _windows(along, up, surface)
        window &= up > 0.8
        shades = (wall, tint(wall, 75), surface.window)
        kind = np.where(window, 2, (up < 0.7) | (up > segment.height - 0.5))
        shining = window & lit
    elif train_id == FENCE:
        shades = (wall, tint(wall, 45))
        kind = (along * 2 - np.floor(along * 2) < 0.44) & (np.mod(up, 0.9) > 0.15)
    elif train_id == WALL:
        shades = (wall, tint(wall, 80))
        kind = (up * 2 - np.floor(up * 2) < 0.16) | (up > segment.height - 0.2)
    else:
        shades = tuple(tint(wall, percent) for percent in range(75, 110, 5))
        kind = (up * np.float32(6.9 / max(segment.height, 1.0))).astype(np.int32)
        kind = np.clip(kind, 0, 6)
    palette = packed_colours((shade, train_id) for shade in shades)
    return palette.take(kind), shining
