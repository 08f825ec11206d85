/* SPDX-License-Identifier: MIT
 *
 * list.c: the table that lsmod prints, with the members of megamodules in it.
 */
#ifndef LSMOD_H
#define LSMOD_H

#include "boot.h"

enum { LSMOD_ROOM = 4 << 20 };

/* Two kinds of lines: those of /proc/modules but the megamodules', and one for each member that is there, of size 0, as
 * the kernel does not know it. Used-by has members, singles and what /proc/modules has. */
void write_lsmod(const struct boot *boot, struct text *out);

#endif
