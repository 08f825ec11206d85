/* SPDX-License-Identifier: MIT
 *
 * The start of the stage keeper, and its first work.
 */
#ifndef START_KEEPER_H
#define START_KEEPER_H

#include "boot.h"

/* Starts /megamod/ctl as the stage keeper, if the image has it. */
void start_keeper(struct boot *boot);
/* Returns when mask and status are written. */
void wait_for_keeper(struct boot *boot);

#endif
