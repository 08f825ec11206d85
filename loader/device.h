/* SPDX-License-Identifier: MIT
 *
 * Block devices: which one is meant, and what is on it. Names are the kernel's own, as devtmpfs has them.
 */
#ifndef DEVICE_H
#define DEVICE_H

#include "boot.h"
#include "superblock.h"

enum { NAME_ROOM = 64, MAX_MATCHES = 16 };

enum by { BY_NAME, BY_NUMBER, BY_MAPPER, BY_UUID, BY_LABEL, BY_PARTUUID, BY_PARTLABEL, BY_ALL };

/* What root= and the like mean. */
struct target {
	enum by by;
	s32 offset;		/* of PARTNROFF= */
	char value[LABEL_ROOM]; /* without quotes and escapes */
};

/* False if `wanted` does not name a block device in any form. */
bool parse_target(const char *wanted, struct target *target);

/* A device that has what is wanted. */
struct match {
	char name[NAME_ROOM]; /* below /sys/class/block */
	char disk[NAME_ROOM]; /* the same for a whole disk */
	struct superblock superblock;
};

struct matches {
	u32 count;
	struct match list[MAX_MATCHES];
};

void copy_name(char to[NAME_ROOM], const char *from);
/* The name below /dev of a name in sysfs: `cciss!c0d0` is `cciss/c0d0` there. */
bool set_name(const char *name, char *to, size_t room);
/* A handle on a device by its name in sysfs, and how many bytes it has; or a negative errno. */
long open_device(const struct boot *boot, const char *name, u64 *size);
/* The disk that a partition is on and its number, by sysfs; false if `name` is a whole disk (it stands in `disk` then).
 */
bool find_disk(const struct boot *boot, const char *name, char *disk, u32 *number);
/* What is on a device, its end and its disk's end included; a negative errno if it cannot be read. */
long identify_device(const struct boot *boot, const char *name, struct superblock *found);
/* The partition table's entry for a partition. */
bool identify_partition(const struct boot *boot, const char *name, struct partition *found);

#endif
