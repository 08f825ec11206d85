/* SPDX-License-Identifier: MIT
 *
 * A program of the image that runs between the critical stage and the mounting of the root.
 */
#ifndef BEFORE_MOUNT_H
#define BEFORE_MOUNT_H

#include "boot.h"

/* Runs it if the plan names one; false, and logged, if it failed or did not end in time. */
bool run_before_mount(const struct boot *boot);

#endif
