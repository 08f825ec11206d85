/* SPDX-License-Identifier: MIT
 *
 * All disks, read for what is on them.
 */
#ifndef SCAN_H
#define SCAN_H

#include "device.h"

/*
 * All devices with this UUID or label (BY_UUID, BY_LABEL), or all that hold anything (BY_ALL). Each disk is
 * read by a child of its own; one that does not answer within two seconds is told of, and taken in when it answers.
 */
void scan_contents(const struct boot *boot, enum by by, const char *value, struct matches *found);
/* Is there a disk that has not answered yet? Then a scan some time later may find more, without any uevent. */
bool scan_is_open(void);

#endif
