"""Logs of boots for the chart's tests: what Debian 6.1 and the loader wrote, cut to what matters, times made round."""

from __future__ import annotations

import re

# One call for three members, a root, one deferred stage of a single. Times are in seconds, a call's in microseconds.
LOG = """\
[    0.000000] Linux version 6.1.0-56-amd64 (debian-kernel@lists.debian.org) #1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2
[    0.000000] Command line: console=ttyS0 megamod.times
[    0.400000] smp: Brought up 1 node, 1 CPU
[    0.600000] Trying to unpack rootfs image as initramfs...
[    0.700000] Freeing initrd memory: 1308K
[    1.600000] Freeing unused decrypted memory: 2036K
[    1.700000] Run /init as init process
[    1.701000] megamod: start
[    1.702000] megamod: stage critical triggered by now
[    1.702100] megamod: used 1500000000 ns
[    1.703000] copied: (security_kernel_post_read_file+0x0/0x70)
[    1.713000] module_load: megamod_critical E
[    1.752130] virtio_blk virtio0: [vda] 131072 512-byte logical blocks (67.1 MB/64.0 MiB)
[    1.762700] megamod: member crc32c_intel failed: -ENODEV
[    1.762800] megamod: load megamod_critical took 60400 us: 2 ok, 1 failed, 0 skipped
[    1.762900] megamod: inits megamod_critical crc32c_intel=1000 virtio_blk=49000000 ext4=200000
[    1.763100] megamod: used 1531000000 ns
[    1.763200] megamod: stage critical done
[    1.766000] megamod: root /dev/vda ext4 mounted
[    1.766100] megamod: used 1534000000 ns
[    1.767000] megamod: used 1534900000 ns
[    1.767100] megamod: exec /sbin/init
[    2.000000] megamod: stage sound triggered by userspace
[    2.000100] megamod: used 1600000000 ns
[    2.000500] copied: (security_kernel_post_read_file+0x0/0x70)
[    2.004000] module_load: snd
[    2.005200] megamod: load snd took 5000 us: 1 ok, 0 failed, 0 skipped
[    2.005300] megamod: used 1605200000 ns
[    2.005400] megamod: stage sound done
"""

# The same boot without the words that make loader and kernel tell more.
PLAIN = "".join(
    line for line in LOG.splitlines(keepends=True) if not re.search(r" used | inits |copied: |module_load: ", line)
)

STATUS = {
    "version": 1,
    "kernel": "6.1.0-56-amd64",
    "off": False,
    "stages": [
        {
            "name": "critical",
            "state": "done",
            "trigger": "now",
            "triggered": "now",
            "fallback": False,
            "errno": 0,
            "nanoseconds": 60400000,
            "ok": 2,
            "failed": 1,
            "skipped": 0,
            "loads": [
                {
                    "name": "megamod_critical",
                    "kind": "merged",
                    "loaded": "own",
                    "errno": 0,
                    "nanoseconds": 60400000,
                    "members": [
                        {"name": "crc32c_intel", "state": "failed", "result": -19, "nanoseconds": 1000},
                        {"name": "virtio_blk", "state": "ok", "result": 0, "nanoseconds": 49000000},
                        {"name": "ext4", "state": "ok", "result": 0, "nanoseconds": 200000},
                    ],
                }
            ],
        },
        {
            "name": "sound",
            "state": "waiting",
            "trigger": "manual",
            "triggered": None,
            "fallback": False,
            "errno": 0,
            "nanoseconds": 0,
            "ok": 0,
            "failed": 0,
            "skipped": 0,
            "loads": [{"name": "snd", "kind": "single", "loaded": "none", "errno": 0, "nanoseconds": 0, "members": []}],
        },
    ],
}


def without_times(log: str) -> str:
    """As ``dmesg -t`` prints it."""
    return re.sub(r"^\[ *\d+\.\d+\] ", "", log, flags=re.MULTILINE)
