/* SPDX-License-Identifier: MIT
 *
 * Which of several roots is booted: the slot that the boot loader has chosen.
 */
#ifndef SLOT_H
#define SLOT_H

#include "boot.h"

/* The slot that the command line names, or "". */
const char *find_slot(const struct boot *boot);
/* Copies a text with the slot in place of each `${slot}`; false, and logged, if there is none or it does not fit. */
bool put_slot(const struct boot *boot, const char *from, char *to, size_t room);
/* From the plan's hash trees the slot's own; false, and logged, if it has none. */
bool choose_verity(struct boot *boot);

#endif
