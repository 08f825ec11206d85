"""The pieces that trigger a stage from systemd, OpenRC, runit and s6-rc."""

from __future__ import annotations

import subprocess

import pytest

from megamod.common.host import data_folder

SERVICES = data_folder("loader") / "services"


def test_systemd_finds_nothing_wrong_with_the_unit(tool, tmp_path):
    analyze = tool("systemd-analyze", package="systemd")
    unit = (SERVICES / "megamod-stage@.service").read_text()
    assert "ExecStart=/run/megamod/ctl trigger %i\n" in unit
    # verify wants programs that this machine has.
    path = tmp_path / "megamod-stage@usb.service"
    path.write_text(unit.replace("/run/megamod/ctl", "/bin/true"))
    result = subprocess.run([analyze, "verify", "--man=no", path], capture_output=True, text=True, check=False)
    complaints = [line for line in result.stderr.splitlines() if "megamod" in line]
    assert (result.returncode, complaints) == (0, [])


@pytest.mark.parametrize("name", ["megamod-stage.openrc", "megamod-stage.runit", "megamod-stage.s6-rc"])
def test_scripts_are_sound_for_a_posix_shell(tool, name):
    dash = tool("dash", package="dash")
    result = subprocess.run([dash, "-n", SERVICES / name], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_openrc_script_triggers_the_stage_that_its_link_names(tool, tmp_path):
    control = tmp_path / "control"
    subprocess.run(["mkfifo", control], check=True)
    text = (SERVICES / "megamod-stage.openrc").read_text()
    text = text.replace("/run/megamod/control", str(control)).replace("/run/megamod/ctl", "echo ctl")
    script = f"ebegin() {{ :; }}; eend() {{ echo end $1; }}; RC_SVCNAME=megamod-stage.usb\n{text}\nstart\n"
    result = subprocess.run([tool("dash", package="dash"), "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "ctl trigger usb\nend 0\n"


def test_s6_rc_script_makes_a_oneshot_with_its_dependencies(tool, tmp_path):
    command = [tool("dash", package="dash"), SERVICES / "megamod-stage.s6-rc", tmp_path, "usb", "weston", "dbus"]
    subprocess.run(command, check=True)
    folder = tmp_path / "megamod-usb"
    assert (folder / "type").read_text() == "oneshot\n"
    assert (folder / "up").read_text() == "/run/megamod/ctl trigger usb\n"
    assert sorted(path.name for path in (folder / "dependencies.d").iterdir()) == ["dbus", "weston"]
