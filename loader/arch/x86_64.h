/* SPDX-License-Identifier: MIT
 *
 * x86_64: numbers of arch/x86/entry/syscalls/syscall_64.tbl, the call by `syscall` (syscall(2), "Architecture calling
 * conventions").
 */
#ifndef ARCH_X86_64_H
#define ARCH_X86_64_H

enum {
	NR_read = 0,
	NR_write = 1,
	NR_close = 3,
	NR_mmap = 9,
	NR_munmap = 11,
	NR_ioctl = 16,
	NR_pread64 = 17,
	NR_pwrite64 = 18,
	NR_getpid = 39,
	NR_socket = 41,
	NR_bind = 49,
	NR_setsockopt = 54,
	NR_clone = 56,
	NR_execve = 59,
	NR_wait4 = 61,
	NR_kill = 62,
	NR_getppid = 110,
	NR_chdir = 80,
	NR_fchdir = 81,
	NR_setsid = 112,
	NR_statfs = 137,
	NR_prctl = 157,
	NR_chroot = 161,
	NR_sync = 162,
	NR_reboot = 169,
	NR_mount = 165,
	NR_umount2 = 166,
	NR_getdents64 = 217,
	NR_clock_gettime = 228,
	NR_exit_group = 231,
	NR_add_key = 248,
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
	NR_init_module = 175,
	NR_finit_module = 313,
	NR_renameat2 = 316,
	NR_statx = 332,
};

enum { O_DIRECTORY = 0200000, O_NOFOLLOW = 0400000 };

#define PREAD_OFFSET(offset) (long)(offset), 0, 0
#define STATFS_ROOM(out) out, 0

#ifdef ARCH_CODE
__asm__(".text\n.globl _start\n.type _start, %function\n_start:\n"
	"	xor %ebp, %ebp\n"
	"	mov %rsp, %rdi\n"
	"	and $-16, %rsp\n"
	"	call start\n"
	"	hlt\n");

static long syscall6(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;

	__asm__ volatile("syscall"
			 : "+a"(number)
			 : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return number;
}

static u64 read_counter(u64 *hertz)
{
	u32 low, high;

	*hertz = 0;
	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (u64)high << 32 | low;
}
#endif

/* The type of a partition with a root for it, in a GPT. */
#define ROOT_TYPE "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"

#endif
