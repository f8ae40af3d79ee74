/* SPDX-License-Identifier: Apache-2.0 */
/* mapping_internal.h - between mapping.c and advice.c: values of the book of mappings, taking pages. */
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

#endif
