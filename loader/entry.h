/* SPDX-License-Identifier: MIT
 *
 * What is written in assembly: the entry point and the system call instruction, once for each architecture; both are
 * included by sys.c alone, so that the compiler sees which arguments are always the same.
 *
 * At the entry point the stack pointer is at argc, followed by argv, NULL, envp, NULL (the psABI of each architecture,
 * "process initialization"); start() unpacks it. riscv64 is linked without relaxation, so gp is not needed.
 */
#ifndef ENTRY_H
#define ENTRY_H

#include "sys.h"

int main(int argc, char **argv, char **envp);

#if defined(__x86_64__)
__asm__(".text\n.globl _start\n.type _start, %function\n_start:\n"
	"	xor %ebp, %ebp\n"
	"	mov %rsp, %rdi\n"
	"	and $-16, %rsp\n"
	"	call start\n"
	"	hlt\n");

static long sys(long number, long a, long b, long c, long d, long e, long f)
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
#elif defined(__aarch64__)
__asm__(".text\n.globl _start\n.type _start, %function\n_start:\n"
	"	mov x29, #0\n"
	"	mov x30, #0\n"
	"	mov x0, sp\n"
	"	and sp, x0, #-16\n"
	"	b start\n");

static long sys(long number, long a, long b, long c, long d, long e, long f)
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
#elif defined(__arm__)
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
static long sys(long number, long a, long b, long c, long d, long e, long f)
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
#else
__asm__(".text\n.globl _start\n.type _start, %function\n_start:\n"
	"	mv a0, sp\n"
	"	andi sp, sp, -16\n"
	"	tail start\n");

static long sys(long number, long a, long b, long c, long d, long e, long f)
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
#endif

/* What the processor's own counter says, and its frequency, 0 where a program cannot read it. */
static u64 read_counter(u64 *hertz)
{
#if defined(__x86_64__)
	u32 low, high;

	*hertz = 0;
	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (u64)high << 32 | low;
#elif defined(__aarch64__)
	u64 count;

	__asm__ volatile("mrs %0, cntfrq_el0" : "=r"(*hertz));
	__asm__ volatile("mrs %0, cntvct_el0" : "=r"(count));
	return count;
#else
	*hertz = 0;
	return 0;
#endif
}

#endif
