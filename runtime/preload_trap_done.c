/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_trap_done.c - the way back from a system call that was made for the program (preload_trap.c).
 *
 *   SIGSYS handler returns to        the instruction at XM_SIG_PAGE      and that to xm_trap_return
 *   stack, from rsp:                 [xm_trap_return][the program's ip][its call's entry][-]  128 bytes: the red zone
 *
 * All registers but rax, rcx and r11 are the program's, vector registers too: this file is compiled without these, and calls
 * nothing that could use them. The program goes on behind its system call instruction, or, where EFAULT had no effect, at
 * the instruction itself, which is trapped again. Signals may come at any time: the frame lies above rsp.
 */
#include "runtime/preload_signal.h"

#define TRIES_MOST 100 /* a page that leaves between preparation and call: another thread's working set */

/* As pushed by xm_trap_return. */
struct frame {
	uint64_t flags, rbp, r9, r8, r10, rdx, rsi, rdi, rax;
	uint64_t ip;
	struct xm_call *call;
};

void xm_trap_done(struct frame *f);

static void release(struct xm_call *c)
{
	struct xm_span *list = c->more ? c->more : c->span;

	for (uint32_t i = 0; i < c->n; i++)
		for (uint64_t k = 0; k < list[i].n; k++)
			xm_fault_release(&xm_rt.pt[list[i].page + k]);
	c->n = 0;
	if (c->more)
		xm_sys2(SYS_munmap, c->more, c->more_bytes);
	c->more = NULL;
}

void xm_call_end(struct xm_call *c)
{
	release(c);
	c->sp = 0;
}

__attribute__((used)) void xm_trap_done(struct frame *f)
{
	struct xm_call *c = f->call;
	struct xm_sig_thread *t = xm_sig_self;
	long nr = c->nr;
	bool again = c->again && (long)f->rax == -EFAULT && t->tries < TRIES_MOST;

	xm_call_end(c);
	t->tries = again ? t->tries + 1 : 0;
	if (!again)
		return;
	f->ip -= 2;
	f->rax = (uint64_t)nr;
}

__asm__(".text\n"
	".globl xm_trap_return\n"
	".hidden xm_trap_return\n"
	".type xm_trap_return, @function\n"
	"xm_trap_return:\n"
	"	pushq %rax\n"
	"	pushq %rdi\n"
	"	pushq %rsi\n"
	"	pushq %rdx\n"
	"	pushq %r10\n"
	"	pushq %r8\n"
	"	pushq %r9\n"
	"	pushq %rbp\n"
	"	pushfq\n"
	"	movq %rsp, %rdi\n"
	"	movq %rsp, %rbp\n"
	"	andq $-16, %rsp\n"
	"	cld\n"
	"	call xm_trap_done\n"
	"	movq %rbp, %rsp\n"
	"	popfq\n"
	"	popq %rbp\n"
	"	popq %r9\n"
	"	popq %r8\n"
	"	popq %r10\n"
	"	popq %rdx\n"
	"	popq %rsi\n"
	"	popq %rdi\n"
	"	popq %rax\n"
	"	movq (%rsp), %rcx\n"
	"	leaq 152(%rsp), %rsp\n" /* ip, entry, one unused; the red zone */
	"	jmp *%rcx\n"
	".size xm_trap_return, . - xm_trap_return\n");
