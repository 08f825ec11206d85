/* SPDX-License-Identifier: MIT
 *
 * Work in the kernel that may not come back, done in a child: an oops kills the task that it hits, and an init may wait
 * for ever.
 */
#ifndef CHILD_H
#define CHILD_H

#include "boot.h"

enum ending {
	ENDING_NONE,   /* it still runs */
	ENDING_EVENT,  /* it still runs, and there is something in `also` */
	ENDING_GOOD,   /* it came to its own end */
	ENDING_LEFT,   /* it ended in the kernel, without a signal: an init called do_exit() */
	ENDING_KILLED, /* by a signal */
	ENDING_OOPSED, /* the same, and there was an oops */
	ENDING_HUNG,   /* it did not come to an end in time, and cannot be killed */
	ENDING_PROBES, /* its work is done, and it is left to wait for probes */
};

struct child {
	long process;
	int end;  /* of a pipe that only the child holds open */
	int also; /* something else to read from that ends a wait, -1 none */
};

/* fork(): 0 in the child, which then ends by end_child(); a negative errno if there is none. */
long start_child(struct boot *boot, struct child *child);
_Noreturn void end_child(void);
/* Waits for the child's end, this long at most (0 for ever), or until there is something in `also`. */
enum ending wait_child(const struct boot *boot, struct child *child, u64 nanoseconds);
/* Kills it: ENDING_HUNG if it stays all the same. */
enum ending give_up_child(const struct boot *boot, struct child *child);
/* A child that calls `work`, which is given up after that many seconds; without fork() it is called here. */
enum ending in_child(struct boot *boot, void (*work)(struct boot *boot), u64 seconds);

/* As the errno of a call, negative. */
long ending_errno(enum ending ending);
/* In words: `the kernel oopsed in`, to be followed by what it was. */
const char *ending_text(enum ending ending);

#endif
