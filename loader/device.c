/* SPDX-License-Identifier: MIT
 *
 * See device.h. There is no udev here: contents and partition tables are looked at directly, and links that only udev
 * makes are not known.
 */
#include "device.h"
#include "files.h"

static const struct {
	char prefix[24];
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
	{ "/dev/mapper/", BY_MAPPER },
	{ "/dev/", BY_NAME },
};

void copy_name(char to[NAME_ROOM], const char *from)
{
	struct text t = { to, NAME_ROOM, 0, false };

	text_reset(&t);
	text_add(&t, from);
}

bool set_name(const char *name, char *to, size_t room)
{
	struct text t = { to, room, 0, false };
	char *c;

	text_reset(&t);
	text_add(&t, name);
	for (c = to; *c; c++) /* device_get_devnode, drivers/base/core.c */
		if (*c == '!')
			*c = '/';
	return !t.cut;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Copies a value without the quotes that people write inside it, and with `\x20` for what udev writes so. */
static bool unescape(const char *from, char *to, size_t room)
{
	char *end = to + room - 1;

	while (*from && to < end) {
		if (*from == '"' || *from == '\'') {
			from++;
		} else if (from[0] == '\\' && from[1] == 'x' && hex_digit(from[2]) >= 0 && hex_digit(from[3]) >= 0) {
			*to++ = (char)(hex_digit(from[2]) << 4 | hex_digit(from[3]));
			from += 4;
		} else {
			*to++ = *from++;
		}
	}
	*to = 0;
	return !*from;
}

/* `8:1`, or `801` as devt_from_devnum() takes it (block/early-lookup.c, 6.6): new_decode_dev() of a hexadecimal number.
 */
static bool parse_number(const char *s, struct target *t)
{
	struct text value = { t->value, sizeof(t->value), 0, false };
	const char *at = s;
	u64 major, minor;
	u32 n = 0;

	if (take_number(&at, &major) && *at++ == ':' && take_number(&at, &minor) && (!*at || *at == ':')) {
		text_format(&value, "%llu:%llu", (unsigned long long)major, (unsigned long long)minor);
		return true;
	}
	s += s[0] == '0' && s[1] == 'x' ? 2 : 0;
	for (at = s; hex_digit(*at) >= 0 && at < s + 8; at++)
		n = n << 4 | (u32)hex_digit(*at);
	if (*at || at == s)
		return false;
	text_format(&value, "%u:%u", n >> 8 & 0xfff, (n & 0xff) | (n >> 12 & 0xfff00));
	return true;
}

/* `PARTUUID=…/PARTNROFF=-1` */
static bool parse_offset(struct target *t)
{
	char *slash = t->value;
	const char *at;
	u64 n;

	while (*slash && *slash != '/')
		slash++;
	if (!*slash)
		return true;
	*slash = 0;
	at = slash + 1;
	if (!starts_with(at, "PARTNROFF="))
		return false;
	at += 10;
	t->offset = *at == '-' ? -1 : 1;
	at += *at == '-';
	if (!take_number(&at, &n) || *at || n > 255)
		return false;
	t->offset *= (s32)n;
	return true;
}

bool parse_target(const char *wanted, struct target *t)
{
	char text[LABEL_ROOM * 2];
	const char *s = text;
	size_t i;

	t->offset = 0;
	/* Quotes may be around all of it, or around the value: `"UUID=…"`, `UUID="…"`. */
	if (*wanted == '"' || *wanted == '\'')
		wanted++;
	if (length(wanted) >= sizeof(text))
		return false;
	memcpy(text, wanted, length(wanted) + 1);
	for (i = 0; i < sizeof(forms) / sizeof(forms[0]); i++)
		if (starts_with(s, forms[i].prefix)) {
			t->by = forms[i].by;
			if (!unescape(s + length(forms[i].prefix), t->value, sizeof(t->value)) || !t->value[0])
				return false;
			return t->by != BY_PARTUUID || parse_offset(t);
		}
	t->by = BY_NUMBER;
	return parse_number(s, t);
}

long open_device(const struct boot *boot, const char *name, u64 *size)
{
	char path[NAME_ROOM];
	long fd, err;

	*size = 0;
	if (!set_name(name, path, sizeof(path)))
		return -ENAMETOOLONG;
	fd = sys_openat(boot->dev, path, O_RDONLY | O_NONBLOCK, 0);
	if (fd < 0)
		return fd;
	/* BLKGETSIZE64: _IOR(0x12, 114, size_t), and yet it writes 64 bits everywhere (blkdev_common_ioctl) */
	err = sys_ioctl((int)fd, 2ul << 30 | sizeof(size_t) << 16 | 0x12ul << 8 | 114, (long)(uintptr_t)size);
	if (err >= 0)
		return fd;
	sys_close((int)fd);
	return err;
}

/* A decimal number in a file of a device in sysfs; false if there is none. */
static bool read_value(const struct boot *boot, const char *name, const char *file, u64 *value)
{
	TEXT(path, 192);
	char number[24];
	const char *at = number;

	text_format(&path, "class/block/%s/%s", name, file);
	return read_small(boot->sys, path.data, number, sizeof(number)) > 0 && take_number(&at, value);
}

bool find_disk(const struct boot *boot, const char *name, char *disk, u32 *number)
{
	TEXT(path, 192);
	char link[512], *end, *start;
	u64 n = 0;
	long size;

	copy_name(disk, name);
	if (!read_value(boot, name, "partition", &n))
		return false;
	*number = (u32)n;
	text_format(&path, "class/block/%s", name);
	size = sys_readlinkat(boot->sys, path.data, link, sizeof(link) - 1);
	if (size < 0)
		return false;
	/* The link ends in `block/sda/sda1`. */
	for (end = link + size; end > link && *--end != '/';)
		;
	for (start = end; start > link && start[-1] != '/'; start--)
		;
	*end = 0;
	copy_name(disk, start);
	return end > start;
}

struct covering {
	const struct boot *boot;
	u64 from, to; /* bytes */
};

static bool visit_child(void *context, int folder, const char *name, u8 type)
{
	const struct covering *c = context;
	u64 start, size;

	(void)folder;
	(void)type;
	/* `start` and `size` count 512 bytes; what is not a partition has no `start`. */
	return read_value(c->boot, name, "start", &start) && read_value(c->boot, name, "size", &size) &&
	       start << 9 <= c->from && (start + size) << 9 >= c->to;
}

/* Is what was found at the end of a disk rather that of its last partition? Their ends may be one. */
static bool covered_by_partition(const struct boot *boot, const char *disk, const struct superblock *s)
{
	struct covering c = { boot, s->from, s->to };
	TEXT(path, 192);

	text_format(&path, "class/block/%s/.", disk);
	return walk_folder(boot->sys, path.data, visit_child, &c) == 1;
}

/* A disk that is a member of an array as a whole shows the partitions that are inside the array. */
static void add_disk_membership(const struct boot *boot, const char *disk, struct superblock *s)
{
	struct superblock whole;
	u64 size;
	long fd = open_device(boot, disk, &size);

	if (fd < 0)
		return;
	memset(&whole, 0, sizeof(whole));
	read_tail((int)fd, size, true, &whole);
	sys_close((int)fd);
	if (!whole.member || covered_by_partition(boot, disk, &whole))
		return;
	s->member = whole.member;
	s->membership = whole.membership;
}

long identify_device(const struct boot *boot, const char *name, struct superblock *s)
{
	char disk[NAME_ROOM];
	u32 number;
	bool part = find_disk(boot, name, disk, &number);
	u64 size;
	long fd = open_device(boot, name, &size), err;

	if (fd < 0)
		return fd;
	err = read_superblock((int)fd, size, s);
	if (err >= 0)
		read_tail((int)fd, size, !part, s);
	sys_close((int)fd);
	if (err >= 0 && part && !s->member)
		add_disk_membership(boot, disk, s);
	else if (err >= 0 && !part && s->member && s->to && covered_by_partition(boot, name, s))
		s->member = NULL;
	return err;
}

bool identify_partition(const struct boot *boot, const char *name, struct partition *found)
{
	char disk[NAME_ROOM];
	u32 number;
	u64 size;
	bool known;
	long fd;

	if (!find_disk(boot, name, disk, &number))
		return false;
	fd = open_device(boot, disk, &size);
	if (fd < 0)
		return false;
	known = read_partition((int)fd, size, number, found);
	sys_close((int)fd);
	return known;
}
