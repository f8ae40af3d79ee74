/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault_time.c - where the time of faults goes.
 *
 *   touch ──delivery──► message read ── rest: bookkeeping ──► install ──return──► the thread goes on
 *          (canary.c)                    │          │         (fault.c)  (canary.c)
 *                                        └ wait     └ fetch
 *                                        (reclaim)  (link)
 *
 * What comes before the install call is timed for every fault: two clock reads. The call itself cannot be: it wakes the
 * faulting thread, which mostly takes the processor away from the handler (88 of 100 faults of a random reader on two
 * processors), so the clock behind it would show what the program did next. One call of XM_INSTALL_SAMPLE is made
 * without waking, timed, and the wake-up made after it. What a handler does after the install delays no thread but by
 * making the next message wait: that is delivery.
 *
 * A message that is handed to a fetcher (fetcher.c) was read when the handler read it: that it changed hands is in the rest.
 *
 * A fault that finds its page in another thread's hands costs its handler next to nothing; what it waits is the time
 * until that thread wakes it. A small table by tid remembers since when: an entry is written before WAITER is set in the
 * page's word and taken by whoever then wakes the page's sleepers. A thread waits for one page at a time. Where two
 * threads share an entry the later one is measured; the counter faults_wait has both.
 *
 * Handlers and whoever settles a page; no lock.
 */
#include "runtime/internal.h"

void xm_fault_account(struct xm_runtime *rt, const struct xm_worker *w, enum xm_fault_kind kind, uint64_t ns)
{
	struct xm_proc_stats *st = &rt->me->stats;
	const struct xm_fault_time *t = &w->spent;
	uint64_t parts = t->wait_ns + t->fetch_ns;

	if (kind == XM_FAULT_FETCH)
		xm_hist_record(&st->fetch_ns, ns);
	else if (kind == XM_FAULT_ZERO)
		xm_hist_record(&st->zero_ns, ns);
	else if (kind == XM_FAULT_WRITE)
		xm_hist_record(&st->write_ns, ns);
	if (t->wait_ns)
		xm_hist_record(&st->part_wait_ns, t->wait_ns);
	if (t->fetch_ns)
		xm_hist_record(&st->part_fetch_ns, t->fetch_ns);
	xm_hist_record(&st->part_rest_ns, ns - xm_min(parts, ns));
}

static struct xm_waiter *waiter_of(struct xm_runtime *rt, uint32_t tid)
{
	return &rt->waiter[tid % XM_WAITERS];
}

void xm_waiter_begin(struct xm_runtime *rt, uint32_t tid, uint64_t page)
{
	struct xm_waiter *e = waiter_of(rt, tid);

	xm_store(&e->page, 0);
	xm_store(&e->since_ns, xm_now_ns());
	xm_store(&e->page, page + 1);
}

/* Whether the entry was this page's; nobody's then. */
static bool take(struct xm_waiter *e, uint64_t page)
{
	uint64_t is = page + 1;

	return __atomic_compare_exchange_n(&e->page, &is, 0, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

void xm_waiter_cancel(struct xm_runtime *rt, uint32_t tid, uint64_t page)
{
	take(waiter_of(rt, tid), page);
}

void xm_waiters_end(struct xm_runtime *rt, uint64_t page)
{
	uint64_t now = 0;

	for (struct xm_waiter *e = rt->waiter; e < rt->waiter + XM_WAITERS; e++) {
		uint64_t since;

		if (xm_load(&e->page) != page + 1)
			continue;
		since = xm_load(&e->since_ns); /* after the page: begin() writes it before */
		if (!take(e, page))
			continue;
		now = now ? now : xm_now_ns();
		xm_hist_record(&rt->me->stats.part_wait_ns, now - xm_min(since, now));
	}
}
