/* SPDX-License-Identifier: MIT
 *
 * See superblock.h. Offsets are those of the on-disk structures in Linux 6.1: ext4_super_block (fs/ext4/ext4.h),
 * btrfs_super_block (fs/btrfs/ctree.h), xfs_dsb (fs/xfs/libxfs/xfs_format.h), f2fs_super_block
 * (include/linux/f2fs_fs.h), squashfs_super_block, erofs_super_block, fat_boot_sector
 * (include/uapi/linux/msdos_fs.h), gpt_header and gpt_entry (block/partitions/efi.h).
 */
#include "superblock.h"

enum { BLOCK = 4096, BTRFS_AT = 65536 };

static const char digits[] = "0123456789abcdef";

static void put_hex(char *to, const u8 *bytes, size_t count)
{
	for (; count; count--, bytes++) {
		*to++ = digits[*bytes >> 4];
		*to++ = digits[*bytes & 15];
	}
	*to = 0;
}

static void put_uuid(char *to, const u8 *bytes)
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
static void put_guid(char *to, const u8 *b)
{
	const u8 turned[16] = { b[3], b[2], b[1],  b[0],  b[5],	 b[4],	b[7],  b[6],
				b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15] };

	put_uuid(to, turned);
}

static void put_label(char *to, const u8 *bytes, size_t room)
{
	size_t i;

	for (i = 0; i < room && bytes[i]; i++)
		to[i] = (char)bytes[i];
	to[i] = 0;
}

/* FAT pads labels with spaces. */
static void put_padded_label(char *to, const u8 *bytes, size_t room)
{
	put_label(to, bytes, room);
	for (room = length(to); room && to[room - 1] == ' '; room--)
		to[room - 1] = 0;
}

/* UTF-16LE to UTF-8; a surrogate pair makes two three-byte sequences, as no label needs to be pretty. */
static void put_wide_label(char *to, const u8 *bytes, size_t units)
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

static bool is_ext(const u8 *b, struct superblock *s)
{
	const u8 *e = b + 1024;

	if (le16(e + 56) != 0xEF53 || le32(e + 96) & 8) /* incompat JOURNAL_DEV: somebody's external journal */
		return false;
	s->types = "ext4,ext3,ext2"; /* ext4's driver takes all three where it is the only one */
	put_uuid(s->uuid, e + 104);
	put_label(s->label, e + 120, 16);
	return true;
}

static bool is_xfs(const u8 *b, struct superblock *s)
{
	if (memcmp(b, "XFSB", 4))
		return false;
	s->types = "xfs";
	put_uuid(s->uuid, b + 32);
	put_label(s->label, b + 108, 12);
	return true;
}

static bool is_f2fs(const u8 *b, struct superblock *s)
{
	if (le32(b + 1024) != 0xF2F52010)
		return false;
	s->types = "f2fs";
	put_uuid(s->uuid, b + 1024 + 108);
	put_wide_label(s->label, b + 1024 + 124, 512);
	return true;
}

static bool is_erofs(const u8 *b, struct superblock *s)
{
	if (le32(b + 1024) != 0xE0F5E1E2)
		return false;
	s->types = "erofs";
	put_uuid(s->uuid, b + 1024 + 48);
	put_label(s->label, b + 1024 + 64, 16);
	return true;
}

static bool is_squashfs(const u8 *b, struct superblock *s)
{
	if (memcmp(b, "hsqs", 4))
		return false;
	s->types = "squashfs";
	return true;
}

static bool is_vfat(const u8 *b, struct superblock *s)
{
	const u8 *id;

	if (le16(b + 510) != 0xAA55)
		return false;
	if (!memcmp(b + 82, "FAT32   ", 8))
		id = b + 67;
	else if (!memcmp(b + 54, "FAT12   ", 8) || !memcmp(b + 54, "FAT16   ", 8))
		id = b + 39;
	else
		return false;
	s->types = "vfat";
	put_hex(s->uuid, (const u8[]){ id[3], id[2] }, 2);
	s->uuid[4] = '-';
	put_hex(s->uuid + 5, (const u8[]){ id[1], id[0] }, 2);
	if (memcmp(id + 4, "NO NAME    ", 11))
		put_padded_label(s->label, id + 4, 11);
	return true;
}

static bool is_btrfs(int fd, u8 *b, struct superblock *s)
{
	if (sys_pread(fd, b, BLOCK, BTRFS_AT) != BLOCK || memcmp(b + 64, "_BHRfS_M", 8))
		return false;
	s->types = "btrfs";
	put_uuid(s->uuid, b + 32);
	put_label(s->label, b + 299, 256);
	return true;
}

bool read_superblock(int fd, struct superblock *s)
{
	u8 b[BLOCK];

	s->types = "";
	s->uuid[0] = s->label[0] = 0;
	if (sys_pread(fd, b, sizeof(b), 0) != BLOCK)
		return false;
	return is_squashfs(b, s) || is_xfs(b, s) || is_f2fs(b, s) || is_erofs(b, s) || is_ext(b, s) || is_vfat(b, s) ||
	       is_btrfs(fd, b, s);
}

/* The GPT header is in the second logical block, which has 512 or 4096 bytes. */
static bool read_gpt(int fd, u32 number, u32 sector, struct partition *p)
{
	u8 b[512];
	u32 size;
	u64 at;

	if (sys_pread(fd, b, 512, sector) != 512 || memcmp(b, "EFI PART", 8))
		return false;
	size = le32(b + 84);
	if (number > le32(b + 80) || size < 128 || size > 4096)
		return false;
	at = le64(b + 72) * sector + (u64)(number - 1) * size;
	if (sys_pread(fd, b, 128, at) != 128)
		return false;
	put_guid(p->uuid, b + 16);
	put_wide_label(p->label, b + 56, 36);
	return true;
}

bool read_partition(int fd, u32 number, struct partition *p)
{
	u8 b[512];

	p->uuid[0] = p->label[0] = 0;
	if (!number)
		return false;
	if (read_gpt(fd, number, 512, p) || read_gpt(fd, number, 4096, p))
		return true;
	if (sys_pread(fd, b, 512, 0) != 512 || le16(b + 510) != 0xAA55)
		return false;
	/* msdos_partition, block/partitions/msdos.c: "%08x-%02x" of the disk's signature and the number */
	put_hex(p->uuid, (const u8[]){ b[443], b[442], b[441], b[440] }, 4);
	p->uuid[8] = '-';
	put_hex(p->uuid + 9, (const u8[]){ (u8)number }, 1);
	return true;
}
