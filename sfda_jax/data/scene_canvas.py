"""A pinhole camera over a street, and integer drawing of colour, class and depth."""

import dataclasses
from collections.abc import Iterable

import cv2
import numpy as np

CAMERA_HEIGHT = 1.5
FAR = 400.0
"""Depth of the sky, metres."""

Colour = tuple[int, int, int]
Metres = float | int


@dataclasses.dataclass
class Canvas:
    """What is drawn so far.

    Everything is drawn with integer corners and without anti-aliasing, so a scene is
    the same on every machine; `halved` smooths the edges of the picture.

    Attributes:
        pixels: uint8 `[H,W,4]`, RGB and train id in one array: one fill draws both.
        depth: float32 `[H,W]`, metres along the road.
        glow: uint8 `[H,W]`, 255 where a surface shines by itself.
        shade: uint8 `[H,W]`, 255 where something stands between ground and sky.
        lamps: (x, y, radius, colour) of light sources, in pixels.
        focal: focal length, pixels.
        centre: vanishing point (x, y), pixels.
    """

    pixels: np.ndarray
    depth: np.ndarray
    glow: np.ndarray
    shade: np.ndarray
    focal: float
    centre: tuple[int, int]
    lamps: list[tuple[int, int, int, Colour]] = dataclasses.field(default_factory=list)

    @classmethod
    def blank(cls, height: int, width: int, centre: tuple[float, float]) -> "Canvas":
        """An empty canvas; `centre` is relative, (0.5, 0.45) or so."""
        return cls(
            pixels=np.zeros((height, width, 4), np.uint8),
            depth=np.full((height, width), FAR, np.float32),
            glow=np.zeros((height, width), np.uint8),
            shade=np.zeros((height, width), np.uint8),
            focal=0.6 * width,
            centre=(round(centre[0] * width), round(centre[1] * height)),
        )

    @property
    def packed(self) -> np.ndarray:
        """The same pixels, one uint32 each: a mask then moves colour and class."""
        return self.pixels.view(np.uint32)[..., 0]

    def halved(self) -> "Canvas":
        """Half the size: mean colour of 2×2 pixels; class and depth of one of them."""
        height, width = self.depth.shape
        half = (width // 2, height // 2)
        # For a factor of two this is the exact rounded integer mean.
        pixels = cv2.resize(self.pixels, half, interpolation=cv2.INTER_AREA)
        pixels[..., 3] = self.pixels[1::2, 1::2, 3]
        return Canvas(
            pixels=pixels,
            depth=self.depth[1::2, 1::2],
            glow=self.glow[1::2, 1::2],
            shade=self.shade[1::2, 1::2],
            focal=self.focal / 2,
            centre=(self.centre[0] // 2, self.centre[1] // 2),
            lamps=[(x // 2, y // 2, max(2, r // 2), c) for x, y, r, c in self.lamps],
        )

    def project(self, x: Metres, y: Metres, z: Metres) -> tuple[float, float]:
        """Pixel of a point: x right of the camera, y above ground, z ahead (metres)."""
        scale = self.focal / z
        return self.centre[0] + scale * x, self.centre[1] + scale * (CAMERA_HEIGHT - y)

    def fill(
        self,
        corners: Iterable[tuple[float, float]],
        colour: Colour,
        train_id: int,
        *,
        z,
        shines: bool = False,
    ) -> None:
        """Fills a polygon given in pixels."""
        points = np.rint(np.array(corners, np.float64)).astype(np.int32)
        cv2.fillPoly(self.pixels, [points], (*colour, train_id))
        cv2.fillPoly(self.depth, [points], z)
        cv2.fillPoly(self.glow, [points], 255 if shines else 0)

    def box(self, centre, half, colour: Colour, train_id: int, *, z, shines=False):
        """Fills an upright rectangle; centre and half sizes in metres at depth z."""
        x0, y0 = self.project(centre[0] - half[0], centre[1] + half[1], z)
        x1, y1 = self.project(centre[0] + half[0], centre[1] - half[1], z)
        x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)  # never thinner than two pixels
        corners = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
        self.fill(corners, colour, train_id, z=z, shines=shines)

    def disc(self, centre, radius, colour: Colour, train_id: int, *, z, shines=False):
        """Fills a circle; centre and radius in metres at depth z."""
        x, y = self.project(*centre, z)
        point = (round(x), round(y))
        pixels = max(1, round(radius * self.focal / z))
        cv2.circle(self.pixels, point, pixels, (*colour, train_id), -1)
        cv2.circle(self.depth, point, pixels, z, -1)
        cv2.circle(self.glow, point, pixels, 255 if shines else 0, -1)

    def shape(self, points, colour: Colour, train_id: int, *, z, shines=False) -> None:
        """Fills a polygon of (x, y) metres in the plane of depth z."""
        corners = [self.project(x, y, z) for x, y in points]
        self.fill(corners, colour, train_id, z=z, shines=shines)

    def stroke(self, points, width, colour: Colour, train_id: int, *, z) -> None:
        """Draws a line of `width` metres through (x, y) metres at depth z."""
        corners = np.array([self.project(x, y, z) for x, y in points])
        corners = np.rint(corners).astype(np.int32)
        pixels = max(2, round(width * self.focal / z))
        for target, value in (
            (self.pixels, (*colour, train_id)),
            (self.depth, z),
            (self.glow, 0),
        ):
            cv2.polylines(target, [corners], False, value, pixels)

    def cast_shadow(self, x: Metres, z: Metres, half: Metres, length: Metres) -> None:
        """Darkens the ground under something that stands at (x, z)."""
        corners = [
            self.project(x + side * half, 0.0, z + ahead)
            for side, ahead in ((-1, -0.25), (1, -0.25), (1, length), (-1, length))
        ]
        points = np.rint(np.array(corners)).astype(np.int32)
        cv2.fillPoly(self.shade, [points], 255)

    def lamp(
        self, x: Metres, y: Metres, z: Metres, *, radius: Metres, colour: Colour
    ) -> None:
        """Adds a light source whose glow reaches `radius` metres."""
        px, py = self.project(x, y, z)
        reach = max(3, round(radius * self.focal / z))
        self.lamps.append((round(px), round(py), reach, colour))


def packed_colours(rows: Iterable[tuple[Colour, int]]) -> np.ndarray:
    """uint32 pixels of (colour, train id) pairs, to be taken by index."""
    pixels = np.array([(*colour, train_id) for colour, train_id in rows], np.uint8)
    return pixels.view(np.uint32)[:, 0]


def tint(colour: Colour, percent: int) -> Colour:
    """The colour at `percent` of its brightness, clipped to 255."""
    return tuple(min(255, channel * percent // 100) for channel in colour)
