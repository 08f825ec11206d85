/* SPDX-License-Identifier: MIT
 *
 * The calls of one load.
 */
#ifndef LOAD_H
#define LOAD_H

#include "boot.h"

/* Makes the load's call, or those of its members' originals, and notes what came of each member. Where it stands is in
 * boot->progress; a load whose method is METHOD_ORIGINALS already, or which is being resumed, goes on there. */
void make_load(struct boot *boot, struct load *load);
/* From now on the load goes by its members' originals. */
void take_originals(struct boot *boot, struct load *load);
/* The lines about a load that is over. */
void log_result(struct boot *boot, const struct load *load);
/* The end of a load whose call has been made: the results of a megamodule, and the lines of the log. */
void finish_load(struct boot *boot, struct load *load);
/* The end of a megamodule that stays in state coming. */
void shut_load(struct boot *boot, struct load *load);
/* Of the file in sysfs whose writing runs the members that have not run. */
void resume_path(const struct load *load, struct text *path);

#endif
