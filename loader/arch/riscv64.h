/* SPDX-License-Identifier: MIT
 *
 * riscv64: the generic numbers, the call by `ecall`. Linked without relaxation, so gp is not
 * needed.
 */
#ifndef ARCH_RISCV64_H
#define ARCH_RISCV64_H

#include "generic.h"

enum { O_DIRECTORY = 0200000, O_NOFOLLOW = 0400000 };

#define PREAD_OFFSET(offset) (long)(offset), 0, 0
#define STATFS_ROOM(out) out, 0

#ifdef ARCH_CODE
__asm__(".text\n.globl _start\n.type _start, %function\n_start:\n"
	"	mv a0, sp\n"
	"	andi sp, sp, -16\n"
	"	tail start\n");

static long syscall6(long number, long a, long b, long c, long d, long e, long f)
{
	register long a7 __asm__("a7") = number;
	register long a0 __asm__("a0") = a;
	register long a1 __asm__("a1") = b;
	register long a2 __asm__("a2") = c;
	register long a3 __asm__("a3") = d;
	register long a4 __asm__("a4") = e;
	register long a5 __asm__("a5") = f;

	__asm__ volatile("ecall" : "+r"(a0) : "r"(a7), "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a5) : "memory");
	return a0;
}

/* A program cannot rely on reading one here. */
static u64 read_counter(u64 *hertz)
{
	*hertz = 0;
	return 0;
}
#endif

/* The type of a partition with a root for it, in a GPT. */
#define ROOT_TYPE "72ec70a6-cf74-40e6-bd49-4bda08e8f224"

#endif
