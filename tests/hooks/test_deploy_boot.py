"""A deployment on whole systems: stages that come at once, on a delay and on request, with udev none the wiser."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.hooks.conftest import MadeOnce
from tests.hooks.debian_systems import Layer, make_disk, run_in
from tests.hooks.system_boots import REPORT, GuestRun, boot_system

SUITES = ("bookworm", pytest.param("trixie", marks=pytest.mark.slow))
Boot = Callable[[str, str], GuestRun]
# The sound card's driver is in no initramfs; a guest has no other hardware for the rest.
_SOUND = ("-audiodev", "none,id=sound", "-device", "intel-hda", "-device", "hda-duplex,audiodev=sound")
_PROFILE = """\
name: test
critical: {modules: [ext4]}
deferred:
  - {name: sound, modules: [snd_hda_intel, snd_hda_codec_generic], after: userspace}
  - {name: asked, modules: [ifb], after: manual}
  - {name: late, modules: [dummy], after: {delay: 100ms}}
"""
_DEPLOY = """\
cp /image/{image} /boot/initrd.img-{kernel}
mkdir -p /etc/megamod
cat >/etc/megamod/test.yaml <<'END'
{profile}END
/opt/megamod/bin/megamod deploy -k {kernel} -p /etc/megamod/test.yaml
/etc/kernel/postinst.d/zzz-megamod {kernel}
"""
# A member that is asked for by its name has its stage loaded, and is there when modprobe returns.
_LOOK = """\
show waits cat /run/megamod/deploy/megamod/status
show asked modprobe ifb
show ifb ls -d /sys/module/megamod_asked
i=300
while [ $i -gt 0 ] && grep -q ' waiting \\| loading ' /run/megamod/deploy/megamod/status; do i=$((i-1)); sleep 0.1; done
show deployed cat /run/megamod/deploy/megamod/status
show fates cat /run/megamod/deploy/modprobe.d/megamod.conf
show unit systemctl is-active megamod-deploy.service
show path systemctl is-active megamod-deploy-update.path
i=300 # the driver probes its codecs in a work of its own (azx_probe_work(), sound/pci/hda/hda_intel.c)
while [ $i -gt 0 ] && ! grep -q HDA /proc/asound/cards; do i=$((i-1)); sleep 0.1; done
show cards cat /proc/asound/cards
show again modprobe -v snd_hda_intel
"""
# As while a stage is loaded: what the kernel is asked for comes, but for what needs a member; that waits for the end.
_GATE = """\
show gate sh -c '
kept=$(cat /proc/sys/kernel/modprobe)
echo /usr/lib/megamod/gate >/proc/sys/kernel/modprobe
mount -t minix none /mnt 2>/dev/null; ls -d /sys/module/minix
/usr/lib/megamod/gate -q -- snd_usb_audio; echo "held $?"; [ ! -e /sys/module/snd_usb_audio ] || echo too early
/usr/lib/megamod/gate -q -- snd_usb_audio & sleep 0.3; echo "$kept" >/proc/sys/kernel/modprobe
wait $!; echo "let go $?"; ls -d /sys/module/snd_usb_audio'
"""
# The line of a member in modules.dep names another file: what was deployed must not be loaded.
_EXCHANGE = """\
systemctl stop megamod-deploy-update.path
rm -r /run/megamod/deploy
sed -i 's|^kernel/.*/dummy.ko|updates/dummy.ko|' /lib/modules/$(uname -r)/modules.dep
show start /usr/lib/megamod/start $(uname -r)
show leaves ls /run/modprobe.d/megamod-deploy.conf
show said dmesg
"""
_TROUBLE = ("exports duplicate symbol", "already registered", "cannot create duplicate", "Call Trace", "BUG:", "Oops")


@pytest.fixture(scope="session")
def deployed_boot(
    installed: Callable[[str], Layer], plain_image: Callable[[str, str], Path], made_once: MadeOnce
) -> Boot:
    """``deployed_boot("bookworm", "megamod=off")``: a boot of the system that has a deployment."""

    def disk_of(suite: str, layer: Layer) -> Callable[[Path], None]:
        def make(path: Path) -> None:
            image = plain_image(suite, "dracut")
            script = _DEPLOY.format(image=image.name, kernel=layer.system.kernel, profile=_PROFILE)
            upper = path.with_suffix(".upper")
            done = run_in(layer.system, layer, upper, script, bind={image.parent: "image"})
            assert done.stderr.count("megamod: deployed for") == 2, done.stderr
            make_disk(Layer(system=layer.system, uppers=(upper, *layer.uppers)), path)

        return make

    def get(suite: str, append: str) -> GuestRun:
        layer = installed(suite)

        def make(path: Path) -> None:
            run = boot_system(
                layer.system,
                plain_image(suite, "dracut"),
                _LOOK + REPORT + _GATE + _EXCHANGE,
                path.with_suffix(".boot"),
                disk=made_once(f"deployed-{suite}.disk", disk_of(suite, layer)),
                append=append,
                extra=_SOUND,
            )
            path.write_text(json.dumps(asdict(run)))

        return GuestRun(**json.loads(made_once(f"deployed-{suite}-{append}.json", make).read_text()))

    return get


def members_up(run: GuestRun) -> set[str]:
    """The members of the deployment that the keeper found in order."""
    return {line.split()[1] for line in run.section("fates") if line.startswith("install ") and "/bin/true" in line}


@pytest.mark.parametrize("suite", SUITES)
def test_deployed_stages_come_up_once_and_udev_loads_none_of_their_members(suite: str, deployed_boot: Boot) -> None:
    run = deployed_boot(suite, "")
    stages = {line.split()[0]: line.split()[1:] for line in run.section("deployed")}
    assert {name: fields[0] for name, fields in stages.items()} == {
        "critical": "done",
        "sound": "done",
        "asked": "done",
        "late": "done",
    }
    # Failed and skipped members of each.
    assert {(fields[4], fields[5]) for fields in stages.values()} == {("0", "0")}
    assert {"snd_hda_intel", "snd_pcm", "ifb", "dummy"} <= members_up(run)
    assert members_up(run) & run.modules() == set()
    assert {"megamod_sound", "megamod_asked", "megamod_late"} <= run.modules()
    assert [line for line in run.section("log") if any(text in line for text in _TROUBLE)] == []


@pytest.mark.parametrize("suite", SUITES)
def test_what_others_request_while_a_stage_is_loaded_is_not_refused(suite: str, deployed_boot: Boot) -> None:
    run = deployed_boot(suite, "")
    assert run.section("gate") == ["/sys/module/minix", "held 1", "let go 0", "/sys/module/snd_usb_audio"]
    assert [line for line in run.section("log") if "request_module is off" in line] == []


@pytest.mark.parametrize("suite", SUITES)
def test_a_deployed_system_reaches_its_target_with_the_same_devices(suite: str, deployed_boot: Boot) -> None:
    run, plain = deployed_boot(suite, ""), deployed_boot(suite, "megamod=off")
    assert run.section("target") == ["active"]
    assert run.section("failed") == plain.section("failed") == []
    assert run.devices() == plain.devices()
    # The card's name; the line after that has the number of its interrupt.
    assert run.section("cards")[0] == plain.section("cards")[0]
    assert "HDA" in run.section("cards")[0]
    assert [run.section("unit"), run.section("path")] == [["active"], ["active"]]
    assert run.status("again") == 0


@pytest.mark.parametrize("suite", SUITES)
def test_a_member_that_is_asked_for_by_name_brings_its_stage(suite: str, deployed_boot: Boot) -> None:
    run = deployed_boot(suite, "")
    assert any(line.startswith("asked waiting ") for line in run.section("waits"))
    assert [run.status("asked"), run.status("ifb")] == [0, 0]


@pytest.mark.parametrize("suite", SUITES)
def test_a_module_that_was_exchanged_turns_the_deployment_off(suite: str, deployed_boot: Boot) -> None:
    run = deployed_boot(suite, "")
    assert [run.status("start"), run.status("leaves")] == [0, 2]
    assert "megamod: deploy: the modules are not those that it was made of" in "\n".join(run.section("said"))


def test_with_off_nothing_of_the_deployment_is_loaded(deployed_boot: Boot) -> None:
    run = deployed_boot("bookworm", "megamod=off")
    assert not [name for name in run.modules() if name.startswith("megamod")]
    assert {"snd_hda_intel", "ifb"} <= run.modules()
    assert run.status("deployed") != 0
