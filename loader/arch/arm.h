/* SPDX-License-Identifier: MIT
 *
 * arm, EABI, ARMv6 and newer: numbers of arch/arm/tools/syscall.tbl, the call by `svc`.
 */
#ifndef ARCH_ARM_H
#define ARCH_ARM_H

enum {
	NR_read = 3,
	NR_write = 4,
	NR_close = 6,
	NR_execve = 11,
	NR_chdir = 12,
	NR_getpid = 20,
	NR_kill = 37,
	NR_getppid = 64,
	NR_mount = 21,
	NR_umount2 = 52,
	NR_ioctl = 54,
	NR_chroot = 61,
	NR_sync = 36,
	NR_reboot = 88,
	NR_setsid = 66,
	NR_wait4 = 114,
	NR_init_module = 128,
	NR_clone = 120,
	NR_fchdir = 133,
	NR_prctl = 172,
	NR_munmap = 91,
	NR_pread64 = 180,
	NR_pwrite64 = 181,
	NR_mmap = 192 /* mmap2 */,
	NR_getdents64 = 217,
	NR_exit_group = 248,
	NR_statfs = 266 /* statfs64 */,
	NR_socket = 281,
	NR_bind = 282,
	NR_setsockopt = 294,
	NR_inotify_add_watch = 317,
	NR_inotify_rm_watch = 318,
	NR_openat = 322,
	NR_mkdirat = 323,
	NR_mknodat = 324,
	NR_unlinkat = 328,
	NR_symlinkat = 331,
	NR_readlinkat = 332,
	NR_faccessat = 334,
	NR_add_key = 309,
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

enum { O_DIRECTORY = 040000, O_NOFOLLOW = 0100000 };

/* A 64-bit argument of a call, from its fourth on, takes an even pair of registers. */
#define PREAD_OFFSET(offset) 0, (long)(u32)(offset), (long)(u32)((offset) >> 32)
/* struct statfs64 is packed to 84 bytes; the kernel takes 88 too (fs/statfs.c, arch/arm). */
#define STATFS_ROOM(out) 84, out

#ifdef ARCH_CODE
/* The rest may be Thumb, to be small; the entry is ARM, and the linker makes its call a switching one. */
__asm__(".text\n.arm\n.globl _start\n.type _start, %function\n_start:\n"
	"	mov r0, sp\n"
	"	bic sp, sp, #7\n"
	"	bl start\n"
#if defined(__thumb__)
	".thumb\n"
#endif
);

/* r7 may be the frame pointer, so the number goes there inside the statement. */
static long syscall6(long number, long a, long b, long c, long d, long e, long f)
{
	register long r6 __asm__("r6") = number;
	register long r0 __asm__("r0") = a;
	register long r1 __asm__("r1") = b;
	register long r2 __asm__("r2") = c;
	register long r3 __asm__("r3") = d;
	register long r4 __asm__("r4") = e;
	register long r5 __asm__("r5") = f;

	__asm__ volatile("push {r7}\n\tmov r7, r6\n\tsvc #0\n\tpop {r7}"
			 : "+r"(r0)
			 : "r"(r6), "r"(r1), "r"(r2), "r"(r3), "r"(r4), "r"(r5)
			 : "memory");
	return r0;
}

/* A program cannot rely on reading one here. */
static u64 read_counter(u64 *hertz)
{
	*hertz = 0;
	return 0;
}

/* The EABI's names for the same; memset takes size before byte. */
void __aeabi_memcpy(void *to, const void *from, size_t size)
{
	memcpy(to, from, size);
}

void __aeabi_memcpy4(void *to, const void *from, size_t size)
{
	memcpy(to, from, size);
}

void __aeabi_memcpy8(void *to, const void *from, size_t size)
{
	memcpy(to, from, size);
}

void __aeabi_memset(void *to, size_t size, int byte)
{
	memset(to, byte, size);
}

void __aeabi_memclr(void *to, size_t size)
{
	memset(to, 0, size);
}

void __aeabi_memclr4(void *to, size_t size)
{
	memset(to, 0, size);
}

void __aeabi_memclr8(void *to, size_t size)
{
	memset(to, 0, size);
}
#endif

/* The type of a partition with a root for it, in a GPT. */
#define ROOT_TYPE "69dad710-2ce4-4e3c-b16c-21a1d49abed3"

#endif
