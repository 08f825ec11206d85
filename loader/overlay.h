/* SPDX-License-Identifier: MIT
 *
 * A writable layer over the root file system.
 */
#ifndef OVERLAY_H
#define OVERLAY_H

#include "boot.h"

/* Puts it over what is mounted at /root; on failure it has logged why, and /root is empty. */
bool mount_overlay(const struct boot *boot);

#endif
