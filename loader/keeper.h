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
	int alive;		      /* read end of the pipe; -1 once user space has started */
	int inotify, mounts, control; /* -1: not there */
	u64 ask_at;		      /* when to announce devices without a driver again, monotonic ns; 0 never */
	bool chain;		      /* another generator empties the initramfs */
	char line[CONTROL_ROOM];      /* an unfinished line from the control FIFO */
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

/* keeper.c: returns after the last stage. */
void keep(struct keeper *keeper);
/* Before another generator's init goes on: holds the files, and takes a copy of the small ones for boot->image. */
void prepare_chain(struct keeper *keeper);

/* No terminal, no standard streams. */
void detach(const struct keeper *keeper);

/* hook.c: the exit status of --hook. */
int run_hook(struct keeper *keeper);

/* image.c: copies plan, outcome and program to /run/megamod/image; a handle on it, or a negative errno. */
long copy_image(const struct boot *boot);

/* uevents.c: devices without a driver are announced to udev again, as its own coldplug does it. */
void ask_again(const struct boot *boot);

/* json.c: writes /run/megamod/status.json anew. */
void write_json(struct boot *boot);

/* watch.c: the stage's trigger has fired. */
void fire(struct keeper *keeper, struct stage *stage, enum kind by);
/* Opens what path triggers need, if there are any. */
void open_watches(struct keeper *keeper);
/* Fires every stage whose path is there, and watches for the others. */
void look_for_paths(struct keeper *keeper);
/* Were the processors idle since the last look? */
bool was_idle(struct keeper *keeper, struct stage *stage);

#endif
