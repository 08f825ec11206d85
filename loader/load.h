/* SPDX-License-Identifier: MIT
 *
 * The calls of a stage.
 */
#ifndef LOAD_H
#define LOAD_H

#include "boot.h"

/* Every load of a stage, with its results; logs the stage's lines. */
void load_stage(struct boot *boot, struct stage *stage, enum trigger fired);
/* What has been loaded of a stage before this program ran, by this loader or by modprobe: sets the fates and returns
 * true if there is any of it. */
bool find_loaded(struct boot *boot, struct stage *stage);

#endif
