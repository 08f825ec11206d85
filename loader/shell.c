/* SPDX-License-Identifier: MIT
 *
 * A shell on the console, if the image has one: for megamod.break= and when nothing else is left.
 */
#include "boot.h"
#include "say.h"

#define SHELL "/bin/sh"

bool have_shell(void)
{
	return sys_faccessat(AT_FDCWD, SHELL, X_OK) >= 0;
}

_Noreturn static void become_shell(const struct boot *boot)
{
	char *argv[] = { (char[]){ "sh" }, NULL };
	long fd, err;

	sys_setsid(); /* cannot fail in a fresh child */
	fd = sys_openat(boot->dev, "console", O_RDWR, 0);
	if (fd >= 0) {
		sys_ioctl((int)fd, TIOCSCTTY, 1); /* no job control without it, else a shell all the same */
		sys_dup3((int)fd, 0);
		sys_dup3((int)fd, 1);
		sys_dup3((int)fd, 2);
	}
	err = sys_execve(SHELL, argv, boot->envp);
	warn("%s cannot be executed: %s", SHELL, errno_name(err));
	sys_exit(127);
}

void run_shell(const struct boot *boot)
{
	long child = sys_fork(), got;

	if (child < 0) {
		warn("no shell: fork: %s", errno_name(child));
		return;
	}
	if (!child)
		become_shell(boot);
	do
		got = sys_wait(NULL); /* other children of PID 1 come along */
	while (got != child && (got > 0 || got == -EINTR));
}
