/* SPDX-License-Identifier: MIT
 *
 * See sys.h: one wrapper a call over syscall6(), and the three functions that a compiler may call without being asked.
 */
#define ARCH_CODE /* entry point and system call instruction are in this file alone */
#include "sys.h"

#ifdef SYS_BY_TEST /* a test puts a syscall6() of its own in place of the kernel */
long syscall6(long number, long a, long b, long c, long d, long e, long f);
#endif

int main(int argc, char **argv, char **envp);

#define P(pointer) ((long)(uintptr_t)(pointer))

long sys_read(int fd, void *data, size_t size)
{
	return syscall6(NR_read, fd, P(data), (long)size, 0, 0, 0);
}

long sys_write(int fd, const void *data, size_t size)
{
	return syscall6(NR_write, fd, P(data), (long)size, 0, 0, 0);
}

long sys_pread(int fd, void *data, size_t size, u64 offset)
{
	return syscall6(NR_pread64, fd, P(data), (long)size, PREAD_OFFSET(offset));
}

long sys_pwrite(int fd, const void *data, size_t size, u64 offset)
{
	return syscall6(NR_pwrite64, fd, P(data), (long)size, PREAD_OFFSET(offset));
}

long sys_close(int fd)
{
	return syscall6(NR_close, fd, 0, 0, 0, 0, 0);
}

long sys_openat(int at, const char *path, int flags, int mode)
{
	return syscall6(NR_openat, at, P(path), flags | O_CLOEXEC, mode, 0, 0);
}

long sys_mkdirat(int at, const char *path, int mode)
{
	return syscall6(NR_mkdirat, at, P(path), mode, 0, 0, 0);
}

long sys_mknodat(int at, const char *path, int mode)
{
	return syscall6(NR_mknodat, at, P(path), mode, 0, 0, 0);
}

long sys_unlinkat(int at, const char *path, int flags)
{
	return syscall6(NR_unlinkat, at, P(path), flags, 0, 0, 0);
}

long sys_renameat(int at, const char *from, const char *to)
{
	return syscall6(NR_renameat2, at, P(from), at, P(to), 0, 0);
}

long sys_symlinkat(const char *target, int at, const char *path)
{
	return syscall6(NR_symlinkat, P(target), at, P(path), 0, 0, 0);
}

long sys_readlinkat(int at, const char *path, char *data, size_t size)
{
	return syscall6(NR_readlinkat, at, P(path), P(data), (long)size, 0, 0);
}

long sys_faccessat(int at, const char *path, int mode)
{
	return syscall6(NR_faccessat, at, P(path), mode, 0, 0, 0);
}

long sys_statx(int at, const char *path, int flags, struct statx *out)
{
	return syscall6(NR_statx, at, P(path), flags, STATX_BASIC, P(out), 0);
}

long sys_getdents64(int fd, void *data, size_t size)
{
	return syscall6(NR_getdents64, fd, P(data), (long)size, 0, 0, 0);
}

s64 sys_statfs_type(const char *path)
{
	union {
		unsigned long type;
		u64 room[16];
	} out = { .room = { 0 } };

	long err = syscall6(NR_statfs, P(path), STATFS_ROOM(P(&out)), 0, 0, 0);

	return err < 0 ? err : (s64)out.type;
}

long sys_mount(const char *from, const char *to, const char *type, unsigned long flags, const void *data)
{
	return syscall6(NR_mount, P(from), P(to), P(type), (long)flags, P(data), 0);
}

long sys_umount(const char *path, int flags)
{
	return syscall6(NR_umount2, P(path), flags, 0, 0, 0, 0);
}

long sys_chroot(const char *path)
{
	return syscall6(NR_chroot, P(path), 0, 0, 0, 0, 0);
}

/* The two magic numbers are LINUX_REBOOT_MAGIC1 and 2 (include/uapi/linux/reboot.h). */
long sys_reboot(int how)
{
	syscall6(NR_sync, 0, 0, 0, 0, 0, 0);
	return syscall6(NR_reboot, (int)0xfee1dead, 672274793, how, 0, 0, 0);
}

long sys_chdir(const char *path)
{
	return syscall6(NR_chdir, P(path), 0, 0, 0, 0, 0);
}

long sys_fchdir(int fd)
{
	return syscall6(NR_fchdir, fd, 0, 0, 0, 0, 0);
}

long sys_fork(void)
{
	return syscall6(NR_clone, SIGCHLD, 0, 0, 0, 0, 0);
}

long sys_execve(const char *path, char *const *argv, char *const *envp)
{
	return syscall6(NR_execve, P(path), P(argv), P(envp), 0, 0, 0);
}

long sys_wait(long child, int *status, int flags)
{
	return syscall6(NR_wait4, child, P(status), flags, 0, 0, 0);
}

long sys_kill(long process, int signal)
{
	return syscall6(NR_kill, process, signal, 0, 0, 0, 0);
}

long sys_getpid(void)
{
	return syscall6(NR_getpid, 0, 0, 0, 0, 0, 0);
}

long sys_getppid(void)
{
	return syscall6(NR_getppid, 0, 0, 0, 0, 0, 0);
}

long sys_setsid(void)
{
	return syscall6(NR_setsid, 0, 0, 0, 0, 0, 0);
}

long sys_set_name(const char *name)
{
	return syscall6(NR_prctl, PR_SET_NAME, P(name), 0, 0, 0, 0);
}

long sys_ioctl(int fd, unsigned long request, long argument)
{
	return syscall6(NR_ioctl, fd, (long)request, argument, 0, 0, 0);
}

long sys_dup3(int from, int to)
{
	return syscall6(NR_dup3, from, to, 0, 0, 0, 0);
}

long sys_pipe(int fds[2])
{
	return syscall6(NR_pipe2, P(fds), O_CLOEXEC, 0, 0, 0, 0);
}

long sys_ppoll(struct pollfd *fds, unsigned count, const struct timespec64 *timeout)
{
	return syscall6(NR_ppoll, P(fds), (long)count, P(timeout), 0, 0, 0);
}

long sys_finit_module(int fd, const char *arguments)
{
	return syscall6(NR_finit_module, fd, P(arguments), 0, 0, 0, 0);
}

long sys_init_module(const void *data, size_t size, const char *arguments)
{
	return syscall6(NR_init_module, P(data), (long)size, P(arguments), 0, 0, 0);
}

u64 sys_counter(u64 *hertz)
{
	return read_counter(hertz);
}

u64 monotonic_ns(void)
{
	struct timespec64 t = { 0, 0 };

	syscall6(NR_clock_gettime, CLOCK_MONOTONIC, P(&t), 0, 0, 0, 0); /* cannot fail for this clock */
	return (u64)t.sec * 1000000000u + (u64)t.nsec;
}

long sys_socket(int family, int type, int protocol)
{
	return syscall6(NR_socket, family, type, protocol, 0, 0, 0);
}

long sys_bind(int fd, const void *address, size_t size)
{
	return syscall6(NR_bind, fd, P(address), (long)size, 0, 0, 0);
}

long sys_setsockopt(int fd, int level, int option, const void *value, size_t size)
{
	return syscall6(NR_setsockopt, fd, level, option, P(value), (long)size, 0);
}

long sys_inotify_init(void)
{
	return syscall6(NR_inotify_init1, IN_CLOEXEC | IN_NONBLOCK, 0, 0, 0, 0, 0);
}

long sys_inotify_add_watch(int fd, const char *path, u32 mask)
{
	return syscall6(NR_inotify_add_watch, fd, P(path), (long)mask, 0, 0, 0);
}

long sys_inotify_rm_watch(int fd, int watch)
{
	return syscall6(NR_inotify_rm_watch, fd, watch, 0, 0, 0, 0);
}

long sys_add_key(const char *type, const char *name, const void *data, size_t size, int keyring)
{
	return syscall6(NR_add_key, P(type), P(name), P(data), (long)size, keyring, 0);
}

long sys_set_nofile(const struct rlimit64 *limit)
{
	return syscall6(NR_prlimit64, 0, RLIMIT_NOFILE, P(limit), 0, 0, 0);
}

long sys_get_nofile(struct rlimit64 *limit)
{
	return syscall6(NR_prlimit64, 0, RLIMIT_NOFILE, 0, P(limit), 0, 0);
}

static void *map(size_t size, int protection, int flags, int fd)
{
	long at = syscall6(NR_mmap, 0, (long)size, protection, flags, fd, 0);

	return at < 0 && at > -4096 ? NULL : (void *)(uintptr_t)at;
}

void *sys_map(size_t size)
{
	return map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

void *sys_map_shared(size_t size)
{
	return map(size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
}

void *sys_map_file(int fd, size_t size)
{
	return map(size, PROT_READ, MAP_PRIVATE, fd);
}

void sys_unmap(void *at, size_t size)
{
	syscall6(NR_munmap, P(at), (long)size, 0, 0, 0, 0);
}

_Noreturn void sys_exit(int code)
{
	for (;;)
		syscall6(NR_exit_group, code, 0, 0, 0, 0, 0);
}

/* The empty statements keep a compiler from recognising the loops and calling these functions from themselves. */
void *memcpy(void *to, const void *from, size_t size)
{
	u8 *t = to;
	const u8 *f = from;

	for (; size; size--) {
		*t++ = *f++;
		__asm__ volatile("" : : : "memory");
	}
	return to;
}

void *memset(void *to, int byte, size_t size)
{
	u8 *t = to;

	for (; size; size--) {
		*t++ = (u8)byte;
		__asm__ volatile("" : : : "memory");
	}
	return to;
}

int memcmp(const void *left, const void *right, size_t size)
{
	const u8 *l = left, *r = right;

	for (; size; size--, l++, r++)
		if (*l != *r)
			return *l - *r;
	return 0;
}

/*
 * The entry point comes here with the stack pointer of that moment: at argc, followed by argv, NULL, envp, NULL (the
 * psABI of each architecture, "process initialization").
 */
_Noreturn __attribute__((used)) void start(long *stack)
{
	int argc = (int)stack[0];
	char **argv = (char **)(stack + 1);

	sys_exit(main(argc, argv, argv + argc + 1));
}
