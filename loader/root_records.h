/* SPDX-License-Identifier: MIT
 *
 * The reader of the plan, and those records that say what the root is and what lies over and under it.
 */
#ifndef ROOT_RECORDS_H
#define ROOT_RECORDS_H

#include "plan.h"

struct reader {
	u32 line;
	struct plan *plan;

	enum place { HEAD, BODY, TAIL } place; /* records come in this order */

	bool have_root;
	const char *problem; /* the first one */
	const char *detail;  /* what it is about, or NULL */
};

/* Keeps the first problem; always false. */
bool refuse(struct reader *reader, const char *problem, const char *detail);
bool parse_plan_number(struct reader *reader, const char *s, u64 *value);

/* A record's fixed fields, and the rest of them. */
typedef bool take(struct reader *reader, const char *const *f, struct fields rest);

take on_root, on_device, on_slot, on_before_mount, on_failure, on_overlay, on_verity, on_slot_verity;

#endif
