/* SPDX-License-Identifier: MIT
 *
 * The root by the type of its partition, where nothing names it.
 */
#ifndef DISCOVER_H
#define DISCOVER_H

#include "device.h"

/* Its name in sysfs. -ENODEV: not there yet; -EPERM: several disks have one, which has been logged. */
long discover_root(const struct boot *boot, char name[NAME_ROOM]);

#endif
