/* SPDX-License-Identifier: Apache-2.0 */
/*
 * remap.c - mremap of external memory. The kernel's own is not used: it takes a mapping, and whatever it merges it
 * with, out of the userfaultfd, and leaves no way back when it fails half way. Pages move one by one instead, between
 * two mappings that are registered all the time:
 *
 *   word TAKEN at both ends -> contents copied (or the frame moved, UFFDIO_MOVE) -> old page dropped -> words settled
 *
 * so that an access at any moment finds the page here or there, or sleeps until it is settled. Only resident pages are
 * touched; of the others words move. A page counts as dirty afterwards.
 *
 * Where the old addresses go away, the word of a page that has moved stays TAKEN there until the call ends, so that an
 * access sleeps until it is told that nothing is there any more; pages that came to life meanwhile are moved when the
 * range has been closed (PROT_NONE). No write is lost. With DONTUNMAP the old address is an empty page at once.
 *
 * In a process that lets the kernel pin pages (xm_pins_seen) frames are moved, never copied: by MOVE; one that stays
 * pinned, or cannot be told from such (no MOVE), by the kernel's mremap of that one page, unregistered for the moment.
 * Only a page that nobody can write to, by its protection, is copied there: MOVE refuses it.
 * With DONTUNMAP, where the old address stays in use, that would not be safe: ENOMEM, and what was moved moves back.
 *
 * Runs on program threads, under the map lock; staging under the reclaim lock.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/internal.h"
#include "runtime/mapping_internal.h"
#include "runtime/uffd.h"

#define PAUSE_NS 1000000ull /* the kernel has no memory just now, or the address space changes */
#define TRIES 1000

struct motion {
	struct xm_runtime *rt;
	struct xm_worker *w;
	uint64_t from, to, n; /* pages */
	bool back;	      /* undoing: must not fail */
	bool keep_old;
};

static int book_prot(struct xm_runtime *rt, uint64_t addr)
{
	return xm_value_prot(xm_rangemap_get(&rt->maps, addr)->value[0]);
}

/* The protections that the book says. */
static void protect_again(struct xm_runtime *rt, uint64_t at, uint64_t len)
{
	for (uint64_t end = at + len; at < end;) {
		const struct xm_range *r = xm_rangemap_get(&rt->maps, at);
		uint64_t stop = xm_min(r->end, end);

		xm_sys3(SYS_mprotect, at, stop - at, xm_value_prot(r->value[0]));
		at = stop;
	}
}

/* ---- words ---------------------------------------------------------------------------------------------------- */

/* Locks the destination's word. What a first touch has put there meanwhile is not what belongs there. */
static uint64_t take_dest(struct motion *m, uint64_t page)
{
	struct xm_runtime *rt = m->rt;
	uint64_t dest = page - m->from + m->to;

	xm_pte_touch(rt, dest);
	xm_map_take_page(rt, dest, true);
	if (xm_pg_prev(xm_pg_load(&rt->pt[dest])) == XM_PG_REMOTE)
		xm_sub(&rt->me->stats.remote_pages, 1);
	if (xm_pg_prev(xm_pg_load(&rt->pt[dest])) == XM_PG_RESIDENT) {
		xm_sys_madvise((void *)xm_page_addr(dest), XM_PAGE_SIZE, MADV_DONTNEED);
		xm_frame_uncharge(rt, 1);
	}
	return dest;
}

/* The word of a page that has moved away. True: somebody sleeps on it, and is to be woken. */
static bool leave_word(struct motion *m, xm_pte *p)
{
	xm_pte seen = xm_pg_load(p);

	if (m->keep_old || m->back)
		return xm_pg_clear(p);
	while (!__atomic_compare_exchange_n(p, &seen, XM_PG_TAKEN | (seen & (XM_PG_WAITER | XM_PG_QUEUED)), false,
					    __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		;
	return false;
}

/* The source forgets, then the destination names: never two words for one slot, which a reaper would put twice. */
static void move_word(struct motion *m, uint64_t page, uint64_t dest, xm_pte word)
{
	struct xm_runtime *rt = m->rt;
	xm_pte moved = xm_pg_with_state(word & ~(XM_PG_PREV_MASK | XM_PG_WAITER), xm_pg_prev(word));
	bool wake;

	if (word & XM_PG_PINNED)
		__atomic_fetch_or(&rt->pt[dest], XM_PG_PINNED, __ATOMIC_ACQ_REL);
	wake = leave_word(m, &rt->pt[page]);
	xm_page_settle(rt, dest, moved);
	if (wake)
		xm_page_wake(rt, page);
}

/* ---- resident pages ----------------------------------------------------------------------------------------- */

/* Contents from staging at [dest, dest + len): its words are taken, so nobody else installs there. */
static void install_run(struct xm_runtime *rt, uint64_t dest, const char *src, uint64_t len)
{
	uint64_t done = 0, piece = len;

	while (done < len) {
		int64_t rc = xm_uffd_copy(rt->uffd, dest + done, src + done, xm_min(piece, len - done), false);

		if (rc > 0)
			done += (uint64_t)rc;
		else if (rc == -EEXIST)
			xm_sys_madvise((void *)(dest + done), XM_PAGE_SIZE, MADV_DONTNEED);
		else if (rc != -ENOENT && rc != -EINVAL && rc != -ESRCH)
			xm_sys_sleep(PAUSE_NS);
		else if (piece > XM_PAGE_SIZE)
			piece = XM_PAGE_SIZE; /* across a border of protections */
		else
			done += XM_PAGE_SIZE; /* unmapped by a raw system call meanwhile: nothing is to be there */
	}
}

/* Whether the kernel has nothing there, on its swap either, of which mincore would not know. */
static bool is_absent(uint64_t addr)
{
	uint64_t entry = 0;
	long rc = -1;
	int fd;

	xm_fd_borrow();
	fd = xm_sys_open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		rc = xm_sys6(SYS_pread64, fd, (long)&entry, sizeof(entry),
			     (long)(addr / XM_PAGE_SIZE * sizeof(entry)), 0, 0);
		xm_sys_close(fd);
	}
	xm_fd_return();
	return rc == (long)sizeof(entry) && !(entry >> 62); /* bits: present, swapped */
}

/* Pages w->page[] protected and in staging, zeros for what was unmapped behind our back. -ENOMEM: one that is there
 * could not be; but what comes back while a call is undone has nowhere else to go. */
static int stage(struct motion *m, int n)
{
	struct xm_worker *w = m->w;

	for (int tries = 0; xm_evict_stage(m->rt, w, n) > 0; tries++) {
		int here = 0;

		for (int i = 0; i < n; i++) {
			if (w->mark[i] && is_absent(xm_page_addr(w->page[i])))
				w->mark[i] = 0; /* zeros */
			here += w->mark[i] != 0;
		}
		if (!here)
			return 0;
		if (tries >= TRIES && !m->back)
			return -ENOMEM;
		xm_sys_sleep(PAUSE_NS);
	}
	return 0;
}

static void install(struct motion *m, int n)
{
	for (int i = 0, end; i < n; i = end) {
		for (end = i + 1; end < n && m->w->page[end] == m->w->page[end - 1] + 1; end++)
			;
		install_run(m->rt, xm_page_addr(m->w->page[i] - m->from + m->to),
			    m->w->staging + (size_t)i * XM_PAGE_SIZE, (uint64_t)(end - i) * XM_PAGE_SIZE);
	}
}

/* By the kernel's mremap: nobody else may use the old address. */
static int move_pinned(struct xm_runtime *rt, uint64_t from, uint64_t to)
{
	bool wp = (rt->features & XM_FEAT_WP) != 0;
	long rc;

	xm_uffd_unregister(rt->uffd, from, XM_PAGE_SIZE); /* else the kernel would unregister its new neighbours too */
	rc = xm_sys6(SYS_mremap, (long)from, (long)XM_PAGE_SIZE, (long)XM_PAGE_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED,
		     (long)to, 0);
	if (rc != (long)to) {
		xm_uffd_register(rt->uffd, from, XM_PAGE_SIZE, wp);
		return -EBUSY;
	}
	xm_map_reserve(from, XM_PAGE_SIZE);
	xm_uffd_register(rt->uffd, to, XM_PAGE_SIZE, wp); /* refused: the page is there, and stays */
	protect_again(rt, to, XM_PAGE_SIZE); /* the old range may have been closed */
	return 0;
}

static int64_t move_patiently(struct motion *m, uint64_t from, uint64_t to)
{
	for (int tries = 0;; tries++) {
		int64_t rc = xm_uffd_move(m->rt->uffd, to, from, XM_PAGE_SIZE);

		if ((rc != -ENOMEM && rc != -EAGAIN && rc != -EEXIST) || tries == TRIES || m->back)
			return rc;
		if (rc == -EEXIST) /* put there behind our back */
			xm_sys_madvise((void *)to, XM_PAGE_SIZE, MADV_DONTNEED);
		else
			xm_sys_sleep(PAUSE_NS);
	}
}

/* One page's frame: 0; -EINVAL where a copy does as well (nobody can write to it, or it is not there); -EBUSY, -ENOMEM. */
static int move_frame(struct motion *m, uint64_t page, uint64_t dest)
{
	struct xm_runtime *rt = m->rt;
	uint64_t from = xm_page_addr(page), to = xm_page_addr(dest);
	int64_t rc = -EBUSY;

	if (rt->features & XM_FEAT_MOVE) {
		rc = move_patiently(m, from, to);
		if (rc == -EBUSY) {
			xm_evict_unshare(from);
			rc = move_patiently(m, from, to);
		}
	}
	if (rc == (int64_t)XM_PAGE_SIZE)
		return 0;
	if (rc == -ENOENT || (rc == -EINVAL && !(book_prot(rt, from) & PROT_WRITE)))
		return -EINVAL;
	if (rc == -ENOMEM || rc == -EAGAIN || rc == -EEXIST)
		return -ENOMEM;
	/* pinned; or MOVE does not take it where it is (the old range is closed, a raw mlock), and it might be */
	return m->keep_old ? -EBUSY : move_pinned(rt, from, to);
}

/* n neighbours or single pages, ascending: by way of the staging. 0; -ENOMEM: none. */
static int copy_pages(struct motion *m, const uint64_t *page, int n)
{
	int rc;

	memcpy(m->w->page, page, (size_t)n * sizeof(page[0]));
	rc = stage(m, n);
	if (rc < 0)
		return rc;
	install(m, n);
	xm_evict_drop(m->rt, m->w, n);
	return 0;
}

/* How many of the batch have moved; *rc: why not all, or 0. */
static int move_batch(struct motion *m, const uint64_t *page, const uint64_t *dest, int n, int *rc)
{
	bool by_move = xm_load(&m->rt->pins) != 0 || !(m->rt->features & XM_FEAT_WP);
	int moved = 0;

	*rc = 0;
	if (!by_move) {
		*rc = copy_pages(m, page, n);
		return *rc ? 0 : n;
	}
	for (; moved < n; moved++) {
		*rc = move_frame(m, page[moved], dest[moved]);
		/* exactly this one; on the way back nothing may stay behind */
		if (*rc == -EINVAL || (*rc < 0 && m->back))
			*rc = copy_pages(m, page + moved, 1);
		if (*rc < 0)
			break;
	}
	return moved;
}

/* The batch w->page[], w->word[], ascending, all TAKEN and formerly RESIDENT. 0; -EBUSY, -ENOMEM: some have not moved, and
 * their words are as they were. */
static int move_resident(struct motion *m, int n)
{
	struct xm_runtime *rt = m->rt;
	struct xm_worker *w = m->w;
	uint64_t page[XM_BATCH], dest[XM_BATCH];
	int rc, moved;

	memcpy(page, w->page, (size_t)n * sizeof(page[0]));
	for (int i = 0; i < n; i++)
		dest[i] = take_dest(m, page[i]);
	xm_lock(&rt->reclaim_lock);
	moved = move_batch(m, page, dest, n, &rc);
	xm_unlock(&rt->reclaim_lock);
	for (int i = 0; i < moved; i++)
		move_word(m, page[i], dest[i], w->word[i] | XM_PG_DIRTY);
	for (int i = moved; i < n; i++) {
		xm_page_settle(rt, page[i], xm_pg_with_state((w->word[i] & ~XM_PG_PREV_MASK) | XM_PG_DIRTY,
							    XM_PG_RESIDENT));
		xm_page_settle(rt, dest[i], XM_PG_EMPTY);
	}
	if (moved)
		xm_reclaim_inserted(rt, dest, moved, false);
	if (moved < n) /* those that the policy asked for meanwhile it has forgotten */
		xm_reclaim_inserted(rt, page + moved, n - moved, false);
	return rc;
}

/* Moves everything that has a word. 0; -EBUSY, -ENOMEM: some pages have not moved. */
static int move_pass(struct motion *m)
{
	struct xm_runtime *rt = m->rt;
	uint64_t page = m->from, end = m->from + m->n;
	int rc = 0;

	for (page = xm_pte_skip(rt, page, end); page < end && rc == 0;) {
		int n = 0;

		for (; page < end && n < XM_BATCH; page = xm_pte_skip(rt, page + 1, end)) {
			xm_pte word = xm_pg_load(&rt->pt[page]);

			if (!word || xm_pg_state(word) == XM_PG_TAKEN) /* has moved */
				continue;
			xm_map_take_page(rt, page, false);
			word = xm_pg_load(&rt->pt[page]);
			if (xm_pg_state(word) != XM_PG_TAKEN)
				continue;
			if (xm_pg_prev(word) == XM_PG_EMPTY && !(word & (XM_PG_HAS_SLOT | XM_PG_PINNED))) {
				xm_page_settle(rt, page, XM_PG_EMPTY);
				continue;
			}
			if (xm_pg_prev(word) == XM_PG_RESIDENT) {
				m->w->page[n] = page;
				m->w->word[n++] = word & ~XM_PG_WAITER;
				continue;
			}
			if (xm_pg_prev(word) == XM_PG_LOST) /* the destination is made unreadable when it is touched */
				xm_map_mend_lost(rt, page);
			move_word(m, page, take_dest(m, page), word);
		}
		if (n)
			rc = move_resident(m, n);
	}
	return rc;
}

/* ---- mappings ------------------------------------------------------------------------------------------------- */

/* What the book says of [from, from+len), protections and advice included, holds of `to` as well. The book's entries have been
 * reserved. */
static int mirror(struct xm_runtime *rt, uint64_t from, uint64_t to, uint64_t len)
{
	for (uint64_t at = from; at < from + len;) {
		const struct xm_range *r = xm_rangemap_get(&rt->maps, at);
		uint64_t end = xm_min(r->end, from + len), value[2] = { r->value[0], r->value[1] };
		int prot = xm_value_prot(value[0]);

		if (prot != PROT_NONE && xm_sys3(SYS_mprotect, to + (at - from), end - at, prot) < 0)
			return -ENOMEM;
		if (xm_map_dress(to + (at - from), end - at, xm_value_flags(value[0])) < 0)
			return -ENOMEM;
		xm_rangemap_set(&rt->maps, to + (at - from), to + (end - from), value);
		at = end;
	}
	return 0;
}

/* As long as others may need theirs for an appliance that is away. NULL: longer, or no memory for its staging. */
static struct xm_worker *wait_for_worker(struct xm_runtime *rt)
{
	uint64_t end_ns = xm_now_ns() + rt->fam->cfg.lost_timeout_ns + 1000000000ull;
	struct xm_worker *w;

	while (!(w = xm_worker_get(rt)) && xm_now_ns() < end_ns)
		xm_sys_sleep(100000);
	return w;
}

/* Moves len bytes; the old addresses become reserved again, or stay mapped and empty. On failure all is as before. */
static int move_pages(struct xm_runtime *rt, uint64_t from, uint64_t to, uint64_t len, bool keep_old)
{
	struct motion m = { .rt = rt, .from = xm_page_of((void *)from), .to = xm_page_of((void *)to), .n = len >> XM_PAGE_SHIFT,
			    .keep_old = keep_old };
	struct motion back = { .rt = rt, .from = m.to, .to = m.from, .n = m.n, .back = true };
	int rc;

	m.w = back.w = wait_for_worker(rt);
	if (!m.w)
		return -ENOMEM;
	/* not accessible until it is registered: the kernel would put zeros where absent pages belong */
	if (xm_map_put(rt, to, len, PROT_NONE, 0) < 0) {
		xm_worker_put(m.w);
		return -ENOMEM;
	}
	rc = mirror(rt, from, to, len);
	if (rc == 0)
		rc = move_pass(&m);
	if (rc == 0 && !keep_old) {
		rc = xm_sys3(SYS_mprotect, from, len, PROT_NONE) < 0 ? -ENOMEM : move_pass(&m);
		if (rc < 0)
			protect_again(rt, from, len);
	}
	if (rc < 0)
		move_pass(&back);
	xm_worker_put(m.w);
	if (rc < 0)
		xm_map_drop_late(rt, to, len, false);
	else if (!keep_old)
		xm_map_drop_late(rt, from, len, false);
	return rc < 0 ? -ENOMEM : 0;
}

/* ---- the call ------------------------------------------------------------------------------------------------- */

struct remap {
	uint64_t old, old_len, new_len, to;
	int prot;
	uint64_t flags;
};

/* More room behind a mapping, at `at`. */
static int extend(struct xm_runtime *rt, const struct remap *m, uint64_t at, uint64_t len)
{
	uint64_t f = m->flags;
	int rc = xm_map_charge(rt, len, m->prot, &f);

	if (rc == 0) {
		rc = xm_map_put(rt, at, len, m->prot, f);
		if (rc < 0)
			xm_map_uncharge(rt, len, f);
	}
	return rc;
}

static int remap_in_place(struct xm_runtime *rt, const struct remap *m)
{
	uint64_t end = m->old + m->old_len, want = m->old + m->new_len;

	if (m->new_len <= m->old_len)
		return m->new_len < m->old_len ? xm_map_drop(rt, want, end - want, true) : 0;
	if (want > xm_ext_hi || xm_map_pages_with(rt, end, want, 0))
		return -ENOMEM;
	return extend(rt, m, end, want - end);
}

static int remap_move(struct xm_runtime *rt, struct remap *m, int flags)
{
	uint64_t len = xm_min(m->old_len, m->new_len), charged = xm_map_pages_with(rt, m->old, m->old + len, XM_MAP_CHARGED);
	bool keep = (flags & MREMAP_DONTUNMAP) != 0;
	int rc = 0;

	if (flags & MREMAP_FIXED) {
		if (m->to < m->old + m->old_len && m->old < m->to + m->new_len)
			return -EINVAL;
		rc = xm_map_drop(rt, m->to, m->new_len, true);
	} else {
		rc = xm_rangemap_fit(&rt->maps, xm_ext_lo, xm_ext_hi, m->new_len, XM_PAGE_SIZE, &rt->fit_cursor,
				     &m->to);
	}
	if (rc < 0)
		return rc;
	if (m->new_len > len)
		rc = extend(rt, m, m->to + len, m->new_len - len);
	if (rc < 0)
		return rc;
	if (keep)
		rc = xm_family_commit(rt->fam, rt->proc, charged);
	if (rc == 0) {
		rc = move_pages(rt, m->old, m->to, len, keep);
		if (rc < 0 && keep)
			xm_family_uncommit(rt->fam, rt->proc, charged);
	}
	if (rc < 0) {
		if (m->new_len > len)
			xm_map_drop_late(rt, m->to + len, m->new_len - len, true);
		return rc;
	}
	if (!keep && m->old_len > len)
		xm_map_drop_late(rt, m->old + len, m->old_len - len, true);
	return 0;
}

/* Out of the range: into ordinary local memory, by a copy (the faults are served meanwhile). */
static void *remap_outside(const struct remap *m, bool keep_old)
{
	static const struct {
		uint64_t flag;
		int advice;
	} advice[] = { { XM_MAP_DONTFORK, MADV_DONTFORK },
		       { XM_MAP_WIPEONFORK, MADV_WIPEONFORK },
		       { XM_MAP_DONTDUMP, MADV_DONTDUMP } };
	void *to = (void *)m->to;
	size_t len = xm_min(m->old_len, m->new_len);

	if (!xm_sys_mmap(to, m->new_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0))
		return (void *)(intptr_t)-ENOMEM;
	if (xm_sys3(SYS_mprotect, m->old, len, PROT_READ | PROT_WRITE) < 0) { /* whatever it was: to be read */
		xm_sys_munmap(to, m->new_len);
		return (void *)(intptr_t)-ENOMEM;
	}
	memcpy(to, (void *)m->old, len);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(advice); i++)
		if (m->flags & advice[i].flag)
			xm_sys_madvise(to, m->new_len, advice[i].advice);
	xm_sys3(SYS_mprotect, to, m->new_len, m->prot);
	if (keep_old) {
		xm_map_discard((void *)m->old, m->old_len);
		xm_sys3(SYS_mprotect, m->old, len, m->prot);
	} else {
		xm_map_unmap((void *)m->old, m->old_len);
	}
	return to;
}

/* Whether what has grown from end on is locked, as what is before it. */
static bool wants_lock(struct xm_runtime *rt, uint64_t end)
{
	return rt->lock_future || (xm_pg_load(&rt->pt[xm_page_of((void *)end) - 1]) & XM_PG_PINNED);
}

/* Partly inside the external range: no such mapping can be. */
static bool straddles(uint64_t at, uint64_t len)
{
	return xm_ext_overlaps((void *)at, len) && (at < xm_ext_lo || at + len > xm_ext_hi || at + len < at);
}

void *xm_map_remap(void *old, size_t old_len, size_t new_len, int flags, void *new_addr)
{
	struct xm_runtime *rt = &xm_rt;
	struct remap m = { .new_len = xm_round_up(new_len, XM_PAGE_SIZE), .to = (uint64_t)(uintptr_t)new_addr };
	const struct xm_range *r;
	bool must_move = (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) != 0, lock = false;
	int rc;

	if (!m.new_len || m.new_len < new_len || (must_move && !(flags & MREMAP_MAYMOVE)) || !old_len ||
	    (flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP)) ||
	    ((flags & MREMAP_DONTUNMAP) && xm_round_up(old_len, XM_PAGE_SIZE) != m.new_len) ||
	    ((flags & MREMAP_FIXED) && (m.to % XM_PAGE_SIZE || straddles(m.to, m.new_len))))
		return (void *)(intptr_t)-EINVAL;
	rc = xm_map_begin(old, old_len, &m.old, &m.old_len);
	if (rc < 0)
		return (void *)(intptr_t)rc;
	/* a file that was mapped in between, or a region's window, is no part of the program's own memory */
	if (!xm_rangemap_covers(&rt->maps, m.old, m.old + m.old_len) ||
	    xm_map_pages_with(rt, m.old, m.old + m.old_len, XM_MAP_FOREIGN) ||
	    xm_map_pages_with(rt, m.old, m.old + m.old_len, XM_MAP_REGION)) {
		rc = -EFAULT;
	} else if (xm_rangemap_reserve(&rt->maps, 8 + rt->maps.n) < 0) {
		rc = -ENOMEM;
	} else {
		r = xm_rangemap_get(&rt->maps, m.old);
		m.prot = xm_value_prot(r->value[0]);
		m.flags = xm_value_flags(r->value[0]);
		if ((flags & MREMAP_FIXED) && !xm_ext_overlaps(new_addr, m.new_len)) {
			xm_map_end();
			return remap_outside(&m, (flags & MREMAP_DONTUNMAP) != 0);
		}
		rc = must_move ? -ENOMEM : remap_in_place(rt, &m);
		if (rc == 0)
			m.to = m.old;
		else if ((flags & MREMAP_MAYMOVE) && (must_move || m.new_len > m.old_len))
			rc = remap_move(rt, &m, flags);
		lock = rc == 0 && m.new_len > m.old_len && wants_lock(rt, m.to + m.old_len);
	}
	xm_map_end();
	if (lock) /* what does not fit into the budget any more is not locked: too late to fail */
		xm_map_lock((void *)(m.to + m.old_len), m.new_len - m.old_len);
	return rc < 0 ? (void *)(intptr_t)rc : (void *)m.to;
}
