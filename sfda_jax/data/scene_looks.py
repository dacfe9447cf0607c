"""Materials of the two looks: a clean game, and a place of other stone and paint."""

import dataclasses

import numpy as np

from sfda_jax.data.scene_canvas import Colour
from sfda_jax.tasks import class_space

_NAMES = class_space("cityscapes19").names


def _amplitudes(default: float, **by_class: float) -> np.ndarray:
    """float32[256] texture strength per train id (`vegetation=0.3` sets class 8)."""
    table = np.full(256, default, np.float32)
    for name, value in by_class.items():
        table[_NAMES.index(name)] = value
    return table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """Colours and textures of one domain.

    Attributes:
        materials: class → base colours, one is drawn per object.
        windows: window colours of buildings.
        glass: windows of vehicles.
        texture: float32[256], strength of fine grain per class.
        blotches: float32[256], strength of coarse grain per class.
        ground_texture: (fine, broad) strengths of the textures that lie on the ground.
    """

    materials: dict[str, tuple[Colour, ...]]
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
        choices = self.materials[_NAMES[train_id]]
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
        "road": ((92, 92, 98), (84, 84, 90), (98, 96, 96)),
        "sidewalk": ((186, 176, 160), (176, 168, 158), (192, 186, 172)),
        "building": (
            *((232, 206, 160), (226, 176, 150), (196, 214, 226), (238, 226, 196)),
            *((214, 158, 128), (204, 200, 190)),
        ),
        "wall": ((170, 150, 140), (158, 152, 150)),
        "fence": ((150, 104, 66), (168, 122, 80)),
        "pole": ((172, 176, 182), (160, 164, 170)),
        "traffic light": ((38, 40, 44), (46, 46, 40)),
        "traffic sign": ((36, 84, 200), (214, 36, 44), (246, 200, 30)),
        "vegetation": ((62, 138, 54), (76, 152, 58), (48, 120, 60), (92, 158, 66)),
        "terrain": ((118, 178, 78), (132, 186, 88)),
        "person": ((226, 62, 62), (52, 120, 220), (240, 200, 60), (230, 110, 190)),
        "rider": ((250, 120, 30), (60, 200, 180), (236, 230, 80)),
        "car": (
            (206, 34, 40),
            (36, 82, 190),
            (240, 196, 40),
            (40, 150, 90),
            (236, 236, 240),
        ),
        "truck": ((232, 130, 40), (70, 130, 190), (236, 232, 222)),
        "bus": ((222, 190, 40), (200, 44, 60)),
        "motorcycle": ((200, 30, 120), (120, 50, 200)),
        "bicycle": ((30, 160, 200), (220, 60, 60)),
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
    texture=_amplitudes(
        0.05, vegetation=0.28, terrain=0.18, sky=0.0, building=0.04, wall=0.1
    ),
    blotches=_amplitudes(0.03, vegetation=0.16, sky=0.0),
    ground_texture=(
        _amplitudes(0.1, terrain=0.35),
        _amplitudes(0.04, terrain=0.1),
    ),
)

REAL = Look(
    materials={
        "road": (
            (107, 107, 111),
            (100, 100, 105),
            (112, 110, 109),
            (97, 95, 97),
        ),
        "sidewalk": (
            (164, 147, 135),
            (171, 157, 144),
            (173, 166, 156),
            (161, 146, 137),
        ),
        "building": (
            (182, 122, 97),
            (173, 119, 96),
            (191, 135, 106),
            (201, 163, 134),
            (215, 181, 154),
            (206, 159, 132),
            (174, 142, 123),
        ),
        "wall": (
            (156, 139, 128),
            (160, 127, 113),
            (145, 142, 137),
        ),
        "fence": (
            (133, 96, 64),
            (131, 102, 75),
            (145, 107, 73),
        ),
        "pole": (
            (132, 138, 139),
            (140, 139, 139),
            (154, 156, 158),
        ),
        "traffic light": (
            (34, 42, 42),
            (36, 38, 42),
            (58, 56, 41),
        ),
        "traffic sign": (
            (39, 83, 186),
            (202, 39, 45),
            (234, 192, 37),
            (223, 200, 112),
        ),
        "vegetation": (
            (73, 128, 55),
            (59, 113, 59),
            (89, 133, 55),
            (129, 141, 58),
            (121, 126, 56),
        ),
        "terrain": (
            (122, 162, 79),
            (129, 157, 81),
            (118, 164, 77),
        ),
        "person": (
            (188, 59, 60),
            (58, 106, 185),
            (153, 68, 69),
            (205, 175, 85),
            (173, 73, 83),
        ),
        "rider": (
            (215, 105, 35),
            (65, 165, 152),
            (78, 144, 132),
            (213, 205, 85),
        ),
        "car": (
            (52, 108, 81),
            (196, 198, 202),
            (223, 223, 224),
            (173, 34, 40),
            (44, 78, 158),
            (215, 178, 50),
        ),
        "truck": (
            (216, 140, 65),
            (81, 124, 165),
            (220, 217, 209),
        ),
        "bus": (
            (213, 187, 75),
            (180, 44, 55),
            (209, 189, 106),
        ),
        "motorcycle": (
            (160, 35, 98),
            (95, 50, 155),
            (108, 74, 152),
        ),
        "bicycle": (
            (40, 128, 158),
            (80, 145, 167),
            (180, 60, 58),
        ),
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
    texture=_amplitudes(
        0.08, vegetation=0.36, terrain=0.24, sky=0.0, building=0.1, wall=0.18
    ),
    blotches=_amplitudes(0.08, vegetation=0.22, sky=0.04, building=0.1),
    ground_texture=(
        _amplitudes(0.2, terrain=0.4),
        _amplitudes(0.16, terrain=0.18),
    ),
)

LOOKS = {"game": GAME, "real": REAL}
