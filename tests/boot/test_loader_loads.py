"""The load calls: arguments, members left out, failures and what depends on them, the mask, broken plans."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boot.loader_images import LABEL, POWER_OFF, UUID, Plan, after, read_module, start_plan, write_loader_image


@pytest.fixture
def modules(kernels) -> Path:
    return kernels("bookworm").modules


@pytest.fixture
def run(kernels, boot, make_root, make_disk_image, tmp_path):
    """``run(plan, "echo hello")``: boot with a root disk; returns the console."""

    def run(plan: Plan | bytes | None, init: str = "true", *, append: str = "") -> str:
        disk = make_disk_image(make_root(init + POWER_OFF), label=LABEL, uuid=UUID)
        image = write_loader_image(tmp_path / "image", plan)
        append = f"root=/dev/vda {append}"
        return boot(image=image, vmlinuz=kernels("bookworm").vmlinuz, disks=[disk], append=append).console

    return run


def test_parameters_reach_a_single_and_the_command_line_wins(run, modules):
    plan = start_plan(modules).single("loop", "max_loop=3", "max_part=3").single("dummy", "numdummies=1")
    init = "cd /sys/module; cat loop/parameters/max_loop loop/parameters/max_part; ls -d /sys/class/net/dummy*"
    append = 'megamod.debug loop.max_loop=5 dummy.numdummies=2 dummy.text="what is this" "dummy.other=a b" '
    append += "loops.max_loop=9 dummy -- dummy.numdummies=9"
    console = run(plan, init, append=append)
    rest = after(console, "debug: load loop: max_loop=3 max_part=3 max_loop=5\n")
    rest = after(rest, 'debug: load dummy: numdummies=1 numdummies=2 text="what is this" "other=a b"\n')
    rest = after(rest, "dummy: unknown parameter 'other' ignored", "megamod: exec", "5\n3\n", "/sys/class/net/dummy1\n")
    assert "dummy2" not in rest


def test_megamodule_gets_the_words_of_its_members_and_its_results_are_read(run, modules):
    plan = start_plan(modules)
    plan.lines.insert(4, "probe async")
    plan.merged("megamod_sound", "soundcore", "snd", "loop", "dummy")
    init = "cd /sys/module/megamod_sound/parameters; cat loop.max_loop snd.major; wc -l </proc/modules; "
    init += "ls -d /sys/class/net/dummy*"
    console = run(plan, init, append="megamod.debug snd.major=99 loop.max_loop=5 dummy.numdummies=2")
    words = "snd.major=99 loop.max_loop=5 dummy.numdummies=2 async_probe"
    after(
        console,
        f"debug: load megamod_sound: {words}\n",
        "load megamod_sound took ",
        "4 ok, 0 failed, 0 skipped",
        "megamod: exec",
        "5\n99\n12\n",
        "dummy1",
    )


def test_members_left_out_take_dependents_along_across_loads_and_stages(run, modules):
    plan = start_plan(modules)
    plan.merged("megamod_one", "soundcore", "snd", "dummy")
    plan.stage("later", "userspace").merged("megamod_two", "snd_timer", "crc_itu_t")
    plan.lines.append("requests -")
    plan.single("snd_hwdep")
    plan.lines.append(f"dependents {plan.ids['snd']} snd_pcm snd-rawmidi")
    plan.lines.append(f"dependents {plan.ids['dummy']} nothing_else")
    plan.lines.append("softdep snd")
    console = run(
        plan,
        "sleep 1; cat /run/modprobe.d/megamod.conf /run/megamod/status /proc/sys/kernel/modprobe",
        append="megamod.skip=x,snd",
    )
    rest = after(console, "member snd skipped: asked for", "load megamod_one took ", "2 ok, 0 failed, 1 skipped")
    rest = after(
        rest,
        "stage later triggered",
        "load megamod_two: request_module is off during this call",
        "member snd_timer skipped: needs snd",
    )
    rest = after(rest, "load megamod_two took ", "1 ok, 0 failed, 1 skipped", "member snd_hwdep skipped: needs snd")
    assert "load snd_hwdep" not in rest
    for line in ("install soundcore /bin/true", "install snd /bin/false", "install snd_timer /bin/false"):
        assert line in rest
    for line in ("install snd_pcm /bin/false", "blacklist snd-rawmidi", "softdep snd pre:", "later done 0 "):
        assert line in rest
    assert "nothing_else" not in rest and "\n/sbin/modprobe\n" in rest


def test_skip_of_the_plan_is_as_if_asked_for_and_megamod_run_takes_it_back(run, modules):
    plan = start_plan(modules, head=["skip snd", "skip loop"])
    plan.merged("megamod_one", "soundcore", "snd", "loop", "dummy").single("snd_hwdep")
    console = run(plan, "cut -d' ' -f1 /proc/modules", append="megamod.run=loop megamod.skip=dummy")
    rest = after(
        console, "member snd skipped: asked for", "member dummy skipped: asked for", "2 ok, 0 failed, 2 skipped"
    )
    after(rest, "member snd_hwdep skipped: needs snd", "stage critical done")
    assert "member loop skipped" not in console


def test_words_that_keep_drivers_out_elsewhere_keep_members_out_as_each_program_means_them(run, modules):
    """The kernel and kmod compare names as they are written; the last module_blacklist= counts; dracut's word is for
    its initramfs, here the critical stage."""
    plan = start_plan(modules).merged("megamod_one", "soundcore", "snd", "loop", "dummy", "tun", "veth")
    plan.single("crc_itu_t").stage("late", "userspace").merged("megamod_late", "snd_timer", "ifb", "macvlan")
    console = run(
        plan,
        "sleep 2; cat /run/megamod/status",
        append="module_blacklist=loop module_blacklist=snd,dummy modprobe.blacklist=tun,crc-itu-t "
        "modprobe.blacklist=ifb rd.driver.blacklist=veth,crc-itu-t,macvlan",
    )
    rest = after(
        console,
        *("member snd skipped: asked for by module_blacklist", "member dummy skipped: asked for by module_blacklist"),
        *(
            "member tun skipped: asked for by modprobe.blacklist",
            "member veth skipped: asked for by rd.driver.blacklist",
        ),
        *("load megamod_one took", "2 ok, 0 failed, 4 skipped"),
        *("member crc_itu_t skipped: asked for by rd.driver.blacklist", "stage late triggered"),
        *("member ifb skipped: asked for by modprobe.blacklist", "1 ok, 0 failed, 2 skipped"),
    )
    assert "member snd_timer skipped: needs snd" in console
    after(rest, "critical done 0")


def test_failing_single_is_named_and_what_needs_it_is_not_loaded(run, modules):
    plan = start_plan(modules)
    plan.single("soundcore", data=b"no module at all" * 100).single("snd").single("dummy")
    console = run(plan, "cat /run/modprobe.d/megamod.conf; cat /run/megamod/status")
    rest = after(console, "load soundcore failed: ENOEXEC (", "load soundcore took ", "0 ok, 1 failed, 0 skipped")
    rest = after(rest, "member snd skipped: needs soundcore", "load dummy took ", "1 ok", "stage critical done")
    rest = after(rest, "megamod: exec", "install soundcore /bin/false", "install snd /bin/false", "critical done 8 ")
    assert "12 1 1" in rest


def test_refused_megamodule_is_an_error_and_the_root_is_still_tried(run, modules):
    plan = start_plan(modules, critical=["virtio_pci", "virtio_blk", "crc32c_generic"])
    plan.merged("megamod_rest", "mbcache", "jbd2", "crc16", "ext4", results=False)
    plan.files["megamod/megamod_rest.ko"] = read_module(modules, "crc16")[:2000]
    console = run(plan, append="rootwait=1")
    rest = after(console, "load megamod_rest failed: ENOEXEC", "0 ok, 4 failed, 0 skipped")
    rest = after(rest, "megamod: error: the critical stage failed", "megamod: error: root /dev/vda: /dev/vda cannot be")
    after(rest, "giving up")


def test_init_that_fails_in_a_megamodule_is_named_with_its_errno(run, modules):
    """applesmc asks the firmware whose machine this is."""
    plan = start_plan(modules).merged("megamod_mixed", "dummy", "applesmc", "loop")
    console = run(plan, "cat /run/modprobe.d/megamod.conf")
    assert "install applesmc /bin/false" in console
    after(
        console,
        "member applesmc failed: -ENODEV",
        "load megamod_mixed took",
        "2 ok, 1 failed, 0 skipped",
        "stage critical done",
        "megamod: exec",
    )


def test_request_module_is_off_during_the_critical_stage_only(run, modules):
    console = run(start_plan(modules), "cat /proc/sys/kernel/modprobe", append="megamod.debug")
    assert "/sbin/modprobe" in after(console, "megamod: exec")
    assert "cannot be changed" not in console


def test_off_loads_nothing_and_says_so(run, modules):
    console = run(start_plan(modules), append="megamod=off rootwait=1")
    after(console, "megamod: off: nothing is loaded", "megamod: error: root /dev/vda: it did not appear")
    assert "megamod: load" not in console


def test_image_without_a_plan_says_so_and_panics(run):
    console = run(None)
    after(console, "megamod: error: /megamod/plan: cannot be read: ENOENT", "giving up", "Kernel panic")


def test_error_of_the_plan_names_its_line_and_nothing_is_loaded(run, modules):
    plan = start_plan(modules)
    plan.lines.append("member astray")
    console = run(plan)
    number = len(plan.lines)
    after(console, f"megamod: error: /megamod/plan:{number}: a member outside a merged load: astray", "Kernel panic")
    assert "megamod: load" not in console
