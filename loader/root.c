/* SPDX-License-Identifier: MIT
 *
 * The root file system: finding its device, waiting for it, mounting it at /root. The options are the kernel's own
 * (init/do_mounts.c, 6.1), with one addition: words of rootflags= that mount(8) would turn into flags become flags.
 *
 * Waiting is on the kernel's uevents. The socket is opened before the second look, so an event between the look and
 * the wait cannot be lost; a device's node exists before its event is sent (device_add, drivers/base/core.c).
 */
#include "root.h"
#include "device.h"
#include "files.h"
#include "log.h"
#include "overlay.h"
#include "superblock.h"
#include "times.h"
#include "uevents.h"
#include "verity.h"

enum {
	WAIT_SECONDS = 30, /* without rootwait: longer than a slow USB disk takes */
	HURRY_SECONDS = 5, /* when the critical stage failed: only built-in drivers can help */
};

#define SECOND 1000000000ull

static const struct {
	const char *word;
	u32 set, clear;
} flag_words[] = {
	{ "defaults", 0, 0 },		{ "ro", MS_RDONLY, 0 },
	{ "rw", 0, MS_RDONLY },		{ "nosuid", MS_NOSUID, 0 },
	{ "nodev", MS_NODEV, 0 },	{ "noexec", MS_NOEXEC, 0 },
	{ "sync", MS_SYNCHRONOUS, 0 },	{ "dirsync", MS_DIRSYNC, 0 },
	{ "noatime", MS_NOATIME, 0 },	{ "nodiratime", MS_NODIRATIME, 0 },
	{ "relatime", MS_RELATIME, 0 }, { "strictatime", MS_STRICTATIME, 0 },
	{ "lazytime", MS_LAZYTIME, 0 },
};

struct mounting {
	struct boot *boot;
	char source[VALUE_ROOM]; /* what mount() gets */
	char name[256];		 /* below /dev */
	u32 flags;
	char data[VALUE_ROOM]; /* rootflags= without the words that became flags */
	long error;	       /* of the last attempt */
	bool logged;	       /* why it failed */
};

static bool take_flag(const char *word, size_t size, u32 *flags)
{
	size_t i;

	for (i = 0; i < sizeof(flag_words) / sizeof(flag_words[0]); i++)
		if (length(flag_words[i].word) == size && !memcmp(word, flag_words[i].word, size)) {
			*flags = (*flags | flag_words[i].set) & ~flag_words[i].clear;
			return true;
		}
	return false;
}

static void split_flags(struct mounting *m)
{
	struct text data = { m->data, sizeof(m->data), 0, false };
	const char *s = m->boot->options.flags, *end;

	m->flags = MS_SILENT | (m->boot->options.writable ? 0 : MS_RDONLY);
	text_reset(&data);
	for (; *s; s = *end ? end + 1 : end) {
		for (end = s; *end && *end != ','; end++)
			;
		if (take_flag(s, (size_t)(end - s), &m->flags))
			continue;
		if (data.used)
			text_add(&data, ",");
		text_add_bytes(&data, s, (size_t)(end - s));
	}
	if (m->boot->plan.overlay.count || m->boot->plan.verity.count)
		m->flags |= MS_RDONLY;
}

/* One attempt with one type; a read-only medium gets a second one, as the kernel does it. */
static long mount_as(struct mounting *m, const char *type)
{
	const char *data = m->data[0] ? m->data : NULL;
	long err = sys_mount(m->source, "/root", type, m->flags, data);

	if ((err == -EACCES || err == -EROFS) && !(m->flags & MS_RDONLY))
		err = sys_mount(m->source, "/root", type, m->flags | MS_RDONLY, data);
	if (err < 0) {
		log_debug("%s is not mounted as %s: %s", m->source, type, errno_name(err));
		m->error = err;
		return err;
	}
	log_info("root %s %s mounted", m->source, type);
	log_cpu_time(m->boot);
	return 0;
}

/* Attempts each type of a comma-separated list. */
static long mount_as_any(struct mounting *m, const char *types)
{
	char type[64];
	struct text t = { type, sizeof(type), 0, false };
	const char *end;
	long err = -EINVAL;

	for (; *types; types = *end ? end + 1 : end) {
		for (end = types; *end && *end != ','; end++)
			;
		text_reset(&t);
		text_add_bytes(&t, types, (size_t)(end - types));
		err = mount_as(m, type);
		if (err >= 0)
			break;
	}
	return err;
}

/* An unknown superblock: every type that the kernel has and that needs a device, in its order (list_bdev_fs_names). */
static long mount_as_known(struct mounting *m)
{
	static char types[4096];
	char *line = types, *end;
	long err = read_small(m->boot->proc, "filesystems", types, sizeof(types));

	if (err < 0)
		return err;
	err = -EINVAL;
	for (; *line && err < 0; line = end + 1) {
		for (end = line; *end && *end != '\n'; end++)
			;
		if (!*end)
			break;
		*end = 0;
		if (line[0] == '\t') /* the others read `nodev\tNAME` */
			err = mount_as(m, line + 1);
	}
	return err;
}

static long mount_device(struct mounting *m)
{
	struct superblock found = { .types = "" };
	struct text source = { m->source, sizeof(m->source), 0, false };
	long fd, err;

	text_reset(&source);
	text_format(&source, "/dev/%s", m->name);
	if (m->boot->options.fstype[0])
		return mount_as_any(m, m->boot->options.fstype);
	fd = sys_openat(m->boot->dev, m->name, O_RDONLY, 0);
	if (fd < 0)
		return m->error = fd;
	read_superblock((int)fd, &found);
	sys_close((int)fd);
	err = *found.types ? mount_as_any(m, found.types) : mount_as_known(m);
	return err;
}

/* 0 if mounted, -ENODEV if what is wanted is not there yet, else what is final. */
static long attempt(struct mounting *m)
{
	const struct options *o = &m->boot->options;
	struct text source = { m->source, sizeof(m->source), 0, false };
	long err = find_device(m->boot, o->root, m->name, sizeof(m->name));

	if (err == -EINVAL && o->fstype[0] && !m->boot->plan.verity.count) {
		/* a virtiofs tag, ubi0:name, host:/path: not a block device */
		text_reset(&source);
		text_add(&source, o->root);
		return mount_as_any(m, o->fstype) < 0 ? -ENODEV : 0;
	}
	if (err >= 0 && m->boot->plan.verity.count) {
		err = open_verity(m->boot, m->name, sizeof(m->name));
		if (err < 0 && err != -ENODEV)
			m->logged = true;
	}
	if (err >= 0) {
		err = mount_device(m);
		if (err == -ENXIO || err == -ENOMEDIUM) /* the node is there, what it stands for is not */
			err = -ENODEV;
		else if (err == -ENODEV)
			err = -EOPNOTSUPP; /* mount()'s word for an unknown type */
	}
	return err;
}

static void log_no_root(struct boot *boot, const char *why)
{
	TEXT(names, 512);

	text_reset(&names);
	list_devices(boot, &names);
	log_error("root %s: %s; block devices:%s", boot->options.root, why, names.used ? names.data : " none");
}

/* Waits for the device and mounts it; the seconds are the most it waits, 0 for ever. */
static long mount_when_there(struct mounting *m, u64 seconds)
{
	u64 until = seconds ? monotonic_ns() + seconds * SECOND : 0;
	long events = -EAGAIN, err;

	for (;;) {
		err = attempt(m);
		if (err != -ENODEV)
			break;
		if (events == -EAGAIN) {
			log_info("waiting for root %s", m->boot->options.root);
			events = open_uevents();
			if (events < 0)
				log_debug("no uevents: %s", errno_name(events));
		} else if (!wait_uevent(events, until)) {
			break;
		}
	}
	if (events >= 0)
		sys_close((int)events);
	return err;
}

bool mount_root(struct boot *boot, bool hurry)
{
	static struct mounting m;
	const struct options *o = &boot->options;
	u64 seconds = o->wait_forever ? 0 : WAIT_SECONDS;
	TEXT(why, 128);
	long err;

	if (!o->root[0]) {
		log_error("no root= on the kernel command line");
		return false;
	}
	if (hurry)
		seconds = HURRY_SECONDS;
	if (o->wait_seconds)
		seconds = o->wait_seconds;
	m.boot = boot;
	m.error = 0;
	m.logged = false;
	split_flags(&m);
	if (o->delay_seconds) {
		log_debug("rootdelay: %llu s", (unsigned long long)o->delay_seconds);
		sys_ppoll(NULL, 0, &(struct timespec64){ .sec = (s64)o->delay_seconds });
	}
	err = mount_when_there(&m, seconds);
	if (err >= 0)
		return !boot->plan.overlay.count || mount_overlay(boot);
	if (m.logged)
		return false;
	if (err == -EINVAL && !m.error)
		text_format(&why, "neither /dev/NAME, UUID=, LABEL=, PARTUUID=, PARTLABEL= nor MAJ:MIN");
	else if (err == -ENODEV && !m.error)
		text_format(&why, "it did not appear within %llu s", (unsigned long long)seconds);
	else
		text_format(&why, "%s cannot be mounted: %s (%s)", m.source, errno_name(m.error),
			    m.error == -ENODEV ? "no driver for its file system"
					       : "the kernel may have said why, above");
	log_no_root(boot, why.data);
	return false;
}
