/* SPDX-License-Identifier: MIT
 *
 * Trying something until the device that it needs is there.
 */
#ifndef RETRY_H
#define RETRY_H

#include "sys.h"

/*
 * Calls `attempt` now and after every uevent, as long as it returns -ENODEV and at most until `*until` (monotonic ns,
 * 0: for ever); returns its last answer. `waiting` is called before the first wait and may shorten the time.
 */
long retry(long (*attempt)(void *), void (*waiting)(void *), void *context, u64 *until);

/* From now on there is a look a second, too: something is coming that perhaps no uevent tells of. */
void look_every_second(void);

#endif
