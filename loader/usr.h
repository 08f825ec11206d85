/* SPDX-License-Identifier: MIT
 *
 * A /usr of its own.
 */
#ifndef USR_H
#define USR_H

#include "boot.h"

/*
 * Mounts what mount.usr= names, or the fstab of the root, at /root/usr; true if there is none. On failure it has logged
 * why.
 */
bool mount_usr(struct boot *boot, u64 seconds);

#endif
