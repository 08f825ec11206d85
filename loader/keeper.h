/* SPDX-License-Identifier: MIT
 *
 * Between keeper.c, the event loop, and watch.c, which looks at paths and at how busy the machine is.
 */
#ifndef KEEPER_H
#define KEEPER_H

#include "boot.h"

enum { CONTROL_ROOM = 256 };

struct keeper {
	struct boot *boot;
	int alive;		/* read end of the pipe; -1 once user space has started */
	int inotify, mounts, control;	/* -1: not there */
	char line[CONTROL_ROOM];	/* an unfinished line from the control FIFO */
	size_t line_used;
};

static inline struct stage *first_deferred(const struct keeper *k)
{
	return k->boot->plan.stages + 1;
}

static inline struct stage *end_of_stages(const struct keeper *k)
{
	return k->boot->plan.stages + k->boot->plan.stage_count;
}

static inline bool is_pending(const struct stage *s)
{
	return s->state == STATE_WAITING && s->fired == KIND_NONE;
}

/* The stage's trigger has fired. */
void fire(struct keeper *keeper, struct stage *stage, enum kind by);
/* Opens what path triggers need, if there are any. */
void open_watches(struct keeper *keeper);
/* Fires every stage whose path is there, and watches for the others. */
void look_for_paths(struct keeper *keeper);
/* Were the processors idle since the last look? */
bool was_idle(struct keeper *keeper, struct stage *stage);

#endif
