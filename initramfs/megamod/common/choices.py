"""The choices that a profile and the command line offer: one enum each, its values the words that people write."""

from __future__ import annotations

from enum import StrEnum


class Tracing(StrEnum):
    """Whether ftrace can trace the functions of a megamodule."""

    OFF = "off"
    KEEP = "keep"


class Unwind(StrEnum):
    """How much of the members' stack unwinding tables a megamodule keeps."""

    KEEP = "keep"
    COMPACT = "compact"
    DROP = "drop"


class Symbols(StrEnum):
    """Which of the members' symbols a megamodule keeps."""

    KEEP = "keep"
    TRIM = "trim"


class StaticCalls(StrEnum):
    """Whether the kernel patches the members' static call sites when it loads them."""

    TRAMPOLINE = "trampoline"
    PATCH = "patch"


class Imports(StrEnum):
    """How imports of the kernel are bound: by their distance in one build of it, or each by its name."""

    DISTANCE = "distance"
    NAMES = "names"


class Order(StrEnum):
    """In which order the inits of one initcall level are called: by what waits for devices, or as in a static link."""

    WAITS = "waits"
    LINK = "link"


class Probe(StrEnum):
    """How drivers probe their devices: SYNC one after the other, and the boot waits for what they leave to be done
    later; ROOT the same, but the boot goes on as soon as the root is there; ASYNC all at once."""

    SYNC = "sync"
    ROOT = "root"
    ASYNC = "async"


class Compress(StrEnum):
    """How an image is compressed; AUTO measures and takes one of the others."""

    NONE = "none"
    GZIP = "gzip"
    LZ4 = "lz4"
    XZ = "xz"
    ZSTD = "zstd"
    AUTO = "auto"


class CompressDeferred(StrEnum):
    """How the modules of deferred stages lie in an image until their stage comes; AUTO weighs time against size."""

    AUTO = "auto"
    LZ4 = "lz4"
    NONE = "none"


class Fallback(StrEnum):
    """What an image holds for a kernel that refuses a megamodule."""

    NONE = "none"
    MODULES = "modules"


class Merging(StrEnum):
    """What becomes of a module that cannot be merged: IF_POSSIBLE loads it on its own, REQUIRED is an error."""

    IF_POSSIBLE = "if-possible"
    REQUIRED = "required"


class Shell(StrEnum):
    """Who gets a shell from the loader: IF_PRESENT whoever has an emergency, if the image has one; NONE nobody."""

    IF_PRESENT = "if-present"
    NONE = "none"


class Digest(StrEnum):
    """The digest of a module's signature; AUTO takes the one that the kernel's configuration names."""

    AUTO = "auto"
    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"
