/* SPDX-License-Identifier: MIT
 *
 * The file /megamod/plan, cut into fields that plan_records.c takes into the tables.
 */
#ifndef READ_PLAN_H
#define READ_PLAN_H

#include "plan.h"

/* Reads and checks the whole plan, which is called `path` below the handle. On failure it has logged why
 * (`megamod: error: /megamod/plan:LINE: …`) and returns false. */
bool read_plan(int at, const char *path, struct plan *plan);

#endif
