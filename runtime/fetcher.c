/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fetcher.c - threads that wait for links in the place of handlers, so that a handler is there to read messages.
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
 * locked, descriptors, an appliance that is away) gives back what it had and ends; the next one is made after a pause. So
 * it is where the family has that many processes that their links might become too many for the session. The others stay
 * until the runtime ends.
 */
#include "runtime/internal.h"

#include <linux/futex.h>
#include <string.h>
#include <sys/prctl.h>

#include "wire.h"

#define PAUSE_NS 3000000000ull
#define LINKS_BESIDE 2u /* of a process: for evictions, and for calls of the program's that move pages */

static bool change(struct xm_fetcher *f, uint32_t from, uint32_t to)
{
	return __atomic_compare_exchange_n(&f->state, &from, to, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static void wake(struct xm_fetcher *f)
{
	xm_sys6(SYS_futex, (long)&f->state, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
}

bool xm_fetcher_hand(struct xm_runtime *rt, const struct xm_message *m)
{
	uint32_t n = xm_load(&rt->fetchers);

	for (struct xm_fetcher *f = rt->fetcher; f < rt->fetcher + n; f++) {
		if (xm_load_relaxed(&f->state) != XM_FETCHER_IDLE || !change(f, XM_FETCHER_IDLE, XM_FETCHER_CHOSEN))
			continue;
		f->message = *m;
		xm_store(&f->state, XM_FETCHER_GIVEN);
		wake(f);
		xm_stat_add(rt, faults_handed, 1);
		return true;
	}
	if (n < rt->fetchers_most && !xm_load_relaxed(&rt->fetcher_missed)) {
		xm_store(&rt->fetcher_missed, 1);
		xm_reclaim_kick(rt);
	}
	return false;
}

/* ---- threads ------------------------------------------------------------------------------------------------------- */

/* It does this and looks at `stopping`, while who stops sets that and looks at the state: one sees the other. */
static void become_idle(struct xm_fetcher *f)
{
	__atomic_store_n(&f->state, XM_FETCHER_IDLE, __ATOMIC_SEQ_CST);
}

/* Until it is given a message; false: the runtime ends. */
static bool wait_for_message(struct xm_runtime *rt, struct xm_fetcher *f)
{
	for (;;) {
		uint32_t state = xm_load(&f->state);

		if (state == XM_FETCHER_GIVEN)
			return true;
		if (state == XM_FETCHER_IDLE && __atomic_load_n(&rt->stopping, __ATOMIC_SEQ_CST) &&
		    change(f, XM_FETCHER_IDLE, XM_FETCHER_ENDED))
			return false;
		if (state == XM_FETCHER_ENDED)
			return false;
		xm_sys6(SYS_futex, (long)&f->state, FUTEX_WAIT_PRIVATE, state, 0, 0, 0);
	}
}

/* What one lacks its successor would lack too, for a while. */
static void pause_growth(struct xm_runtime *rt, const char *why)
{
	xm_store(&rt->fetchers_not_before_ns, xm_now_ns() + PAUSE_NS);
	xm_debug("no more threads that wait for links, for some seconds: %s", why);
}

/* Its own worker, with links that are open; NULL: they are not to be had. */
static struct xm_worker *equip(struct xm_runtime *rt)
{
	struct xm_worker *w = xm_worker_get_unused(rt);
	int rc = -ENOMEM;

	if (w) {
		xm_gate_enter(rt);
		rc = xm_remote_ready(rt, w);
		if (rc < 0)
			xm_worker_close_links(rt, w);
		xm_gate_leave(rt);
	}
	if (rc == 0)
		return w;
	if (w)
		xm_worker_put(w);
	pause_growth(rt, xm_strerror(rc));
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
		xm_store(&f->state, XM_FETCHER_ENDED);
		return NULL;
	}
	xm_stat_max(rt, fetchers_max, (uint64_t)(f - rt->fetcher) + 1);
	xm_worker_rest(w);
	become_idle(f);
	if (xm_load(&rt->fetcher_missed)) /* another one, meanwhile */
		xm_reclaim_kick(rt);
	while (wait_for_message(rt, f)) {
		xm_worker_resume(w);
		xm_gate_enter(rt);
		xm_fault_answer(rt, w, &f->message);
		xm_gate_leave(rt);
		xm_worker_rest(w);
		become_idle(f);
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

	xm_store(&f->state, XM_FETCHER_STARTS);
	xm_store(&rt->fetchers, i + 1);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, XM_THREAD_STACK_BYTES);
	err = pthread_create(&f->thread, &attr, fetcher_main, f);
	pthread_attr_destroy(&attr);
	if (err) {
		xm_store(&rt->fetchers, i);
		pause_growth(rt, xm_strerror(-err));
	}
}

/* With n fetchers in each process of the family all links together are less than half of what their session may have: the
 * rest is for processes to come, and for those that look at the same time. */
static bool links_are_few(struct xm_runtime *rt, uint32_t n)
{
	uint32_t high = xm_load(&rt->fam->procs_high), procs = 0;

	for (uint32_t i = 0; i < high; i++) {
		uint32_t state = xm_load(&rt->fam->proc[i].state);

		procs += state == XM_PROC_LIVE || state == XM_PROC_STARTING;
	}
	return procs * ((uint32_t)rt->nhandlers + n + LINKS_BESIDE) < XM_WIRE_SESSION_DATA / 2;
}

/* Not before the last one is idle, or has ended without links. Meanwhile one stays missed, and nobody kicks. */
void xm_fetcher_tick(struct xm_runtime *rt)
{
	uint32_t n = xm_load(&rt->fetchers);
	uint32_t last = n ? xm_load(&rt->fetcher[n - 1].state) : XM_FETCHER_NONE;

	if (!xm_load(&rt->fetcher_missed) || last == XM_FETCHER_STARTS ||
	    xm_now_ns() < xm_load(&rt->fetchers_not_before_ns))
		return;
	if (last == XM_FETCHER_ENDED) {
		pthread_join(rt->fetcher[--n].thread, NULL);
		xm_store(&rt->fetchers, n);
	}
	if (n < rt->fetchers_most && !links_are_few(rt, n + 1)) {
		pause_growth(rt, "the family has many processes");
		return;
	}
	if (n < rt->fetchers_most)
		make(rt, n);
	xm_store(&rt->fetcher_missed, 0);
}

void xm_fetcher_stop(struct xm_runtime *rt)
{
	for (uint32_t i = 0; i < xm_load(&rt->fetchers); i++) {
		struct xm_fetcher *f = &rt->fetcher[i];

		/* one that has a message answers it, and then sees `stopping` */
		if (change(f, XM_FETCHER_IDLE, XM_FETCHER_ENDED))
			wake(f);
		pthread_join(f->thread, NULL);
	}
}

void xm_fetcher_forked(struct xm_runtime *rt)
{
	rt->fetchers = rt->fetcher_missed = rt->readers_away = 0;
	rt->fetchers_not_before_ns = 0;
	memset(rt->link_fault_ns, 0, sizeof(rt->link_fault_ns));
	for (int i = 0; i < XM_FETCHERS_MAX; i++)
		rt->fetcher[i].state = XM_FETCHER_NONE;
	for (int i = 0; i < XM_WORKERS_MAX; i++)
		rt->worker[i].reader = rt->worker[i].away = false;
}
