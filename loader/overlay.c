/* SPDX-License-Identifier: MIT
 *
 * See overlay.h. The plan's record is one of
 *
 *   overlay tmpfs [OPTIONS]
 *   overlay device DEVICE TYPE FLAGS FALLBACK RESET OPTIONS
 *
 * The root file system stays as it is. What is written to it lies in memory until the machine is switched off, or on
 * DEVICE (`-` for no TYPE, FLAGS, OPTIONS, RESET). If that cannot be mounted, FALLBACK says whether a tmpfs with
 * OPTIONS does for this boot, or nothing (`none`). The word RESET on the command line removes what has been written.
 * Both layers stay to be seen below /run/megamod; the overlay holds them (Documentation/filesystems/overlayfs.rst).
 */
#include "overlay.h"
#include "files.h"
#include "log.h"
#include "mounting.h"
#include "slot.h"

#define LOWER "/run/megamod/lower"
#define UPPER "/run/megamod/upper"

enum field { KIND, DEVICE, TYPE, FLAGS, FALLBACK, RESET, OPTIONS };

static long make_folder(const char *path)
{
	long err = sys_mkdirat(AT_FDCWD, path, 0755);

	return err == -EEXIST ? 0 : err;
}

static bool is_on_command_line(const struct boot *boot, const char *wanted)
{
	const char *at = boot->cmdline;
	struct word w;

	while (wanted[0] && next_word(&at, &w))
		if (key_is(&w, wanted))
			return true;
	return false;
}

/* Out of the way at once, then removed: a power cut on the way leaves nothing half, and the rest goes the next time. */
static void reset_upper(const struct boot *boot, const char *word)
{
	if (is_on_command_line(boot, word)) {
		log_info("%s: what was written over the root is removed", word);
		sys_renameat(AT_FDCWD, UPPER "/data", UPPER "/reset");
	}
	empty_folder(AT_FDCWD, UPPER "/reset", NULL);
	sys_unlinkat(AT_FDCWD, UPPER "/reset", AT_REMOVEDIR);
}

static bool mount_device(struct boot *boot, struct fields f, u64 seconds)
{
	static struct mounting m;
	static char wanted[VALUE_ROOM];

	memset(&m, 0, sizeof(m));
	m.boot = boot;
	m.what = "the layer over the root";
	m.target = UPPER;
	m.wanted = wanted;
	m.types = field_at(f, TYPE);
	m.usr = m.writable = true;
	if (!put_slot(boot, field_at(f, DEVICE), wanted, sizeof(wanted)) ||
	    !mount_when_there(&m, field_at(f, FLAGS), seconds))
		return false;
	reset_upper(boot, field_at(f, RESET));
	return true;
}

static long mount_upper(struct boot *boot, struct fields f, bool *kept, u64 seconds)
{
	const char *options = field_at(f, streq(f.first, "tmpfs") ? DEVICE : OPTIONS);
	TEXT(data, VALUE_ROOM + 16);

	*kept = !streq(f.first, "tmpfs");
	if (*kept && mount_device(boot, f, seconds))
		return 0;
	if (*kept && streq(field_at(f, FALLBACK), "none"))
		return -ENODEV;
	if (*kept)
		log_error("a tmpfs takes its place: what is written to the root is gone at the next boot");
	*kept = false;
	text_format(&data, "mode=0755%s%s", options[0] ? "," : "", options);
	return sys_mount("tmpfs", UPPER, "tmpfs", MS_NOSUID | MS_NODEV, data.data);
}

static long mount_layers(struct boot *boot, struct fields f, bool *kept, u64 seconds)
{
	long err = make_folder("/run/megamod");

	if (err >= 0)
		err = make_folder(LOWER);
	if (err >= 0)
		err = make_folder(UPPER);
	if (err >= 0)
		err = sys_mount("/root", LOWER, NULL, MS_MOVE, NULL);
	if (err >= 0)
		err = mount_upper(boot, f, kept, seconds);
	if (err >= 0)
		err = make_folder(UPPER "/data");
	if (err >= 0)
		err = make_folder(UPPER "/work");
	if (err >= 0)
		err = sys_mount("overlay", "/root", "overlay", MS_SILENT,
				"lowerdir=" LOWER ",upperdir=" UPPER "/data,workdir=" UPPER "/work");
	return err;
}

bool mount_overlay(struct boot *boot, u64 seconds)
{
	bool kept = false;
	long err = mount_layers(boot, boot->plan.overlay, &kept, seconds);

	if (err >= 0) {
		log_info(kept ? "root covered by a layer that keeps what is written"
			      : "root covered by a tmpfs: what is written to it is gone at the next boot");
		return true;
	}
	log_error("the overlay over the root cannot be mounted: %s (%s)", errno_name(err),
		  err == -ENODEV ? "no driver for it" : "the kernel may have said why, above");
	sys_umount(UPPER, MNT_DETACH);
	sys_umount(LOWER, MNT_DETACH);
	sys_umount("/root", MNT_DETACH);
	return false;
}
