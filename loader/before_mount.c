/* SPDX-License-Identifier: MIT
 *
 * See before_mount.h.
 */
#include "before_mount.h"
#include "log.h"

#define NO_ROOT "the root is not mounted"

enum { MAX_WORDS = 64, LOOK_NANOSECONDS = 500000 };

_Noreturn static void become_program(const struct boot *boot, struct fields f)
{
	char *argv[MAX_WORDS + 1];
	const char *path = f.first;
	u32 n = 0;

	for (; f.count && n < MAX_WORDS; f.count--, f.first = f.count ? next_field(f.first) : f.first)
		argv[n++] = (char *)f.first;
	argv[n] = NULL;
	log_error("%s cannot be executed: %s", path, errno_name(sys_execve(path, argv, boot->envp)));
	sys_exit(127);
}

bool run_before_mount(const struct boot *boot)
{
	struct fields f = boot->plan.before;
	const char *number = f.first, *path;
	u64 milliseconds = 0, until;
	long child, got;
	int status = 0;

	if (!f.count)
		return true;
	take_number(&number, &milliseconds); /* checked when the plan was read */
	f.count--;
	path = f.first = next_field(f.first);
	until = monotonic_ns() + milliseconds * 1000000;
	child = sys_fork();
	if (!child)
		become_program(boot, f);
	while (child > 0 && ((got = sys_wait(child, &status, WNOHANG)) == 0 || got == -EINTR)) {
		if (milliseconds && monotonic_ns() >= until) {
			sys_kill(child, SIGKILL);
			log_error("%s did not end within %llu ms: " NO_ROOT, path, (unsigned long long)milliseconds);
			return false;
		}
		sys_ppoll(NULL, 0, &(struct timespec64){ .nsec = LOOK_NANOSECONDS });
	}
	if (child < 0 || status)
		log_error("%s failed (wait status %u): " NO_ROOT, path, (u32)status);
	return child > 0 && !status;
}
