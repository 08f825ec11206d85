/* SPDX-License-Identifier: MIT
 *
 * Partition tables, and how UUIDs and labels are written.
 */
#ifndef PARTITION_H
#define PARTITION_H

#include "text.h"

enum { UUID_ROOM = 41, LABEL_ROOM = 257 };

struct partition {
	char uuid[UUID_ROOM], label[LABEL_ROOM]; /* as PARTUUID= and PARTLABEL= write them */
	char type[UUID_ROOM];			 /* the GUID of a GPT's entry, "" with an MBR */
	u64 attributes;				 /* of a GPT's entry */
};

/*
 * Entry `number` (from 1) of the partition table on a whole disk; false if there is none. Knows GPT and MBR, and takes
 * the GPT at the end of the disk when the one at its start is damaged, as the kernel does.
 */
bool read_partition(int fd, u64 size, u32 number, struct partition *found);

void put_uuid(char *to, const u8 *bytes);
void put_guid(char *to, const u8 *bytes);
/* UTF-16, little-endian, to UTF-8 in LABEL_ROOM. */
void put_wide_label(char *to, const u8 *bytes, size_t units);
u32 crc32(u32 polynomial, u32 crc, const u8 *data, size_t size);

#define CRC32_POLYNOMIAL 0xEDB88320u
#define CRC32C_POLYNOMIAL 0x82F63B78u

#endif
