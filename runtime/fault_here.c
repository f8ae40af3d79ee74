/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault_here.c - fault mode signal: the thread that met an absent page resolves it itself, in its handler of SIGBUS, by the
 * resolver that handlers of mode thread use (fault.c). No message, no wake-up, no other processor.
 *
 *   fault ──SIGBUS──► worker from the pool ──► xm_fault_answer ──► return: the access is made again
 *                                                   │
 *                                                   └ page BUSY: sleep on its word until the owner settles it (futex)
 *
 * System calls do not wait for pages in this mode: the kernel says EFAULT. So who makes one first holds the pages that it
 * will access. A hold is taken before the page is looked at, and no page that is held is chosen by eviction, nor
 * write-protected with others that are: what eviction protects is BUSY meanwhile (evict.c: gaps), and who holds a page waits
 * for that.
 *
 * Runs on program threads, in signal handlers: raw system calls, no allocation, no lock but those of the resolver. The
 * gate (fork.c) is entered for each piece of work, and is never held while another's page is waited for.
 */
#include "runtime/internal.h"

#include <linux/futex.h>

#define SPINS 200		 /* a fetch by shared memory takes about as long: some microseconds */
#define WORKER_WAIT_NS 50000ull
#define SLEEP_NS 100000000l	 /* an end to a sleep that nobody ends: the word is looked at again */
#define HOLDS_MOST (XM_PG_HOLD_MASK - XM_PG_HOLD_ONE) /* a full count is never counted down: not for a call */

static uint32_t *low_half(xm_pte *p)
{
	return (uint32_t *)p; /* little endian: state, flags, holds */
}

void xm_fault_wake(struct xm_runtime *rt, uint64_t page)
{
	xm_sys6(SYS_futex, (long)low_half(&rt->pt[page]), FUTEX_WAKE_PRIVATE, INT_MAX, 0, 0, 0);
}

/* Until the page is not BUSY any more, or for a while. */
static void wait_for_owner(struct xm_runtime *rt, uint64_t page)
{
	struct timespec ts = { 0, SLEEP_NS };
	xm_pte *p = &rt->pt[page];
	xm_pte seen = xm_pg_load(p);

	for (int i = 0; i < SPINS && xm_pg_busy(seen); i++) {
		xm_cpu_relax();
		seen = xm_pg_load(p);
	}
	while (xm_pg_busy(seen) && !(seen & XM_PG_WAITER))
		if (xm_pg_cas(p, &seen, seen | XM_PG_WAITER))
			seen |= XM_PG_WAITER;
	if (xm_pg_busy(seen))
		xm_sys6(SYS_futex, (long)low_half(p), FUTEX_WAIT_PRIVATE, (long)(uint32_t)seen, (long)&ts, 0, 0);
}

/* Inside the gate. More threads may fault than there are workers: those wait outside. */
static struct xm_worker *enter(struct xm_runtime *rt)
{
	struct xm_worker *w;

	for (;;) {
		xm_gate_enter(rt);
		w = xm_worker_get_for_fault(rt);
		if (w)
			return w;
		xm_gate_leave(rt);
		xm_sys_sleep(WORKER_WAIT_NS);
	}
}

int xm_fault_here(struct xm_runtime *rt, uint64_t page, uint32_t tid, bool write, bool wp)
{
	struct xm_message m = { .page = page, .read_ns = xm_now_ns(), .tid = tid, .write = write, .wp = wp };
	enum xm_fault_kind kind;
	struct xm_worker *w;
	int saved = errno;
	int64_t rc;

	xm_in_runtime++;
	w = enter(rt);
	kind = xm_fault_answer(rt, w, &m);
	xm_stat_add(rt, faults_by_signal, 1);
	rc = w->spent.rc;
	xm_worker_put(w);
	xm_gate_leave(rt);
	if (kind == XM_FAULT_WAIT)
		wait_for_owner(rt, page);
	xm_in_runtime--;
	errno = saved;
	return kind == XM_FAULT_BAD || rc == -ENOENT || rc == -EINVAL || rc == -ESRCH ? -EFAULT : 0;
}

/* Counts one hold more, whatever the page's state; false: there are as many as can be counted. */
static bool hold(xm_pte *p)
{
	xm_pte seen = xm_pg_load(p);

	while ((seen & XM_PG_HOLD_MASK) < HOLDS_MOST)
		if (__atomic_compare_exchange_n(p, &seen, seen + XM_PG_HOLD_ONE, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
			return true;
	return false;
}

static bool is_good(struct xm_runtime *rt, uint64_t page, bool write, bool *wp)
{
	xm_pte seen = xm_pg_load(&rt->pt[page]);
	bool here = xm_pg_state(seen) == XM_PG_RESIDENT;

	*wp = here && write && !(seen & XM_PG_DIRTY) && (rt->features & XM_FEAT_WP);
	return here && !*wp;
}

/* No handler of the program's may come while a fault is resolved: it might touch a page that its own thread has in hand. */
int xm_fault_bring(struct xm_runtime *rt, uint64_t page, bool write, uint32_t tid)
{
	uint64_t closed = xm_all_signals(rt), old;
	int rc = 0;
	bool wp;

	if (is_good(rt, page, write, &wp))
		return 0;
	xm_sys4(SYS_rt_sigprocmask, SIG_BLOCK, &closed, &old, 8);
	while (rc == 0 && !is_good(rt, page, write, &wp))
		rc = xm_fault_here(rt, page, tid, write, wp);
	xm_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &old, 0, 8);
	return rc;
}

uint64_t xm_fault_hold(struct xm_runtime *rt, uint64_t addr, uint64_t len, bool write, uint32_t tid)
{
	uint64_t first = (addr - xm_ext_lo) >> XM_PAGE_SHIFT, end = (addr + len - 1 - xm_ext_lo) >> XM_PAGE_SHIFT;
	uint64_t page = first;

	for (; page <= end; page++) {
		xm_pte *p = xm_pte_touch(rt, page);

		if (!hold(p))
			break;
		if (xm_fault_bring(rt, page, write, tid) < 0) {
			xm_fault_release(p);
			break;
		}
	}
	return page - first;
}
