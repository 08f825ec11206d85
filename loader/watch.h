/* SPDX-License-Identifier: MIT
 *
 * What the keeper looks at: paths, and how busy the machine is.
 */
#ifndef WATCH_H
#define WATCH_H

#include "boot.h"

struct watches {
	struct boot *boot;
	int inotify, mounts; /* -1: not there */
};

/* The stage's trigger has fired. */
void fire(struct watches *watches, struct stage *stage, enum trigger by);
/* Opens what path triggers need, if there are any. */
void open_watches(struct watches *watches);
/* Fires every stage whose path is there, and watches for the others. */
void look_for_paths(struct watches *watches);
/* Is there a path to wait for that the kernel cannot watch? */
bool must_look(const struct watches *watches);
/* Were the processors idle since the last look? */
bool was_idle(const struct boot *boot, struct stage *stage);

#endif
