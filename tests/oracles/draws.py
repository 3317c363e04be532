"""The search's random numbers once more: XXH3's 64 bits of short keys, in plain integers.

After the specification of XXH3 (github.com/Cyan4973/xxHash, doc/xxhash_spec.md), keys of 4
to 16 bytes alone.
"""

from __future__ import annotations

import struct

MASK = 2**64 - 1
SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
)


def word(data: bytes, at: int) -> int:
    """Eight bytes as a number."""
    return int(struct.unpack_from("<Q", data, at)[0])


def swapped(number: int, size: int) -> int:
    """The bytes of a number the other way round."""
    return int.from_bytes(number.to_bytes(size, "little"), "big")


def rotated(number: int, by: int) -> int:
    return (number << by | number >> (64 - by)) & MASK


def xxh3(data: bytes, seed: int) -> int:
    """64 bits of a key of 4 to 16 bytes."""
    size = len(data)
    if size <= 8:
        seed ^= swapped(seed & 0xFFFFFFFF, 4) << 32
        first, last = struct.unpack_from("<I", data)[0], struct.unpack_from("<I", data, size - 4)[0]
        flip = (word(SECRET, 8) ^ word(SECRET, 16)) - seed & MASK
        mixed = (last + (first << 32)) ^ flip
        mixed ^= rotated(mixed, 49) ^ rotated(mixed, 24)
        mixed = mixed * 0x9FB21C651E98DF25 & MASK
        mixed ^= (mixed >> 35) + size
        mixed = mixed * 0x9FB21C651E98DF25 & MASK
        return mixed ^ mixed >> 28
    low = word(data, 0) ^ (word(SECRET, 24) ^ word(SECRET, 32)) + seed & MASK
    high = word(data, size - 8) ^ (word(SECRET, 40) ^ word(SECRET, 48)) - seed & MASK
    product = low * high
    mixed = size + swapped(low, 8) + high + (product & MASK ^ product >> 64) & MASK
    mixed ^= mixed >> 37
    mixed = mixed * 0x165667919E3779F9 & MASK
    return mixed ^ mixed >> 32


def bits(seed: int, tree: int, node: int, purpose: str, index: int) -> int:
    """Draw number `index` for a purpose at a node."""
    stream = xxh3(struct.pack("<QI", tree, node), xxh3(purpose.encode(), seed))
    return xxh3(struct.pack("<Q", index), stream)
