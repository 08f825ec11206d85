/* SPDX-License-Identifier: MIT
 *
 * The root file system: a hibernation image first, then the root at /root and its /usr. The options are the kernel's
 * own (init/do_mounts.c, 6.1), read more generously: mount options as people copy them from fstab, names as udev and
 * systemd write them.
 */
#include "root.h"
#include "log.h"
#include "mounting.h"
#include "overlay.h"
#include "resume.h"
#include "usr.h"

enum { HURRY_SECONDS = 5 }; /* when the critical stage failed: only built-in drivers can help */

bool mount_root(struct boot *boot, bool hurry)
{
	static struct mounting m;
	const struct options *o = &boot->options;
	u64 seconds = o->wait_forever ? 0 : WAIT_SECONDS;

	if (hurry)
		seconds = HURRY_SECONDS;
	if (o->wait_seconds)
		seconds = o->wait_seconds;
	if (o->delay_seconds) {
		log_debug("rootdelay: %llu s", (unsigned long long)o->delay_seconds);
		sys_ppoll(NULL, 0, &(struct timespec64){ .sec = (s64)o->delay_seconds });
	}
	resume_session(boot, seconds && seconds < WAIT_SECONDS ? seconds : WAIT_SECONDS);
	if (o->has_root_hash && !boot->plan.verity.count) {
		log_error(
			"roothash= is on the kernel command line, but the image has no verity in its plan: nothing would "
			"check the root; build it with verity, or remove the word");
		return false;
	}
	memset(&m, 0, sizeof(m));
	m.boot = boot;
	m.what = "root";
	m.target = "/root";
	m.wanted = o->root;
	m.types = o->fstype;
	m.discover = !o->root[0] || starts_with(o->root, "gpt-auto") || streq(o->root, "/dev/gpt-auto-root");
	if (!o->root[0])
		m.wanted = "gpt-auto";
	if (!mount_when_there(&m, o->flags, seconds))
		return false;
	if (boot->plan.overlay.count && !mount_overlay(boot))
		return false;
	if (mount_usr(boot, seconds))
		return true;
	sys_umount("/root", MNT_DETACH); /* another try begins at the root */
	return false;
}
