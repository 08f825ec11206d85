"""`overlay:` and `verity:` of a profile's root: from the YAML to the plan's records, and what they need of a kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from megamod.build.hash_trees import with_hash_trees
from megamod.build.plan import Plan, PlanLoad, PlanModule, PlanStage, plan_text
from megamod.build.root_requirements import check_root
from megamod.common.choices import Probe
from megamod.common.errors import MegamodError
from megamod.modules.tree import ModuleTree
from megamod.profile.model import Root
from megamod.profile.schema import load_profile
from megamod.select.selection import SelectedModule, SelectedStage, Selection

VERITY = "root-hash: 00FF, hash-device: PARTLABEL=hashes, data-blocks: 256"


def wrong(more: str, old: str = "", new: str = "") -> str:
    return f"from: cmdline, verity: {{{VERITY.replace(old, new) if old else VERITY}{more}}}"


@pytest.fixture
def root(tmp_path):
    """``root("{from: cmdline}")``: what the profile's `root:` means."""

    def read(text: str) -> Root:
        path = tmp_path / "test.yaml"
        path.write_text(f"critical: {{modules: [ext4]}}\nroot: {text}\n")
        return load_profile(path).root

    return read


def records(root: Root) -> list[str]:
    plan = Plan(kernel="6.1.0", root=root, probe=Probe.SYNC, stages=(), softdeps=(), dependents={})
    return plan_text(plan).decode().splitlines()[3:]


def test_overlay_and_verity_become_records_after_the_root(root):
    assert records(root("{from: cmdline, overlay: tmpfs}")) == ["root cmdline", "overlay tmpfs"]
    assert records(root("{from: cmdline, overlay: {tmpfs: size=50%}}"))[1] == "overlay tmpfs size=50%25"
    assert records(root(f"{{from: cmdline, overlay: tmpfs, verity: {{{VERITY}}}}}")) == [
        "root cmdline",
        "overlay tmpfs",
        "verity PARTLABEL=hashes sha256 4096 4096 256 1 00ff -",
    ]


def test_a_root_of_the_profile_becomes_records(root):
    text = """{device: "PARTLABEL=rootfs_${slot}", type: squashfs, flags: "errors=panic",
      slot-from: [androidboot.slot_suffix, rauc.slot], before-mount: {run: [/sbin/check, "a b"], timeout: 1s},
      on-failure: reboot, overlay: {device: LABEL=data, fallback: tmpfs, tmpfs: size=1m, reset: wipe}}"""
    assert records(root(text)) == [
        "root cmdline",
        "device PARTLABEL=rootfs_${slot} squashfs errors=panic",
        "slot androidboot.slot_suffix rauc.slot",
        "before-mount 1000 /sbin/check a%20b",
        "on-failure reboot",
        "overlay device LABEL=data - - tmpfs wipe size=1m",
    ]
    assert records(root("{from: cmdline, type: xfs}")) == ["root cmdline", "device - xfs -"]


def test_a_hash_may_come_from_the_command_line(root):
    assert records(root("{from: cmdline, verity: {from: cmdline}}"))[1] == "verity roothash - 0 0 0 0 - -"
    text = "{from: cmdline, verity: {from: cmdline, hash-device: /dev/vdb, options: [panic_on_corruption]}}"
    assert records(root(text))[1] == "verity /dev/vdb - 0 0 0 0 - - panic_on_corruption"


PRINTED = """VERITY header information for root.verity
UUID:            \tb7bd4d2e-4a9c-4d8f-8d0e-9b6d2d2f0a11
Hash type:       \t1
Data blocks:     \t2560
Data block size: \t1024
Hash blocks:     \t21
Hash block size: \t4096
Hash algorithm:  \tsha512
Salt:            \t00FF
Root hash:      \tABCD
"""


def test_hash_trees_of_slots_are_read_from_what_veritysetup_printed(tmp_path):
    for slot in ("a", "b"):
        (tmp_path / f"verity_{slot}.txt").write_text(PRINTED.replace("ABCD", f"0{slot}" * 16))
    path = tmp_path / "test.yaml"
    path.write_text(
        'critical: {modules: [ext4]}\nroot: {device: "PARTLABEL=root_${slot}", slot-from: rauc.slot, '
        'verity: {from: "verity_${slot}.txt", hash-device: "PARTLABEL=hash_${slot}"}}\n'
    )
    profile = with_hash_trees(load_profile(path))
    assert records(profile.root)[3:] == [
        f"slot-verity {slot} PARTLABEL=hash_${{slot}} sha512 1024 4096 2560 1 {f'0{slot}' * 16} 00ff"
        for slot in ("a", "b")
    ]
    (tmp_path / "verity_a.txt").write_text(PRINTED.replace("Data blocks:", "Blocks:"))
    with pytest.raises(MegamodError, match=r"verity_a.txt: no line `Data blocks: …` that fits"):
        with_hash_trees(load_profile(path))


def test_every_word_of_a_verity_table_can_be_given(root):
    text = "root-hash: ab, salt: 0c, hash-device: same, data-blocks: 7, hash-start: 9, algorithm: sha1, "
    text += "data-block-size: 512, hash-block-size: 1024, options: [panic_on_corruption, ignore_zero_blocks]"
    [_cmdline, record] = records(root(f"{{from: cmdline, verity: {{{text}}}}}"))
    assert record == "verity - sha1 512 1024 7 9 ab 0c panic_on_corruption ignore_zero_blocks"


@pytest.mark.parametrize(
    ("device", "kind"), [("ubi0:root", "ubifs"), ("rootfs", "virtiofs"), ("10.0.0.1:/a", "nfs4"), ("mtd:root", "jffs2")]
)
def test_a_root_that_is_not_a_device_is_named_beside_its_type(root, device, kind):
    assert records(root(f'{{device: "{device}", type: {kind}}}'))[1] == f"device {device} {kind} -"


def test_the_signature_of_a_root_hash_comes_before_the_other_options(root):
    text = "from: cmdline, signature: /etc/roothash.p7s, options: [panic_on_corruption]"
    record = records(root(f"{{from: cmdline, verity: {{{text}}}}}"))[1]
    assert record.endswith(" - - root_hash_sig_key_desc /etc/roothash.p7s panic_on_corruption")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from: cmdline, overlay: disk", "overlay `disk`: only `tmpfs` is known"),
        ("from: cmdline, overlay: {}", "overlay: nothing"),
        ("from: cmdline, overlay: {tmpfs: 'a b'}", "overlay: `a b`"),
        ("exec: /app, overlay: tmpfs", "overlay belongs to {from: cmdline}, not to exec"),
        (f"chain: /init, verity: {{{VERITY}}}", "verity belongs to {from: cmdline}, not to chain"),
        ("device: disk", "device `disk` is not a device such as"),
        ("device: ubi0:root, type: ext4", "device `ubi0:root` is not a device such as"),
        (
            "from: cmdline, verity: {from: cmdline, signature: a.p7s}",
            "verity: signature `a.p7s` is not an absolute path",
        ),
        ("device: /dev/vda, slot-from: rauc.slot", "slot-from, but ${slot} is nowhere"),
        ('device: "LABEL=${slot}"', "${slot} without slot-from"),
        ("from: cmdline, before-mount: {timeout: 1s}", "before-mount: run is missing"),
        ("from: cmdline, on-failure: halt", "on-failure"),
        ("from: cmdline, overlay: {fallback: tmpfs}", "overlay: fallback without a device"),
        ("from: cmdline, overlay: {device: LABEL=x, tmpfs: size=1m}", "overlay: a device, and options of a tmpfs"),
        ("from: cmdline, verity: {from: cmdline, salt: '00'}", "verity: salt comes from where `from` says"),
        ("from: cmdline, verity: {from: FILE}", "verity: hash-device missing"),
        ("overlay: tmpfs", "exactly one of from, exec, chain expected, not nothing"),
        ("from: cmdline, verity: {}", "verity: root-hash, hash-device, data-blocks missing"),
        (wrong(", colour: red"), "verity: unknown key `colour`"),
        (wrong(", salt: xyz"), "verity: salt `xyz` is not in hexadecimal, or `-`"),
        (wrong(", data-block-size: 5"), "verity: data-block-size `5` is not one of"),
        (wrong(", options: ['a b']"), "verity: options: `a b`"),
        (wrong("", "256", "0"), "verity: data-blocks: zero"),
        (wrong("", "PARTLABEL=hashes", "disk"), "verity: hash-device `disk` is not a device"),
        (wrong("", "PARTLABEL=hashes", "same"), "verity: hash-start is missing"),
    ],
)
def test_each_mistake_of_a_layer_is_a_located_error(root, text, message):
    with pytest.raises(MegamodError) as caught:
        root(f"{{{text}}}")
    assert f"root: {message}" in str(caught.value)
    assert "test.yaml:2:" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "modules", "missing"),
    [
        ("{from: cmdline, overlay: tmpfs}", "ext4", "overlay needs overlay in"),
        (f"{{from: cmdline, verity: {{{VERITY}}}}}", "ext4", "verity needs dm_mod and dm_verity in"),
        (f"{{from: cmdline, verity: {{{VERITY}}}}}", "dm_mod", "verity needs dm_verity in"),
        ("{from: cmdline, overlay: tmpfs}", "overlay", None),
    ],
)
def test_a_layer_whose_driver_is_not_there_is_refused(tmp_path, text, modules, missing):
    path = tmp_path / "test.yaml"
    path.write_text(f"critical: {{modules: [ext4]}}\nroot: {text}\n")
    built_in = ModuleTree(
        release="6.1.0",
        folder=Path("/nowhere"),
        modules={},
        indexes={"modules.builtin": "", "modules.builtin.modinfo": ""},
    )
    module = SelectedModule(
        name=modules, path=Path("/nowhere"), relpath="kernel/x.ko", reason="named", rank=(6, 0), after=()
    )
    stage = SelectedStage(name="critical", trigger=None, modules=(module,))
    selection = Selection(profile=load_profile(path), tree=built_in, stages=(stage,), notes=())
    if missing is None:
        check_root(selection)
        return
    with pytest.raises(MegamodError, match=missing):
        check_root(selection)


def test_members_of_a_megamodule_have_their_originals_in_the_plan():
    members = tuple(PlanModule(name=name, needs=()) for name in ("a", "b"))
    load = PlanLoad(
        file="/megamod/m.ko",
        name="m",
        merged=True,
        has_results=True,
        modules=members,
        arguments=("a.x=1",),
        originals=("/megamod/originals/a.ko", "/megamod/originals/b.ko"),
    )
    stage = PlanStage(name="critical", trigger=None, loads=(load,))
    plan = Plan(
        kernel="6.1.0",
        root=Root(kind="cmdline"),
        probe=Probe.SYNC,
        stages=(stage,),
        softdeps=(),
        dependents={},
        fallback="modules",
    )
    lines = plan_text(plan).decode().splitlines()
    assert lines[2] == "fallback modules"
    assert lines[6:] == [
        "member a",
        "member b",
        "original /megamod/originals/a.ko",
        "original /megamod/originals/b.ko",
        "argument a.x=1",
    ]
