"""Vehicles, people, trees and street furniture of the procedural scenes."""

import dataclasses

import numpy as np

from sfda_jax.data.scene_canvas import Canvas, tint
from sfda_jax.data.scene_looks import Look

POLE, LIGHT, SIGN, VEGETATION = 5, 6, 7, 8
PERSON, RIDER, CAR, TRUCK, BUS, MOTORCYCLE, BICYCLE = 11, 12, 13, 14, 15, 17, 18

_TAIL = (230, 30, 25)
_HEAD = (255, 245, 205)
_DARK = (28, 28, 32)


@dataclasses.dataclass(frozen=True)
class Actor:
    """Something that stands on the ground at (x, z); `form` varies its shape."""

    kind: str
    x: float
    z: float
    form: int


def draw_actor(
    canvas: Canvas, actor: Actor, look: Look, rng: np.random.Generator
) -> None:
    """Draws one actor over what is behind it."""
    _DRAW[actor.kind](canvas, actor, look, rng)


def _side_quad(canvas, x, heights, depths, *, paint, top_inset=0.0):
    """A vertical quad along the road at x; `paint` is (colour, train id)."""
    (low, high), (near, far) = heights, depths
    corners = [
        canvas.project(x, low, near),
        canvas.project(x, low, far),
        canvas.project(x, high, far - top_inset),
        canvas.project(x, high, near + top_inset),
    ]
    canvas.fill(corners, *paint, z=near)


def _wheels(canvas, x, z, train_id, *, offsets, radius):
    for offset in offsets:
        near, far = z + offset - radius, z + offset + radius
        _side_quad(
            *(canvas, x, (0.0, 2 * radius), (near, far)),
            paint=(_DARK, train_id),
            top_inset=0.15,
        )


def _car(canvas, actor, look, rng):
    x, z = actor.x, actor.z
    paint = look.pick(CAR, rng)
    glass = look.glass
    oncoming = actor.form % 2
    tall = 1.45 + 0.12 * (actor.form % 4)
    canvas.cast_shadow(x, z, 1.0, 4.4)
    inner = x - 0.9 if x > 0.9 else x + 0.9 if x < -0.9 else None
    if inner is not None:
        side = (tint(paint, 72), CAR)
        _side_quad(canvas, inner, (0.3, 0.95), (z, z + 4.2), paint=side)
        _side_quad(
            *(canvas, inner, (0.9, tall), (z + 0.2, z + 3.3)),
            paint=side,
            top_inset=0.35,
        )
        _side_quad(
            *(canvas, inner, (0.98, tall - 0.12), (z + 0.5, z + 3.0)),
            paint=(glass, CAR),
            top_inset=0.3,
        )
        _wheels(canvas, inner, z, CAR, offsets=(0.8, 3.3), radius=0.33)
    for side in (-0.68, 0.68):
        canvas.box((x + side, 0.2), (0.14, 0.2), _DARK, CAR, z=z)
    cabin = ((-0.82, 0.9), (0.82, 0.9), (0.62, tall), (-0.62, tall))
    canvas.shape([(x + a, b) for a, b in cabin], paint, CAR, z=z)
    pane = ((-0.7, 0.95), (0.7, 0.95), (0.54, tall - 0.1), (-0.54, tall - 0.1))
    canvas.shape([(x + a, b) for a, b in pane], glass, CAR, z=z)
    body = (
        *((-0.85, 0.28), (0.85, 0.28), (0.92, 0.45), (0.9, 0.88)),
        *((0.8, 0.98), (-0.8, 0.98), (-0.9, 0.88), (-0.92, 0.45)),
    )
    canvas.shape([(x + a, b) for a, b in body], paint, CAR, z=z)
    canvas.box((x, 0.36), (0.84, 0.08), tint(paint, 60), CAR, z=z)
    canvas.box((x, 0.55), (0.25, 0.06), (225, 225, 215), CAR, z=z)
    colour = _HEAD if oncoming else _TAIL
    for side in (-0.7, 0.7):
        canvas.box((x + side, 0.74), (0.15, 0.09), colour, CAR, z=z, shines=True)
        canvas.lamp(x + side, 0.74, z, radius=1.6 if oncoming else 0.9, colour=colour)


def _box_vehicle(canvas, actor, look, rng, *, train_id, size, cab=0.0):
    """A bus, or a truck with its box: width, height and length in `size`."""
    wide, tall, long = size
    x, z = actor.x, actor.z
    paint = look.pick(train_id, rng)
    canvas.cast_shadow(x, z, wide / 2 + 0.1, long)
    half = wide / 2
    inner = x - half if x > half else x + half if x < -half else None
    if inner is not None:
        _side_quad(
            *(canvas, inner, (0.35, tall), (z, z + long)),
            paint=(tint(paint, 70), train_id),
        )
        if train_id == BUS:
            _side_quad(
                *(canvas, inner, (1.3, 2.3), (z + 0.4, z + long - 0.4)),
                paint=(look.glass, train_id),
            )
        offsets = (1.2, long - 1.6)
        _wheels(canvas, inner, z, train_id, offsets=offsets, radius=0.5)
    for side in (-0.8, 0.8):
        canvas.box((x + side, 0.25), (0.2, 0.25), _DARK, train_id, z=z)
    canvas.box(
        (x, 0.35 + (tall - 0.35) / 2), (half, (tall - 0.35) / 2), paint, train_id, z=z
    )
    if train_id == BUS:
        canvas.box((x, 1.85), (half - 0.15, 0.55), look.glass, train_id, z=z)
        canvas.box(
            (x, 2.7), (half - 0.4, 0.15), (250, 190, 60), train_id, z=z, shines=True
        )
    else:
        canvas.box(
            (x, tall / 2 + 0.3), (0.03, tall / 2 - 0.5), tint(paint, 65), train_id, z=z
        )
        canvas.box((x, 0.55), (half, 0.12), (120, 120, 125), train_id, z=z)
    for side in (-half + 0.2, half - 0.2):
        canvas.box((x + side, 0.75), (0.13, 0.12), _TAIL, train_id, z=z, shines=True)
        canvas.lamp(x + side, 0.75, z, radius=1.0, colour=_TAIL)


def _bus(canvas, actor, look, rng):
    _box_vehicle(canvas, actor, look, rng, train_id=BUS, size=(2.5, 3.1, 10.0))


def _truck(canvas, actor, look, rng):
    tall = 2.9 + 0.2 * (actor.form % 3)
    _box_vehicle(canvas, actor, look, rng, train_id=TRUCK, size=(2.4, tall, 7.0))


def _torso(canvas, look, rng, *, at, train_id, lean=0.0):
    """Upper body and head; `at` is the hips' (x, height, z)."""
    x, base, z = at
    shirt = look.pick(train_id, rng)
    skin = look.skin[int(rng.integers(0, len(look.skin)))]
    body = (
        *((-0.2, 0.0), (0.2, 0.0), (0.27 + lean, 0.5), (0.14 + lean, 0.62)),
        *((-0.14 + lean, 0.62), (-0.27 + lean, 0.5)),
    )
    canvas.shape([(x + a, base + b) for a, b in body], shirt, train_id, z=z)
    for side in (-1, 1):
        arm = ((side * 0.27 + lean, 0.55), (side * 0.32 + lean * 1.6, 0.02))
        points = [(x + a, base + b) for a, b in arm]
        canvas.stroke(points, 0.12, tint(shirt, 82), train_id, z=z)
    canvas.disc((x + lean, base + 0.76), 0.15, skin, train_id, z=z)
    return shirt


def _person(canvas, actor, look, rng):
    x, z = actor.x, actor.z
    canvas.cast_shadow(x, z, 0.3, 0.5)
    trousers = look.trousers[int(rng.integers(0, len(look.trousers)))]
    step = 0.08 + 0.06 * (actor.form % 4)
    for side in (-1, 1):
        leg = [(x + side * 0.09, 0.95), (x + side * step, 0.05)]
        canvas.stroke(leg, 0.2, trousers, PERSON, z=z)
    _torso(canvas, look, rng, at=(x, 0.85, z), train_id=PERSON)


def _cycle_wheels(canvas, x, z, train_id, *, radius, rim, spread):
    for side in (-1, 1):
        canvas.disc((x + side * spread, radius), radius, _DARK, train_id, z=z)
        canvas.disc((x + side * spread, radius), radius * 0.68, rim, train_id, z=z)


def _bicycle(canvas, actor, look, rng):
    x, z = actor.x, actor.z
    frame = look.pick(BICYCLE, rng)
    canvas.cast_shadow(x, z, 0.9, 0.4)
    _cycle_wheels(canvas, x, z, BICYCLE, radius=0.36, rim=look.spokes, spread=0.54)
    lines = (
        ((-0.54, 0.36), (-0.12, 0.85), (0.36, 0.85), (0.0, 0.36), (-0.12, 0.85)),
        ((0.54, 0.36), (0.34, 1.05), (0.5, 1.08)),
    )
    for line in lines:
        canvas.stroke([(x + a, b) for a, b in line], 0.1, frame, BICYCLE, z=z)
    canvas.box((x - 0.14, 0.93), (0.14, 0.04), _DARK, BICYCLE, z=z)


def _cyclist(canvas, actor, look, rng):
    _bicycle(canvas, actor, look, rng)
    x, z = actor.x, actor.z
    leg = [(x - 0.1, 0.98), (x + 0.2, 0.7), (x + 0.02, 0.32)]
    trousers = look.trousers[int(rng.integers(0, len(look.trousers)))]
    canvas.stroke(leg, 0.2, trousers, RIDER, z=z)
    _torso(canvas, look, rng, at=(x - 0.08, 0.95, z), train_id=RIDER, lean=0.16)


def _motorcycle(canvas, actor, look, rng):
    x, z = actor.x, actor.z
    paint = look.pick(MOTORCYCLE, rng)
    canvas.cast_shadow(x, z, 1.0, 0.4)
    _cycle_wheels(canvas, x, z, MOTORCYCLE, radius=0.33, rim=(90, 90, 95), spread=0.68)
    body = (
        *((-0.85, 0.75), (-0.2, 0.95), (0.35, 1.0), (0.62, 0.85)),
        *((0.45, 0.4), (-0.35, 0.35)),
    )
    canvas.shape([(x + a, b) for a, b in body], paint, MOTORCYCLE, z=z)
    canvas.box((x - 0.35, 0.92), (0.35, 0.07), _DARK, MOTORCYCLE, z=z)
    canvas.stroke([(x + 0.5, 0.85), (x + 0.42, 1.2)], 0.09, _DARK, MOTORCYCLE, z=z)


def _motorcyclist(canvas, actor, look, rng):
    _motorcycle(canvas, actor, look, rng)
    x, z = actor.x, actor.z
    leg = [(x - 0.25, 0.98), (x + 0.12, 0.78), (x - 0.05, 0.35)]
    canvas.stroke(leg, 0.22, (40, 40, 46), RIDER, z=z)
    _torso(canvas, look, rng, at=(x - 0.25, 0.97, z), train_id=RIDER, lean=0.2)
    helmet = look.pick(MOTORCYCLE, rng)
    canvas.disc((x - 0.05, 1.75), 0.17, helmet, RIDER, z=z)


def _street_lamp(canvas, actor, look, rng):
    x, z = actor.x, actor.z
    metal = look.pick(POLE, rng)
    reach = -1.4 if x > 0 else 1.4
    canvas.box((x, 3.1), (0.13, 3.1), metal, POLE, z=z)
    canvas.stroke([(x, 6.1), (x + reach, 6.3)], 0.16, metal, POLE, z=z)
    colour = (255, 214, 140)
    canvas.box((x + reach, 6.2), (0.4, 0.12), colour, POLE, z=z, shines=True)
    canvas.lamp(x + reach, 6.0, z, radius=4.0, colour=colour)


def _traffic_light(canvas, actor, look, rng):
    x, z = actor.x, actor.z
    canvas.box((x, 1.4), (0.12, 1.4), look.pick(POLE, rng), POLE, z=z)
    canvas.box((x, 3.2), (0.36, 0.8), look.pick(LIGHT, rng), LIGHT, z=z)
    on = actor.form % 3
    for i, colour in enumerate(((235, 45, 35), (245, 180, 40), (50, 220, 110))):
        shown = colour if i == on else tint(colour, 30)
        centre = (x, 3.7 - 0.5 * i)
        canvas.disc(centre, 0.2, shown, LIGHT, z=z, shines=i == on)
        if i == on:
            canvas.lamp(*centre, z, radius=1.2, colour=colour)


def _sign(canvas, actor, look, rng):
    x, z = actor.x, actor.z
    canvas.box((x, 1.2), (0.1, 1.2), look.pick(POLE, rng), POLE, z=z)
    colour = look.pick(SIGN, rng)
    face = look.sign_face
    form = actor.form % 4
    if form == 0:
        canvas.disc((x, 2.75), 0.5, colour, SIGN, z=z)
        canvas.disc((x, 2.75), 0.33, face, SIGN, z=z)
    elif form == 1:
        corners = ((-0.55, 2.35), (0.55, 2.35), (0.0, 3.3))
        canvas.shape([(x + a, b) for a, b in corners], colour, SIGN, z=z)
        corners = ((-0.3, 2.48), (0.3, 2.48), (0.0, 3.0))
        canvas.shape([(x + a, b) for a, b in corners], face, SIGN, z=z)
    elif form == 2:
        canvas.box((x, 2.8), (0.48, 0.48), colour, SIGN, z=z)
        canvas.box((x, 2.8), (0.12, 0.34), face, SIGN, z=z)
    else:
        canvas.box((x, 2.9), (0.8, 0.45), colour, SIGN, z=z)
        for y in (2.72, 3.08):
            canvas.box((x, y), (0.6, 0.07), face, SIGN, z=z)


def _tree(canvas, actor, look, rng):
    x, z = actor.x, actor.z
    leaf = look.pick(VEGETATION, rng)
    tall = 4.2 + 0.6 * (actor.form % 4)
    canvas.cast_shadow(x, z, 1.6, 2.5)
    canvas.box((x, tall / 2 - 0.4), (0.19, tall / 2), look.bark, VEGETATION, z=z)
    for i in range(10):
        dx, dy = (float(v) / 100 for v in rng.integers(-115, 116, 2))
        size = float(rng.integers(65, 115)) / 100
        # Lower clumps lie in the crown's own shadow.
        colour = tint(leaf, 72 + round(22 * (dy + 1.2)) + 3 * (i % 3))
        canvas.disc((x + dx, tall + dy), size, colour, VEGETATION, z=z)


def _bush(canvas, actor, look, rng):
    x, z = actor.x, actor.z
    leaf = look.pick(VEGETATION, rng)
    canvas.cast_shadow(x, z, 0.9, 0.8)
    for i in range(5):
        dx, dy = (float(v) / 100 for v in rng.integers(-60, 61, 2))
        colour = tint(leaf, 80 + round(30 * (dy + 0.5)) + 3 * (i % 3))
        canvas.disc((x + dx, 0.6 + 0.4 * dy), 0.5, colour, VEGETATION, z=z)


_DRAW = {
    "bicycle": _bicycle,
    "bus": _bus,
    "bush": _bush,
    "car": _car,
    "cyclist": _cyclist,
    "motorcycle": _motorcycle,
    "motorcyclist": _motorcyclist,
    "person": _person,
    "sign": _sign,
    "street_lamp": _street_lamp,
    "traffic_light": _traffic_light,
    "tree": _tree,
    "truck": _truck,
}
