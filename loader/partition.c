/* SPDX-License-Identifier: MIT
 *
 * See partition.h. Structures: gpt_header and gpt_entry
 * (block/partitions/efi.h), msdos_partition (include/linux/msdos_partition.h), Linux 6.1.
 */
#include "partition.h"

enum { GPT_ROOM = 32768 }; /* of the entries: 256 of 128 bytes */

void put_uuid(char *to, const u8 *bytes)
{
	static const u8 groups[] = { 4, 2, 2, 2, 6 };
	size_t i;

	for (i = 0; i < sizeof(groups); i++) {
		if (i)
			*to++ = '-';
		put_hex(to, bytes, groups[i]);
		to += 2 * groups[i];
		bytes += groups[i];
	}
}

/* The first three groups of a GUID are stored little-endian. */
void put_guid(char *to, const u8 *b)
{
	const u8 turned[16] = { b[3], b[2], b[1],  b[0],  b[5],	 b[4],	b[7],  b[6],
				b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15] };

	put_uuid(to, turned);
}

/* A surrogate pair makes two three-byte sequences, as no label needs to be pretty. */
void put_wide_label(char *to, const u8 *bytes, size_t units)
{
	char *end = to + LABEL_ROOM - 4;
	u16 c;

	for (; units && to < end && (c = le16(bytes)); units--, bytes += 2) {
		if (c < 0x80) {
			*to++ = (char)c;
		} else if (c < 0x800) {
			*to++ = (char)(0xc0 | c >> 6);
			*to++ = (char)(0x80 | (c & 63));
		} else {
			*to++ = (char)(0xe0 | c >> 12);
			*to++ = (char)(0x80 | (c >> 6 & 63));
			*to++ = (char)(0x80 | (c & 63));
		}
	}
	*to = 0;
}

u32 crc32(u32 polynomial, u32 crc, const u8 *data, size_t size)
{
	u32 table[16], value;
	u32 i, bit;

	for (i = 0; i < 16; i++) {
		value = i;
		for (bit = 0; bit < 4; bit++)
			value = value >> 1 ^ (value & 1 ? polynomial : 0);
		table[i] = value;
	}
	for (; size; size--) {
		crc ^= *data++;
		crc = crc >> 4 ^ table[crc & 15];
		crc = crc >> 4 ^ table[crc & 15];
	}
	return crc;
}

/* The table whose header is in this logical block, checked as is_gpt_valid() does it (block/partitions/efi.c). Returns
 * whether there is one; an entry that it has not stays without a UUID. */
static bool read_gpt(int fd, u64 lba, u32 sector, u32 number, struct partition *p)
{
	static u8 entries[GPT_ROOM];
	u8 b[512];
	const u8 zero[4] = { 0, 0, 0, 0 }, *entry;
	u32 header = 0, count, size, crc;
	u64 bytes;

	if (sys_pread(fd, b, 512, lba * sector) != 512 || memcmp(b, "EFI PART", 8))
		return false;
	header = le32(b + 12);
	if (header < 92 || header > 512 || le64(b + 24) != lba)
		return false;
	crc = crc32(CRC32_POLYNOMIAL, ~0u, b, 16);
	crc = crc32(CRC32_POLYNOMIAL, crc, zero, 4);
	crc = crc32(CRC32_POLYNOMIAL, crc, b + 20, header - 20);
	if (~crc != le32(b + 16))
		return false;
	count = le32(b + 80);
	size = le32(b + 84);
	bytes = (u64)count * size;
	if (size != 128 || bytes > GPT_ROOM) /* the kernel takes no other size of an entry */
		return false;
	if (sys_pread(fd, entries, (size_t)bytes, le64(b + 72) * sector) != (long)bytes ||
	    ~crc32(CRC32_POLYNOMIAL, ~0u, entries, (size_t)bytes) != le32(b + 88))
		return false;
	if (number > count)
		return true;
	entry = entries + (number - 1) * size;
	put_guid(p->type, entry);
	put_guid(p->uuid, entry + 16);
	p->attributes = le64(entry + 48);
	put_wide_label(p->label, entry + 56, 36);
	return true;
}

bool read_partition(int fd, u64 size, u32 number, struct partition *p)
{
	u8 b[512];

	p->uuid[0] = p->label[0] = p->type[0] = 0;
	p->attributes = 0;
	if (!number || sys_pread(fd, b, 512, 0) != 512 || le16(b + 510) != 0xAA55)
		return false;
	/* A GPT counts only below a protective MBR (find_valid_gpt); a logical block has 512 or 4096 bytes. */
	if ((b[450] == 0xEE || b[466] == 0xEE || b[482] == 0xEE || b[498] == 0xEE) && size >= 8192)
		if (read_gpt(fd, 1, 512, number, p) || read_gpt(fd, 1, 4096, number, p) ||
		    read_gpt(fd, (size >> 9) - 1, 512, number, p) || read_gpt(fd, (size >> 12) - 1, 4096, number, p))
			return p->uuid[0];
	/* msdos_partition, block/partitions/msdos.c: "%08x-%02x" of the disk's signature and the number */
	put_hex(p->uuid, (const u8[]){ b[443], b[442], b[441], b[440] }, 4);
	p->uuid[8] = '-';
	put_hex(p->uuid + 9, (const u8[]){ (u8)number }, 1);
	return true;
}
