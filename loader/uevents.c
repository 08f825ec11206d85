/* SPDX-License-Identifier: MIT
 *
 * See uevents.h.
 */
#include "uevents.h"
#include "files.h"

long open_uevents(void)
{
	struct sockaddr_nl address = { .family = AF_NETLINK, .groups = 1 };
	long fd = sys_socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT), err;

	if (fd < 0)
		return fd;
	err = sys_bind((int)fd, &address, sizeof(address));
	if (err < 0) {
		sys_close((int)fd);
		return err;
	}
	return fd;
}

long open_module_uevents(void)
{
	/* A message begins with `add@/module/NAME`. Each word that differs goes to the last line. */
	static const struct sock_filter lines[] = {
		{ BPF_LOAD_WORD, 0, 0, 0 },   { BPF_IF_EQUAL, 0, 5, 0x61646440 }, /* add@ */
		{ BPF_LOAD_WORD, 0, 0, 4 },   { BPF_IF_EQUAL, 0, 3, 0x2f6d6f64 }, /* /mod */
		{ BPF_LOAD_WORD, 0, 0, 8 },   { BPF_IF_EQUAL, 0, 1, 0x756c652f }, /* ule/ */
		{ BPF_RETURN, 0, 0, 0xffff }, { BPF_RETURN, 0, 0, 0 },
	};
	const struct sock_fprog program = { sizeof(lines) / sizeof(lines[0]), lines };
	long fd = open_uevents(), err;

	if (fd < 0)
		return fd;
	err = sys_setsockopt((int)fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program));
	if (err >= 0)
		return fd;
	sys_close((int)fd);
	return err;
}

void drain_uevents(int fd)
{
	char event[2048];

	while (sys_read(fd, event, sizeof(event)) > 0)
		;
}

bool wait_uevent(long fd, u64 until)
{
	struct pollfd poll = { .fd = (int)fd, .events = POLLIN };
	struct timespec64 left = { 0, 0 };
	u32 rest;
	u64 t = monotonic_ns();

	if (until && t >= until)
		return false;
	if (until) {
		left.sec = (s64)divide(until - t, 1000000000, &rest);
		left.nsec = rest;
	}
	/* A kernel without CONFIG_NET has no events: then it is ten looks a second. */
	if (fd < 0 && (!until || left.sec || left.nsec > 100000000)) {
		left.sec = 0;
		left.nsec = 100000000;
	}
	sys_ppoll(&poll, fd < 0 ? 0 : 1, until || fd < 0 ? &left : NULL);
	if (fd >= 0)
		drain_uevents((int)fd);
	return true; /* an interrupted or overrun wait only means one look more */
}

/*
 * While a stage waits, the mask keeps out what needs its members, so a request of udev's for it has come to nothing.
 * When the stage has come, devices that have a modalias and no driver are announced again: `add` in their file uevent,
 * as `udevadm trigger` writes it.
 */
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
	walk_folder(folder, path.data, announce, context);
	return false;
}

void announce_devices(int sys)
{
	walk_folder(sys, "bus", visit_bus, NULL);
}
