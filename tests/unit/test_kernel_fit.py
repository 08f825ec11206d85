"""What a kernel's configuration rules out is said at build time."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from megamod.build.kernel_fit import RULES, check_kernel
from megamod.cli.main import main
from megamod.common.errors import MegamodError
from megamod.kernel.config import KernelConfig, parse_config
from megamod.profile.model import Profile
from megamod.profile.schema import load_profile

# What every whole .config begins with, and the options that the rules need.
NEEDED = "BLK_DEV_INITRD BINFMT_ELF MODULES PROC_FS SYSFS DEVTMPFS INOTIFY_USER BLOCK TMPFS NET PROC_SYSCTL PRINTK MMU"
WHOLE = 'CONFIG_CC_VERSION_TEXT="gcc"\n' + "".join(f"CONFIG_{name}=y\n" for name in NEEDED.split())


def config(text: str) -> KernelConfig:
    return parse_config(text, source="config-6.1")


def profile(tmp_path: Path, text: str = "critical: {modules: [ext4]}\n") -> Profile:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    return load_profile(path)


def test_a_kernel_with_all_that_is_needed_has_no_notes(tmp_path: Path) -> None:
    assert check_kernel(profile(tmp_path), config(WHOLE)) == ()


def test_a_kernel_whose_configuration_is_unknown_gets_one_note(tmp_path: Path) -> None:
    (note,) = check_kernel(profile(tmp_path), None)
    assert note.startswith("the kernel's configuration was not found")


def test_part_of_a_configuration_rules_nothing_out(tmp_path: Path) -> None:
    assert check_kernel(profile(tmp_path), config("CONFIG_RD_ZSTD=y\n")) == ()


@pytest.mark.parametrize("option", "BLK_DEV_INITRD BINFMT_ELF MMU MODULES PROC_FS SYSFS DEVTMPFS".split())
def test_an_option_without_which_nothing_boots_is_an_error(tmp_path: Path, option: str) -> None:
    for text in (
        WHOLE.replace(f"CONFIG_{option}=y", f"# CONFIG_{option} is not set"),
        WHOLE.replace(f"CONFIG_{option}=y\n", ""),
    ):
        with pytest.raises(MegamodError, match=rf"^this kernel cannot boot the image: .*CONFIG_{option}\b"):
            check_kernel(profile(tmp_path), config(text))


@pytest.mark.parametrize(
    "option", "INITRAMFS_FORCE CPU_BIG_ENDIAN MODULE_SIG_FORCE IMA_APPRAISE_REQUIRE_MODULE_SIGS".split()
)
def test_an_option_with_which_nothing_boots_is_an_error(tmp_path: Path, option: str) -> None:
    with pytest.raises(MegamodError, match=rf"config-6.1:\d+: CONFIG_{option}=y"):
        check_kernel(profile(tmp_path), config(f"{WHOLE}CONFIG_{option}=y\n"))


@pytest.mark.parametrize("level", ["INTEGRITY", "CONFIDENTIALITY"])
def test_a_locked_down_kernel_wants_signatures_only_if_it_reads_them(tmp_path: Path, level: str) -> None:
    forced = f"{WHOLE}CONFIG_LOCK_DOWN_KERNEL_FORCE_{level}=y\n"
    assert check_kernel(profile(tmp_path), config(forced)) == ()
    with pytest.raises(MegamodError, match="locked down"):
        check_kernel(profile(tmp_path), config(f"{forced}CONFIG_MODULE_SIG=y\n"))


def test_forced_signatures_cost_time_where_the_originals_are_there(tmp_path: Path) -> None:
    falls_back = profile(tmp_path, "critical: {modules: [ext4]}\nfallback: modules\n")
    (note,) = check_kernel(falls_back, config(f"{WHOLE}CONFIG_MODULE_SIG_FORCE=y\n"))
    assert note.startswith("the kernel takes no unsigned modules: without `sign` every module is loaded one by one")


@pytest.mark.parametrize(("timeout", "fatal"), [("", True), (", timeout: 5s", False)])
def test_a_path_that_cannot_be_watched_is_an_error_without_a_timeout(tmp_path: Path, timeout: str, fatal: bool) -> None:
    stage = f"deferred: [{{name: usb, modules: [xhci_pci], after: {{path: /run/x{timeout}}}}}]\n"
    chosen = profile(tmp_path, f"critical: {{modules: [ext4]}}\n{stage}")
    without = config(WHOLE.replace("CONFIG_INOTIFY_USER=y", "# CONFIG_INOTIFY_USER is not set"))
    if fatal:
        with pytest.raises(MegamodError, match="would never be loaded"):
            check_kernel(chosen, without)
    else:
        assert "when their timeouts run out" in check_kernel(chosen, without)[0]


@pytest.mark.parametrize("option", "BLOCK TMPFS NET PRINTK".split())
def test_an_option_that_takes_something_away_is_a_note(tmp_path: Path, option: str) -> None:
    (note,) = check_kernel(profile(tmp_path), config(WHOLE.replace(f"CONFIG_{option}=y\n", "")))
    assert f"CONFIG_{option}" in note


@pytest.mark.parametrize("option", "CMDLINE_FORCE CMDLINE_OVERRIDE SECURITY_LOADPIN_ENFORCE".split())
def test_an_option_that_overrides_something_is_a_note(tmp_path: Path, option: str) -> None:
    (note,) = check_kernel(profile(tmp_path), config(f"{WHOLE}CONFIG_{option}=y\n"))
    assert f"config-6.1:15: CONFIG_{option}=y" in note


def test_a_root_that_is_in_the_image_needs_no_devices(tmp_path: Path) -> None:
    chosen = profile(tmp_path, "critical: {modules: [ext4]}\nroot: {exec: /usr/bin/camera}\n")
    assert check_kernel(chosen, config(WHOLE.replace("CONFIG_DEVTMPFS=y\n", ""))) == ()


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(MegamodError) as caught:
        check_kernel(profile(tmp_path), config('CONFIG_CC_VERSION_TEXT="gcc"\n'))
    assert all(f"CONFIG_{name}" in str(caught.value) for name in NEEDED.split()[:6])


def test_every_rule_is_a_whole_sentence() -> None:
    assert len({(rule.option, rule.why) for rule in RULES}) == len(RULES)
    assert all(rule.why[0].islower() or rule.why.startswith(("/", "IMA ")) for rule in RULES)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("quiet rdinit=/bin/sh", "starts a program other than /init"),
        ("nomodule", "cannot load modules"),
        ("module.sig_enforce", "takes no unsigned modules"),
        ("module.sig-enforce=1 quiet", "takes no unsigned modules"),
        ("lockdown=integrity", "locked down"),
        ("lockdown=confidentiality", "locked down"),
    ],
)
def test_a_word_of_the_built_in_command_line_can_make_the_boot_impossible(tmp_path: Path, words: str, why: str) -> None:
    text = f'{WHOLE}CONFIG_MODULE_SIG=y\nCONFIG_CMDLINE="{words}"\n'
    with pytest.raises(MegamodError, match=rf"{why}.*CONFIG_CMDLINE="):
        check_kernel(profile(tmp_path), config(text))


@pytest.mark.parametrize(
    "words", ["rdinit=/init", "noinitrd root=/dev/vda", "nomodule=0", "xnomodule", "lockdown=none", "console=ttyS0"]
)
def test_other_words_of_the_built_in_command_line_do_not(tmp_path: Path, words: str) -> None:
    # noinitrd is about an old initrd alone: init/do_mounts_initrd.c (6.1); an initramfs has been unpacked before.
    text = f'{WHOLE}CONFIG_MODULE_SIG=y\nCONFIG_CMDLINE="{words}"\n'
    assert check_kernel(profile(tmp_path), config(text)) == ()


@pytest.mark.parametrize("option", ["AEABI", "ARM_THUMB"])
def test_an_arm_kernel_must_execute_what_the_loader_is(tmp_path: Path, option: str) -> None:
    arm = f"{WHOLE}CONFIG_ARM=y\n" + "".join(f"CONFIG_{o}=y\n" for o in ("AEABI", "ARM_THUMB") if o != option)
    assert check_kernel(profile(tmp_path), config(WHOLE)) == ()
    with pytest.raises(MegamodError, match=rf"CONFIG_{option}\b"):
        check_kernel(profile(tmp_path), config(arm))


def test_verity_needs_block_devices(tmp_path: Path) -> None:
    keys = "{root-hash: 00FF, hash-device: PARTLABEL=hashes, data-blocks: 256}"
    chosen = profile(tmp_path, f"critical: {{modules: [ext4]}}\nroot: {{from: cmdline, verity: {keys}}}\n")
    with pytest.raises(MegamodError, match=r"root\.verity needs one"):
        check_kernel(chosen, config(WHOLE.replace("CONFIG_BLOCK=y\n", "")))


@pytest.mark.parametrize("way", ["alone", "with the modules"])
def test_profile_check_judges_a_configuration(
    tmp_path: Path, way: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(config: Path) -> int:
        monkeypatch.setattr(sys, "argv", ["megamod", *command, "--config", str(config)])
        return main()

    profile(tmp_path)
    good, bad = tmp_path / "good.config", tmp_path / "bad.config"
    good.write_text(WHOLE.replace("CONFIG_NET=y\n", "CONFIG_RD_ZSTD=y\n"))
    bad.write_text(f"{WHOLE}CONFIG_MODULE_SIG_FORCE=y\nCONFIG_RD_ZSTD=y\n")
    command = ["profile", "check", str(tmp_path / "p.yaml")]
    if way != "alone":
        folder = tmp_path / "lib/modules/6.1.0"
        (folder / "kernel").mkdir(parents=True)
        (folder / "kernel/ext4.ko").touch()
        (folder / "modules.dep").write_text("kernel/ext4.ko:\n")
        command += ["-k", str(folder)]
    assert check(good) == 0
    assert "note: there are no uevents: the loader polls for devices" in capsys.readouterr().out
    assert check(bad) == 1
    assert f"{bad}:15: CONFIG_MODULE_SIG_FORCE=y" in capsys.readouterr().err
    bad.write_text("#!/bin/sh\n")
    assert check(bad) == 1
    assert "is not a kernel configuration" in capsys.readouterr().err
