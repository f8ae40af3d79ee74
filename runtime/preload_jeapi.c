/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_jeapi.c - jemalloc's extended interface under its own names, for programs that are linked
 * with libjemalloc.so and call it (Debian's redis): their blocks come from the private copy like
 * everybody's.
 *
 * What a program asks for explicitly (MALLOCX_ARENA, MALLOCX_TCACHE) is honoured; without such a
 * wish the choice is malloc's. A local block never enters the thread's automatic cache. Any thread.
 */
#include "runtime/preload.h"

#include <errno.h>
#include <string.h>

XM_PUBLIC void *mallocx(size_t size, int flags);
XM_PUBLIC void *rallocx(void *p, size_t size, int flags);
XM_PUBLIC size_t xallocx(void *p, size_t size, size_t extra, int flags);
XM_PUBLIC size_t sallocx(const void *p, int flags);
XM_PUBLIC void dallocx(void *p, int flags);
XM_PUBLIC void sdallocx(void *p, size_t size, int flags);
XM_PUBLIC size_t nallocx(size_t size, int flags);
XM_PUBLIC int mallctl(const char *name, void *oldp, size_t *oldlenp, void *newp, size_t newlen);
XM_PUBLIC int mallctlnametomib(const char *name, size_t *mib, size_t *miblen);
XM_PUBLIC int mallctlbymib(const size_t *mib, size_t miblen, void *oldp, size_t *oldlenp, void *newp,
			   size_t newlen);
XM_PUBLIC void malloc_stats_print(void (*write_cb)(void *, const char *), void *opaque, const char *opts);

static bool background_wish;

static int flags_for_alloc(size_t size, int flags, const void *caller)
{
	int own;

	if (flags & XM_JE_ARENA_MASK)
		return flags;
	own = xm_heap_flags(size, caller);
	if (!own)
		return flags;
	if (flags & XM_JE_TCACHE_MASK)
		own &= ~XM_JE_TCACHE_MASK;
	return flags | own;
}

static int flags_for_free(const void *p, int flags)
{
	if (flags & XM_JE_TCACHE_MASK)
		return flags;
	if (xm_ext_contains(p) ? xm_in_runtime != 0 : xm_pre_state() == XM_PRE_RUNNING)
		flags |= XM_JE_TCACHE_NONE;
	return flags;
}

void *mallocx(size_t size, int flags)
{
	return xm_je_mallocx(size, flags_for_alloc(size, flags, XM_CALLER()));
}

void *rallocx(void *p, size_t size, int flags)
{
	/* the old block is freed with the same flags: a local one past the cache */
	flags = flags_for_free(p, flags_for_alloc(size, flags, XM_CALLER()));
	return xm_je_rallocx(p, size, flags);
}

size_t xallocx(void *p, size_t size, size_t extra, int flags)
{
	return xm_je_xallocx(p, size, extra, flags);
}

size_t sallocx(const void *p, int flags)
{
	return xm_je_sallocx(p, flags);
}

void dallocx(void *p, int flags)
{
	xm_je_dallocx(p, flags_for_free(p, flags));
}

void sdallocx(void *p, size_t size, int flags)
{
	xm_je_sdallocx(p, size, flags_for_free(p, flags));
}

size_t nallocx(size_t size, int flags)
{
	return xm_je_nallocx(size, flags);
}

int mallctl(const char *name, void *oldp, size_t *oldlenp, void *newp, size_t newlen)
{
	/* the runtime's own thread does that work (xm_preload_housekeeping) */
	if (!strcmp(name, "background_thread")) {
		if ((newp && newlen != sizeof(bool)) || (oldp && (!oldlenp || *oldlenp != sizeof(bool))))
			return EINVAL;
		if (oldp)
			memcpy(oldp, &background_wish, sizeof(bool));
		if (newp)
			memcpy(&background_wish, newp, sizeof(bool));
		return 0;
	}
	return xm_je_mallctl(name, oldp, oldlenp, newp, newlen);
}

int mallctlnametomib(const char *name, size_t *mib, size_t *miblen)
{
	return xm_je_mallctlnametomib(name, mib, miblen);
}

int mallctlbymib(const size_t *mib, size_t miblen, void *oldp, size_t *oldlenp, void *newp, size_t newlen)
{
	return xm_je_mallctlbymib(mib, miblen, oldp, oldlenp, newp, newlen);
}

void malloc_stats_print(void (*write_cb)(void *, const char *), void *opaque, const char *opts)
{
	xm_je_malloc_stats_print(write_cb, opaque, opts);
}
