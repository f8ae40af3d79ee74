/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slots.c - reference counts of slots in the family object.
 *
 *   0 --xm_slots_alloc--> IN_HAND | process --xm_slots_own--> 1 <--get, put--> n --put--> 0
 *
 *   refs[slot]  0: free, n: named by n page words, IN_HAND | i: taken by process i, which has not written its page
 *   word yet or has just done so. Allocation is a compare-and-swap of single counts, starting at the slab's hint, so
 *   that a window of evicted pages gets neighbouring slots and comes back with one read. slab.free and slots_used
 *   follow with relaxed adds: they steer the search and are shown to people, they decide nothing.
 *
 * Any thread; lock-free. What a process that was killed had in its hand is found by its number in the counts
 * (xm_slots_take_back); xm_proc.in_hand says whether there is anything to look for. Not found is a slot whose last
 * name its process had just overwritten: a kill between these two instructions keeps one slot taken until the family
 * ends. Word before count everywhere: the other way round the slot would be put twice, and a shared one overwritten.
 */
#include "runtime/slots.h"

#include "log.h"
#include "runtime/family_internal.h"

#define IN_HAND 0x8000u

_Static_assert(XM_MAX_PROCS <= IN_HAND, "a process number fits beside the mark");

static int take_from_slab(struct xm_family *f, uint32_t slab, uint16_t mark, uint64_t *out, int n)
{
	struct xm_slab_desc *d = &f->slab[slab];
	uint16_t *refs = xm_family_refs(f) + ((uint64_t)slab << XM_SLAB_SLOT_SHIFT);
	uint32_t at = xm_load_relaxed(&d->hint) % d->slots;
	int got = 0;

	for (uint32_t looked = 0; looked < d->slots && got < n; looked++) {
		uint16_t zero = 0;

		if (xm_load_relaxed(&refs[at]) == 0 &&
		    __atomic_compare_exchange_n(&refs[at], &zero, mark, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			out[got++] = ((uint64_t)slab << XM_SLAB_SLOT_SHIFT) | at;
		if (++at == d->slots)
			at = 0;
	}
	__atomic_store_n(&d->hint, at, __ATOMIC_RELAXED);
	if (got)
		xm_sub(&d->free, (uint32_t)got);
	return got;
}

int xm_slots_alloc(struct xm_family *f, uint32_t proc, uint32_t *hint, uint64_t *out, int n)
{
	uint16_t mark = (uint16_t)(IN_HAND | proc);
	uint32_t slabs = xm_load(&f->nslabs);
	int got = 0;

	xm_store(&f->proc[proc].in_hand, 1);
	for (uint32_t i = 0; i < slabs && got < n; i++) {
		uint32_t s = (*hint + i) % slabs;
		struct xm_slab_desc *d = &f->slab[s];

		if (xm_load(&d->state) != XM_SLAB_POOL || (int32_t)xm_load_relaxed(&d->free) <= 0)
			continue;
		got += take_from_slab(f, s, mark, out + got, n - got);
		if (got == n)
			*hint = s;
	}
	if (got)
		xm_raise_u64(&f->slots_used_max, xm_add(&f->slots_used, (uint64_t)got) + (uint64_t)got);
	return got;
}

void xm_slots_own(struct xm_family *f, uint64_t slot)
{
	xm_store(&xm_family_refs(f)[slot], 1);
}

void xm_slots_hand_empty(struct xm_family *f, uint32_t proc)
{
	xm_store(&f->proc[proc].in_hand, 0);
}

void xm_slots_get(struct xm_family *f, uint64_t slot)
{
	uint16_t before;

	if (xm_slot_state(f, slot) == XM_SLAB_EXPLICIT)
		return;
	before = __atomic_fetch_add(&xm_family_refs(f)[slot], 1, __ATOMIC_ACQ_REL);
	xm_assert(before != 0 && before < IN_HAND - 1);
}

/* The only one that names the slot lets go: nobody else can change its count. Free is said last, after the checksum
 * that must not outlive it. */
static void put_last(struct xm_family *f, struct xm_slab_desc *d, uint64_t slot)
{
	__atomic_store_n(&xm_family_sums(f)[slot], 0, __ATOMIC_RELAXED);
	xm_sub_to_zero(&f->slots_used, 1);
	xm_add(&d->free, 1);
	xm_store(&xm_family_refs(f)[slot], 0);
}

void xm_slots_put(struct xm_family *f, uint64_t slot)
{
	struct xm_slab_desc *d = xm_slot_slab(f, slot);
	uint16_t *ref = &xm_family_refs(f)[slot];
	uint16_t seen = xm_load(ref);

	if (xm_slot_state(f, slot) == XM_SLAB_EXPLICIT)
		return;
	do {
		xm_assert(seen != 0);
		if (seen == 1 || seen >= IN_HAND) {
			put_last(f, d, slot);
			return;
		}
	} while (!__atomic_compare_exchange_n(ref, &seen, (uint16_t)(seen - 1), false, __ATOMIC_ACQ_REL,
					      __ATOMIC_ACQUIRE));
}

void xm_slots_take_back(struct xm_family *f, uint32_t proc)
{
	uint16_t mark = (uint16_t)(IN_HAND | proc);
	uint32_t slabs = xm_load(&f->nslabs);
	uint64_t used;

	if (!xm_load(&f->proc[proc].in_hand))
		return;
	for (uint32_t s = 0; s < slabs; s++) {
		struct xm_slab_desc *d = &f->slab[s];
		uint16_t *refs = xm_family_refs(f) + ((uint64_t)s << XM_SLAB_SLOT_SHIFT);
		uint32_t free = 0, said;

		if (xm_load(&d->state) == XM_SLAB_EXPLICIT)
			continue;
		for (uint32_t i = 0; i < d->slots; i++)
			if (xm_load_relaxed(&refs[i]) == mark)
				xm_slots_put(f, ((uint64_t)s << XM_SLAB_SLOT_SHIFT) + i);
		/* it may have been killed while it was counting; others count meanwhile, hence by the difference */
		said = xm_load(&d->free);
		for (uint32_t i = 0; i < d->slots; i++)
			free += xm_load_relaxed(&refs[i]) == 0;
		xm_add(&d->free, free - said);
	}
	xm_store(&f->proc[proc].in_hand, 0);
	used = xm_load(&f->slots_used);
	xm_add(&f->slots_used, xm_slots_count(f) - used);
}

uint64_t xm_slots_count(struct xm_family *f)
{
	uint32_t slabs = xm_load(&f->nslabs);
	uint64_t n = 0;

	for (uint32_t s = 0; s < slabs; s++)
		for (uint32_t i = 0; i < f->slab[s].slots; i++)
			n += xm_load_relaxed(&xm_family_refs(f)[((uint64_t)s << XM_SLAB_SLOT_SHIFT) + i]) != 0;
	return n;
}

uint32_t xm_slots_refs(struct xm_family *f, uint64_t slot)
{
	uint16_t refs = xm_load(&xm_family_refs(f)[slot]);

	return refs >= IN_HAND ? 1 : refs;
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
