/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_sigthread.c - what each thread needs in fault mode signal: a stack for handlers of SIGBUS and SIGSYS, always
 * local, whatever the program does with its own stacks, and room for what is known of its system calls in progress.
 *
 *   [guard page][stack, grows down ◄──────────────][struct xm_sig_thread]
 *
 * Made when a thread starts (the main thread: when the object is loaded), kept in a list when it ends. The kernel knows one
 * alternate stack a thread, and it is this one; sigaltstack() remembers what the program wants and says so again. Handlers
 * that the program wants on its alternate stack run on ours, which is as large as most.
 */
#include "runtime/preload_signal.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/preload.h"

#define AREA_BYTES (256u << 10)
#define TOP_BYTES (uint32_t)xm_round_up(sizeof(struct xm_sig_thread), XM_PAGE_SIZE)

__thread struct xm_sig_thread *xm_sig_self __attribute__((tls_model("initial-exec")));

static struct xm_sig_thread *unused; /* lock */
static bool lock;
static pthread_key_t key; /* its destructor ends a thread's part */
static bool have_key;

static void take_lock(void)
{
	while (__atomic_test_and_set(&lock, __ATOMIC_ACQUIRE))
		xm_sys0(SYS_sched_yield);
}

static void give_lock(void)
{
	__atomic_clear(&lock, __ATOMIC_RELEASE);
}

static struct xm_sig_thread *make(void)
{
	char *area = xm_sys_mmap(NULL, AREA_BYTES, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
	struct xm_sig_thread *t;

	if (!area)
		return NULL;
	xm_sys_mprotect(area, XM_PAGE_SIZE, PROT_NONE);
	t = (struct xm_sig_thread *)(void *)(area + AREA_BYTES - TOP_BYTES);
	t->stack = area + XM_PAGE_SIZE;
	t->stack_bytes = AREA_BYTES - TOP_BYTES - XM_PAGE_SIZE;
	return t;
}

static struct xm_sig_thread *get(void)
{
	struct xm_sig_thread *t;

	take_lock();
	t = unused;
	if (t)
		unused = t->next;
	give_lock();
	return t ? t : make();
}

/* Signals that come from here on find no alternate stack, and the thread's own. */
static void leave(void *thread)
{
	struct xm_sig_thread *t = thread;
	stack_t none = { .ss_flags = SS_DISABLE };
	uint64_t all = ~0ull, old;

	xm_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, &old, 8);
	for (unsigned i = 0; i < XM_SIG_CALLS; i++)
		if (t->call[i].sp)
			xm_call_end(&t->call[i]);
	xm_sys2(SYS_sigaltstack, &none, 0);
	xm_sig_self = NULL;
	xm_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &old, 0, 8);
	take_lock();
	t->next = unused;
	unused = t;
	give_lock();
}

void xm_sig_thread_enter(void)
{
	struct xm_sig_thread *t;
	stack_t mine;

	if (!have_key) /* the main thread, which is alone */
		have_key = pthread_key_create(&key, leave) == 0;
	if (xm_sig_self || !have_key)
		return;
	t = get();
	if (!t)
		return;
	mine = (stack_t){ .ss_sp = t->stack, .ss_size = t->stack_bytes };
	memset(t->call, 0, sizeof(t->call));
	t->program = (stack_t){ .ss_flags = SS_DISABLE };
	t->tid = (uint32_t)xm_sys_gettid();
	t->tries = 0;
	t->refused = 0;
	if (xm_sys2(SYS_sigaltstack, &mine, 0) < 0 || pthread_setspecific(key, t)) {
		leave(t);
		return;
	}
	xm_sig_self = t;
}

void xm_sig_thread_forked(void)
{
	if (xm_sig_self)
		xm_sig_self->tid = (uint32_t)xm_sys_gettid();
	give_lock();
}

/* ---- threads of the program ------------------------------------------------------------------------------------------------ */

struct start {
	void *(*fn)(void *);
	void *arg;
	uint64_t blocked; /* xm_sig_virtual of who made it: masks are inherited */
};

static void *thread_main(void *arg)
{
	struct start start = *(struct start *)arg;
	uint64_t ours = XM_SIG_OURS;

	xm_sig_thread_unwrap(arg);
	xm_sig_virtual = start.blocked;
	xm_sys4(SYS_rt_sigprocmask, SIG_UNBLOCK, &ours, 0, 8); /* pthread_attr_setsigmask_np */
	xm_sig_thread_enter();
	return start.fn(start.arg);
}

void xm_sig_thread_wrap(void *(**fn)(void *), void **arg)
{
	struct start *start = xm_je_mallocx(sizeof(*start), XM_JE_LOCAL);

	if (!start)
		return; /* it runs without */
	*start = (struct start){ *fn, *arg, xm_sig_virtual };
	*fn = thread_main;
	*arg = start;
}

void xm_sig_thread_unwrap(void *arg)
{
	xm_je_dallocx(arg, XM_JE_TCACHE_NONE);
}

XM_PUBLIC int sigaltstack(const stack_t *ss, stack_t *old)
{
	struct xm_sig_thread *t = xm_sig_self;
	bool on = t && (uint64_t)((char *)__builtin_frame_address(0) - (char *)t->program.ss_sp) < t->program.ss_size;
	stack_t was;

	if (!t || xm_in_runtime)
		return (int)xm_pre_result(xm_sys2(SYS_sigaltstack, ss, old));
	was = t->program;
	if (on && !(was.ss_flags & SS_DISABLE))
		was.ss_flags |= SS_ONSTACK;
	if (ss) {
		if (ss->ss_flags & ~(SS_DISABLE | SS_ONSTACK | (int)(1u << 31))) {
			errno = EINVAL;
			return -1;
		}
		if (!(ss->ss_flags & SS_DISABLE) && ss->ss_size < (size_t)MINSIGSTKSZ) {
			errno = ENOMEM;
			return -1;
		}
		if (was.ss_flags & SS_ONSTACK) {
			errno = EPERM;
			return -1;
		}
		t->program = ss->ss_flags & SS_DISABLE ? (stack_t){ .ss_flags = SS_DISABLE } : *ss;
	}
	if (old)
		*old = was;
	return 0;
}
