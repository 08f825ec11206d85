"""The modules of an unpacked kernel: names, files, dependencies and plain bytes, read without any code of megamod."""

import gzip
import lzma
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import zstandard


@dataclass(frozen=True)
class Tree:
    """lib/modules/KVER by modules.dep. files: canonical name → path; needs: name → all names it depends on."""

    folder: Path
    files: dict[str, Path]
    needs: dict[str, tuple[str, ...]]

    def closure(self, names: tuple[str, ...] | list[str]) -> tuple[str, ...]:
        """The names and everything they need, sorted."""
        found = {n for n in names if n in self.files}
        for name in list(found):
            found |= set(self.needs[name])
        return tuple(sorted(found))

    def users(self) -> dict[str, set[str]]:
        """name → the names that need it, directly or not."""
        result: dict[str, set[str]] = {name: set() for name in self.files}
        for name, needs in self.needs.items():
            for other in needs:
                result[other].add(name)
        return result


def canonical(path: str) -> str:
    """The module's name from a path in modules.dep."""
    return path.rpartition("/")[2].split(".ko")[0].replace("-", "_").replace(",", "_")  # name-fix-token in Kbuild


def open_folder(folder: Path) -> Tree:
    """Reads modules.dep. folder: lib/modules/KVER, or any folder above exactly one such."""
    if not (folder / "modules.dep").is_file():
        below = sorted(folder.glob("**/modules.dep"))
        if len(below) != 1:
            raise SystemExit(f"{folder}: {len(below)} modules.dep below it, one is needed (run depmod)")
        folder = below[0].parent
    files, needs = {}, {}
    for line in (folder / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        name = canonical(path)
        files[name] = folder / path
        needs[name] = tuple(canonical(other) for other in rest.split())
    return Tree(folder, files, needs)


@lru_cache(maxsize=600)
def plain(path: Path) -> bytes:
    """A module's bytes, decompressed."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".zst":
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return gzip.decompress(data) if path.suffix == ".gz" else data
