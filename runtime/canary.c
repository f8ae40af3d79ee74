/* SPDX-License-Identifier: Apache-2.0 */
/*
 * canary.c - how long faults are on their way: from the touch until a handler has the message (delivery), and from the
 * handler's answer until the thread runs again (return). No handler can see either, so they are sampled: a thread touches
 * a page of its own, as the program's threads touch theirs, and the same handlers answer it.
 *
 *   canary   drop page, touched = now, read a byte ......................................... back = now
 *   handler                             message: read_ns = now, UFFDIO_ZEROPAGE, done_ns = now, UFFDIO_WAKE
 *                                       └ delivery = read_ns - touched       return = back - done_ns ┘
 *
 * Ten times a second while there are faults, once a second looks whether there are any; a process without faults has no
 * such thread. What is mapped is the kernel's page of zeros, so no frame is charged.
 *
 * It is a thread of its own since the touch waits for a handler, which may be waiting itself, for an appliance or for
 * room: the reclaim thread must not. It holds no lock, touches no external memory and is outside the gate, so nobody
 * waits for it. So is the reclaim thread when it starts it: a new thread takes memory from the program's allocator, which
 * a fork may hold while it waits for the gate. A sample that a fork may have delayed does not count. Its end does not
 * need handlers: the page's registration is taken back, which wakes it.
 */
#include "runtime/internal.h"

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "runtime/uffd.h"

#define BUSY_NS 100000000l
#define IDLE_S 1

enum { NONE = 0, RUNS, REFUSED };

static uint64_t faults_of(struct xm_runtime *rt)
{
	return xm_load_relaxed(&rt->me->stats.part_rest_ns.count);
}

bool xm_canary_register(struct xm_runtime *rt)
{
	if (!rt->canary.page)
		rt->canary.page = xm_local_alloc(XM_PAGE_SIZE);
	if (rt->canary.page &&
	    xm_uffd_register(rt->uffd, (uint64_t)(uintptr_t)rt->canary.page, XM_PAGE_SIZE, false) >= 0)
		return true;
	xm_store(&rt->canary.state, REFUSED);
	return false;
}

void xm_canary_unregister(struct xm_runtime *rt)
{
	uint64_t page = (uint64_t)(uintptr_t)rt->canary.page;

	if (!page)
		return;
	xm_uffd_unregister(rt->uffd, page, XM_PAGE_SIZE);
	/* The kernel wakes before it takes the registration: a fault that is under way by the mapping's own lock (Linux 6.4)
	 * goes to sleep in between. By now it sleeps. */
	xm_uffd_wake(rt->uffd, page, XM_PAGE_SIZE);
}

void xm_canary_nudge(struct xm_runtime *rt)
{
	long page = (long)rt->canary.page;

	xm_sys3(SYS_munlock, page, XM_PAGE_SIZE, 0); /* mlockall: nothing of it would be dropped */
	xm_sys_madvise((void *)page, XM_PAGE_SIZE, MADV_DONTNEED);
	(void)*(volatile char *)page;
}

bool xm_canary_fault(struct xm_runtime *rt, uint64_t addr, uint64_t now_ns)
{
	uint64_t page = (uint64_t)(uintptr_t)rt->canary.page;

	if (!page || xm_round_down(addr, XM_PAGE_SIZE) != page)
		return false;
	xm_uffd_zero_asleep(rt->uffd, page, XM_PAGE_SIZE);
	xm_store(&rt->canary.done_ns, xm_now_ns());
	xm_store(&rt->canary.read_ns, now_ns);
	xm_uffd_wake(rt->uffd, page, XM_PAGE_SIZE);
	return true;
}

bool xm_canary_look(struct xm_runtime *rt)
{
	struct xm_canary *c = &rt->canary;
	struct xm_proc_stats *st = &rt->me->stats;
	uint64_t forks = xm_load_relaxed(&st->forks), touched, back, read, done;

	if (__atomic_load_n(&rt->gate_closed, __ATOMIC_SEQ_CST))
		return false;
	xm_sys_madvise(c->page, XM_PAGE_SIZE, MADV_DONTNEED);
	xm_store(&c->read_ns, 0);
	touched = xm_now_ns();
	(void)*(volatile char *)c->page;
	back = xm_now_ns();
	read = xm_load(&c->read_ns);
	done = xm_load(&c->done_ns);
	/* 0: the page was there (mlockall), or is not registered any more */
	if (!read || forks != xm_load_relaxed(&st->forks))
		return false;
	xm_hist_record(&st->part_delivery_ns, read - xm_min(touched, read));
	xm_hist_record(&st->part_return_ns, back - xm_min(done, back));
	return true;
}

static void *canary_main(void *arg)
{
	struct xm_runtime *rt = arg;
	struct xm_canary *c = &rt->canary;
	uint64_t seen = 0;

	xm_in_runtime = 1;
	xm_sys6(SYS_prctl, PR_SET_NAME, (long)"xmem-canary", 0, 0, 0, 0);
	for (;;) {
		struct timespec idle = { IDLE_S, 0 }, busy = { 0, BUSY_NS };
		uint32_t seq = xm_load(&c->wake);
		uint64_t faults = faults_of(rt);

		if (xm_load(&rt->stopping))
			return NULL;
		if (faults != seen)
			xm_canary_look(rt);
		xm_sys6(SYS_futex, (long)&c->wake, FUTEX_WAIT_PRIVATE, seq,
			(long)(faults != seen ? &busy : &idle), 0, 0);
		seen = faults;
	}
}

void xm_canary_tick(struct xm_runtime *rt)
{
	struct xm_canary *c = &rt->canary;
	pthread_attr_t attr;

	if (xm_load(&c->state) != NONE || !c->page || !faults_of(rt))
		return;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, XM_THREAD_STACK_BYTES);
	xm_store(&c->state, pthread_create(&c->thread, &attr, canary_main, rt) ? REFUSED : RUNS);
	pthread_attr_destroy(&attr);
}

void xm_canary_stop(struct xm_runtime *rt)
{
	struct xm_canary *c = &rt->canary;

	xm_canary_unregister(rt);
	if (xm_load(&c->state) != RUNS)
		return;
	xm_add(&c->wake, 1);
	xm_sys6(SYS_futex, (long)&c->wake, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
	pthread_join(c->thread, NULL);
	xm_store(&c->state, NONE);
}
