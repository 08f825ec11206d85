/* SPDX-License-Identifier: MIT
 *
 * The lines of megamod.times.
 */
#ifndef TIMES_H
#define TIMES_H

#include "boot.h"

/* The members' own times, of a megamodule that has results. */
void read_times(struct boot *boot, const struct load *load);
/* With megamod.times, after a load: these times, and log_cpu_time(). */
void log_init_times(struct boot *boot, const struct load *load);
/* With megamod.times, a line with the time that the processors have been in use. */
void log_cpu_time(const struct boot *boot);

#endif
