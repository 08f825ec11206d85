/* SPDX-License-Identifier: MIT
 *
 * What the loader cannot do. Made by `python -m megamod.loader.limits loader/limits.h` from the table in
 * initramfs/megamod/loader/limits.py: change it there.
 */
#ifndef LIMITS_H
#define LIMITS_H

#include "text.h"

/* clang-format off */
#define WAY_OUT "boot an image of dracut, initramfs-tools or mkinitcpio (megamod hook install)"

static const char *const limits[] = {
	"the loader sets up no network",
	"only udev makes that name, and there is no udev here: use UUID=, LABEL= or PARTUUID=",
	"the loader opens no encrypted device",
	"nothing here makes devices of the device mapper, and the kernel has not made it (dm-mod.create= needs dm_mod and the disk's driver to be built in)",
	"the loader assembles no RAID array",
	"the loader opens no pool and no cache",
	"the kernel makes no such name; the loader activates no LVM volume",
	"the loader knows no live system",
};

struct limit {
	u8 text; /* into limits */
	char start[15];
};

/* Of what stands behind /dev/; `#` is a digit, a lone slash any name with one. */
static const struct limit limited_names[] = {
	{ 0, "nfs" },
	{ 0, "cifs" },
	{ 1, "disk/" },
	{ 3, "mapper/" },
	{ 3, "dm-" },
	{ 4, "md#" },
	{ 4, "md/" },
	{ 4, "md_" },
	{ 6, "/" },
};

/* Of the words on the kernel command line. */
static const struct limit limited_words[] = {
	{ 0, "nfsroot=" },
	{ 0, "netroot=" },
	{ 0, "iscsi_" },
	{ 0, "rd.iscsi" },
	{ 0, "ISCSI_" },
	{ 0, "root=nfs" },
	{ 0, "root=iscsi" },
	{ 2, "rd.luks." },
	{ 2, "luks." },
	{ 2, "cryptdevice=" },
	{ 2, "cryptopts=" },
	{ 3, "dm-mod.create=" },
	{ 4, "rd.md." },
	{ 5, "zfs=" },
	{ 5, "root=zfs" },
	{ 5, "root=ZFS" },
	{ 5, "bootfs=" },
	{ 6, "rd.lvm." },
	{ 7, "rd.live." },
	{ 7, "boot=live" },
	{ 7, "boot=casper" },
};

/* These names the loader finds by itself, or the kernel makes them. */
static const char known_names[][16] = {
	"disk/by-uuid/",
	"disk/by-label/",
	"disk/by-part",
	"cciss/",
	"ida/",
	"rd/",
	"etherd/",
	"i2o/",
};
/* clang-format on */

#endif
