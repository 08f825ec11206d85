/* SPDX-License-Identifier: MIT
 *
 * The two tables of superblock.c: what each kind of content is called and where its UUID and label are, and where the
 * signatures are that tell it.
 */
#ifndef SIGNATURES_H
#define SIGNATURES_H

#include "superblock.h"

enum form { FORM_NONE, FORM_RAW, FORM_TEXT, FORM_FAT, FORM_NTFS, FORM_ISO };

enum kind_id {
	KIND_MD11,
	KIND_MD12,
	KIND_BCACHE,
	KIND_BCACHEFS,
	KIND_BLUESTORE,
	KIND_LVM2,
	KIND_SNAPSHOT,
	KIND_VERITY,
	KIND_INTEGRITY,
	KIND_LUKS,
	KIND_UBI,
	KIND_VDO,
	KIND_STRATIS,
	KIND_BITLOCKER,
	KIND_VFAT,
	KIND_SUSPEND,
	KIND_SWAP,
	KIND_XFS,
	KIND_EXT,
	KIND_REISERFS,
	KIND_REISERFS_OLD,
	KIND_REISER4,
	KIND_JFS,
	KIND_ISO9660,
	KIND_ZFS,
	KIND_NTFS,
	KIND_CRAMFS,
	KIND_ROMFS,
	KIND_SQUASHFS,
	KIND_BTRFS,
	KIND_UBIFS,
	KIND_NILFS2,
	KIND_EXFAT,
	KIND_F2FS,
	KIND_EROFS,
};

/* `uuid_at` and `label_at` count from the start of the device. */
static const struct kind {
	char name[18];
	u8 content, form;
	u32 uuid_at;
	u32 label_at;
	u16 label_size;
} kinds[] = {
	[KIND_MD11] = { "linux_raid_member", CONTENT_RAID, FORM_RAW, 16, 0, 0 },
	[KIND_MD12] = { "linux_raid_member", CONTENT_RAID, FORM_RAW, 4096 + 16, 0, 0 },
	[KIND_BCACHE] = { "bcache", CONTENT_MEMBER, FORM_RAW, 4096 + 40, 0, 0 },
	[KIND_BCACHEFS] = { "bcachefs", CONTENT_FILESYSTEM, FORM_RAW, 4096 + 56, 4096 + 72, 32 },
	[KIND_BLUESTORE] = { "ceph_bluestore", CONTENT_MEMBER, FORM_NONE, 0, 0, 0 },
	[KIND_LVM2] = { "LVM2_member", CONTENT_VOLUME, FORM_NONE, 0, 0, 0 },
	[KIND_SNAPSHOT] = { "DM_snapshot_cow", CONTENT_MEMBER, FORM_NONE, 0, 0, 0 },
	[KIND_VERITY] = { "DM_verity_hash", CONTENT_MEMBER, FORM_RAW, 16, 0, 0 },
	[KIND_INTEGRITY] = { "DM_integrity", CONTENT_MEMBER, FORM_NONE, 0, 0, 0 },
	[KIND_LUKS] = { "crypto_LUKS", CONTENT_ENCRYPTED, FORM_TEXT, 168, 0, 0 },
	[KIND_UBI] = { "ubi", CONTENT_MEMBER, FORM_NONE, 0, 0, 0 },
	[KIND_VDO] = { "vdo", CONTENT_MEMBER, FORM_NONE, 0, 0, 0 },
	[KIND_STRATIS] = { "stratis", CONTENT_POOL, FORM_NONE, 0, 0, 0 },
	[KIND_BITLOCKER] = { "BitLocker", CONTENT_ENCRYPTED, FORM_NONE, 0, 0, 0 },
	[KIND_VFAT] = { "vfat", CONTENT_FILESYSTEM, FORM_FAT, 0, 0, 0 },
	[KIND_SUSPEND] = { "swsuspend", CONTENT_OTHER, FORM_RAW, 1036, 1052, 16 },
	[KIND_SWAP] = { "swap", CONTENT_OTHER, FORM_RAW, 1036, 1052, 16 },
	[KIND_XFS] = { "xfs", CONTENT_FILESYSTEM, FORM_RAW, 32, 108, 12 },
	[KIND_EXT] = { "ext4", CONTENT_FILESYSTEM, FORM_RAW, 1024 + 104, 1024 + 120, 16 },
	[KIND_REISERFS] = { "reiserfs", CONTENT_FILESYSTEM, FORM_RAW, 65536 + 84, 65536 + 100, 16 },
	[KIND_REISERFS_OLD] = { "reiserfs", CONTENT_FILESYSTEM, FORM_NONE, 0, 0, 0 },
	[KIND_REISER4] = { "reiser4", CONTENT_FILESYSTEM, FORM_RAW, 65536 + 20, 65536 + 36, 16 },
	[KIND_JFS] = { "jfs", CONTENT_FILESYSTEM, FORM_RAW, 32768 + 136, 32768 + 152, 16 },
	[KIND_ISO9660] = { "iso9660", CONTENT_TOLERANT, FORM_ISO, 32768 + 830, 32768 + 40, 32 },
	[KIND_ZFS] = { "zfs_member", CONTENT_POOL, FORM_NONE, 0, 0, 0 },
	[KIND_NTFS] = { "ntfs", CONTENT_FILESYSTEM, FORM_NTFS, 72, 0, 0 },
	[KIND_CRAMFS] = { "cramfs", CONTENT_FILESYSTEM, FORM_NONE, 0, 48, 16 },
	[KIND_ROMFS] = { "romfs", CONTENT_FILESYSTEM, FORM_NONE, 0, 16, 16 },
	[KIND_SQUASHFS] = { "squashfs", CONTENT_FILESYSTEM, FORM_NONE, 0, 0, 0 },
	[KIND_BTRFS] = { "btrfs", CONTENT_FILESYSTEM, FORM_RAW, 65536 + 32, 65536 + 299, 256 },
	[KIND_UBIFS] = { "ubifs", CONTENT_FILESYSTEM, FORM_RAW, 108, 0, 0 },
	[KIND_NILFS2] = { "nilfs2", CONTENT_FILESYSTEM, FORM_RAW, 1024 + 152, 1024 + 168, 80 },
	[KIND_EXFAT] = { "exfat", CONTENT_FILESYSTEM, FORM_FAT, 100, 0, 0 },
	[KIND_F2FS] = { "f2fs", CONTENT_FILESYSTEM, FORM_RAW, 1024 + 108, 0, 0 },
	[KIND_EROFS] = { "erofs", CONTENT_FILESYSTEM, FORM_RAW, 1024 + 48, 1024 + 64, 16 },
};

/* The first bytes of each signature, in libblkid's order of kinds. */
static const struct signature {
	u32 at;
	u8 kind, size;
	u8 magic[10];
} signatures[] = {
	{ 0, KIND_MD11, 4, "\xfc\x4e\x2b\xa9" },
	{ 4096, KIND_MD12, 4, "\xfc\x4e\x2b\xa9" },
	{ 4096 + 24, KIND_BCACHE, 10, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65" },
	{ 4096 + 24, KIND_BCACHEFS, 10, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65" },
	{ 4096 + 24, KIND_BCACHEFS, 10, "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a" },
	{ 0, KIND_BLUESTORE, 10, "bluestore " },
	{ 0, KIND_LVM2, 8, "LABELONE" },
	{ 512, KIND_LVM2, 8, "LABELONE" },
	{ 1024, KIND_LVM2, 8, "LABELONE" },
	{ 1536, KIND_LVM2, 8, "LABELONE" },
	{ 0, KIND_SNAPSHOT, 4, "SnAp" },
	{ 0, KIND_VERITY, 8, "verity\0\0" },
	{ 0, KIND_INTEGRITY, 8, "integrt\0" },
	{ 0, KIND_LUKS, 6, "LUKS\xba\xbe" },
	{ 0, KIND_UBI, 4, "UBI#" },
	{ 0, KIND_VDO, 8, "dmvdo001" },
	{ 512 + 4, KIND_STRATIS, 10, "!Stra0tis\x86" },
	{ 4608 + 4, KIND_STRATIS, 10, "!Stra0tis\x86" },
	{ 3, KIND_BITLOCKER, 8, "-FVE-FS-" },
	{ 82, KIND_VFAT, 5, "MSWIN" },
	{ 82, KIND_VFAT, 8, "FAT32   " },
	{ 54, KIND_VFAT, 5, "MSDOS" },
	{ 54, KIND_VFAT, 3, "FAT" },
	{ 510, KIND_VFAT, 2, "\x55\xaa" },
	{ 0, KIND_SUSPEND, 8, "\xed\xc3\x02\xe9\x98\x56\xe5\x0c" },
	{ 0xff6, KIND_SUSPEND, 9, "S1SUSPEND" },
	{ 0xff6, KIND_SUSPEND, 9, "S2SUSPEND" },
	{ 0xff6, KIND_SUSPEND, 9, "ULSUSPEND" },
	{ 0xff6, KIND_SUSPEND, 10, "LINHIB0001" },
	{ 0x3ff6, KIND_SUSPEND, 9, "S1SUSPEND" },
	{ 0xfff6, KIND_SUSPEND, 9, "S1SUSPEND" },
	{ 0xff6, KIND_SWAP, 10, "SWAPSPACE2" },
	{ 0x1ff6, KIND_SWAP, 10, "SWAPSPACE2" },
	{ 0x3ff6, KIND_SWAP, 10, "SWAPSPACE2" },
	{ 0x7ff6, KIND_SWAP, 10, "SWAPSPACE2" },
	{ 0xfff6, KIND_SWAP, 10, "SWAPSPACE2" },
	{ 0, KIND_XFS, 4, "XFSB" },
	{ 1024 + 56, KIND_EXT, 2, "\x53\xef" },
	{ 8192 + 52, KIND_REISERFS_OLD, 8, "ReIsErFs" },
	{ 65536 + 52, KIND_REISERFS, 6, "ReIsEr" },
	{ 65536, KIND_REISER4, 7, "ReIsEr4" },
	{ 32768, KIND_JFS, 4, "JFS1" },
	{ 32768 + 1, KIND_ISO9660, 5, "CD001" },
	{ 16384 + 24, KIND_ZFS, 8, "version\0" },
	{ 3, KIND_NTFS, 8, "NTFS    " },
	{ 0, KIND_CRAMFS, 4, "\x45\x3d\xcd\x28" },
	{ 0, KIND_ROMFS, 8, "-rom1fs-" },
	{ 0, KIND_SQUASHFS, 4, "hsqs" },
	{ 65536 + 64, KIND_BTRFS, 8, "_BHRfS_M" },
	{ 0, KIND_UBIFS, 4, "\x31\x18\x10\x06" },
	{ 1024 + 6, KIND_NILFS2, 2, "\x34\x34" },
	{ 3, KIND_EXFAT, 8, "EXFAT   " },
	{ 1024, KIND_F2FS, 4, "\x10\x20\xf5\xf2" },
	{ 1024, KIND_EROFS, 4, "\xe2\xe1\xf5\xe0" },
};

#endif
