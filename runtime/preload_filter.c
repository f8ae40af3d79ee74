/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_filter.c - the seccomp filter of fault mode signal, which finds system calls that point into external memory.
 *
 *   no argument in the external range                 -> allowed: a dozen comparisons, some 15 ns
 *   made by the one instruction at XM_SIG_PAGE        -> allowed: its pages have been prepared
 *   an argument in the range that is a pointer of this call (preload_calls.c)  -> SIGSYS, preload_trap.c
 *   else                                              -> allowed: unused registers hold leftovers of anything
 *
 * A filter is for good, and is inherited by what the program executes: so it names addresses that are the same in every
 * process, and a process that finds it installed adds none. One that is not covered has nothing in the range and is not
 * touched by it. Installing takes CAP_SYS_ADMIN, or no_new_privs, which is then set.
 */
#include "runtime/preload_signal.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#define INSNS_MAX 2048
/* All threads; and no mitigation for all that is executed, as filters had before Linux 5.16: this one protects nothing. */
#define FLAGS (SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_SPEC_ALLOW)
#define ARG_HIGH(i) ((unsigned)offsetof(struct seccomp_data, args) + 8u * (i) + 4u)
#define ARG_LOW(i) ((unsigned)offsetof(struct seccomp_data, args) + 8u * (i))
#define EXT_HIGH_LO (unsigned)(XM_EXT_BASE >> 32)
#define EXT_HIGH_HI (unsigned)((XM_EXT_BASE + XM_EXT_BYTES) >> 32)
#define WAKE_PRIVATE (FUTEX_WAKE | FUTEX_PRIVATE_FLAG)

static const unsigned char stub[] = { 0x0f, 0x05, /* syscall */ 0xc3 /* ret */ };
#define STUB_NEXT (XM_SIG_PAGE + 2) /* what a filter sees as the place of the call */

__asm__(".text\n"
	".globl xm_sig_fixed\n"
	".hidden xm_sig_fixed\n"
	".type xm_sig_fixed, @function\n"
	"xm_sig_fixed:\n"
	"	.cfi_startproc\n"
	"	movq %rdi, %rax\n"
	"	movq %rsi, %rdi\n"
	"	movq %rdx, %rsi\n"
	"	movq %rcx, %rdx\n"
	"	movq %r8, %r10\n"
	"	movq %r9, %r8\n"
	"	movq 8(%rsp), %r9\n"
	"	movabsq $0x1ffffffe0000, %rcx\n"
	"	jmp *%rcx\n"
	"	.cfi_endproc\n"
	".size xm_sig_fixed, . - xm_sig_fixed\n");
_Static_assert(XM_SIG_PAGE == 0x1ffffffe0000ull, "as above");

int xm_sig_map_page(void)
{
	char *at = xm_sys_mmap((void *)XM_SIG_PAGE, XM_PAGE_SIZE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (at != (void *)XM_SIG_PAGE) {
		if (at)
			xm_sys_munmap(at, XM_PAGE_SIZE);
		return -EADDRINUSE;
	}
	memcpy(at, stub, sizeof(stub));
	return xm_sys_mprotect(at, XM_PAGE_SIZE, PROT_READ | PROT_EXEC);
}

struct program {
	struct sock_filter insn[INSNS_MAX];
	unsigned n;
};

static void add(struct program *p, struct sock_filter insn)
{
	xm_assert(p->n < INSNS_MAX);
	p->insn[p->n++] = insn;
}

static void load(struct program *p, unsigned offset)
{
	add(p, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset));
}

static void answer(struct program *p, unsigned action)
{
	add(p, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action));
}

/* if argument i is in the range, goes on with the instruction behind; else skips `skip` of them */
static void unless_external(struct program *p, unsigned i, unsigned skip)
{
	load(p, ARG_HIGH(i));
	add(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, EXT_HIGH_LO, 0, (unsigned char)(skip + 1)));
	add(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, EXT_HIGH_HI, (unsigned char)skip, 0));
}

static void jump(struct program *p, unsigned distance)
{
	add(p, (struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, distance));
}

/* What is asked of every call: ends with an answer where no argument is in the range. */
static void ask_all(struct program *p)
{
	load(p, offsetof(struct seccomp_data, arch));
	add(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0));
	answer(p, SECCOMP_RET_ALLOW);
	/* each: 3 instructions, and one that leaves */
	for (unsigned i = 0; i < 6; i++) {
		unless_external(p, i, 1);
		jump(p, 4 * (5 - i) + 1);
	}
	answer(p, SECCOMP_RET_ALLOW);
	load(p, offsetof(struct seccomp_data, instruction_pointer) + 4);
	add(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)(STUB_NEXT >> 32), 0, 3));
	load(p, offsetof(struct seccomp_data, instruction_pointer));
	add(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)STUB_NEXT, 0, 1));
	answer(p, SECCOMP_RET_ALLOW);
	/* waking by an address that is private to the process does not touch it: the most frequent of all */
	load(p, offsetof(struct seccomp_data, nr));
	add(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_futex, 0, 3));
	load(p, ARG_LOW(1));
	add(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, WAKE_PRIVATE, 0, 1));
	answer(p, SECCOMP_RET_ALLOW);
}

/* Traps if one of the arguments named by mask is in the range. */
static void ask_arguments(struct program *p, unsigned mask)
{
	for (unsigned i = 0; i < 6; i++) {
		if (!(mask & 1u << i))
			continue;
		unless_external(p, i, 1);
		answer(p, SECCOMP_RET_TRAP);
	}
	answer(p, SECCOMP_RET_ALLOW);
}

/* The calls are listed by their mask: one comparison each, and the questions behind the list of each mask. */
static void build(struct program *p)
{
	ask_all(p);
	load(p, offsetof(struct seccomp_data, nr));
	for (unsigned mask = 0; mask < 63; mask++) { /* all six: by default, as of a call that is not known */
		unsigned first = p->n;

		for (long nr = 0; nr < XM_CALLS_MAX; nr++)
			if (xm_call_pointers(nr) == mask)
				add(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)nr, 0, 1)),
					jump(p, 0); /* patched: to the questions */
		if (p->n == first)
			continue;
		jump(p, 0); /* patched: over the questions */
		for (unsigned at = first + 1; at < p->n - 1; at += 2)
			p->insn[at].k = p->n - at - 1;
		first = p->n;
		ask_arguments(p, mask);
		p->insn[first - 1].k = p->n - first;
	}
	ask_arguments(p, 63);
}

int xm_sig_install_filter(void)
{
	struct program *p = xm_local_alloc(sizeof(*p));
	struct sock_fprog fprog;
	long rc;

	if (!p)
		return -ENOMEM;
	build(p);
	fprog = (struct sock_fprog){ (unsigned short)p->n, p->insn };
	rc = xm_sys3(SYS_seccomp, SECCOMP_SET_MODE_FILTER, FLAGS, &fprog);
	if (rc == -EACCES) {
		xm_sys5(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		rc = xm_sys3(SYS_seccomp, SECCOMP_SET_MODE_FILTER, FLAGS, &fprog);
	}
	xm_local_free(p, sizeof(*p));
	return rc > 0 ? -EBUSY : (int)rc; /* a thread has a filter of its own, by another line of descent */
}
