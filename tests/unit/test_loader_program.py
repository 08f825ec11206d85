"""The loader as a program: what kind of file it is on each architecture, how it is compiled, what it says alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from megamod.common.errors import MegamodError
from megamod.common.host import data_folder
from megamod.loader import programs as build

# Compiles, or runs for a minute: not in tests/run.sh --unit.
pytestmark = pytest.mark.heavy

_MACHINES = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64", "arm": "EM_ARM", "riscv64": "EM_RISCV"}
_EXECUTE, _WRITE = 1, 2


@pytest.fixture(params=[(arch, name) for arch in build.ARCHITECTURES for name in build.PROGRAMS], ids="-".join)
def program(request, tmp_path):
    """(architecture, file) of each loader and each keeper."""
    arch, name = request.param
    only = build.compiler_target()
    if only not in (None, arch):
        pytest.skip(f"MEGAMOD_CC compiles for {only}")
    path = tmp_path / name
    path.write_bytes(build.loader_binary(arch) if name == "init" else build.ctl_binary(arch))
    return arch, path


def test_loader_is_a_static_program_of_its_machine_within_64_kib(program):
    arch, path = program
    assert path.stat().st_size <= build.MAX_SIZE
    with path.open("rb") as file:
        elf = ELFFile(file)
        assert elf["e_machine"] == _MACHINES[arch]
        assert elf["e_type"] == "ET_EXEC"
        kinds = [segment["p_type"] for segment in elf.iter_segments()]
        assert "PT_INTERP" not in kinds and "PT_DYNAMIC" not in kinds
        assert elf.get_section_by_name(".symtab") is None


def test_no_memory_of_the_loader_nor_its_stack_is_writable_and_executable(program):
    _, path = program
    with path.open("rb") as file:
        flags = [(segment["p_type"], segment["p_flags"]) for segment in ELFFile(file).iter_segments()]
    assert [kind for kind, flag in flags if flag & _EXECUTE and flag & _WRITE] == []
    assert [flag & _EXECUTE for kind, flag in flags if kind == "PT_GNU_STACK"] == [0]


def test_readelf_finds_no_dynamic_section(program, tool):
    readelf = tool("readelf", package="binutils")
    text = subprocess.run([readelf, "-Wd", program[1]], capture_output=True, text=True, check=True)
    assert "There is no dynamic section in this file." in text.stdout
    assert text.stderr == ""


def test_loader_that_is_not_the_first_process_says_so_and_fails(tmp_path):
    path = tmp_path / "init"
    path.write_bytes(build.loader_binary("x86_64"))
    path.chmod(0o755)
    result = subprocess.run([path], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"megamod: error: {path} must be the first program of a boot (process 1)\n"


def test_ctl_that_is_asked_for_nothing_it_knows_says_what_it_knows(tmp_path):
    path = tmp_path / "ctl"
    path.write_bytes(build.ctl_binary("x86_64"))
    path.chmod(0o755)
    for arguments in ([], ["status", "--xml"], ["trigger"], ["take-over", "now"]):
        result = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
        assert (result.returncode, result.stdout) == (2, "")
        wanted = "usage: megamod-ctl [--at FOLDER] status [--json] | lsmod | trigger STAGE | take-over\n"
        assert result.stderr == wanted


def test_ctl_at_a_folder_reads_the_status_below_it(tmp_path):
    path = tmp_path / "ctl"
    path.write_bytes(build.ctl_binary("x86_64"))
    path.chmod(0o755)
    (tmp_path / "megamod").mkdir()
    (tmp_path / "megamod/status").write_text("critical done 0 0 0 0 0 merged\n")
    result = subprocess.run([path, "--at", tmp_path, "status"], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert result.stdout.splitlines()[1:] == ["critical done 0 0 0 0 0 merged", "keeper: none"]


def test_programs_end_where_their_last_segment_ends(program):
    """No section headers, and nothing else that no kernel reads."""
    path = program[1]
    with path.open("rb") as file:
        elf = ELFFile(file)
        ends = [segment["p_offset"] + segment["p_filesz"] for segment in elf.iter_segments()]
        assert (elf["e_shnum"], elf["e_shoff"]) == (0, 0)
    assert path.stat().st_size == max(ends)


def test_every_loader_in_the_package_is_compiled_from_the_present_sources():
    for arch in build.ARCHITECTURES:
        folder = data_folder("loader") / "bin" / arch
        if build.compiler_target() in (None, arch):
            build.loader_binary(arch)
            assert (folder / "source.sha256").read_text() == build.source_hash(arch)


def test_compiling_twice_gives_the_same_bytes(tmp_path, monkeypatch):
    for number in (1, 2):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache{number}"))
        build.compile_loader("x86_64", tmp_path / f"init{number}")
    assert (tmp_path / "init1").read_bytes() == (tmp_path / "init2").read_bytes()
    assert os.access(tmp_path / "init1", os.X_OK)


def test_unknown_architecture_is_an_error_that_names_the_known_ones():
    with pytest.raises(MegamodError, match=r"no architecture 'mips'.*x86_64, aarch64, arm, riscv64"):
        build.loader_binary("mips")


def test_own_compiler_for_another_machine_is_refused(monkeypatch, tool):
    monkeypatch.setenv("MEGAMOD_CC", tool("gcc", package="gcc"))
    target = build.compiler_target()
    other = next(arch for arch in build.ARCHITECTURES if arch != target)
    with pytest.raises(MegamodError, match=rf"loader for {other}: MEGAMOD_CC \(.*gcc\) compiles for {target}"):
        build.compile_loader(other, Path("nowhere"))


def test_own_compiler_makes_a_loader_that_runs(monkeypatch, tool, tmp_path):
    monkeypatch.setenv("MEGAMOD_CC", tool("gcc", package="gcc"))
    path = tmp_path / "init"
    build.compile_loader(build.compiler_target(), path)
    assert subprocess.run([path], capture_output=True, check=False).returncode == 1


def test_compiler_that_fails_or_is_missing_is_an_error_of_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("MEGAMOD_CC", "/nowhere/cc")
    with pytest.raises(MegamodError, match=r"^MEGAMOD_CC: /nowhere/cc: No such file or directory$"):
        build.compile_loader("x86_64", tmp_path / "init")
    compiler = tmp_path / "cc"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = -dumpmachine ] && echo x86_64-linux && exit\necho "init.c:1: error: no" >&2\nexit 1\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("MEGAMOD_CC", str(compiler))
    with pytest.raises(MegamodError, match=r"^loader for x86_64: the compiler failed: init.c:1: error: no$"):
        build.compile_loader("x86_64", tmp_path / "init")
    assert not (tmp_path / "init").exists()


def test_compiler_version_is_pinned_in_one_way():
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert build.ZIGLANG in tomllib.loads(project.read_text())["project"]["optional-dependencies"]["build"]


def test_system_call_numbers_are_those_of_the_kernels_headers(tool):
    """The numbers of x86_64 against the C library's headers, where this machine has them."""
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists() or shutil.which("gcc") is None:
        pytest.skip("no header of this machine's kernel interface")
    known = dict(re.findall(r"#define __NR_(\w+) (\d+)", header.read_text()))
    source = (data_folder("loader") / "arch/x86_64.h").read_text()
    own = dict(re.findall(r"NR_(\w+) = (\d+)", source))
    assert own and {name: known[name] for name in own} == own


def test_each_of_several_compilers_is_asked_for_its_own_architecture(tmp_path: Path, monkeypatch) -> None:
    """As Debian has them: one cross compiler an architecture."""
    for arch in ("x86_64", "aarch64"):
        program = tmp_path / f"{arch}-gcc"
        program.write_text(f'#!/bin/sh\n[ "$1" != -dumpmachine ] || {{ echo {arch}-linux-gnu; exit; }}\nexit 7\n')
        program.chmod(0o755)
    monkeypatch.setenv("MEGAMOD_CC", f"{tmp_path}/x86_64-gcc -O2; {tmp_path}/aarch64-gcc")
    assert build.compiler_targets() == {"x86_64", "aarch64"}
    with pytest.raises(MegamodError, match="loader for aarch64: the compiler failed: status 7"):
        build.compile_program("aarch64", [])
    with pytest.raises(MegamodError, match=r"loader for arm: MEGAMOD_CC .* compiles for x86_64, aarch64"):
        build.compile_program("arm", [])


def test_programs_that_a_distribution_has_compiled_are_taken_as_they_are(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MEGAMOD_LOADERS", str(tmp_path))
    with pytest.raises(MegamodError, match=r"arm/init: No such file or directory .hint: MEGAMOD_LOADERS names"):
        build.loader_binary("arm")
    (tmp_path / "arm").mkdir()
    (tmp_path / "arm/init").write_bytes(b"\x7fELFinit")
    (tmp_path / "arm/ctl").write_bytes(b"#!/bin/sh")
    assert build.loader_binary("arm") == b"\x7fELFinit"
    with pytest.raises(MegamodError, match="arm/ctl: is not an ELF program"):
        build.ctl_binary("arm")
