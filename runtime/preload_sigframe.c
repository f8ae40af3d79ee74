/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_sigframe.c - the program's handlers of signals, in a process that is meant for fault mode signal, run on the stack
 * that the program means: its own alternate one, or where the signal found the thread. The kernel could write its frame
 * there only if that memory is here, and its one alternate stack is ours (preload_sigthread.c). So it delivers on ours, with
 * all signals blocked but SIGBUS, and the frame is moved: copied to the program's stack, which may come in by a fault
 * meanwhile, and the handler is called there, with the mask that it asked for. When it returns, the kernel's own
 * rt_sigreturn takes the copy for the frame. Nothing is left on our stack once the program's code runs.
 *
 *   kernel's frame (arch/x86: struct rt_sigframe)   [restorer][ucontext, 304 bytes][siginfo, 128][...]  fpstate, 64-aligned
 *
 * The program's actions are kept here: the kernel has ours. Any thread; an action is read while another thread may set it, as
 * it is in the kernel's table: one of both.
 */
#include "runtime/preload_signal.h"

#include <errno.h>
#include <string.h>

#include "runtime/preload.h"

#define RED_ZONE 128
#define UCONTEXT_BYTES 304	 /* of the kernel's struct ucontext */
#define FRAME_BYTES (8 + UCONTEXT_BYTES + sizeof(siginfo_t))
#define FP_BYTES 512		 /* the state of fxsave; more where it says so */
#define FP_MAGIC_AT 464		 /* struct _fpx_sw_bytes: magic1, extended_size */
#define FP_MAGIC 0x46505853u
#define FP_MOST (16u << 10)	 /* of any processor: AMX has 11 KiB */
#define PASSED_ON (SA_RESTART | SA_NOCLDSTOP | SA_NOCLDWAIT)

struct frame {
	void *restorer;
	char context[UCONTEXT_BYTES];
	siginfo_t info;
};

static struct sigaction actions[NSIG];

struct sigaction *xm_sig_action(int sig)
{
	return &actions[sig];
}

/* On that stack, with that mask: the handler's call. Never returns here. */
__attribute__((noreturn)) void xm_sig_enter(struct frame *f, void (*handler)(int, siginfo_t *, void *), int sig,
					    const uint64_t *mask);

__asm__(".text\n"
	".globl xm_sig_enter\n"
	".hidden xm_sig_enter\n"
	".type xm_sig_enter, @function\n"
	"xm_sig_enter:\n"
	"	movq %rdi, %rsp\n" /* the restorer is the return address */
	"	movq %rsi, %r12\n"
	"	movl %edx, %r13d\n"
	"	movq %rcx, %rsi\n" /* rt_sigprocmask(SIG_SETMASK, mask, NULL, 8) */
	"	movl $2, %edi\n"
	"	xorl %edx, %edx\n"
	"	movl $8, %r10d\n"
	"	movl $14, %eax\n"
	"	syscall\n"
	"	movl %r13d, %edi\n"
	"	leaq 312(%rsp), %rsi\n"
	"	leaq 8(%rsp), %rdx\n"
	"	xorl %eax, %eax\n"
	"	jmp *%r12\n"
	".size xm_sig_enter, . - xm_sig_enter\n");
_Static_assert(offsetof(struct frame, info) == 312 && sizeof(siginfo_t) == 128, "as above");

static size_t fp_bytes(const char *fp)
{
	uint32_t word[2];

	memcpy(word, fp + FP_MAGIC_AT, sizeof(word));
	return word[0] == FP_MAGIC && word[1] >= FP_BYTES && word[1] <= FP_MOST ? word[1] : FP_BYTES;
}

/* Where the program's stack goes on for this handler. */
static uint64_t stack_for(const struct xm_sig_thread *t, const struct sigaction *act, uint64_t sp)
{
	uint64_t base = (uint64_t)(uintptr_t)t->program.ss_sp;

	if (!(act->sa_flags & SA_ONSTACK) || (t->program.ss_flags & SS_DISABLE) || sp - base < t->program.ss_size)
		return sp - RED_ZONE;
	return base + t->program.ss_size;
}

/* Copies the frame to below sp; where it is. */
static struct frame *move_frame(const ucontext_t *uc, uint64_t sp)
{
	const struct frame *from = (const struct frame *)((const char *)uc - 8);
	char *fp = (char *)uc->uc_mcontext.fpregs;
	struct frame *f;
	char *to = NULL;

	if (fp) {
		sp = xm_round_down(sp - fp_bytes(fp), 64ull);
		to = (char *)sp;
		memcpy(to, fp, fp_bytes(fp));
	}
	f = (struct frame *)(xm_round_down(sp - sizeof(*f), 16ull) - 8); /* as behind a call: 8 below a multiple of 16 */
	memcpy(f, from, FRAME_BYTES);
	((ucontext_t *)(void *)f->context)->uc_mcontext.fpregs = (void *)to;
	return f;
}

static void call_plainly(int sig, siginfo_t *info, ucontext_t *uc, const struct sigaction *act, uint64_t mask)
{
	uint64_t closed;

	xm_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &mask, &closed, 8);
	act->sa_sigaction(sig, info, uc);
	xm_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &closed, 0, 8);
}

void xm_sig_deliver(int sig, siginfo_t *info, ucontext_t *uc)
{
	const struct sigaction act = *xm_sig_action(sig);
	const struct xm_sig_thread *t = xm_sig_self;
	uint64_t sp = (uint64_t)uc->uc_mcontext.gregs[REG_RSP];
	uint64_t mask = uc->uc_sigmask.__val[0] | act.sa_mask.__val[0];
	uint64_t ours = XM_SIG_OURS;
	int saved = errno;

	xm_sys4(SYS_rt_sigprocmask, SIG_UNBLOCK, &ours, 0, 8); /* the program's stack may be external */
	if (act.sa_handler == SIG_IGN)
		return; /* set by another thread since, or: */
	if (act.sa_handler == SIG_DFL) {
		xm_sig_by_default(sig, info, uc);
		return;
	}
	if (!(act.sa_flags & SA_NODEFER))
		mask |= 1ull << (sig - 1);
	mask &= ~XM_SIG_OURS;
	if ((act.sa_flags & SA_RESETHAND) && (XM_SIG_OURS >> (sig - 1) & 1) && xm_load(&xm_sig_on))
		actions[sig] = (struct sigaction){ .sa_handler = SIG_DFL };
	else if (act.sa_flags & SA_RESETHAND)
		xm_sig_set(sig, &(struct sigaction){ .sa_handler = SIG_DFL }, NULL);
	if (t && xm_sig_on_stack(t, (uint64_t)(uintptr_t)uc) && !xm_sig_on_stack(t, sp)) {
		struct frame *f = move_frame(uc, stack_for(t, &act, sp));

		errno = saved;
		xm_sig_enter(f, act.sa_sigaction, sig, &mask);
	}
	call_plainly(sig, info, uc, &act, mask);
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
	xm_sig_deliver(sig, info, context);
}

/* What the kernel has, as the program set it: itself, or by a function of libc that we do not see. */
static struct sigaction of_program(int sig, const struct sigaction *kernel)
{
	return kernel->sa_sigaction == on_signal ? actions[sig] : *kernel;
}

int xm_sig_set(int sig, const struct sigaction *act, struct sigaction *old)
{
	struct sigaction ours, kernel, was = actions[sig];
	int r;

	/* its actions are its own, and the table is its parent's */
	if (act && xm_pre_in_vfork_child()) {
		r = xm_sig_install(sig, act, &kernel);
		if (r == 0 && old)
			*old = of_program(sig, &kernel);
		return r;
	}
	if (act) {
		ours = *act;
		if (act->sa_handler != SIG_DFL && act->sa_handler != SIG_IGN) {
			ours.sa_sigaction = on_signal;
			ours.sa_flags = SA_SIGINFO | SA_ONSTACK | (act->sa_flags & PASSED_ON);
			memset(&ours.sa_mask, 0xff, sizeof(ours.sa_mask));
		}
		ours.sa_mask.__val[0] &= ~XM_SIG_OURS;
		actions[sig] = *act; /* before: a signal that comes at once finds it */
	}
	r = xm_sig_install(sig, act ? &ours : NULL, &kernel);
	if (r < 0)
		actions[sig] = was;
	else if (old)
		*old = kernel.sa_sigaction == on_signal ? was : kernel;
	return r;
}

void xm_sig_take_over(int sig, const struct sigaction *act)
{
	struct sigaction kernel;

	if (xm_sig_install(sig, act, &kernel) == 0)
		actions[sig] = of_program(sig, &kernel);
}
