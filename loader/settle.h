/* SPDX-License-Identifier: MIT
 *
 * What becomes of a load whose call did not come to its end.
 */
#ifndef SETTLE_H
#define SETTLE_H

#include "child.h"

enum { READING_SECONDS = 2 /* a sysfs file, /proc/modules */ };

static inline struct load *present_load(struct boot *boot)
{
	return boot->plan.loads + boot->plan.progress->load;
}

/* Notes what became of the load where boot->plan.progress stands, and moves on: its child has ended this way. */
void settle(struct boot *boot, enum ending ending);
/* What has been loaded of a stage before this program ran, by this loader or by modprobe: sets the fates and returns
 * true if there is any of it. */
bool find_loaded(struct boot *boot, struct stage *stage);
/* The stage as it was before that look, to be loaded. */
void forget_loaded(struct boot *boot, const struct stage *stage);

#endif
