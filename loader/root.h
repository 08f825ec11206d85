/* SPDX-License-Identifier: MIT
 *
 * From root= to a mounted file system.
 */
#ifndef ROOT_H
#define ROOT_H

#include "boot.h"

/* Mounts the root file system at /root, with what lies over and under it; on failure it has logged why. `hurry`: the
 * critical stage failed. */
bool mount_root(struct boot *boot, bool hurry);

#endif
