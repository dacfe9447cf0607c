"""Procedural driving scenes in Cityscapes train ids: data without a download."""

from typing import Literal

import cv2
import numpy as np
from jaxtyping import UInt8

from sfda_jax.data.scene_actors import Actor, draw_actor
from sfda_jax.data.scene_canvas import Canvas
from sfda_jax.data.scene_looks import LOOKS, Look
from sfda_jax.data.scene_street import (
    NOISE_SIZE,
    Segment,
    Street,
    draw_ground,
    draw_sides,
    draw_sky,
    draw_skyline,
    fitted,
    noise_field,
)
from sfda_jax.data.scene_weather import graded, photographed, shade_ground, weathered

SIZE = (96, 192)
"""Default (height, width)."""

WEATHERS = ("day", "haze", "dusk")
"""Looks that are `real` under one weather."""


def render(
    index: int,
    *,
    look: Literal["game", "real", "day", "haze", "dusk"],
    seed: int,
    size: tuple[int, int] = SIZE,
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """(image, label) of one driving scene: RGB, and train ids of `cityscapes19`.

    The scene is a function of (seed, index) alone and the same on every machine; the
    looks show the same scene in other materials, light and weather. All classes but
    train (16) occur.

    Args:
        index: which scene.
        look: `game`, clean and saturated, or `real`, whose images each have a weather
            of their own (dusk, haze or rain) and a camera; `day`, `haze` and `dusk`
            are `real` in that weather alone.
        seed: which collection of scenes.
        size: (height, width) of the result.
    """
    layout, materials, air = (
        np.random.Generator(np.random.PCG64([seed, index, part])) for part in range(3)
    )
    height, width = size
    centre = (0.5 + _between(layout, -6, 6) / 100, _between(layout, 40, 48) / 100)
    canvas = Canvas.blank(2 * height, 2 * width, centre)
    street = _street(layout)
    actors = _actors(layout, street)
    weather = look if look in WEATHERS else ""
    style = LOOKS["real" if weather else look]
    draw_sky(canvas, style, materials)
    draw_skyline(canvas, style, materials)
    draw_ground(canvas, street, style, materials)
    draw_sides(canvas, street, style, materials)
    for actor in sorted(actors, key=lambda a: -a.z):
        draw_actor(canvas, actor, style, materials)
    picture = canvas.halved()
    shade_ground(picture, 60 if look == "game" else 70)
    _grain(picture, style, materials)
    label = picture.pixels[..., 3].copy()
    if look == "game":
        return graded(picture, air), label
    return photographed(weathered(picture, air, weather), air), label


def _between(rng: np.random.Generator, low: int, high: int) -> int:
    return int(rng.integers(low, high + 1))


def _metres(rng: np.random.Generator, low: float | int, high: float | int) -> float:
    return _between(rng, round(low * 100), round(high * 100)) / 100


def _grain(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Adds each class's texture to the picture."""
    ids = canvas.pixels[..., 3]
    fine = rng.integers(0, 256, NOISE_SIZE, dtype=np.uint8)
    fine = fitted(np.ascontiguousarray(fine[::2, ::2]), ids.shape).astype(np.float32)
    coarse = fitted(noise_field(rng, (48, 64)), ids.shape).astype(np.float32)
    relief = (fine - 128) * look.texture.take(ids)
    relief += (coarse - 128) * look.blotches.take(ids)
    relief = 1 + relief * np.float32(1 / 128)
    scaled = canvas.pixels[..., :3] * cv2.merge([relief, relief, relief])
    canvas.pixels[..., :3] = np.clip(scaled, 0, 255).astype(np.uint8)


def _street(rng: np.random.Generator) -> Street:
    lane = _metres(rng, 3.2, 4.2)
    shift = _metres(rng, -0.6, 0.6)
    verges = [9 if _between(rng, 0, 1) else 1 for _ in range(2)]
    pavement = _metres(rng, 2.0, 3.4)
    return Street(
        left=-1.5 * lane + shift,
        right=0.5 * lane + shift + 0.6,
        pavement=pavement,
        verge=(verges[0], verges[1]),
        front=tuple(pavement + _metres(rng, 0.8, 3.5) for _ in range(2)),
        crossing=_metres(rng, 9, 22) if _between(rng, 0, 2) == 0 else 0.0,
        dashes=_metres(rng, 0, 7),
        sides=(_side(rng), _side(rng)),
    )


# train id, cumulative percent of the draws, heights in metres
_SEGMENTS = (
    (2, 52, (6, 15)),
    (3, 65, (1.8, 2.8)),
    (4, 78, (1.4, 2.2)),
    (8, 90, (2.5, 6)),
    (9, 100, (0, 0)),
)


def _side(rng: np.random.Generator) -> tuple[Segment, ...]:
    """Segments from beside the camera to 90 m ahead."""
    segments, near = [], 1.0
    while near < 90:
        draw = _between(rng, 0, 99)
        train_id, _, heights = next(row for row in _SEGMENTS if draw < row[1])
        far = near + _metres(rng, 7, 16) * (1 + near / 60)
        style = tuple(_between(rng, 0, 3) for _ in range(4))
        height = _metres(rng, *heights)
        segments.append(Segment(train_id, near, far, height, style))
        near = far
    return tuple(segments)


def _actors(rng: np.random.Generator, street: Street) -> list[Actor]:
    """Who and what stands in the street, nearest last to be drawn."""
    actors: list[Actor] = []
    kerbs = (street.left, street.right)

    def add(kind: str, x: float, z: float) -> None:
        actors.append(Actor(kind, x, z, _between(rng, 0, 11)))

    def beside(low: float | int, high: float | int) -> float:
        """A position on a pavement, that far from its kerb."""
        side = _between(rng, 0, 1)
        offset = _metres(rng, low, high)
        return kerbs[side] + (offset if side else -offset)

    lanes = ((street.left * 3 + street.right) / 4, (street.left + street.right * 3) / 4)
    for _ in range(_between(rng, 1, 3)):
        lane = lanes[_between(rng, 0, 1)]
        add("car", lane + _metres(rng, -0.3, 0.3), _metres(rng, 8, 45))
    for _ in range(_between(rng, 1, 3)):
        side = _between(rng, 0, 1)
        inset = -1.1 if side else 1.1
        add("car", kerbs[side] + inset, _metres(rng, 7, 32))
    for kind, percent in (("bus", 30), ("truck", 34)):
        if _between(rng, 0, 99) < percent:
            lane = lanes[_between(rng, 0, 1)]
            add(kind, lane, _metres(rng, 12, 34))
    for _ in range(_between(rng, 2, 5)):
        add("person", beside(0.4, street.pavement), _metres(rng, 5.5, 15))
    if _between(rng, 0, 2) == 0:
        add("person", _metres(rng, street.left, street.right), _metres(rng, 9, 16))
    riders = (("cyclist", 62, 6, 13), ("motorcyclist", 42, 6.5, 14))
    for kind, percent, near, far in riders:
        if _between(rng, 0, 99) < percent:
            x = _metres(rng, street.left + 0.7, street.right - 0.7)
            add(kind, x, _metres(rng, near, far))
    parked = (("bicycle", 48), ("motorcycle", 30))
    for kind, percent in parked:
        if _between(rng, 0, 99) < percent:
            add(kind, beside(0.6, street.pavement), _metres(rng, 5.5, 12))
    furniture = (("street_lamp", 1, 2), ("traffic_light", 0, 2), ("sign", 1, 3))
    for kind, low, high in furniture:
        for _ in range(_between(rng, low, high)):
            add(kind, beside(0.3, 0.8), _metres(rng, 6.5, 20))
    for _ in range(_between(rng, 1, 4)):
        add(
            "tree",
            beside(street.pavement - 0.4, street.pavement + 0.8),
            _metres(rng, 9, 40),
        )
    for _ in range(_between(rng, 0, 3)):
        add("bush", beside(street.pavement, street.pavement + 0.8), _metres(rng, 7, 22))
    return actors
