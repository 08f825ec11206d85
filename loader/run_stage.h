/* SPDX-License-Identifier: MIT
 *
 * A stage, loaded in a child.
 */
#ifndef RUN_STAGE_H
#define RUN_STAGE_H

#include "boot.h"

/* Every load of a stage, with its results; logs the stage's lines. */
void load_stage(struct boot *boot, struct stage *stage, enum trigger fired);

#endif
