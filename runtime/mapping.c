/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping.c - the book of external mappings: new, fixed, foreign, unmap, protect, remap. (What does not change the
 * book is in advice.c.)
 *
 *   reserved range: PROT_NONE, not registered            -> a touch is SIGSEGV: not present
 *   mapping:        anonymous private, registered        -> absent pages fault to the runtime
 *
 * A call that takes pages away locks their words first (TAKEN, waiting for BUSY ones to settle), then changes the
 * kernel's mapping, then settles the words: no handler or evictor works on a page whose ground is moving, and
 * a fault that comes meanwhile sleeps until the words are settled.
 *
 * Runs on program threads, under the map lock. Handlers and the reclaim thread never take that lock, so a page
 * may be waited for while it is held.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/internal.h"
#include "runtime/mapping_internal.h"
#include "runtime/uffd.h"

uint64_t xm_ext_lo, xm_ext_hi;

static const struct xm_rangemap_mem local_mem = { xm_local_alloc, xm_local_free };

/* ---- taking pages -------------------------------------------------------------------------------------------- */

/* Locks the page's word; one that is 0 only if zero_too. */
static void take_page(struct xm_runtime *rt, uint64_t page, bool zero_too)
{
	xm_pte *p = &rt->pt[page];
	xm_pte seen = xm_pg_load(p);

	for (unsigned spins = 0; seen != 0 || zero_too;) {
		if (xm_pg_state(seen) == XM_PG_TAKEN)
			return; /* by this very call: only the holder of the map lock takes pages */
		if (!xm_pg_busy(seen)) {
			if (xm_pg_cas(p, &seen, xm_pg_taken(seen)))
				return;
			continue;
		}
		if (++spins < 200)
			xm_cpu_relax();
		else
			xm_sys_sleep(20000);
		seen = xm_pg_load(p);
	}
}

void xm_map_take(struct xm_runtime *rt, uint64_t page, uint64_t n)
{
	uint64_t end = page + n;

	for (page = xm_pte_skip(rt, page, end); page < end; page = xm_pte_skip(rt, page + 1, end))
		take_page(rt, page, false);
}

/* Accounts for what a taken page held; its slot goes when the word is settled. */
static void give_back(struct xm_runtime *rt, xm_pte word)
{
	if (xm_pg_prev(word) == XM_PG_RESIDENT)
		xm_frame_uncharge(rt, 1);
	if (xm_pg_prev(word) == XM_PG_REMOTE)
		xm_sub(&rt->me->stats.remote_pages, 1);
	if (xm_pg_prev(word) == XM_PG_RESIDENT || xm_pg_prev(word) == XM_PG_REMOTE)
		xm_stat_add(rt, freed_pages, 1);
}

/* A lost page was replaced by one of a file that ends before it (fault.c): ordinary zeros again. */
static void mend_lost(struct xm_runtime *rt, uint64_t page)
{
	const struct xm_range *r = xm_rangemap_get(&rt->maps, xm_page_addr(page));
	int prot = r ? xm_value_prot(r->value[0]) : PROT_NONE;

	if (xm_sys_mmap((void *)xm_page_addr(page), XM_PAGE_SIZE, prot,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0))
		xm_uffd_register(rt->uffd, xm_page_addr(page), XM_PAGE_SIZE, (rt->features & XM_FEAT_WP) != 0);
}

void xm_map_release(struct xm_runtime *rt, uint64_t page, uint64_t n, bool unmapped)
{
	uint64_t end = page + n;

	for (page = xm_pte_skip(rt, page, end); page < end; page = xm_pte_skip(rt, page + 1, end)) {
		xm_pte word = xm_pg_load(&rt->pt[page]), to = XM_PG_EMPTY;

		if (xm_pg_state(word) != XM_PG_TAKEN)
			continue; /* came to life since: it is no business of this call */
		if (word & XM_PG_PINNED && unmapped)
			xm_sub(&rt->pinned_pages, 1);
		if (!unmapped && (word & XM_PG_HAS_SLOT) &&
		    xm_slot_state(rt->fam, xm_pg_slot(word)) == XM_SLAB_EXPLICIT)
			to = xm_pg_with_slot(to, xm_pg_slot(word));
		if (!unmapped && xm_pg_prev(word) == XM_PG_LOST && !(rt->features & XM_FEAT_POISON))
			mend_lost(rt, page);
		give_back(rt, word);
		if (unmapped)
			xm_page_forget(rt, page);
		else
			xm_page_settle(rt, page, to);
	}
}

/* Puts taken words back as they were. */
static void untake(struct xm_runtime *rt, uint64_t page, uint64_t n)
{
	uint64_t end = page + n;

	for (page = xm_pte_skip(rt, page, end); page < end; page = xm_pte_skip(rt, page + 1, end)) {
		xm_pte word = xm_pg_load(&rt->pt[page]);

		if (xm_pg_state(word) == XM_PG_TAKEN)
			xm_page_settle(rt, page, xm_pg_with_state(word & ~XM_PG_PREV_MASK, xm_pg_prev(word)));
	}
}

/* ---- book and charge ----------------------------------------------------------------------------------------- */

static void count_mapped(struct xm_runtime *rt, int64_t pages)
{
	uint64_t now = xm_add(&rt->me->stats.mapped_pages, (uint64_t)pages) + (uint64_t)pages;

	xm_stat_max(rt, mapped_pages_max, now);
}

/* Pages of [start, end) that are in the book with all of `flags`. */
static uint64_t pages_with(struct xm_runtime *rt, uint64_t start, uint64_t end, uint64_t flags)
{
	const struct xm_range *r = xm_rangemap_find(&rt->maps, start);
	const struct xm_range *last = rt->maps.r + rt->maps.n;
	uint64_t bytes = 0;

	for (; r && r < last && r->start < end; r++)
		if ((xm_value_flags(r->value[0]) & flags) == flags)
			bytes += xm_min(r->end, end) - xm_max(r->start, start);
	return bytes >> XM_PAGE_SHIFT;
}

static bool wants_charge(int prot, uint64_t flags)
{
	return (prot & PROT_WRITE) && !(flags & (XM_MAP_NORESERVE | XM_MAP_REGION));
}

static bool reserve_again(uint64_t addr, uint64_t len)
{
	return xm_sys_mmap((void *)addr, len, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != NULL;
}

/* Fresh zeros at [addr, addr+len), registered. The charge has been made. */
static int put_mapping(struct xm_runtime *rt, uint64_t addr, uint64_t len, int prot, uint64_t flags)
{
	uint64_t value[2] = { xm_value(prot, flags), 0 };
	int rc;

	if (xm_rangemap_reserve(&rt->maps, 2) < 0)
		return -ENOMEM;
	if (!xm_sys_mmap((void *)addr, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0))
		return -ENOMEM;
	xm_sys_madvise((void *)addr, len, MADV_NOHUGEPAGE); /* faults and evictions are by 4 KiB */
	xm_sys_madvise((void *)addr, len, MADV_DONTFORK); /* but across a fork that we know of: fork.c */
	rc = xm_uffd_register(rt->uffd, addr, len, (rt->features & XM_FEAT_WP) != 0);
	if (rc < 0) {
		reserve_again(addr, len);
		return rc == -ENOMEM ? -ENOMEM : -EINVAL;
	}
	xm_rangemap_set(&rt->maps, addr, addr + len, value);
	count_mapped(rt, (int64_t)(len >> XM_PAGE_SHIFT));
	return 0;
}

static void drop_mapping(struct xm_runtime *rt, uint64_t addr, uint64_t len)
{
	uint64_t mapped = pages_with(rt, addr, addr + len, 0);
	uint64_t charged = pages_with(rt, addr, addr + len, XM_MAP_CHARGED);

	xm_map_take(rt, (addr - xm_ext_lo) >> XM_PAGE_SHIFT, len >> XM_PAGE_SHIFT);
	reserve_again(addr, len);
	/* pages that came to life in between: nothing new can come any more */
	xm_map_take(rt, (addr - xm_ext_lo) >> XM_PAGE_SHIFT, len >> XM_PAGE_SHIFT);
	xm_map_release(rt, (addr - xm_ext_lo) >> XM_PAGE_SHIFT, len >> XM_PAGE_SHIFT, true);
	xm_rangemap_clear(&rt->maps, addr, addr + len);
	count_mapped(rt, -(int64_t)mapped);
	xm_family_uncommit(rt->fam, rt->proc, charged);
}

static int charge(struct xm_runtime *rt, uint64_t len, int prot, uint64_t *flags)
{
	*flags &= ~(uint64_t)XM_MAP_CHARGED;
	if (!wants_charge(prot, *flags))
		return 0;
	if (xm_family_commit(rt->fam, rt->proc, len >> XM_PAGE_SHIFT) < 0)
		return -ENOMEM;
	*flags |= XM_MAP_CHARGED;
	return 0;
}

static void uncharge(struct xm_runtime *rt, uint64_t len, uint64_t flags)
{
	if (flags & XM_MAP_CHARGED)
		xm_family_uncommit(rt->fam, rt->proc, len >> XM_PAGE_SHIFT);
}

static int check_range(const void *addr, size_t len, uint64_t *start, uint64_t *bytes)
{
	*start = (uint64_t)(uintptr_t)addr;
	*bytes = xm_round_up(len, XM_PAGE_SIZE);
	if (*start % XM_PAGE_SIZE || *bytes < len || *start < xm_ext_lo || *start + *bytes > xm_ext_hi ||
	    *start + *bytes < *start)
		return -EINVAL;
	return 0;
}

int xm_map_begin(const void *addr, size_t len, uint64_t *start, uint64_t *bytes)
{
	int rc = check_range(addr, len, start, bytes);

	if (rc < 0)
		return rc;
	xm_in_runtime++;
	xm_lock(&xm_rt.map_lock);
	return 0;
}

void xm_map_end(void)
{
	xm_unlock(&xm_rt.map_lock);
	xm_in_runtime--;
}

/* ---- calls ---------------------------------------------------------------------------------------------------- */

/* Populates and pins a mapping just made, where it was asked to be. */
static int after_map(struct xm_runtime *rt, void *addr, size_t len, unsigned flags)
{
	int rc = 0;

	if ((flags & XM_MAP_LOCKED) || rt->lock_future)
		rc = xm_map_lock(addr, len);
	else if (flags & XM_MAP_POPULATE)
		xm_map_populate(rt, (uint64_t)(uintptr_t)addr, len);
	if (rc < 0)
		xm_map_unmap(addr, len);
	return rc;
}

void *xm_map_new(size_t len, size_t align, int prot, unsigned flags)
{
	struct xm_runtime *rt = &xm_rt;
	uint64_t bytes = xm_round_up(len, XM_PAGE_SIZE), addr = 0, f = flags;
	int rc;

	if (!bytes || bytes < len)
		return (void *)(intptr_t)-EINVAL;
	xm_in_runtime++;
	xm_lock(&rt->map_lock);
	rc = charge(rt, bytes, prot, &f);
	if (rc == 0)
		rc = xm_rangemap_fit(&rt->maps, xm_ext_lo, xm_ext_hi, bytes, align ? align : XM_PAGE_SIZE,
				     &rt->fit_cursor, &addr);
	if (rc == 0)
		rc = put_mapping(rt, addr, bytes, prot, f);
	if (rc < 0)
		uncharge(rt, bytes, f);
	xm_map_end();
	if (rc == 0)
		rc = after_map(rt, (void *)addr, bytes, flags);
	return rc < 0 ? (void *)(intptr_t)rc : (void *)addr;
}

void *xm_map_fixed(void *at, size_t len, int prot, unsigned flags, bool noreplace)
{
	struct xm_runtime *rt = &xm_rt;
	uint64_t addr, bytes, f = flags;
	int rc = xm_map_begin(at, len, &addr, &bytes);

	if (rc < 0 || !bytes) {
		if (rc == 0)
			xm_map_end();
		return (void *)(intptr_t)-EINVAL;
	}
	if (pages_with(rt, addr, addr + bytes, 0)) {
		if (noreplace) {
			xm_map_end();
			return (void *)(intptr_t)-EEXIST;
		}
		drop_mapping(rt, addr, bytes);
	}
	rc = charge(rt, bytes, prot, &f);
	if (rc == 0) {
		rc = put_mapping(rt, addr, bytes, prot, f);
		if (rc < 0)
			uncharge(rt, bytes, f);
	}
	xm_map_end();
	if (rc == 0)
		rc = after_map(rt, at, bytes, flags);
	return rc < 0 ? (void *)(intptr_t)rc : at;
}

int xm_map_foreign(void *at, size_t len)
{
	struct xm_runtime *rt = &xm_rt;
	uint64_t addr, bytes, value[2] = { xm_value(PROT_NONE, XM_MAP_FOREIGN), 0 };
	int rc = xm_map_begin(at, len, &addr, &bytes);

	if (rc < 0)
		return rc;
	drop_mapping(rt, addr, bytes);
	rc = xm_rangemap_set(&rt->maps, addr, addr + bytes, value);
	if (rc == 0)
		count_mapped(rt, (int64_t)(bytes >> XM_PAGE_SHIFT));
	xm_map_end();
	return rc;
}

int xm_map_unmap(void *at, size_t len)
{
	uint64_t addr, bytes;
	int rc = len ? xm_map_begin(at, len, &addr, &bytes) : -EINVAL;

	if (rc < 0)
		return rc;
	if (xm_rangemap_reserve(&xm_rt.maps, 1) < 0)
		rc = -ENOMEM;
	else
		drop_mapping(&xm_rt, addr, bytes);
	xm_map_end();
	return rc;
}

/* Charges what becomes writable now, and tells it in *more; -ENOMEM when the limit forbids it. */
static int charge_protect(struct xm_runtime *rt, uint64_t addr, uint64_t end, int prot, uint64_t *charged)
{
	const struct xm_range *r = xm_rangemap_find(&rt->maps, addr), *last = rt->maps.r + rt->maps.n;
	uint64_t more = 0;

	for (; r && r < last && r->start < end; r++) {
		uint64_t flags = xm_value_flags(r->value[0]);

		if (!(flags & (XM_MAP_CHARGED | XM_MAP_FOREIGN)) && wants_charge(prot, flags))
			more += (xm_min(r->end, end) - xm_max(r->start, addr)) >> XM_PAGE_SHIFT;
	}
	*charged = more;
	return more ? xm_family_commit(rt->fam, rt->proc, more) : 0;
}

int xm_map_protect(void *at, size_t len, int prot)
{
	struct xm_runtime *rt = &xm_rt;
	uint64_t addr, bytes, pos, charged = 0;
	int rc = xm_map_begin(at, len, &addr, &bytes);

	if (rc < 0 || !bytes) {
		if (rc == 0)
			xm_map_end();
		return rc;
	}
	if (!xm_rangemap_covers(&rt->maps, addr, addr + bytes)) {
		rc = -ENOMEM;
		goto out;
	}
	rc = charge_protect(rt, addr, addr + bytes, prot, &charged);
	if (rc < 0)
		goto out;
	rc = (int)xm_sys3(SYS_mprotect, addr, bytes, prot);
	if (rc < 0) {
		xm_family_uncommit(rt->fam, rt->proc, charged);
		goto out;
	}
	for (pos = addr; pos < addr + bytes;) {
		const struct xm_range *r = xm_rangemap_get(&rt->maps, pos);
		uint64_t flags = xm_value_flags(r->value[0]), end = xm_min(r->end, addr + bytes);
		uint64_t value[2] = { 0, r->value[1] };

		if (wants_charge(prot, flags) && !(flags & XM_MAP_FOREIGN))
			flags |= XM_MAP_CHARGED;
		value[0] = xm_value(prot, flags);
		xm_rangemap_set(&rt->maps, pos, end, value);
		pos = end;
	}
out:
	xm_map_end();
	return rc;
}

/* ---- mremap ---------------------------------------------------------------------------------------------------- */

/* Locks the destination of every locked source page: a run of first touches may have reached beyond its mapping. */
static void take_dest(struct xm_runtime *rt, uint64_t from, uint64_t to, uint64_t n)
{
	uint64_t end = from + n;

	for (uint64_t page = xm_pte_skip(rt, from, end); page < end; page = xm_pte_skip(rt, page + 1, end)) {
		if (xm_pg_state(xm_pg_load(&rt->pt[page])) != XM_PG_TAKEN)
			continue;
		xm_pte_touch(rt, page - from + to);
		take_page(rt, page - from + to, true);
	}
}

/* Words of n pages follow their pages from `from` to `to`; resident ones count as dirty, since write protection
 * does not survive the move. */
static void move_words(struct xm_runtime *rt, uint64_t from, uint64_t to, uint64_t n)
{
	uint64_t end = from + n;

	for (uint64_t page = xm_pte_skip(rt, from, end); page < end; page = xm_pte_skip(rt, page + 1, end)) {
		xm_pte word = xm_pg_load(&rt->pt[page]);
		uint64_t dest = page - from + to;
		xm_pte moved;

		if (xm_pg_state(word) != XM_PG_TAKEN)
			continue;
		moved = xm_pg_with_state(word & ~(XM_PG_PREV_MASK | XM_PG_WAITER), xm_pg_prev(word));
		if (xm_pg_state(moved) == XM_PG_RESIDENT)
			moved |= XM_PG_DIRTY;
		/* never two words that name one slot: a reaper would put it twice */
		if (xm_pg_clear(&rt->pt[page]))
			xm_uffd_wake(rt->uffd, xm_page_addr(page), XM_PAGE_SIZE);
		if (xm_pg_finish(&rt->pt[dest], moved))
			xm_uffd_wake(rt->uffd, xm_page_addr(dest), XM_PAGE_SIZE);
		if (moved & XM_PG_PINNED) /* finish keeps only what the destination had */
			__atomic_fetch_or(&rt->pt[dest], XM_PG_PINNED, __ATOMIC_ACQ_REL);
		if (xm_pg_state(moved) == XM_PG_RESIDENT)
			xm_reclaim_inserted(rt, &dest, 1, false);
	}
}

/* What the book says of [from, from+len) holds of `to` as well. The caller has reserved the entries. */
static void copy_book(struct xm_runtime *rt, uint64_t from, uint64_t to, uint64_t len)
{
	for (uint64_t at = from; at < from + len;) {
		const struct xm_range *r = xm_rangemap_get(&rt->maps, at);
		uint64_t end = xm_min(r->end, from + len), value[2] = { r->value[0], r->value[1] };

		xm_rangemap_set(&rt->maps, to + (at - from), to + (end - from), value);
		at = end;
	}
}

/* A moved mapping loses its registration, and so does what the kernel merges it with on arrival: registered neighbours
 * would be ordinary memory from then on, their absent pages zeros. Two ways of making it unlike them.
 *
 * The old addresses go: unregistered. Without its registration an absent page would be filled with zeros by whoever
 * touches it now, or waits for it, and those would move along; so it cannot be accessed any more: told early, an
 * access is told the same as afterwards.
 *
 * The old addresses stay and may be used all the time: they keep their registration, and the mapping is told apart by
 * an advice that means nothing to anonymous memory and that no external mapping has otherwise. */
static void part_from_neighbours(struct xm_runtime *rt, uint64_t from, uint64_t len, bool keep_old)
{
	if (keep_old) {
		xm_uffd_writeprotect(rt->uffd, from, len, false);
		xm_sys_madvise((void *)from, len, MADV_SEQUENTIAL);
	} else {
		xm_sys3(SYS_mprotect, from, len, PROT_NONE);
		xm_uffd_unregister(rt->uffd, from, len);
	}
}

/* Undoes it at `at`: where the pages of `from` are now, or still. The book speaks of `from`. */
static void like_neighbours(struct xm_runtime *rt, uint64_t from, uint64_t at, uint64_t len, bool keep_old)
{
	int rc = xm_uffd_register(rt->uffd, at, len, (rt->features & XM_FEAT_WP) != 0);

	xm_assert(rc == 0);
	if (keep_old) {
		xm_sys_madvise((void *)at, len, MADV_NORMAL);
		return;
	}
	for (uint64_t a = from; a < from + len;) {
		const struct xm_range *r = xm_rangemap_get(&rt->maps, a);
		uint64_t end = xm_min(r->end, from + len);

		xm_sys3(SYS_mprotect, at + (a - from), end - a, xm_value_prot(r->value[0]));
		a = end;
	}
}

/* mremap, piece by piece where it must be: to the kernel, what grew in place after a move is several mappings, which
 * it moves one at a time (before Linux 6.17, and with DONTUNMAP always; EFAULT). */
static long move_vmas(uint64_t from, uint64_t to, uint64_t len, int flags)
{
	uint64_t done = 0, piece = len;

	while (done < len) {
		long rc = xm_sys6(SYS_mremap, (long)(from + done), (long)piece, (long)piece, flags, (long)(to + done), 0);

		if (rc == -EFAULT && piece > XM_PAGE_SIZE) {
			piece = xm_round_up(piece / 2, XM_PAGE_SIZE);
			continue;
		}
		if (rc < 0 && rc > -4096) {
			if (done) /* as it was; these pieces have just been moved one by one */
				move_vmas(to, from, done, MREMAP_MAYMOVE | MREMAP_FIXED);
			return rc;
		}
		done += piece;
		piece = len - done;
	}
	return 0;
}

/* Moves len bytes of one mapping; the old addresses become reserved again, or stay mapped and empty. */
static int move_pages(struct xm_runtime *rt, uint64_t from, uint64_t to, uint64_t len, bool keep_old)
{
	uint64_t page = (from - xm_ext_lo) >> XM_PAGE_SHIFT, n = len >> XM_PAGE_SHIFT;
	long rc;

	xm_map_take(rt, page, n);
	take_dest(rt, page, (to - xm_ext_lo) >> XM_PAGE_SHIFT, n);
	part_from_neighbours(rt, from, len, keep_old);
	rc = move_vmas(from, to, len, MREMAP_MAYMOVE | MREMAP_FIXED | (keep_old ? MREMAP_DONTUNMAP : 0));
	if (rc < 0) {
		like_neighbours(rt, from, from, len, keep_old);
		untake(rt, page, n);
		untake(rt, (to - xm_ext_lo) >> XM_PAGE_SHIFT, n);
		reserve_again(to, len);
		return (int)rc;
	}
	if (!keep_old)
		reserve_again(from, len);
	else
		xm_sys_madvise((void *)from, len, MADV_NORMAL);
	like_neighbours(rt, from, to, len, keep_old);
	move_words(rt, page, (to - xm_ext_lo) >> XM_PAGE_SHIFT, n);
	copy_book(rt, from, to, len);
	if (!keep_old)
		xm_rangemap_clear(&rt->maps, from, from + len);
	else
		count_mapped(rt, (int64_t)n);
	return 0;
}

struct remap {
	uint64_t old, old_len, new_len, to;
	int prot;
	uint64_t flags;
};

/* More room behind a mapping, at `at`. */
static int extend(struct xm_runtime *rt, const struct remap *m, uint64_t at, uint64_t len)
{
	uint64_t f = m->flags;
	int rc = charge(rt, len, m->prot, &f);

	if (rc == 0) {
		rc = put_mapping(rt, at, len, m->prot, f);
		if (rc < 0)
			uncharge(rt, len, f);
	}
	return rc;
}

static int remap_in_place(struct xm_runtime *rt, const struct remap *m)
{
	uint64_t end = m->old + m->old_len, want = m->old + m->new_len;

	if (m->new_len <= m->old_len) {
		if (m->new_len < m->old_len)
			drop_mapping(rt, want, end - want);
		return 0;
	}
	if (want > xm_ext_hi || pages_with(rt, end, want, 0))
		return -ENOMEM;
	return extend(rt, m, end, want - end);
}

static int remap_move(struct xm_runtime *rt, struct remap *m, int flags)
{
	uint64_t len = xm_min(m->old_len, m->new_len), charged = pages_with(rt, m->old, m->old + len, XM_MAP_CHARGED);
	bool keep = (flags & MREMAP_DONTUNMAP) != 0;
	int rc = 0;

	if (flags & MREMAP_FIXED) {
		if (m->to < m->old + m->old_len && m->old < m->to + m->new_len)
			return -EINVAL;
		drop_mapping(rt, m->to, m->new_len);
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
			drop_mapping(rt, m->to + len, m->new_len - len);
		return rc;
	}
	if (!keep && m->old_len > len)
		drop_mapping(rt, m->old + len, m->old_len - len);
	return 0;
}

/* Out of the range: into ordinary local memory, by a copy (the faults are served meanwhile). */
static void *remap_outside(const struct remap *m, bool keep_old)
{
	void *to = (void *)m->to;
	size_t len = xm_min(m->old_len, m->new_len);

	if (!xm_sys_mmap(to, m->new_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0))
		return (void *)(intptr_t)-ENOMEM;
	xm_sys3(SYS_mprotect, m->old, len, PROT_READ | PROT_WRITE); /* whatever it was: to be read */
	memcpy(to, (void *)m->old, len);
	xm_sys3(SYS_mprotect, to, m->new_len, m->prot);
	if (keep_old) {
		xm_map_discard((void *)m->old, m->old_len);
		xm_sys3(SYS_mprotect, m->old, len, m->prot);
	} else {
		xm_map_unmap((void *)m->old, m->old_len);
	}
	return to;
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
	bool must_move = (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) != 0;
	int rc;

	if (!m.new_len || m.new_len < new_len || (must_move && !(flags & MREMAP_MAYMOVE)) || !old_len ||
	    (flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP)) ||
	    ((flags & MREMAP_DONTUNMAP) && xm_round_up(old_len, XM_PAGE_SIZE) != m.new_len) ||
	    ((flags & MREMAP_FIXED) && (m.to % XM_PAGE_SIZE || straddles(m.to, m.new_len))))
		return (void *)(intptr_t)-EINVAL;
	rc = xm_map_begin(old, old_len, &m.old, &m.old_len);
	if (rc < 0)
		return (void *)(intptr_t)rc;
	r = xm_rangemap_get(&rt->maps, m.old);
	if (!r || !xm_rangemap_covers(&rt->maps, m.old, m.old + m.old_len) ||
	    xm_rangemap_reserve(&rt->maps, 8 + rt->maps.n) < 0) {
		rc = r ? -ENOMEM : -EFAULT;
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
		else if (flags & MREMAP_MAYMOVE)
			rc = remap_move(rt, &m, flags);
	}
	xm_map_end();
	return rc < 0 ? (void *)(intptr_t)rc : (void *)m.to;
}

/* ---- start, fork ---------------------------------------------------------------------------------------- */

int xm_mapping_init(struct xm_runtime *rt)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	int where = XM_EXT_BASE ? MAP_FIXED_NOREPLACE : 0;
	void *at = xm_sys_mmap((void *)XM_EXT_BASE, XM_EXT_BYTES, PROT_NONE, flags | where, -1, 0);

	if (XM_EXT_BASE && at != (void *)XM_EXT_BASE) {
		if (at) /* an old kernel takes FIXED_NOREPLACE for a hint */
			xm_sys_munmap(at, XM_EXT_BYTES);
		at = xm_sys_mmap(NULL, XM_EXT_BYTES, PROT_NONE, flags, -1, 0);
	}
	if (!at)
		return -ENOMEM;
	xm_rangemap_init(&rt->maps, &local_mem);
	xm_lock_init(&rt->map_lock, XM_RANK_MAP);
	rt->fit_cursor = (uint64_t)(uintptr_t)at;
	xm_ext_lo = (uint64_t)(uintptr_t)at;
	xm_ext_hi = xm_ext_lo + XM_EXT_BYTES;
	return 0;
}

void xm_mapping_let_fork(struct xm_runtime *rt, bool on)
{
	for (size_t i = 0; i < rt->maps.n; i++) {
		struct xm_range *r = &rt->maps.r[i];

		if (!(xm_value_flags(r->value[0]) & (XM_MAP_DONTFORK | XM_MAP_FOREIGN)))
			xm_sys_madvise((void *)r->start, r->end - r->start, on ? MADV_DOFORK : MADV_DONTFORK);
	}
}

int xm_mapping_after_fork(struct xm_runtime *rt)
{
	bool wp = (rt->features & XM_FEAT_WP) != 0;
	size_t i = 0;

	while (i < rt->maps.n) {
		struct xm_range r = rt->maps.r[i];
		uint64_t flags = xm_value_flags(r.value[0]);
		int rc;

		if (flags & XM_MAP_DONTFORK) {
			reserve_again(r.start, r.end - r.start);
			xm_rangemap_clear(&rt->maps, r.start, r.end);
			continue;
		}
		i++;
		if (flags & XM_MAP_FOREIGN)
			continue;
		rc = xm_uffd_register(rt->uffd, r.start, r.end - r.start, wp);
		if (rc < 0)
			return rc;
		xm_sys_madvise((void *)r.start, r.end - r.start, MADV_DONTFORK);
	}
	return 0;
}
