/* SPDX-License-Identifier: Apache-2.0 */
/*
 * advice.c - calls on external mappings that do not change their addresses: madvise, mincore, mlock, pins.
 * Program threads, under the map lock where the book is read or written; populating and eviction happen without it.
 */
#include <string.h>
#include <sys/mman.h>

#include "runtime/mapping_internal.h"

#ifndef MADV_COLD
#define MADV_COLD 20
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#define DISCARD_CHUNK 4096 /* pages taken at a time */

/* How one advice is answered. */
enum answer {
	ANSWER_IGNORE,	/* success without effect, as the kernel may */
	ANSWER_DISCARD, /* content dropped: zeros from now on */
	ANSWER_FLAG,	/* a property of the mapping */
	ANSWER_WILLNEED,
	ANSWER_COLD,
	ANSWER_PAGEOUT,
	ANSWER_POPULATE,
	ANSWER_INVALID,
};

static enum answer answer_for(int advice)
{
	switch (advice) {
	case MADV_DONTNEED:
	case MADV_DONTNEED_LOCKED:
	case MADV_FREE: /* may drop at once: the program has been told to expect zeros at any time */
		return ANSWER_DISCARD;
	case MADV_WILLNEED:
		return ANSWER_WILLNEED;
	case MADV_COLD:
		return ANSWER_COLD;
	case MADV_PAGEOUT:
		return ANSWER_PAGEOUT;
	case MADV_POPULATE_READ:
	case MADV_POPULATE_WRITE:
		return ANSWER_POPULATE;
	case MADV_DONTFORK:
	case MADV_DOFORK:
	case MADV_WIPEONFORK:
	case MADV_KEEPONFORK:
	case MADV_SEQUENTIAL:
	case MADV_RANDOM:
	case MADV_NORMAL:
	case MADV_DONTDUMP:
	case MADV_DODUMP:
		return ANSWER_FLAG;
	case MADV_HUGEPAGE:
	case MADV_NOHUGEPAGE:
	case MADV_MERGEABLE:
	case MADV_UNMERGEABLE:
		return ANSWER_IGNORE; /* pages are 4 KiB here, and never merged */
	default:
		return ANSWER_INVALID;
	}
}

static void discard_chunk(struct xm_runtime *rt, uint64_t page, uint64_t n)
{
	xm_map_take(rt, page, n);
	if (xm_sys_madvise((void *)xm_page_addr(page), n << XM_PAGE_SHIFT, MADV_DONTNEED) == -EINVAL)
		xm_sys_madvise((void *)xm_page_addr(page), n << XM_PAGE_SHIFT, MADV_DONTNEED_LOCKED);
	xm_map_release(rt, page, n, false);
}

static bool any_content(struct xm_runtime *rt, uint64_t page, uint64_t end)
{
	for (page = xm_pte_skip(rt, page, end); page < end; page = xm_pte_skip(rt, page + 1, end))
		if (xm_pg_state(xm_pg_load(&rt->pt[page])) != XM_PG_EMPTY)
			return true;
	return false;
}

static void discard_locked(struct xm_runtime *rt, uint64_t addr, uint64_t len)
{
	uint64_t page = (addr - xm_ext_lo) >> XM_PAGE_SHIFT, end = page + (len >> XM_PAGE_SHIFT);

	for (page = xm_pte_skip(rt, page, end); page < end; page = xm_pte_skip(rt, page, end)) {
		uint64_t n = xm_min(end - page, (uint64_t)DISCARD_CHUNK);

		/* Words that were 0 are not locked; a page that came to life under the call (a run of first touches)
		 * is dropped by another round. What still slips through is resident and absent: fault.c. */
		for (int round = 0; round < 3 && (round == 0 || any_content(rt, page, page + n)); round++)
			discard_chunk(rt, page, n);
		page += n;
	}
}

static int advise_flag(struct xm_runtime *rt, uint64_t addr, uint64_t len, int advice)
{
	uint64_t end = addr + len;
	int rc = xm_rangemap_reserve(&rt->maps, 2);

	if (rc < 0)
		return rc;
	if (advice == MADV_WIPEONFORK || advice == MADV_KEEPONFORK || /* inheritance itself is fork.c's */
	    advice == MADV_DONTDUMP || advice == MADV_DODUMP)
		rc = xm_sys_madvise((void *)addr, len, advice);
	if (rc < 0)
		return rc;
	switch (advice) {
	case MADV_DONTFORK:
		xm_map_set_flags(rt, addr, end, XM_MAP_DONTFORK, 0);
		break;
	case MADV_DOFORK:
		xm_map_set_flags(rt, addr, end, 0, XM_MAP_DONTFORK);
		break;
	case MADV_WIPEONFORK:
		xm_map_set_flags(rt, addr, end, XM_MAP_WIPEONFORK, 0);
		break;
	case MADV_KEEPONFORK:
		xm_map_set_flags(rt, addr, end, 0, XM_MAP_WIPEONFORK);
		break;
	case MADV_DONTDUMP:
		xm_map_set_flags(rt, addr, end, XM_MAP_DONTDUMP, 0);
		break;
	case MADV_DODUMP:
		xm_map_set_flags(rt, addr, end, 0, XM_MAP_DONTDUMP);
		break;
	case MADV_SEQUENTIAL:
		xm_map_set_flags(rt, addr, end, XM_MAP_SEQUENTIAL, XM_MAP_RANDOM);
		break;
	case MADV_RANDOM:
		xm_map_set_flags(rt, addr, end, XM_MAP_RANDOM, XM_MAP_SEQUENTIAL);
		break;
	default:
		xm_map_set_flags(rt, addr, end, 0, XM_MAP_RANDOM | XM_MAP_SEQUENTIAL);
	}
	return 0;
}

static void advise_cold(struct xm_runtime *rt, uint64_t page, uint64_t end)
{
	uint8_t old = (uint8_t)(xm_reclaim_epoch(rt) - 100);

	for (page = xm_pte_skip(rt, page, end); page < end; page = xm_pte_skip(rt, page + 1, end)) {
		xm_pte seen = xm_pg_load(&rt->pt[page]);

		if (xm_pg_state(seen) == XM_PG_RESIDENT)
			xm_pg_cas(&rt->pt[page], &seen, xm_pg_with_epoch(seen & ~XM_PG_REF, old));
	}
}

/* Moves pages in or out on behalf of the program, outside the map lock. */
static void advise_move(struct xm_runtime *rt, uint64_t addr, uint64_t len, bool in)
{
	uint64_t page = (addr - xm_ext_lo) >> XM_PAGE_SHIFT;
	struct xm_worker *w;

	xm_gate_enter(rt);
	if (!in) {
		xm_reclaim_range(rt, page, len >> XM_PAGE_SHIFT);
	} else {
		w = xm_worker_get(rt);
		if (w) {
			xm_fault_prefetch(rt, w, page, len >> XM_PAGE_SHIFT);
			xm_worker_put(w);
		}
	}
	xm_gate_leave(rt);
}

/* Pages that the program locked may not be dropped: EINVAL, as from the kernel. */
static bool any_locked(struct xm_runtime *rt, uint64_t page, uint64_t end)
{
	if (!xm_load(&rt->pinned_pages))
		return false;
	for (page = xm_pte_skip(rt, page, end); page < end; page = xm_pte_skip(rt, page + 1, end))
		if (xm_pg_load(&rt->pt[page]) & XM_PG_PINNED)
			return true;
	return false;
}

/* Where the kernel does not wait for pages: one by one. */
static int populate_here(struct xm_runtime *rt, uint64_t addr, uint64_t len, bool write)
{
	uint64_t page = (addr - xm_ext_lo) >> XM_PAGE_SHIFT, end = page + (len >> XM_PAGE_SHIFT);
	uint32_t tid = (uint32_t)xm_sys_gettid();
	int rc = 0;

	for (; page < end && rc == 0; page++) {
		xm_pte_touch(rt, page);
		rc = xm_fault_bring(rt, page, write, tid);
	}
	return rc;
}

int xm_map_advise(void *at, size_t len, int advice)
{
	struct xm_runtime *rt = &xm_rt;
	enum answer what = answer_for(advice);
	uint64_t addr, bytes;
	int rc = xm_map_begin(at, len, &addr, &bytes);

	if (rc < 0)
		return rc;
	if (what == ANSWER_INVALID)
		rc = -EINVAL;
	else if (!xm_rangemap_covers(&rt->maps, addr, addr + bytes) && bytes)
		rc = -ENOMEM; /* like the kernel: what is mapped is still advised */
	if (what == ANSWER_DISCARD && advice != MADV_DONTNEED_LOCKED &&
	    any_locked(rt, (addr - xm_ext_lo) >> XM_PAGE_SHIFT, (addr + bytes - xm_ext_lo) >> XM_PAGE_SHIFT))
		rc = -EINVAL;
	else if (what == ANSWER_DISCARD)
		discard_locked(rt, addr, bytes);
	else if (what == ANSWER_FLAG && rc == 0)
		rc = advise_flag(rt, addr, bytes, advice);
	else if (what == ANSWER_COLD)
		advise_cold(rt, (addr - xm_ext_lo) >> XM_PAGE_SHIFT, (addr + bytes - xm_ext_lo) >> XM_PAGE_SHIFT);
	xm_map_end();
	if (rc == 0 && bytes && (what == ANSWER_WILLNEED || what == ANSWER_PAGEOUT))
		advise_move(rt, addr, bytes, what == ANSWER_WILLNEED);
	if (rc == 0 && what == ANSWER_POPULATE)
		rc = rt->by_signal ? populate_here(rt, addr, bytes, advice == MADV_POPULATE_WRITE)
				   : xm_sys_madvise(at, len, advice);
	return rc;
}

int xm_map_discard(void *at, size_t len)
{
	uint64_t addr, bytes;
	int rc = xm_map_begin(at, len, &addr, &bytes);

	if (rc < 0)
		return rc;
	discard_locked(&xm_rt, addr, bytes);
	xm_map_end();
	return 0;
}

/* FETCHING too: a thread that has touched the page may run before the handler has settled its word. */
static bool is_in(xm_pte word)
{
	return xm_pg_state(word) == XM_PG_RESIDENT || xm_pg_state(word) == XM_PG_FETCHING;
}

int xm_map_mincore(void *at, size_t len, unsigned char *vec)
{
	struct xm_runtime *rt = &xm_rt;
	unsigned char part[512];
	uint64_t addr, bytes;
	int rc = xm_map_begin(at, len, &addr, &bytes);
	bool mapped;

	if (rc < 0)
		return rc;
	mapped = xm_rangemap_covers(&rt->maps, addr, addr + bytes);
	xm_map_end();
	if (bytes && !mapped)
		return -ENOMEM;
	for (uint64_t page = (addr - xm_ext_lo) >> XM_PAGE_SHIFT; bytes;) {
		uint64_t n = xm_min(bytes >> XM_PAGE_SHIFT, (uint64_t)sizeof(part));

		for (uint64_t i = 0; i < n; i++, page++)
			part[i] = xm_load_relaxed(&rt->touch[page >> XM_TOUCH_SHIFT]) && is_in(xm_pg_load(&rt->pt[page]));
		memcpy(vec, part, n); /* the program's vector: may itself be external, so with no lock held */
		vec += n;
		bytes -= n << XM_PAGE_SHIFT;
	}
	return 0;
}

/* ---- pages that stay ------------------------------------------------------------------------------------------ */

int xm_map_populate(struct xm_runtime *rt, uint64_t addr, uint64_t len)
{
	int rc;

	if (rt->by_signal)
		return populate_here(rt, addr, len, true);
	rc = xm_sys_madvise((void *)addr, len, MADV_POPULATE_WRITE);
	if (rc == -EINVAL || rc == -EFAULT || rc == -EACCES) /* not writable, or a kernel before 5.14 */
		rc = xm_sys_madvise((void *)addr, len, MADV_POPULATE_READ);
	return rc;
}

static uint64_t pin_words(struct xm_runtime *rt, uint64_t page, uint64_t end, bool on)
{
	uint64_t changed = 0;

	for (; page < end; page++) {
		xm_pte *p = xm_pte_touch(rt, page);
		xm_pte seen = xm_pg_load(p);

		while (((seen & XM_PG_PINNED) != 0) != on)
			if (__atomic_compare_exchange_n(p, &seen, seen ^ XM_PG_PINNED, false, __ATOMIC_ACQ_REL,
							__ATOMIC_ACQUIRE)) {
				changed++;
				break;
			}
	}
	return changed;
}

/* mlock and munlock take any address: the pages that it lies in are meant. */
static int begin_rounded(void *at, size_t len, uint64_t *addr, uint64_t *bytes)
{
	size_t in = (uintptr_t)at % XM_PAGE_SIZE;

	return xm_map_begin((char *)at - in, len + in, addr, bytes);
}

static uint64_t not_pinned(struct xm_runtime *rt, uint64_t page, uint64_t end)
{
	uint64_t n = end - page;

	for (page = xm_pte_skip(rt, page, end); page < end; page = xm_pte_skip(rt, page + 1, end))
		n -= (xm_pg_load(&rt->pt[page]) & XM_PG_PINNED) != 0;
	return n;
}

int xm_map_lock(void *at, size_t len)
{
	struct xm_runtime *rt = &xm_rt;
	uint64_t addr, bytes, first, end;
	int rc = begin_rounded(at, len, &addr, &bytes);

	if (rc < 0)
		return rc;
	first = (addr - xm_ext_lo) >> XM_PAGE_SHIFT;
	end = first + (bytes >> XM_PAGE_SHIFT);
	if (bytes && !xm_rangemap_covers(&rt->maps, addr, addr + bytes))
		rc = -ENOMEM;
	else if (xm_load(&rt->pinned_pages) + not_pinned(rt, first, end) > rt->fam->budget_pages / 4 * 3)
		rc = -ENOMEM; /* the rest of the program must be able to move */
	else
		xm_add(&rt->pinned_pages, pin_words(rt, first, end, true));
	xm_map_end();
	if (rc == 0 && bytes)
		xm_map_populate(rt, addr, bytes); /* PROT_NONE pages cannot be: mlock says ENOMEM then */
	return rc;
}

int xm_map_unlock(void *at, size_t len)
{
	struct xm_runtime *rt = &xm_rt;
	uint64_t addr, bytes, first;
	int rc = begin_rounded(at, len, &addr, &bytes);

	if (rc < 0)
		return rc;
	first = (addr - xm_ext_lo) >> XM_PAGE_SHIFT;
	if (bytes && !xm_rangemap_covers(&rt->maps, addr, addr + bytes))
		rc = -ENOMEM;
	else
		xm_sub(&rt->pinned_pages, pin_words(rt, first, first + (bytes >> XM_PAGE_SHIFT), false));
	xm_map_end();
	return rc;
}

int xm_map_lock_all(int flags)
{
	struct xm_runtime *rt = &xm_rt;
	uint64_t at = xm_ext_lo;
	int rc = 0;

	if (flags & MCL_FUTURE)
		rt->lock_future = 1;
	if (!(flags & MCL_CURRENT))
		return 0;
	while (rc == 0) {
		const struct xm_range *r;
		struct xm_range one = { 0 };

		xm_in_runtime++;
		xm_lock(&rt->map_lock);
		r = xm_rangemap_find(&rt->maps, at);
		if (r)
			one = *r;
		xm_map_end();
		if (!r)
			break;
		if (xm_value_prot(one.value[0]) != PROT_NONE && !(xm_value_flags(one.value[0]) & XM_MAP_FOREIGN))
			rc = xm_map_lock((void *)one.start, one.end - one.start);
		at = one.end;
	}
	return rc;
}

int xm_map_unlock_all(void)
{
	struct xm_runtime *rt = &xm_rt;

	xm_in_runtime++;
	xm_lock(&rt->map_lock);
	rt->lock_future = 0;
	for (size_t i = 0; i < rt->maps.n; i++) {
		uint64_t end = (rt->maps.r[i].end - xm_ext_lo) >> XM_PAGE_SHIFT;
		uint64_t page = xm_pte_skip(rt, (rt->maps.r[i].start - xm_ext_lo) >> XM_PAGE_SHIFT, end);

		for (; page < end; page = xm_pte_skip(rt, page + 1, end))
			xm_sub(&rt->pinned_pages, pin_words(rt, page, page + 1, false));
	}
	xm_map_end();
	return 0;
}

static bool hold_page(xm_pte *p, bool on)
{
	xm_pte seen = xm_pg_load(p);

	for (;;) {
		xm_pte holds = seen & XM_PG_HOLD_MASK;

		if (holds == XM_PG_HOLD_MASK || (!on && holds == 0))
			return false; /* a full count is not known any more: it stays until the page is unmapped */
		if (__atomic_compare_exchange_n(p, &seen, on ? seen + XM_PG_HOLD_ONE : seen - XM_PG_HOLD_ONE, false,
						__ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			return true;
	}
}

static void hold_range(struct xm_runtime *rt, uint64_t addr, uint64_t end, bool on)
{
	for (; addr < end; addr += XM_PAGE_SIZE)
		hold_page(xm_pte_touch(rt, (addr - xm_ext_lo) >> XM_PAGE_SHIFT), on);
}

int xm_map_pin(void *at, size_t len)
{
	uint64_t addr = xm_round_down((uint64_t)(uintptr_t)at, XM_PAGE_SIZE);
	uint64_t end = xm_round_up((uint64_t)(uintptr_t)at + len, XM_PAGE_SIZE);

	if (addr < xm_ext_lo || end > xm_ext_hi)
		return -EINVAL;
	hold_range(&xm_rt, addr, end, true);
	return xm_map_populate(&xm_rt, addr, end - addr);
}

void xm_map_unpin(void *at, size_t len)
{
	uint64_t addr = xm_round_down((uint64_t)(uintptr_t)at, XM_PAGE_SIZE);
	uint64_t end = xm_round_up((uint64_t)(uintptr_t)at + len, XM_PAGE_SIZE);

	if (addr >= xm_ext_lo && end <= xm_ext_hi)
		hold_range(&xm_rt, addr, end, false);
}
