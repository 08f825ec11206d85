"""Damage to files of every kind that a command reads, by what they are: text, YAML, JSON, device trees, archives, PE.

Every function takes a `random.Random` and gives new bytes; the same seed gives the same bytes. ELF files: mutate.py.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import re
import struct
from collections.abc import Callable
from typing import Any

import yaml
import zstandard

from megamod.common.compression import compress, decompress, detect
from tests.fuzz.mutate import EDGES, TEXTS, parse
from tests.fuzz.mutate import damage as damage_elf

WORDS = (
    *TEXTS, "-1", "0", "99999999999999999999999", "1e999", "nan", "null", "~", "true", "[", "]", "{", "}", "*a", "&a",
    "!x", "- ", "? ", ": ", "|", ">", "---", "...", "%YAML 9.9", "\0", "\x9b31m", "\u202e", "\ufeff", "😀", "é", "\\",
    '"', "'", "critical", "deferred", "modules", "extends", "after", "files", "root", "megamod: stage critical done",
    "megamod: load x took 99999999999999999999 us", "[    9.9]", "[99999999999999.999999]", "0xffffffffffffffff",
    "../../etc/passwd", "a" * 5000,
)  # fmt: skip
Damage = Callable[[bytes, random.Random], bytes]


def some_bytes(data: bytes, rng: random.Random) -> bytes:
    """A few changes to bytes and to fields of 2, 4 and 8 bytes; pieces cut out, put in twice, or the end left off."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if not out:
            break
        at = rng.randrange(len(out))
        # What describes the rest stands at the beginning or at the end.
        if rng.random() < 0.4:
            at = min(at, rng.randrange(1024)) if rng.random() < 0.7 else max(0, len(out) - 1 - rng.randrange(256))
        kind = rng.randrange(7)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.randrange(256)
        elif kind in (2, 3):
            width = rng.choice((2, 4, 8))
            at -= at % width
            field = (rng.choice(EDGES) % (1 << 8 * width)).to_bytes(width, rng.choice(("little", "big")))
            out[at : at + width] = field
        elif kind == 4:
            del out[at : at + rng.choice((1, 4, 16, 512))]
        elif kind == 5:
            out[at:at] = out[max(0, at - rng.choice((4, 64, 4096))) : at]
        else:
            del out[at:]
    return bytes(out)


def some_text(data: bytes, rng: random.Random) -> bytes:
    """Lines left out, swapped and doubled; words and numbers exchanged; bytes that are no text."""
    text = data.decode("utf-8", "surrogateescape")
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        lines = text.split("\n")
        at = rng.randrange(len(lines))
        kind = rng.randrange(8)
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines.insert(rng.randrange(len(lines) + 1), lines[at])
        elif kind == 2:
            lines[at] = " " * rng.randrange(9) + lines[at].strip()
        elif kind in (3, 4):
            words = re.split(r"(\W+)", lines[at])
            words[rng.randrange(len(words))] = rng.choice(WORDS)
            lines[at] = "".join(words)
        elif kind == 5:
            found = [match.span() for match in re.finditer(r"\d+", lines[at])]
            if found:
                start, end = rng.choice(found)
                lines[at] = lines[at][:start] + str(rng.choice(EDGES) * rng.choice((1, 1, -1))) + lines[at][end:]
        elif kind == 6:
            lines[at] *= rng.choice((2, 3, 50))
        else:
            place = rng.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:place] + rng.choice(WORDS) + lines[at][place:]
        text = "\n".join(lines)
    out = text.encode("utf-8", "surrogateescape")
    if rng.random() < 0.1:
        out = some_bytes(out, rng)
    # Much of the same: what takes more than linear time shows.
    return (out * (1 + (60_000 // max(len(out), 1)))) if rng.random() < 0.02 else out


def some_journal(_data: bytes, rng: random.Random) -> bytes:
    """What an interrupted command has left (hooks/transaction.py), whole or damaged."""
    lines = ["put\t.megamod-0-0\tinit", "put\tetc/.megamod-0-1\tetc/x", "remove\tinit", "made\tetc/new", "prune\tetc"]
    text = "".join(f"{line}\n" for line in rng.sample(lines, rng.randrange(1, len(lines))))
    return some_text(text.encode(), rng) if rng.random() < 0.7 else text.encode()


def some_value(value: Any, rng: random.Random, depth: int = 0) -> Any:
    """The value with one of its parts exchanged, left out or doubled; or another one altogether."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        kind = rng.randrange(10)
        if kind == 0:
            return {k: v for k, v in value.items() if k != key}
        if kind == 1:
            return {**value, rng.choice(WORDS): value[key]}
        return {**value, key: some_value(value[key], rng, depth + 1)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        kind = rng.randrange(10)
        if kind == 0:
            return value[:at] + value[at + 1 :]
        if kind == 1:
            return value + [value[at]] * rng.choice((1, 40))
        return [*value[:at], some_value(value[at], rng, depth + 1), *value[at + 1 :]]
    text = isinstance(value, str) and value
    if text and rng.random() < 0.5:
        place = rng.randrange(len(value) + 1)
        return value[:place] + rng.choice(WORDS) + value[place + rng.randrange(3) :]
    choices = (
        None, True, False, [], {}, [[]], {"a": {"b": []}}, "", rng.choice(WORDS), rng.choice(EDGES), -rng.choice(EDGES),
        0.5, 1e308, [rng.choice(WORDS)] * 3, {rng.choice(WORDS): rng.choice(EDGES)}, value, [value],
    )  # fmt: skip
    return rng.choice(choices)


def some_json(data: bytes, rng: random.Random) -> bytes:
    """Values of the document exchanged, as text sometimes; nesting without an end, rarely."""
    if rng.random() < 0.2:
        return some_text(data, rng)
    if rng.random() < 0.02:
        depth = rng.choice((100, 5000, 100_000))
        return rng.choice((b"[" * depth, b"[" * depth + b"]" * depth, b'{"a":' * depth))
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        value = some_value(value, rng)
    return json.dumps(value).encode()


def some_yaml(data: bytes, rng: random.Random) -> bytes:
    """Values of the document exchanged, the text damaged, or aliases that grow."""
    if rng.random() < 0.35:
        return some_text(data, rng)
    if rng.random() < 0.04:
        levels, width = rng.choice(((9, 9), (30, 2), (3, 300), (200, 2)))
        lists = ["a0: &a0 [x, y]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
        key = rng.choice(("critical", "options", "files", "deferred", "exclude", "root"))
        return "\n".join([*lists, f"{key}: *a{levels - 1}"]).encode()
    if rng.random() < 0.03:
        depth = rng.choice((50, 400, 20_000))
        return rng.choice((b"[" * depth, b"{a: " * depth, b"- " * depth, b"a: &a [" + b"*a, " * depth + b"]"))
    value = yaml.safe_load(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        value = some_value(value, rng)
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode("utf-8", "replace")


def some_tree(data: bytes, rng: random.Random) -> bytes:
    """A device tree with words of its structure exchanged for tags and numbers, or with very many nodes."""
    if rng.random() < 0.4:
        return some_bytes(data, rng)
    if rng.random() < 0.02:
        return many_nodes(rng.choice((20_000, 100_000)), deep=rng.random() < 0.3)
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) // 4) * 4
        out[at : at + 4] = struct.pack(">I", rng.choice((1, 2, 3, 4, 9, *EDGES)) & 0xFFFFFFFF)
    return bytes(out)


def many_nodes(count: int, *, deep: bool) -> bytes:
    """A device tree of *count* nodes with one property each, all below the root or each below the one before."""
    node = struct.pack(">I4s3I12s", 1, b"n@1\0", 3, 11, 0, b"vendor,mmc\0")
    body = struct.pack(">II", 1, 0)
    body += node * count + struct.pack(">I", 2) * count if deep else (node + struct.pack(">I", 2)) * count
    body += struct.pack(">II", 2, 9)
    strings = b"compatible\0"
    place = 40 + 16
    size = place + len(body) + len(strings)
    head = struct.pack(">10I", 0xD00DFEED, size, place, place + len(body), 40, 17, 16, 0, len(strings), len(body))
    return head + bytes(16) + body + strings


def some_archive(data: bytes, rng: random.Random) -> bytes:
    """A newc archive with fields of its headers exchanged; what is packed is unpacked before and packed again."""
    method = detect(data)
    if method != "none" and rng.random() < 0.6:
        inner = some_archive(decompress(data), rng)
        return compress(inner, method) if rng.random() < 0.8 else some_bytes(compress(inner, method), rng)
    if rng.random() < 0.3:
        return some_bytes(data, rng)
    if rng.random() < 0.02:
        return a_bomb(rng)
    out = bytearray(data)
    headers = [match.start() for match in re.finditer(b"07070[12][0-9A-Fa-f]{104}", data)]
    for _ in range(rng.randint(1, 3)):
        if not headers:
            return some_bytes(data, rng)
        at = rng.choice(headers) + 6 + 8 * rng.randrange(13)
        out[at : at + 8] = b"%08x" % (rng.choice(EDGES) & 0xFFFFFFFF)
        if rng.random() < 0.4:
            name = rng.choice(headers) + 110
            text = rng.choice(WORDS).encode("utf-8", "surrogateescape")[:40]
            out[name : name + len(text)] = text
    return bytes(out)


def a_bomb(rng: random.Random) -> bytes:
    """Some 32 KB that become hundreds of megabytes, or hundreds of thousands of files."""
    size = rng.choice((64, 300)) << 20
    if rng.random() < 0.5:
        name = b"a"
        head = b"070701" + b"%08x" % 1 + b"%08x" % 0o100644 + b"0" * 8 * 4 + b"%08x" % size + b"0" * 32
        head += b"%08x" % (len(name) + 1) + b"0" * 8 + name + b"\0\0\0"
        chunk, count = bytes(1 << 20), size >> 20
    else:
        head = b""
        one = b"070701" + b"%08x" % 1 + b"%08x" % 0o100644 + b"0" * 8 * 9 + b"%08x" % 2 + b"0" * 8 + b"b\0"
        chunk, count = one.ljust(112, b"\0") * 8192, 40
    packers: list[Any] = [bz2.BZ2Compressor(), lzma.LZMACompressor(preset=0), zstandard.ZstdCompressor().compressobj()]
    packer = rng.choice(packers)
    return packer.compress(head) + b"".join(packer.compress(chunk) for _ in range(count)) + bytes(packer.flush())


def some_elf(data: bytes, rng: random.Random) -> bytes:
    """A module, as mutate.py damages it; what is no ELF file with sections is damaged as bytes."""
    try:
        parse(data)
    except (struct.error, IndexError, UnicodeDecodeError):
        return some_bytes(data, rng)
    made = damage_elf(data, rng) if rng.random() < 0.8 else some_bytes(data, rng)
    return gzip.compress(made, mtime=0) if rng.random() < 0.05 else made


def some_tail(data: bytes, rng: random.Random) -> bytes:
    """A signed module whose end is damaged: the mark, struct module_signature, the PKCS#7 message before it."""
    size = rng.choice((28, 40, 64, 1200))
    return data[:-size] + some_bytes(data[-size:], rng) + rng.choice((b"", b"", b"", data[-40:], b"\0"))
