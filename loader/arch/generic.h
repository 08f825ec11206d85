/* SPDX-License-Identifier: MIT
 *
 * System call numbers of the architectures that have none of their own: include/uapi/asm-generic/unistd.h.
 */
#ifndef ARCH_GENERIC_H
#define ARCH_GENERIC_H

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
	NR_sync = 81,
	NR_reboot = 142,
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
	NR_getppid = 173,
	NR_kill = 129,
	NR_socket = 198,
	NR_bind = 200,
	NR_setsockopt = 208,
	NR_clone = 220,
	NR_munmap = 215,
	NR_execve = 221,
	NR_mmap = 222,
	NR_wait4 = 260,
	NR_prlimit64 = 261,
	NR_init_module = 105,
	NR_finit_module = 273,
	NR_renameat2 = 276,
	NR_statx = 291,
};

#endif
