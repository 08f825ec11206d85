/* SPDX-License-Identifier: MIT
 *
 * The whole interface to the kernel: raw system calls, the few structures and constants that they take, for x86_64,
 * aarch64, arm (EABI) and riscv64. Three levels: numbers, sys() (entry.h), one typed wrapper a call (sys.c). Every
 * wrapper returns what the kernel returns: a negative errno on failure.
 *
 * Numbers: arch/x86/entry/syscalls/syscall_64.tbl, arch/arm/tools/syscall.tbl and include/uapi/asm-generic/unistd.h of
 * Linux 6.1. Calls that some architecture lacks are used in the form that all four have (ppoll, not poll; openat, not
 * open; clone, not fork; statx, not stat: its structure is the same everywhere).
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

#if defined(__x86_64__)
enum {
	NR_read = 0,
	NR_write = 1,
	NR_close = 3,
	NR_mmap = 9,
	NR_munmap = 11,
	NR_ioctl = 16,
	NR_pread64 = 17,
	NR_getpid = 39,
	NR_socket = 41,
	NR_bind = 49,
	NR_clone = 56,
	NR_execve = 59,
	NR_wait4 = 61,
	NR_chdir = 80,
	NR_fchdir = 81,
	NR_setsid = 112,
	NR_statfs = 137,
	NR_prctl = 157,
	NR_chroot = 161,
	NR_mount = 165,
	NR_umount2 = 166,
	NR_getdents64 = 217,
	NR_clock_gettime = 228,
	NR_exit_group = 231,
	NR_inotify_add_watch = 254,
	NR_inotify_rm_watch = 255,
	NR_openat = 257,
	NR_mkdirat = 258,
	NR_mknodat = 259,
	NR_unlinkat = 263,
	NR_symlinkat = 266,
	NR_readlinkat = 267,
	NR_faccessat = 269,
	NR_ppoll = 271,
	NR_dup3 = 292,
	NR_pipe2 = 293,
	NR_inotify_init1 = 294,
	NR_prlimit64 = 302,
	NR_finit_module = 313,
	NR_renameat2 = 316,
	NR_statx = 332,
};
#elif defined(__aarch64__) || (defined(__riscv) && __riscv_xlen == 64)
enum {
	NR_dup3 = 24,
	NR_inotify_init1 = 26,
	NR_inotify_add_watch = 27,
	NR_inotify_rm_watch = 28,
	NR_ioctl = 29,
	NR_mknodat = 33,
	NR_mkdirat = 34,
	NR_unlinkat = 35,
	NR_symlinkat = 36,
	NR_umount2 = 39,
	NR_mount = 40,
	NR_statfs = 43,
	NR_faccessat = 48,
	NR_chdir = 49,
	NR_fchdir = 50,
	NR_chroot = 51,
	NR_openat = 56,
	NR_close = 57,
	NR_pipe2 = 59,
	NR_getdents64 = 61,
	NR_read = 63,
	NR_write = 64,
	NR_pread64 = 67,
	NR_ppoll = 73,
	NR_readlinkat = 78,
	NR_exit_group = 94,
	NR_clock_gettime = 113,
	NR_setsid = 157,
	NR_prctl = 167,
	NR_getpid = 172,
	NR_socket = 198,
	NR_bind = 200,
	NR_clone = 220,
	NR_munmap = 215,
	NR_execve = 221,
	NR_mmap = 222,
	NR_wait4 = 260,
	NR_prlimit64 = 261,
	NR_finit_module = 273,
	NR_renameat2 = 276,
	NR_statx = 291,
};
#elif defined(__arm__)
enum {
	NR_read = 3,
	NR_write = 4,
	NR_close = 6,
	NR_execve = 11,
	NR_chdir = 12,
	NR_getpid = 20,
	NR_mount = 21,
	NR_umount2 = 52,
	NR_ioctl = 54,
	NR_chroot = 61,
	NR_setsid = 66,
	NR_wait4 = 114,
	NR_clone = 120,
	NR_fchdir = 133,
	NR_prctl = 172,
	NR_munmap = 91,
	NR_pread64 = 180,
	NR_mmap = 192 /* mmap2 */,
	NR_getdents64 = 217,
	NR_exit_group = 248,
	NR_statfs = 266 /* statfs64 */,
	NR_socket = 281,
	NR_bind = 282,
	NR_inotify_add_watch = 317,
	NR_inotify_rm_watch = 318,
	NR_openat = 322,
	NR_mkdirat = 323,
	NR_mknodat = 324,
	NR_unlinkat = 328,
	NR_symlinkat = 331,
	NR_readlinkat = 332,
	NR_faccessat = 334,
	NR_dup3 = 358,
	NR_pipe2 = 359,
	NR_inotify_init1 = 360,
	NR_prlimit64 = 369,
	NR_finit_module = 379,
	NR_renameat2 = 382,
	NR_statx = 397,
	NR_clock_gettime = 403 /* clock_gettime64 */,
	NR_ppoll = 414 /* ppoll_time64 */,
};
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
	ENAMETOOLONG = 36,
	ENOSYS = 38,
	ENODATA = 61,
	EBADMSG = 74,
	EOPNOTSUPP = 95,
	ENOBUFS = 105,
	ETIMEDOUT = 110,
	ENOMEDIUM = 123,
	ENOKEY = 126,
	EKEYREJECTED = 129,
};

enum {
	AT_FDCWD = -100,
	AT_REMOVEDIR = 0x200,
	AT_SYMLINK_NOFOLLOW = 0x100,
	AT_EMPTY_PATH = 0x1000,
	O_RDONLY = 0,
	O_WRONLY = 1,
	O_RDWR = 2,
	O_CREAT = 0100,
	O_TRUNC = 01000,
	O_NONBLOCK = 04000,
	O_CLOEXEC = 02000000,
	O_PATH = 010000000,
#if defined(__arm__) || defined(__aarch64__)
	O_DIRECTORY = 040000,
	O_NOFOLLOW = 0100000,
#else
	O_DIRECTORY = 0200000,
	O_NOFOLLOW = 0400000,
#endif
	X_OK = 1,
	S_IFMT = 0170000,
	S_IFIFO = 0010000,
	S_IFREG = 0100000,
	S_IFDIR = 0040000,
	DT_DIR = 4,
	PROT_READ = 1,
	PROT_WRITE = 2,
	MAP_PRIVATE = 2,
	MAP_ANONYMOUS = 0x20,
	MS_RDONLY = 1,
	MS_NOSUID = 2,
	MS_NODEV = 4,
	MS_NOEXEC = 8,
	MS_SYNCHRONOUS = 16,
	MS_DIRSYNC = 128,
	MS_NOATIME = 1024,
	MS_NODIRATIME = 2048,
	MS_BIND = 4096,
	MS_MOVE = 8192,
	MS_SILENT = 32768,
	MS_RELATIME = 1 << 21,
	MS_STRICTATIME = 1 << 24,
	MS_LAZYTIME = 1 << 25,
	MNT_DETACH = 2,
	SIGCHLD = 17,
	RLIMIT_NOFILE = 7,
	PR_SET_NAME = 15,
	TIOCSCTTY = 0x540E,
	CLOCK_MONOTONIC = 1,
	AF_NETLINK = 16,
	SOCK_DGRAM = 2,
	SOCK_CLOEXEC = 02000000,
	SOCK_NONBLOCK = 04000,
	NETLINK_KOBJECT_UEVENT = 15,
	POLLIN = 1,
	POLLPRI = 2,
	POLLERR = 8,
	POLLHUP = 16,
	IN_MOVED_TO = 0x80,
	IN_CREATE = 0x100,
	IN_DELETE_SELF = 0x400,
	IN_MOVE_SELF = 0x800,
	IN_ONLYDIR = 0x01000000,
	IN_CLOEXEC = 02000000,
	IN_NONBLOCK = 04000,
	STATX_BASIC = 0x7ff,
};

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

struct rlimit64 {
	u64 soft, hard;
};

/* One wrapper a call, out of line: an argument that a call does not take costs its callers nothing. */
long sys_read(int fd, void *data, size_t size);
long sys_write(int fd, const void *data, size_t size);
long sys_pread(int fd, void *data, size_t size, u64 offset);
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
long sys_chdir(const char *path);
long sys_fchdir(int fd);
long sys_fork(void);
long sys_execve(const char *path, char *const *argv, char *const *envp);
long sys_wait(int *status);
long sys_getpid(void);
long sys_setsid(void);
long sys_set_name(const char *name);
long sys_ioctl(int fd, unsigned long request, long argument);
long sys_dup3(int from, int to);
long sys_pipe(int fds[2]);
long sys_ppoll(struct pollfd *fds, unsigned count, const struct timespec64 *timeout);
long sys_finit_module(int fd, const char *arguments);
long sys_clock_gettime(struct timespec64 *out);
/* The counter that runs since the processor's reset, 0 if there is none; its frequency, 0 if only the kernel's log has
 * it. */
u64 sys_counter(u64 *hertz);
long sys_socket(int family, int type, int protocol);
long sys_bind(int fd, const void *address, size_t size);
long sys_inotify_init(void);
long sys_inotify_add_watch(int fd, const char *path, u32 mask);
long sys_inotify_rm_watch(int fd, int watch);
long sys_set_nofile(const struct rlimit64 *limit);
long sys_get_nofile(struct rlimit64 *limit);
/* Zeroed private memory, or NULL. The kernel backs it page by page on first touch, so generous sizes cost nothing. */
void *sys_map(size_t size);
void sys_unmap(void *at, size_t size);
_Noreturn void sys_exit(int code);

#endif
