/* SPDX-License-Identifier: MIT
 *
 * What has been done so far, for another process that has read the same plan.
 */
#ifndef SAVED_STATE_H
#define SAVED_STATE_H

#include "boot.h"

void save_state(const struct boot *boot);
/* False if there is no file of this plan; then nothing has changed. */
bool restore_state(struct boot *boot);

#endif
