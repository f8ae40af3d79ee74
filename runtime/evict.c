/* SPDX-License-Identifier: Apache-2.0 */
/*
 * evict.c - how a batch of pages leaves, so that nothing is lost:
 *
 *   locked (EVICTING) -> write-protected -> copied to staging -> written and acknowledged -> dropped -> word settled
 *
 * A write meanwhile faults on the protection, finds the page BUSY and sleeps until the word is settled. Clean pages
 * are dropped without a write (they have been write-protected since they came in), pages of zeros without one too. A page whose
 * slot is mapped here and nobody else's is copied there at once, by the same call: then it is written, zeros or not.
 * In a process that was seen to let the kernel pin pages (xm_pins_seen) pages leave by UFFDIO_MOVE, which refuses
 * pinned ones; a page that refuses only because a fork child shares it is unshared by an atomic write of nothing
 * and tried again. Without MOVE such a process keeps its pages.
 *
 * Runs on the reclaim thread and on handlers, one batch at a time (reclaim lock). Pages are read by
 * process_vm_readv or /proc/self/mem, never dereferenced.
 */
#include "runtime/internal.h"

#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/probes.h"
#include "runtime/track.h"
#include "runtime/uffd.h"

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#define IOV_CHUNK 64
#define GAP_PAGES 256 /* locked for one call */
#define JOIN_PAGES 64 /* a window: what lies between two pages is looked at no further */

/* What becomes of a page of the batch. */
enum fate {
	FATE_DIRTY = 0, /* to be written */
	FATE_CLEAN,	/* its slot holds the same */
	FATE_ZERO,	/* nothing but zeros */
	FATE_STAYS,	/* refused, or it could not be written */
};

static char *stage(struct xm_worker *w, int i)
{
	return w->staging + (size_t)i * XM_PAGE_SIZE;
}

static int page_run(const struct xm_worker *w, int i, int n)
{
	int end = i + 1;

	while (end < n && w->page[end] == w->page[end - 1] + 1 && w->mark[end] == w->mark[i])
		end++;
	return end;
}

static bool explicit_slot(struct xm_runtime *rt, xm_pte word)
{
	return (word & XM_PG_HAS_SLOT) && xm_slot_state(rt->fam, xm_pg_slot(word)) == XM_SLAB_EXPLICIT;
}

/* The slot of a page that may be overwritten where it is: nobody else names it. Else XM_NO_SLOT. */
static uint64_t own_slot(struct xm_runtime *rt, xm_pte word)
{
	uint64_t slot = xm_pg_slot(word);

	if (!(word & XM_PG_HAS_SLOT) || xm_slot_state(rt->fam, slot) == XM_SLAB_LOST)
		return XM_NO_SLOT;
	return explicit_slot(rt, word) || xm_slots_refs(rt->fam, slot) == 1 ? slot : XM_NO_SLOT;
}

/* Returns how many are dirty. */
static int classify(struct xm_worker *w, int n)
{
	int dirty = 0;

	for (int i = 0; i < n; i++) {
		bool is = xm_pg_unsaved(w->word[i]);

		w->mark[i] = is ? FATE_DIRTY : FATE_CLEAN;
		dirty += is;
	}
	return dirty;
}

/* Whether all between two pages of the batch may be write-protected with them: what is not here, and what is protected
 * already. A page that is just coming in may be protected after it became writable: its next write is a fault more, which
 * must not happen to a page that is held: the kernel's own write when a thread exits would be lost. */
static bool harmless_gap(struct xm_runtime *rt, uint64_t from, uint64_t to)
{
	if (to - from > JOIN_PAGES)
		return false;
	for (uint64_t page = from + 1; page < to; page++) {
		xm_pte word = xm_pg_load(&rt->pt[page]);
		enum xm_page_state state = xm_pg_state(word);

		if (state != XM_PG_EMPTY && state != XM_PG_REMOTE && state != XM_PG_FETCHING &&
		    (state != XM_PG_RESIDENT || (word & XM_PG_DIRTY)))
			return false;
		if (word & (XM_PG_HOLD_MASK | XM_PG_PINNED))
			return false;
	}
	return true;
}

/* What lies between two pages of a batch and is locked while one call protects them all, for fault mode signal: the kernel's own
 * writes do not wait there. So nothing of it may come in, be made writable, or be handed to a call meanwhile. */
struct gap {
	uint64_t page[GAP_PAGES];
	xm_pte word[GAP_PAGES];
	int n;
};

static void unlock_gap(struct xm_runtime *rt, struct gap *g, int from)
{
	for (int i = from; i < g->n; i++)
		xm_page_settle(rt, g->page[i], g->word[i]);
	g->n = from;
}

static bool lock_gap_page(struct xm_runtime *rt, uint64_t page, struct gap *g)
{
	xm_pte *p = xm_pte_touch(rt, page);
	xm_pte seen = xm_pg_load(p);
	enum xm_page_state state = xm_pg_state(seen), busy = state == XM_PG_RESIDENT ? XM_PG_EVICTING : XM_PG_FETCHING;

	if (g->n == GAP_PAGES || (seen & (XM_PG_HOLD_MASK | XM_PG_PINNED)) ||
	    (state != XM_PG_EMPTY && state != XM_PG_REMOTE && (state != XM_PG_RESIDENT || xm_pg_unsaved(seen))) ||
	    !xm_pg_cas(p, &seen, xm_pg_with_state(seen, busy)))
		return false;
	g->page[g->n] = page;
	g->word[g->n++] = seen & ~XM_PG_WAITER;
	return true;
}

/* All between two pages of the batch, or nothing. */
static bool lock_gap(struct xm_runtime *rt, uint64_t from, uint64_t to, struct gap *g)
{
	int before = g->n;

	for (uint64_t page = from + 1; page < to; page++)
		if (to - from > JOIN_PAGES || !lock_gap_page(rt, page, g)) {
			unlock_gap(rt, g, before);
			return false;
		}
	return true;
}

/* Index of the last dirty page that one call protects together with the dirty page i. g: NULL, or what was locked for it. */
static int protect_run(struct xm_runtime *rt, const struct xm_worker *w, int i, int n, struct gap *g)
{
	int last = i, locked = 0;

	for (int k = i + 1; k < n; k++) {
		uint64_t from = w->page[k - 1], to = w->page[k];

		if (to != from + 1 && !(g ? lock_gap(rt, from, to, g) : harmless_gap(rt, from, to)))
			break;
		if (w->mark[k] == FATE_DIRTY) {
			last = k;
			locked = g ? g->n : 0;
		}
	}
	if (g)
		unlock_gap(rt, g, locked); /* behind the last one */
	return last;
}

static bool protect(struct xm_runtime *rt, uint64_t first, uint64_t last)
{
	xm_stat_add(rt, evict_calls, 1);
	return xm_uffd_writeprotect(rt->uffd, xm_page_addr(first), (last - first + 1) * XM_PAGE_SIZE, true) == 0;
}

/* One call for the dirty pages from i to the last that it can reach. */
static bool protect_with_gaps(struct xm_runtime *rt, struct xm_worker *w, int i, int n, int *last)
{
	struct gap gap;
	bool done;

	gap.n = 0;
	*last = protect_run(rt, w, i, n, rt->by_signal ? &gap : NULL);
	done = protect(rt, w->page[i], w->page[*last]);
	unlock_gap(rt, &gap, 0);
	return done;
}

static void protect_dirty(struct xm_runtime *rt, struct xm_worker *w, int n)
{
	for (int i = 0, last; i < n; i = last + 1) {
		last = i;
		if (w->mark[i] != FATE_DIRTY)
			continue;
		if (protect_with_gaps(rt, w, i, n, &last))
			continue;
		/* across a border of mappings (before Linux 6.3), or unmapped behind our back: that is left to whoever did it */
		for (int k = i; k <= last; k++)
			if (w->mark[k] == FATE_DIRTY && (last == i || !protect(rt, w->page[k], w->page[k])))
				w->mark[k] = FATE_STAYS;
	}
}

/* One page whose protection forbids reading, or that is gone: the kernel reads it for us, or not. Or it was its slot that has
 * gone: whoever writes there from staging finds out why. */
static void copy_hard_page(struct xm_runtime *rt, struct xm_worker *w, int i)
{
	uint64_t addr = xm_page_addr(w->page[i]);
	long rc;

	w->copy[i] = stage(w, i);
	/* no handler will find that a raw system call has dropped it: it is zeros then, protected until it leaves (fault.c) */
	if (rt->by_signal)
		xm_uffd_copy(rt->uffd, addr, rt->zeros, XM_PAGE_SIZE, (rt->features & XM_FEAT_WP) != 0);
	rc = xm_sys6(SYS_pread64, rt->mem_fd, (long)w->copy[i], XM_PAGE_SIZE, (long)addr, 0, 0);
	xm_stat_add(rt, evict_calls, 1);
	if (rc != (long)XM_PAGE_SIZE)
		w->mark[i] = FATE_STAYS;
}

/* Copies up to IOV_CHUNK dirty pages from `from` on by one call; returns the index after them. */
static int copy_chunk(struct xm_runtime *rt, struct xm_worker *w, int from, int n)
{
	struct iovec local[IOV_CHUNK], remote[IOV_CHUNK];
	int index[IOV_CHUNK], k = 0, i, ok;
	long rc;

	for (i = from; i < n && k < IOV_CHUNK; i++) {
		if (w->mark[i] != FATE_DIRTY)
			continue;
		local[k] = (struct iovec){ w->copy[i], XM_PAGE_SIZE };
		remote[k] = (struct iovec){ (void *)xm_page_addr(w->page[i]), XM_PAGE_SIZE };
		index[k++] = i;
	}
	if (!k)
		return i;
	xm_stat_add(rt, evict_calls, 1);
	rc = xm_sys_vm_readv(local, (unsigned)k, remote, (unsigned)k);
	ok = rc > 0 ? (int)(rc / (long)XM_PAGE_SIZE) : 0;
	if (ok == k)
		return i;
	copy_hard_page(rt, w, index[ok]); /* the one it stopped at; go on behind it */
	return index[ok] + 1;
}

static bool is_written(struct xm_worker *w, int i)
{
	return w->mark[i] == FATE_DIRTY && w->copy[i] != stage(w, i);
}

/* Chooses where the pages are copied to: staging, or, where that is possible, their slots. */
static void aim(struct xm_runtime *rt, struct xm_worker *w, int n, bool at_slots)
{
	for (int i = 0; i < n; i++) {
		uint64_t slot = at_slots && w->mark[i] == FATE_DIRTY ? own_slot(rt, w->word[i]) : XM_NO_SLOT;
		char *there = slot == XM_NO_SLOT ? NULL : xm_remote_direct(rt, w, slot, 1, true);

		w->copy[i] = there ? there : stage(w, i);
	}
}

static void copy_dirty(struct xm_runtime *rt, struct xm_worker *w, int n)
{
	xm_store(&rt->evictor_tid, (uint32_t)xm_sys_gettid());
	for (int i = 0; i < n;)
		i = copy_chunk(rt, w, i, n);
	xm_store(&rt->evictor_tid, 0);
}

int xm_evict_stage(struct xm_runtime *rt, struct xm_worker *w, int n)
{
	int refused = 0;

	xm_worker_stage(rt, w, n);
	memset(w->mark, FATE_DIRTY, XM_BATCH);
	if (rt->features & XM_FEAT_WP)
		protect_dirty(rt, w, n);
	aim(rt, w, n, false);
	copy_dirty(rt, w, n);
	for (int i = 0; i < n; i++) {
		if (w->mark[i] != FATE_STAYS)
			continue;
		memset(stage(w, i), 0, XM_PAGE_SIZE);
		refused++;
	}
	return refused;
}

/* ---- the way of processes that pin pages ------------------------------------------------------------------ */

void xm_evict_unshare(uint64_t addr)
{
	static uint32_t nobody;

	/* or-ing 0 into the page's first word, atomically, by the kernel: breaks copy-on-write, changes nothing. It does
	 * not wait for a fault to be answered (EFAULT instead): a page that is gone or protected does not block us */
	xm_sys6(SYS_futex, (long)&nobody, FUTEX_WAKE_OP | FUTEX_PRIVATE_FLAG, 0, 0, (long)addr,
		(long)FUTEX_OP(FUTEX_OP_OR, 0, FUTEX_OP_CMP_EQ, 0));
}

/* Moves the pages into the move area, at their index of the batch. */
static void move_out(struct xm_runtime *rt, struct xm_worker *w, int n)
{
	for (int i = 0; i < n; i++) {
		uint64_t addr = xm_page_addr(w->page[i]);
		uint64_t to = (uint64_t)(uintptr_t)rt->move_area + (uint64_t)i * XM_PAGE_SIZE;
		int64_t rc = xm_uffd_move(rt->uffd, to, addr, XM_PAGE_SIZE);

		xm_stat_add(rt, evict_calls, 1);
		if (rc == -EBUSY) {
			xm_evict_unshare(addr);
			rc = xm_uffd_move(rt->uffd, to, addr, XM_PAGE_SIZE);
			xm_stat_add(rt, evict_calls, 1);
		}
		if (rc != (int64_t)XM_PAGE_SIZE)
			w->mark[i] = FATE_STAYS;
		else if (w->mark[i] == FATE_DIRTY)
			memcpy(stage(w, i), (void *)(uintptr_t)to, XM_PAGE_SIZE);
	}
}

/* The page of the move area goes back, by MOVE, which needs no memory, or by a copy where its place has changed meanwhile
 * (protection, mlock). It is the only one that there is: what may pass is waited for. Given up only where nobody misses
 * it: the place is mapped no more or otherwise, or has a page, all of it behind our back. */
static void put_back(struct xm_runtime *rt, struct xm_worker *w, int i)
{
	uint64_t addr = xm_page_addr(w->page[i]);
	uint64_t from = (uint64_t)(uintptr_t)rt->move_area + (uint64_t)i * XM_PAGE_SIZE;

	for (;;) {
		int64_t rc = xm_uffd_move(rt->uffd, addr, from, XM_PAGE_SIZE);

		xm_stat_add(rt, evict_calls, 1);
		if (rc <= 0)
			rc = xm_uffd_copy(rt->uffd, addr, stage(w, i), XM_PAGE_SIZE, false);
		if (rc > 0 || rc == -EEXIST || rc == -ENOENT || rc == -EINVAL || rc == -ESRCH)
			return;
		xm_sys_sleep(1000000);
	}
}

/* A moved page that could not be written goes back where it was. */
static void move_back(struct xm_runtime *rt, struct xm_worker *w, int n, const uint8_t *moved)
{
	for (int i = 0; i < n; i++)
		if (moved[i] && w->mark[i] == FATE_STAYS)
			put_back(rt, w, i);
	xm_sys_madvise(rt->move_area, XM_BATCH * XM_PAGE_SIZE, MADV_DONTNEED);
	xm_stat_add(rt, evict_calls, 1);
}

/* ---- slots, writing, dropping ----------------------------------------------------------------------------- */

static bool is_zero(const char *page)
{
	return memcmp(page, page + 8, XM_PAGE_SIZE - 8) == 0 && *(const uint64_t *)(const void *)page == 0;
}

/* Gives every page to be written a slot: its own where nobody else names that, else a new one. */
static void choose_slots(struct xm_runtime *rt, struct xm_worker *w, int n)
{
	uint64_t fresh[XM_BATCH];
	int need = 0, got, used = 0;

	for (int i = 0; i < n; i++) {
		xm_pte word = w->word[i];

		w->slot[i] = XM_NO_SLOT;
		if (w->mark[i] != FATE_DIRTY || is_written(w, i))
			continue;
		if (!explicit_slot(rt, word) && is_zero(stage(w, i))) {
			w->mark[i] = FATE_ZERO;
			continue;
		}
		w->slot[i] = own_slot(rt, word);
		need += w->slot[i] == XM_NO_SLOT;
	}
	got = need ? xm_slots_alloc(rt->fam, rt->proc, &w->slot_hint, fresh, need) : 0;
	while (got < need && (xm_remote_find_room(rt) == 0 || xm_family_reap_dead(rt->fam) > 0)) {
		int more = xm_slots_alloc(rt->fam, rt->proc, &w->slot_hint, fresh + got, need - got);

		if (!more)
			break;
		got += more;
	}
	if (need && got == need)
		xm_store(&rt->no_room, 0);
	for (int i = 0; i < n; i++) {
		if (w->mark[i] != FATE_DIRTY || w->slot[i] != XM_NO_SLOT || is_written(w, i))
			continue;
		if (used == got) {
			w->mark[i] = FATE_STAYS;
			continue;
		}
		w->slot[i] = fresh[used++];
		xm_pg_note_slot(&rt->pt[w->page[i]], w->slot[i]);
		xm_slots_own(rt->fam, w->slot[i]);
		/* the page is dirty: what its former slot holds is of no use to it any more */
		if (w->word[i] & XM_PG_HAS_SLOT)
			xm_slots_put(rt->fam, xm_pg_slot(w->word[i]));
		w->word[i] = xm_pg_with_slot(w->word[i], w->slot[i]);
	}
	if (need)
		xm_slots_hand_empty(rt->fam, rt->proc);
}

static void write_out(struct xm_runtime *rt, struct xm_worker *w, int n)
{
	uint64_t written = 0;

	w->unfenced = false;
	xm_remote_write(rt, w, w->slot, w->status, n);
	for (int i = 0; i < n; i++) {
		written += is_written(w, i);
		if (w->slot[i] == XM_NO_SLOT || w->status[i] == 0)
			continue;
		w->mark[i] = FATE_STAYS;
		if (w->status[i] == -ENOLINK)
			xm_remote_lost(rt, w->slot[i]);
		/* what was sent by a connection that no other has replaced may still arrive: nobody gets this slot again */
		if (w->unfenced && !explicit_slot(rt, w->word[i])) {
			xm_pg_drop_slot(&rt->pt[w->page[i]]);
			w->word[i] = xm_pg_without_slot(w->word[i]);
		}
	}
	xm_add(&rt->me->stats.written_bytes, written * XM_PAGE_SIZE);
}

static void drop_one(struct xm_runtime *rt, struct iovec *v)
{
	if (xm_sys_madvise(v->iov_base, v->iov_len, MADV_DONTNEED) == -EINVAL)
		xm_sys_madvise(v->iov_base, v->iov_len, MADV_DONTNEED_LOCKED);
	xm_stat_add(rt, evict_calls, 1);
}

void xm_evict_drop(struct xm_runtime *rt, struct xm_worker *w, int n)
{
	struct iovec v[XM_BATCH];
	size_t bytes = 0;
	int k = 0;

	for (int i = 0; i < n; i++) {
		void *addr = (void *)xm_page_addr(w->page[i]);

		if (w->mark[i] == FATE_STAYS)
			continue;
		bytes += XM_PAGE_SIZE;
		if (k && (char *)v[k - 1].iov_base + v[k - 1].iov_len == (char *)addr)
			v[k - 1].iov_len += XM_PAGE_SIZE;
		else
			v[k++] = (struct iovec){ addr, XM_PAGE_SIZE };
	}
	if (k > 1 && (rt->features & XM_FEAT_MADVISE_VEC)) {
		xm_stat_add(rt, evict_calls, 1);
		if (xm_sys6(SYS_process_madvise, rt->pidfd, (long)v, k, MADV_DONTNEED, 0, 0) == (long)bytes)
			return; /* else: it stopped somewhere; dropping a page twice does no harm */
	}
	for (int i = 0; i < k; i++)
		drop_one(rt, &v[i]);
}

/* The pages that stay are usable again: writable, dirty. */
static void restore_stayers(struct xm_runtime *rt, struct xm_worker *w, int n)
{
	for (int i = 0, end; i < n; i = end) {
		end = page_run(w, i, n);
		if (w->mark[i] != FATE_STAYS)
			continue;
		xm_stat_add(rt, evict_calls, 1);
		xm_uffd_writeprotect(rt->uffd, xm_page_addr(w->page[i]), (uint64_t)(end - i) * XM_PAGE_SIZE, false);
	}
}

/* A page that somebody sleeps on, to write to it, is here still: it stays, instead of being fetched at once. */
static void keep_wanted(struct xm_runtime *rt, struct xm_worker *w, int n)
{
	uint8_t epoch = xm_reclaim_epoch(rt);

	for (int i = 0; i < n; i++)
		if (xm_pg_load(&rt->pt[w->page[i]]) & XM_PG_WAITER) {
			xm_pte left = xm_pg_with_epoch(w->word[i], epoch);

			xm_early_gone(&rt->early, left);
			xm_early_back(&rt->early, left, epoch);
			w->mark[i] = FATE_STAYS;
		}
}

static int settle(struct xm_runtime *rt, struct xm_worker *w, int n)
{
	int gone = 0, stay = 0;

	for (int i = 0; i < n; i++) {
		enum xm_page_left left = xm_pg_left(w->word[i]);
		xm_pte word = w->word[i] & ~(XM_PG_DIRTY | XM_PG_REF | XM_PG_WAITER | XM_PG_HOLD_MASK | XM_PG_LEFT_MASK);
		uint64_t page = w->page[i];

		switch ((enum fate)w->mark[i]) {
		case FATE_DIRTY:
			xm_stat_add(rt, evicted_dirty_pages, 1);
			word = xm_pg_with_state(xm_pg_with_left(word, left), XM_PG_REMOTE);
			word = xm_pg_with_epoch(word, xm_reclaim_epoch(rt));
			xm_early_gone(&rt->early, word);
			break;
		case FATE_CLEAN:
			xm_stat_add(rt, evicted_clean_pages, 1);
			xm_track_clean(rt, page);
			word = xm_pg_with_state(word, XM_PG_REMOTE);
			break;
		case FATE_ZERO:
			xm_stat_add(rt, evicted_zero_pages, 1);
			word = xm_pg_with_state(xm_pg_without_slot(word), XM_PG_EMPTY);
			break;
		case FATE_STAYS:
			w->page[stay++] = page; /* stay <= i: not read again */
			word = xm_pg_with_state(word, XM_PG_RESIDENT) | XM_PG_DIRTY;
			break;
		}
		gone += w->mark[i] != FATE_STAYS;
		if (w->mark[i] == FATE_DIRTY || w->mark[i] == FATE_CLEAN)
			xm_stat_add(rt, remote_pages, 1);
		xm_page_settle(rt, page, word);
	}
	if (stay) {
		xm_stat_add(rt, evict_refused_pages, (uint64_t)stay);
		xm_reclaim_inserted(rt, w->page, stay, false);
	}
	xm_stat_max(rt, remote_pages_max, xm_load_relaxed(&rt->me->stats.remote_pages));
	return gone;
}

int xm_evict_batch(struct xm_runtime *rt, struct xm_worker *w, int n)
{
	bool by_move = xm_load(&rt->pins) != 0 || !(rt->features & XM_FEAT_WP);
	uint64_t before = xm_now_ns(), cpu = xm_thread_cpu_ns(), ns;
	uint8_t moved[XM_BATCH];
	int gone, dirty;

	xm_worker_stage(rt, w, n);
	dirty = classify(w, n);
	XM_PROBE2(evict_begin, n, dirty);
	if (by_move && !(rt->features & XM_FEAT_MOVE))
		memset(w->mark, FATE_STAYS, XM_BATCH);
	else if (by_move)
		move_out(rt, w, n);
	else
		protect_dirty(rt, w, n);
	aim(rt, w, n, !by_move && !xm_load(&rt->no_room)); /* full: pages of zeros had better give their slots back */
	for (int i = 0; i < n; i++)
		moved[i] = by_move && w->mark[i] != FATE_STAYS;
	if (!by_move)
		copy_dirty(rt, w, n);
	choose_slots(rt, w, n);
	write_out(rt, w, n);
	if (by_move) {
		move_back(rt, w, n, moved);
	} else {
		keep_wanted(rt, w, n);
		xm_evict_drop(rt, w, n);
	}
	restore_stayers(rt, w, n);
	gone = settle(rt, w, n);
	xm_frame_uncharge(rt, (uint64_t)gone);
	xm_stat_add(rt, evicted_pages, (uint64_t)gone);
	xm_stat_add(rt, evict_cpu_ns, xm_thread_cpu_ns() - cpu);
	ns = xm_now_ns() - before;
	xm_hist_record(&rt->me->stats.evict_ns, ns);
	XM_PROBE3(evict_end, gone, dirty, ns);
	return gone;
}
