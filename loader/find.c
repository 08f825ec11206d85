/* SPDX-License-Identifier: MIT
 *
 * See find.h. All that match are looked at: a part of something is never mounted, and of two
 * with the same UUID, label or GUID the one on the disk that the boot loader was started from is meant, or none.
 */
#include "find.h"
#include "efi.h"
#include "files.h"
#include "limits.h"
#include "log.h"

static struct matches found;

struct search {
	const struct boot *boot;
	const struct target *target;
	u32 number; /* of a partition on the disk that is walked */
	char *name;
};

/* `8:1`: /sys/dev/block/8:1 is a link that ends in the name. */
static long find_number(const struct boot *boot, const char *wanted, char *name)
{
	TEXT(path, 300);
	char link[512], *end;
	long size;

	text_format(&path, "dev/block/%s", wanted);
	size = sys_readlinkat(boot->sys, path.data, link, sizeof(link) - 1);
	if (size < 0)
		return -ENODEV;
	link[size] = 0;
	for (end = link + size; end > link && end[-1] != '/'; end--)
		;
	copy_name(name, end);
	return 0;
}

static long find_name(const struct boot *boot, const char *wanted, char *name)
{
	char *c;

	if (length(wanted) >= NAME_ROOM)
		return -ENAMETOOLONG;
	copy_name(name, wanted);
	for (c = name; *c; c++)
		if (*c == '/')
			*c = '!';
	return sys_faccessat(boot->dev, wanted, 0) < 0 ? -ENODEV : 0;
}

/* Devices of the device mapper that the kernel has made itself (dm-mod.create=) have their names in sysfs only. */
static bool visit_mapper(void *context, int folder, const char *name, u8 type)
{
	const struct search *s = context;
	TEXT(path, NAME_ROOM + 16);
	char known[160];
	long size;

	(void)type;
	text_format(&path, "%s/dm/name", name);
	size = read_small(folder, path.data, known, sizeof(known));
	if (size <= 0)
		return false;
	if (known[size - 1] == '\n')
		known[size - 1] = 0;
	if (!streq(known, s->target->value))
		return false;
	copy_name(s->name, name);
	return true;
}

static bool visit_partition(void *context, int folder, const char *name, u8 type)
{
	const struct search *s = context;
	struct partition p;
	struct match *m;
	u32 number;

	(void)folder;
	(void)type;
	if (!identify_partition(s->boot, name, &p) || found.count == MAX_MATCHES)
		return false;
	if (s->target->by == BY_PARTUUID ? !streq_nocase(p.uuid, s->target->value) : !streq(p.label, s->target->value))
		return false;
	m = &found.list[found.count++];
	memset(m, 0, sizeof(*m));
	copy_name(m->name, name);
	find_disk(s->boot, name, m->disk, &number);
	return false;
}

static void find_partitions(const struct boot *boot, const struct target *t)
{
	struct search s = { .boot = boot, .target = t };

	found.count = 0;
	walk_folder(boot->sys, "class/block", visit_partition, &s);
}

static bool visit_number(void *context, int folder, const char *name, u8 type)
{
	struct search *s = context;
	char disk[NAME_ROOM];
	u32 number;

	(void)folder;
	(void)type;
	if (!find_disk(s->boot, name, disk, &number) || number != s->number)
		return false;
	copy_name(s->name, name);
	return true;
}

/* PARTNROFF=: another partition of the same disk, by the distance of their numbers. */
static long find_neighbour(const struct boot *boot, s32 offset, char *name)
{
	struct search s = { .boot = boot, .name = name };
	TEXT(path, NAME_ROOM + 16);
	char disk[NAME_ROOM];

	if (!offset)
		return 0;
	if (!find_disk(boot, name, disk, &s.number))
		return -ENODEV;
	s.number += (u32)offset;
	text_format(&path, "class/block/%s/.", disk);
	return walk_folder(boot->sys, path.data, visit_number, &s) == 1 ? 0 : -ENODEV;
}

static bool is_mountable(const struct superblock *s)
{
	return !s->member && (s->content == CONTENT_FILESYSTEM || s->content == CONTENT_TOLERANT);
}

/* Two devices of one file system, rather than a file system and its copy? */
static bool are_siblings(const struct superblock *a, const struct superblock *b)
{
	return a->devices > 1 && a->devices == b->devices && streq(a->uuid, b->uuid) &&
	       memcmp(a->device_id, b->device_id, sizeof(a->device_id));
}

/* Keeps those matches for which `keep` is set, in their order. */
static void keep_some(const bool *keep)
{
	u32 i, n = 0;

	for (i = 0; i < found.count; i++)
		if (keep[i])
			found.list[n++] = found.list[i];
	found.count = n;
}

/* A file system that begins where its disk begins is seen as the disk and as its partition: the partition is meant. */
static void drop_whole_disks(void)
{
	bool keep[MAX_MATCHES];
	u32 i, k;

	for (i = 0; i < found.count; i++) {
		keep[i] = true;
		for (k = 0; k < found.count; k++)
			if (k != i && streq(found.list[i].name, found.list[k].disk) && !found.list[i].superblock.member)
				keep[i] = false;
	}
	keep_some(keep);
}

static bool visit_any(void *context, int folder, const char *name, u8 type)
{
	(void)context;
	(void)folder;
	(void)name;
	(void)type;
	return true;
}

/* Another device lies over this one and shows the same content: a linear or verity target of the device mapper. */
static bool is_covered(const struct boot *boot, const char *name)
{
	TEXT(path, NAME_ROOM + 32);

	text_format(&path, "class/block/%s/holders", name);
	return walk_folder(boot->sys, path.data, visit_any, NULL) == 1;
}

/* Of a device and the one that lies over it the upper one is mounted, and the lower one is what verity is made over. */
static void drop_layers(const struct boot *boot, enum use use)
{
	bool keep[MAX_MATCHES], any = false;
	u32 i;

	for (i = 0; i < found.count; i++) {
		keep[i] = use == USE_MOUNT ? !is_covered(boot, found.list[i].name)
					   : !starts_with(found.list[i].name, "dm-");
		any |= keep[i];
	}
	if (any)
		keep_some(keep);
}

/* What can be mounted counts, if there is any. */
static void drop_members(void)
{
	bool keep[MAX_MATCHES], any = false;
	u32 i;

	for (i = 0; i < found.count; i++) {
		keep[i] = is_mountable(&found.list[i].superblock);
		any |= keep[i];
	}
	if (any)
		keep_some(keep);
}

/* Those on the disk that the boot loader was started from, if it is known and they are there. */
static void drop_other_disks(const struct boot *boot)
{
	static struct matches all;
	struct target t = { .by = BY_PARTUUID };
	bool keep[MAX_MATCHES];
	u32 i, count = 0;

	if (!find_boot_partition(boot, t.value))
		return;
	all = found;
	find_partitions(boot, &t);
	if (found.count == 1)
		for (i = 0; i < all.count; i++) {
			keep[i] = streq(all.list[i].disk, found.list[0].disk);
			count += keep[i];
		}
	found = all;
	if (count)
		keep_some(keep);
}

/* Is all that is left one device, or the devices of one file system? */
static bool is_one(void)
{
	u32 i, k;

	for (i = 1; i < found.count; i++)
		for (k = 0; k < i; k++)
			if (!are_siblings(&found.list[k].superblock, &found.list[i].superblock))
				return false;
	return true;
}

static long refuse_copies(const char *wanted)
{
	TEXT(names, 256);
	u32 i;

	for (i = 0; i < found.count; i++)
		text_format(&names, "%s/dev/%s", i ? i + 1 < found.count ? ", " : " and " : "", found.list[i].name);
	log_error("%s is on %s, which look like copies: none is used. Name the right one as PARTUUID= or /dev/NAME, or "
		  "give one of them another UUID",
		  wanted, names.data);
	return -EPERM;
}

static long choose(const struct boot *boot, const char *wanted, enum use use, char *name)
{
	if (!found.count)
		return -ENODEV;
	drop_whole_disks();
	drop_layers(boot, use);
	if (use == USE_MOUNT)
		drop_members();
	if (use == USE_MOUNT && found.list[0].superblock.member) {
		copy_name(name,
			  found.list[0].name); /* the halves of a mirror are not copies: whoever mounts says more */
		return 0;
	}
	if (!is_one())
		drop_other_disks(boot);
	if (!is_one())
		return refuse_copies(wanted);
	copy_name(name, found.list[0].name);
	return 0;
}

long find_device(const struct boot *boot, const char *wanted, enum use use, char name[NAME_ROOM])
{
	struct target t;
	struct search s = { .boot = boot, .target = &t, .name = name };
	long err;

	if (!parse_target(wanted, &t))
		return -EINVAL;
	switch (t.by) {
	case BY_NAME:
		return find_name(boot, t.value, name);
	case BY_NUMBER:
		return find_number(boot, t.value, name);
	case BY_MAPPER:
		return walk_folder(boot->sys, "class/block", visit_mapper, &s) == 1 ? 0 : -ENODEV;
	case BY_UUID:
	case BY_LABEL:
		scan_contents(boot, t.by, t.value, &found);
		return choose(boot, wanted, use, name);
	default:
		find_partitions(boot, &t);
		err = choose(boot, wanted, use, name);
		return err < 0 ? err : find_neighbour(boot, t.offset, name);
	}
}

const struct matches *find_siblings(const struct boot *boot, const struct superblock *s)
{
	bool keep[MAX_MATCHES];
	u32 i;

	scan_contents(boot, BY_UUID, s->uuid, &found);
	for (i = 0; i < found.count; i++)
		keep[i] = is_mountable(&found.list[i].superblock) && found.list[i].superblock.devices == s->devices;
	keep_some(keep);
	return &found;
}

static bool name_fits(const char *name, const char *pattern)
{
	if (streq(pattern, "/"))
		return find_char(name, '/');
	for (; *pattern; pattern++, name++)
		if (*pattern == '#' ? *name < '0' || *name > '9' : *name != *pattern)
			return false;
	return true;
}

const char *refusal_of(const struct boot *boot, const char *wanted, bool any_source)
{
	char name[NAME_ROOM];
	const char *at;
	size_t i;

	if (!starts_with(wanted, "/dev/") || streq(wanted, "/dev/root"))
		return NULL;
	at = wanted + 5;
	for (i = 0; i < sizeof(known_names) / sizeof(known_names[0]); i++)
		if (starts_with(at, known_names[i]))
			return NULL;
	for (i = 0; i < sizeof(limited_names) / sizeof(limited_names[0]); i++)
		if (name_fits(at, limited_names[i].start))
			return !limited_names[i].text || (!any_source && find_device(boot, wanted, USE_RAW, name) < 0)
				       ? limits[limited_names[i].text]
				       : NULL;
	return NULL;
}

const char *limit_on_command_line(const struct boot *boot, struct text *asked)
{
	const char *at = boot->cmdline;
	struct word w;
	size_t i;

	while (next_word(&at, &w))
		for (i = 0; i < sizeof(limited_words) / sizeof(limited_words[0]); i++)
			if (starts_with(w.key, limited_words[i].start)) {
				text_add_bytes(asked, w.key, w.key_size);
				return limits[limited_words[i].text];
			}
	return NULL;
}

static bool visit_name(void *context, int folder, const char *name, u8 type)
{
	struct text *t = context;
	const struct superblock *s;
	u32 i;

	(void)folder;
	(void)type;
	text_format(t, " %s", name);
	for (i = 0; i < found.count; i++) {
		s = &found.list[i].superblock;
		if (streq(found.list[i].name, name))
			text_format(t, " (%s)", s->member ? s->member : s->second ? "ambiguous" : s->name);
	}
	return false;
}

void list_contents(const struct boot *boot, struct text *names)
{
	scan_contents(boot, BY_ALL, "", &found);
	walk_folder(boot->sys, "class/block", visit_name, names);
}

u32 list_members(const struct boot *boot, struct text *names)
{
	const struct superblock *s;
	u32 i, n = 0;

	scan_contents(boot, BY_ALL, "", &found);
	for (i = 0; i < found.count; i++) {
		s = &found.list[i].superblock;
		if (s->member)
			text_format(names, "%s%s %s (%s)", n++ ? ", " : "", found.list[i].name,
				    content_words(s->membership), s->member);
	}
	return n;
}
