/* SPDX-License-Identifier: Apache-2.0 */
/* mapping_internal.h - between mapping.c, remap.c and advice.c: values of the book of mappings, taking
 * pages, mappings as pieces of calls. All with the map lock held. */
#ifndef XM_MAPPING_INTERNAL_H
#define XM_MAPPING_INTERNAL_H

#include "runtime/internal.h"

static inline uint64_t xm_value(int prot, uint64_t flags)
{
	return flags << 32 | (uint32_t)prot;
}

static inline int xm_value_prot(uint64_t value)
{
	return (int)(uint32_t)value;
}

static inline uint64_t xm_value_flags(uint64_t value)
{
	return value >> 32;
}

/* Checks a range (-EINVAL), marks the thread as inside the runtime, takes the map lock. 0: xm_map_end() is due. */
int xm_map_begin(const void *addr, size_t len, uint64_t *start, uint64_t *bytes);
void xm_map_end(void);
/* Locks every word of [page, page + n) that is not 0, waiting for BUSY ones. */
void xm_map_take(struct xm_runtime *rt, uint64_t page, uint64_t n);
/* Settles taken words: unmapped (0), or EMPTY with pins kept; slots and frames are given back. */
void xm_map_release(struct xm_runtime *rt, uint64_t page, uint64_t n, bool unmapped);
/* Makes the pages of [addr, addr+len) resident through the kernel; no map lock. 0 or -errno */
int xm_map_populate(struct xm_runtime *rt, uint64_t addr, uint64_t len);


/* Locks the page's word; one that is 0 only if zero_too. Waits for a BUSY one. */
void xm_map_take_page(struct xm_runtime *rt, uint64_t page, bool zero_too);
/* A lost page was replaced by one of a file that ends before it (fault.c): ordinary zeros again. */
void xm_map_mend_lost(struct xm_runtime *rt, uint64_t page);
/* Adds to the count of mapped pages. */
void xm_map_count(struct xm_runtime *rt, int64_t pages);
/* Pages of [start, end) that are in the book with all of `flags`. */
uint64_t xm_map_pages_with(struct xm_runtime *rt, uint64_t start, uint64_t end, uint64_t flags);
/* The range is reserved again: not present. */
bool xm_map_reserve(uint64_t addr, uint64_t len);
/* Gives the kernel's mapping the advice that all of ours have, and what flags say. 0 or -errno */
int xm_map_dress(uint64_t addr, uint64_t len, uint64_t flags);
/* Fresh zeros at [addr, addr+len), registered, in the book. The charge has been made. 0, -ENOMEM, -EINVAL */
int xm_map_put(struct xm_runtime *rt, uint64_t addr, uint64_t len, int prot, uint64_t flags);
/* Sets and clears flags of what is in the book there; it can change without memory where ends are reserved. */
void xm_map_set_flags(struct xm_runtime *rt, uint64_t addr, uint64_t end, uint64_t set, uint64_t clear);
/* Unmaps; uncommit: and gives the charge of the range back. 0; -ENOMEM, nothing has changed: the kernel cannot split a
 * mapping. Room in the book for one change has been reserved. */
int xm_map_drop(struct xm_runtime *rt, uint64_t addr, uint64_t len, bool uncommit);
/* The same for a call that has gone too far to fail: what cannot be unmapped stays in the book, empty, without a charge. */
void xm_map_drop_late(struct xm_runtime *rt, uint64_t addr, uint64_t len, bool uncommit);
/* Charges a range against --size if it is of the kind; sets or clears XM_MAP_CHARGED in *flags. 0, -ENOMEM */
int xm_map_charge(struct xm_runtime *rt, uint64_t len, int prot, uint64_t *flags);
void xm_map_uncharge(struct xm_runtime *rt, uint64_t len, uint64_t flags);

#endif
