/* SPDX-License-Identifier: MIT
 *
 * The records of the plan: a line's fields, taken into its tables.
 */
#ifndef PLAN_RECORDS_H
#define PLAN_RECORDS_H

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
/* Takes one line's fields into the plan; false after refuse(). */
bool take_record(struct reader *reader, struct fields fields);
/* At the end: with `fallback modules` every member of a megamodule must have its original. */
void check_originals(struct reader *reader);

#endif
