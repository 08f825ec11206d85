/* SPDX-License-Identifier: MIT
 *
 * What is on a block device: file system type, UUID and label, or the identity of a partition.
 */
#ifndef SUPERBLOCK_H
#define SUPERBLOCK_H

#include "text.h"

enum { UUID_ROOM = 37, LABEL_ROOM = 257 };

struct superblock {
	const char *types;			 /* what to mount it as, best first, separated by commas */
	char uuid[UUID_ROOM], label[LABEL_ROOM]; /* "" if the format has none */
};

/* False if no file system is known there. Knows ext2/3/4, btrfs, xfs, f2fs, squashfs, erofs and vfat. */
bool read_superblock(int fd, struct superblock *found);

struct partition {
	char uuid[UUID_ROOM], label[LABEL_ROOM]; /* as PARTUUID= and PARTLABEL= write them */
};

/* Entry `number` (from 1) of the partition table on a whole disk; false if there is none. Knows GPT and MBR. */
bool read_partition(int fd, u32 number, struct partition *found);

#endif
