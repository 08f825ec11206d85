/* SPDX-License-Identifier: MIT
 *
 * The stage keeper.
 */
#ifndef KEEPER_H
#define KEEPER_H

#include "watch.h"

enum { CONTROL_ROOM = 256 };

struct keeper {
	struct watches watches;
	struct boot *boot;
	int alive;		 /* read end of the pipe; -1 once user space has started */
	u64 look_at;		 /* when to look for paths that cannot be watched, monotonic ns; 0 never */
	u64 announce_at;	 /* when to announce devices without a driver again, monotonic ns; 0 never */
	bool chain;		 /* another generator empties the initramfs */
	char line[CONTROL_ROOM]; /* an unfinished line from the control FIFO */
	size_t line_used;
};

/* After a stage: the state, the mask and the status. */
void report_stage(struct boot *boot);
/* Returns after the last stage. */
void run_keeper(struct keeper *keeper);
/* Before another generator's init goes on: holds the files, and takes a copy of the small ones for boot->image. */
void prepare_chain(struct keeper *keeper);
/* No terminal, no standard streams. */
void detach(const struct keeper *keeper);

#endif
