/* SPDX-License-Identifier: MIT
 *
 * See shell.h.
 */
#include "shell.h"
#include "log.h"

#define SHELL "/bin/sh"

/* A shell that ends sooner had nobody at its console. */
#define SOMEBODY_NANOSECONDS 2000000000ull

static bool have_shell(void)
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
	log_warning("%s cannot be executed: %s", SHELL, errno_name(err));
	sys_exit(127);
}

static void run_shell(const struct boot *boot)
{
	long child = sys_fork(), got;

	if (child < 0) {
		log_warning("no shell: fork: %s", errno_name(child));
		return;
	}
	if (!child)
		become_shell(boot);
	do
		got = sys_wait(-1, NULL, 0); /* other children of PID 1 come along */
	while (got != child && (got > 0 || got == -EINTR));
}

void break_at(const struct boot *boot, const char *point)
{
	if (!in_list(boot->options.break_at, point))
		return;
	log_info("break at %s", point);
	if (boot->plan.no_shell)
		log_warning("no shell: the image forbids it");
	else if (have_shell())
		run_shell(boot);
	else
		log_warning("no shell: the image has no /bin/sh");
}

void give_up(const struct boot *boot)
{
	static const struct {
		const char *text;
		int how;
	} ends[] = {
		[EMERGENCY_REBOOT] = { "reboot", REBOOT_RESTART },
		[EMERGENCY_POWEROFF] = { "poweroff", REBOOT_POWER_OFF },
		[EMERGENCY_HALT] = { "halt", REBOOT_HALT },
	};
	enum emergency end = boot->options.emergency;

	if (end == EMERGENCY_PANIC && boot->plan.on_failure == FAIL_RESTART) {
		log_error("giving up: the machine is restarted, as the image wants it");
		sys_reboot(REBOOT_RESTART);
	}
	if (end != EMERGENCY_PANIC) {
		log_error("giving up: rd.emergency=%s", ends[end].text);
		sys_reboot(ends[end].how);
	}
	log_error("giving up: the kernel will panic, and panic= decides what follows");
}

bool last_resort(struct boot *boot)
{
	u64 start = monotonic_ns();

	if (boot->plan.on_failure != FAIL_SHELL || !have_shell())
		return false;
	/* Somebody decided what becomes of the machine: a shell would be a kiosk's open door. */
	if (boot->plan.no_shell || boot->options.panics || boot->options.no_shell) {
		log_warning("no emergency shell: %s", boot->plan.no_shell    ? "the image forbids it"
						      : boot->options.panics ? "panic= is set"
									     : "rd.shell=0");
		return false;
	}
	log_warning("emergency shell; when it ends, the last step is tried again");
	run_shell(boot);
	return monotonic_ns() - start > SOMEBODY_NANOSECONDS;
}
