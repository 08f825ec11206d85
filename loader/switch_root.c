/* SPDX-License-Identifier: MIT
 *
 * Handing over: into the root file system at /root, or to a program in the image. Everything that can be checked is
 * checked before anything is destroyed.
 */
#include "switch_root.h"
#include "files.h"
#include "log.h"
#include "times.h"

enum { MAX_ARGUMENTS = 256 };

static const char *const mounts[] = { "/dev", "/proc", "/sys", "/run" };

/* kernel_init, init/main.c */
static const char *const inits[] = { "/sbin/init", "/etc/init", "/bin/init", "/bin/sh" };

enum { INITS = sizeof(inits) / sizeof(inits[0]) };

static bool is_program(const char *path)
{
	struct statx st;

	return sys_statx(AT_FDCWD, path, 0, &st) >= 0 && (st.mode & S_IFMT) == S_IFREG &&
	       sys_faccessat(AT_FDCWD, path, X_OK) >= 0;
}

static const char *init_at(const struct boot *boot, u32 i)
{
	if (boot->options.init[0])
		return i ? NULL : boot->options.init; /* as the kernel has it: this one or none */
	return i < INITS ? inits[i] : NULL;
}

/* Looks for init with /root as the root, as its links may be absolute, and comes back. */
static bool check_init(const struct boot *boot, int old)
{
	const char *path;
	bool found = false;
	u32 i;
	long err = sys_chroot("/root");

	if (err < 0) {
		log_error("chroot /root: %s", errno_name(err));
		return false;
	}
	for (i = 0; !found && (path = init_at(boot, i)); i++)
		found = is_program(path);
	err = sys_fchdir(old);
	if (err >= 0)
		err = sys_chroot(".");
	if (err < 0)
		log_error("no way back to the initramfs: %s", errno_name(err));
	else if (!found)
		log_error("no init in the root file system: %s is not there, or is not executable",
			  boot->options.init[0] ? boot->options.init : "/sbin/init, /etc/init, /bin/init, /bin/sh");
	return found && err >= 0;
}

/*
 * The memory of the initramfs goes back to the kernel; of /megamod the keeper removes what is not needed again. A
 * child does this beside the start of the real init: freeing takes about 2 us a page, 10 ms for an image of 20 MB.
 */
static void empty_initramfs(const struct boot *boot, int old)
{
	long child = sys_fork();

	if (child > 0)
		return;
	if (!child)
		sys_close(boot->alive); /* or the keeper would wait for us too */
	empty_folder(old, ".", boot->kept ? "megamod" : NULL);
	if (!child)
		sys_exit(0);
}

static void move_mounts(void)
{
	TEXT(to, 16);
	size_t i;
	long err;

	for (i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++) {
		text_reset(&to);
		text_format(&to, "/root%s", mounts[i]);
		err = sys_mount(mounts[i], to.data, NULL, MS_MOVE, NULL);
		if (err >= 0)
			continue;
		log_info("%s is not carried over to the root file system: %s", mounts[i], errno_name(err));
		sys_umount(mounts[i], MNT_DETACH); /* or it would keep the initramfs from being emptied */
	}
}

/* Returns only if execve() fails; the path is the first of `command`, the kernel's own arguments follow if asked. */
static long start_program(struct boot *boot, struct fields command, bool forward)
{
	static char *argv[MAX_ARGUMENTS + 1];
	const char *path = command.first;
	u32 n = 0;
	int i;

	for (; command.count && n < MAX_ARGUMENTS; command.count--, command.first = next_field(command.first))
		argv[n++] = (char *)command.first;
	for (i = 1; forward && i < boot->argc && n < MAX_ARGUMENTS; i++)
		argv[n++] = boot->argv[i];
	argv[n] = NULL;
	log_cpu_time(boot);
	log_info("exec %s", path);
	return sys_execve(path, argv, boot->envp);
}

void exec_program(struct boot *boot, struct fields command, bool forward)
{
	const char *path = command.first;
	long err;

	if (!is_program(path)) {
		log_error("%s is not in the image, or is not executable", path);
		return;
	}
	/* A generator's init mounts these itself, and takes it for a failure if they are mounted already. */
	if (boot->plan.handover == HAND_CHAIN) {
		sys_umount("/dev", MNT_DETACH);
		sys_umount("/proc", MNT_DETACH);
		sys_umount("/sys", MNT_DETACH);
	}
	err = start_program(boot, command, forward);
	log_error("%s cannot be executed: %s", path, errno_name(err));
}

/* Puts /root in place of the initramfs, for this process. */
static bool change_root(void)
{
	long err = sys_chdir("/root");

	if (err >= 0)
		err = sys_mount(".", "/", NULL, MS_MOVE, NULL);
	if (err >= 0)
		err = sys_chroot(".");
	if (err >= 0)
		err = sys_chdir("/");
	if (err < 0)
		log_error("the root cannot be changed: %s", errno_name(err));
	return err >= 0;
}

void switch_root(struct boot *boot)
{
	struct statx old_st, new_st;
	s64 type = sys_statfs_type("/");
	struct fields command = { .count = 1 };
	long old = sys_openat(AT_FDCWD, "/", O_RDONLY | O_DIRECTORY, 0), err;
	u32 i;

	if (old < 0) {
		log_error("/: %s", errno_name(old));
		return;
	}
	if ((type != (s64)RAMFS_MAGIC && type != (s64)TMPFS_MAGIC) || sys_statx(AT_FDCWD, "/", 0, &old_st) < 0 ||
	    sys_statx(AT_FDCWD, "/root", 0, &new_st) < 0 ||
	    (old_st.dev_major == new_st.dev_major && old_st.dev_minor == new_st.dev_minor)) {
		log_error("/ is not an initramfs, or /root is not mounted: nothing is removed, the root stays");
		return;
	}
	if (!check_init(boot, (int)old))
		return;
	move_mounts();
	if (!change_root())
		return;
	empty_initramfs(boot, (int)old);
	sys_close((int)old);
	for (i = 0; (command.first = init_at(boot, i)); i++) {
		if (!is_program(command.first))
			continue;
		err = start_program(boot, command, true);
		log_error("%s cannot be executed: %s", command.first, errno_name(err));
	}
}
