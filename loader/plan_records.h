/* SPDX-License-Identifier: MIT
 *
 * The records of the plan: a line's fields, taken into its tables.
 */
#ifndef PLAN_RECORDS_H
#define PLAN_RECORDS_H

#include "root_records.h"

/* Takes one line's fields into the plan; false after refuse(). */
bool take_record(struct reader *reader, struct fields fields);
/* At the end: with `fallback modules` every member of a megamodule must have its original. */
void check_originals(struct reader *reader);

#endif
