"""``megamod prelink`` as a user meets it: one line that names the file, exit status 1, nothing written."""

from __future__ import annotations

import errno
import gzip
import json
import lzma
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zstandard

from megamod.cli import main as cli
from tests.unit.module_factory import GLUE_IMPORTS, Back, Ko

SCRIPT = Path(sys.executable).with_name("megamod")


@dataclass(frozen=True, slots=True)
class Outcome:
    status: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """``run("prelink", "-o", "out.ko", path)``: the console script's entry point, in the test's folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["megamod", *map(str, words)])
        status = cli.main()
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return call


def write(folder: Path, *modules: Ko) -> list[Path]:
    paths = []
    for ko in modules:
        paths.append(folder / f"{ko.name}.ko")
        paths[-1].write_bytes(bytes(ko))
    return paths


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def refused(run: Run, folder: Path, *words: object, output: str = "out.ko") -> str:
    """The one line on stderr of a prelink that must fail; the old output and everything beside it stay."""
    old = folder / output
    old.write_bytes(b"old")
    before = left(folder)
    outcome = run("prelink", "-o", output, *words)
    assert outcome.status == 1, outcome
    assert outcome.out == ""
    assert outcome.err.startswith("megamod: ")
    assert len(outcome.err.splitlines()) == 1
    assert "Traceback" not in outcome.err
    assert "internal error" not in outcome.err
    assert old.read_bytes() == b"old"
    assert left(folder) == before
    return outcome.err.removeprefix("megamod: ").rstrip("\n")


# What works


def test_modules_are_linked_and_the_name_comes_from_the_output(run: Run, tmp_path: Path) -> None:
    outcome = run(
        "prelink", "-o", "my-stage.ko", *write(tmp_path, Ko("core").exports("a"), Ko("disk").calls("a", 0x99))
    )
    assert (outcome.status, outcome.out) == (0, "")
    assert outcome.err.startswith("prelink: 2 members, ")
    assert "relocations 5 → 4, " in outcome.err
    assert Back((tmp_path / "my-stage.ko").read_bytes())[".gnu.linkonce.this_module"].strip(b"\0") == b"my_stage"


def test_quiet_says_nothing(run: Run, tmp_path: Path) -> None:
    assert run("prelink", "-q", "-o", "out.ko", *write(tmp_path, Ko("disk"))) == Outcome(0, "", "")


def test_map_is_json_of_the_same_link(run: Run, tmp_path: Path) -> None:
    assert run("prelink", "-q", "-o", "out.ko", "--map", "out.map", *write(tmp_path, Ko("disk"))).status == 0
    found = json.loads((tmp_path / "out.map").read_text())
    assert (found["version"], found["name"], found["members"][0]["name"]) == (1, "out", "disk")


@pytest.mark.parametrize(
    "pack",
    [
        gzip.compress,
        lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
        zstandard.ZstdCompressor().compress,
        lambda data: data + b"sig" + b"\0" * 8 + b"\0\0\0\3" + b"~Module signature appended~\n",
    ],
    ids=["gz", "xz", "zst", "signed"],
)
def test_packed_and_signed_modules_give_the_same_bytes(
    run: Run, tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    run("prelink", "-q", "-o", "plain.ko", "--name", "x", *write(tmp_path, Ko("disk")))
    (tmp_path / "disk.ko").write_bytes(pack(bytes(Ko("disk"))))
    assert run("prelink", "-q", "-o", "packed.ko", "--name", "x", "disk.ko").status == 0
    assert (tmp_path / "packed.ko").read_bytes() == (tmp_path / "plain.ko").read_bytes()


def test_glue_imports_are_looked_up_in_the_neighbours(run: Run, tmp_path: Path) -> None:
    write(tmp_path, Ko("disk"), Ko("other"), Ko("donor").glue_imports(), Ko("mac80211").glue_imports())
    assert run("prelink", "-q", "-o", "out.ko", "disk.ko", "other.ko").status == 0
    assert GLUE_IMPORTS.items() <= Back((tmp_path / "out.ko").read_bytes()).versions().items()


def test_neighbours_of_another_build_or_no_modules_at_all_are_no_donors(run: Run, tmp_path: Path) -> None:
    write(tmp_path, Ko("disk"), Ko("other", info={"vermagic": "5.0 "}).glue_imports())
    (tmp_path / "junk.ko").write_bytes(b"junk")
    os.mkfifo(tmp_path / "pipe.ko")
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", Ko("far").glue_imports())
    assert run("prelink", "-q", "-o", "out.ko", "disk.ko").status == 0
    assert "__param" not in Back((tmp_path / "out.ko").read_bytes())


# Input that is not a module


def damaged(**changes: Any) -> bytes:
    return bytes(Ko("disk", **changes))


INPUTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "bad.ko: not an ELF file (0 bytes) (hint: a kernel module (.ko) is expected)"),
    "text": (b"hello world\n" * 30, "bad.ko: not an ELF file (360 bytes) (hint: "),
    "truncated": (bytes(Ko("disk"))[:700], "bad.ko: ELF header: the section table at "),
    "truncated header": (bytes(Ko("disk"))[:40], "bad.ko: not an ELF file (40 bytes)"),
    "executable": (damaged(e_type=2), "bad.ko: an executable, not a relocatable (hint: "),
    "shared object": (damaged(e_type=3), "bad.ko: a shared object, not a relocatable (hint: "),
    "other machine": (damaged(machine=8), "bad.ko: built for mips64el, 64 bits, which cannot be linked (hint: "),
    "proprietary": (damaged(info={"license": "Proprietary"}), "bad.ko: its licence 'Proprietary' is not GPL-"),
    "out of tree": (damaged(info={"intree": None}), "bad.ko: the module is out of tree and would taint the kernel"),
    "truncated xz": (lzma.compress(bytes(Ko("disk")))[:-20], "bad.ko: xz data is cut short"),
    "truncated gzip": (gzip.compress(bytes(Ko("disk")))[:-20], "bad.ko: gzip data is cut short"),
    "truncated zstd": (zstandard.compress(bytes(Ko("disk")))[:-5], "bad.ko: zstd data is cut short"),
    "damaged xz": (b"\xfd7zXZ\0" + bytes(50), "bad.ko: xz data is damaged"),
    "bzip2": (b"BZh91AY&SY", "bad.ko: is compressed with bzip2, which is not read (hint: "),
    "gzip of something else": (gzip.compress(b"hello"), "bad.ko: not an ELF file (5 bytes)"),
}  # fmt: skip


@pytest.mark.parametrize("case", INPUTS)
def test_file_that_is_no_module_is_refused(run: Run, tmp_path: Path, case: str) -> None:
    data, text = INPUTS[case]
    (tmp_path / "bad.ko").write_bytes(data)
    assert refused(run, tmp_path, "bad.ko").startswith(text)
    # And after a good one.
    write(tmp_path, Ko("good"))
    assert "bad.ko: " in refused(run, tmp_path, "good.ko", "bad.ko")


def unmergeable(folder: Path) -> list[Path]:
    """Five modules of which two can be merged."""
    tagged, patch = Ko("tagged"), Ko("patch", info={"livepatch": "Y"})
    tagged.symbol("__start_alloc_tags", tagged.data, 0)
    tagged.symbol("__stop_alloc_tags", tagged.data, 8)
    clash = Ko("clash").param("good.speed")
    return write(folder, Ko("good").param("speed"), tagged, patch, clash, Ko("fine"))


def test_all_modules_that_cannot_be_merged_are_named_in_one_run(run: Run, tmp_path: Path) -> None:
    (tmp_path / "junk.ko").write_bytes(b"junk")
    message = refused(run, tmp_path, *unmergeable(tmp_path), "junk.ko")
    assert message.startswith("4 modules cannot be merged: ")
    for part in (
        "tagged.ko: it has its allocation tags inside .data",
        "patch.ko: it is a livepatch",
        "junk.ko: it cannot be read: not an ELF file (4 bytes)",
        "clash.ko: it cannot be merged: ",
    ):
        assert part in message
    assert message.endswith("(hint: --leave-out links the others)")


def test_leave_out_links_the_others_and_says_what_was_left_out(run: Run, tmp_path: Path) -> None:
    outcome = run("prelink", "--leave-out", "-o", "out.ko", *unmergeable(tmp_path))
    assert outcome.status == 0, outcome
    assert "note: left out: patch.ko: it is a livepatch" in outcome.err
    members = [value for key, value in Back((tmp_path / "out.ko").read_bytes()).modinfo() if key == "megamod.member"]
    assert members == ["good", "fine"]


def test_leave_out_with_nothing_left_is_an_error(run: Run, tmp_path: Path) -> None:
    write(tmp_path, Ko("a", info={"livepatch": "Y"}), Ko("b", info={"license": "Proprietary"}))
    message = refused(run, tmp_path, "--leave-out", "a.ko", "b.ko")
    assert message.startswith("2 modules cannot be merged: a.ko: it is a livepatch")
    assert "b.ko: it has the licence 'Proprietary', which is not GPL-compatible" in message


def test_output_is_checked_before_any_module_is_read(run: Run, tmp_path: Path) -> None:
    outcome = run("prelink", "-o", "no/out.ko", "missing.ko")
    assert (outcome.status, outcome.err.partition(": cannot")[0]) == (1, "megamod: no/out.ko")


@pytest.mark.parametrize("case", ["executable", "not an ELF", "truncated", "other machine", "proprietary"])
def test_common_mistakes_have_a_hint(run: Run, tmp_path: Path, case: str) -> None:
    data = INPUTS[{"not an ELF": "text"}.get(case, case)][0]
    (tmp_path / "bad.ko").write_bytes(data)
    assert " (hint: " in refused(run, tmp_path, "bad.ko")


def test_missing_file_is_refused(run: Run, tmp_path: Path) -> None:
    assert refused(run, tmp_path, "no/such.ko") == "no/such.ko: No such file or directory"


def test_folder_as_input_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "folder.ko").mkdir()
    assert refused(run, tmp_path, "folder.ko") == "folder.ko: Is a directory"


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/stdin", "/dev/tty"])
def test_device_as_input_is_refused_at_once(run: Run, tmp_path: Path, device: str) -> None:
    assert refused(run, tmp_path, device).startswith(f"{device}: ")


def test_pipe_as_input_does_not_hang(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ko")
    assert refused(run, tmp_path, "pipe.ko") == "pipe.ko: not a regular file"


def test_file_that_cannot_be_read_is_refused(run: Run, tmp_path: Path) -> None:
    # A regular file whose bytes even root cannot read.
    assert refused(run, tmp_path, "/proc/self/mem") == "/proc/self/mem: Input/output error"


def test_file_beyond_the_limit_is_refused_without_reading_it(run: Run, tmp_path: Path) -> None:
    with (tmp_path / "big.ko").open("wb") as file:
        file.truncate(1 << 40)
    assert refused(run, tmp_path, "big.ko") == f"big.ko: is larger than {256 << 20} bytes"


def test_bomb_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bomb.ko").write_bytes(gzip.compress(bytes(1 << 20), 1) * 300)
    assert refused(run, tmp_path, "bomb.ko").startswith("bomb.ko: gzip data unpacks to more than ")


# Modules that do not fit together


def test_module_of_another_kernel_is_refused(run: Run, tmp_path: Path) -> None:
    paths = write(tmp_path, Ko("disk"), Ko("core", info={"vermagic": "6.2.0 SMP "}))
    message = refused(run, tmp_path, *paths)
    assert message.startswith("core.ko: vermagic '6.2.0 SMP ' differs from disk.ko's '6.1.0-test SMP ")
    assert message.endswith("(hint: take all modules from one lib/modules folder)")


def test_crc_that_does_not_fit_its_exporter_is_refused(run: Run, tmp_path: Path) -> None:
    paths = write(tmp_path, Ko("core").exports("core_add", 1), Ko("disk").calls("core_add", 2))
    message = refused(run, tmp_path, *paths)
    assert message.startswith(
        "disk.ko: the version (CRC) of core_add does not match: disk.ko has 0x00000002, core.ko 0x"
    )
    assert "(hint: modules of different builds" in message


def test_same_module_twice_is_refused(run: Run, tmp_path: Path) -> None:
    paths = write(tmp_path, Ko("disk"))
    (tmp_path / "copy.ko").write_bytes(paths[0].read_bytes())
    assert refused(run, tmp_path, "disk.ko", "copy.ko") == (
        "copy.ko: module disk is given twice (also as disk.ko) (hint: name it once)"
    )
    assert "given twice" in refused(run, tmp_path, "disk.ko", "disk.ko")


def test_cyclic_dependency_is_refused_and_named_whole(run: Run, tmp_path: Path) -> None:
    kos = [Ko(name).exports(f"{name}_sym", 1).calls(f"{needed}_sym", 1) for name, needed in ("ab", "bc", "ca")]
    message = refused(run, tmp_path, *write(tmp_path, Ko("x"), *kos))
    assert message == "a.ko: cyclic dependency: a needs b needs c needs a (hint: such modules cannot be loaded at all)"


# Output


def test_unwritable_output_is_refused(run: Run, tmp_path: Path) -> None:
    write(tmp_path, Ko("disk"))
    outcome = run("prelink", "-q", "-o", "/proc/out.ko", "disk.ko")
    assert outcome.status == 1
    assert outcome.err.startswith("megamod: /proc/out.ko: cannot be written: ")
    assert len(outcome.err.splitlines()) == 1


def test_output_in_a_missing_folder_is_refused(run: Run, tmp_path: Path) -> None:
    write(tmp_path, Ko("disk"))
    outcome = run("prelink", "-q", "-o", "no/out.ko", "disk.ko")
    assert (outcome.status, outcome.err) == (
        1,
        "megamod: no/out.ko: cannot be written: No such file or directory (hint: make its folder first)\n",
    )


@pytest.mark.parametrize(("output", "text"), [(".", "is a folder"), ("/dev/null", "is not a regular file"), ("-", "")])
def test_output_that_is_no_file_is_refused(run: Run, tmp_path: Path, output: str, text: str) -> None:
    write(tmp_path, Ko("disk"))
    outcome = run("prelink", "-q", "--name", "x", "-o", output, "disk.ko")
    assert outcome.status == 1
    assert text in outcome.err
    assert left(tmp_path) == {"disk.ko"}


@pytest.mark.parametrize("name", ["disk.ko", "./disk.ko", "link.ko"])
def test_output_that_is_an_input_is_refused(run: Run, tmp_path: Path, name: str) -> None:
    write(tmp_path, Ko("disk"))
    (tmp_path / "link.ko").symlink_to("disk.ko")
    before = (tmp_path / "disk.ko").read_bytes()
    for words in (["-o", name], ["-o", "out.ko", "--map", name]):
        outcome = run("prelink", *words, "disk.ko")
        assert outcome.status == 1
        assert outcome.err.startswith(f"megamod: {Path(name)}: cannot be written: is a module to link too (hint: ")
    assert (tmp_path / "disk.ko").read_bytes() == before
    assert left(tmp_path) == {"disk.ko", "link.ko"}


@pytest.mark.parametrize("name", ["out.ko", "./out.ko", "sub/../out.ko"])
def test_map_that_is_the_output_is_refused(run: Run, tmp_path: Path, name: str) -> None:
    write(tmp_path, Ko("disk"))
    (tmp_path / "sub").mkdir()
    assert "is the output too" in refused(run, tmp_path, "--map", name, "disk.ko")


def full_after(monkeypatch: pytest.MonkeyPatch, count: int, number: int = errno.ENOSPC) -> None:
    """The disk takes *count* writes more, and half of the next."""
    written = [0]
    real = os.write

    def limited(descriptor: int, data: memoryview) -> int:
        if descriptor < 3:
            return real(descriptor, data)
        written[0] += 1
        if written[0] <= count:
            return real(descriptor, data)
        if written[0] == count + 1:
            return real(descriptor, data[: len(data) // 2])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", limited)


@pytest.mark.parametrize("count", [0, 1], ids=["while writing the module", "while writing the map"])
def test_full_disk_leaves_both_files_as_they_were(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    write(tmp_path, Ko("disk"))
    (tmp_path / "out.map").write_bytes(b"old map")
    full_after(monkeypatch, count)
    message = refused(run, tmp_path, "-q", "--map", "out.map", "disk.ko")
    name = ("out.ko", "out.map")[count]
    assert message == (
        f"{name}: cannot be written: No space left on device "
        "(hint: free some space; what stood there before is unchanged)"
    )
    assert (tmp_path / "out.map").read_bytes() == b"old map"


@pytest.mark.parametrize("place", ["/proc/out.map", "no/out.map", "."])
def test_unwritable_map_leaves_the_output_as_it_was(run: Run, tmp_path: Path, place: str) -> None:
    write(tmp_path, Ko("disk"))
    assert refused(run, tmp_path, "-q", "--map", place, "disk.ko").startswith(f"{place}: cannot be written: ")


def test_unwritable_output_leaves_the_map_as_it_was(run: Run, tmp_path: Path) -> None:
    write(tmp_path, Ko("disk"))
    (tmp_path / "out.map").write_bytes(b"old map")
    assert run("prelink", "-q", "-o", "no/out.ko", "--map", "out.map", "disk.ko").status == 1
    assert (tmp_path / "out.map").read_bytes() == b"old map"
    assert left(tmp_path) == {"disk.ko", "out.map"}


# Names


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"caf\xe9.ko", "caf\\udce9.ko"),
        (b"two\nlines.ko", "two lines.ko"),
        (b"\x1b[31mred.ko", "\\x1b[31mred.ko"),
        (b"car\rriage.ko", "car\\rriage.ko"),
        ("\u2028.ko".encode(), "\\u2028.ko"),
    ],
    ids=["not UTF-8", "line break", "escape", "carriage return", "line separator"],
)
def test_weird_file_name_is_one_harmless_line(run: Run, tmp_path: Path, raw: bytes, shown: str) -> None:
    path = tmp_path / os.fsdecode(raw)
    path.write_bytes(b"junk")
    message = refused(run, tmp_path, path.name)
    assert message.startswith(f"{shown}: not an ELF file")
    assert message.isprintable()


def test_weird_file_name_of_a_good_module_works(run: Run, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9\n.ko")
    path.write_bytes(bytes(Ko("disk")))
    assert run("prelink", "-q", "-o", "out.ko", "--map", "out.map", path.name).status == 0
    assert json.loads((tmp_path / "out.map").read_text())["members"][0]["name"] == "disk"


@pytest.mark.parametrize("output", ["ä.ko", ".ko", "a b.ko", "a" * 56 + ".ko"])
def test_output_whose_name_cannot_be_a_module_asks_for_a_name(run: Run, tmp_path: Path, output: str) -> None:
    write(tmp_path, Ko("disk"))
    assert "(hint: choose another --name)" in refused(run, tmp_path, "disk.ko", output=output)


# The command line itself


def test_no_modules_at_all_is_a_usage_error(run: Run, tmp_path: Path) -> None:
    outcome = run("prelink", "-o", "out.ko")
    assert outcome.status == 2
    assert outcome.err == "megamod: prelink: MODULE.ko… is missing (hint: megamod prelink --help)\n"
    assert left(tmp_path) == set()


@pytest.mark.parametrize(
    "words", [["prelink", "x.ko"], ["prelink", "-o", "o", "--unwind", "no", "x"], ["nonsense"], ["prelink", "--bad"]]
)
def test_wrong_usage_has_no_traceback(run: Run, words: Sequence[str]) -> None:
    outcome = run(*words)
    assert outcome.status == 2
    assert outcome.err.startswith("megamod: ")
    assert len(outcome.err.splitlines()) == 1


def test_internal_error_is_one_line_too(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megamod.prelink.link.prelink_files", lambda files, options, **more: 1 // 0)
    outcome = run("prelink", "-o", "out.ko", *write(tmp_path, Ko("disk")))
    assert outcome.status == 1
    assert outcome.err.startswith("megamod: internal error: ZeroDivisionError: ")
    assert len(outcome.err.splitlines()) == 1


def test_running_out_of_memory_is_said(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(files: object, options: object, **more: object) -> None:
        raise MemoryError

    monkeypatch.setattr("megamod.prelink.link.prelink_files", fail)
    assert run("prelink", "-o", "out.ko", *write(tmp_path, Ko("disk"))) == Outcome(1, "", "megamod: out of memory\n")


# The installed script


def test_installed_script_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "bad.ko").write_bytes(b"junk")
    done = subprocess.run(
        [SCRIPT, "prelink", "-o", "out.ko", "bad.ko"], cwd=tmp_path, capture_output=True, timeout=1200, check=False
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"megamod: bad.ko: not an ELF file (4 bytes) (hint: a kernel module (.ko) is expected)\n"


def test_installed_script_works_in_the_c_locale(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.ko")
    path.write_bytes(b"junk")
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [SCRIPT, "prelink", "-o", "out.ko", path.name],
        cwd=tmp_path, capture_output=True, timeout=1200, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert b"not an ELF file" in done.stderr


SLOW = """
import os, sys, time
from megamod.cli import main as cli
from megamod.prelink import link
def wait(real):
    def slow(*words, **more):
        print("ready", flush=True)
        for _ in range(6000):  # one long sleep could begin just after the signal
            time.sleep(0.1)
        return real(*words, **more)
    return slow
{patch}
sys.argv = ["megamod", "prelink", "-q", "-o", "out.ko", "--map", "out.map", "disk.ko"]
sys.exit(cli.main())
"""
STEPS = {
    "while linking": "link.prelink_files = wait(link.prelink_files)",
    "while writing": "os.fsync = wait(os.fsync)",
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_interrupted_link_leaves_everything_as_it_was(tmp_path: Path, step: str, number: signal.Signals) -> None:
    write(tmp_path, Ko("disk"))
    for name in ("out.ko", "out.map"):
        (tmp_path / name).write_bytes(b"old")
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW.format(patch=STEPS[step])],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=1200)
    if number == signal.SIGINT:
        # click ends the line that the terminal shows ^C in.
        assert (process.returncode, err) == (130, "\nmegamod: interrupted\n")
    else:
        assert (process.returncode, err) == (-number, "")
    assert left(tmp_path) == {"disk.ko", "out.ko", "out.map"}
    assert [(tmp_path / name).read_bytes() for name in ("out.ko", "out.map")] == [b"old", b"old"]


def test_two_links_are_the_same_bytes_in_any_process(tmp_path: Path) -> None:
    kos = [Ko(f"m{n}").exports(f"m{n}_sym").param("debug").calls("printk", 7) for n in range(12)]
    paths = write(tmp_path, *kos, Ko("user").calls("m3_sym", 0x99).glue_imports())
    outputs = set()
    for seed in ("0", "1", "77"):
        subprocess.run(
            [SCRIPT, "prelink", "-q", "-o", "out.ko", "--map", "out.map", *paths],
            cwd=tmp_path, check=True, timeout=1200, env={**os.environ, "PYTHONHASHSEED": seed, "TZ": f"UTC{seed[0]}"},
        )  # fmt: skip
        outputs.add(((tmp_path / "out.ko").read_bytes(), (tmp_path / "out.map").read_bytes()))
    assert len(outputs) == 1


def test_order_of_arguments_is_the_link_order_of_equals(run: Run, tmp_path: Path) -> None:
    """What is guaranteed: the same files in the same order give the same bytes; the order is that of the inits, as far
    as dependencies leave it open."""
    paths = write(tmp_path, Ko("a").exports("a_sym"), Ko("b").calls("a_sym", 0x99), Ko("c"))
    orders = {}
    for name, chosen in (("abc", [0, 1, 2]), ("cba", [2, 1, 0])):
        run("prelink", "-q", "--name", "x", "-o", f"{name}.out", "--map", f"{name}.map", *(paths[n] for n in chosen))
        members = json.loads((tmp_path / f"{name}.map").read_text())["members"]
        orders[name] = "".join(member["name"] for member in members)
    assert orders == {"abc": "abc", "cba": "cab"}
