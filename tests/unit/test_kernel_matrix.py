"""The matrix of self-built kernels: which boots are faults, and what the report says of them; consoles made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from tests.boot.image_fixtures import Guest
from tests.kernels.matrix import Result, compare_boots, compare_reserve, profile_text, report_text, run_row
from tests.kernels.table import ROWS

STATUS = "critical done 10 20 5 0 0\nlate done 30 40 7 0 0"


def guest(*log: str, status: str = STATUS, end: bool = True, timed_out: bool = False) -> Guest:
    lines = "\n".join(f"[    {number}.000000] {line}" for number, line in enumerate(["Linux version 6.12", *log]))
    shown = f"\n[[[ status\n{status}\n]]] status 0\n[[[ log\n{lines}\n]]] log 0\n" if end else f"\n{lines}\n"
    return Guest(console=f"[    0.000000] Linux version 6.12\n{shown}", returncode=0, timed_out=timed_out, seconds=1)


def compared(wanted: Guest, found: Guest) -> Result:
    result = Result(name="thumb2", release="6.12.1-thumb2", modules=12)
    compare_boots(wanted, found, result)
    return result


def test_a_boot_like_the_one_with_stock_modules_has_no_fault() -> None:
    result = compared(guest(), guest())
    assert (result.stock, result.boot, result.complaints, result.faults) == ("ok", "ok", "0", [])
    assert result.status == "done: 12 ok, 0 failed, 0 skipped"


def test_a_panic_is_a_fault_with_what_the_kernel_said_first() -> None:
    panic = "Kernel panic - not syncing: Attempted to kill init!"
    result = compared(guest(), guest("CFI failure at do_one_initcall", "Modules linked in:", panic, "---[", end=False))
    assert result.boot == "panic"
    assert result.faults == ["boot: [    1.000000] CFI failure at do_one_initcall", f"boot: [    3.000000] {panic}"]


def test_a_boot_that_does_not_end_is_a_fault() -> None:
    result = compared(guest(), guest("megamod: stage late triggered by userspace", end=False, timed_out=True))
    assert result.boot == "too slow"
    assert result.faults == ["boot: [    1.000000] megamod: stage late triggered by userspace"]


def test_a_module_that_only_the_merged_boot_lacks_is_a_fault() -> None:
    usual, new = "megamod: member sha256_ce failed: -19 ENODEV", "megamod: member loop failed: -12 ENOMEM"
    assert compared(guest(usual), guest(usual)).faults == []
    assert compared(guest(usual), guest(usual, new)).faults == [f"missing: {new}"]


def test_a_complaint_that_only_the_merged_boot_has_is_a_fault() -> None:
    usual = "WARNING: CPU: 0 PID: 1 at mm/slub.c:7 f+0x10/0x20"
    later = "WARNING: CPU: 3 PID: 9 at mm/slub.c:7 f+0x10/0x40"
    assert compared(guest(usual), guest(later)).faults == []
    result = compared(guest(), guest(usual))
    assert result.complaints == "1"
    assert [fault.partition(":")[0] for fault in result.faults] == ["complaint"]


def test_a_stage_that_failed_is_a_fault() -> None:
    result = compared(guest(), guest(status="critical done 10 20 5 0 0\nlate failed 30 40 0 7 0"))
    assert result.status == "done/failed: 5 ok, 7 failed, 0 skipped"
    assert result.faults == ["stage late: failed"]


def test_a_log_without_times_is_noted_since_its_complaints_are_not_seen() -> None:
    log = "[[[ status\ncritical done 1 2 3 0 0\n]]] status 0\n[[[ log\nLinux version 6.12\n]]] log 0\n"
    plain = Guest(console=log, returncode=0, timed_out=False, seconds=1)
    assert compared(plain, plain).notes == ["its log has no times: the kernel's own complaints are not recognized"]


@pytest.mark.parametrize(
    ("line", "faults"),
    [
        ("percpu: Embedded 44 pages/cpu s143384 r8192 d28648 u262144", 0),
        ("percpu: Embedded 44 pages/cpu s143384 r0 d28648 u262144", 0),
        ("percpu: 12 4K pages/cpu s20480 r65536 d12288", 1),
        ("Linux version 6.12", 0),
    ],
)
def test_the_reserve_of_per_cpu_data_is_what_the_kernel_says(line: str, faults: int) -> None:
    result = Result(name="alloc-tags", release="6.12.1", modules=12)
    compare_reserve(f"[    0.1] {line}\n", 8192, result)
    assert len(result.faults) == faults


def test_a_row_that_breaks_off_is_a_fault_and_not_the_end(tmp_path: Path) -> None:
    nowhere = Kernel(release="6", modules=tmp_path, vmlinuz=tmp_path, config=tmp_path, architecture="amd64")
    result = run_row(ROWS["rt"], nowhere, tmp_path / "no", cases=0, boot=True, timeout=1, say=lambda line: None)
    assert [fault.partition(":")[0] for fault in result.faults] == ["the row is broken off"]


def test_without_a_stock_boot_complaints_are_not_called_compared() -> None:
    result = compared(guest("Kernel panic - not syncing: no root", end=False), guest())
    assert (result.stock, result.boot, result.complaints) == ("panic", "ok", "0, not compared")
    assert result.notes == ["one by one: [    1.000000] Kernel panic - not syncing: no root"]


def test_the_root_s_modules_are_critical_and_all_others_are_in_the_deferred_stage() -> None:
    text = profile_text(["loop", "ext4", "virtio_blk", "dm_mod", "virtio_pci"])
    assert "critical: {modules: [virtio_pci, virtio_blk, ext4]}" in text
    assert "modules: [dm_mod, loop]" in text
    assert "root: {from: cmdline}" in text


def test_a_kernel_without_disks_runs_from_the_image_half_of_its_modules_critical() -> None:
    text = profile_text(["nls_base", "fuse", "aes_generic", "msr"])
    assert "critical: {modules: [aes_generic, fuse]}" in text
    assert "modules: [msr, nls_base]" in text
    assert "root: {exec: /main}" in text


@pytest.mark.parametrize("count", [0, 3])
def test_the_report_groups_singles_by_reason(count: int) -> None:
    singles = {"is built with kCFI": count} if count else {}
    result = Result(name="kcfi", release="6.12.1-kcfi", modules=12, merged=12 - count, singles=singles, build="ok")
    lines = report_text([result]).splitlines()
    assert lines[2] == f"| 6.12.1-kcfi | {12 - count} of 12 | {count} | ok | - | - | - | - | - |"
    assert ("- 3 on their own: is built with kCFI" in lines) == bool(count)


def test_the_report_shows_the_first_faults_and_counts_the_rest() -> None:
    result = Result(name="a", release="a", modules=1, faults=[f"complaint: {number}" for number in range(15)])
    lines = report_text([result]).splitlines()
    assert lines[-2:] == ["- **complaint: 11**", "- and 3 faults more"]
