"""A private apt: any Debian suite and architecture, from the mirror that this machine uses, in a folder of the cache.

Needs apt-get, apt-cache and dpkg-deb. Guarantees that /etc/apt, /var/lib/apt and /var/lib/dpkg are only read and that
nothing is installed. Signatures are checked by apt with the machine's own keyring.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.common.host import find_program, run_program

_NO_MIRROR_HINT = "kernels are taken from the Debian mirror in /etc/apt; run apt-get update if it is there"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "armhf", "riscv64": "riscv64"}
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Apt:
    """A private apt root: *options* are the words that make apt-get and apt-cache use *root* alone."""

    suite: str
    architecture: str
    root: Path
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """The first alternative of a dependency; ``version`` is set where exactly that version is asked for."""

    name: str
    version: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package's candidate version and what it depends on."""

    name: str
    version: str
    architecture: str
    depends: tuple[Dependency, ...]


def host_architecture() -> str:
    """Debian's name of this machine's architecture, ``amd64``; the kernel's own name where Debian has another."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def open_apt(suite: str, *, architecture: str, folder: Path) -> Apt:
    """Make, or make again, the private root for *suite* below *folder*; nothing is fetched yet."""
    _check_word(suite, "suite")
    _check_word(architecture, "architecture")
    targets = run_program([find_program("apt-get", package="apt"), "indextargets"])
    sources = suite_sources(suite, targets=targets, read=_read_text)
    root = (folder / f"{suite}-{architecture}").absolute()
    try:
        for name in ("state/lists/partial", "cache/archives/partial"):
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / "sources.list").write_text("".join(f"{line}\n" for line in sources))
    except OSError as error:
        raise MegamodError(f"{root}: {error.strerror}") from None
    settings = {
        "Dir::Etc::sourcelist": root / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferences": "-",
        "Dir::Etc::preferencesparts": "-",
        "Dir::State": root / "state",
        "Dir::State::lists": root / "state/lists",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": root / "cache",
        "Dir::Cache::archives": root / "cache/archives",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        # The user _apt cannot enter a home folder; without root apt ignores this.
        "APT::Sandbox::User": "root",
        "APT::Update::Error-Mode": "any",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    return Apt(suite=suite, architecture=architecture, root=root, options=tuple(options))


def update(apt: Apt) -> None:
    """Fetch the package lists of *apt*; MegamodError when the network or a signature fails."""
    run_program([find_program("apt-get", package="apt"), *apt.options, "-qq", "update"])


def find_package(apt: Apt, name: str) -> Package:
    """The candidate version of the package *name*."""
    _check_word(name, "package")
    program = find_program("apt-cache", package="apt")
    try:
        text = run_program([program, *apt.options, "show", "--no-all-versions", name])
    except MegamodError as error:
        raise MegamodError(f"{apt.suite} has no package {name} for {apt.architecture}: {error.message}") from None
    fields = _fields(text)
    return Package(
        name=fields["Package"],
        version=fields["Version"],
        architecture=fields["Architecture"],
        depends=tuple(_dependencies(fields.get("Depends", ""))),
    )


def unpack(apt: Apt, packages: Sequence[Package], *, scratch: Path, tree: Path) -> None:
    """Download *packages* into the folder *scratch* and unpack all of them into *tree*, without their scripts."""
    names = [f"{package.name}={package.version}" for package in packages]
    run_program([find_program("apt-get", package="apt"), *apt.options, "-qq", "download", *names], folder=scratch)
    archives = sorted(scratch.glob("*.deb"))
    if len(archives) != len(packages):
        raise MegamodError(f"{scratch}: {len(archives)} of {len(packages)} packages were downloaded")
    program = find_program("dpkg-deb", package="dpkg")
    for archive in archives:
        run_program([program, "-x", archive, tree])
        archive.unlink()


def suite_sources(suite: str, *, targets: str, read: Callable[[Path], str]) -> list[str]:
    """The lines of a sources.list for *suite*: the machine's Debian mirror, and the machine's own parts of that suite.

    *targets* is what ``apt-get indextargets`` prints, *read* gives the text of a file of /etc/apt. The own parts are
    suites like ``bookworm-security``, wherever they come from, but not backports, whose kernels are others.
    """
    indexes = [_fields(block) for block in re.split(r"\n\s*\n", targets.strip())]
    debian = [fields for fields in indexes if fields.get("Created-By") == "Packages" and _is_debian(fields)]
    mirrors = [fields for fields in debian if "security" not in fields.get("Release", "")]
    if not mirrors:
        raise MegamodError("this machine's apt has no Debian mirror", hint=_NO_MIRROR_HINT)
    wanted = [(mirrors[0], suite)]
    wanted += [
        (fields, release)
        for fields in debian
        if (release := fields.get("Release", "")).startswith(f"{suite}-") and "backports" not in release
    ]
    lines = []
    for fields, release in wanted:
        keyring = _keyring(fields, read)
        options = f"[signed-by={keyring}] " if keyring else ""
        lines.append(f"deb {options}{fields['Site']} {release} main")
    return list(dict.fromkeys(lines))


def _is_debian(fields: dict[str, str]) -> bool:
    # The origin stands in the Release file, so it is not known before the machine's first apt-get update.
    origin = fields.get("Origin")
    if origin is not None:
        return origin == "Debian"
    return bool(re.search(r"/debian(-security)?/?$", fields.get("Site", "")))


def _keyring(fields: dict[str, str], read: Callable[[Path], str]) -> str | None:
    """The key file that the machine's entry for this index names, or Debian's own; None is apt's default."""
    entry = fields.get("Sourcesentry", "").rpartition(":")[0]
    text = read(Path(entry)) if entry else ""
    # One stanza of deb822, or one line of the older format, belongs to the site.
    blocks = re.split(r"\n\s*\n", text) if entry.endswith(".sources") else text.splitlines()
    for block in blocks:
        if re.search(rf"{re.escape(fields['Site'].rstrip('/'))}/?(\s|$)", block):
            named = re.search(r"(?im)signed-by\s*[:=]\s*(/[^\s\]]+)", block)
            if named:
                return named[1]
    return str(_KEYRING) if _KEYRING.exists() else None


def _fields(text: str) -> dict[str, str]:
    """The fields of one stanza; continuation lines are left out, none of those read here has any."""
    pairs = (line.partition(":") for line in text.splitlines() if line and not line[0].isspace())
    fields: dict[str, str] = {}
    for name, _, value in pairs:
        fields.setdefault(name, value.strip())
    return fields


def _dependencies(text: str) -> list[Dependency]:
    found = []
    for group in filter(None, (part.strip() for part in text.split(","))):
        match = re.match(r"([a-z0-9][a-z0-9.+-]*)(?::\w+)?\s*(?:\(=\s*([^)\s]+)\s*\))?", group)
        if match:
            found.append(Dependency(name=match[1], version=match[2]))
    return found


def _check_word(text: str, what: str) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", text):
        raise MegamodError(f"{text!r}: not the name of a Debian {what}")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
