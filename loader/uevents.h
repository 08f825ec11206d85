/* SPDX-License-Identifier: MIT
 *
 * The kernel's device events: waiting for them, and having them sent again.
 */
#ifndef UEVENTS_H
#define UEVENTS_H

#include "sys.h"

/* A socket that gets every event, or a negative errno (without CONFIG_NET there is none). */
long open_uevents(void);
/* Like open_uevents(), but it gets the additions of modules alone; the kernel leaves the others out. */
long open_module_uevents(void);
/* Takes all events that are there. */
void drain_uevents(int fd);
/* Waits for an event, at most until `until` (monotonic ns, 0: for ever); false if that passed. Takes all events that
 * are there. Without a socket (a negative fd) it returns after a tenth of a second. */
bool wait_uevent(long fd, u64 until);
/* Announces devices without a driver to udev again, as its own coldplug does it; `sys`: a handle on /sys. */
void announce_devices(int sys);

#endif
