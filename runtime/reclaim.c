/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reclaim.c - the local budget: who accounts frames, who is evicted, when.
 *
 *   The policy names seeds; around each seed the window of 64 neighbouring pages is searched for pages at least as
 *   old, which leave with it (one write-protect, one drop, neighbouring slots). Age is the page's epoch: the
 *   insertion clock in eighths of the budget.
 *
 *   Watermarks: the reclaim thread is woken when fewer than half of reserve_pages frames are free, and works until
 *   the whole reserve is: one wake-up for many faults. A faulting thread that finds the family over its budget
 *   reclaims a batch itself. Processes of a family reclaim in proportion to what they hold: whoever is short kicks
 *   the others.
 *
 * Threads: the reclaim thread, which makes fetchers too; handlers and fetchers in direct reclaim. Locks: reclaim lock for a whole batch (never waited for
 * without limit by a handler), policy lock for moments.
 */
#include "runtime/internal.h"

#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/prctl.h>

#define WINDOW_PAGES 64
#define BUDGET_AGE 8 /* in epochs: as many pages came in since as the budget holds */
#define SEEDS 8
#define NEAR_PAGES 512 /* a block in which a dirty page that leaves takes others with it */
#define NEAR_MOST 15   /* so many, where others stay: SEEDS of them with their company fill a batch */
#define NEAR_AGE 2     /* in epochs: at least an eighth of what the budget holds came in since */
#define EXCESS 16	/* what fewer calls are worth, next to what a fault costs: early.h */
#define EXCESS_WAITS 64 /* where a fault waits for a link */
#define SAMPLE_MIN 1024 /* pages that leave in time, for one window that may leave too early: too few with less than 16 MiB */
#define SCAN_LIMIT 1024
#define TICK_NS 1000000000ull
#define SAMPLE_NS 200000000ull
#define LOCK_WAIT_NS 100000000ull
#define FRUITLESS_MAX 20 /* rounds of 2 ms without a page that leaves */
#define NO_VICTIM_WAIT_NS 5000000ull
#define OTHERS_WAIT_NS 50000000ull /* until other processes, which have been asked, have had a processor */
#define NO_VICTIM_PAUSE_NS 100000000ull
#define BUSY_WAIT_NS 2000000000ull /* another's batch under way, or another process: it has no processor, or an appliance is slow */
#define ROUND_NS_MAX (2 * LOCK_WAIT_NS) /* of a fault that waits for room: for the lock, a batch and a question */
#define COLLECT_ROUNDS 16

/* ---- frames ------------------------------------------------------------------------------------------------ */

bool xm_frame_charge(struct xm_runtime *rt, uint64_t n)
{
	struct xm_family *f = rt->fam;
	uint64_t all = xm_add(&f->resident_pages, n) + n;
	uint64_t mine = xm_add(&rt->me->resident, n) + n;
	uint64_t budget = f->budget_pages;

	xm_store(&rt->me->stats.resident_pages, mine);
	xm_stat_max(rt, resident_pages_max, mine);
	xm_stat_max(rt, external_pages_max, mine + xm_load_relaxed(&rt->me->stats.remote_pages));
	if (all > xm_load_relaxed(&f->resident_pages_max))
		__atomic_store_n(&f->resident_pages_max, all, __ATOMIC_RELAXED);
	if (all + rt->reserve_pages / 2 > budget)
		xm_reclaim_kick(rt);
	if (all <= budget)
		return true;
	xm_stat_max(rt, over_budget_pages_max, all - budget);
	return false;
}

void xm_frame_uncharge(struct xm_runtime *rt, uint64_t n)
{
	if (!n)
		return;
	xm_sub(&rt->fam->resident_pages, n);
	xm_store(&rt->me->stats.resident_pages, xm_sub(&rt->me->resident, n) - n);
}

uint64_t xm_frame_free(struct xm_runtime *rt)
{
	uint64_t all = xm_load_relaxed(&rt->fam->resident_pages);

	return all < rt->fam->budget_pages ? rt->fam->budget_pages - all : 0;
}

/* ---- choosing ---------------------------------------------------------------------------------------------- */

static enum xm_page_fact query(void *ctx, uint64_t page)
{
	struct xm_runtime *rt = ctx;
	xm_pte seen = xm_pg_load(&rt->pt[page]);

	switch (xm_pg_state(seen)) {
	case XM_PG_RESIDENT:
		if (seen & (XM_PG_HOLD_MASK | XM_PG_PINNED))
			return XM_PAGE_HELD;
		if (!(seen & XM_PG_REF))
			return XM_PAGE_IDLE;
		xm_pg_cas(&rt->pt[page], &seen, seen & ~XM_PG_REF);
		return XM_PAGE_REFERENCED;
	case XM_PG_FETCHING:
		return XM_PAGE_HELD;
	default: /* the policy forgets it */
		__atomic_fetch_and(&rt->pt[page], ~XM_PG_QUEUED, __ATOMIC_ACQ_REL);
		return XM_PAGE_GONE;
	}
}

/* Unless it was unmapped meanwhile: then nothing is to be left of it. */
static void mark_used(xm_pte *p)
{
	xm_pte seen = xm_pg_load(p);

	while (xm_pg_state(seen) == XM_PG_RESIDENT && !xm_pg_cas(p, &seen, seen | XM_PG_REF))
		;
}

void xm_reclaim_inserted(struct xm_runtime *rt, const uint64_t *page, int n, bool refault)
{
	xm_lock(&rt->policy_lock);
	for (int i = 0; i < n; i++) {
		xm_pte *p = &rt->pt[page[i]];

		/* An entry left from before (the page went with a neighbour's window) would be found too early, and
		 * a second one would make the page go twice: the old one stands, and is passed over once. */
		if (!(__atomic_fetch_or(p, XM_PG_QUEUED, __ATOMIC_ACQ_REL) & XM_PG_QUEUED))
			rt->evict->inserted(rt->evict_state, page[i], refault);
		else
			mark_used(p);
	}
	xm_add(&rt->inserted, (uint64_t)n);
	xm_unlock(&rt->policy_lock);
}

uint8_t xm_reclaim_epoch(struct xm_runtime *rt)
{
	return (uint8_t)(xm_load_relaxed(&rt->inserted) / (rt->fam->budget_pages / 8 + 1));
}

static bool lock_victim(struct xm_runtime *rt, struct xm_worker *w, int n, uint64_t page)
{
	xm_pte *p = &rt->pt[page];
	xm_pte seen = xm_pg_load(p);

	if (xm_pg_state(seen) != XM_PG_RESIDENT || (seen & (XM_PG_HOLD_MASK | XM_PG_PINNED)))
		return false;
	if (w->full && !(seen & XM_PG_HAS_SLOT))
		return false; /* it could not be written anywhere */
	if (!xm_pg_cas(p, &seen, xm_pg_with_state(seen, XM_PG_EVICTING)))
		return false;
	w->page[n] = page;
	w->word[n] = seen;
	return true;
}

static uint64_t *recent_of(struct xm_runtime *rt, uint64_t page)
{
	return &rt->recent[page * 0x9e3779b97f4a7c15ull >> (64 - XM_RECENT_LG)];
}

void xm_reclaim_expect(struct xm_runtime *rt, uint64_t page)
{
	__atomic_store_n(recent_of(rt, page), page + 1, __ATOMIC_RELAXED);
}

static bool is_recent(struct xm_runtime *rt, uint64_t page)
{
	return xm_load_relaxed(recent_of(rt, page)) == page + 1;
}

/* A page is locked, as entry n, because the policy or its neighbourhood says so. */
static void note_victim(struct xm_worker *w, int n, bool early)
{
	if (xm_pg_unsaved(w->word[n]))
		w->word[n] = xm_pg_with_left(w->word[n], early ? XM_LEFT_EARLY : XM_LEFT_IN_TIME);
}

/* A batch while neighbours of a dirty page are added. */
struct near {
	int n, most;
	bool all; /* also those that leave early */
};

/* Locks dirty pages from `page` on, in direction of `end`: all of them, or up to one that has to stay. */
static void lock_dirty(struct xm_runtime *rt, struct xm_worker *w, struct near *to, uint64_t page, uint64_t end)
{
	uint8_t now = xm_reclaim_epoch(rt), age;
	uint64_t step = (int64_t)(end - page) > 0 ? 1 : -1ull;

	for (; page != end && to->n < to->most; page += step) {
		xm_pte word = xm_pg_load(&rt->pt[page]);
		bool early;

		if (xm_pg_state(word) != XM_PG_RESIDENT || !xm_pg_unsaved(word))
			continue;
		age = (uint8_t)(now - xm_pg_epoch(word));
		early = (word & XM_PG_REF) || age < NEAR_AGE || age > BUDGET_AGE;
		if (!(early && (!to->all || is_recent(rt, page))) && lock_victim(rt, w, to->n, page))
			note_victim(w, to->n++, early);
		else if (!to->all)
			break;
	}
}

/* A dirty page takes dirty ones with it before their time, all of its window where that does no harm. One call write-protects
 * from the first to the last of them if none between them stays; a call for each would cost more than all else that is done
 * for a page, since it interrupts every processor on which the program runs. */
static int lock_near(struct xm_runtime *rt, struct xm_worker *w, int n, uint64_t seed)
{
	uint64_t first = xm_round_down(seed, NEAR_PAGES);
	uint64_t sample = xm_max(rt->fam->budget_pages / BUDGET_AGE, (uint64_t)SAMPLE_MIN);
	bool may = xm_early_may(&rt->early, xm_reclaim_epoch(rt), rt->waits ? EXCESS_WAITS : EXCESS, sample);
	/* else: a call a page, or no slots for them */
	struct near to = { .n = n, .all = may && !xm_load(&rt->pins) && !xm_load(&rt->no_room) };

	to.most = (int)xm_min(n + (to.all ? rt->reserve_pages : NEAR_MOST), (uint64_t)XM_BATCH);
	lock_dirty(rt, w, &to, seed + 1, first + NEAR_PAGES);
	lock_dirty(rt, w, &to, seed - 1, first - 1);
	return to.n;
}

/* Locks the seed and what is as old around it; returns the new length of the batch. What is older than a turn of the whole
 * budget is still here because the policy keeps it, and stays: with it, zipf would miss a twentieth more. */
static int lock_window(struct xm_runtime *rt, struct xm_worker *w, int n, uint64_t seed)
{
	uint8_t now = xm_reclaim_epoch(rt);
	uint64_t first = xm_round_down(seed, WINDOW_PAGES);
	uint8_t age, oldest, its;
	bool dirty;

	if (!lock_victim(rt, w, n, seed)) {
		enum xm_page_state state = xm_pg_state(xm_pg_load(&rt->pt[seed]));

		if (state == XM_PG_RESIDENT || state == XM_PG_FETCHING) /* not now, but not forgotten */
			xm_reclaim_inserted(rt, &seed, 1, false);
		return n;
	}
	dirty = xm_pg_unsaved(w->word[n]);
	age = (uint8_t)(now - xm_pg_epoch(w->word[n]));
	oldest = xm_max(age, (uint8_t)BUDGET_AGE);
	note_victim(w, n++, false);
	for (uint64_t page = first; page < first + WINDOW_PAGES && n < XM_BATCH; page++) {
		xm_pte word = xm_pg_load(&rt->pt[page]);

		its = (uint8_t)(now - xm_pg_epoch(word));
		if (page == seed || xm_pg_state(word) != XM_PG_RESIDENT || (word & XM_PG_REF) || its < age || its > oldest)
			continue;
		if (lock_victim(rt, w, n, page))
			note_victim(w, n++, false);
	}
	return (rt->features & XM_FEAT_WP) && dirty ? lock_near(rt, w, n, seed) : n;
}

static int collect(struct xm_runtime *rt, struct xm_worker *w, uint64_t want)
{
	struct xm_evict_view view = { query, rt };
	uint64_t seed[SEEDS];
	int n = 0, found = XM_BATCH; /* with one seed */

	want = xm_min(want, (uint64_t)XM_BATCH);
	w->full = false;
	if (xm_load(&rt->no_room)) {
		uint64_t slots = xm_slots_free(rt->fam);

		/* who holds only pages without a slot has no victim, and would never come to ask for one */
		if (!slots && xm_remote_find_room(rt) == 0)
			slots = xm_slots_free(rt->fam);
		w->full = slots == 0 && xm_load(&rt->no_room);
		if (xm_load(&rt->no_room))
			want = xm_min(want, xm_max(slots, 1ull));
	}
	for (int round = 0; round < COLLECT_ROUNDS && n < (int)want; round++) {
		/* a seed that is not used goes to the end of its queue */
		int most = xm_min(SEEDS, ((int)want - n + found - 1) / found), before = n, k, i;

		xm_lock(&rt->policy_lock);
		k = rt->evict->pick(rt->evict_state, &view, seed, most, SCAN_LIMIT);
		for (i = 0; i < k; i++)
			__atomic_fetch_and(&rt->pt[seed[i]], ~XM_PG_QUEUED, __ATOMIC_ACQ_REL);
		xm_unlock(&rt->policy_lock);
		for (i = 0; i < k && n < XM_BATCH; i++)
			n = lock_window(rt, w, n, seed[i]);
		if (i < k)
			xm_reclaim_inserted(rt, seed + i, k - i, false);
		if (k)
			found = xm_max((n - before) / k, 1);
		if (!k && n)
			break; /* but on, while there is nothing: SCAN_LIMIT entries may all be of pages that have left */
	}
	return n;
}

int xm_reclaim_batch(struct xm_runtime *rt, uint64_t want)
{
	struct xm_worker *w;
	int n, gone = -EBUSY;

	if (!xm_lock_timed(&rt->reclaim_lock, LOCK_WAIT_NS))
		return -EBUSY;
	w = xm_worker_get(rt);
	if (w) {
		n = collect(rt, w, want);
		if (n)
			xm_worker_sort(w, n);
		gone = n ? xm_evict_batch(rt, w, n) : 0;
		xm_worker_put(w);
	}
	xm_unlock(&rt->reclaim_lock);
	return gone;
}

uint64_t xm_reclaim_range(struct xm_runtime *rt, uint64_t page, uint64_t n)
{
	uint64_t end = page + n, gone = 0;
	struct xm_worker *w;

	xm_lock(&rt->reclaim_lock);
	w = xm_worker_get(rt);
	if (w)
		w->full = false;
	while (w && page < end) {
		int k = 0;

		for (; page < end && k < XM_BATCH; page++) {
			page = xm_pte_skip(rt, page, end);
			if (page < end)
				k += lock_victim(rt, w, k, page);
		}
		if (k)
			gone += (uint64_t)xm_evict_batch(rt, w, k);
	}
	if (w)
		xm_worker_put(w);
	xm_unlock(&rt->reclaim_lock);
	return gone;
}

/* 0: no page of the range is resident or on its way; else what holds the first such page. */
static int still_here(struct xm_runtime *rt, uint64_t page, uint64_t end)
{
	for (page = xm_pte_skip(rt, page, end); page < end; page = xm_pte_skip(rt, page + 1, end)) {
		xm_pte word = xm_pg_load(&rt->pt[page]);

		if (xm_pg_busy(word))
			return -EAGAIN;
		if (xm_pg_state(word) == XM_PG_RESIDENT)
			return word & (XM_PG_PINNED | XM_PG_HOLD_MASK) ? -EBUSY : -ENOLINK;
	}
	return 0;
}

int xm_reclaim_all(struct xm_runtime *rt, uint64_t page, uint64_t n)
{
	uint64_t end = xm_now_ns() + rt->fam->cfg.lost_timeout_ns + 1000000000ull;
	unsigned fruitless = 0; /* every worker may be in use for a moment */
	int rc;

	for (;;) {
		uint64_t gone;

		xm_gate_enter(rt);
		gone = xm_reclaim_range(rt, page, n);
		xm_gate_leave(rt);
		rc = still_here(rt, page, page + n);
		/* BUSY for a moment: a fault whose thread has been woken before its words were settled */
		fruitless = gone ? 0 : fruitless + (rc == -ENOLINK);
		if (rc == 0 || rc == -EBUSY || fruitless == FRUITLESS_MAX || xm_now_ns() > end)
			return rc == -EAGAIN ? -ENOLINK : rc;
		if (xm_load(&rt->pins) && !(rt->features & XM_FEAT_MOVE))
			return -EBUSY; /* none of its pages leaves */
		if (rc == -EAGAIN)
			xm_sys_sleep(50000);
		else if (!gone)
			xm_sys_sleep(2000000);
	}
}

/* ---- when -------------------------------------------------------------------------------------------------- */

static void wake_proc(struct xm_proc *p)
{
	xm_add(&p->wake, 1);
	xm_sys6(SYS_futex, (long)&p->wake, FUTEX_WAKE, INT_MAX, 0, 0, 0);
}

void xm_reclaim_kick(struct xm_runtime *rt)
{
	if (xm_load(&rt->reclaimer_sleeps))
		wake_proc(rt->me);
}

void xm_reclaim_kick_others(struct xm_runtime *rt)
{
	uint32_t high = xm_load(&rt->fam->procs_high);

	for (uint32_t i = 0; i < high; i++) {
		struct xm_proc *p = &rt->fam->proc[i];

		if (i != rt->proc && xm_load(&p->state) == XM_PROC_LIVE && xm_load_relaxed(&p->resident) > 0)
			wake_proc(p);
	}
}

/* What a fault that waits for room has seen so far. Times are sums over rounds, each of which counts for no more than it can
 * take: a process that was stopped, or had no processor, has not waited meanwhile. */
struct stall {
	uint64_t least;	   /* fewest frames of the family */
	uint64_t since_ns; /* when (CLOCK_MONOTONIC) nothing began to leave for the reason `gone` ... */
	uint64_t same_ns;  /* ... and for how long that has been so */
	uint64_t full_ns;  /* since frames last became free: with the appliances full, */
	uint64_t room_ns;  /* and with room on them, or not known */
	uint64_t round_ns; /* when the last round ended */
	int gone;
};

/* Whether there is a process that has pages, and had no processor since then to give any. */
static bool others_owe(struct xm_runtime *rt, uint64_t since_ns)
{
	uint32_t high = xm_load(&rt->fam->procs_high);

	for (uint32_t i = 0; i < high; i++) {
		struct xm_proc *p = &rt->fam->proc[i];

		if (i != rt->proc && xm_load(&p->state) == XM_PROC_LIVE && xm_load_relaxed(&p->resident) > 0 &&
		    xm_load(&p->answered_ns) < since_ns)
			return true;
	}
	return false;
}

/* How long a fault waits for room where there is some, and nothing left just now. */
static uint64_t patience(struct xm_runtime *rt, const struct stall *s, uint64_t all, uint64_t over)
{
	if (s->gone == -EBUSY)
		return BUSY_WAIT_NS;
	/* our own pages are pinned */
	if (all - xm_min(all, xm_load(&rt->me->resident)) <= over)
		return NO_VICTIM_WAIT_NS;
	/* others have been asked; where it is much already it is worth waiting for their answer */
	return over >= 2 * rt->reserve_pages && others_owe(rt, s->since_ns) ? BUSY_WAIT_NS : OTHERS_WAIT_NS;
}

/* A batch of ours found nothing, for there is no room for it anywhere. */
static bool is_full(struct xm_runtime *rt, int gone)
{
	return gone == 0 && xm_load(&rt->no_room) && xm_slots_free(rt->fam) == 0;
}

/* Another round of reclaim is over. Another thread's batch (-EBUSY) says nothing of the appliances. */
static void note_round(struct stall *s, int gone, uint64_t all, bool full)
{
	uint64_t now = xm_now_ns(), took = xm_min(now - s->round_ns, ROUND_NS_MAX);
	bool moved = gone > 0 || all < s->least;

	if (moved)
		s->full_ns = s->room_ns = 0;
	if (moved || gone != s->gone) {
		s->since_ns = now;
		s->same_ns = 0;
	} else {
		s->same_ns += took;
	}
	if (full) {
		s->full_ns += took;
	} else if (!moved) {
		s->room_ns += took;
		if (gone != -EBUSY)
			s->full_ns = 0;
	}
	s->least = xm_min(s->least, all);
	s->gone = gone;
	s->round_ns = now;
}

/* There is room, but nothing left for so long that the budget is rather exceeded by the page of this fault. */
static bool waited_enough(struct xm_runtime *rt, const struct stall *s, uint64_t all, uint64_t over)
{
	if (s->same_ns <= patience(rt, s, all, over) && s->room_ns <= rt->fam->cfg.stall_ns)
		return false;
	if (s->gone != -EBUSY) { /* else: the batch may be waiting for a handler */
		/* each process finds out for itself: together they stay below what patience() calls much */
		if (over < 2 * rt->reserve_pages)
			all = xm_min(all, rt->fam->budget_pages + rt->reserve_pages);
		__atomic_store_n(&rt->no_victim_pages, all, __ATOMIC_RELAXED);
		xm_store(&rt->no_victim_until_ns, xm_now_ns() + NO_VICTIM_PAUSE_NS);
	}
	return true;
}

int xm_reclaim_for_fault(struct xm_runtime *rt, bool wait)
{
	uint64_t start = xm_now_ns(), slack = rt->reserve_pages, over;
	struct stall s = { .least = UINT64_MAX, .since_ns = start, .round_ns = start };
	bool stalled = false, full;
	int gone, rc = 0;

	for (;;) {
		uint64_t all = xm_load(&rt->fam->resident_pages);

		if (all <= rt->fam->budget_pages)
			break;
		/* nothing could leave a moment ago; but no more than the reserve is taken on the strength of that */
		if (start < xm_load(&rt->no_victim_until_ns) && all <= xm_load_relaxed(&rt->no_victim_pages) + slack)
			break;
		/* a kernel without MOVE, and pages that may be pinned: none leaves, so there is nothing to wait for */
		if (xm_load(&rt->pins) && !(rt->features & XM_FEAT_MOVE))
			break;
		over = all - rt->fam->budget_pages;
		xm_stat_add(rt, reclaim_direct, 1);
		gone = xm_reclaim_batch(rt, xm_max(over, 32ull));
		full = is_full(rt, gone);
		note_round(&s, gone, all, full);
		if (gone > 0)
			continue;
		/* nothing of ours could leave: others must give, or there is no room for it anywhere */
		xm_family_reap_dead(rt->fam);
		xm_reclaim_kick_others(rt);
		if (over <= slack || (!wait && xm_load(&rt->no_room)))
			break; /* exceeding the budget for a moment is better than waiting */
		if (!stalled)
			xm_stat_add(rt, stalls, 1);
		stalled = true;
		if (!full && waited_enough(rt, &s, all, over))
			break;
		if (s.full_ns > rt->fam->cfg.stall_ns) {
			rc = -ENOMEM;
			break;
		}
		xm_sys_sleep(200000);
	}
	if (stalled)
		xm_stat_add(rt, stall_ns, xm_now_ns() - start);
	return rc;
}

/* How much this process should evict now: its share of what the family lacks. */
static uint64_t background_want(struct xm_runtime *rt)
{
	uint64_t all = xm_load(&rt->fam->resident_pages), mine = xm_load(&rt->me->resident);
	uint64_t target = rt->fam->budget_pages - xm_min(rt->reserve_pages, rt->fam->budget_pages / 2);

	if (all <= target || !mine)
		return 0;
	return (all - target) * mine / all + 1;
}

static void grow_ahead(struct xm_runtime *rt)
{
	/* a quarter of a slab left: the next batches would have to wait for the appliance */
	if (xm_slots_free(rt->fam) < XM_SLAB_SLOTS_MAX / 4 && xm_load_relaxed(&rt->me->stats.evicted_dirty_pages))
		xm_remote_grow(rt);
}

/* Entries of pages that were unmapped are only found when somebody looks. */
static void tidy_policy(struct xm_runtime *rt)
{
	struct xm_evict_view view = { query, rt };

	xm_lock(&rt->policy_lock);
	if (rt->evict->size(rt->evict_state) > rt->fam->budget_pages + rt->fam->budget_pages / 2)
		rt->evict->pick(rt->evict_state, &view, NULL, 0, 16 * SCAN_LIMIT);
	xm_unlock(&rt->policy_lock);
}

/* Private anonymous memory that is not external, for the coverage figure: what the kernel calls RssAnon less what
 * is resident of ours. Sampled, so a peak between two samples is missed. */
static void sample_local(struct xm_runtime *rt)
{
	char buf[4096];
	int n = xm_fd_read_file("/proc/self/status", buf, sizeof(buf));
	const char *at = NULL;
	uint64_t kib = 0, ext = xm_load(&rt->me->resident) << XM_PAGE_SHIFT;

	for (int i = 0; i + 8 < n && !at; i++)
		if (memcmp(buf + i, "RssAnon:", 8) == 0)
			at = buf + i + 8;
	for (; at && (*at == ' ' || *at == '\t'); at++)
		;
	for (; at && *at >= '0' && *at <= '9'; at++)
		kib = kib * 10 + (uint64_t)(*at - '0');
	if (kib << 10 > ext)
		xm_stat_max(rt, anon_local_bytes, (kib << 10) - ext);
}

/* The malloc replacement gives idle memory back here, where it is linked in. */
void xm_preload_housekeeping(void) __attribute__((weak));

void *xm_reclaimer_main(void *arg)
{
	struct xm_runtime *rt = arg;
	uint64_t tick = xm_now_ns(), sampled = 0, evicted = 0;

	xm_in_runtime = 1;
	xm_sys6(SYS_prctl, PR_SET_NAME, (long)"xmem-reclaim", 0, 0, 0, 0);
	while (!xm_load(&rt->stopping)) {
		uint64_t want;
		int gone = 0;
		bool ticked = false;
		uint32_t seq;
		struct timespec ts = { 0, 250000000 };

		/* set before looking: a kick from here on is not lost */
		xm_store(&rt->reclaimer_sleeps, 1);
		seq = xm_load(&rt->me->wake);
		xm_gate_enter(rt);
		want = background_want(rt);
		if (want) {
			xm_store(&rt->reclaimer_sleeps, 0);
			xm_stat_add(rt, reclaim_background, 1);
			gone = xm_reclaim_batch(rt, want);
			grow_ahead(rt);
		}
		if (xm_now_ns() - tick > TICK_NS) {
			tick = xm_now_ns();
			xm_remote_tick(rt);
			tidy_policy(rt);
			ticked = true;
			if (evicted == xm_load_relaxed(&rt->me->stats.evicted_pages)) /* nothing left in the last second */
				xm_worker_trim_idle(rt);
			evicted = xm_load_relaxed(&rt->me->stats.evicted_pages);
			if (xm_preload_housekeeping)
				xm_preload_housekeeping();
		}
		xm_gate_leave(rt);
		xm_store(&rt->me->answered_ns, xm_now_ns());
		if (ticked)
			xm_canary_tick(rt);
		xm_fetcher_tick(rt);
		if (gone > 0)
			continue;
		if (xm_now_ns() - sampled > SAMPLE_NS) {
			sampled = xm_now_ns();
			sample_local(rt);
		}
		if (want)
			ts.tv_nsec = 5000000; /* nothing could leave just now */
		xm_sys6(SYS_futex, (long)&rt->me->wake, FUTEX_WAIT, seq, (long)&ts, 0, 0);
		xm_store(&rt->reclaimer_sleeps, 0);
	}
	return NULL;
}
