/* SPDX-License-Identifier: MIT
 *
 * While a stage waits, the mask keeps out what needs its members, so a request of udev's for it has come to nothing.
 * When the stage has come, devices that have a modalias and no driver are announced again: `add` in their file uevent,
 * as `udevadm trigger` writes it.
 */
#include "folder.h"
#include "keeper.h"

static bool announce(void *context, int folder, const char *device, u8 type)
{
	TEXT(path, 320);
	long fd;

	(void)context;
	(void)type;
	text_format(&path, "%s/driver", device);
	if (sys_faccessat(folder, path.data, 0) >= 0)
		return false;
	text_reset(&path);
	text_format(&path, "%s/modalias", device);
	if (sys_faccessat(folder, path.data, 0) < 0)
		return false;
	text_reset(&path);
	text_format(&path, "%s/uevent", device);
	fd = sys_openat(folder, path.data, O_WRONLY, 0);
	if (fd >= 0) {
		sys_write((int)fd, "add", 3); /* one that has gone meanwhile needs no driver */
		sys_close((int)fd);
	}
	return false;
}

static bool visit_bus(void *context, int folder, const char *bus, u8 type)
{
	TEXT(path, 320);

	(void)type;
	text_format(&path, "%s/devices", bus);
	walk(folder, path.data, announce, context);
	return false;
}

void ask_again(const struct boot *boot)
{
	walk(boot->sys, "bus", visit_bus, NULL);
}
