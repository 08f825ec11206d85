"""Flattened trees: bytes ↔ nodes with properties. Device trees (.dtb) are such, and U-Boot's FIT images.

Source: Devicetree Specification 0.4, chapter 5 (header, structure block, strings block). Version 17 is written, 16 and
17 are read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

MAGIC = b"\xd0\x0d\xfe\xed"
_HEADER = struct.Struct(">10I")
_MOST_LEVELS = 64  # as the kernel reads (FDT_MAX_DEPTH, drivers/of/fdt.c, 6.12)
_BEGIN, _END_NODE, _PROPERTY, _NOP, _END = 1, 2, 3, 4, 9


class DamagedTreeError(ValueError):
    """What is wrong with the bytes of a tree, in a few words."""


@dataclass(slots=True)
class TreeNode:
    """A node: its *name* with the unit address, "" for the root; properties are bytes, in their order."""

    name: str
    properties: dict[str, bytes] = field(default_factory=dict)
    children: list[TreeNode] = field(default_factory=list)

    def child(self, name: str) -> TreeNode:
        """A new node below this one."""
        made = TreeNode(name)
        self.children.append(made)
        return made

    def put(self, **texts: str) -> None:
        """Properties that are one text each."""
        self.properties.update({name: texts_bytes(text) for name, text in texts.items()})

    def find(self, name: str) -> TreeNode | None:
        """The node of that name below this one."""
        return next((each for each in self.children if each.name == name), None)


def texts_bytes(*texts: str) -> bytes:
    """A property that is a list of texts."""
    return b"".join(text.encode() + b"\0" for text in texts)


def words_bytes(*words: int) -> bytes:
    """A property that is a list of 32-bit words."""
    return struct.pack(f">{len(words)}I", *words)


def texts_of(data: bytes) -> tuple[str, ...]:
    """The texts of a property, none if it is not a list of texts."""
    if len(data) < 2 or data[-1] != 0:
        return ()
    parts = data[:-1].split(b"\0")
    if not all(part and part.isascii() and part.decode("ascii").isprintable() for part in parts):
        return ()
    return tuple(part.decode("ascii") for part in parts)


def words_of(data: bytes) -> tuple[int, ...]:
    """The 32-bit words of a property, none if its length is not a multiple of four."""
    return struct.unpack(f">{len(data) // 4}I", data) if len(data) % 4 == 0 else ()


def read_tree(data: bytes) -> TreeNode:
    """The root of the tree that *data* begins with; raises DamagedTreeError."""
    if len(data) < _HEADER.size or data[:4] != MAGIC:
        raise DamagedTreeError("no header")
    _magic, total, structure, strings, _reserve, version, oldest, _cpu, strings_size, size = _HEADER.unpack_from(data)
    if version < 16 or oldest > 17:
        raise DamagedTreeError(f"version {version} is not supported")
    if total > len(data) or strings + strings_size > total or (version >= 17 and structure + size > total):
        raise DamagedTreeError("cut short")
    names = data[strings : strings + strings_size]
    top: TreeNode | None = None
    path: list[TreeNode] = []
    for kind, name, value in _tokens(data[structure:total], names):
        if kind == _BEGIN:
            node = TreeNode(name)
            if path:
                path[-1].children.append(node)
            elif top is None:
                top = node
            else:
                raise DamagedTreeError("two roots")
            path.append(node)
            if len(path) > _MOST_LEVELS:
                raise DamagedTreeError(f"it has more than {_MOST_LEVELS} levels")
        elif not path:
            raise DamagedTreeError("it has no root node")
        elif kind == _END_NODE:
            path.pop()
        else:
            path[-1].properties[name] = value
    if top is None or path:
        raise DamagedTreeError("it has no root node" if top is None else "it ends within a node")
    return top


def _tokens(block: bytes, names: bytes) -> Iterator[tuple[int, str, bytes]]:
    position = 0
    while True:
        (kind,) = _unpacked(">I", block, position)
        position += 4
        if kind == _END:
            return
        if kind == _NOP:
            continue
        if kind == _BEGIN:
            end = block.find(b"\0", position)
            if end < 0:
                raise DamagedTreeError("a name without an end")
            yield kind, _text(block[position:end]), b""
            position = (end + 4) & ~3
        elif kind == _PROPERTY:
            length, offset = _unpacked(">II", block, position)
            position += 8
            if position + length > len(block) or offset >= len(names):
                raise DamagedTreeError("a property leads out of the file")
            yield kind, _text(names[offset : names.find(b"\0", offset)]), block[position : position + length]
            position = (position + length + 3) & ~3
        elif kind == _END_NODE:
            yield kind, "", b""
        else:
            raise DamagedTreeError(f"token {kind} at {position - 4:#x} of the structure block")


def _unpacked(form: str, block: bytes, position: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(form, block, position)
    except struct.error:
        raise DamagedTreeError("the structure block has no end") from None


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def tree_bytes(root: TreeNode) -> bytes:
    """The tree flattened; the same nodes give the same bytes."""
    structure = bytearray()
    strings = bytearray()
    offsets: dict[str, int] = {}

    def put(node: TreeNode) -> None:
        structure.extend(struct.pack(">I", _BEGIN) + node.name.encode() + b"\0")
        structure.extend(bytes(-len(structure) % 4))
        for name, value in node.properties.items():
            if name not in offsets:
                offsets[name] = len(strings)
                strings.extend(name.encode() + b"\0")
            structure.extend(struct.pack(">III", _PROPERTY, len(value), offsets[name]) + value)
            structure.extend(bytes(-len(structure) % 4))
        for child in node.children:
            put(child)
        structure.extend(struct.pack(">I", _END_NODE))

    put(root)
    structure.extend(struct.pack(">I", _END))
    # The memory reservation block: an empty one is one entry of zeros.
    reserve, start = _HEADER.size, _HEADER.size + 16
    strings_at = start + len(structure)
    total = strings_at + len(strings)
    header = _HEADER.pack(0xD00DFEED, total, start, strings_at, reserve, 17, 16, 0, len(strings), len(structure))
    return header + bytes(16) + structure + strings
