"""ICC profiles as files have them, and what their colours are in sRGB by its formulas."""

import itertools
import struct

import numpy as np

# Colorants (X, Y, Z of the full red, green and blue, at D50), as the spaces' own profiles have them.
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))  # fmt: skip
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
_D50 = (0.9642, 1.0, 0.8249)


def rgb(colorants, gamma=None) -> bytes:
    """A profile of a display; without `gamma` its curve is sRGB's."""
    tags = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(_xyz, colorants), strict=True))
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(gamma))
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags | curves)


def grey(gamma) -> bytes:
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _curve(gamma)})


def inks() -> bytes:
    """A profile of inks that are all grey: L = 100 (1 - K) (1 - mean of C, M, Y)."""
    corners = [
        (255 * (1 - k) * (1 - (c + m + y) / 3), 128, 128)
        for c, m, y, k in itertools.product((0, 1), repeat=4)
    ]
    same = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel().tolist())
    table = np.round(corners).astype(np.uint8).tobytes()
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + same * 4 + table + same * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": lut})


def in_srgb(levels, colorants, gamma=None):
    """uint8 [..., 3] of a space in sRGB, rounded."""
    x = np.asarray(levels) / 255
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4) if gamma is None else x**gamma  # fmt: skip
    linear = linear @ np.array(colorants) @ np.linalg.inv(np.array(SRGB))
    return encoded(linear)


def encoded(linear):
    """sRGB's levels of linear light."""
    x = np.clip(linear, 0, 1)
    return 255 * np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)


def _profile(kind, space, connection, tags) -> bytes:
    name = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = {b"desc": name, b"wtpt": _xyz(_D50)} | tags
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    header = struct.pack(">I4sI", start + len(data), b"test", 0x02400000) + kind + space + connection  # fmt: skip
    header += (
        bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", *(round(65536 * n) for n in _D50))
    )
    return header.ljust(128, b"\0") + table + data


def _xyz(values) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65536 * n) for n in values))


def _curve(gamma) -> bytes:
    if gamma is not None:
        return b"curv" + bytes(4) + struct.pack(">IH", 1, round(256 * gamma))
    numbers = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    return b"para" + bytes(4) + struct.pack(">HH5i", 3, 0, *(round(65536 * n) for n in numbers))
