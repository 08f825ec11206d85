/* SPDX-License-Identifier: MIT
 *
 * A file system's driver that is in a deferred stage: that stage is loaded at once where the root is of its type.
 */
#ifndef ROOT_STAGE_H
#define ROOT_STAGE_H

#include "boot.h"

/* Has the keeper load the stages that have the driver of this type; false if there is none that may come. */
bool ask_for_driver(struct boot *boot, const char *type);

#endif
