/* SPDX-License-Identifier: MIT
 *
 * See superblock.h. Two tables say where the signature of each kind is, and where its UUID and label are; what a
 * signature of a few bytes cannot tell, a check does. Order, names and checks are those of libblkid (util-linux 2.41,
 * libblkid/src/superblocks/): a member of a RAID array, an encrypted device and the like win over any file system, and
 * two file systems on one device are one too many (superblocks_safeprobe).
 */
#include "superblock.h"
#include "signatures.h"

enum {
	HEAD = 69632,	  /* btrfs ends there */
	TAIL = 136 << 10, /* the second place of DDF's header is 128.5 KiB before the end */
	MD_MAGIC = (int)0xa92b4efc,
};

const char *content_words(enum content content)
{
	switch (content) {
	case CONTENT_RAID:
		return "is a member of a RAID array";
	case CONTENT_ENCRYPTED:
		return "is encrypted";
	case CONTENT_VOLUME:
		return "is a part of an LVM volume group";
	case CONTENT_POOL:
		return "is a part of a storage pool";
	default:
		return "is a part of another device";
	}
}

static void put_label(char *to, const u8 *bytes, size_t room)
{
	size_t i;

	for (i = 0; i < room && bytes[i]; i++)
		to[i] = (char)bytes[i];
	to[i] = 0;
}

/* As libblkid does it with every label. */
static void trim(char *label)
{
	size_t end = length(label);

	while (end && (label[end - 1] == ' ' || (label[end - 1] >= '\t' && label[end - 1] <= '\r')))
		label[--end] = 0;
}

static bool is_power_of_two(u32 n)
{
	return n && !(n & (n - 1));
}

static u32 be32(const u8 *at)
{
	return (u32)at[0] << 24 | (u32)at[1] << 16 | (u32)at[2] << 8 | at[3];
}

/* mdp_superblock_1 (include/uapi/linux/raid/md_p.h) in a block that was read at `at`. */
static bool is_md1(const u8 *b, u64 at)
{
	u32 roles = le32(b + 220), i;
	u64 sum = 0;

	if (le32(b) != (u32)MD_MAGIC || le32(b + 4) != 1 || le64(b + 144) != at >> 9 || roles > 1920)
		return false;
	for (i = 0; i + 4 <= 256 + 2 * roles; i += 4) /* calc_sb_1_csum, drivers/md/md.c */
		if (i != 216)
			sum += le32(b + i);
	if (roles & 1)
		sum += le16(b + i);
	return (u32)((sum >> 32) + sum) == le32(b + 216);
}

/* One of the three sectors after the first may have it too; a damaged label is none (lvm2_calc_crc). */
static bool is_lvm2(const u8 *b, u64 at)
{
	return !memcmp(b + 24, "LVM2 001", 8) && le64(b + 8) == at >> 9 &&
	       crc32(CRC32_POLYNOMIAL, 0xf597a6cf, b + 20, 492) == le32(b + 16);
}

/* The name says which driver has all the features: they are what mount() will get. */
static bool is_ext(const u8 *e, struct superblock *s)
{
	u32 compatible = le32(e + 92), incompatible = le32(e + 96), read_only = le32(e + 100);

	if (read_only & 0x400) { /* METADATA_CSUM */
		if (crc32(CRC32C_POLYNOMIAL, ~0u, e, 1020) != le32(e + 1020))
			return false;
	} else if (le32(e + 24) >= 256) {
		return false;
	}
	if (incompatible & 8) { /* JOURNAL_DEV: somebody's external journal */
		s->name = "jbd";
		s->content = CONTENT_OTHER;
	} else if (read_only & ~7u || incompatible & ~0x16u) {
		s->name = "ext4";
	} else if (compatible & 4) {
		s->name = "ext3";
	} else if (incompatible & 4) {
		return false;
	} else {
		s->name = "ext2";
	}
	return true;
}

/* fat_valid_superblock() of libblkid; a boot sector that is none has other things there. */
static bool is_vfat(const u8 *b)
{
	u32 sector = le16(b + 11), entries = le16(b + 17), sectors = le16(b + 19), fat = le16(b + 22), used, clusters;

	if (!b[16] || !le16(b + 14) || (b[21] < 0xf8 && b[21] != 0xf0) || !is_power_of_two(b[13]) ||
	    !is_power_of_two(sector) || sector < 512 || sector > 4096 || !memcmp(b + 54, "JFS     ", 8) ||
	    !memcmp(b + 54, "HPFS    ", 8) || le16(b + 510) != 0xaa55)
		return false;
	sectors = sectors ? sectors : le32(b + 32);
	used = le16(b + 14) + (fat ? fat : le32(b + 36)) * b[16] + (u32)divide(entries * 32 + sector - 1, sector, NULL);
	clusters = (u32)divide(sectors - used, b[13], NULL);
	return clusters <= (fat || !le32(b + 36) ? 0xfff4 : 0x0ffffff6);
}

/* The label is the first entry of the root folder with the attribute "volume", and only that (search_fat_label). */
static void put_fat_label(int fd, const u8 *b, char *label)
{
	u8 entries[2048];
	u32 sector = le16(b + 11), fat = le16(b + 22), at = le16(b + 14) + (fat ? fat : le32(b + 36)) * b[16];
	long got, i;

	if (!fat) /* FAT32: where its cluster lies */
		at += (le32(b + 44) - 2) * b[13];
	got = sys_pread(fd, entries, sizeof(entries), (u64)at * sector);
	for (i = 0; i + 32 <= got && entries[i]; i += 32)
		if (entries[i] != 0xe5 && (entries[i + 11] & 0x3f) != 0x0f && (entries[i + 11] & 0x18) == 8) {
			put_label(label, entries + i, 11);
			return;
		}
}

/* The root folder of an exFAT has an entry 0x83 for it. */
static void put_exfat_label(int fd, const u8 *b, char *label)
{
	u8 entries[1024];
	u64 at = le32(b + 88) + ((u64)(le32(b + 96) - 2) << b[109]);
	long got = sys_pread(fd, entries, sizeof(entries), at << b[108]), i;

	for (i = 0; i + 32 <= got && entries[i]; i += 32)
		if (entries[i] == 0x83 && entries[i + 1] <= 11) {
			put_wide_label(label, entries + i + 2, entries[i + 1]);
			return;
		}
}

/* Joliet has the same label in both cases of letters, where the first descriptor may have capitals only. */
static void put_iso_label(const u8 *b, char *label)
{
	const u8 *d;
	u32 i;

	for (d = b + 32768 + 2048; d < b + HEAD - 2048 && d[0] != 0xff && d[0] != 2; d += 2048)
		;
	if (d >= b + HEAD - 2048 || d[0] != 2 || d[88] != '%' || d[89] != '/')
		return;
	for (i = 0; i < 16 && label[i]; i++)
		if (!d[40 + 2 * i] && label[i] >= 'A' && label[i] <= 'Z' && d[41 + 2 * i] == label[i] + 32)
			label[i] = (char)d[41 + 2 * i];
}

/* Is the signature more than a few bytes that happen to be there? `at` is where it was found. */
static bool check(u64 size, enum kind_id kind, const u8 *b, u64 at, struct superblock *s)
{
	u32 crc;

	switch (kind) {
	case KIND_MD11:
	case KIND_MD12:
		return is_md1(b + at, at);
	case KIND_BCACHE:
		return le64(b + 4096 + 8) == 8;
	case KIND_BCACHEFS:
		memcpy(s->device_id, b + 4096 + 122, 1);
		s->devices = b[4096 + 123];
		return le64(b + 4096 + 104) == 8 && b[4096 + 122] < b[4096 + 123];
	case KIND_LVM2:
		return is_lvm2(b + at, at);
	case KIND_VERITY:
		return le32(b + 8) == 1;
	case KIND_INTEGRITY:
		return b[8] != 0;
	case KIND_VFAT:
		return is_vfat(b);
	case KIND_SWAP:
		return (le32(b + 1024) == 1 || be32(b + 1024) == 1) && le32(b + 1028);
	case KIND_XFS:
		return le32(b + 88) && be32(b + 4) == 1u << (b[120] & 31) && le64(b + 8);
	case KIND_EXT:
		return is_ext(b + 1024, s);
	case KIND_REISERFS:
		return b[65536 + 52 + 6] == '2' || b[65536 + 52 + 6] == '3';
	case KIND_JFS:
		return le32(b + 32768 + 16) == 1u << (le16(b + 32768 + 20) & 31);
	case KIND_ISO9660:
		return b[32768] == 1 && le16(b + 32768 + 128);
	case KIND_ZFS:
		return b[16384] == 1 && b[16385] <= 1 && size >= 64 << 20;
	case KIND_NTFS:
		return is_power_of_two(le16(b + 11)) && !le16(b + 14) && !b[16] && !le16(b + 22);
	case KIND_SQUASHFS:
		return le16(b + 28) == 4;
	case KIND_BTRFS:
		memcpy(s->device_id, b + 65536 + 267, 16); /* dev_item.uuid */
		s->devices = le32(b + 65536 + 136);
		return le64(b + 65536 + 48) == 65536;
	case KIND_NILFS2:
		if (le16(b + 1032) > 1024 || le16(b + 1032) < 20)
			return false;
		crc = crc32(CRC32_POLYNOMIAL, le32(b + 1036), b + 1024, 16);
		crc = crc32(CRC32_POLYNOMIAL, crc, (const u8[4]){ 0 }, 4);
		return crc32(CRC32_POLYNOMIAL, crc, b + 1024 + 20, le16(b + 1032) - 20) == le32(b + 1024 + 16);
	case KIND_EXFAT:
		return le16(b + 510) == 0xaa55 && b[108] >= 9 && b[108] <= 12 && b[109] <= 25 && le32(b + 96) >= 2;
	case KIND_EROFS:
		return b[1024 + 12] >= 9 && b[1024 + 12] <= 16;
	default:
		return true;
	}
}

static void put_kind_uuid(char *to, const struct kind *k, const u8 *b)
{
	static const u8 dashes[] = { 4, 6, 8, 10, 12, 14, 16 };
	const u8 *id = b + k->uuid_at;
	u32 i, dash = 0;

	to[0] = 0;
	switch (k->form) {
	case FORM_RAW:
		for (i = 0; i < 16 && !id[i]; i++)
			;
		if (i < 16) /* sixteen zeros are not a UUID */
			put_uuid(to, id);
		break;
	case FORM_TEXT:
		put_label(to, id, UUID_ROOM - 1);
		break;
	case FORM_FAT:
		if (k == &kinds[KIND_VFAT])
			id = b + (le16(b + 22) ? 39 : 67);
		put_hex(to, (const u8[]){ id[3], id[2] }, 2);
		to[4] = '-';
		put_hex(to + 5, (const u8[]){ id[1], id[0] }, 2);
		break;
	case FORM_NTFS:
		put_hex(to, (const u8[]){ id[7], id[6], id[5], id[4], id[3], id[2], id[1], id[0] }, 8);
		break;
	case FORM_ISO: /* the time of the last change, sixteen digits; where that is not set, of the making */
		if (id[0] == '0')
			id -= 17;
		for (i = 0; i < 16; i++) {
			if (i == dashes[dash]) {
				*to++ = '-';
				dash++;
			}
			*to++ = (char)id[i];
		}
		*to = 0;
	}
}

/* Adds a kind that was found; `checked` is what its check has read besides. */
static void accept(int fd, enum kind_id kind, const u8 *b, struct superblock *s, const struct superblock *checked)
{
	const struct kind *k = &kinds[kind];
	const char *name = kind == KIND_EXT ? checked->name : k->name;
	enum content content = kind == KIND_EXT && checked->content == CONTENT_OTHER ? CONTENT_OTHER : k->content;

	if (content >= CONTENT_MEMBER) {
		if (s->member)
			return;
		s->member = name;
		s->membership = content;
		put_kind_uuid(s->member_uuid, k, b);
		return;
	}
	if (s->name) {
		if (!s->second && !streq(s->name, name) &&
		    !(s->content == CONTENT_TOLERANT && content == CONTENT_TOLERANT))
			s->second = name;
		return;
	}
	s->name = name;
	s->content = content;
	s->devices = checked->devices;
	memcpy(s->device_id, checked->device_id, sizeof(s->device_id));
	put_kind_uuid(s->uuid, k, b);
	if (kind == KIND_VFAT)
		put_fat_label(fd, b, s->label);
	else if (kind == KIND_EXFAT)
		put_exfat_label(fd, b, s->label);
	else if (kind == KIND_F2FS)
		put_wide_label(s->label, b + 1024 + 124, 512);
	else if (k->label_size)
		put_label(s->label, b + k->label_at, k->label_size);
	if (kind == KIND_ISO9660)
		put_iso_label(b, s->label);
	trim(s->label);
}

long read_superblock(int fd, u64 size, struct superblock *s)
{
	static u8 head[HEAD];
	struct superblock checked;
	long got = sys_pread(fd, head, HEAD, 0);
	size_t i;

	memset(s, 0, sizeof(*s));
	if (got < 0)
		return got;
	memset(head + got, 0, (size_t)(HEAD - got));
	for (i = 0; i < sizeof(signatures) / sizeof(signatures[0]); i++) {
		const struct signature *g = &signatures[i];

		memset(&checked, 0, sizeof(checked));
		if (!memcmp(head + g->at, g->magic, g->size) && check(size, g->kind, head, g->at, &checked))
			accept(fd, g->kind, head, s, &checked);
	}
	return 0;
}

static void is_member(struct superblock *s, const char *name, u64 from, u64 to)
{
	if (s->member)
		return;
	s->member = name;
	s->membership = CONTENT_RAID;
	s->from = from;
	s->to = to;
}

/* mdp_superblock_s of version 0.90: in the last 64 KiB that are aligned to 64 KiB, in the byte order of its machine. */
static void find_md090(const u8 *b, u64 at, struct superblock *s)
{
	u64 size = le32(b + 32);

	if (be32(b) == (u32)MD_MAGIC)
		size = be32(b + 32);
	else if (le32(b) != (u32)MD_MAGIC)
		return;
	size <<= 10;
	if (size <= at)
		is_member(s, kinds[KIND_MD11].name, at - size, at + 65536);
}

void read_tail(int fd, u64 size, bool whole, struct superblock *s)
{
	static u8 tail[TAIL + 512];
	u64 base = size > TAIL ? (size - TAIL) & ~511ull : 0, at;
	const u8 *end = tail + (size - base);

	/* One read for all that may be there: on a disk that turns, each costs a revolution. */
	if (size < 1 << 17 || sys_pread(fd, tail, (size_t)(size - base), base) != (long)(size - base))
		return;
	at = (size & ~0xffffull) - 65536;
	find_md090(tail + (at - base), at, s);
	at = (size & ~0xfffull) - 8192;
	if (is_md1(tail + (at - base), at))
		is_member(s, kinds[KIND_MD11].name, 0, size);
	if (!memcmp(end - 4096 + 60, "\x83\x74\x02", 3) && end[-4096 + 63] >= 0x6b && end[-4096 + 63] <= 0x6d)
		is_member(s, "drbd", 0, size);
	if (!whole)
		return;
	/* The controllers' own, on whole disks only: sectors of 512 and of 4096 bytes. */
	if (!memcmp(end - 1024, "Intel Raid ISM Cfg Sig. ", 24) || !memcmp(end - 8192, "Intel Raid ISM Cfg Sig. ", 24))
		is_member(s, "isw_raid_member", 0, size);
	if (be32(end - 512) == 0xDE11DE11 || be32(end - 257 * 512) == 0xDE11DE11)
		is_member(s, "ddf_raid_member", 0, size);
}
