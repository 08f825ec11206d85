/* SPDX-License-Identifier: MIT
 *
 * list.c: the table that lsmod prints, with the members of megamodules in it.
 */
#ifndef LIST_H
#define LIST_H

#include "boot.h"

enum { LIST_ROOM = 4 << 20 };

/* Two kinds of lines: those of /proc/modules but the megamodules', and one for each member that is there, of size 0, as
 * the kernel does not know it. Used-by has members, singles and what /proc/modules says. */
void write_list(const struct boot *boot, struct text *out);

#endif
