/* SPDX-License-Identifier: MIT
 *
 * See modprobe_path.h.
 *
 * While a megamodule's inits run, a modprobe started by request_module() would wait for the megamodule to go live, and
 * the init for modprobe. With an empty path request_module() fails at once (__request_module, kernel/kmod.c, 6.1:
 * -ENOENT). A newline makes it empty; a write of zero bytes would do nothing. A deployment has a program of its own in
 * the place, for other processes' requests must not fail.
 *
 * Left as it is then, nothing would be loaded on demand until the next boot. So what was there is noted before the
 * change: in memory shared with the parent, which puts it back if the child that makes the call does not; and in a
 * file, from which a keeper puts it back whose predecessor was killed together with its child.
 */
#include "modprobe_path.h"
#include "files.h"
#include "log.h"

#define MODPROBE "sys/kernel/modprobe"
#define NOTE "modprobe"

static long write_path(const struct boot *boot, const char *path)
{
	long fd = sys_openat(boot->proc, MODPROBE, O_WRONLY, 0), err;

	if (fd < 0)
		return fd;
	err = write_all((int)fd, path, length(path));
	sys_close((int)fd);
	return err;
}

/* PID 1 cannot be killed, and if it ends everything does. */
static bool needs_note(const struct boot *boot)
{
	return !boot->first;
}

void exchange_modprobe(const struct boot *boot, const char *path)
{
	struct progress *p = boot->plan.progress;
	long err = 0;

	restore_modprobe(boot); /* or an exchanged one would be taken for what belongs there */
	err = read_small(boot->proc, MODPROBE, p->modprobe, sizeof(p->modprobe));
	if (err < 0)
		goto failed;
	if (needs_note(boot))
		replace_file(boot->run, "megamod", NOTE, p->modprobe, (size_t)err); /* no /run: then without it */
	p->exchanged = true;
	err = write_path(boot, path);
	if (err >= 0)
		return;
failed:
	log_debug("/proc/" MODPROBE " cannot be changed: %s", errno_name(err));
}

void restore_modprobe(const struct boot *boot)
{
	struct progress *p = boot->plan.progress;
	long err;

	if (!p->exchanged && needs_note(boot))
		p->exchanged = read_small(boot->run, "megamod/" NOTE, p->modprobe, sizeof(p->modprobe)) > 0;
	if (!p->exchanged)
		return;
	err = write_path(boot, p->modprobe);
	if (err < 0)
		log_warning("/proc/" MODPROBE " cannot be changed: %s", errno_name(err));
	p->exchanged = false;
	if (needs_note(boot))
		sys_unlinkat(boot->run, "megamod/" NOTE, 0);
}
