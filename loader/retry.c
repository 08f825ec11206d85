/* SPDX-License-Identifier: MIT
 *
 * See retry.h. The socket is opened before the second look, so an event between the look and the wait cannot be lost; a
 * device's node exists before its event is sent (device_add, drivers/base/core.c).
 */
#include "retry.h"
#include "log.h"
#include "scan.h"
#include "uevents.h"

static bool every_second;

void look_every_second(void)
{
	every_second = true;
}

/* A disk that answers late sends no uevent: as long as one is asked, there is a look a second. */
static u64 next_look(u64 until)
{
	u64 soon = monotonic_ns() + 1000000000ull;

	return (scan_is_open() || every_second) && (!until || soon < until) ? soon : until;
}

long retry(long (*attempt)(void *), void (*waiting)(void *), void *context, u64 *until)
{
	long events = -EAGAIN, err;

	while ((err = attempt(context)) == -ENODEV) {
		if (events == -EAGAIN) {
			waiting(context);
			events = open_uevents();
			if (events < 0)
				log_debug("no uevents: %s", errno_name(events));
		} else if (!wait_uevent(events, next_look(*until)) && *until && monotonic_ns() >= *until) {
			break;
		}
	}
	if (events >= 0)
		sys_close((int)events);
	return err;
}
