/* SPDX-License-Identifier: MIT
 *
 * What became of each member, and of a load and a stage.
 */
#ifndef RESULTS_H
#define RESULTS_H

#include "boot.h"

/* The word of the command line that has this module left out, "" if it is one of ours or a record of the plan, NULL if
 * there is none. */
const char *who_skips(const struct boot *boot, const struct load *load, const char *name);
/* Whose members are left out, by the fates so far and by megamod.skip=; returns how many. */
u32 mark_skipped(struct boot *boot, const struct load *load);
/* Sets the fate of all members that have none yet. */
void set_pending(struct boot *boot, const struct load *load, enum fate fate);
/* Those that have one fate get another. */
void set_fate(struct boot *boot, const struct load *load, enum fate from, enum fate to);
/* The fates of a megamodule's members, from its parameters; logs which failed. */
void read_results(struct boot *boot, const struct load *load);
/* The name of something with an id below the limit that m needs and that is not there, or NULL. */
const char *missing_for(const struct boot *boot, const struct member *m, u64 limit);
/* The same while not all inits are over: of those that are. Returns the number in the load of the member whose init was
 * being run or was the next, or how many members there are. */
u32 read_partial_results(struct boot *boot, const struct load *load);
/* How many inits are over. */
u32 count_results(struct boot *boot, const struct load *load);

enum module_state { MODULE_GONE, MODULE_COMING, MODULE_LIVE };

enum module_state module_state(const struct boot *boot, const char *name);
/* Is there such a module in the kernel, whose init is over? */
bool is_live(const struct boot *boot, const char *name);

/* One array of a megamodule's parameters: `what`, `what1` …, `room` members each. Calls `take` for each member, in
 * order, for as long as there are numbers. */
typedef void take_value(struct member *m, s64 value);
void read_array(struct boot *boot, const struct load *load, const char *what, u32 room, take_value *take);

/* Sums over a load or a stage. */
struct counts {
	u32 ok, failed, skipped;
	bool originals;	 /* some of it came by the fallback */
	int error;	 /* of the first call that failed, positive */
	u64 nanoseconds; /* in calls */
};

void add_counts(const struct boot *boot, const struct load *load, struct counts *counts);
void count_stage(const struct boot *boot, const struct stage *stage, struct counts *counts);

#endif
