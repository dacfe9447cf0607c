"""Materials of the two looks: a clean game, and a place of other stone and paint."""

import dataclasses

import numpy as np

from sfda_jax.data.scene_canvas import Colour


def _amplitudes(default: float, **by_class: float) -> np.ndarray:
    """float32[256] texture strength per train id (`c8=0.3` sets class 8)."""
    table = np.full(256, default, np.float32)
    for key, value in by_class.items():
        table[int(key[1:])] = value
    return table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """Colours and textures of one domain.

    Attributes:
        materials: train id → base colours, one is drawn per object.
        windows: window colours of buildings.
        glass: windows of vehicles.
        texture: float32[256], strength of fine grain per class.
        blotches: float32[256], strength of coarse grain per class.
        ground_texture: (fine, broad) strengths of the textures that lie on the ground.
    """

    materials: dict[int, tuple[Colour, ...]]
    windows: tuple[Colour, ...]
    glass: Colour
    skies: tuple[tuple[Colour, Colour, Colour], ...]
    skin: tuple[Colour, ...]
    trousers: tuple[Colour, ...]
    bark: Colour
    mark: Colour
    kerb: Colour
    spokes: Colour
    sign_face: Colour
    slab_joint: float
    texture: np.ndarray
    blotches: np.ndarray
    ground_texture: tuple[np.ndarray, np.ndarray]

    def pick(self, train_id: int, rng: np.random.Generator) -> Colour:
        """One of the class's colours, slightly varied."""
        choices = self.materials[train_id]
        base = choices[int(rng.integers(0, len(choices)))]
        shift = int(rng.integers(-10, 11))
        return tuple(min(255, max(0, channel + shift)) for channel in base)

    def window(self, rng: np.random.Generator) -> Colour:
        """One of the window colours."""
        return self.windows[int(rng.integers(0, len(self.windows)))]

    def sky(self, rng: np.random.Generator) -> tuple[Colour, Colour, Colour]:
        """(top, horizon, cloud) of one sky."""
        return self.skies[int(rng.integers(0, len(self.skies)))]


GAME = Look(
    materials={
        0: ((92, 92, 98), (84, 84, 90), (98, 96, 96)),
        1: ((186, 176, 160), (176, 168, 158), (192, 186, 172)),
        2: (
            *((232, 206, 160), (226, 176, 150), (196, 214, 226), (238, 226, 196)),
            *((214, 158, 128), (204, 200, 190)),
        ),
        3: ((170, 150, 140), (158, 152, 150)),
        4: ((150, 104, 66), (168, 122, 80)),
        5: ((172, 176, 182), (160, 164, 170)),
        6: ((38, 40, 44), (46, 46, 40)),
        7: ((36, 84, 200), (214, 36, 44), (246, 200, 30)),
        8: ((62, 138, 54), (76, 152, 58), (48, 120, 60), (92, 158, 66)),
        9: ((118, 178, 78), (132, 186, 88)),
        11: ((226, 62, 62), (52, 120, 220), (240, 200, 60), (230, 110, 190)),
        12: ((250, 120, 30), (60, 200, 180), (236, 230, 80)),
        13: (
            (206, 34, 40),
            (36, 82, 190),
            (240, 196, 40),
            (40, 150, 90),
            (236, 236, 240),
        ),
        14: ((232, 130, 40), (70, 130, 190), (236, 232, 222)),
        15: ((222, 190, 40), (200, 44, 60)),
        17: ((200, 30, 120), (120, 50, 200)),
        18: ((30, 160, 200), (220, 60, 60)),
    },
    windows=((84, 126, 164), (104, 148, 182), (70, 104, 140)),
    glass=(70, 100, 126),
    skies=(
        ((82, 150, 226), (190, 220, 246), (250, 250, 252)),
        ((96, 164, 234), (206, 228, 244), (252, 252, 250)),
        ((70, 136, 214), (176, 210, 240), (244, 248, 252)),
        ((150, 178, 206), (224, 226, 222), (240, 240, 240)),
        ((188, 196, 204), (222, 224, 224), (206, 210, 216)),
        ((104, 134, 186), (246, 206, 160), (250, 222, 196)),
    ),
    skin=((236, 196, 164), (198, 146, 108), (128, 86, 60)),
    trousers=((44, 60, 110), (70, 70, 78), (150, 120, 80)),
    bark=(112, 84, 58),
    mark=(236, 236, 230),
    kerb=(206, 204, 198),
    spokes=(150, 156, 162),
    sign_face=(248, 248, 248),
    slab_joint=24.0,
    texture=_amplitudes(0.05, c8=0.28, c9=0.18, c10=0.0, c2=0.04, c3=0.1),
    blotches=_amplitudes(0.03, c8=0.16, c10=0.0),
    ground_texture=(
        _amplitudes(0.1, c9=0.35),
        _amplitudes(0.04, c9=0.1),
    ),
)

REAL = Look(
    materials={
        0: ((116, 118, 126), (102, 104, 114), (126, 124, 122), (96, 94, 98)),
        1: ((152, 126, 112), (166, 146, 130), (170, 164, 154), (146, 124, 116)),
        2: (
            *((150, 86, 66), (132, 80, 64), (168, 112, 84), (188, 168, 140)),
            *((204, 186, 158), (198, 160, 136), (134, 126, 118)),
        ),
        3: ((142, 128, 116), (150, 104, 86), (132, 132, 124)),
        4: ((116, 88, 62), (112, 100, 84), (140, 110, 80)),
        5: ((104, 112, 108), (120, 114, 108), (148, 148, 146)),
        6: ((30, 44, 40), (34, 36, 40), (70, 66, 42)),
        7: ((42, 82, 172), (190, 42, 46), (222, 184, 44), (200, 200, 194)),
        8: (
            *((84, 118, 56), (70, 106, 58), (102, 114, 52)),
            *((166, 124, 50), (150, 94, 46)),
        ),
        9: ((126, 146, 80), (140, 136, 84), (118, 150, 76)),
        11: (
            (150, 56, 58),
            (64, 92, 150),
            (80, 74, 76),
            (170, 150, 110),
            (120, 84, 104),
        ),
        12: ((180, 90, 40), (70, 130, 124), (96, 88, 84), (190, 180, 90)),
        13: (
            *((64, 66, 72), (156, 160, 164), (210, 210, 208), (140, 34, 40)),
            *((52, 74, 126), (190, 160, 60)),
        ),
        14: ((200, 150, 90), (92, 118, 140), (204, 202, 196)),
        15: ((204, 184, 110), (160, 44, 50), (196, 188, 172)),
        17: ((120, 40, 76), (70, 50, 110), (96, 98, 104)),
        18: ((50, 96, 116), (130, 130, 134), (140, 60, 56)),
    },
    windows=((46, 52, 60), (70, 78, 84), (150, 158, 162), (214, 208, 190)),
    glass=(44, 50, 56),
    skies=(
        ((186, 190, 196), (218, 218, 216), (160, 164, 172)),
        ((150, 160, 176), (214, 208, 200), (196, 196, 200)),
        ((206, 204, 198), (226, 222, 214), (186, 186, 186)),
    ),
    skin=((222, 180, 150), (176, 126, 94), (110, 74, 54)),
    trousers=((36, 40, 54), (50, 48, 48), (86, 78, 70)),
    bark=(72, 62, 54),
    mark=(202, 200, 190),
    kerb=(150, 148, 144),
    spokes=(108, 108, 106),
    sign_face=(222, 222, 214),
    slab_joint=30.0,
    texture=_amplitudes(0.08, c8=0.36, c9=0.24, c10=0.0, c2=0.1, c3=0.18),
    blotches=_amplitudes(0.08, c8=0.22, c10=0.04, c2=0.1),
    ground_texture=(
        _amplitudes(0.2, c9=0.4),
        _amplitudes(0.16, c9=0.18),
    ),
)

LOOKS = {"game": GAME, "real": REAL}
