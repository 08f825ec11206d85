/*
 * Ends the process that it is loaded into (LD_PRELOAD) right before its n-th system call that changes something. Of a
 * write half of the bytes are written first. Or delays each of these calls.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

static long left = -1;
static long counted;
static unsigned seed, most;

/* From now on the call number *step* (from 0) is not made; none is where *step* is negative. */
void kill_arm(long step)
{
	left = step;
	counted = 0;
}

/* How many calls there have been since. */
long kill_counted(void)
{
	return counted;
}

/* Let each call wait, for *microseconds* at most. */
void delay_arm(unsigned from, unsigned microseconds)
{
	seed = from;
	most = microseconds;
}

static int due(void)
{
	if (most)
		usleep((unsigned)rand_r(&seed) % most);
	counted++;
	return left >= 0 && left-- == 0;
}

static void end(void)
{
	kill(getpid(), SIGKILL);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define CHANGES(type, name, parameters, arguments) \
	type name parameters                       \
	{                                          \
		if (due())                         \
			end();                     \
		return NEXT(name) arguments;       \
	}

CHANGES(int, rename, (const char *old, const char *new), (old, new))
CHANGES(int, renameat, (int a, const char *old, int b, const char *new), (a, old, b, new))
CHANGES(int, renameat2, (int a, const char *old, int b, const char *new, unsigned flags), (a, old, b, new, flags))
CHANGES(int, unlink, (const char *path), (path))
CHANGES(int, unlinkat, (int folder, const char *path, int flags), (folder, path, flags))
CHANGES(int, mkdir, (const char *path, mode_t mode), (path, mode))
CHANGES(int, mkdirat, (int folder, const char *path, mode_t mode), (folder, path, mode))
CHANGES(int, rmdir, (const char *path), (path))
CHANGES(int, symlink, (const char *target, const char *path), (target, path))
CHANGES(int, symlinkat, (const char *target, int folder, const char *path), (target, folder, path))
CHANGES(int, link, (const char *old, const char *new), (old, new))
CHANGES(int, linkat, (int a, const char *old, int b, const char *new, int flags), (a, old, b, new, flags))
CHANGES(int, chmod, (const char *path, mode_t mode), (path, mode))
CHANGES(int, fchmod, (int file, mode_t mode), (file, mode))
CHANGES(int, fchmodat, (int folder, const char *path, mode_t mode, int flags), (folder, path, mode, flags))
CHANGES(int, chown, (const char *path, uid_t user, gid_t group), (path, user, group))
CHANGES(int, fchown, (int file, uid_t user, gid_t group), (file, user, group))
CHANGES(int, ftruncate, (int file, off_t size), (file, size))
CHANGES(int, truncate, (const char *path, off_t size), (path, size))
CHANGES(int, fsync, (int file), (file))
CHANGES(int, fdatasync, (int file), (file))
CHANGES(ssize_t, copy_file_range, (int in, off64_t *a, int out, off64_t *b, size_t size, unsigned flags),
	(in, a, out, b, size, flags))

ssize_t write(int file, const void *data, size_t size)
{
	if (due()) {
		NEXT(write)(file, data, size / 2);
		end();
	}
	return NEXT(write)(file, data, size);
}

static mode_t mode_of(int flags, va_list rest)
{
	return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
}

#define OPENS(name, parameters, arguments)                                    \
	int name parameters                                                   \
	{                                                                     \
		va_list rest;                                                 \
		va_start(rest, flags);                                        \
		mode_t mode = mode_of(flags, rest);                           \
		va_end(rest);                                                 \
		if (flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC) && due()) \
			end();                                                \
		return NEXT(name) arguments;                                  \
	}

OPENS(open, (const char *path, int flags, ...), (path, flags, mode))
OPENS(open64, (const char *path, int flags, ...), (path, flags, mode))
OPENS(openat, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
OPENS(openat64, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
