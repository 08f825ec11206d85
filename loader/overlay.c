/* SPDX-License-Identifier: MIT
 *
 * `overlay tmpfs [OPTIONS]`: the root file system stays as it is, and what is written lies in memory until the machine
 * is switched off. The lower file system and the tmpfs stay mounted below the real root, where nobody sees them; the
 * overlay holds them (Documentation/filesystems/overlayfs.rst).
 */
#include "overlay.h"
#include "log.h"

#define LOWER "/lower"
#define UPPER "/upper"

static long make_folder(const char *path)
{
	long err = sys_mkdirat(AT_FDCWD, path, 0755);

	return err == -EEXIST ? 0 : err;
}

static long mount_layers(const char *options)
{
	TEXT(data, VALUE_ROOM + 16);
	long err = make_folder(LOWER);

	text_format(&data, "mode=0755%s%s", options ? "," : "", options ? options : "");
	if (err >= 0)
		err = make_folder(UPPER);
	if (err >= 0)
		err = sys_mount("/root", LOWER, NULL, MS_MOVE, NULL);
	if (err < 0)
		return err;
	err = sys_mount("tmpfs", UPPER, "tmpfs", MS_NOSUID | MS_NODEV, data.data);
	if (err >= 0)
		err = make_folder(UPPER "/data");
	if (err >= 0)
		err = make_folder(UPPER "/work");
	if (err >= 0)
		err = sys_mount("overlay", "/root", "overlay", MS_SILENT,
				"lowerdir=" LOWER ",upperdir=" UPPER "/data,workdir=" UPPER "/work");
	return err;
}

bool mount_overlay(const struct boot *boot)
{
	struct fields overlay = boot->plan.overlay;
	const char *options = overlay.count > 1 ? next_field(overlay.first) : NULL;
	long err = mount_layers(options);

	if (err >= 0) {
		log_info("root covered by a tmpfs: what is written to it is gone at the next boot");
		return true;
	}
	log_error("the overlay over the root cannot be mounted: %s (%s)", errno_name(err),
		  err == -ENODEV ? "no driver for it" : "the kernel may have said why, above");
	sys_umount(UPPER, MNT_DETACH);
	sys_umount(LOWER, MNT_DETACH);
	sys_umount("/root", MNT_DETACH);
	return false;
}
