/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_foreign.c - the edges of external memory: ranges that reach out of it, and mappings of
 * the kernel's own inside it.
 *
 *   | outside | own | foreign | own | reserved ... | outside |
 *   own       the runtime's: its pages come and go            -> xm_map_*
 *   foreign   a file, shared memory, memory with its own rules -> the kernel; the book only keeps the addresses
 *
 * Foreign mappings are always made somewhere else and moved in, so that a call that fails leaves
 * everything as it was; what they leave behind is reserved again (xm_map_unmap). Between those two
 * steps another thread's mmap might take the addresses, but the kernel looks for room from the
 * other end of the address space. Any thread; the map lock is held only to look into the book.
 */
#include "runtime/preload_mman.h"

#include <errno.h>
#include <sys/mman.h>

#include "runtime/internal.h"
#include "runtime/preload.h"
#include "runtime/preload_signal.h"
#include "sys.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

/* ---- parts and pieces --------------------------------------------------------------------------------- */

bool xm_pre_touches(const void *addr, size_t len)
{
	if (!len || len > UINT64_MAX - (uint64_t)(uintptr_t)addr || !xm_pre_active())
		return false;
	return xm_ext_overlaps(addr, len);
}

static void add_part(struct xm_pre_part *part, int *n, uint64_t lo, uint64_t hi, bool external)
{
	if (lo >= hi)
		return;
	part[(*n)++] = (struct xm_pre_part){ (char *)(uintptr_t)lo, hi - lo, external };
}

int xm_pre_split(const void *addr, size_t len, struct xm_pre_part part[3])
{
	uint64_t lo = (uint64_t)(uintptr_t)addr, hi = lo + len;
	int n = 0;

	add_part(part, &n, lo, xm_min(hi, xm_ext_lo), false);
	add_part(part, &n, xm_max(lo, xm_ext_lo), xm_min(hi, xm_ext_hi), true);
	add_part(part, &n, xm_max(lo, xm_ext_hi), hi, false);
	return n;
}

static bool is_foreign(const struct xm_range *r)
{
	return (r->value[0] >> 32) & XM_MAP_FOREIGN; /* flags are the upper half (mapping_internal.h) */
}

size_t xm_pre_piece(const void *addr, size_t len, bool *foreign)
{
	uint64_t lo = (uint64_t)(uintptr_t)addr, end = lo + len;
	const struct xm_range *r, *last;

	xm_in_runtime++;
	xm_lock(&xm_rt.map_lock);
	last = xm_rt.maps.r + xm_rt.maps.n;
	r = xm_rangemap_find(&xm_rt.maps, lo);
	*foreign = r && r->start <= lo && is_foreign(r);
	if (*foreign) {
		end = xm_min(end, r->end);
	} else {
		while (r && r < last && r->start < end && !is_foreign(r))
			r++;
		if (r && r < last)
			end = xm_min(end, r->start);
	}
	xm_unlock(&xm_rt.map_lock);
	xm_in_runtime--;
	return end - lo;
}

static long each_piece(struct xm_pre_part *part, long (*ext)(void *, size_t, long), long nr, long a, long b)
{
	long first = 0;

	while (part->bytes) {
		bool foreign;
		size_t n = xm_pre_piece(part->addr, part->bytes, &foreign);
		long r = foreign ? xm_sys4(nr, part->addr, n, a, b) : ext(part->addr, n, a);

		if (r < 0 && !first)
			first = r;
		part->addr += n;
		part->bytes -= n;
	}
	return first;
}

long xm_pre_local(long nr, void *addr, size_t len, long a, long b)
{
	uint64_t from = (uint64_t)(uintptr_t)addr, end = from + len;
	long first = 0, second = 0;

	if (!xm_load_relaxed(&xm_sig_on) || from > XM_SIG_PAGE || end <= XM_SIG_PAGE || end < from)
		return xm_sys4(nr, addr, len, a, b);
	if (from < XM_SIG_PAGE)
		first = xm_sys4(nr, addr, XM_SIG_PAGE - from, a, b);
	if (end > XM_SIG_PAGE + XM_PAGE_SIZE && first == 0)
		second = xm_sys4(nr, XM_SIG_PAGE + XM_PAGE_SIZE, end - XM_SIG_PAGE - XM_PAGE_SIZE, a, b);
	return first ? first : second;
}

long xm_pre_each(void *addr, size_t len, long (*ext)(void *, size_t, long), long nr, long a, long b)
{
	bool whole = nr == SYS_munmap || nr == SYS_mprotect;
	struct xm_pre_part part[3];
	int n = xm_pre_split(addr, len, part);
	long first = 0;

	for (int i = 0; i < n; i++) {
		long r;

		if (!part[i].external)
			r = xm_pre_local(nr, part[i].addr, part[i].bytes, a, b);
		else if (whole)
			r = ext(part[i].addr, part[i].bytes, a);
		else
			r = each_piece(&part[i], ext, nr, a, b);
		if (r < 0 && !first)
			first = r;
	}
	return first;
}

/* ---- moving mappings of the kernel in and out -------------------------------------------------------------- */

long xm_pre_put_foreign(void *tmp, size_t len, void *addr)
{
	long r = xm_map_foreign(addr, len);

	if (r >= 0)
		r = (long)xm_sys_mremap(tmp, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, addr);
	if (r < 0 && r > -4096)
		xm_sys_munmap(tmp, len);
	return r;
}

long xm_pre_make_local(void *addr, size_t len)
{
	long tmp = xm_pre_mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long r;

	if (xm_sys_is_error(tmp))
		return tmp;
	r = (long)xm_map_remap(addr, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)tmp);
	if (xm_sys_is_error(r)) {
		xm_sys_munmap((void *)tmp, len);
		return r;
	}
	r = xm_pre_put_foreign((void *)tmp, len, addr);
	return xm_sys_is_error(r) ? r : 0;
}

static bool is_inside(const void *addr, size_t len)
{
	struct xm_pre_part part[3];

	return xm_pre_split(addr, len, part) == 1 && part[0].external;
}

/* Onto external addresses. */
static long move_in(void *old, size_t old_len, size_t len, int flags, void *to)
{
	long tmp, r;

	if ((uintptr_t)to % XM_PAGE_SIZE || !is_inside(to, len) || !(flags & MREMAP_MAYMOVE) ||
	    ((char *)to < (char *)old + old_len && (char *)old < (char *)to + len))
		return -EINVAL;
	/* somewhere else first: one that fails must leave both places alone */
	tmp = xm_pre_mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (xm_sys_is_error(tmp))
		return tmp;
	r = (long)xm_sys_mremap(old, old_len, len, flags, (void *)tmp);
	if (xm_sys_is_error(r)) {
		xm_sys_munmap((void *)tmp, len);
		return r;
	}
	return xm_pre_put_foreign((void *)tmp, len, to);
}

/* The old place of a foreign mapping that has moved, or shrunk. */
static void leave(void *old, size_t old_len, size_t len, int flags, long r)
{
	if (r == (long)old && len < old_len)
		xm_map_unmap((char *)old + len, old_len - len);
	else if (r != (long)old && !(flags & MREMAP_DONTUNMAP))
		xm_map_unmap(old, old_len);
}

long xm_pre_remap_foreign(void *old, size_t old_len, size_t len, int flags, void *to)
{
	bool from_external = xm_ext_contains(old);
	long r;

	old_len = xm_round_up(old_len, XM_PAGE_SIZE);
	len = xm_round_up(len, XM_PAGE_SIZE);
	if ((flags & MREMAP_FIXED) && xm_ext_overlaps(to, len))
		r = move_in(old, old_len, len, flags, to);
	else
		r = xm_sys_mremap(old, old_len, len, flags, to);
	if (!xm_sys_is_error(r) && from_external && old_len)
		leave(old, old_len, len, flags, r);
	return r;
}
