/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slots.h - the family's book of slots: which page-sized places on the appliances are in use, and by how many
 * page words. Lock-free on shared memory; any thread of any member process; no system call, no request to
 * anyone. Slots of explicit regions are not counted here (their place is fixed by the mapping).
 */
#ifndef XM_SLOTS_H
#define XM_SLOTS_H

#include <stdint.h>

#include "runtime/family.h"

/* Takes up to n (<= 256) free slots into out, contiguous ones where possible; each with reference count 1, in the
 * hand of process `proc` (its number): if it dies now, its reaper finds them. *hint (a slab number, per caller)
 * remembers where to look. Returns how many (0: none free). */
int xm_slots_alloc(struct xm_family *f, uint32_t proc, uint32_t *hint, uint64_t *out, int n);
/* A page word names the slot, which xm_slots_alloc() gave: from now on it is found by that. */
void xm_slots_own(struct xm_family *f, uint64_t slot);
/* All that xm_slots_alloc() gave to process `proc` is owned (one thread of a process at a time takes slots). */
void xm_slots_hand_empty(struct xm_family *f, uint32_t proc);
/* By the reaper of process `proc`, after its words are gone: frees what it had in its hand. Goes through all counts,
 * if there is anything. */
void xm_slots_take_back(struct xm_family *f, uint32_t proc);
/* Slots in use, by going through all counts (family.slots_used is kept as one goes, and may be off by what killed
 * processes were just counting). */
uint64_t xm_slots_count(struct xm_family *f);
/* One more page word names the slot. */
void xm_slots_get(struct xm_family *f, uint64_t slot);
/* One page word less; at zero the slot is free and its checksum forgotten. */
void xm_slots_put(struct xm_family *f, uint64_t slot);
uint32_t xm_slots_refs(struct xm_family *f, uint64_t slot);
/* free slots over all pool slabs */
uint64_t xm_slots_free(struct xm_family *f);

static inline struct xm_slab_desc *xm_slot_slab(struct xm_family *f, uint64_t slot)
{
	return &f->slab[slot >> XM_SLAB_SLOT_SHIFT];
}

/* enum xm_slab_state of the slot's slab */
static inline uint32_t xm_slot_state(struct xm_family *f, uint64_t slot)
{
	return xm_load(&xm_slot_slab(f, slot)->state);
}

/* byte offset of the slot within its region */
static inline uint64_t xm_slot_offset(struct xm_family *f, uint64_t slot)
{
	struct xm_slab_desc *d = xm_slot_slab(f, slot);

	return ((uint64_t)d->index * d->slots + (slot & (XM_SLAB_SLOTS_MAX - 1))) << XM_PAGE_SHIFT;
}

#endif
