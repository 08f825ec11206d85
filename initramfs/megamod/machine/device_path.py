"""The way to a device: the modules of every bus, controller and bridge between it and the processor.

Each folder of sysfs above a device is one it hangs on. The module of the driver that is bound there counts; where that
is built in, merged or unknown to the tree, what the device's modalias asks for. Devices that one of them cannot work
without (clocks, regulators, IOMMUs: `supplier:` links, drivers/base/core.c device_links, 6.1) belong to the way too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from megamod.common.text import canonical
from megamod.machine.machine import Machine
from megamod.modules.tree import ModuleTree

_TOP = "sys/devices"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleReason:
    """A module that the machine needs, and why."""

    name: str
    why: str


def modules_on_path(machine: Machine, tree: ModuleTree, path: str, what: str) -> Iterator[ModuleReason]:
    """The modules on the way to the device folder *path* (below sys/devices), the nearest first; *what* it is."""
    seen: set[str] = set()
    queue = [path, *_controllers(machine, path)]
    for start in queue:
        folder = start
        while folder.startswith(_TOP + "/") and folder not in seen:
            seen.add(folder)
            for name in device_modules(machine, tree, folder):
                yield ModuleReason(name=name, why=f"{what}: {label(machine, folder)}")
            yield from _scsi_host(machine, tree, folder, what)
            queue += [found for found in _suppliers(machine, folder) if found not in seen]
            folder = folder.rpartition("/")[0]


def _controllers(machine: Machine, path: str) -> list[str]:
    """With native multipath an NVMe disk hangs on a virtual subsystem, which has links to its controllers
    (nvme_init_subsystem, drivers/nvme/host/core.c, 6.1)."""
    parent = path.rpartition("/")[0]
    if "/nvme-subsystem/" not in path:
        return []
    found = (machine.real_path(f"{parent}/{name}") for name in machine.entries(parent) if name.startswith("nvme"))
    return [other for other in found if other and not other.startswith(f"{parent}/")]


def _scsi_host(machine: Machine, tree: ModuleTree, folder: str, what: str) -> Iterator[ModuleReason]:
    """The driver of a SCSI host says its name itself; that of iSCSI hangs on no device (drivers/scsi/scsi_sysfs.c)."""
    host = folder.rpartition("/")[2]
    driver = canonical(machine.text(f"{folder}/scsi_host/{host}/proc_name"))
    if driver in tree.modules:
        yield ModuleReason(name=driver, why=f"{what}: SCSI {host}")


def _suppliers(machine: Machine, folder: str) -> list[str]:
    links = (name for name in machine.entries(folder) if name.startswith("supplier:"))
    return [found for name in links if (found := machine.real_path(f"{folder}/{name}/supplier"))]


def device_modules(machine: Machine, tree: ModuleTree, folder: str) -> tuple[str, ...]:
    """The loadable modules that drive the device in *folder*: the bound driver's, else what its modalias asks for."""
    bound = canonical(machine.link_name(f"{folder}/driver/module"))
    if bound in tree.modules:
        return (bound,)
    providers = tree.aliases.providers(machine.text(f"{folder}/modalias") or "-")
    driver = canonical(machine.link_name(f"{folder}/driver"))
    if driver and (bound or driver) in tree.builtin:
        return ()
    # A driver that was built in may be a module of another name here (sd, sd_mod): rather one too many than too few. Of
    # several drivers for one device the bound one is meant, if its name tells.
    return (driver,) if driver in providers else providers


def label(machine: Machine, folder: str) -> str:
    """ "pci 0000:00:1f.2": how people and the kernel's messages call the device in *folder*."""
    subsystem = machine.link_name(f"{folder}/subsystem")
    name = folder.rpartition("/")[2]
    return f"{subsystem} {name}".strip()
