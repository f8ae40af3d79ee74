/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_fork.c - the fork handlers of the allocator and the runtime, and the ways to make a
 * process that run no handlers.
 *
 *   before   program's handlers -> start lock -> housekeeping, allocator locks -> xm_fork_prepare (gate)
 *   parent   xm_fork_parent -> allocator -> start lock -> program's handlers
 *   child    xm_fork_child  -> allocator -> start lock -> xm_fork_child_threads -> program's handlers
 *
 * For that order ours must be the first handlers that are registered, also before those of
 * libraries whose constructors run earlier: hence __register_atfork is interposed. fork, daemon,
 * forkpty run them; _Fork and a raw clone without CLONE_VM do not, and get the same steps by hand.
 * vfork, posix_spawn, system and popen share the parent's memory, whose runtime serves them.
 *
 * A child that shares its descriptors but not its memory (CLONE_FILES without CLONE_VM) gets a copy
 * of them instead. Where the forking thread's stack is external (coroutines), the pages around its
 * top are pinned across the fork: the child uses them before its mappings are registered.
 */
#include "runtime/preload.h"
#include "runtime/preload_signal.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <unistd.h>

#include "sys.h"

#define STACK_BELOW (32u << 10)
#define STACK_ABOVE (32u << 10)

typedef void (*xm_fork_handler)(void);
int __register_atfork(xm_fork_handler prepare, xm_fork_handler parent, xm_fork_handler child, void *dso);
XM_PUBLIC int __register_atfork(xm_fork_handler prepare, xm_fork_handler parent, xm_fork_handler child,
				void *dso);

extern void *__dso_handle __attribute__((visibility("hidden")));

/* Set in prepare, read in parent or child; by the holder of the start lock. */
static bool fork_running;
static int fork_errno;
static uint32_t fork_turn;
static char *stack_lo;
static size_t stack_bytes;

static void pin_stack(char *top)
{
	char *lo = (char *)xm_round_down((uint64_t)(uintptr_t)top - STACK_BELOW, XM_PAGE_SIZE);
	char *hi = (char *)xm_round_up((uint64_t)(uintptr_t)top + STACK_ABOVE, XM_PAGE_SIZE);

	stack_lo = NULL;
	if (!fork_running || !xm_ext_contains(top))
		return;
	lo = (char *)xm_max((uint64_t)(uintptr_t)lo, xm_ext_lo);
	hi = (char *)xm_min((uint64_t)(uintptr_t)hi, xm_ext_hi);
	/* the stack may end within: then what is above the top's own page is not needed either */
	if (xm_map_pin(lo, (size_t)(hi - lo)) < 0) {
		xm_map_unpin(lo, (size_t)(hi - lo));
		lo = (char *)xm_round_down((uint64_t)(uintptr_t)top, XM_PAGE_SIZE);
		hi = lo + XM_PAGE_SIZE;
		if (xm_map_pin(lo, XM_PAGE_SIZE) < 0)
			return;
	}
	stack_lo = lo;
	stack_bytes = (size_t)(hi - lo);
}

static void unpin_stack(void)
{
	if (stack_lo)
		xm_map_unpin(stack_lo, stack_bytes);
	stack_lo = NULL;
}

static void prepare_on(char *top)
{
	int saved = errno;

	xm_in_runtime++;
	xm_pre_start_lock();
	fork_errno = saved;
	fork_running = xm_pre_state() == XM_PRE_RUNNING;
	pin_stack(top);
	/* a thread inside the gate may want memory: rdma-core's libraries do, and open files */
	for (uint64_t wait_ns = XM_FORK_WAIT_NS;; wait_ns = xm_fork_rest(wait_ns)) {
		xm_arena_prefork();
		if (!fork_running || xm_fork_prepare(wait_ns))
			break;
		xm_arena_postfork_parent();
	}
	/* The child shall not have what somebody else holds for moments. Last: who borrows waits for this one, so nothing that
	 * takes such a number may follow. */
	fork_turn = xm_pre_family[0] ? xm_fd_choose(xm_pre_in_vfork_child) : 0;
	errno = 0; /* what the call sets says whether there is a child: xm_fork_parent looks */
}

void xm_pre_fork_prepare(void)
{
	prepare_on(__builtin_frame_address(0));
}

void xm_pre_fork_parent(void)
{
	int failed = errno, saved = fork_errno;

	xm_fd_chosen(fork_turn);
	errno = failed;
	if (fork_running)
		xm_fork_parent();
	xm_arena_postfork_parent();
	unpin_stack();
	xm_pre_start_unlock();
	xm_in_runtime--;
	errno = failed ? failed : saved;
}

void xm_pre_fork_child(void)
{
	int saved = fork_errno;

	xm_pre_pid = xm_sys_getpid();
	xm_fd_gate_forked();
	xm_pre_threads_after_fork();
	xm_sig_thread_forked();
	if (fork_running)
		xm_fork_child();
	xm_arena_postfork_child();
	if (fork_running)
		xm_fork_child_threads();
	unpin_stack();
	xm_pre_start_unlock();
	xm_in_runtime--;
	errno = saved;
}

void xm_pre_register_atfork(void)
{
	static uint32_t registered;

	if (__atomic_exchange_n(&registered, 1, __ATOMIC_ACQ_REL))
		return;
	XM_NEXT(__register_atfork)(xm_pre_fork_prepare, xm_pre_fork_parent, xm_pre_fork_child, &__dso_handle);
}

int __register_atfork(xm_fork_handler prepare, xm_fork_handler parent, xm_fork_handler child, void *dso)
{
	xm_pre_register_atfork();
	return XM_NEXT(__register_atfork)(prepare, parent, child, dso);
}

/* Programs built before glibc 2.34 import this; newer ones have it inside, over
 * __register_atfork. */
XM_PUBLIC int pthread_atfork(xm_fork_handler prepare, xm_fork_handler parent, xm_fork_handler child)
{
	return __register_atfork(prepare, parent, child, NULL);
}

XM_PUBLIC pid_t _Fork(void)
{
	__typeof__(&_Fork) real = XM_NEXT(_Fork);
	pid_t pid;

	if (xm_in_runtime)
		return real();
	xm_pre_fork_prepare();
	pid = real();
	if (pid)
		xm_pre_fork_parent();
	else
		xm_pre_fork_child();
	return pid;
}

struct clone_start {
	int (*fn)(void *);
	void *arg;
};

/* Runs in the child, on its copy of the parent's memory: the parent's frame with *start is still
 * there. */
static int clone_child(void *arg)
{
	struct clone_start start = *(struct clone_start *)arg;

	xm_pre_fork_child();
	/* returning would end this thread only, and the runtime's would keep the process alive */
	_exit(start.fn(start.arg));
}

XM_PUBLIC int clone(int (*fn)(void *), void *stack, int flags, void *arg, ...)
{
	__typeof__(&clone) real = XM_NEXT(clone);
	struct clone_start start = { fn, arg };
	pid_t *parent_tid, *child_tid;
	void *tls;
	va_list ap;
	int r;

	va_start(ap, arg);
	parent_tid = va_arg(ap, pid_t *);
	tls = va_arg(ap, void *);
	child_tid = va_arg(ap, pid_t *);
	va_end(ap);

	if ((flags & CLONE_CHILD_CLEARTID) && xm_pre_active() && xm_ext_contains(child_tid))
		xm_map_pin(child_tid, sizeof(*child_tid));
	if ((flags & CLONE_VM) || xm_in_runtime || !fn || !stack)
		return real(fn, stack, flags, arg, parent_tid, tls, child_tid);
	prepare_on(stack);
	/* a shared descriptor table would be the parent's own, in which the child's runtime
	 * closes and opens */
	if (fork_running)
		flags &= ~CLONE_FILES;
	r = real(clone_child, stack, flags, &start, parent_tid, tls, child_tid);
	xm_pre_fork_parent();
	return r;
}
