"""What the backend makes: an sdist of all sources, a wheel of it with all data, an editable install that sees edits."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.loader import backend, programs

TOP = Path(__file__).parents[2]
# Where the package is imported from: the tree, or what was installed.
SOURCE = Path(backend.__file__).parents[2]

_SDIST = "import sys; from megamod.loader import backend; backend.build_sdist(sys.argv[1])"
_SDIST_COMPILED = _SDIST.replace("argv[1])", "argv[1], {'loaders': 'compiled'})")
_OFFLINE = ("--no-deps", "--no-build-isolation", "--no-index", "-qq")


def run(*command: object, cwd: Path = TOP, **environment: str) -> str:
    """What the command printed; its environment names no source root but those of *environment*."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MEGAMOD_CC")}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=kept | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-c", _SDIST, folder, PYTHONPATH="initramfs")
    return next(folder.iterdir())


@pytest.fixture
def unpacked(sdist: Path, tmp_path: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / sdist.name.removesuffix(".tar.gz")


def test_the_sdist_has_every_file_that_git_would_keep(sdist: Path, tool: Callable[..., str], tmp_path: Path) -> None:
    """An empty repository over the tree: what it does not ignore is what could be committed."""
    git = (tool("git", package="git"), f"--git-dir={tmp_path / 'git'}", f"--work-tree={TOP}")
    run(*git, "init", "-q")
    wanted = run(*git, "-c", "core.quotePath=false", "ls-files", "--others", "--exclude-standard").splitlines()
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive}
    assert {"tests/run.sh", "loader/init.c", "profiles/vm.yaml", "initramfs/megamod/cli/main.py"} <= names
    assert names - {"PKG-INFO"} == set(wanted) - {".git"}


def test_programs_of_the_sdist_keep_their_mode(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        modes = {member.name.partition("/")[2]: member.mode for member in archive}
    assert set(modes.values()) <= {0o644, 0o755}
    assert all(
        modes[name] == (0o755 if os.access(TOP / name, os.X_OK) else 0o644) for name in modes if name != "PKG-INFO"
    )


def test_equal_trees_give_equal_sdists(sdist: Path, unpacked: Path, tmp_path: Path) -> None:
    """An sdist of an unpacked sdist: other folder, other times."""
    (unpacked / "PKG-INFO").unlink()
    run(sys.executable, "-c", _SDIST, tmp_path, cwd=unpacked, PYTHONPATH="initramfs")
    assert (tmp_path / sdist.name).read_bytes() == sdist.read_bytes()


@pytest.mark.heavy
def test_a_wheel_of_the_sdist_has_all_data_and_man_finds_its_pages(
    unpacked: Path, tmp_path: Path, tool: Callable[..., str]
) -> None:
    run(sys.executable, "-m", "pip", "wheel", *_OFFLINE, "-w", tmp_path / "out", unpacked)
    (wheel,) = (tmp_path / "out").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {str(path.relative_to(TOP / "initramfs")) for path in (TOP / "initramfs/megamod").rglob("*.py")}
    profiles = {f"megamod/_profiles/{path.name}" for path in (TOP / "profiles").glob("*.yaml")}
    pages = {f"megamod/_docs/{path.name}" for path in (TOP / "initramfs/docs").glob("*.md")}
    loaders = {f"megamod/_loader/bin/{arch}/{name}" for arch in programs.ARCHITECTURES for name in programs.PROGRAMS}
    assert package | profiles | loaders | pages | {"megamod/_profiles/README.md"} <= names
    assert not [name for name in names if name.startswith("tests/")]
    prefix = tmp_path / "prefix"
    with zipfile.ZipFile(wheel) as archive:
        for name in names:
            if data := re.search(r"\.data/data/(share/man/.*)", name):
                (prefix / data[1]).parent.mkdir(parents=True, exist_ok=True)
                (prefix / data[1]).write_bytes(archive.read(name))
    (prefix / "bin").mkdir()
    man = (tool("man", package="man-db"), "-w")
    path = f"{prefix / 'bin'}:{os.environ['PATH']}"
    for page in ("megamod", "megamod-build", "megamod-profile", "megamod-ctl"):
        assert run(*man, page, PATH=path).startswith(str(prefix))


def test_an_sdist_with_loaders_needs_neither_network_nor_compiler(unpacked: Path, tmp_path: Path) -> None:
    """No compiler is on PATH, zig's package cannot be imported; the loaders are as if compiled from these sources."""
    stamps = "from megamod.loader import programs as p; print(*(p.source_hash(a) for a in p.ARCHITECTURES))"
    hashes = run(sys.executable, "-c", stamps, cwd=unpacked, PYTHONPATH="initramfs").split()
    for arch, stamp in zip(programs.ARCHITECTURES, hashes, strict=True):
        folder = unpacked / "loader/bin" / arch
        folder.mkdir(parents=True)
        (folder / "source.sha256").write_text(stamp)
        for name in programs.PROGRAMS:
            (folder / name).write_text(f"{name} of {arch}")
    (tmp_path / "hidden/ziglang").mkdir(parents=True)
    (tmp_path / "hidden/ziglang/__init__.py").write_text("raise SystemExit('there is no zig')\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "out").mkdir()
    nothing = {"PATH": str(tmp_path / "empty"), "PYTHONPATH": f"initramfs:{tmp_path / 'hidden'}"}
    run(sys.executable, "-c", _SDIST_COMPILED, tmp_path / "out", cwd=unpacked, **nothing)
    (sdist,) = (tmp_path / "out").glob("*.tar.gz")
    run(sys.executable, "-m", "pip", "wheel", *_OFFLINE, "-w", tmp_path / "out", sdist, **nothing)
    (wheel,) = (tmp_path / "out").glob("*.whl")
    made = zipfile.ZipFile(wheel)
    for arch in programs.ARCHITECTURES:
        for name in programs.PROGRAMS:
            assert made.read(f"megamod/_loader/bin/{arch}/{name}") == f"{name} of {arch}".encode()
    # A source that was changed wants a compiler again.
    asked = "from megamod.loader import backend; print(backend.get_requires_for_build_wheel())"
    assert run(sys.executable, "-c", asked, cwd=unpacked, **nothing) == "[]\n"
    (unpacked / "loader/init.c").write_text("changed\n")
    assert run(sys.executable, "-c", asked, cwd=unpacked, **nothing) == f"[{programs.ZIGLANG!r}]\n"


def test_an_editable_install_sees_edits_and_compiles_the_loader(
    unpacked: Path, tmp_path: Path, tool: Callable[..., str]
) -> None:
    compiler = tool("gcc", package="gcc")
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    python = venv / "bin/python"
    # What megamod depends on comes from this environment, after the folder of the editable install.
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "z.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(sys.executable, "-m", "pip", "--python", python, "install", *_OFFLINE, "--editable", unpacked)
    assert run(venv / "bin/megamod", "--version").startswith("megamod")
    package = unpacked / "initramfs/megamod"
    assert run(python, "-c", "import megamod; print(megamod.__file__)").strip() == str(package / "__init__.py")
    for text in ("first", "second!"):
        (package / "common/added.py").write_text(f"TEXT = {text!r}\n")
        assert run(python, "-c", "from megamod.common.added import TEXT; print(TEXT)") == f"{text}\n"
    assert not (unpacked / "loader/bin").exists()
    load = "from megamod.loader import programs as p; print(len(p.loader_binary(p.compiler_target())))"
    assert 0 < int(run(python, "-c", load, MEGAMOD_CC=compiler)) <= programs.MAX_SIZE
    assert [path.name for path in (unpacked / "loader/bin").glob("*/init")] == ["init"]


def test_only_a_wheel_without_an_own_compiler_needs_zig(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEGAMOD_CC", raising=False)
    assert backend.get_requires_for_build_editable() == []
    assert backend.get_requires_for_build_sdist() == []
    assert backend.get_requires_for_build_wheel() == [programs.ZIGLANG]
    monkeypatch.setenv("MEGAMOD_CC", "gcc")
    assert backend.get_requires_for_build_wheel() == []


def imported_by(*arguments: str, tmp: Path) -> set[str]:
    """The modules that are imported while the command line runs with *arguments*."""
    script = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "from megamod.cli.main import main\n"
        f"sys.argv = ['megamod', *{list(arguments)!r}]\n"
        "main()\n"
        "print('\\n'.join(sorted(set(sys.modules) - before)), file=open('modules', 'w'))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", script], cwd=tmp, check=True, capture_output=True, env=environment)
    return set((tmp / "modules").read_text().split())


def test_the_help_imports_click_and_nothing_else_of_others(tmp_path: Path) -> None:
    found = imported_by("--help", tmp=tmp_path)
    theirs = {name.partition(".")[0] for name in found} - sys.stdlib_module_names
    assert theirs <= {"click", "megamod", "_distutils_hack"}
    assert len(found) < 160


def test_a_build_imports_no_signatures_and_no_terminal(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("critical: {modules: [ext4]}\n")
    found = imported_by("build", "p.yaml", "-k", "nowhere", tmp=tmp_path)
    assert "megamod.profile.schema" in found
    code = "import megamod.build.recipe, sys; print(' '.join(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    heavy = {name.partition(".")[0] for name in done.stdout.split()}
    assert {"cryptography", "rich", "lz4"} & heavy == set()


def test_a_missing_libarchive_is_named_with_its_package() -> None:
    code = (
        "import ctypes.util\n"
        "ctypes.util.find_library = lambda name: None\n"
        "from megamod.common.errors import MegamodError\n"
        "try:\n    import megamod.image.cpio\n"
        "except MegamodError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "LIBARCHIVE": "/nowhere"}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.startswith("libarchive: the library is not installed (hint: apt install libarchive13t64")
