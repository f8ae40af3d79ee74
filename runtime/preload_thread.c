/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_thread.c - memory that the kernel writes by itself when a thread exits stays resident:
 * thread stacks that the program supplies (the thread descriptor with clear_child_tid lies at their
 * top) and robust mutexes (the list is walked by the kernel). A write to an absent page of those
 * would be lost.
 *
 * A stack is pinned from pthread_create until the thread was joined; one of a detached thread stays
 * pinned until its memory is unmapped, since nobody can tell when the kernel has written.
 * stacks_lock (a spin lock: held for a few instructions) guards the table. A full table only means
 * that stacks stay pinned.
 *
 * A program whose main thread calls pthread_exit ends with its last thread. libc counts the
 * runtime's threads among them, so that end is watched for here, by housekeeping, once the main
 * thread has gone that way.
 */
#include "runtime/preload.h"
#include "runtime/preload_signal.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sys.h"

#define STACKS_MAX 1024
/* bit of pthread_mutex_t.__data.__kind; part of glibc's ABI through the static initialisers */
#define KIND_PINNED (16 | 32) /* robust, priority inheriting */

struct stack {
	pthread_t thread;
	void *addr; /* NULL: free entry */
	size_t bytes;
};

static struct stack stacks[STACKS_MAX];
static unsigned stacks_high;
static bool stacks_lock;

static void lock_stacks(void)
{
	while (__atomic_test_and_set(&stacks_lock, __ATOMIC_ACQUIRE))
		xm_cpu_relax();
}

static void unlock_stacks(void)
{
	__atomic_clear(&stacks_lock, __ATOMIC_RELEASE);
}

static void remember(pthread_t thread, void *addr, size_t bytes)
{
	struct stack old = { 0 };

	lock_stacks();
	for (unsigned i = 0; i < STACKS_MAX; i++) {
		struct stack *s = &stacks[i];

		/* the same descriptor again: an earlier detached thread on this stack */
		if (s->addr && s->thread != thread)
			continue;
		old = *s;
		*s = (struct stack){ thread, addr, bytes };
		stacks_high = xm_max(stacks_high, i + 1);
		break;
	}
	unlock_stacks();
	if (old.addr)
		xm_map_unpin(old.addr, old.bytes);
}

static void forget(pthread_t thread)
{
	struct stack old = { 0 };

	if (!xm_load_relaxed(&stacks_high))
		return;
	lock_stacks();
	for (unsigned i = 0; i < stacks_high; i++) {
		if (!stacks[i].addr || stacks[i].thread != thread)
			continue;
		old = stacks[i];
		stacks[i].addr = NULL;
		break;
	}
	unlock_stacks();
	if (old.addr)
		xm_map_unpin(old.addr, old.bytes);
}

/* ---- the end of the last thread ------------------------------------------------------------------------- */

#define RUNTIME_THREADS_MAX 64

/* A thread of the runtime: tid 0 before it runs and after it ended. */
struct runtime_thread {
	uint32_t used; /* atomic */
	int tid;       /* atomic */
	void *(*fn)(void *);
	void *arg;
};

static struct runtime_thread runtime_threads[RUNTIME_THREADS_MAX];
static uint32_t main_has_gone; /* atomic */

static void *runtime_thread_main(void *arg)
{
	struct runtime_thread *t = arg;
	void *value;

	xm_store(&t->tid, (int)xm_sys0(SYS_gettid));
	value = t->fn(t->arg);
	xm_store(&t->tid, 0);
	xm_store(&t->used, 0);
	return value;
}

static int create_for_runtime(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	__typeof__(&pthread_create) real = XM_NEXT(pthread_create);

	for (int i = 0; i < RUNTIME_THREADS_MAX; i++) {
		struct runtime_thread *t = &runtime_threads[i];
		int r;

		if (__atomic_exchange_n(&t->used, 1, __ATOMIC_ACQ_REL))
			continue;
		t->fn = fn;
		t->arg = arg;
		r = real(thread, attr, runtime_thread_main, t);
		if (r)
			xm_store(&t->used, 0);
		return r;
	}
	return real(thread, attr, fn,
		    arg); /* not known to be the runtime's: such a process ends with its program */
}

void xm_pre_threads_after_fork(void)
{
	memset(runtime_threads, 0, sizeof(runtime_threads));
	xm_store(&main_has_gone, 0);
}

static bool is_runtime_thread(int tid)
{
	for (int i = 0; i < RUNTIME_THREADS_MAX; i++)
		if (xm_load(&runtime_threads[i].tid) == tid)
			return true;
	return false;
}

/* The main thread stays in the list, as a zombie. */
static bool only_runtime_is_left(void)
{
	const struct dirent *entry;
	bool alone;
	DIR *dir;

	xm_fd_borrow();
	dir = opendir("/proc/self/task");
	alone = dir != NULL;
	while (alone && (entry = readdir(dir))) {
		int tid = atoi(entry->d_name);

		alone = tid == 0 || tid == xm_pre_pid || is_runtime_thread(tid);
	}
	if (dir)
		closedir(dir);
	xm_fd_return();
	return alone;
}

/* On a thread of the program's kind, so that its atexit handlers meet no special case. */
static void *end_process(void *arg)
{
	exit(0);
}

void xm_pre_threads_check(void)
{
	pthread_t thread;
	int nested = xm_in_runtime;

	if (!xm_load(&main_has_gone) || !only_runtime_is_left())
		return;
	xm_store(&main_has_gone, 0);
	xm_in_runtime = 0;
	XM_NEXT(pthread_create)(&thread, NULL, end_process, NULL);
	xm_in_runtime = nested;
}

XM_PUBLIC void pthread_exit(void *value)
{
	if (xm_pre_state() == XM_PRE_RUNNING && (int)xm_sys0(SYS_gettid) == xm_pre_pid)
		xm_store(&main_has_gone, 1);
	XM_NEXT(pthread_exit)(value);
	__builtin_unreachable();
}

/* ---- creation and joining ------------------------------------------------------------------------------- */

/* In fault mode signal: with a stack for handlers. libc blocks all signals while it looks at attr, which may be external. */
static int create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	__typeof__(&pthread_create) real = XM_NEXT(pthread_create);
	static const long none[6];
	void *(*own)(void *) = fn;
	struct xm_call room, *held = NULL;
	void *own_arg = arg;
	pthread_attr_t copy;
	int r;

	if (!xm_sig_wanted)
		return real(thread, attr, fn, arg);
	if (attr)
		copy = *attr; /* what it points to is libc's, and stays the original's */
	if (xm_sig_active() && xm_ext_contains(thread)) {
		held = xm_call_begin(&room, SYS_getpid, none);
		xm_call_hold(held, thread, sizeof(*thread), true);
	}
	xm_sig_thread_wrap(&own, &own_arg);
	r = real(thread, attr ? &copy : NULL, own, own_arg);
	if (r && own_arg != arg)
		xm_sig_thread_unwrap(own_arg);
	if (held)
		xm_call_end(held);
	return r;
}

XM_PUBLIC int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	void *addr = NULL;
	size_t bytes = 0;
	int r;

	if (xm_in_runtime)
		return create_for_runtime(thread, attr, fn, arg);
	if (!attr || !xm_pre_active() || pthread_attr_getstack(attr, &addr, &bytes) || !addr ||
	    !xm_ext_overlaps(addr, bytes))
		return create(thread, attr, fn, arg);
	if (xm_map_pin(addr, bytes) < 0) {
		xm_map_unpin(addr, bytes);
		return EAGAIN; /* a thread whose end might never be seen is worse than none */
	}
	/* glibc stores *thread before the thread runs, which the thread may rely on */
	r = create(thread, attr, fn, arg);
	if (r)
		xm_map_unpin(addr, bytes);
	else
		remember(*thread, addr, bytes);
	return r;
}

XM_PUBLIC int pthread_join(pthread_t thread, void **value)
{
	int r = XM_NEXT(pthread_join)(thread, value);

	if (!r)
		forget(thread);
	return r;
}

XM_PUBLIC int pthread_tryjoin_np(pthread_t thread, void **value)
{
	int r = XM_NEXT(pthread_tryjoin_np)(thread, value);

	if (!r)
		forget(thread);
	return r;
}

XM_PUBLIC int pthread_timedjoin_np(pthread_t thread, void **value, const struct timespec *until)
{
	int r = XM_NEXT(pthread_timedjoin_np)(thread, value, until);

	if (!r)
		forget(thread);
	return r;
}

XM_PUBLIC int pthread_clockjoin_np(pthread_t thread, void **value, clockid_t clock,
				   const struct timespec *until)
{
	int r = XM_NEXT(pthread_clockjoin_np)(thread, value, clock, until);

	if (!r)
		forget(thread);
	return r;
}

XM_PUBLIC int pthread_mutex_init(pthread_mutex_t *m, const pthread_mutexattr_t *attr)
{
	int robust = PTHREAD_MUTEX_STALLED, protocol = PTHREAD_PRIO_NONE;
	int r = XM_NEXT(pthread_mutex_init)(m, attr);

	if (r || !attr || !xm_pre_active() || !xm_ext_contains(m))
		return r;
	pthread_mutexattr_getrobust(attr, &robust);
	pthread_mutexattr_getprotocol(attr, &protocol);
	/* the kernel changes the word of a priority-inheriting one itself, and does not wait for an absent page */
	if (robust == PTHREAD_MUTEX_ROBUST || protocol == PTHREAD_PRIO_INHERIT)
		xm_map_pin(m, sizeof(*m));
	return r;
}

XM_PUBLIC int pthread_mutex_destroy(pthread_mutex_t *m)
{
	bool pinned = xm_pre_active() && xm_ext_contains(m) && (m->__data.__kind & KIND_PINNED);
	int r = XM_NEXT(pthread_mutex_destroy)(m);

	if (!r && pinned)
		xm_map_unpin(m, sizeof(*m));
	return r;
}
