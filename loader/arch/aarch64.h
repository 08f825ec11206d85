/* SPDX-License-Identifier: MIT
 *
 * aarch64: the generic numbers, the call by `svc`.
 */
#ifndef ARCH_AARCH64_H
#define ARCH_AARCH64_H

#include "generic.h"

enum { O_DIRECTORY = 040000, O_NOFOLLOW = 0100000 };

#define PREAD_OFFSET(offset) (long)(offset), 0, 0
#define STATFS_ROOM(out) out, 0

#ifdef ARCH_CODE
__asm__(".text\n.globl _start\n.type _start, %function\n_start:\n"
	"	mov x29, #0\n"
	"	mov x30, #0\n"
	"	mov x0, sp\n"
	"	and sp, x0, #-16\n"
	"	b start\n");

static long syscall6(long number, long a, long b, long c, long d, long e, long f)
{
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;

	__asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
}

static u64 read_counter(u64 *hertz)
{
	u64 count;

	__asm__ volatile("mrs %0, cntfrq_el0" : "=r"(*hertz));
	__asm__ volatile("mrs %0, cntvct_el0" : "=r"(count));
	return count;
}
#endif

/* The type of a partition with a root for it, in a GPT. */
#define ROOT_TYPE "b921b045-1df0-41c3-af44-4c6f280d3fae"

#endif
