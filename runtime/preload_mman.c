/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_mman.c - mmap, munmap, mremap, mprotect: what becomes external, and what happens to
 * external ranges.
 *
 * External becomes an anonymous private mapping of at least --min-map bytes that is no stack, not
 * huge, not below 4 GiB, and whose address the program leaves to the kernel (a hint outside the
 * external range is not followed; one inside it, where something was unmapped, is, for any size).
 * Everything else goes to the kernel. A MAP_FIXED over external addresses is external again when it
 * is anonymous and private; files and shared memory become foreign mappings there: made by the
 * kernel somewhere else first, so that one that fails leaves the old contents alone, then moved.
 *
 * A range that reaches over an edge of the external range is cut (preload_foreign.c). Returns and
 * errno are libc's. Any thread; no locks here. Not interposed: brk, what libc maps for itself
 * (thread stacks), remap_file_pages on private memory.
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

static bool is_unaligned(const void *p)
{
	return (uintptr_t)p & (XM_PAGE_SIZE - 1);
}

/* ---- mmap --------------------------------------------------------------------------------------------- */

static bool is_anonymous_private(int flags)
{
	return (flags & MAP_ANONYMOUS) && (flags & MAP_TYPE) == MAP_PRIVATE &&
	       !(flags & (MAP_GROWSDOWN | MAP_HUGETLB));
}

static unsigned map_flags(int flags)
{
	return (flags & MAP_NORESERVE ? XM_MAP_NORESERVE : 0u) | (flags & MAP_LOCKED ? XM_MAP_LOCKED : 0u) |
	       (flags & MAP_POPULATE ? XM_MAP_POPULATE : 0u);
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
	    (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_STACK | MAP_32BIT)) || !len ||
	    len > XM_EXT_BYTES || xm_in_runtime)
		return false;
	if (xm_ext_contains(hint))
		return true;
	switch (xm_pre_state()) {
	case XM_PRE_NATIVE: return false;
	case XM_PRE_OFF:
		if (len < MIN_MAP_FLOOR || !xm_pre_count((ssize_t)len))
			return false;
		break;
	case XM_PRE_RUNNING: break;
	}
	return len >= xm_pre_min_map();
}

static long map_anywhere(void *hint, size_t len, int prot, int flags)
{
	uintptr_t at = (uintptr_t)hint & ~(XM_PAGE_SIZE - 1);
	bool free_of_charge = !(prot & PROT_WRITE) || (flags & MAP_NORESERVE);
	long r;

	if (hint && xm_ext_contains((void *)at) && len <= xm_ext_hi - at) {
		r = (long)xm_map_fixed((void *)at, len, prot, map_flags(flags), true);
		if (!xm_sys_is_error(r))
			return r;
	}
	r = (long)xm_map_new(len, 0, prot, map_flags(flags));
	/* not --size but addresses have run out: local memory rather than none */
	if (r == -ENOMEM && free_of_charge && !(flags & MAP_LOCKED))
		r = xm_pre_mmap(NULL, len, prot, flags, -1, 0);
	return r;
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
		return (int)xm_pre_result(xm_pre_local(SYS_munmap, addr, len, 0, 0));
	return (int)xm_pre_result(xm_pre_each(addr, len, ext_unmap, SYS_munmap, 0, 0));
}

XM_PUBLIC int mprotect(void *addr, size_t len, int prot)
{
	if (!xm_pre_touches(addr, len) || is_unaligned(addr))
		return (int)xm_pre_result(xm_pre_local(SYS_mprotect, addr, len, prot, 0));
	return (int)xm_pre_result(xm_pre_each(addr, len, ext_protect, SYS_mprotect, prot, 0));
}

/* Memory protection keys belong to mappings of the kernel and would bind the runtime's own
 * threads. */
static long ext_pkey(void *addr, size_t len, long prot)
{
	return xm_pre_make_local(addr, len);
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
	return (int)xm_pre_result(xm_pre_each(addr, len, ext_pkey, SYS_pkey_mprotect, prot, key)
					  ?: xm_sys4(SYS_pkey_mprotect, (long)addr, (long)len, prot, key));
}

/* ---- mremap ------------------------------------------------------------------------------------------- */

XM_PUBLIC void *mremap(void *old, size_t old_len, size_t len, int flags, ...)
{
	bool fixed = flags & MREMAP_FIXED, foreign;
	void *to = NULL;
	va_list ap;
	long r;

	va_start(ap, flags);
	if (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP))
		to = va_arg(ap, void *);
	va_end(ap);

	if (!xm_pre_touches(old, xm_max(old_len, (size_t)1))) {
		if (fixed && xm_pre_touches(to, len))
			r = xm_pre_remap_foreign(old, old_len, len, flags, to);
		else
			r = xm_sys_mremap(old, old_len, len, flags, to);
	} else if (!xm_ext_contains(old)) {
		r = -EFAULT;
	} else {
		xm_pre_piece(old, 1, &foreign);
		r = foreign ? xm_pre_remap_foreign(old, old_len, len, flags, to)
			    : (long)xm_map_remap(old, old_len, len, flags, to);
	}
	return (void *)xm_pre_result(r);
}
