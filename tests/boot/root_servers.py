"""Servers for roots that are not disks: virtiofsd and NFS-Ganesha, each in a process that ends with its block.

Both serve a folder of this machine and need root. Guests reach the NFS server through QEMU's user network, where this
machine is 10.0.2.2.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Sequence
from pathlib import Path

_SECONDS = 60
_GANESHA = """
NFS_CORE_PARAM {{
	Protocols = 4;
	NFS_Port = {port};
	Bind_addr = 127.0.0.1;
	Enable_UDP = false;
	Enable_NLM = false;
	Enable_RQUOTA = false;
	fsid_device = true;
}}
NFSV4 {{ RecoveryRoot = "{state}"; Graceless = true; Minor_Versions = 1, 2; }}
NFS_KRB5 {{ Active_krb5 = false; }}
EXPORT {{
	Export_Id = 1;
	Path = "{folder}";
	Pseudo = "/export";
	Access_Type = RW;
	Squash = None;
	Protocols = 4;
	Transports = TCP;
	SecType = sys;
	FSAL {{ Name = VFS; }}
}}
"""


@contextlib.contextmanager
def virtiofsd(program: str, folder: Path, work: Path) -> Generator[list[str]]:
    """Serves *folder* once; gives QEMU's options for a guest of 512 MiB, in which it has the tag `rootfs`."""
    path = work / "virtiofsd"
    command = [program, f"--socket-path={path}", "-o", f"source={folder}", "-o", "sandbox=chroot"]
    with _running(command, work / "virtiofsd.log"):
        _wait_for(path.exists, work / "virtiofsd.log")
        yield [
            *("-object", "memory-backend-memfd,id=memory,size=512M,share=on", "-numa", "node,memdev=memory"),
            *("-chardev", f"socket,id=fs,path={path}"),
            *("-device", "vhost-user-fs-pci,chardev=fs,tag=rootfs"),
        ]


@contextlib.contextmanager
def nfs_server(program: str, folder: Path, work: Path) -> Generator[int]:
    """Serves *folder* as `/export` by NFS 4; gives the TCP port of 127.0.0.1 that it listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    state = work / "ganesha"
    state.mkdir()
    config = work / "ganesha.conf"
    config.write_text(_GANESHA.format(port=port, state=state, folder=folder))
    log = work / "ganesha.log"
    command = [program, "-F", "-f", str(config), "-L", str(log), "-p", str(work / "ganesha.pid")]
    with _running(command, work / "ganesha.out"):
        _wait_for(lambda: _listens(port), log)
        yield port


@contextlib.contextmanager
def _running(command: Sequence[str], log: Path) -> Generator[None]:
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


def _wait_for(condition, log: Path) -> None:
    end = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < end, f"the server does not come: {log.read_text(errors='replace')[-2000:]}"
        time.sleep(0.1)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
