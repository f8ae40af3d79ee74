/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping.h - ranges of addresses whose pages are external, and the memory-management calls on them with the
 * kernel's exact meaning. All functions return what the raw system call returns: an address or 0, or -errno.
 * Thread-safe (the map lock, taken inside; never held while external memory is touched). None allocates from
 * malloc. Addresses and lengths are the caller's, checked here as the kernel checks them (EINVAL ...).
 * Only ranges that lie wholly inside the external range may be passed; xm_ext_overlaps tells.
 */
#ifndef XM_MAPPING_H
#define XM_MAPPING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util.h"

struct xm_runtime;

extern uint64_t xm_ext_lo, xm_ext_hi; /* the reserved range; both 0 before the runtime started */

static inline bool xm_ext_contains(const void *p)
{
	uint64_t a = (uint64_t)(uintptr_t)p;

	return a >= xm_ext_lo && a < xm_ext_hi;
}

static inline bool xm_ext_overlaps(const void *p, size_t len)
{
	uint64_t a = (uint64_t)(uintptr_t)p;

	return a < xm_ext_hi && a + len > xm_ext_lo;
}

enum xm_map_flags {
	XM_MAP_NORESERVE = 1 << 0, /* not charged against --size until evicted */
	XM_MAP_HEAP = 1 << 1,	   /* of the malloc replacement: charged by page use */
	XM_MAP_LOCKED = 1 << 2,	   /* MAP_LOCKED: pinned, counts against the budget */
	XM_MAP_POPULATE = 1 << 3,
	XM_MAP_WIPEONFORK = 1 << 4, /* internal, by madvise */
	XM_MAP_DONTFORK = 1 << 5,
	XM_MAP_SEQUENTIAL = 1 << 6,
	XM_MAP_RANDOM = 1 << 7,
	XM_MAP_CHARGED = 1 << 8, /* internal: counted in committed_pages */
	XM_MAP_REGION = 1 << 9,	 /* explicit mapping of a region: slots are fixed */
	XM_MAP_FOREIGN = 1 << 10, /* internal: a file or shared mapping inside the range, the kernel's own */
	XM_MAP_DONTDUMP = 1 << 11, /* internal, by madvise */
};

/* New mapping of len bytes (rounded up to pages), anywhere in the range, aligned to align (power of two, 0:
 * a page); prot as for mmap. -ENOMEM: no addresses, or --size reached, or budget too small for LOCKED. */
void *xm_map_new(size_t len, size_t align, int prot, unsigned flags);
/* mmap(MAP_FIXED | MAP_ANONYMOUS | MAP_PRIVATE) inside the range: replaces what is there by fresh zeros. With
 * noreplace: -EEXIST when anything is mapped there. Returns addr or (void *)-errno. */
void *xm_map_fixed(void *addr, size_t len, int prot, unsigned flags, bool noreplace);
/* A foreign mapping (file, shared) is about to be put, or was put, over [addr, addr+len) by MAP_FIXED: forget
 * the pages and leave the addresses to the kernel until they are unmapped. */
int xm_map_foreign(void *addr, size_t len);
int xm_map_unmap(void *addr, size_t len);
int xm_map_protect(void *addr, size_t len, int prot);
int xm_map_advise(void *addr, size_t len, int advice);
/* old in the range; flags and new_addr as for mremap. Result may leave the range only with MREMAP_FIXED to an
 * outside address (the data is then copied into local memory). */
void *xm_map_remap(void *old, size_t old_len, size_t new_len, int flags, void *new_addr);
int xm_map_mincore(void *addr, size_t len, unsigned char *vec);
int xm_map_lock(void *addr, size_t len);   /* populate and pin; -ENOMEM beyond the budget */
int xm_map_unlock(void *addr, size_t len);
int xm_map_lock_all(int flags);		   /* MCL_CURRENT | MCL_FUTURE on all external mappings */
int xm_map_unlock_all(void);
/* Pages that must stay although the program did not ask (thread stacks, robust mutexes): counted holds. */
int xm_map_pin(void *addr, size_t len);
void xm_map_unpin(void *addr, size_t len);
/* Drops the content of whole pages inside [addr, addr+len): they read as zeros, slots are given back. For the
 * malloc replacement's purge hook. */
int xm_map_discard(void *addr, size_t len);

#endif
