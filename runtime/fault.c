/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault.c - one fault, from message to wake-up.
 *
 *   EMPTY     zeros are installed, in runs that double while a thread touches fresh pages in order
 *   REMOTE    the page, and what the prefetch policy advises, is locked (FETCHING), read in one batch and
 *             installed in runs (the page by itself, and the rest afterwards, where its reader is ahead of its faults:
 *             stream.h); write-protected where the fault was a read, so that it is known clean
 *   RESIDENT  write to a clean page: unprotected and dirty from now on. A missing page that should be there was
 *             dropped by a raw system call of the program: it reads as zeros, as the kernel would have it
 *   BUSY      WAITER is set and nothing else: whoever owns the page wakes the sleeper. Nobody waits here
 *   LOST/FREED  SIGBUS (poison)
 *
 * Runs on handler threads; the resolver takes no lock (but the policy's, for a list insertion), allocates nothing
 * and touches no external memory. A page is never waited for while another is locked.
 */
#include "runtime/internal.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/pattern.h"
#include "runtime/probes.h"
#include "runtime/track.h"
#include "runtime/uffd.h"

#define STREAM_MIN 8 /* pages ahead that are worth making room for */
#define STREAM_TRIES 8 /* for the set of streams, before a run goes unrecorded */
#define AHEAD_FREE (4ull * XM_PREFETCH_MAX) /* free frames, without which nothing is fetched ahead of its reader */
#define RUN_MAX 64 /* pages that are filled with zeros, or made writable, by one call */

/* NULL: another thread's fault has it */
static struct xm_streams *streams_get(struct xm_runtime *rt, uint32_t tid)
{
	struct xm_streams *set = &rt->streams[(tid * 2654435761u >> 16) % XM_STREAMS];

	return xm_streams_try(set) ? set : NULL;
}

/* The page may be written again; refused (it was unmapped behind our back), it wakes all the same: the thread then finds
 * what is there now. */
static void unprotect(struct xm_runtime *rt, uint64_t page)
{
	uint64_t addr = xm_page_addr(page);

	if (xm_uffd_writeprotect(rt->uffd, addr, XM_PAGE_SIZE, false) < 0)
		xm_uffd_wake(rt->uffd, addr, XM_PAGE_SIZE);
}

static bool try_lock_page(xm_pte *p, xm_pte *seen, enum xm_page_state want)
{
	return xm_pg_state(*seen) == want && xm_pg_cas(p, seen, xm_pg_with_state(*seen, XM_PG_FETCHING));
}

/* The page can never be had again: a touch, also the one that waits now, is SIGBUS. Where the kernel cannot
 * poison, the page is replaced by one of a file that ends before it, which gives the same signal. The caller owns the
 * word: without it the page could be unmapped and be somebody else's by now. */
static void poison(struct xm_runtime *rt, uint64_t page)
{
	uint64_t addr = xm_page_addr(page);
	int fd;

	xm_stat_add(rt, faults_lost, 1);
	if (rt->features & XM_FEAT_POISON) {
		/* it has been before, or cannot be just now: then the touch comes here again */
		if (xm_uffd_poison(rt->uffd, addr, XM_PAGE_SIZE) < 0)
			xm_uffd_wake(rt->uffd, addr, XM_PAGE_SIZE);
		return;
	}
	xm_fd_borrow();
	fd = (int)xm_sys3(SYS_memfd_create, "xmem-lost", MFD_CLOEXEC, 0);
	if (fd >= 0) {
		xm_sys_mmap((void *)addr, XM_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
		xm_sys_close(fd);
	}
	xm_fd_return();
	xm_uffd_wake(rt->uffd, addr, XM_PAGE_SIZE);
}

/* ---- parts that are timed (fault_time.c) ----------------------------------------------------------------- */

/* One call whose time can be told: the sleepers are woken after it. */
static int64_t install_timed(struct xm_runtime *rt, uint64_t addr, const void *src, uint64_t len, bool wp)
{
	uint64_t before = xm_now_ns();
	int64_t rc;

	if (src)
		rc = xm_uffd_copy_asleep(rt->uffd, addr, src, len, wp);
	else
		rc = xm_uffd_zero_asleep(rt->uffd, addr, len);
	xm_hist_record(&rt->me->stats.part_install_ns, xm_now_ns() - before);
	xm_uffd_wake(rt->uffd, addr, len);
	return rc;
}

/* The kernel's call that gives n pages to the program; src NULL: zeros. Pages installed, or -errno. */
static int64_t install(struct xm_runtime *rt, struct xm_worker *w, uint64_t page, uint64_t n, const void *src, bool wp)
{
	uint64_t addr = xm_page_addr(page), len = n * XM_PAGE_SIZE;
	int64_t rc;

	if (w->spent.page - page < n)
		w->spent.until_ns = xm_now_ns();
	xm_stat_add(rt, install_calls, 1);
	XM_PROBE2(install, addr, n);
	if (++w->installs % XM_INSTALL_SAMPLE == 0)
		rc = install_timed(rt, addr, src, len, wp);
	else if (src)
		rc = xm_uffd_copy(rt->uffd, addr, src, len, wp);
	else
		rc = xm_uffd_zero(rt->uffd, addr, len);
	if (w->spent.page - page < n)
		w->spent.rc = rc;
	return rc > 0 ? rc / (int64_t)XM_PAGE_SIZE : rc;
}

/* The fault makes room before it goes on: the budget is exceeded, or (ahead) a stream is about to exceed it. */
static int make_room(struct xm_runtime *rt, struct xm_worker *w, bool wait, bool ahead)
{
	uint64_t before = xm_now_ns(), ns;
	bool left = xm_reader_leaves(rt, w);
	int rc = 0;

	XM_PROBE1(stall_begin, ahead);
	if (ahead)
		xm_reclaim_batch(rt, XM_BATCH);
	else
		rc = xm_reclaim_for_fault(rt, wait);
	ns = xm_now_ns() - before;
	w->spent.wait_ns += ns;
	XM_PROBE1(stall_end, ns);
	if (left)
		xm_reader_is_back(rt, w);
	return rc;
}

/* ---- first touch --------------------------------------------------------------------------------------- */

/* How many pages to fill: xm_stream_touch. */
static int64_t zero_run(struct xm_runtime *rt, uint32_t tid, uint64_t page)
{
	struct xm_streams *set = streams_get(rt, tid);
	int64_t run;

	if (!set)
		return 1;
	run = xm_stream_touch(set, page, xm_min((uint64_t)RUN_MAX, xm_frame_free(rt) / 8));
	xm_streams_put(set);
	return run;
}

/* Locks those of the run that are EMPTY, up to the first that is not; page is locked already. Returns how many, and
 * which one is the first in memory. */
static uint64_t lock_empty_run(struct xm_runtime *rt, uint64_t page, int64_t run, uint64_t *first)
{
	uint64_t n = (uint64_t)(run < 0 ? -run : run), got = 1;

	for (; got < n; got++) {
		uint64_t at = run < 0 ? page - got : page + got;
		xm_pte *p, seen;

		if (at >= XM_EXT_PAGES)
			break;
		p = xm_pte_touch(rt, at);
		seen = xm_pg_load(p);
		if (!try_lock_page(p, &seen, XM_PG_EMPTY))
			break;
	}
	*first = run < 0 ? page - got + 1 : page;
	return got;
}

/* The page's own word but for its state: pages of explicit regions have their slot from the beginning. */
static void finish_zero(struct xm_runtime *rt, uint64_t page, enum xm_page_state state, uint8_t epoch)
{
	xm_pte word = xm_pg_load(&rt->pt[page]) & ~(XM_PG_WAITER | XM_PG_HOLD_MASK | XM_PG_REF);

	word = xm_pg_with_state(word, state);
	if (state == XM_PG_RESIDENT)
		word = xm_pg_with_epoch(word, epoch) | XM_PG_DIRTY;
	xm_page_settle(rt, page, word);
}

/* Gives n pages from first on to the program, page among them in any case, if it can be; w->mark[]: which ones. Returns
 * what became of page: 1 or -errno. */
static int64_t install_zeros(struct xm_runtime *rt, struct xm_worker *w, uint64_t first, uint64_t n, uint64_t page,
			     const void *src)
{
	int64_t done = install(rt, w, first, n, src, false);

	memset(w->mark, 0, n);
	memset(w->mark, 1, (size_t)xm_max(done, 0));
	if (w->mark[page - first])
		return 1;
	if (n > 1) /* the run crosses a protection boundary, or meets a page that is there */
		done = install(rt, w, page, 1, src, false);
	/* there: dropped and written again behind our back: it is resident all the same */
	w->mark[page - first] = done > 0 || done == -EEXIST;
	return done;
}

static enum xm_fault_kind fault_zero(struct xm_runtime *rt, struct xm_worker *w, uint64_t page, uint32_t tid,
				     bool write)
{
	uint64_t first, n = lock_empty_run(rt, page, zero_run(rt, tid, page), &first);
	uint8_t epoch = xm_reclaim_epoch(rt);
	int64_t done;
	int ok = 0;

	if (!xm_frame_charge(rt, n) && make_room(rt, w, true, false) < 0) {
		xm_frame_uncharge(rt, n);
		for (uint64_t i = first; i < first + n; i++)
			if (i != page)
				finish_zero(rt, i, XM_PG_EMPTY, 0);
		xm_say_full(rt);
		poison(rt, page);
		finish_zero(rt, page, XM_PG_LOST, 0);
		return XM_FAULT_BAD;
	}
	xm_reclaim_expect(rt, page);
	done = install_zeros(rt, w, first, n, page, write ? rt->zeros : NULL);
	for (uint64_t i = 0; i < n; i++) {
		finish_zero(rt, first + i, w->mark[i] ? XM_PG_RESIDENT : XM_PG_EMPTY, epoch);
		if (w->mark[i])
			w->page[ok++] = first + i;
	}
	xm_frame_uncharge(rt, n - (uint64_t)ok);
	xm_reclaim_inserted(rt, w->page, ok, false);
	xm_stat_add(rt, faults_zero, 1);
	xm_stat_add(rt, zero_pages, (uint64_t)ok);
	if (done <= 0)
		xm_uffd_wake(rt->uffd, xm_page_addr(page), XM_PAGE_SIZE);
	return XM_FAULT_ZERO;
}

/* ---- fetch ---------------------------------------------------------------------------------------------- */

/* How many of the advised pages there is room for. The reserve has run dry under a stream: pages leave a batch at a time
 * here too, or each one that comes would send another away by itself. */
static int32_t room_for_advised(struct xm_runtime *rt, struct xm_worker *w, int32_t count)
{
	if (count >= STREAM_MIN && xm_frame_free(rt) < 4 * (uint64_t)count)
		make_room(rt, w, false, true);
	return (int32_t)xm_min((uint64_t)count, xm_frame_free(rt) / 4);
}

/* Locks the advised pages that are remote, behind the n that the batch has, but for the mark: a run has one where there is
 * room for this run and the next. Returns the total; a->count becomes how far it looked. */
static int lock_advised(struct xm_runtime *rt, struct xm_worker *w, int n, struct xm_stream_advice *a)
{
	bool marks = xm_stream_long(a) && xm_frame_free(rt) >= 2 * AHEAD_FREE;
	int32_t k, count = xm_min(a->count, XM_PREFETCH_MAX);

	for (k = 1; k <= count; k++) {
		int64_t at = (int64_t)a->from + a->stride * k;
		xm_pte *p, seen;

		if (at < 0 || at >= (int64_t)XM_EXT_PAGES || !xm_load_relaxed(&rt->touch[at >> XM_TOUCH_SHIFT]))
			break;
		p = &rt->pt[at];
		seen = xm_pg_load(p);
		if (xm_pg_state(seen) != XM_PG_REMOTE || (marks && xm_stream_marks(a, k)) ||
		    !try_lock_page(p, &seen, XM_PG_REMOTE))
			continue;
		w->page[n] = (uint64_t)at;
		w->word[n++] = seen;
	}
	a->count = k - 1;
	return n;
}

/* Installs batch entries [i, end), neighbours in address; status[] gets 0 or -errno each. */
static void install_run(struct xm_runtime *rt, struct xm_worker *w, int i, int end, const void *src, bool wp)
{
	const char *from = src;

	while (i < end) {
		int n = end - i;
		int64_t rc;

		rc = install(rt, w, w->page[i], (uint64_t)n, from, wp);
		if (rc <= 0 && n > 1) /* a protection boundary within: one by one */
			rc = install(rt, w, w->page[i], 1, from, wp);
		n = rc > 0 ? (int)rc : 1;
		for (int k = i; k < i + n; k++)
			w->status[k] = rc > 0 ? 0 : (int32_t)rc;
		from += (size_t)n * XM_PAGE_SIZE;
		i += n;
	}
}

/* Where entry i's content can be had without a copy of our own; *end: how far that holds on. */
static const void *direct_run(struct xm_runtime *rt, struct xm_worker *w, int i, int *end)
{
	const void *src;
	int last = i + 1;

	while (last < *end && xm_pg_slot(w->word[last]) == xm_pg_slot(w->word[last - 1]) + 1)
		last++;
	*end = last;
	src = xm_remote_direct(rt, w, xm_pg_slot(w->word[i]), *end - i, false);
	if (!src && *end > i + 1) {
		*end = i + 1;
		src = xm_remote_direct(rt, w, xm_pg_slot(w->word[i]), 1, false);
	}
	return src;
}

/* Entries that may be installed by one call: neighbours with the same protection. */
static int group_end(struct xm_worker *w, int i, int n)
{
	int end = i + 1;

	while (end < n && w->page[end] == w->page[end - 1] + 1 && w->mark[end] == w->mark[i])
		end++;
	return end;
}

/* What the kernel could not copy from where it is, the link fetches, or finds out why not: the memory behind it was
 * replaced, is gone, or this process lacks memory just now. For how many pages it was asked. */
static int fetch_refused(struct xm_runtime *rt, struct xm_worker *w, int i, int end)
{
	int n = 0;

	for (; i < end; i++) {
		if (w->status[i] != -EFAULT)
			continue;
		w->slot[i] = xm_pg_slot(w->word[i]);
		xm_remote_read(rt, w, &w->slot[i], &w->status[i], 1);
		if (w->status[i] == 0)
			install_run(rt, w, i, i + 1, w->staging, w->mark[i]);
		n++;
	}
	return n;
}

/* Brings the n locked pages of the batch in; mark[]: 1 install write-protected. */
static void fetch_batch(struct xm_runtime *rt, struct xm_worker *w, int n)
{
	bool staged = false;

	for (int i = 0, end; i < n; i = end) {
		const void *src = NULL;

		end = group_end(w, i, n);
		if (!staged)
			src = direct_run(rt, w, i, &end);
		if (!src && !staged) {
			uint64_t before = xm_now_ns();

			/* one batch over the network for all that is left */
			for (int k = i; k < n; k++)
				w->slot[k] = xm_pg_slot(w->word[k]);
			xm_remote_read(rt, w, w->slot + i, w->status + i, n - i);
			if (!w->spent.until_ns) /* else the page is there already, and nobody waits for the others */
				w->spent.fetch_ns += xm_now_ns() - before;
			xm_reader_is_back(rt, w); /* not after the install: who is woken may have this processor first */
			if (i) /* staging is filled from its start: keep the indices aligned */
				memmove(w->staging + (size_t)i * XM_PAGE_SIZE, w->staging,
					(size_t)(n - i) * XM_PAGE_SIZE);
			staged = true;
			end = group_end(w, i, n);
		}
		if (staged) {
			int first = i;

			while (first < end && w->status[first] == 0)
				first++;
			if (first == i) {
				end = i + 1; /* could not be read: status says why */
				continue;
			}
			end = first;
			src = w->staging + (size_t)i * XM_PAGE_SIZE;
		}
		install_run(rt, w, i, end, src, w->mark[i]);
		if (!staged)
			xm_stat_add(rt, fetched_bytes, (uint64_t)(end - i - fetch_refused(rt, w, i, end)) * XM_PAGE_SIZE);
	}
}

/* The appliances are full: the slot of a page that comes in is what a page that must leave needs. */
static bool gives_slot(struct xm_runtime *rt, xm_pte word)
{
	return xm_load_relaxed(&rt->no_room) && xm_slot_state(rt->fam, xm_pg_slot(word)) == XM_SLAB_POOL &&
	       xm_slots_refs(rt->fam, xm_pg_slot(word)) == 1;
}

/* What says that the only copy of a page is gone: its appliance is (also restarted: another session), its slab is, or is
 * not ours any more. Everything else is ours to get over: a page is never given up for that. */
static bool is_final(int32_t status)
{
	return status == -ENOLINK || status == -ESTALE || status == -ENXIO || status == -EACCES;
}

/* What a fetched entry's word becomes, and whether the page is there. */
static bool settle(struct xm_runtime *rt, struct xm_worker *w, int i, bool demanded)
{
	xm_pte word = w->word[i] & ~(XM_PG_WAITER | XM_PG_HOLD_MASK);
	int32_t st = w->status[i];

	/* a page that was there already wakes nobody by itself */
	if (demanded && st == -EEXIST)
		xm_uffd_wake(rt->uffd, xm_page_addr(w->page[i]), XM_PAGE_SIZE);
	if (st == 0 || st == -EEXIST) {
		if (demanded) {
			xm_early_back(&rt->early, word, xm_reclaim_epoch(rt));
			xm_reclaim_expect(rt, w->page[i]);
		}
		word = xm_pg_with_state(xm_pg_with_left(word, XM_LEFT_UNKNOWN), XM_PG_RESIDENT);
		word = xm_pg_with_epoch(word, xm_reclaim_epoch(rt));
		if (st == -EEXIST && w->mark[i] && rt->by_signal) /* writable, also for the kernel */
			xm_uffd_writeprotect(rt->uffd, xm_page_addr(w->page[i]), XM_PAGE_SIZE, false);
		if (!w->mark[i] || st == -EEXIST)
			word |= XM_PG_DIRTY;
		if ((word & XM_PG_DIRTY) && gives_slot(rt, word))
			word = xm_pg_without_slot(word);
		xm_page_settle(rt, w->page[i], word);
		return true;
	}
	/* A prefetch that failed was only a guess. What is not final passes: no memory, or descriptor, for it now (-EFAULT: for
	 * the buffer between), or it is not mapped (any more), and whoever unmaps waits for the word. The thread touches it
	 * again, as often as it takes. */
	if (demanded && is_final(st)) {
		xm_say_page_lost(rt, w->page[i], st);
		poison(rt, w->page[i]);
		xm_sub(&rt->me->stats.remote_pages, 1);
		xm_page_settle(rt, w->page[i], xm_pg_with_state(xm_pg_without_slot(word), XM_PG_LOST));
	} else {
		if (demanded && st != -ENOENT && st != -EINVAL && st != -ESRCH)
			xm_sys_sleep(1000000);
		xm_page_settle(rt, w->page[i], xm_pg_with_state(word, XM_PG_REMOTE));
	}
	if (demanded)
		xm_uffd_wake(rt->uffd, xm_page_addr(w->page[i]), XM_PAGE_SIZE);
	return false;
}

/* Fetches the locked batch, settles every word, accounts. demand: index of the demanded page, -1: none. */
static int fetch_and_settle(struct xm_runtime *rt, struct xm_worker *w, int n, int demand)
{
	int ok = 0;

	fetch_batch(rt, w, n);
	for (int i = 0; i < n; i++) {
		if (settle(rt, w, i, i == demand))
			w->page[ok++] = w->page[i]; /* ok <= i: not read again */
	}
	xm_frame_uncharge(rt, (uint64_t)(n - ok));
	if (ok)
		xm_reclaim_inserted(rt, w->page, ok, true);
	xm_stat_add(rt, fetched_pages, (uint64_t)ok);
	xm_sub(&rt->me->stats.remote_pages, (uint64_t)ok);
	return ok;
}

/* Which pages of the batch, of which `page` is the nearest, come in write-protected: of those that are expected to be written
 * the farthest, by which it shows when that changes. Sorts it. Where `page` is now. */
static int mark_prefetched(struct xm_runtime *rt, struct xm_worker *w, int n, uint64_t page, bool writable)
{
	int demand, far;

	xm_worker_sort(w, n);
	demand = w->page[0] == page ? 0 : n - 1; /* strides go one way */
	far = demand ? 0 : n - 1;
	for (int i = 0; i < n; i++)
		w->mark[i] = (rt->features & XM_FEAT_WP) && (!writable || i == far);
	return demand;
}

/* A fault's stream. It is not held while room is made or pages travel: the thread's next fault, which needs it too, may come
 * before this one is done with. */
struct streaming {
	struct xm_streams *set; /* NULL: no stream */
	struct xm_stream *stream;
	struct xm_stream_advice advice;
};

static bool is_remote(struct xm_runtime *rt, uint64_t page)
{
	return page < XM_EXT_PAGES && xm_load_relaxed(&rt->touch[page >> XM_TOUCH_SHIFT]) &&
	       xm_pg_state(xm_pg_load(&rt->pt[page])) == XM_PG_REMOTE;
}

static void stream_find(struct xm_runtime *rt, uint64_t page, uint32_t tid, bool write, struct streaming *st)
{
	struct xm_stream_fault f = { .page = page,
				     .write = write,
				     .alone = !is_remote(rt, page + 1),
				     .pattern = xm_pattern_of(rt, page) };
	struct xm_stream_judged judged = { 0, 0 };

	memset(st, 0, sizeof(*st));
	st->set = streams_get(rt, tid);
	if (!st->set)
		return;
	st->stream = xm_stream_fetch(st->set, rt->prefetch, &f, &st->advice, &judged);
	xm_streams_put(st->set);
	xm_stat_add(rt, prefetch_hit_pages, judged.hit);
	xm_stat_add(rt, prefetch_waste_pages, judged.waste);
}

/* n pages of the batch are being prefetched, w->mark[] of all `total` tells how. */
static void stream_began(struct xm_runtime *rt, struct xm_worker *w, struct streaming *st, int n, int total)
{
	const struct xm_stream_advice *a = &st->advice;
	int protected = 0, behind = 0;

	xm_stat_add(rt, prefetched_pages, (uint64_t)n);
	/* whoever has the set gives it back in a moment, but for one that has lost its processor */
	for (int try = 0; st->set && !xm_streams_try(st->set); try++) {
		if (try == STREAM_TRIES)
			return;
		xm_sys1(SYS_sched_yield, 0);
	}
	if (!st->set)
		return;
	for (int i = 0; i < total; i++)
		*(a->leave != a->from && (w->page[i] > a->leave) == (a->stride > 0) ? &behind : &protected) += w->mark[i];
	xm_stream_began(st->set, st->stream, a, n, protected, behind);
	xm_streams_put(st->set);
}

/* The reader has not come to the end of its run yet, and fetched from there itself. */
static bool still_ahead(struct streaming *st)
{
	bool same;

	if (!xm_streams_try(st->set))
		return false;
	same = st->stream->used == st->advice.stamp;
	xm_streams_put(st->set);
	return same;
}

/* The next run of a stream whose reader has come to the mark of this one. The thread that faulted goes on meanwhile. Without
 * room pages leave slower than the reader reads: it has to wait for them, and does so at the run's end. So it does where
 * other threads would wait for the last handler that listens. */
static void fetch_ahead(struct xm_runtime *rt, struct xm_worker *w, struct streaming *st, uint64_t page)
{
	struct xm_stream_advice *a = &st->advice;
	int n;

	if (xm_frame_free(rt) < AHEAD_FREE || !still_ahead(st))
		return;
	if (rt->waits && w->reader && !w->away && !xm_reader_may_leave(rt, w, xm_now_ns()))
		return;
	n = lock_advised(rt, w, 0, a);
	if (n)
		mark_prefetched(rt, w, n, w->page[0], a->writable);
	stream_began(rt, w, st, n, n);
	xm_frame_charge(rt, (uint64_t)n); /* there was room */
	if (n)
		fetch_and_settle(rt, w, n, -1);
}

static void fault_fetch(struct xm_runtime *rt, struct xm_worker *w, uint64_t page, xm_pte word, uint32_t tid,
			bool write)
{
	struct streaming st;
	struct xm_stream_advice *a = &st.advice;
	int n = 1, demand, came;
	bool swap;

	stream_find(rt, page, tid, write, &st);
	if (!xm_frame_charge(rt, 1))
		make_room(rt, w, false, false);
	swap = gives_slot(rt, word); /* this page comes in first, then another leaves by its slot */
	if (swap)
		a->count = 0;
	w->page[0] = page;
	w->word[0] = word;
	if (!a->ahead) {
		a->count = room_for_advised(rt, w, a->count);
		n = lock_advised(rt, w, 1, a);
	}
	demand = mark_prefetched(rt, w, n, page, a->writable);
	/* written now, or soon by all experience: dirty at once */
	w->mark[demand] = (rt->features & XM_FEAT_WP) && !write && !swap && !xm_track_writable(rt, page);
	if (a->neighbour && n > 1) /* which may not be touched at all: a write of the page says nothing of it */
		w->mark[1] = (rt->features & XM_FEAT_WP) && !xm_track_writable(rt, page + 1);
	if (!a->ahead)
		stream_began(rt, w, &st, n - 1, n);
	xm_frame_charge(rt, (uint64_t)(n - 1)); /* there was room for those */
	xm_stat_add(rt, faults_fetch, 1);
	came = fetch_and_settle(rt, w, n, demand);
	if (swap)
		xm_reclaim_for_fault(rt, false);
	else if (a->ahead && came)
		fetch_ahead(rt, w, &st, page);
}

uint64_t xm_fault_prefetch(struct xm_runtime *rt, struct xm_worker *w, uint64_t page, uint64_t n)
{
	uint64_t fetched = 0, end = page + n;

	while (page < end && xm_frame_free(rt) > XM_BATCH) {
		int k = 0;

		for (; page < end && k < XM_BATCH / 2; page++) {
			xm_pte seen;

			page = xm_pte_skip(rt, page, end);
			if (page == end)
				break;
			seen = xm_pg_load(&rt->pt[page]);
			if (!try_lock_page(&rt->pt[page], &seen, XM_PG_REMOTE))
				continue;
			w->page[k] = page;
			w->mark[k] = (rt->features & XM_FEAT_WP) != 0;
			w->word[k++] = seen;
		}
		if (!k)
			break;
		xm_frame_charge(rt, (uint64_t)k);
		fetched += (uint64_t)fetch_and_settle(rt, w, k, -1);
		xm_stat_add(rt, prefetched_pages, (uint64_t)k);
	}
	return fetched;
}

/* ---- resident pages ------------------------------------------------------------------------------------- */

/* Locks the clean pages that are expected to be written next; w->page[] and w->word[], in which the first is locked
 * already. Returns how many. */
static int lock_clean_run(struct xm_runtime *rt, struct xm_worker *w, int64_t run)
{
	int n = 1, most = (int)(run < 0 ? -run : run);

	for (; n < most; n++) {
		uint64_t at = run < 0 ? w->page[0] - (uint64_t)n : w->page[0] + (uint64_t)n;
		xm_pte *p, seen;

		if (at >= XM_EXT_PAGES || !xm_load_relaxed(&rt->touch[at >> XM_TOUCH_SHIFT]))
			break;
		p = &rt->pt[at];
		seen = xm_pg_load(p);
		if ((seen & XM_PG_DIRTY) || !try_lock_page(p, &seen, XM_PG_RESIDENT))
			break;
		w->page[n] = at;
		w->word[n] = seen;
	}
	return n;
}

/* A write to a clean page, which is locked: it is writable and dirty from now on, and so are those that will be next. */
static void fault_write(struct xm_runtime *rt, struct xm_worker *w, uint64_t page, xm_pte word, uint32_t tid)
{
	struct xm_streams *set = streams_get(rt, tid);
	int64_t run = set ? xm_stream_write(set, page, RUN_MAX) : 1;
	uint64_t first;
	int n;

	w->page[0] = page;
	w->word[0] = word | XM_PG_REF;
	n = lock_clean_run(rt, w, run);
	first = run < 0 ? w->page[n - 1] : page;
	if (set) {
		xm_stream_wrote(set, page, (uint64_t)n);
		xm_streams_put(set);
	}
	xm_stat_add(rt, faults_write, 1);
	xm_track_wrote(rt, page);
	xm_reclaim_expect(rt, page);
	w->spent.until_ns = xm_now_ns();
	if (n == 1 || xm_uffd_writeprotect(rt->uffd, xm_page_addr(first), (uint64_t)n * XM_PAGE_SIZE, false) < 0)
		for (int i = 0; i < n; i++)
			unprotect(rt, w->page[i]);
	/* where that failed as well it was unmapped behind our back */
	for (int i = 0; i < n; i++)
		xm_page_settle(rt, w->page[i], w->word[i] | XM_PG_DIRTY);
}

static enum xm_fault_kind fault_resident(struct xm_runtime *rt, struct xm_worker *w, uint64_t page, xm_pte word,
					 uint32_t tid, bool wp)
{
	int64_t rc;

	if (wp) {
		fault_write(rt, w, page, word, tid);
		return XM_FAULT_WRITE;
	}
	/* A late message about a page that somebody has brought in since: it is there. If it is not, the program
	 * dropped it without our knowing, and the kernel's meaning of that is zeros. */
	rc = install(rt, w, page, 1, rt->zeros, false);
	xm_stat_add(rt, faults_spurious, 1);
	xm_page_settle(rt, page, rc > 0 ? word | XM_PG_DIRTY : word);
	if (rc <= 0)
		xm_uffd_wake(rt->uffd, xm_page_addr(page), XM_PAGE_SIZE);
	return XM_FAULT_NONE;
}

enum xm_fault_kind xm_fault_resolve(struct xm_runtime *rt, struct xm_worker *w, uint64_t page, uint32_t tid,
				    bool write, bool wp)
{
	xm_pte *p = xm_pte_touch(rt, page);
	xm_pte seen = xm_pg_load(p);

	for (;;) {
		switch (xm_pg_state(seen)) {
		case XM_PG_EMPTY:
			if (wp) { /* protected once, discarded since */
				unprotect(rt, page);
				return XM_FAULT_NONE;
			}
			if (!try_lock_page(p, &seen, XM_PG_EMPTY))
				continue;
			return fault_zero(rt, w, page, tid, write);
		case XM_PG_REMOTE:
			if (!try_lock_page(p, &seen, XM_PG_REMOTE))
				continue;
			fault_fetch(rt, w, page, seen, tid, write);
			return XM_FAULT_FETCH;
		case XM_PG_RESIDENT:
			if (!try_lock_page(p, &seen, XM_PG_RESIDENT))
				continue;
			return fault_resident(rt, w, page, seen, tid, wp);
		case XM_PG_FETCHING:
		case XM_PG_EVICTING:
		case XM_PG_TAKEN:
			if (!wp && tid && tid == xm_load(&rt->evictor_tid)) {
				/* The evictor reads a page that a raw system call dropped behind our back; nobody
				 * else could answer it. The kernel's meaning is zeros; protected, since what is written
				 * between its copy and its drop would be lost. */
				xm_uffd_copy(rt->uffd, xm_page_addr(page), rt->zeros, XM_PAGE_SIZE,
					     (rt->features & XM_FEAT_WP) != 0);
				return XM_FAULT_NONE;
			}
			xm_waiter_begin(rt, tid, page);
			if (!xm_pg_cas(p, &seen, seen | XM_PG_WAITER)) {
				xm_waiter_cancel(rt, tid, page);
				continue;
			}
			xm_stat_add(rt, faults_wait, 1);
			return XM_FAULT_WAIT;
		case XM_PG_FREED:
		case XM_PG_LOST:
			if (!xm_pg_cas(p, &seen, xm_pg_with_state(seen, XM_PG_FETCHING)))
				continue;
			xm_stat_add(rt, faults_bad, 1);
			poison(rt, page);
			xm_page_settle(rt, page, seen);
			return XM_FAULT_BAD;
		}
	}
}

enum xm_fault_kind xm_fault_answer(struct xm_runtime *rt, struct xm_worker *w, const struct xm_message *m)
{
	enum xm_fault_kind kind;
	uint64_t ns;

	w->spent = (struct xm_fault_time){ .page = m->page };
	XM_PROBE3(fault_begin, xm_page_addr(m->page), m->wp ? 2 : m->write, m->tid);
	kind = xm_fault_resolve(rt, w, m->page, m->tid, m->write, m->wp);
	ns = (w->spent.until_ns ? w->spent.until_ns : xm_now_ns()) - m->read_ns;
	XM_PROBE3(fault_end, xm_page_addr(m->page), kind, ns);
	xm_fault_account(rt, w, kind, ns);
	return kind;
}
