/* SPDX-License-Identifier: MIT
 *
 * See discover.h: the discoverable partitions specification (uapi-group.org/specifications/specs/
 * discoverable_partitions_specification). The disk is the one that the boot loader was started from; where that is not
 * known, the only one that has a root. Of several roots on it the one with the newest version in its label counts, as
 * in systemd-gpt-auto-generator.
 */
#include "discover.h"
#include "efi.h"
#include "files.h"
#include "log.h"

#define NO_AUTO (1ull << 63)

struct discovery {
	const struct boot *boot;
	char boot_uuid[UUID_ROOM];		 /* of the ESP, "" if it is not known */
	char boot_disk[NAME_ROOM];		 /* "" until it has been found */
	char disk[NAME_ROOM], label[LABEL_ROOM]; /* of the best so far */
	char other[NAME_ROOM];			 /* another disk that has one */
	char *name;
};

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Is b a later version than a? Numbers count as numbers. */
static bool is_later(const char *a, const char *b)
{
	u64 m, n;

	for (;;) {
		if (is_digit(*a) && is_digit(*b)) {
			if (!take_number(&a, &m) || !take_number(&b, &n))
				return false;
			if (m != n)
				return n > m;
		} else if (*a != *b || !*a) {
			return (u8)*b > (u8)*a;
		} else {
			a++;
			b++;
		}
	}
}

static bool visit_boot(void *context, int folder, const char *name, u8 type)
{
	struct discovery *d = context;
	struct partition p;
	u32 number;

	(void)folder;
	(void)type;
	if (!identify_partition(d->boot, name, &p) || !streq_nocase(p.uuid, d->boot_uuid))
		return false;
	return find_disk(d->boot, name, d->boot_disk, &number);
}

static bool visit_root(void *context, int folder, const char *name, u8 type)
{
	struct discovery *d = context;
	char disk[NAME_ROOM];
	struct partition p;
	u32 number;

	(void)folder;
	(void)type;
	if (!identify_partition(d->boot, name, &p) || !streq(p.type, ROOT_TYPE) || (p.attributes & NO_AUTO) ||
	    !find_disk(d->boot, name, disk, &number))
		return false;
	if (d->boot_disk[0] && !streq(disk, d->boot_disk))
		return false;
	if (d->disk[0] && !streq(disk, d->disk)) {
		copy_name(d->other, disk);
		return false;
	}
	if (d->disk[0] && !is_later(d->label, p.label))
		return false;
	copy_name(d->disk, disk);
	copy_name(d->name, name);
	memcpy(d->label, p.label, sizeof(d->label));
	return false;
}

long discover_root(const struct boot *boot, char name[NAME_ROOM])
{
	static struct discovery d;

	memset(&d, 0, sizeof(d));
	d.boot = boot;
	d.name = name;
	if (find_boot_partition(boot, d.boot_uuid) && walk_folder(boot->sys, "class/block", visit_boot, &d) != 1)
		return -ENODEV;
	walk_folder(boot->sys, "class/block", visit_root, &d);
	if (!d.disk[0])
		return -ENODEV;
	if (!d.other[0])
		return 0;
	log_error(
		"no root= on the kernel command line, and both /dev/%s and /dev/%s have a partition of the type for roots: "
		"name one in root=",
		d.disk, d.other);
	return -EPERM;
}
