/* SPDX-License-Identifier: MIT
 *
 * See child.h. The end of a child is seen at a pipe, which every kernel has (pidfd_open() came with 5.3), and with any
 * architecture's task exit: an oops ends the task by make_task_dead() and so closes its files (kernel/exit.c, 6.1).
 * What a child has found out is in memory that it shares: the tables of loads and members, and struct progress.
 */
#include "child.h"
#include "files.h"
#include "log.h"

#define SECOND 1000000000ull

/* An init that calls do_exit() will hardly take this number. */
enum { OWN_END = 42 };

enum { TAINT_DIE = 7 /* include/linux/panic.h */ };

/* A killed task's last steps. */
#define LAST_STEPS SECOND

static bool has_oopsed(const struct boot *boot)
{
	char text[32];
	const char *at = text;
	u64 taints;

	return read_small(boot->proc, "sys/kernel/tainted", text, sizeof(text)) > 0 && take_number(&at, &taints) &&
	       (taints >> TAINT_DIE & 1);
}

long start_child(struct boot *boot, struct child *c)
{
	int ends[2];
	long err = sys_pipe(ends);

	if (err < 0)
		return err;
	c->process = err = sys_fork();
	c->end = ends[0];
	c->also = -1;
	sys_close(ends[err ? 1 : 0]);
	if (err < 0)
		sys_close(ends[0]);
	if (err)
		return err;
	/* Should it never end: systemd leaves it alone as it does the keeper, and it keeps nothing open that tells
	 * somebody whether the keeper is there. */
	if (boot->argc)
		boot->argv[0][0] = '@';
	sys_set_name("megamod-load");
	sys_close(boot->control);
	return 0;
}

void end_child(void)
{
	sys_exit(OWN_END);
}

static enum ending how_it_ended(const struct boot *boot, int status)
{
	int signal = status & 0x7f;

	if (status == OWN_END << 8)
		return ENDING_GOOD;
	if (!signal)
		return ENDING_LEFT;
	return signal == SIGSEGV || has_oopsed(boot) ? ENDING_OOPSED : ENDING_KILLED;
}

enum ending wait_child(const struct boot *boot, struct child *c, u64 nanoseconds)
{
	struct pollfd polls[] = { { .fd = c->end, .events = POLLIN }, { .fd = c->also, .events = POLLIN } };
	u64 until = monotonic_ns() + nanoseconds, t;
	struct timespec64 left = { 0, 0 };
	int status = 0;
	u32 rest;

	while (!polls[0].revents) {
		t = monotonic_ns();
		if (polls[1].revents)
			return ENDING_EVENT;
		if (nanoseconds && t >= until)
			return ENDING_NONE;
		if (nanoseconds) {
			left.sec = (s64)divide(until - t, SECOND, &rest);
			left.nsec = rest;
		}
		if (sys_ppoll(polls, 2, nanoseconds ? &left : NULL) == -EINVAL)
			break; /* no descriptor may be open, by RLIMIT_NOFILE: then it is waited for without a limit */
	}
	sys_close(c->end);
	while (sys_wait(c->process, &status, 0) == -EINTR)
		;
	return how_it_ended(boot, status);
}

enum ending give_up_child(const struct boot *boot, struct child *c)
{
	enum ending ending;

	sys_kill(c->process, SIGKILL); /* it never runs a line of ours again, should the call return one day */
	ending = wait_child(boot, c, LAST_STEPS);
	if (ending != ENDING_NONE)
		return ending == ENDING_KILLED || ending == ENDING_OOPSED ? ENDING_HUNG : ending;
	sys_close(c->end);
	return ENDING_HUNG;
}

enum ending in_child(struct boot *boot, void (*work)(struct boot *boot), u64 seconds)
{
	enum ending ending;
	struct child c;
	long err = start_child(boot, &c);

	if (err <= 0)
		work(boot);
	if (!err)
		end_child();
	if (err < 0)
		return ENDING_GOOD;
	ending = wait_child(boot, &c, seconds * SECOND);
	return ending == ENDING_NONE ? give_up_child(boot, &c) : ending;
}

long ending_errno(enum ending ending)
{
	switch (ending) {
	case ENDING_OOPSED:
		return -EFAULT;
	case ENDING_HUNG:
		return -ETIMEDOUT;
	case ENDING_KILLED:
		return -EINTR;
	default:
		return -ECANCELED;
	}
}

const char *ending_text(enum ending ending)
{
	switch (ending) {
	case ENDING_OOPSED:
		return "the kernel oopsed in";
	case ENDING_HUNG:
		return "no end came of";
	case ENDING_KILLED:
		return "its process was killed in";
	default:
		return "its process ended in";
	}
}
