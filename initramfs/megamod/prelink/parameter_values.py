"""Would the kernel take a value for a parameter? Its own setters' rules, once more in loader/parameters.c.

Source: kernel/params.c (parse_one(), param_array(), the setters), lib/kstrtox.c, 6.1 and 7.2.
"""

from __future__ import annotations

import re

from megamod.prelink.parameter_kinds import NO_ARGUMENT, OWN, UNSET

_ARRAY = re.compile(r"(.+)\[(\d+)\]")
_BITS = {"byte": 8, "ushort": 16, "short": 16, "int": 32, "uint": 32, "hexint": 32, "ullong": 64}
_SIGNED = ("short", "int", "long")
_MAX_CHARP = 1024  # param_set_charp()
_NUMBER = re.compile(r"(?:0[xX](?=[0-9A-Fa-f])(?P<hex>[0-9A-Fa-f]+)|(?P<octal>0[0-9A-Za-z]+)|(?P<decimal>[0-9]+))\n?")


def takes(kind: str, value: str | None, *, bits: int) -> bool:
    """Would a parameter of *kind* take *value* (None: the word stands alone) in a kernel whose long has *bits*? A kind
    that is not the kernel's takes everything, as far as can be known."""
    array = _ARRAY.fullmatch(kind)
    if kind in (OWN, UNSET):
        return kind == OWN
    if value is None:
        # parse_one(): only those with KERNEL_PARAM_OPS_FL_NOARG
        return kind in NO_ARGUMENT
    if array is None:
        return _takes_one(kind, value, bits)
    values = value.split(",")
    return len(values) <= int(array[2]) and all(_takes_one(array[1], one, bits) for one in values)


def _takes_one(kind: str, value: str, bits: int) -> bool:
    size = len(value.encode("utf-8", "surrogateescape"))
    if kind == "charp":
        return size <= _MAX_CHARP
    if kind.startswith("string:"):
        return size < int(kind.removeprefix("string:"))
    if kind in ("bool", "invbool", "bint"):
        return _is_bool(value)
    return _is_number(value, _BITS.get(kind, bits), kind in _SIGNED)


def _is_bool(value: str) -> bool:
    """kstrtobool(), lib/kstrtox.c: by the first letter, for `o` by the second; newer kernels take t and f, too."""
    value = value.lower()
    return value[:2] in ("on", "of") if value[:1] == "o" else value[:1] in ("y", "t", "1", "n", "f", "0")


def _is_number(value: str, bits: int, signed: bool) -> bool:
    """kstrtoull() and kstrtoll() with base 0, lib/kstrtox.c: one sign, decimal, octal or hexadecimal, a newline."""
    minus = signed and value[:1] == "-"
    found = _NUMBER.fullmatch(value[1:] if minus or value[:1] == "+" else value)
    if found is None:
        return False
    if found["hex"] is not None:
        number = int(found["hex"], 16)
    elif found["octal"] is not None:
        if not re.fullmatch("[0-7]+", found["octal"]):
            return False
        number = int(found["octal"], 8)
    else:
        number = int(found["decimal"])
    return number <= ((1 << (bits - 1)) - (not minus) if signed else (1 << bits) - 1)


def expectation(kind: str) -> str:
    """What a parameter of *kind* takes, in words, for a message."""
    if kind == UNSET:
        return "nothing: it can only be read"
    array = _ARRAY.fullmatch(kind)
    if array is not None:
        return f"at most {array[2]}, separated by commas, each {expectation(array[1])}"
    if kind in ("bool", "invbool", "bint"):
        return "Y or N"
    if kind == "charp":
        return f"at most {_MAX_CHARP} bytes"
    if kind.startswith("string:"):
        return f"fewer than {kind.removeprefix('string:')} bytes"
    return f"a number that fits {kind}"
