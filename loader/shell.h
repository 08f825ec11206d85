/* SPDX-License-Identifier: MIT
 *
 * A shell on the console, if the image has one: for megamod.break= and when nothing else is left.
 */
#ifndef SHELL_H
#define SHELL_H

#include "boot.h"

/* A shell if megamod.break= names this point of the boot. */
void break_at(const struct boot *boot, const char *point);
/*
 * Nothing else is left: the shell, if there is one. True if it is worth another try, after somebody was there; a shell
 * that ended at once had no one at its console, and a machine that nobody looks at must come to panic=.
 */
bool last_resort(struct boot *boot);
/* What rd.emergency= wants, or a line before process 1 ends. */
void give_up(const struct boot *boot);

#endif
