"""The smallest ICC profile of CMYK: what the inks look like is said by the caller, so that a test sees it used."""

from __future__ import annotations

import struct
from collections.abc import Callable

Inks = tuple[int, int, int, int]  # 0 or 1 each of C, M, Y, K
Lab = tuple[float, float, float]  # L 0..100, a and b about -128..127


def cmyk_profile(colour_of: Callable[[Inks], Lab]) -> bytes:
    """A profile (ICC.1:2001, device class prtr) whose table has the 16 full mixtures of inks."""
    nodes = [((i >> 3) & 1, (i >> 2) & 1, (i >> 1) & 1, i & 1) for i in range(16)]
    colours = b"".join(
        bytes((round(light * 2.55), round(a) + 128, round(b) + 128)) for light, a, b in map(colour_of, nodes)
    )
    unit = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    straight = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + unit + straight * 4 + colours + straight * 3
    text = b"test\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text" + bytes(4) + text,
        b"wtpt": b"XYZ " + bytes(4) + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D),
        b"A2B0": table,
    }
    start = 128 + 4 + 12 * len(tags)
    directory, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        directory += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4xI4s4s4s12x4s", start + len(body), 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp")
    head = head.ljust(68, b"\0") + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    return head.ljust(128, b"\0") + directory + body
