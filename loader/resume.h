/* SPDX-License-Identifier: MIT
 *
 * Going on with a session that was saved to disk.
 */
#ifndef RESUME_H
#define RESUME_H

#include "boot.h"

/*
 * If there is a hibernation image where resume= says, or the EFI variable that systemd leaves, the kernel gets it, and
 * this does not return. Must come before anything on a disk is changed. Waits for the device at most `seconds`. False:
 * a session is there that this kernel cannot go on with, and so nothing may be mounted; that has been logged.
 */
bool resume_session(struct boot *boot, u64 seconds);

#endif
