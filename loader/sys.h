/* SPDX-License-Identifier: MIT
 *
 * The whole interface to the kernel: raw system calls, the few structures and constants that they take, for x86_64,
 * aarch64, arm (EABI) and riscv64. Two levels: what depends on the architecture (arch/: numbers, the entry point,
 * syscall6()), and one typed wrapper a call (sys.c). Every wrapper returns what the kernel returns: a negative errno on
 * failure.
 *
 * Numbers and structures are those of Linux 6.1. Calls that some architecture lacks are used in the form that
 * all four have (ppoll, not poll; openat, not open; clone, not fork; statx, not stat: its structure is the same
 * everywhere).
 */
#ifndef SYS_H
#define SYS_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t s32;
typedef int64_t s64;

/* A compiler may call these without being asked. */
void *memcpy(void *to, const void *from, size_t size);
void *memset(void *to, int byte, size_t size);
int memcmp(const void *left, const void *right, size_t size);

#if defined(__x86_64__)
#include "arch/x86_64.h"
#elif defined(__aarch64__)
#include "arch/aarch64.h"
#elif defined(__arm__)
#include "arch/arm.h"
#elif defined(__riscv) && __riscv_xlen == 64
#include "arch/riscv64.h"
#else
#error "the loader knows x86_64, aarch64, arm and riscv64"
#endif

enum {
	EPERM = 1,
	ENOENT = 2,
	EINTR = 4,
	EIO = 5,
	ENXIO = 6,
	E2BIG = 7,
	ENOEXEC = 8,
	EAGAIN = 11,
	ENOMEM = 12,
	EACCES = 13,
	EFAULT = 14,
	EBUSY = 16,
	EEXIST = 17,
	ENODEV = 19,
	ENOTDIR = 20,
	EISDIR = 21,
	EINVAL = 22,
	EFBIG = 27,
	ENOSPC = 28,
	EROFS = 30,
	EPIPE = 32,
	ERANGE = 34,
	EDEADLK = 35,
	ENAMETOOLONG = 36,
	ENOSYS = 38,
	ENODATA = 61,
	EBADMSG = 74,
	EOPNOTSUPP = 95,
	ENOBUFS = 105,
	ETIMEDOUT = 110,
	ENOMEDIUM = 123,
	ECANCELED = 125,
	ENOKEY = 126,
	EKEYREJECTED = 129,
};

enum { AT_FDCWD = -100, AT_SYMLINK_NOFOLLOW = 0x100, AT_REMOVEDIR = 0x200, AT_EMPTY_PATH = 0x1000 };

enum { O_RDONLY = 0, O_WRONLY = 1, O_RDWR = 2, O_CREAT = 0100, O_TRUNC = 01000, O_NONBLOCK = 04000 };

enum { O_CLOEXEC = 02000000, O_SYNC = 04010000 };

enum { X_OK = 1, S_IFMT = 0170000, S_IFIFO = 0010000, S_IFREG = 0100000, DT_DIR = 4, STATX_BASIC = 0x7ff };

enum { PROT_READ = 1, PROT_WRITE = 2, MAP_SHARED = 1, MAP_PRIVATE = 2, MAP_ANONYMOUS = 0x20 };

enum { MS_RDONLY = 1, MS_NOSUID = 2, MS_NODEV = 4, MS_NOEXEC = 8, MS_SYNCHRONOUS = 16, MS_DIRSYNC = 128 };

enum { MS_NOATIME = 1024, MS_NODIRATIME = 2048, MS_RELATIME = 1 << 21, MS_STRICTATIME = 1 << 24 };

enum { MS_LAZYTIME = 1 << 25, MS_BIND = 4096, MS_MOVE = 8192, MS_SILENT = 32768, MNT_DETACH = 2 };

enum { SIGKILL = 9, SIGSEGV = 11, SIGCHLD = 17, WNOHANG = 1 };

enum { RLIMIT_NOFILE = 7, PR_SET_NAME = 15, TIOCSCTTY = 0x540E, CLOCK_MONOTONIC = 1 };

enum { SOL_SOCKET = 1, SO_ATTACH_FILTER = 26 };

enum { AF_NETLINK = 16, SOCK_DGRAM = 2, SOCK_CLOEXEC = 02000000, SOCK_NONBLOCK = 04000, NETLINK_KOBJECT_UEVENT = 15 };

enum { POLLIN = 1, POLLPRI = 2, POLLERR = 8, POLLHUP = 16 };

enum { IN_MOVED_TO = 0x80, IN_CREATE = 0x100, IN_DELETE_SELF = 0x400, IN_MOVE_SELF = 0x800, IN_ONLYDIR = 0x01000000 };

enum { IN_CLOEXEC = 02000000, IN_NONBLOCK = 04000 };

#define RAMFS_MAGIC 0x858458f6u
#define TMPFS_MAGIC 0x01021994u

struct statx { /* include/uapi/linux/stat.h; only the fields in use are named */
	u32 mask, blksize;
	u64 attributes;
	u32 nlink, uid, gid;
	u16 mode, spare0;
	u64 ino, size, blocks, attributes_mask;

	struct {
		s64 sec;
		u32 nsec;
		u32 reserved;
	} time[4];

	u32 rdev_major, rdev_minor, dev_major, dev_minor;
	u64 spare2[14];
};

struct dirent64 {
	u64 ino;
	s64 off;
	u16 reclen;
	u8 type;
	char name[];
};

struct pollfd {
	int fd;
	short events, revents;
};

struct timespec64 { /* struct __kernel_timespec: 64-bit fields in every call used here */
	s64 sec, nsec;
};

struct sockaddr_nl {
	u16 family, pad;
	u32 pid, groups;
};

/* include/uapi/linux/filter.h */
struct sock_filter {
	u16 code;
	u8 if_true, if_false;
	u32 value;
};

struct sock_fprog {
	u16 count;
	const struct sock_filter *filter;
};

enum { BPF_RETURN = 0x06, BPF_IF_EQUAL = 0x15, BPF_LOAD_WORD = 0x20 };

struct rlimit64 {
	u64 soft, hard;
};

/* One wrapper a call, out of line: an argument that a call does not take costs its callers nothing. */
long sys_read(int fd, void *data, size_t size);
long sys_write(int fd, const void *data, size_t size);
long sys_pread(int fd, void *data, size_t size, u64 offset);
long sys_pwrite(int fd, const void *data, size_t size, u64 offset);
long sys_close(int fd);
/* Always with O_CLOEXEC. */
long sys_openat(int at, const char *path, int flags, int mode);
long sys_mkdirat(int at, const char *path, int mode);
long sys_mknodat(int at, const char *path, int mode);
long sys_unlinkat(int at, const char *path, int flags);
long sys_renameat(int at, const char *from, const char *to);
long sys_symlinkat(const char *target, int at, const char *path);
long sys_readlinkat(int at, const char *path, char *data, size_t size);
long sys_faccessat(int at, const char *path, int mode);
long sys_statx(int at, const char *path, int flags, struct statx *out);
long sys_getdents64(int fd, void *data, size_t size);
/* The file system's magic number, or a negative errno; f_type is the first word on every architecture. */
s64 sys_statfs_type(const char *path);
long sys_mount(const char *from, const char *to, const char *type, unsigned long flags, const void *data);
long sys_umount(const char *path, int flags);
long sys_chroot(const char *path);

/* Writes what is unwritten and does one of these; returns only if it may not. */
enum { REBOOT_RESTART = 0x01234567, REBOOT_HALT = (int)0xcdef0123, REBOOT_POWER_OFF = 0x4321fedc };

long sys_reboot(int how);
long sys_chdir(const char *path);
long sys_fchdir(int fd);
long sys_fork(void);
long sys_execve(const char *path, char *const *argv, char *const *envp);
/* For any child, or for this one; its status is that of wait4(). With WNOHANG it returns 0 if there is none yet. */
long sys_wait(long child, int *status, int flags);
long sys_kill(long process, int signal);
long sys_getpid(void);
long sys_getppid(void);
long sys_setsid(void);
long sys_set_name(const char *name);
long sys_ioctl(int fd, unsigned long request, long argument);
long sys_dup3(int from, int to);
long sys_pipe(int fds[2]);
long sys_ppoll(struct pollfd *fds, unsigned count, const struct timespec64 *timeout);
long sys_finit_module(int fd, const char *arguments);
long sys_init_module(const void *data, size_t size, const char *arguments);
/* Of CLOCK_MONOTONIC. */
u64 monotonic_ns(void);
/* The counter that runs since the processor's reset, 0 if there is none; its frequency, 0 if only the kernel's log has
 * it. */
u64 sys_counter(u64 *hertz);
long sys_socket(int family, int type, int protocol);
long sys_bind(int fd, const void *address, size_t size);
long sys_setsockopt(int fd, int level, int option, const void *value, size_t size);
long sys_inotify_init(void);
long sys_inotify_add_watch(int fd, const char *path, u32 mask);
long sys_inotify_rm_watch(int fd, int watch);
/* Into the special keyring with this (negative) number; the key's, or a negative errno. */
long sys_add_key(const char *type, const char *name, const void *data, size_t size, int keyring);
long sys_set_nofile(const struct rlimit64 *limit);
long sys_get_nofile(struct rlimit64 *limit);
/* Zeroed private memory, or NULL. The kernel backs it page by page on first touch, so generous sizes cost nothing. */
void *sys_map(size_t size);
/* A file to read, or NULL; what lies behind its end, up to the end of a page, is zero. */
void *sys_map_file(int fd, size_t size);
/* Like sys_map(), shared with the children. */
void *sys_map_shared(size_t size);
void sys_unmap(void *at, size_t size);
_Noreturn void sys_exit(int code);

#endif
