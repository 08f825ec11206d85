/* SPDX-License-Identifier: MIT
 *
 * Between load.c, which makes the calls, arguments.c, which writes what they get, and results.c, which reads what came
 * of them.
 */
#ifndef LOAD_H
#define LOAD_H

#include "boot.h"

static inline struct member *members_of(struct boot *boot, const struct load *load)
{
	return boot->plan.members + load->member;
}

/* arguments.c: the text for the call, NULL if there is no room for it; `skips` for a megamodule that leaves some out.
 * It lives until the next call. */
const char *arguments(struct boot *boot, const struct load *load, bool skips);

/* results.c */
/* Who of a load is left out, by the fates so far and by megamod.skip=; returns how many. */
u32 choose(struct boot *boot, const struct load *load);
/* Sets the fate of all members that have none yet. */
void set_all(struct boot *boot, const struct load *load, enum fate fate);
/* The fates of a megamodule's members, from its parameters; says which failed. */
void read_results(struct boot *boot, const struct load *load);
/* Is there such a module in the kernel, whose init is over? */
bool is_live(const struct boot *boot, const char *name);

/* One array of a megamodule's parameters: `what`, `what1` …, `room` members each. Calls `take` for each member, in
 * order, for as long as there are numbers. */
typedef void take_value(struct member *m, s64 value);
void read_array(struct boot *boot, const struct load *load, const char *what, u32 room, take_value *take);

/* times.c: the members' own times, of a megamodule that has results. */
void take_times(struct boot *boot, const struct load *load);
/* With megamod.times, after a load: these times, and `say_used`. */
void say_times(struct boot *boot, const struct load *load);

#endif
