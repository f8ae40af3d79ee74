/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fetcher.c - threads that wait for links in the place of handlers, so that a handler is always there to read messages.
 *
 *   message ──► handler ── its page is here, or empty ─────────────────────────► resolves it
 *                  │
 *                  └─ its page is behind a link ─┬─ another handler listens ───► resolves it
 *                                                ├─ a fetcher is idle ─────────► gives it the message, reads on
 *                                                └─ none is ───────────────────► resolves it; asks for one more fetcher
 *
 *   fetcher.state   NONE ► STARTS ► IDLE ► CHOSEN ► GIVEN ► IDLE ... ► ENDED
 *                   by:    reclaimer  │      handler          │        whoever stops
 *                                     └─ itself ──────────────┘
 *
 * Handlers only choose, write and wake: they never wait for a fetcher. A fetcher reads no messages, answers what it is
 * given as a handler does, inside the gate, and sleeps on its state. A message that is given while a fork closes the gate
 * is answered after it; the child has neither the thread that faulted nor these.
 *
 * They are made when they are missed, one at a time, by the reclaim thread outside the gate: a new thread takes memory
 * from the program's allocator, for which a handler must not wait. One that cannot have its links (memory that may be
 * locked, descriptors) ends at once, and none is asked for after it. The others stay until the runtime ends.
 */
#include "runtime/internal.h"

#include <linux/futex.h>
#include <sys/prctl.h>

enum { NONE = 0, STARTS, IDLE, CHOSEN, GIVEN, ENDED };

static bool change(struct xm_fetcher *f, uint32_t from, uint32_t to)
{
	return __atomic_compare_exchange_n(&f->state, &from, to, false, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE);
}

static void wake(struct xm_fetcher *f)
{
	xm_sys6(SYS_futex, (long)&f->state, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
}

bool xm_fetcher_hand(struct xm_runtime *rt, const struct xm_message *m)
{
	uint32_t n = xm_load(&rt->fetchers);

	for (struct xm_fetcher *f = rt->fetcher; f < rt->fetcher + n; f++) {
		if (xm_load_relaxed(&f->state) != IDLE || !change(f, IDLE, CHOSEN))
			continue;
		f->message = *m;
		xm_store(&f->state, GIVEN);
		wake(f);
		xm_stat_add(rt, faults_handed, 1);
		return true;
	}
	if (n < xm_load_relaxed(&rt->fetchers_most) && !xm_load_relaxed(&rt->fetcher_missed)) {
		xm_store(&rt->fetcher_missed, 1);
		xm_reclaim_kick(rt);
	}
	return false;
}

/* ---- threads ------------------------------------------------------------------------------------------------------- */

/* Until it is given a message; false: the runtime ends. */
static bool wait_for_message(struct xm_runtime *rt, struct xm_fetcher *f)
{
	__atomic_store_n(&f->state, IDLE, __ATOMIC_SEQ_CST);
	for (;;) {
		uint32_t state = xm_load(&f->state);

		if (state == GIVEN)
			return true;
		if (state == ENDED || (state == IDLE && __atomic_load_n(&rt->stopping, __ATOMIC_SEQ_CST) &&
				       change(f, IDLE, ENDED)))
			return false;
		xm_sys6(SYS_futex, (long)&f->state, FUTEX_WAIT_PRIVATE, state, 0, 0, 0);
	}
}

/* What one lacks its successors would lack too. */
static void refuse(struct xm_runtime *rt, int err)
{
	xm_store(&rt->fetchers_most, 0);
	xm_debug("no more threads that wait for links: %s", xm_strerror(err));
}

/* Its own worker, with links that are open; NULL: they are not to be had. */
static struct xm_worker *equip(struct xm_runtime *rt)
{
	struct xm_worker *w = xm_worker_get(rt);
	int rc = -ENOMEM;

	if (w) {
		xm_gate_enter(rt);
		rc = xm_remote_ready(rt, w);
		xm_gate_leave(rt);
	}
	if (rc == 0)
		return w;
	refuse(rt, rc);
	if (w)
		xm_worker_put(w);
	return NULL;
}

static void *fetcher_main(void *arg)
{
	struct xm_runtime *rt = &xm_rt;
	struct xm_fetcher *f = arg;
	struct xm_worker *w;

	xm_in_runtime = 1;
	xm_sys6(SYS_prctl, PR_SET_NAME, (long)"xmem-fetch", 0, 0, 0, 0);
	w = equip(rt);
	if (!w) {
		xm_store(&f->state, ENDED);
		return NULL;
	}
	xm_stat_max(rt, fetchers_max, (uint64_t)(f - rt->fetcher) + 1);
	xm_worker_rest(w);
	while (wait_for_message(rt, f)) {
		xm_worker_resume(w);
		xm_gate_enter(rt);
		xm_fault_answer(rt, w, &f->message);
		xm_gate_leave(rt);
		xm_worker_rest(w);
	}
	xm_worker_resume(w);
	xm_worker_put(w);
	return NULL;
}

static void make(struct xm_runtime *rt, uint32_t i)
{
	struct xm_fetcher *f = &rt->fetcher[i];
	pthread_attr_t attr;
	int err;

	xm_store(&f->state, STARTS);
	xm_store(&rt->fetchers, i + 1);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, XM_THREAD_STACK_BYTES);
	err = pthread_create(&f->thread, &attr, fetcher_main, f);
	pthread_attr_destroy(&attr);
	if (err) {
		xm_store(&rt->fetchers, i);
		refuse(rt, -err);
	}
}

void xm_fetcher_tick(struct xm_runtime *rt)
{
	uint32_t n = xm_load(&rt->fetchers);

	if (!xm_load(&rt->fetcher_missed))
		return;
	/* whether the one before has what it needs is to be known first; who misses one then will say so again */
	if (n < xm_load(&rt->fetchers_most) && (!n || xm_load(&rt->fetcher[n - 1].state) != STARTS))
		make(rt, n);
	xm_store(&rt->fetcher_missed, 0);
}

void xm_fetcher_stop(struct xm_runtime *rt)
{
	for (uint32_t i = 0; i < xm_load(&rt->fetchers); i++) {
		struct xm_fetcher *f = &rt->fetcher[i];

		/* one that has a message answers it, and then sees `stopping` */
		if (change(f, IDLE, ENDED))
			wake(f);
		pthread_join(f->thread, NULL);
	}
}

void xm_fetcher_forked(struct xm_runtime *rt)
{
	rt->fetchers = rt->fetcher_missed = rt->readers_away = 0;
	for (int i = 0; i < XM_FETCHERS_MAX; i++)
		rt->fetcher[i].state = NONE;
	for (int i = 0; i < XM_WORKERS_MAX; i++)
		rt->worker[i].reader = rt->worker[i].away = false;
}
