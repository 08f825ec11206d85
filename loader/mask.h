/* SPDX-License-Identifier: MIT
 *
 * What keeps modprobe away from the members.
 */
#ifndef MASK_H
#define MASK_H

#include "boot.h"

/* Writes /run/modprobe.d/megamod.conf, as the fates are now; `waiting`: with what needs a member to come. */
void write_mask(const struct boot *boot, bool waiting);

#endif
