/* SPDX-License-Identifier: MIT
 *
 * The critical stage for an init that is not ours.
 */
#ifndef RUN_HOOK_H
#define RUN_HOOK_H

#include "keeper.h"

/* The exit status of --hook. */
int run_hook(struct keeper *keeper);

#endif
