/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rangemap.h - sorted, non-overlapping ranges [start, end) of u64, each with a small value (two words); the
 * book of mappings of the runtime, like the kernel's list of VMAs. Not thread-safe: the owner locks.
 * Memory comes from the allocator table given at init (the runtime's is local memory by raw mmap), grows by
 * doubling; a sorted array with binary search, neighbours with equal values are merged.
 */
#ifndef XM_RANGEMAP_H
#define XM_RANGEMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct xm_range {
	uint64_t start, end;
	uint64_t value[2];
};

struct xm_rangemap_mem {
	void *(*alloc)(size_t bytes);
	void (*free)(void *p, size_t bytes);
};

struct xm_rangemap {
	struct xm_range *r;
	size_t n, cap;
	const struct xm_rangemap_mem *mem;
};

/* mem NULL: malloc/free */
void xm_rangemap_init(struct xm_rangemap *m, const struct xm_rangemap_mem *mem);
void xm_rangemap_fini(struct xm_rangemap *m);
/* Guarantees that the next `ops` set/clear calls cannot fail (each adds at most 2 entries). 0, -ENOMEM */
int xm_rangemap_reserve(struct xm_rangemap *m, size_t ops);
/* Replaces whatever is in [start, end) by one range of that value. 0, -ENOMEM (unchanged), -EINVAL (empty) */
int xm_rangemap_set(struct xm_rangemap *m, uint64_t start, uint64_t end, const uint64_t value[2]);
/* Removes whatever is in [start, end), splitting at the edges. */
int xm_rangemap_clear(struct xm_rangemap *m, uint64_t start, uint64_t end);
/* The range containing at, or the first one after it; NULL: none. Valid until the next change. */
const struct xm_range *xm_rangemap_find(const struct xm_rangemap *m, uint64_t at);
/* The range containing at, or NULL. */
const struct xm_range *xm_rangemap_get(const struct xm_rangemap *m, uint64_t at);
/* Whether [start, end) is covered without a hole. */
bool xm_rangemap_covers(const struct xm_rangemap *m, uint64_t start, uint64_t end);
/* Lowest address a >= lo with [a, a+len) free and a+len <= hi, a multiple of align (power of two): first fit
 * starting at *cursor (updated, wraps once). 0 and *out; -ENOMEM */
int xm_rangemap_fit(const struct xm_rangemap *m, uint64_t lo, uint64_t hi, uint64_t len, uint64_t align,
		    uint64_t *cursor, uint64_t *out);
bool xm_rangemap_valid(const struct xm_rangemap *m); /* sorted, disjoint, merged: for tests and xm_check */

#endif
