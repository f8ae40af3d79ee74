/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_mman.c - mmap, munmap, mremap, mprotect: what becomes external, and what happens to external ranges.
 *
 * External becomes an anonymous private mapping of at least --min-map bytes that is no stack, not huge, not below
 * 4 GiB, and whose address the program leaves to the kernel (a hint outside the external range is not followed; one
 * inside it, where something was unmapped, is, for any size).
 * Everything else goes to the kernel. A MAP_FIXED over external addresses is external again when it is anonymous
 * and private; files and shared memory become foreign mappings there: made by the kernel somewhere else first,
 * so that one that fails leaves the old contents alone, then moved.
 *
 * A range that reaches over an edge of the external range is cut. Returns and errno are libc's. Any thread; no
 * locks here. Not interposed: brk, what libc maps for itself (thread stacks), remap_file_pages on private memory.
 */
#include "runtime/preload_mman.h"

#include <errno.h>
#include <stdarg.h>
#include <sys/mman.h>

#include "runtime/preload.h"
#include "sys.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

/* Before the start --min-map is not known yet; smaller mappings than this never lead to a start. */
#define MIN_MAP_FLOOR (64u << 10)

/* ---- ranges ------------------------------------------------------------------------------------------- */

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

long xm_pre_each(void *addr, size_t len, long (*ext)(void *, size_t, long), long nr, long a, long b)
{
	struct xm_pre_part part[3];
	int n = xm_pre_split(addr, len, part);
	long first = 0;

	for (int i = 0; i < n; i++) {
		long r = part[i].external ? ext(part[i].addr, part[i].bytes, a) :
					    xm_sys4(nr, (long)part[i].addr, (long)part[i].bytes, a, b);

		if (r < 0 && !first)
			first = r;
	}
	return first;
}

static bool is_unaligned(const void *p)
{
	return (uintptr_t)p & (XM_PAGE_SIZE - 1);
}

/* ---- mmap --------------------------------------------------------------------------------------------- */

static bool is_anonymous_private(int flags)
{
	return (flags & MAP_ANONYMOUS) && (flags & MAP_TYPE) == MAP_PRIVATE && !(flags & (MAP_GROWSDOWN | MAP_HUGETLB));
}

static unsigned map_flags(int flags)
{
	return (flags & MAP_NORESERVE ? XM_MAP_NORESERVE : 0u) | (flags & MAP_LOCKED ? XM_MAP_LOCKED : 0u) |
	       (flags & MAP_POPULATE ? XM_MAP_POPULATE : 0u);
}

long xm_pre_put_foreign(void *tmp, size_t len, void *addr)
{
	long r = xm_map_foreign(addr, len);

	if (r >= 0)
		r = (long)xm_sys_mremap(tmp, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, addr);
	if (r < 0 && r > -4096)
		xm_sys_munmap(tmp, len);
	return r;
}

/* A file, shared or otherwise special mapping inside the external range. */
static long map_foreign(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	int loose = flags & ~(MAP_FIXED | MAP_FIXED_NOREPLACE);
	bool claimed = false;
	long tmp, r;

	len = xm_round_up(len, XM_PAGE_SIZE);
	if (flags & MAP_FIXED_NOREPLACE) {
		/* claims the addresses by a mapping that is replaced below */
		r = (long)xm_map_fixed(addr, len, PROT_NONE, XM_MAP_NORESERVE, true);
		if (xm_sys_is_error(r))
			return r;
		claimed = true;
	}
	tmp = xm_pre_mmap(NULL, len, prot, loose, fd, off);
	r = xm_sys_is_error(tmp) ? tmp : xm_pre_put_foreign((void *)tmp, len, addr);
	if (xm_sys_is_error(r) && claimed)
		xm_map_unmap(addr, len);
	return r;
}

/* MAP_FIXED or MAP_FIXED_NOREPLACE that touches external addresses. */
static long map_at(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	bool noreplace = flags & MAP_FIXED_NOREPLACE;
	struct xm_pre_part part[3];
	int n;

	if (is_unaligned(addr))
		return -EINVAL;
	n = xm_pre_split(addr, xm_round_up(len, XM_PAGE_SIZE), part);
	for (int i = 0; i < n; i++) {
		struct xm_pre_part *p = &part[i];
		off_t at = off + (p->addr - (char *)addr);
		long r;

		if (!p->external)
			r = xm_pre_mmap(p->addr, p->bytes, prot, flags, fd, at);
		else if (is_anonymous_private(flags))
			r = (long)xm_map_fixed(p->addr, p->bytes, prot, map_flags(flags), noreplace);
		else
			r = map_foreign(p->addr, p->bytes, prot, flags, fd, at);
		if (xm_sys_is_error(r))
			return r;
	}
	return (long)addr;
}

/* Whether the program's wish for memory at no particular place is answered with external memory. */
static bool becomes_external(const void *hint, size_t len, int flags)
{
	if (!is_anonymous_private(flags) ||
	    (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_STACK | MAP_32BIT)) || !len || len > XM_EXT_BYTES ||
	    xm_in_runtime)
		return false;
	if (xm_ext_contains(hint))
		return true;
	if (len < MIN_MAP_FLOOR)
		return false;
	switch (xm_pre_state()) {
	case XM_PRE_NATIVE:
		return false;
	case XM_PRE_OFF:
		if (!xm_pre_count((ssize_t)len))
			return false;
		break;
	case XM_PRE_RUNNING:
		break;
	}
	return len >= xm_pre_min_map();
}

static long map_anywhere(void *hint, size_t len, int prot, int flags)
{
	uintptr_t at = (uintptr_t)hint & ~(XM_PAGE_SIZE - 1);
	long r;

	if (hint && xm_ext_contains((void *)at) && len <= xm_ext_hi - at) {
		r = (long)xm_map_fixed((void *)at, len, prot, map_flags(flags), true);
		if (!xm_sys_is_error(r))
			return r;
	}
	return (long)xm_map_new(len, 0, prot, map_flags(flags));
}

XM_PUBLIC void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	long r;

	if (!(flags & MAP_ANONYMOUS) && xm_unlikely(off & (off_t)(XM_PAGE_SIZE - 1)))
		r = -EINVAL;
	else if ((flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) && xm_pre_touches(addr, len))
		r = map_at(addr, len, prot, flags, fd, off);
	else if (becomes_external(addr, len, flags))
		r = map_anywhere(addr, len, prot, flags);
	else
		r = xm_pre_mmap(addr, len, prot, flags, fd, off);
	return (void *)xm_pre_result(r);
}

XM_PUBLIC void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off64_t off)
	__attribute__((alias("mmap")));

/* ---- munmap, mprotect --------------------------------------------------------------------------------- */

static long ext_unmap(void *addr, size_t len, long unused)
{
	return xm_map_unmap(addr, len);
}

static long ext_protect(void *addr, size_t len, long prot)
{
	return xm_map_protect(addr, len, (int)prot);
}

XM_PUBLIC int munmap(void *addr, size_t len)
{
	if (!xm_pre_touches(addr, len) || is_unaligned(addr))
		return (int)xm_pre_result(xm_sys_munmap(addr, len));
	return (int)xm_pre_result(xm_pre_each(addr, len, ext_unmap, SYS_munmap, 0, 0));
}

XM_PUBLIC int mprotect(void *addr, size_t len, int prot)
{
	if (!xm_pre_touches(addr, len) || is_unaligned(addr))
		return (int)xm_pre_result(xm_sys_mprotect(addr, len, prot));
	return (int)xm_pre_result(xm_pre_each(addr, len, ext_protect, SYS_mprotect, prot, 0));
}

/*
 * Memory protection keys belong to mappings of the kernel and would bind the runtime's own threads: such a range
 * becomes local memory at the same address.
 */
static long make_local(void *addr, size_t len)
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
	return xm_pre_put_foreign((void *)tmp, len, addr);
}

static long ext_pkey(void *addr, size_t len, long prot)
{
	long r = make_local(addr, len);

	return r < 0 && r > -4096 ? r : 0;
}

XM_PUBLIC int pkey_mprotect(void *addr, size_t len, int prot, int key)
{
	if (!xm_pre_touches(addr, len) || is_unaligned(addr))
		return (int)xm_pre_result(xm_sys4(SYS_pkey_mprotect, (long)addr, (long)len, prot, key));
	if (key == -1)
		return mprotect(addr, len, prot);
	len = xm_round_up(len, XM_PAGE_SIZE);
	for (long probe = xm_sys4(SYS_pkey_mprotect, (long)addr, 0, prot, key); probe < 0;)
		return (int)xm_pre_result(probe); /* no such key: nothing has changed */
	return (int)xm_pre_result(xm_pre_each(addr, len, ext_pkey, SYS_pkey_mprotect, prot, key) ?:
				  xm_sys4(SYS_pkey_mprotect, (long)addr, (long)len, prot, key));
}

/* ---- mremap ------------------------------------------------------------------------------------------- */

static bool is_inside(const void *addr, size_t len)
{
	struct xm_pre_part part[3];

	return xm_pre_split(addr, len, part) == 1 && part[0].external;
}

/* A mapping of the kernel moves onto external addresses: it stays the kernel's. */
static long move_in(void *old, size_t old_len, size_t len, int flags, void *to)
{
	long tmp, r;

	if (is_unaligned(to) || !is_inside(to, len) || !(flags & MREMAP_MAYMOVE))
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

XM_PUBLIC void *mremap(void *old, size_t old_len, size_t len, int flags, ...)
{
	bool fixed = flags & MREMAP_FIXED;
	void *to = NULL;
	va_list ap;
	long r;

	va_start(ap, flags);
	if (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP))
		to = va_arg(ap, void *);
	va_end(ap);

	if (xm_pre_touches(old, old_len ? old_len : 1)) {
		r = is_inside(old, old_len ? old_len : 1) ? (long)xm_map_remap(old, old_len, len, flags, to) : -EFAULT;
	} else if (fixed && xm_pre_touches(to, len)) {
		r = move_in(old, old_len, xm_round_up(len, XM_PAGE_SIZE), flags, to);
	} else {
		r = (long)xm_sys_mremap(old, old_len, len, flags, to);
	}
	return (void *)xm_pre_result(r);
}
