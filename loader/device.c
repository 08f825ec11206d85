/* SPDX-License-Identifier: MIT
 *
 * From root= to the name of a block device: /dev/NAME, UUID=, LABEL=, PARTUUID=, PARTLABEL=, MAJ:MIN, and the
 * links below /dev/disk that udev would make for the first four. There is no udev here, so names are the kernel's own
 * (devtmpfs), and contents are looked at directly.
 */
#include "device.h"
#include "files.h"
#include "superblock.h"

enum by { BY_UUID, BY_LABEL, BY_PARTUUID, BY_PARTLABEL };

struct search {
	const struct boot *boot;
	enum by by;
	const char *value;
	char *name;
	size_t room;
};

static const struct {
	const char *prefix;
	enum by by;
} forms[] = {
	{ "UUID=", BY_UUID },
	{ "LABEL=", BY_LABEL },
	{ "PARTUUID=", BY_PARTUUID },
	{ "PARTLABEL=", BY_PARTLABEL },
	{ "/dev/disk/by-uuid/", BY_UUID },
	{ "/dev/disk/by-label/", BY_LABEL },
	{ "/dev/disk/by-partuuid/", BY_PARTUUID },
	{ "/dev/disk/by-partlabel/", BY_PARTLABEL },
};

/* The sysfs name `cciss!c0d0` is `cciss/c0d0` below /dev (device_get_devnode, drivers/base/core.c). */
static bool set_name(const char *name, char *to, size_t room)
{
	struct text t = { to, room, 0, false };
	char *c;

	text_reset(&t);
	text_add(&t, name);
	for (c = to; *c; c++)
		if (*c == '!')
			*c = '/';
	return !t.cut;
}

static long open_device(const struct boot *boot, const char *name)
{
	char path[256];

	if (!set_name(name, path, sizeof(path)))
		return -ENAMETOOLONG;
	return sys_openat(boot->dev, path, O_RDONLY | O_NONBLOCK, 0);
}

static bool matches_contents(const struct search *s, const char *name)
{
	struct superblock found;
	long fd = open_device(s->boot, name);
	bool known;

	if (fd < 0)
		return false;
	known = read_superblock((int)fd, &found);
	sys_close((int)fd);
	return known && (s->by == BY_UUID ? streq_nocase(found.uuid, s->value) : streq(found.label, s->value));
}

/* `class/block/sda1` is a link that ends in `block/sda/sda1`: cuts it down to the disk, or returns NULL. */
static const char *disk_of(char *link)
{
	char *end = link + length(link);

	while (end > link && *end != '/')
		end--;
	*end = 0;
	while (end > link && end[-1] != '/')
		end--;
	return *end ? end : NULL;
}

static bool matches_partition(const struct search *s, const char *name)
{
	TEXT(path, 320);
	char link[512], number[16];
	const char *at = number, *disk;
	struct partition found;
	u64 n = 0;
	bool known;
	long fd;

	text_format(&path, "class/block/%s/partition", name);
	if (read_small(s->boot->sys, path.data, number, sizeof(number)) <= 0 || !take_number(&at, &n))
		return false; /* a whole disk */
	text_reset(&path);
	text_format(&path, "class/block/%s", name);
	fd = sys_readlinkat(s->boot->sys, path.data, link, sizeof(link) - 1);
	if (fd < 0)
		return false;
	link[fd] = 0;
	disk = disk_of(link);
	if (!disk)
		return false;
	fd = open_device(s->boot, disk);
	if (fd < 0)
		return false;
	known = read_partition((int)fd, (u32)n, &found);
	sys_close((int)fd);
	if (s->by == BY_PARTUUID)
		return known && streq_nocase(found.uuid, s->value);
	return known && found.label[0] && streq(found.label, s->value);
}

static bool visit_device(void *context, int folder, const char *name, u8 type)
{
	const struct search *s = context;
	bool found;

	(void)folder;
	(void)type;
	found = s->by == BY_UUID || s->by == BY_LABEL ? matches_contents(s, name) : matches_partition(s, name);
	return found && set_name(name, s->name, s->room);
}

/* `8:1`: /sys/dev/block/8:1 is a link that ends in the name. */
static long find_number(const struct boot *boot, const char *wanted, char *name, size_t room)
{
	TEXT(path, 64);
	char link[512], *end;
	long size;

	text_format(&path, "dev/block/%s", wanted);
	size = sys_readlinkat(boot->sys, path.data, link, sizeof(link) - 1);
	if (size < 0)
		return -ENODEV;
	link[size] = 0;
	for (end = link + size; end > link && end[-1] != '/'; end--)
		;
	return set_name(end, name, room) ? 0 : -ENAMETOOLONG;
}

static bool is_number(const char *s)
{
	u64 n;

	return take_number(&s, &n) && *s++ == ':' && take_number(&s, &n) && !*s;
}

long find_device(const struct boot *boot, const char *wanted, char *name, size_t room)
{
	struct search s = { .boot = boot, .name = name, .room = room };
	size_t i;

	for (i = 0; i < sizeof(forms) / sizeof(forms[0]); i++)
		if (starts_with(wanted, forms[i].prefix)) {
			s.by = forms[i].by;
			s.value = wanted + length(forms[i].prefix);
			return walk_folder(boot->sys, "class/block", visit_device, &s) == 1 ? 0 : -ENODEV;
		}
	if (is_number(wanted))
		return find_number(boot, wanted, name, room);
	if (!starts_with(wanted, "/dev/"))
		return -EINVAL;
	if (!set_name(wanted + 5, name, room))
		return -ENAMETOOLONG;
	return sys_faccessat(boot->dev, name, 0) < 0 ? -ENODEV : 0;
}

static bool visit_name(void *context, int folder, const char *name, u8 type)
{
	(void)folder;
	(void)type;
	text_add(context, " ");
	text_add(context, name);
	return false;
}

void list_devices(const struct boot *boot, struct text *names)
{
	walk_folder(boot->sys, "class/block", visit_name, names);
}
