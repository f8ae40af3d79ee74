/* SPDX-License-Identifier: Apache-2.0 */
/* region.h - a region as the client sees it: acquired from an appliance, its addresses, its portions. */
#ifndef XM_REGION_H
#define XM_REGION_H

#include "runtime/internal.h"

#define XM_REGION_SPAN 8 /* addresses set aside: this many times the first size */

struct xmem_region {
	struct xm_lock lock;
	struct xmem_region *next; /* list of the handle; region list lock */
	unsigned appliance;
	uint64_t id;
	uint64_t base;		/* address of offset 0 */
	uint64_t span;		/* bytes of addresses set aside */
	uint64_t bytes;		/* size now */
	uint64_t slab_bytes;
	uint32_t first_slab;	/* in the family's book, contiguous for span / slab_bytes */
	struct xm_rangemap used; /* offsets: portions (value 1) and mappings (value 2); region lock */
	uint64_t cursor;
};

/* 0 or -errno, as the API says. why: 160 bytes. */
int xm_region_create(struct xm_runtime *rt, unsigned appliance, uint64_t bytes, const char *name,
		     struct xmem_region **out);
void xm_region_destroy(struct xm_runtime *rt, struct xmem_region *r);
int xm_region_resize(struct xm_runtime *rt, struct xmem_region *r, uint64_t bytes);
/* Makes [offset, offset+len) usable; kind 1: portion at a place of its choice (*offset out), 2: mapping as given. */
int xm_region_use(struct xm_runtime *rt, struct xmem_region *r, int kind, uint64_t *offset, uint64_t len);
/* Ends a use; keep: contents are written back first, else discarded. kind as given at the start. */
int xm_region_unuse(struct xm_runtime *rt, struct xmem_region *r, int kind, uint64_t offset, uint64_t len, bool keep);

#endif
