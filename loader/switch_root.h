/* SPDX-License-Identifier: MIT
 *
 * Handing over. Both return only if they fail, and have logged why.
 */
#ifndef SWITCH_ROOT_H
#define SWITCH_ROOT_H

#include "boot.h"

/* To the init of the root file system at /root. */
void switch_root(struct boot *boot);
/* To a program of the image; `forward`: with the kernel's own arguments behind the command's. */
void exec_program(struct boot *boot, struct fields command, bool forward);

#endif
