/* SPDX-License-Identifier: MIT
 *
 * A writable layer over the root file system.
 */
#ifndef OVERLAY_H
#define OVERLAY_H

#include "boot.h"

/* Puts it over what is mounted at /root, after `seconds` at most (0: waits for ever) for a device; on failure it has
 * logged why, and /root is empty. */
bool mount_overlay(struct boot *boot, u64 seconds);

#endif
