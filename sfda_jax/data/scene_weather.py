"""Light, air and camera of the real look: each image has its own."""

import cv2
import numpy as np

from sfda_jax.data.scene_canvas import FAR, Canvas
from sfda_jax.data.scene_street import ROAD, SKY, fitted, noise_field

_IS_GROUND = np.zeros(256, bool)
_IS_GROUND[[0, 1, 9]] = True  # road, sidewalk, terrain
# What every picture of the real look shares: a cool cast and raised blacks.
_CAST = np.array((0.85, 0.92, 0.98), np.float32)[:, None, None]
_BLACK = np.float32(9)


def shade_ground(canvas: Canvas, percent: int) -> None:
    """Darkens the ground to `percent` where `canvas.shade` marks a shadow."""
    on_ground = (canvas.shade > 0) & _IS_GROUND.take(canvas.pixels[..., 3])
    rgb = canvas.pixels[..., :3]
    rgb[on_ground] = (rgb[on_ground].astype(np.uint16) * percent // 100).astype(
        np.uint8
    )


def graded(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """The uint8 picture `[H,W,3]` of a game: noon to evening, some air and grain."""
    planes = np.stack(cv2.split(canvas.pixels)[:3]).astype(np.float32)
    air = _plane(canvas.pixels[max(canvas.centre[1] - 1, 0), 0, :3])
    share = _fog_share(canvas, _uniform(rng, 150, 900))
    planes = _faded(planes + (air - planes) * share, _uniform(rng, 0, 0.35))
    warmth = _uniform(rng, -0.1, 0.1)
    exposure = _plane((1 + warmth, 1, 1 - warmth)) * _uniform(rng, 0.55, 1.1)
    return _exposed(planes * exposure, _uniform(rng, 0, 0.03), rng)


def _exposed(planes, noise, rng) -> np.ndarray:
    """uint8 `[H,W,3]` with grain of a triangular distribution."""
    grain = rng.integers(0, 256, (2, *planes.shape), dtype=np.uint8).astype(np.float32)
    planes = planes + (grain[0] - grain[1]) * noise
    return cv2.merge(list(np.clip(planes, 0, 255).astype(np.uint8)))


def weathered(
    canvas: Canvas, rng: np.random.Generator, weather: str = ""
) -> np.ndarray:
    """The canvas's light under one weather, float32 `[3,H,W]`.

    Args:
        canvas: the scene.
        rng: draws the weather's strength, and which it is where none is named.
        weather: `day`, `haze`, `dusk` or `rain`.
    """
    planes = np.stack(cv2.split(canvas.pixels)[:3]).astype(np.float32)
    if not weather:
        kind = int(rng.integers(0, 10))
        weather = "dusk" if kind < 3 else "haze" if kind < 6 else "rain"
    return _WEATHERS[weather](planes, canvas, rng)


def _uniform(
    rng: np.random.Generator, low: float | int, high: float | int
) -> np.float32:
    return np.float32(low + (high - low) * (int(rng.integers(0, 1001)) / 1000))


def _plane(colour) -> np.ndarray:
    return np.array(colour, np.float32)[:, None, None]


def _mix(planes, colour, share) -> np.ndarray:
    return planes + (_plane(colour) - planes) * share


def _faded(planes, share) -> np.ndarray:
    """Colours drawn towards their grey."""
    grey = (planes[0] + planes[1] + planes[2]) * np.float32(1 / 3)
    return planes + (grey - planes) * np.float32(share)


def _fog_share(canvas: Canvas, distance: np.float32) -> np.ndarray:
    """Share of scattered light `[H,W]`: half at `distance` metres."""
    return 1 - distance / (distance + np.minimum(canvas.depth, np.float32(FAR / 2)))


def _day(planes, canvas: Canvas, rng) -> np.ndarray:
    """Noon: all colours, and some air in the distance."""
    share = _fog_share(canvas, _uniform(rng, 300, 900))
    return _mix(planes, (206, 216, 230), share) * _uniform(rng, 0.95, 1.1)


def _haze(planes, canvas: Canvas, rng) -> np.ndarray:
    """Fog in banks: thicker in the distance and here and there."""
    air = ((206, 206, 204), (188, 198, 210), (216, 206, 188))[int(rng.integers(0, 3))]
    share = _fog_share(canvas, _uniform(rng, 35, 80))
    banks = fitted(noise_field(rng, (4, 5)), canvas.depth.shape).astype(np.float32)
    share = np.clip(share * (np.float32(0.6) + banks * np.float32(0.7 / 255)), 0, 0.92)
    return _mix(_faded(planes, 0.35), air, share)


def _rain(planes, canvas: Canvas, rng) -> np.ndarray:
    """Overcast: pale colours, and a wet road that mirrors what stands behind it."""
    height = canvas.depth.shape[0]
    horizon = canvas.centre[1]
    mirror = np.clip(2 * horizon - np.arange(horizon + 1, height), 0, height - 1)
    wet = canvas.pixels[horizon + 1 :, :, 3] == ROAD
    puddles = fitted(noise_field(rng, (24, 8)), wet.shape).astype(np.float32)
    share = np.clip(puddles * np.float32(1.1 / 255) - np.float32(0.15), 0, 0.6) * wet
    below = planes[:, horizon + 1 :]
    planes[:, horizon + 1 :] = below + (planes[:, mirror] - below) * share
    planes = _faded(planes, 0.4)
    share = _fog_share(canvas, _uniform(rng, 90, 160))
    return _mix(planes, (176, 184, 192), share) * _uniform(rng, 0.8, 0.95)


def _dusk(planes, canvas: Canvas, rng) -> np.ndarray:
    """Little light from a coloured sky; lamps, windows and our own headlights."""
    height, width = canvas.depth.shape
    horizon = canvas.centre[1]
    dark = _uniform(rng, 0.42, 0.62)
    own = planes
    rows = np.arange(height, dtype=np.float32)[:, None]
    columns = np.arange(width, dtype=np.float32)[None, :]
    aside = (columns - canvas.centre[0]) / np.float32(width * 0.32)
    below = (rows - horizon) / np.float32(height - horizon) - np.float32(0.45)
    beam = np.float32(0.55) / (1 + 3 * aside * aside + 9 * below * below)
    beam = beam * (rows > horizon * 0.8) * (14 / (14 + canvas.depth))
    light = _plane((0.92, 0.94, 1.16)) * dark + _plane((1.1, 1.0, 0.8)) * beam
    low = ((232, 148, 92), (196, 126, 132))[int(rng.integers(0, 2))]
    glow = np.minimum(rows / np.float32(max(horizon, 1)), 1)
    evening = _mix(_plane((70, 76, 120)), low, glow * glow) * np.float32(0.75)
    sky = canvas.pixels[..., 3] == SKY
    planes = np.where(sky, planes * (dark * np.float32(0.3)) + evening, planes * light)
    share = _fog_share(canvas, np.float32(120)) * np.float32(0.6)
    planes = _mix(planes, (58, 60, 84), share)
    shining = own * np.float32(0.45) + _plane((127, 105, 65))
    planes = np.where(canvas.glow > 0, shining, planes)
    for lamp in canvas.lamps:
        _add_glow(planes, lamp)
    return planes


_WEATHERS = {"day": _day, "haze": _haze, "dusk": _dusk, "rain": _rain}


def _add_glow(planes: np.ndarray, lamp) -> None:
    """Adds a halo that falls off with the square of the distance, in place."""
    x, y, reach, colour = lamp
    height, width = planes.shape[1:]
    rows = slice(max(y - reach, 0), min(y + reach + 1, height))
    columns = slice(max(x - reach, 0), min(x + reach + 1, width))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    dy = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - y
    dx = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] - x
    square = (dx * dx + dy * dy) / np.float32(reach * reach)
    halo = np.maximum(1 / (1 + 10 * square) - np.float32(1 / 11), 0)
    planes[:, rows, columns] += halo * (_plane(colour) * np.float32(0.55))


def photographed(planes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The uint8 picture `[H,W,3]` that a cheap camera makes of light `[3,H,W]`.

    Vignette, white balance, lost chroma detail, blur, and noise of the sensor. Only
    integer filters and single float operations: the same bytes on every machine.
    """
    height, width = planes.shape[1:]
    rows = np.arange(height, dtype=np.float32)[:, None] / np.float32(height) - 0.5
    columns = np.arange(width, dtype=np.float32)[None, :] / np.float32(width) - 0.5
    falloff = 1 - (rows * rows + columns * columns) * _uniform(rng, 0.5, 1.0)
    balance = _plane([_uniform(rng, 0.93, 1.07) for _ in range(3)]) * _CAST
    exposed = _exposed(
        planes * (falloff * balance) + _BLACK, _uniform(rng, 0.01, 0.04), rng
    )
    picture = cv2.cvtColor(exposed, cv2.COLOR_RGB2YCrCb)
    luma, *chroma = cv2.split(picture)
    side = max(3, 2 * (height // 64) + 1)
    chroma = [cv2.blur(plane, (side, side)) for plane in chroma]
    if int(rng.integers(0, 4)) == 0:
        side = max(3, 2 * (height // 128) + 1)
        luma = cv2.GaussianBlur(luma, (side, side), 0)
    return cv2.cvtColor(cv2.merge([luma, *chroma]), cv2.COLOR_YCrCb2RGB)
