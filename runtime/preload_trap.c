/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_trap.c - system calls on external memory in fault mode signal, whose pages the kernel would not wait for.
 *
 *   filter ──SIGSYS──► xm_sig_on_sys: holds what the call reaches (preload_calls.c), writes a frame below the program's red
 *   zone, and returns: not behind the call, but to the one allowed call instruction, with the program's own registers, stack
 *   and signal mask. So the call sleeps, is interrupted, is restarted and is cancelled as it would have been. It returns to
 *   xm_trap_return (preload_trap_done.c), which lets the pages go.
 *
 * A call in progress has an entry in its thread's own memory. One that a handler of the program's has left by longjmp is
 * found by the stack: entries of a stack that has been unwound above them are free. Where a thread has no such memory, or is
 * on its handlers' stack, where nothing of the kernel's may be overwritten, the call is made inside the handler.
 *
 * Libc's functions whose pointers the filter cannot see (in an iovec, on the stack) come here by xm_sig_call.
 */
#include "runtime/preload_signal.h"

#include <pthread.h>
#include <string.h>

#include "runtime/preload.h"

#ifndef SYS_SECCOMP
#define SYS_SECCOMP 1
#endif
#define RED_ZONE 128
#define SAME_STACK (8ull << 20) /* the usual size of one */
#define TRIES_MOST 100

uint32_t xm_sig_traps;

/* What was left by a jump out of a handler: on this stack, and deeper than it is now. */
static bool is_stale(const struct xm_call *c, uint64_t sp)
{
	return c->sp && c->sp <= sp && sp - c->sp < SAME_STACK;
}

static struct xm_call *free_entry(struct xm_sig_thread *t, uint64_t sp)
{
	struct xm_call *free = NULL;

	for (unsigned i = 0; i < XM_SIG_CALLS; i++) {
		if (is_stale(&t->call[i], sp))
			xm_call_end(&t->call[i]);
		if (!t->call[i].sp)
			free = &t->call[i];
	}
	return free;
}

static void fill(struct xm_call *c, uint64_t sp, long nr, const long arg[6])
{
	xm_store(&c->sp, sp); /* first: a handler of the program's that comes now leaves the entry alone */
	c->nr = nr;
	memcpy(c->arg, arg, sizeof(c->arg));
	c->tid = xm_sig_tid();
	c->n = 0;
	c->pages = 0;
	c->again = false;
	c->more = NULL;
}

struct xm_call *xm_call_begin(struct xm_call *own, long nr, const long arg[6])
{
	uint64_t sp = (uint64_t)(uintptr_t)own;
	struct xm_sig_thread *t = xm_sig_self;
	struct xm_call *c = NULL;

	if (t && !xm_sig_on_stack(t, sp))
		c = free_entry(t, sp);
	if (!c)
		c = own;
	fill(c, sp, nr, arg);
	xm_call_prepare(c);
	return c;
}

/* ---- libc's functions --------------------------------------------------------------------------------------------------- */

/* Whether libc's function may be cancelled. Of those that come here. */
static bool may_be_cancelled(long nr)
{
	switch (nr) {
	case SYS_read:
	case SYS_write:
	case SYS_pread64:
	case SYS_pwrite64:
	case SYS_readv:
	case SYS_writev:
	case SYS_preadv:
	case SYS_pwritev:
	case SYS_preadv2:
	case SYS_pwritev2:
	case SYS_recvfrom:
	case SYS_sendto:
	case SYS_recvmsg:
	case SYS_sendmsg:
	case SYS_recvmmsg:
	case SYS_sendmmsg:
	case SYS_vmsplice:
	case SYS_getrandom: return true;
	default: return false;
	}
}

/* The pages of *c are held. Those of a thread that is cancelled here are let go when it ends, or makes its next call. */
static long make(struct xm_call *c, bool cancel)
{
	const long *a = c->arg;
	int type;
	long r;

	if (cancel)
		pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &type);
	r = xm_sig_fixed(c->nr, a[0], a[1], a[2], a[3], a[4], a[5]);
	if (cancel)
		pthread_setcanceltype(type, NULL);
	xm_call_end(c);
	return r;
}

static long call(bool cancel, long nr, const long arg[6])
{
	struct xm_call own, *c;
	unsigned tries = 0;
	bool again;
	long r;

	do {
		c = xm_call_begin(&own, nr, arg);
		again = c->again;
		r = make(c, cancel);
	} while (r == -EFAULT && again && tries++ < TRIES_MOST);
	return xm_pre_result(r);
}

/* lint: 7 params (the kernel's number of them) */
long xm_sig_call(long nr, long a, long b, long c, long d, long e, long f)
{
	const long arg[6] = { a, b, c, d, e, f };

	return call(may_be_cancelled(nr), nr, arg);
}

/* lint: 7 params (the kernel's number of them) */
long xm_sig_call_raw(long nr, long a, long b, long c, long d, long e, long f)
{
	const long arg[6] = { a, b, c, d, e, f };

	return call(false, nr, arg);
}

/* ---- SIGSYS ----------------------------------------------------------------------------------------------------------------- */

struct frame {
	void (*back)(void);
	uint64_t ip;
	struct xm_call *call;
	uint64_t unused;
};

/* The call is made by the program, as soon as the handler returns. */
static void redirect(ucontext_t *uc, struct xm_call *c)
{
	uint64_t sp = (uint64_t)uc->uc_mcontext.gregs[REG_RSP];
	struct frame *f = (struct frame *)(sp - RED_ZONE - sizeof(*f));

	xm_call_prepare(c);
	/* its stack may be external: then it comes in here, by SIGBUS, which is not blocked */
	*f = (struct frame){ .back = xm_trap_return, .ip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP], .call = c };
	uc->uc_mcontext.gregs[REG_RSP] = (greg_t)(uintptr_t)f;
	uc->uc_mcontext.gregs[REG_RIP] = (greg_t)XM_SIG_PAGE;
}

/* Signals as they were for the program while the call is made: it may sleep. */
static long make_here(ucontext_t *uc, long nr, const long *a)
{
	uint64_t closed;
	long r;

	xm_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &uc->uc_sigmask, &closed, 8);
	r = xm_sig_fixed(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
	xm_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &closed, 0, 8);
	return r;
}

static long make_prepared(ucontext_t *uc, long nr, const long *a)
{
	struct xm_call own;
	unsigned tries = 0;
	bool again;
	long r;

	do {
		fill(&own, 1, nr, a);
		xm_call_prepare(&own);
		again = own.again;
		r = make_here(uc, nr, a);
		xm_call_end(&own);
	} while (r == -EFAULT && again && tries++ < TRIES_MOST);
	return r;
}

/* A call that libc makes for the runtime (whose own go by the gate, sys.h), on a thread whose stack is external: what it
 * passes is there, since it has just been written, or has left this moment. What structures name is not looked at: it may be
 * pages that the runtime has in hand. */
static long make_for_runtime(ucontext_t *uc, long nr, const long *a)
{
	unsigned pointers = xm_call_pointers(nr), tries = 0;
	struct xm_call own;
	long r = make_here(uc, nr, a);

	while (r == -EFAULT && tries++ < TRIES_MOST) {
		fill(&own, 1, nr, a);
		for (unsigned i = 0; i < 6; i++)
			if (pointers & 1u << i)
				xm_call_hold(&own, (void *)a[i], XM_PAGE_SIZE, true);
		r = make_here(uc, nr, a);
		xm_call_end(&own);
	}
	return r;
}

/* Not trapped by a filter of the program's own, which says so of the call that has been prepared, or of one that is not ours. */
static bool is_ours(long nr, const long *arg, uint64_t ip)
{
	unsigned pointers = xm_call_pointers(nr);
	bool external = false;

	for (unsigned i = 0; i < 6; i++)
		if (pointers & 1u << i)
			external |= (uint64_t)arg[i] - XM_EXT_BASE < XM_EXT_BYTES;
	return external && ip != XM_SIG_PAGE + 2;
}

void xm_sig_on_sys(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	const greg_t *g = uc->uc_mcontext.gregs;
	const long arg[6] = { g[REG_RDI], g[REG_RSI], g[REG_RDX], g[REG_R10], g[REG_R8], g[REG_R9] };
	struct xm_sig_thread *t = xm_sig_self;
	uint64_t sp = (uint64_t)g[REG_RSP];
	struct xm_call *c;
	int saved = errno;

	if (info->si_code != SYS_SECCOMP || !is_ours(info->si_syscall, arg, (uint64_t)g[REG_RIP])) {
		xm_sig_forward(sig, info, uc);
		return;
	}
	xm_add(&xm_sig_traps, 1);
	if (!xm_load(&xm_sig_on) || xm_load(&xm_rt.state) != 1) { /* the question at the start, whether there is a filter */
		uc->uc_mcontext.gregs[REG_RAX] = make_here(uc, info->si_syscall, arg);
		return;
	}
	xm_stat_add(&xm_rt, calls_trapped, 1);
	if (xm_in_runtime) {
		uc->uc_mcontext.gregs[REG_RAX] = make_for_runtime(uc, info->si_syscall, arg);
	} else if (!t || xm_sig_on_stack(t, sp) || !xm_sig_on_stack(t, (uint64_t)__builtin_frame_address(0)) ||
		   !(c = free_entry(t, sp))) {
		uc->uc_mcontext.gregs[REG_RAX] = make_prepared(uc, info->si_syscall, arg);
	} else {
		fill(c, sp, info->si_syscall, arg);
		redirect(uc, c);
	}
	errno = saved;
}
