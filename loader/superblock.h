/* SPDX-License-Identifier: MIT
 *
 * What is on a block device, as libblkid finds it: every signature is looked at before one of them is believed.
 */
#ifndef SUPERBLOCK_H
#define SUPERBLOCK_H

#include "partition.h"

/* What can be done with a device of this kind; from CONTENT_MEMBER on it is a part of something, and is never mounted.
 */
enum content {
	CONTENT_NONE,
	CONTENT_FILESYSTEM,
	CONTENT_TOLERANT, /* a file system that may share its device with another tolerant one */
	CONTENT_OTHER,	  /* swap, an external journal: nothing that can be mounted */
	CONTENT_MEMBER,	  /* of something without better words */
	CONTENT_RAID,
	CONTENT_ENCRYPTED,
	CONTENT_VOLUME,
	CONTENT_POOL,
};

struct superblock {
	const char *name;	 /* as libblkid's TYPE, of a file system or other content; NULL: none is known */
	const char *second;	 /* another one on the same device, so that neither can be believed; NULL */
	const char *member;	 /* as libblkid's TYPE; NULL: a part of nothing */
	enum content content;	 /* of `name` */
	enum content membership; /* of `member` */
	char uuid[UUID_ROOM], label[LABEL_ROOM]; /* of `name`, "" if the format has none */
	char member_uuid[UUID_ROOM];		 /* of `member` */
	u8 device_id[16];			 /* tells the devices of one file system apart; zero if it has one */
	u32 devices;				 /* that the file system is made of, 0 if the format does not count */
	u64 from, to;				 /* the bytes that the RAID member at the end of a disk covers */
};

/*
 * Reads what is at the start of a device of `size` bytes. A negative errno if it cannot be read; else 0, and `found`
 * says whether anything is known there.
 */
long read_superblock(int fd, u64 size, struct superblock *found);
/* Adds what is known by its end: RAID members, which look like a file system from the start. `whole`: not a partition.
 */
void read_tail(int fd, u64 size, bool whole, struct superblock *found);
/* "is encrypted", "is a member of a RAID array" …, for a content from CONTENT_MEMBER on. */
const char *content_words(enum content content);

#endif
