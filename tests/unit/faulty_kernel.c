/* SPDX-License-Identifier: MIT
 *
 * One of the loader's programs over a kernel of which one call fails. Files are real, below a folder given on the
 * command line; mounts, modules, roots, processes and the clock are made up. The program's main file is included, its
 * other files are linked.
 *
 *   PROGRAM FOLDER CALL ERRNO ALWAYS FORKS ARGV0 [ARGUMENT…]
 *
 * CALL counts from 1 (0: none fails). With ALWAYS every later call of the same number fails too.  FORKS has a letter
 * for each fork(), the last of them for all that follow: `p` returns in the parent, `c` in the child, `o` in a child
 * whose parent has ended, `f` fails. At the end there is a line on standard output: how many calls there were, the
 * number of the one that failed, and how it ended: `exit N`, `exec PATH` or `hang`.
 */
#define ARCH_CODE
#define syscall6 real_syscall6
#include "sys.h"
#undef syscall6
#define SYS_BY_TEST
#include "sys.c"
#undef P
#define main program_main
#include PROGRAM
#undef main

enum { FAKE_CHILD = 100, MANY_CALLS = 200000 };

static const char *fk_folder, *fk_root = "";
static u64 fk_calls, fk_fail, fk_errno, fk_clock = 1000000000;
static long fk_failed = -1;
static const char *fk_forks;
static long fk_parent = 1;
static bool fk_always, fk_inside;
static u32 fk_polls;

static void fk_print(const char *s)
{
	real_syscall6(NR_write, 1, (long)s, (long)length(s), 0, 0, 0);
}

_Noreturn static void fk_end(const char *how, const char *what, int code)
{
	TEXT(line, 512);

	text_format(&line, "%llu %d %s %s\n", (unsigned long long)fk_calls, (int)fk_failed, how, what);
	fk_print(line.data);
	for (;;)
		real_syscall6(NR_exit_group, code, 0, 0, 0, 0, 0);
}

/* Absolute paths are below the folder, and below its /root once that is the root. */
static const char *fk_path(const char *path, int which)
{
	static char room[2][4096];
	struct text t = { room[which], sizeof(room[which]), 0, false };

	if (path[0] != '/')
		return path;
	text_reset(&t);
	text_format(&t, "%s%s%s", fk_folder, fk_root, path);
	return t.data;
}

static long fk_poll(struct pollfd *fds, long count, const struct timespec64 *timeout)
{
	long i;

	for (i = 0; i < count; i++)
		fds[i].revents = 0;
	fk_clock += timeout ? (u64)timeout->sec * 1000000000 + (u64)timeout->nsec : 1000000;
	/* Now and then something has happened: the first time what the program waits for most. */
	if (fk_polls++ % 3 == 0)
		for (i = 0; i < count; i++)
			if (fds[i].fd >= 0) {
				fds[i].revents = fds[i].events | POLLHUP;
				return 1;
			}
	return 0;
}

static long fk_fork(void)
{
	char how = *fk_forks;

	if (fk_forks[1])
		fk_forks++;
	if (how == 'o')
		fk_parent = 2;
	return how == 'f' ? -EAGAIN : how == 'p' ? FAKE_CHILD : 0;
}

static long fk_statx(long at, const char *path, long flags, long mask, struct statx *st)
{
	long err = real_syscall6(NR_statx, at, (long)fk_path(path, 0), flags, mask, (long)st, 0);

	if (err >= 0 && streq(path, "/root"))
		st->dev_minor++; /* something is mounted there */
	return err;
}

static long fk_call(long number, long a, long b, long c, long d, long e, long f)
{
	const char *path = (const char *)b;
	struct timespec64 *t;

	switch (number) {
	case NR_getpid:
		return 1;
	case NR_execve:
		fk_end("exec", (const char *)a, 0);
	case NR_exit_group:
		fk_end("exit", a ? a == 1 ? "1" : "other" : "0", (int)a);
	case NR_clone:
		return fk_fork();
	case NR_getppid:
		return fk_parent;
	case NR_wait4:
		return FAKE_CHILD;
	case NR_chroot:
		fk_root = streq((const char *)a, "/root") || fk_inside ? "/root" : "";
		return 0;
	case NR_chdir:
		fk_inside = streq((const char *)a, "/root");
		return 0;
	case NR_fchdir:
		fk_inside = false;
		return 0;
	case NR_mount:
	case NR_umount2:
	case NR_setsid:
	case NR_kill:
	case NR_prctl:
	case NR_ioctl:
	case NR_finit_module:
	case NR_prlimit64:
	case NR_bind:
	case NR_unlinkat: /* the next run finds all files again */
		return 0;
	case NR_dup3:
		return b;
	case NR_close:
		return a < 3 ? 0 : real_syscall6(NR_close, a, 0, 0, 0, 0, 0);
	case NR_ppoll:
		return fk_poll((struct pollfd *)a, b, (const struct timespec64 *)c);
	case NR_clock_gettime:
		t = (struct timespec64 *)b;
		fk_clock += 1000;
		t->sec = (s64)(fk_clock / 1000000000);
		t->nsec = (s64)(fk_clock % 1000000000);
		return 0;
	case NR_socket:
		return real_syscall6(NR_inotify_init1, IN_CLOEXEC | IN_NONBLOCK, 0, 0, 0, 0, 0);
	case NR_statfs:
		*(unsigned long *)b = RAMFS_MAGIC;
		return 0;
	case NR_statx:
		return fk_statx(a, path, c, d, (struct statx *)e);
	case NR_openat: /* the log is a file here, and O_APPEND keeps its lines; nothing must wait for a FIFO */
		return real_syscall6(number, a, (long)fk_path(path, 0),
				     c | O_NONBLOCK | (find_char(path, 'k') ? 02000 : 0), d, e, f);
	case NR_renameat2:
		return real_syscall6(number, a, (long)fk_path(path, 0), c, (long)fk_path((const char *)d, 1), e, f);
	case NR_symlinkat:
		return real_syscall6(number, a, b, (long)fk_path((const char *)c, 0), d, e, f);
	case NR_mkdirat:
	case NR_mknodat:
	case NR_readlinkat:
	case NR_faccessat:
	case NR_inotify_add_watch:
		return real_syscall6(number, a, (long)fk_path(path, 0), c, d, e, f);
	}
	return real_syscall6(number, a, b, c, d, e, f);
}

long syscall6(long number, long a, long b, long c, long d, long e, long f)
{
	if (++fk_calls > MANY_CALLS)
		fk_end("hang", "", 99);
	if (number != NR_exit_group && (fk_calls == fk_fail || (fk_always && number == fk_failed))) {
		fk_failed = number;
		return -(long)fk_errno;
	}
	return fk_call(number, a, b, c, d, e, f);
}

/* The keeper is started with these. */
static void fk_pass(long number, const char *name)
{
	TEXT(path, 4096);
	long fd;

	text_format(&path, "%s/%s", fk_folder, name);
	fd = real_syscall6(NR_openat, AT_FDCWD, (long)path.data, O_RDONLY, 0, 0, 0);
	real_syscall6(NR_dup3, fd, number, 0, 0, 0, 0);
	real_syscall6(NR_close, fd, 0, 0, 0, 0, 0);
}

int main(int argc, char **argv, char **envp)
{
	static const char *const passed[] = { "dev", "proc", "sys", "run", "megamod", "dev/null", "dev/null" };
	const char *at;
	u32 i;

	if (argc < 7)
		return 2;
	fk_folder = argv[1];
	at = argv[2];
	take_number(&at, &fk_fail);
	at = argv[3];
	take_number(&at, &fk_errno);
	fk_always = argv[4][0] == '1';
	fk_forks = argv[5];
	for (i = 0; i < sizeof(passed) / sizeof(passed[0]); i++)
		fk_pass(64 + i, passed[i]);
	return program_main(argc - 6, argv + 6, envp);
}
