/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping.c - the book of external mappings: new, fixed, foreign, unmap, protect. (What does not change the
 * book is in advice.c; mremap is in remap.c.)
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
#include "runtime/pattern.h"
#include "runtime/uffd.h"

uint64_t xm_ext_lo, xm_ext_hi;

static const struct xm_rangemap_mem local_mem = { xm_local_alloc, xm_local_free };

/* ---- taking pages -------------------------------------------------------------------------------------------- */

/* Locks the page's word; one that is 0 only if zero_too. */
void xm_map_take_page(struct xm_runtime *rt, uint64_t page, bool zero_too)
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
		xm_map_take_page(rt, page, false);
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

int xm_map_dress(uint64_t addr, uint64_t len, uint64_t flags)
{
	int rc;

	xm_sys_madvise((void *)addr, len, MADV_NOHUGEPAGE); /* faults and evictions are by 4 KiB */
	rc = xm_sys_madvise((void *)addr, len, MADV_DONTFORK); /* but across a fork that we know of: fork.c */
	if (rc == 0 && (flags & XM_MAP_WIPEONFORK))
		rc = xm_sys_madvise((void *)addr, len, MADV_WIPEONFORK);
	if (rc == 0 && (flags & XM_MAP_DONTDUMP))
		rc = xm_sys_madvise((void *)addr, len, MADV_DONTDUMP);
	return rc;
}

/* A lost page was replaced by one of a file that ends before it (fault.c): ordinary zeros again. */
void xm_map_mend_lost(struct xm_runtime *rt, uint64_t page)
{
	const struct xm_range *r = xm_rangemap_get(&rt->maps, xm_page_addr(page));
	int prot = r ? xm_value_prot(r->value[0]) : PROT_NONE;

	if (!xm_sys_mmap((void *)xm_page_addr(page), XM_PAGE_SIZE, prot,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0))
		return;
	xm_map_dress(xm_page_addr(page), XM_PAGE_SIZE, r ? xm_value_flags(r->value[0]) : 0);
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
			xm_map_mend_lost(rt, page);
		give_back(rt, word);
		if (unmapped)
			xm_page_forget(rt, page);
		else
			xm_page_settle(rt, page, to);
	}
}

/* ---- book and charge ----------------------------------------------------------------------------------------- */

void xm_map_count(struct xm_runtime *rt, int64_t pages)
{
	uint64_t now = xm_add(&rt->me->stats.mapped_pages, (uint64_t)pages) + (uint64_t)pages;

	xm_stat_max(rt, mapped_pages_max, now);
}

/* Pages of [start, end) that are in the book with all of `flags`. */
uint64_t xm_map_pages_with(struct xm_runtime *rt, uint64_t start, uint64_t end, uint64_t flags)
{
	const struct xm_range *r = xm_rangemap_find(&rt->maps, start);
	const struct xm_range *last = rt->maps.r + rt->maps.n;
	uint64_t bytes = 0;

	for (; r && r < last && r->start < end; r++)
		if ((xm_value_flags(r->value[0]) & flags) == flags)
			bytes += xm_min(r->end, end) - xm_max(r->start, start);
	return bytes >> XM_PAGE_SHIFT;
}

/* [start, end) now has these flags. Without memory for the map advice is none: it never fails. */
static void set_pattern(struct xm_runtime *rt, uint64_t start, uint64_t end, uint64_t flags)
{
	const enum xm_pattern pattern = flags & XM_MAP_RANDOM	  ? XM_PATTERN_RANDOM :
					flags & XM_MAP_SEQUENTIAL ? XM_PATTERN_SEQUENTIAL :
								    XM_PATTERN_NONE;
	const uint64_t part = XM_PAGE_SIZE << XM_TOUCH_SHIFT;
	uint8_t *map = rt->patterns;

	if (!map && pattern != XM_PATTERN_NONE) {
		map = xm_local_alloc(XM_TOUCH_BYTES);
		xm_store(&rt->patterns, map);
	}
	if (!map)
		return;
	start = (start - xm_ext_lo + part / 2) / part;
	end = (end - xm_ext_lo + part / 2) / part;
	for (; start < end && start < XM_TOUCH_BYTES; start++)
		if (xm_load_relaxed(&map[start]) != pattern) /* else it may be a page that was never touched */
			__atomic_store_n(&map[start], (uint8_t)pattern, __ATOMIC_RELAXED);
}

void xm_map_set_flags(struct xm_runtime *rt, uint64_t addr, uint64_t end, uint64_t set, uint64_t clear)
{
	while (addr < end) {
		const struct xm_range *r = xm_rangemap_find(&rt->maps, addr);
		uint64_t from, to, value[2];

		if (!r || r->start >= end)
			return;
		from = xm_max(r->start, addr);
		to = xm_min(r->end, end);
		value[0] = xm_value(xm_value_prot(r->value[0]), (xm_value_flags(r->value[0]) | set) & ~clear);
		value[1] = r->value[1];
		xm_rangemap_set(&rt->maps, from, to, value);
		set_pattern(rt, from, to, xm_value_flags(value[0]));
		addr = to;
	}
}

static bool wants_charge(int prot, uint64_t flags)
{
	return (prot & PROT_WRITE) && !(flags & (XM_MAP_NORESERVE | XM_MAP_REGION));
}

bool xm_map_reserve(uint64_t addr, uint64_t len)
{
	return xm_sys_mmap((void *)addr, len, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != NULL;
}

/* Fresh zeros at [addr, addr+len), registered. The charge has been made. */
int xm_map_put(struct xm_runtime *rt, uint64_t addr, uint64_t len, int prot, uint64_t flags)
{
	uint64_t value[2] = { xm_value(prot, flags), 0 };
	int rc;

	if (xm_rangemap_reserve(&rt->maps, 2) < 0)
		return -ENOMEM;
	if (!xm_sys_mmap((void *)addr, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0))
		return -ENOMEM;
	rc = xm_map_dress(addr, len, flags);
	if (rc == 0)
		rc = xm_uffd_register(rt->uffd, addr, len, (rt->features & XM_FEAT_WP) != 0);
	if (rc < 0) {
		xm_map_reserve(addr, len);
		return rc == -ENOMEM ? -ENOMEM : -EINVAL;
	}
	xm_rangemap_set(&rt->maps, addr, addr + len, value);
	set_pattern(rt, addr, addr + len, flags);
	xm_map_count(rt, (int64_t)(len >> XM_PAGE_SHIFT));
	return 0;
}

/* Taken words are as before; the policy is told, which may have asked meanwhile and forgotten. */
static void untake(struct xm_runtime *rt, uint64_t page, uint64_t n)
{
	uint64_t end = page + n;

	for (page = xm_pte_skip(rt, page, end); page < end; page = xm_pte_skip(rt, page + 1, end)) {
		xm_pte word = xm_pg_load(&rt->pt[page]);

		if (xm_pg_state(word) != XM_PG_TAKEN)
			continue;
		xm_page_settle(rt, page, xm_pg_with_state(word & ~XM_PG_PREV_MASK, xm_pg_prev(word)));
		if (xm_pg_prev(word) == XM_PG_RESIDENT)
			xm_reclaim_inserted(rt, &page, 1, false);
	}
}

int xm_map_drop(struct xm_runtime *rt, uint64_t addr, uint64_t len, bool uncommit)
{
	uint64_t mapped = xm_map_pages_with(rt, addr, addr + len, 0);
	uint64_t charged = xm_map_pages_with(rt, addr, addr + len, XM_MAP_CHARGED);
	uint64_t page = (addr - xm_ext_lo) >> XM_PAGE_SHIFT, n = len >> XM_PAGE_SHIFT;

	xm_map_take(rt, page, n);
	if (!xm_map_reserve(addr, len)) {
		untake(rt, page, n);
		return -ENOMEM;
	}
	/* pages that came to life in between: nothing new can come any more */
	xm_map_take(rt, page, n);
	xm_map_release(rt, page, n, true);
	xm_rangemap_clear(&rt->maps, addr, addr + len);
	xm_map_count(rt, -(int64_t)mapped);
	if (uncommit)
		xm_family_uncommit(rt->fam, rt->proc, charged);
	return 0;
}

void xm_map_drop_late(struct xm_runtime *rt, uint64_t addr, uint64_t len, bool uncommit)
{
	uint64_t charged = xm_map_pages_with(rt, addr, addr + len, XM_MAP_CHARGED);
	uint64_t page = (addr - xm_ext_lo) >> XM_PAGE_SHIFT, n = len >> XM_PAGE_SHIFT;

	if (xm_map_drop(rt, addr, len, uncommit) == 0)
		return;
	xm_map_take(rt, page, n);
	xm_sys_madvise((void *)addr, len, MADV_DONTNEED);
	xm_map_release(rt, page, n, false);
	xm_map_set_flags(rt, addr, addr + len, 0, XM_MAP_CHARGED);
	if (uncommit)
		xm_family_uncommit(rt->fam, rt->proc, charged);
}

int xm_map_charge(struct xm_runtime *rt, uint64_t len, int prot, uint64_t *flags)
{
	*flags &= ~(uint64_t)XM_MAP_CHARGED;
	if (!wants_charge(prot, *flags))
		return 0;
	if (xm_family_commit(rt->fam, rt->proc, len >> XM_PAGE_SHIFT) < 0)
		return -ENOMEM;
	*flags |= XM_MAP_CHARGED;
	return 0;
}

void xm_map_uncharge(struct xm_runtime *rt, uint64_t len, uint64_t flags)
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
	rc = xm_map_charge(rt, bytes, prot, &f);
	if (rc == 0)
		rc = xm_rangemap_fit(&rt->maps, xm_ext_lo, xm_ext_hi, bytes, align ? align : XM_PAGE_SIZE,
				     &rt->fit_cursor, &addr);
	if (rc == 0)
		rc = xm_map_put(rt, addr, bytes, prot, f);
	if (rc < 0)
		xm_map_uncharge(rt, bytes, f);
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
	if (!xm_map_pages_with(rt, addr, addr + bytes, 0))
		rc = 0;
	else if (noreplace)
		rc = -EEXIST;
	else
		rc = xm_rangemap_reserve(&rt->maps, 3) < 0 ? -ENOMEM : xm_map_drop(rt, addr, bytes, true);
	if (rc == 0)
		rc = xm_map_charge(rt, bytes, prot, &f);
	if (rc == 0) {
		rc = xm_map_put(rt, addr, bytes, prot, f);
		if (rc < 0)
			xm_map_uncharge(rt, bytes, f);
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
	rc = xm_rangemap_reserve(&rt->maps, 2);
	if (rc == 0)
		rc = xm_map_drop(rt, addr, bytes, true);
	if (rc == 0)
		rc = xm_rangemap_set(&rt->maps, addr, addr + bytes, value);
	if (rc == 0)
		xm_map_count(rt, (int64_t)(bytes >> XM_PAGE_SHIFT));
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
		rc = xm_map_drop(&xm_rt, addr, bytes, true);
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
	rc = xm_rangemap_reserve(&rt->maps, 2); /* both ends; what is between keeps its entries */
	if (rc == 0)
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

/* ---- start, fork ---------------------------------------------------------------------------------------- */

int xm_mapping_init(struct xm_runtime *rt)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	bool usual = XM_EXT_BASE && (rt->by_signal || !xm_calls_are_trapped());
	void *base = usual ? (void *)XM_EXT_BASE : NULL;
	void *at = xm_sys_mmap(base, XM_EXT_BYTES, PROT_NONE, flags | (usual ? MAP_FIXED_NOREPLACE : 0), -1, 0);

	if (usual && at != base) {
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
			xm_map_reserve(r.start, r.end - r.start);
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
