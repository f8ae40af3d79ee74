/* SPDX-License-Identifier: Apache-2.0 */
/*
 * family_reap.c - gives back what a process left behind in the family object: slots that its page words name,
 * pages that it was charged for, the page table itself; and sums of statistics.
 *
 *   LIVE or STARTING --dead, grace over--> REAPING --words exchanged to 0, slots put--> ENDED
 *
 * Run by the keeper, by any member under pressure, by a new program in a process that has exec'd; never two at
 * once on one entry (xm_proc.owner). Each word is exchanged with zero before its slot is put: whoever takes
 * over from a killed reaper goes through the table again and puts nothing twice. The page table is a sparse
 * mapping of up to 2 GiB in which reading a hole would create a page: only what the touch map names is read, and
 * each piece is punched out at once.
 * Raw system calls only; no malloc; no waiting.
 */
#include "runtime/family.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "procid.h"
#include "runtime/family_internal.h"
#include "runtime/pagetab.h"
#include "runtime/slots.h"
#include "sys.h"

#define PIECE_PAGES 512ull /* of page table, punched out in one call: 1 GiB of addresses */
#define WORDS_PER_PAGE (XM_PAGE_SIZE / sizeof(xm_pte))

_Static_assert(1u << XM_TOUCH_SHIFT == XM_PAGE_SIZE / sizeof(xm_pte),
	       "an entry of the touch map is a page of words");

uint64_t xm_sub_to_zero(uint64_t *level, uint64_t v)
{
	uint64_t seen = xm_load_relaxed(level), take;

	do {
		take = xm_min(seen, v);
	} while (!__atomic_compare_exchange_n(level, &seen, seen - take, true, __ATOMIC_ACQ_REL,
					      __ATOMIC_RELAXED));
	return take;
}

/* ---- who is dead -------------------------------------------------------------------------------------- */

static bool dead(struct xm_family *f, const struct xm_proc *p, const struct xm_procid *self)
{
	struct xm_procid id = { .pid = (uint32_t)p->pid,
				.start_time = p->start_time,
				.boot_hash = self->boot_hash,
				.pidns = f->pidns };

	if (xm_load(&p->flags) & XM_PROC_EXECED)
		return true;
	/* without knowing that pids mean the same here and there, nobody is called dead */
	if (p->pid <= 0 || !self->pid || !f->pidns || self->pidns != f->pidns ||
	    (xm_load(&p->flags) & XM_PROC_FOREIGN))
		return false;
	if (!p->start_time)
		return xm_sys2(SYS_kill, p->pid, 0) == -ESRCH;
	return xm_procid_check(self, &id) == XM_PROC_DEAD;
}

bool xm_family_proc_dead(struct xm_family *f, uint32_t index)
{
	struct xm_procid self;

	xm_procid_self(&self);
	return dead(f, &f->proc[index], &self);
}

/* ---- giving back -------------------------------------------------------------------------------------- */

static void put_slot(struct xm_family *f, uint64_t slot)
{
	uint64_t slab = slot >> XM_SLAB_SLOT_SHIFT;

	/* words come from a program that may have died of writing over them */
	if (slab >= xm_load(&f->nslabs) || xm_load(&f->slab[slab].state) == XM_SLAB_EXPLICIT)
		return;
	if (xm_slots_refs(f, slot))
		xm_slots_put(f, slot);
}

static void clear_words(struct xm_family *f, xm_pte *words)
{
	for (uint64_t i = 0; i < WORDS_PER_PAGE; i++) {
		xm_pte w;

		if (!xm_load_relaxed(&words[i]))
			continue;
		w = __atomic_exchange_n(&words[i], 0, __ATOMIC_ACQ_REL);
		if (w & XM_PG_HAS_SLOT)
			put_slot(f, xm_pg_slot(w));
	}
}

static void clear_page_table(struct xm_family *f, uint32_t index)
{
	uint64_t high = xm_min(xm_load(&f->proc[index].pt_pages_high), XM_EXT_PAGES) >> XM_TOUCH_SHIFT;
	const uint8_t *touch = xm_family_touch(f, index);
	char *pt = (char *)xm_family_pt(f, index);

	for (uint64_t piece = 0; piece < high; piece += PIECE_PAGES) {
		uint64_t end = xm_min(piece + PIECE_PAGES, high);
		bool any = false;

		for (uint64_t i = piece; i < end; i++) {
			if (!xm_load_relaxed(&touch[i]))
				continue;
			clear_words(f, (xm_pte *)(pt + i * XM_PAGE_SIZE));
			any = true;
		}
		if (any)
			xm_sys_madvise(pt + piece * XM_PAGE_SIZE, PIECE_PAGES * XM_PAGE_SIZE, MADV_REMOVE);
	}
	/* last: who takes over from us finds its way by it */
	xm_sys_madvise(xm_family_touch(f, index), XM_TOUCH_BYTES, MADV_REMOVE);
}

/* Frames and charge of the dead are free at once, also while its slots rest. */
static void give_back_charges(struct xm_family *f, struct xm_proc *p)
{
	xm_sub_to_zero(&f->resident_pages, __atomic_exchange_n(&p->resident, 0, __ATOMIC_ACQ_REL));
	xm_sub_to_zero(&f->committed_pages, __atomic_exchange_n(&p->committed, 0, __ATOMIC_ACQ_REL));
}

/* ---- what a kill leaves in the sums ------------------------------------------------------------------------
 *
 * A page is charged to its process and to the family by two additions. Killed between them, a process leaves the
 * family's sum off by a batch, for ever, and a family may see many kills. The sum cannot be computed afresh while
 * others change it; but a difference that is still the same after a while, with nothing moving at both looks, is
 * one that nobody will make good. Wrong after all (a thread that was stopped between its additions), it is found
 * again by the same way once that thread goes on.
 */

static uint64_t sum_of(struct xm_family *f, size_t part)
{
	uint32_t high = xm_load(&f->procs_high);
	uint64_t sum = 0;

	for (uint32_t i = 0; i < high; i++)
		sum += xm_load((uint64_t *)((char *)&f->proc[i] + part));
	return sum;
}

static void true_up(struct xm_family *f, uint64_t *total, size_t part, struct xm_drift *seen)
{
	uint64_t before = xm_load(total), parts = sum_of(f, part), now = xm_now_ns();
	int64_t off = (int64_t)(before - parts), last = xm_load(&seen->pages);

	if (xm_load(total) != before || sum_of(f, part) != parts)
		return; /* busy: another time */
	if (off != last) {
		xm_store(&seen->since_ns, now);
		xm_store(&seen->pages, off);
	} else if (off && now - xm_load(&seen->since_ns) >= XM_TRUE_UP_NS &&
		   /* one of several that find it mends it */
		   __atomic_compare_exchange_n(&seen->pages, &last, 0, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
		xm_sub(total, (uint64_t)off);
	}
}

void xm_family_true_up(struct xm_family *f)
{
	true_up(f, &f->resident_pages, offsetof(struct xm_proc, resident), &f->resident_drift);
	true_up(f, &f->committed_pages, offsetof(struct xm_proc, committed), &f->committed_drift);
}

/* With the entry locked and in state REAPING. */
static void give_back(struct xm_family *f, uint32_t index)
{
	struct xm_proc *p = &f->proc[index];

	clear_page_table(f, index);
	xm_slots_take_back(f, index);
	give_back_charges(f, p);
	p->stats.resident_pages = p->stats.mapped_pages = p->stats.remote_pages = 0;
	if (!p->ended_ns)
		p->ended_ns = xm_now_ns();
	p->pt_pages_high = 0;
	xm_store(&p->state, XM_PROC_ENDED);
}

/* A child that died before it came to life leaves its entry in the name of the parent that claimed it. None takes this
 * long: the parent's gate is closed meanwhile. One that comes later still is refused by xm_family_proc_live(). */
static bool never_lived(const struct xm_proc *p, uint32_t state)
{
	return state == XM_PROC_STARTING && xm_now_ns() - p->joined_ns > 3 * XM_STARTING_GRACE_NS;
}

/* whether the time since the process was first seen dead is long enough; notes that first time */
static bool grace_over(struct xm_family *f, struct xm_proc *p, uint32_t state)
{
	uint64_t now = xm_now_ns(), grace = f->reap_grace_ns;

	if (state == XM_PROC_STARTING)
		grace = xm_max(grace, XM_STARTING_GRACE_NS);
	if (!p->ended_ns)
		p->ended_ns = now;
	return now - p->ended_ns >= grace;
}

/* Dead, and its grace time is over; until then at least the charges of a dead process are given back. */
static bool is_due(struct xm_family *f, struct xm_proc *p, const struct xm_procid *self, uint32_t state)
{
	if (!dead(f, p, self))
		return false;
	if (grace_over(f, p, state))
		return true;
	if (state == XM_PROC_LIVE) /* a claimed entry may still become somebody's */
		give_back_charges(f, p);
	return false;
}

enum reap_mode { REAP_IF_DEAD, REAP_NOW };

static bool reap(struct xm_family *f, uint32_t index, const struct xm_procid *self, enum reap_mode mode)
{
	struct xm_proc *p = &f->proc[index];
	uint32_t state = xm_load(&p->state);
	bool done = false;

	if (state == XM_PROC_FREE || state == XM_PROC_ENDED)
		return false;
	/* cheap look before the lock; the answer counts only under it */
	if (mode == REAP_IF_DEAD && state != XM_PROC_REAPING && !never_lived(p, state) && !dead(f, p, self))
		return false;
	if (!xm_proc_lock(f, p))
		return false;
	state = xm_load(&p->state);
	switch (state) {
	case XM_PROC_STARTING:
	case XM_PROC_LIVE:
		if (mode == REAP_IF_DEAD && !never_lived(p, state) && !is_due(f, p, self, state))
			break;
		xm_store(&p->state, XM_PROC_REAPING);
		give_back(f, index);
		done = true;
		break;
	case XM_PROC_REAPING: /* the lock's former owner died over it */
		give_back(f, index);
		done = true;
		break;
	default: break;
	}
	xm_proc_unlock(p);
	return done;
}

bool xm_family_reap(struct xm_family *f, uint32_t index)
{
	struct xm_procid self;

	xm_procid_self(&self);
	return reap(f, index, &self, REAP_IF_DEAD);
}

/* Whether the entry is the only one in use of its process: a later image of it may hold locks by right. */
static bool only_image(struct xm_family *f, uint32_t index)
{
	uint32_t high = xm_load(&f->procs_high);

	for (uint32_t i = 0; i < high; i++) {
		const struct xm_proc *p = &f->proc[i];
		uint32_t state = xm_load(&p->state);

		if (i != index && p->pid == f->proc[index].pid && (state == XM_PROC_STARTING || state == XM_PROC_LIVE))
			return false;
	}
	return true;
}

/* Its slots rest like those of the dead: over a network its last writes may still be on their way. */
bool xm_family_reap_image(struct xm_family *f, uint32_t index)
{
	struct xm_proc *p = &f->proc[index];

	if (!(__atomic_fetch_or(&p->flags, XM_PROC_EXECED, __ATOMIC_ACQ_REL) & XM_PROC_FOREIGN) && only_image(f, index))
		xm_family_unlock_all_of(f, p->pid);
	return xm_family_reap(f, index);
}

void xm_family_proc_drop(struct xm_family *f, uint32_t index)
{
	reap(f, index, NULL, REAP_NOW);
}

int xm_family_reap_dead(struct xm_family *f)
{
	uint32_t high = xm_load(&f->procs_high);
	struct xm_procid self;
	int n = 0;

	xm_procid_self(&self);
	for (uint32_t i = 0; i < high; i++)
		n += reap(f, i, &self, REAP_IF_DEAD);
	xm_family_true_up(f);
	return n;
}

/* ---- sums --------------------------------------------------------------------------------------------- */

#define COUNTERS (offsetof(struct xm_proc_stats, fetch_ns) / sizeof(uint64_t))
#define HISTS ((offsetof(struct xm_proc_stats, link) - offsetof(struct xm_proc_stats, fetch_ns)) / sizeof(struct xm_hist))

_Static_assert(offsetof(struct xm_proc_stats, fetch_ns) % sizeof(uint64_t) == 0, "all counters are u64");
_Static_assert(sizeof(struct xm_proc_stats) == COUNTERS * sizeof(uint64_t) + HISTS * sizeof(struct xm_hist) +
		       XM_MAX_APPLIANCES * sizeof(struct xm_link_stats),
	       "histograms follow the counters, figures of links them, and nothing else does");

void xm_proc_stats_merge(struct xm_proc_stats *into, const struct xm_proc_stats *from)
{
	const uint64_t *src = (const uint64_t *)from;
	uint64_t *dst = (uint64_t *)into;

	for (size_t i = 0; i < COUNTERS; i++) {
		uint64_t v = xm_load_relaxed(&src[i]);

		if (i == offsetof(struct xm_proc_stats, over_budget_pages_max) / sizeof(uint64_t) ||
		    i == offsetof(struct xm_proc_stats, fetchers_max) / sizeof(uint64_t))
			xm_raise_u64(&dst[i], v);
		else if (v)
			xm_add(&dst[i], v);
	}
	for (size_t i = 0; i < HISTS; i++)
		xm_hist_merge(&into->fetch_ns + i, &from->fetch_ns + i);
	for (unsigned a = 0; a < XM_MAX_APPLIANCES; a++)
		xm_link_stats_merge(&into->link[a], &from->link[a], NULL);
}
