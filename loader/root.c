/* SPDX-License-Identifier: MIT
 *
 * The root file system: a hibernation image first, then the root at /root and its /usr. The options are the kernel's
 * own (init/do_mounts.c, 6.1), read more generously: mount options as people copy them from fstab, names as udev and
 * systemd write them. They win over what the plan says of the root.
 */
#include "root.h"
#include "before_mount.h"
#include "log.h"
#include "mounting.h"
#include "overlay.h"
#include "resume.h"
#include "slot.h"
#include "usr.h"
#include "verity.h"

enum { HURRY_SECONDS = 5 }; /* when the critical stage failed: only built-in drivers can help */

enum { DEVICE, TYPE, FLAGS }; /* of the plan's record */

/* What is to be mounted, from the command line or the plan; false if that has been logged. */
static bool choose_root(struct boot *boot, struct mounting *m, const char **flags)
{
	static char device[VALUE_ROOM];
	const struct options *o = &boot->options;
	struct fields f = boot->plan.device;

	m->wanted = o->root;
	m->types = o->fstype;
	*flags = o->flags;
	/* Type and options that stand beside a device are those of that device. */
	if (!o->root[0] || !field_at(f, DEVICE)[0]) {
		if (!o->fstype[0])
			m->types = field_at(f, TYPE);
		if (!o->flags[0])
			*flags = field_at(f, FLAGS);
	}
	if (!o->root[0]) {
		if (!put_slot(boot, field_at(f, DEVICE), device, sizeof(device)))
			return false;
		m->wanted = device;
	}
	if (!m->wanted[0] && put_hashed_root(boot, device, sizeof(device)))
		m->wanted = device;
	m->discover = !m->wanted[0] || starts_with(m->wanted, "gpt-auto") || streq(m->wanted, "/dev/gpt-auto-root");
	if (!m->wanted[0])
		m->wanted = "gpt-auto";
	return true;
}

bool mount_root(struct boot *boot, bool hurry)
{
	static struct mounting m;
	const struct options *o = &boot->options;
	u64 seconds = o->wait_forever ? 0 : WAIT_SECONDS;
	const char *flags;

	if (hurry)
		seconds = HURRY_SECONDS;
	if (o->wait_seconds)
		seconds = o->wait_seconds;
	if (o->delay_seconds) {
		log_debug("rootdelay: %llu s", (unsigned long long)o->delay_seconds);
		sys_ppoll(NULL, 0, &(struct timespec64){ .sec = (s64)o->delay_seconds });
	}
	if (!resume_session(boot, seconds && seconds < WAIT_SECONDS ? seconds : WAIT_SECONDS))
		return false;
	memset(&m, 0, sizeof(m));
	m.boot = boot;
	m.what = "root";
	m.target = "/root";
	if (!run_before_mount(boot) || !choose_verity(boot) || !check_root_hash(boot) || !choose_root(boot, &m, &flags))
		return false;
	if (!mount_when_there(&m, flags, seconds))
		return false;
	if (boot->plan.overlay.count && !mount_overlay(boot, seconds))
		return false;
	if (mount_usr(boot, seconds))
		return true;
	sys_umount("/root", MNT_DETACH); /* another try begins at the root */
	return false;
}
