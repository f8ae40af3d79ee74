/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slots.c - reference counts of slots in the family object.
 *
 *   refs[slot]  0: free, n: named by n page words. Allocation is a compare-and-swap 0 -> 1 of single counts,
 *   starting at the slab's hint, so that a window of evicted pages gets neighbouring slots and comes back with
 *   one read. slab.free and slots_used follow with relaxed adds: they steer the search, they decide nothing.
 *
 * Any thread; lock-free. A process killed between taking a slot and writing its page word leaks that slot until
 * the family ends (at most one eviction batch).
 */
#include "runtime/slots.h"

#include "log.h"

static int take_from_slab(struct xm_family *f, uint32_t slab, uint64_t *out, int n)
{
	struct xm_slab_desc *d = &f->slab[slab];
	uint16_t *refs = xm_family_refs(f) + ((uint64_t)slab << XM_SLAB_SLOT_SHIFT);
	uint32_t at = xm_load_relaxed(&d->hint) % d->slots;
	int got = 0;

	for (uint32_t looked = 0; looked < d->slots && got < n; looked++) {
		uint16_t zero = 0;

		if (xm_load_relaxed(&refs[at]) == 0 &&
		    __atomic_compare_exchange_n(&refs[at], &zero, 1, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			out[got++] = ((uint64_t)slab << XM_SLAB_SLOT_SHIFT) | at;
		if (++at == d->slots)
			at = 0;
	}
	__atomic_store_n(&d->hint, at, __ATOMIC_RELAXED);
	if (got)
		xm_sub(&d->free, (uint32_t)got);
	return got;
}

int xm_slots_alloc(struct xm_family *f, uint32_t *hint, uint64_t *out, int n)
{
	uint32_t slabs = xm_load(&f->nslabs);
	int got = 0;

	for (uint32_t i = 0; i < slabs && got < n; i++) {
		uint32_t s = (*hint + i) % slabs;
		struct xm_slab_desc *d = &f->slab[s];

		if (xm_load(&d->state) != XM_SLAB_POOL || (int32_t)xm_load_relaxed(&d->free) <= 0)
			continue;
		got += take_from_slab(f, s, out + got, n - got);
		if (got == n)
			*hint = s;
	}
	if (got) {
		uint64_t used = xm_add(&f->slots_used, (uint64_t)got) + (uint64_t)got;

		if (used > xm_load_relaxed(&f->slots_used_max))
			__atomic_store_n(&f->slots_used_max, used, __ATOMIC_RELAXED);
	}
	return got;
}

void xm_slots_get(struct xm_family *f, uint64_t slot)
{
	uint16_t before;

	if (xm_slot_state(f, slot) == XM_SLAB_EXPLICIT)
		return;
	before = __atomic_fetch_add(&xm_family_refs(f)[slot], 1, __ATOMIC_ACQ_REL);
	xm_assert(before != 0 && before != UINT16_MAX);
}

void xm_slots_put(struct xm_family *f, uint64_t slot)
{
	struct xm_slab_desc *d = xm_slot_slab(f, slot);
	uint16_t *ref = &xm_family_refs(f)[slot];
	uint16_t seen = xm_load(ref);

	if (xm_slot_state(f, slot) == XM_SLAB_EXPLICIT)
		return;
	/* the checksum goes before the slot can be taken by another */
	do {
		xm_assert(seen != 0);
		if (seen == 1)
			__atomic_store_n(&xm_family_sums(f)[slot], 0, __ATOMIC_RELAXED);
	} while (!__atomic_compare_exchange_n(ref, &seen, (uint16_t)(seen - 1), false, __ATOMIC_ACQ_REL,
					      __ATOMIC_ACQUIRE));
	if (seen == 1) {
		xm_add(&d->free, 1);
		xm_sub(&f->slots_used, 1);
	}
}

uint32_t xm_slots_refs(struct xm_family *f, uint64_t slot)
{
	return xm_load(&xm_family_refs(f)[slot]);
}

uint64_t xm_slots_free(struct xm_family *f)
{
	uint32_t slabs = xm_load(&f->nslabs);
	uint64_t sum = 0;

	for (uint32_t s = 0; s < slabs; s++) {
		int32_t free = (int32_t)xm_load_relaxed(&f->slab[s].free);

		if (xm_load(&f->slab[s].state) == XM_SLAB_POOL && free > 0)
			sum += (uint32_t)free;
	}
	return sum;
}
