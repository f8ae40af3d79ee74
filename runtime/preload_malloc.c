/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_malloc.c - libc's malloc family over the private jemalloc.
 *
 * Which memory an allocation gets:
 *   not started, or NATIVE   local, through the thread cache (an ordinary jemalloc)
 *   thread inside runtime    local, arena 0, never the thread cache
 *   caller is ld.so          local (its TLS blocks and link maps), and so is what libc allocates for itself
 *   everything else          external
 * free, realloc and malloc_usable_size tell by the address. While the process is not started a
 * thread's cache holds local blocks only; it is emptied when the thread enters its external arena.
 * Any thread, no locks but jemalloc's. Blocks of another allocator are not recognised, as with any
 * replaced malloc.
 */
#include "runtime/preload.h"

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

/* A local block that grows beyond this in the program's hands becomes external. */
#define MOVE_BYTES (16u << 10)

XM_PUBLIC void cfree(void *p);
XM_PUBLIC void free_sized(void *p, size_t size);
XM_PUBLIC void free_aligned_sized(void *p, size_t align, size_t size);

int xm_heap_flags(size_t size, const void *caller)
{
	if (xm_in_runtime)
		return XM_JE_LOCAL;
	switch (xm_pre_state()) {
	case XM_PRE_NATIVE: return 0;
	case XM_PRE_OFF:
		/* what free() will subtract: the usable size */
		if (!xm_pre_count((ssize_t)xm_min(xm_je_nallocx(size ? size : 1, 0), (size_t)1 << 30)))
			return 0;
		break;
	case XM_PRE_RUNNING: break;
	}
	if (xm_pre_caller_is_libc(caller, size))
		return XM_JE_LOCAL;
	return xm_arena_external || xm_arena_enter() ? 0 : XM_JE_LOCAL;
}

static bool is_fast(size_t size, const void *caller)
{
	return xm_arena_external && !xm_in_runtime && !xm_pre_caller_is_libc(caller, size);
}

void *xm_heap_alloc(size_t size, size_t align, bool zero, const void *caller)
{
	int flags = xm_heap_flags(size, caller);
	void *p;

	if (align)
		flags |= XM_JE_ALIGN_LG(__builtin_ctzl(align));
	if (zero)
		flags |= XM_JE_ZERO;
	p = xm_je_mallocx(size ? size : 1, flags);
	if (!p)
		errno = ENOMEM;
	return p;
}

void xm_heap_free(void *p)
{
	if (!p)
		return;
	if (xm_ext_contains(p)) {
		if (xm_likely(!xm_in_runtime))
			xm_je_free(p);
		else
			xm_je_dallocx(p, XM_JE_TCACHE_NONE);
		return;
	}
	switch (xm_pre_state()) {
	case XM_PRE_OFF:
		if (xm_in_runtime)
			break;
		xm_pre_count(-(ssize_t)xm_je_sallocx(p, 0));
		xm_je_free(p);
		return;
	case XM_PRE_NATIVE: xm_je_free(p); return;
	case XM_PRE_RUNNING: break;
	}
	xm_je_dallocx(p, XM_JE_TCACHE_NONE);
}

/* From a local block to one with the given flags. */
static void *move_block(void *p, size_t old_size, size_t size, int flags)
{
	void *q = xm_je_mallocx(size, flags);

	if (!q)
		return NULL;
	memcpy(q, p, xm_min(old_size, size));
	xm_je_dallocx(p, XM_JE_TCACHE_NONE);
	return q;
}

void *xm_heap_realloc(void *p, size_t size, const void *caller)
{
	size_t old_size;
	int flags;
	void *q;

	if (!p)
		return xm_heap_alloc(size, 0, false, caller);
	if (!size) { /* as glibc does */
		xm_heap_free(p);
		return NULL;
	}
	if (xm_ext_contains(p)) {
		/* stays what it is, whoever asks: libc too reallocates blocks that the program
		 * gave it */
		if (xm_in_runtime || (!xm_arena_external && !xm_arena_enter()))
			q = xm_je_rallocx(p, size, XM_JE_TCACHE_NONE);
		else
			q = xm_je_realloc(p, size);
		goto out;
	}
	old_size = xm_je_sallocx(p, 0);
	flags = xm_heap_flags(size > old_size ? size - old_size : 0, caller);
	if (xm_pre_state() != XM_PRE_RUNNING)
		q = xm_je_rallocx(p, size, flags);
	else if (flags || size <= old_size || size < MOVE_BYTES)
		q = xm_je_rallocx(p, size, XM_JE_LOCAL);
	else
		q = move_block(p, old_size, size, flags);
out:
	if (!q)
		errno = ENOMEM;
	return q;
}

/* ---- the exported family ------------------------------------------------------------------------------ */

XM_PUBLIC void *malloc(size_t size)
{
	if (xm_likely(is_fast(size, XM_CALLER())))
		return xm_je_malloc(size);
	return xm_heap_alloc(size, 0, false, XM_CALLER());
}

XM_PUBLIC void *calloc(size_t n, size_t size)
{
	size_t bytes;

	if (__builtin_mul_overflow(n, size, &bytes)) {
		errno = ENOMEM;
		return NULL;
	}
	if (xm_likely(is_fast(bytes, XM_CALLER())))
		return xm_je_calloc(n, size);
	return xm_heap_alloc(bytes, 0, true, XM_CALLER());
}

XM_PUBLIC void *realloc(void *p, size_t size)
{
	return xm_heap_realloc(p, size, XM_CALLER());
}

XM_PUBLIC void *reallocarray(void *p, size_t n, size_t size)
{
	size_t bytes;

	if (__builtin_mul_overflow(n, size, &bytes)) {
		errno = ENOMEM;
		return NULL;
	}
	return xm_heap_realloc(p, bytes, XM_CALLER());
}

XM_PUBLIC void free(void *p)
{
	if (xm_likely(xm_ext_contains(p) && !xm_in_runtime))
		xm_je_free(p);
	else
		xm_heap_free(p);
}

XM_PUBLIC void cfree(void *p)
{
	xm_heap_free(p);
}

XM_PUBLIC void free_sized(void *p, size_t size)
{
	xm_heap_free(p);
}

XM_PUBLIC void free_aligned_sized(void *p, size_t align, size_t size)
{
	xm_heap_free(p);
}

static bool is_power_of_two(size_t n)
{
	return n && !(n & (n - 1));
}

XM_PUBLIC int posix_memalign(void **out, size_t align, size_t size)
{
	int saved = errno;
	void *p;

	if (!is_power_of_two(align) || align % sizeof(void *))
		return EINVAL;
	p = xm_heap_alloc(size, align, false, XM_CALLER());
	errno = saved;
	if (!p)
		return ENOMEM;
	*out = p;
	return 0;
}

/* glibc 2.36: an alignment that is no power of two is rounded up, by aligned_alloc as well */
static void *align_rounded(size_t align, size_t size, const void *caller)
{
	if (align > SIZE_MAX / 2 + 1) {
		errno = EINVAL;
		return NULL;
	}
	if (!is_power_of_two(align))
		align = align < 16 ? 16 : (size_t)1 << (64 - __builtin_clzl(align - 1));
	return xm_heap_alloc(size, align, false, caller);
}

XM_PUBLIC void *aligned_alloc(size_t align, size_t size)
{
	return align_rounded(align, size, XM_CALLER());
}

XM_PUBLIC void *memalign(size_t align, size_t size)
{
	return align_rounded(align, size, XM_CALLER());
}

XM_PUBLIC void *valloc(size_t size)
{
	return xm_heap_alloc(size, XM_PAGE_SIZE, false, XM_CALLER());
}

XM_PUBLIC void *pvalloc(size_t size)
{
	if (size > SIZE_MAX - XM_PAGE_SIZE) {
		errno = ENOMEM;
		return NULL;
	}
	return xm_heap_alloc(xm_round_up(xm_max(size, (size_t)1), XM_PAGE_SIZE), XM_PAGE_SIZE, false,
			     XM_CALLER());
}

XM_PUBLIC size_t malloc_usable_size(void *p)
{
	return p ? xm_je_sallocx(p, 0) : 0;
}

/* Strings are data of the program although libc would call malloc for them. */
static char *copy_string(const char *s, size_t len, const void *caller)
{
	char *copy = xm_heap_alloc(len + 1, 0, false, caller);

	if (!copy)
		return NULL;
	memcpy(copy, s, len);
	copy[len] = '\0';
	return copy;
}

/* a macro in some configurations of string.h */
#undef strdup
#undef strndup
XM_PUBLIC char *__strdup(const char *s);
XM_PUBLIC char *__strndup(const char *s, size_t n);

XM_PUBLIC char *strdup(const char *s)
{
	return copy_string(s, strlen(s), XM_CALLER());
}

XM_PUBLIC char *__strdup(const char *s)
{
	return copy_string(s, strlen(s), XM_CALLER());
}

XM_PUBLIC char *strndup(const char *s, size_t n)
{
	return copy_string(s, strnlen(s, n), XM_CALLER());
}

XM_PUBLIC char *__strndup(const char *s, size_t n)
{
	return copy_string(s, strnlen(s, n), XM_CALLER());
}

/* glibc's names for its own allocator: a block of that one must never meet this one's free */
XM_PUBLIC void *__libc_malloc(size_t size);
XM_PUBLIC void *__libc_calloc(size_t n, size_t size);
XM_PUBLIC void *__libc_realloc(void *p, size_t size);
XM_PUBLIC void *__libc_memalign(size_t align, size_t size);
XM_PUBLIC void *__libc_valloc(size_t size);
XM_PUBLIC void *__libc_pvalloc(size_t size);
XM_PUBLIC void __libc_free(void *p);

XM_PUBLIC void *__libc_malloc(size_t size)
{
	return xm_heap_alloc(size, 0, false, XM_CALLER());
}

XM_PUBLIC void *__libc_calloc(size_t n, size_t size)
{
	return calloc(n, size);
}

XM_PUBLIC void *__libc_realloc(void *p, size_t size)
{
	return xm_heap_realloc(p, size, XM_CALLER());
}

XM_PUBLIC void *__libc_memalign(size_t align, size_t size)
{
	return align_rounded(align, size, XM_CALLER());
}

XM_PUBLIC void *__libc_valloc(size_t size)
{
	return xm_heap_alloc(size, XM_PAGE_SIZE, false, XM_CALLER());
}

XM_PUBLIC void *__libc_pvalloc(size_t size)
{
	return pvalloc(size);
}

XM_PUBLIC void __libc_free(void *p)
{
	xm_heap_free(p);
}

/* ---- statistics and tuning ---------------------------------------------------------------------------- */

static size_t je_stat(const char *name)
{
	size_t value = 0, len = sizeof(value);

	xm_je_mallctl(name, &value, &len, NULL, 0);
	return value;
}

static void je_refresh(void)
{
	uint64_t epoch = 1;

	xm_je_mallctl("epoch", NULL, NULL, &epoch, sizeof(epoch));
}

XM_PUBLIC int malloc_trim(size_t pad)
{
	xm_arena_purge(true);
	return 1;
}

/* There is nothing to tune: accepted, as glibc accepts what it knows. */
XM_PUBLIC int mallopt(int param, int value)
{
	return 1;
}

XM_PUBLIC struct mallinfo2 mallinfo2(void)
{
	struct mallinfo2 info = { 0 };

	je_refresh();
	info.arena = je_stat("stats.active");
	info.uordblks = je_stat("stats.allocated");
	info.fordblks = info.arena > info.uordblks ? info.arena - info.uordblks : 0;
	info.keepcost = info.fordblks;
	info.ordblks = 1;
	return info;
}

XM_PUBLIC struct mallinfo mallinfo(void)
{
	struct mallinfo2 wide = mallinfo2();
	struct mallinfo info = { 0 };

	info.arena = (int)wide.arena;
	info.uordblks = (int)wide.uordblks;
	info.fordblks = (int)wide.fordblks;
	info.keepcost = (int)wide.keepcost;
	info.ordblks = (int)wide.ordblks;
	return info;
}

XM_PUBLIC void malloc_stats(void)
{
	je_refresh();
	fprintf(stderr, "Total (incl. mmap):\nsystem bytes     = %10zu\nin use bytes     = %10zu\n",
		je_stat("stats.active"), je_stat("stats.allocated"));
}

XM_PUBLIC int malloc_info(int options, FILE *out)
{
	if (options)
		return EINVAL;
	je_refresh();
	fprintf(out,
		"<malloc version=\"1\">\n<system type=\"current\" size=\"%zu\"/>\n"
		"<aspace type=\"total\" size=\"%zu\"/>\n</malloc>\n",
		je_stat("stats.active"), je_stat("stats.mapped"));
	return 0;
}
