/* SPDX-License-Identifier: MIT
 *
 * /proc/sys/kernel/modprobe: what the kernel executes for request_module(), exchanged while a call is made.
 */
#ifndef MODPROBE_PATH_H
#define MODPROBE_PATH_H

#include "boot.h"

/* Puts `path` there, and notes what was there in boot->progress and, but for PID 1, below /run/megamod. */
void exchange_modprobe(const struct boot *boot, const char *path);
/* Puts back what was there, as far as something was exchanged: by this process, a child, or one that was killed. */
void restore_modprobe(const struct boot *boot);

#endif
