/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_thread.c - memory that the kernel writes by itself when a thread exits stays resident: thread stacks that
 * the program supplies (the thread descriptor with clear_child_tid lies at their top) and robust mutexes (the
 * list is walked by the kernel). A write to an absent page of those would be lost.
 *
 * A stack is pinned from pthread_create until the thread was joined; one of a detached thread stays pinned until its
 * memory is unmapped, since nobody can tell when the kernel has written. stacks_lock (a spin lock: held for a few
 * instructions) guards the table. A full table only means that stacks stay pinned.
 */
#include "runtime/preload.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

#define STACKS_MAX 1024
/* bit of pthread_mutex_t.__data.__kind; part of glibc's ABI through the static initialisers */
#define KIND_ROBUST 16

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

XM_PUBLIC int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	__typeof__(&pthread_create) real = XM_NEXT(pthread_create);
	void *addr = NULL;
	size_t bytes = 0;
	int r;

	if (!attr || !xm_pre_active() || pthread_attr_getstack(attr, &addr, &bytes) || !addr ||
	    !xm_ext_overlaps(addr, bytes) || xm_map_pin(addr, bytes) < 0)
		return real(thread, attr, fn, arg);
	/* glibc stores *thread before the thread runs, which the thread may rely on */
	r = real(thread, attr, fn, arg);
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

XM_PUBLIC int pthread_clockjoin_np(pthread_t thread, void **value, clockid_t clock, const struct timespec *until)
{
	int r = XM_NEXT(pthread_clockjoin_np)(thread, value, clock, until);

	if (!r)
		forget(thread);
	return r;
}

XM_PUBLIC int pthread_mutex_init(pthread_mutex_t *m, const pthread_mutexattr_t *attr)
{
	int robust = PTHREAD_MUTEX_STALLED;
	int r = XM_NEXT(pthread_mutex_init)(m, attr);

	if (!r && attr && xm_pre_active() && xm_ext_contains(m) && !pthread_mutexattr_getrobust(attr, &robust) &&
	    robust == PTHREAD_MUTEX_ROBUST)
		xm_map_pin(m, sizeof(*m));
	return r;
}

XM_PUBLIC int pthread_mutex_destroy(pthread_mutex_t *m)
{
	bool pinned = xm_pre_active() && xm_ext_contains(m) && (m->__data.__kind & KIND_ROBUST);
	int r = XM_NEXT(pthread_mutex_destroy)(m);

	if (!r && pinned)
		xm_map_unpin(m, sizeof(*m));
	return r;
}
