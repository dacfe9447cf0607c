"""Weights that BiSMAP's network cases draw from parameter names (their README)."""

import zlib

import numpy as np

SYSTEM = "bismap"


def hash_uniform(name: str, count: int, salt: int) -> np.ndarray:
    """float64 `[count]` in [-1, 1), a function of name, index and salt."""
    start = np.uint32((zlib.crc32(name.encode()) + salt) % 2**32)
    with np.errstate(over="ignore"):
        h = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B1) + start
        h ^= h >> np.uint32(16)
        h *= np.uint32(0x7FEB352D)
        h ^= h >> np.uint32(15)
        h *= np.uint32(0x846CA68B)
        h ^= h >> np.uint32(16)
    return h / 2.0**31 - 1


def hash_weight(name: str, shape: tuple[int, ...], salt: int) -> np.ndarray:
    """The float32 array of this PyTorch name and shape."""
    u = hash_uniform(name, int(np.prod(shape)), salt).reshape(shape)
    if len(shape) == 4:
        u = u * np.sqrt(6 / (shape[1] * shape[2] * shape[3]))
    elif len(shape) == 2:
        u = u * np.sqrt(3 / shape[1])
    elif name.endswith("running_var"):
        u = 1 + 0.5 * u
    elif name.endswith(".weight"):
        u = 0.5 + 0.1 * u
    else:
        u = 0.1 * u
    return u.astype(np.float32)


def check_hash(path):
    case = np.load(path)
    for name, salt, expected in zip(
        case["names"], case["salt"], case["u"], strict=True
    ):
        found = hash_uniform(str(name), len(expected), int(salt))
        np.testing.assert_array_equal(found, expected)


CHECKERS = {"hash_check.npz": check_hash}
