/* SPDX-License-Identifier: Apache-2.0 */
/*
 * region.c - explicit regions. A region gets a span of addresses and a run of entries in the family's book of slabs;
 * page i of the region is slot i of that run, for ever: another client could find it. Choosing a portion is a search
 * in the region's own range map: no message to anyone.
 *
 *   words of a usable page: EMPTY with its slot (fresh), REMOTE with its slot (written before), then as any page
 *
 * Program threads. Locks: region lock (below the map lock's rank: it is taken first), map lock inside mapping calls.
 */
#include "runtime/region.h"

#include <sys/mman.h>

#include "runtime/mapping_internal.h"

static const struct xm_rangemap_mem region_mem = { xm_local_alloc, xm_local_free };

static uint64_t slot_of(struct xmem_region *r, uint64_t offset)
{
	uint64_t slab = offset / r->slab_bytes, in = offset % r->slab_bytes;

	return ((r->first_slab + slab) << XM_SLAB_SLOT_SHIFT) | (in >> XM_PAGE_SHIFT);
}

/* A run of n unused entries in the book; the caller holds the grow lock. */
static int find_entries(struct xm_family *f, uint32_t n, uint32_t *first)
{
	uint32_t have = xm_load(&f->nslabs), run = 0;

	for (uint32_t i = 0; i < have; i++) {
		run = xm_load(&f->slab[i].state) == XM_SLAB_NONE ? run + 1 : 0;
		if (run == n) {
			*first = i + 1 - n;
			return 0;
		}
	}
	if (have - run + n > XM_MAX_SLABS)
		return -ENOMEM;
	*first = have - run;
	xm_store(&f->nslabs, have - run + n);
	return 0;
}

static void fill_entries(struct xm_family *f, const struct xmem_region *r, uint64_t from, uint64_t to)
{
	for (uint64_t i = from; i < to; i++) {
		struct xm_slab_desc *d = &f->slab[r->first_slab + i];

		d->appliance = (uint16_t)r->appliance;
		d->region = r->id;
		d->index = (uint32_t)i;
		d->slots = (uint32_t)(r->slab_bytes >> XM_PAGE_SHIFT);
		__atomic_store_n(&d->free, 0, __ATOMIC_RELAXED);
		xm_store(&d->state, XM_SLAB_EXPLICIT);
	}
}

static void clear_entries(struct xm_family *f, const struct xmem_region *r)
{
	for (uint64_t i = 0; i < r->span / r->slab_bytes; i++)
		xm_store(&f->slab[r->first_slab + i].state, XM_SLAB_NONE);
}

/* Entries of the span beyond the size are taken (EXPLICIT) too, so that growth finds its own. */
static int take_entries(struct xm_runtime *rt, struct xmem_region *r)
{
	int rc = -EBUSY;

	for (int tries = 0; rc == -EBUSY && tries < 5000; tries++) {
		rc = xm_remote_grow_lock(rt);
		if (rc == -EBUSY)
			xm_sys_sleep(1000000);
	}
	if (rc < 0)
		return rc;
	rc = find_entries(rt->fam, (uint32_t)(r->span / r->slab_bytes), &r->first_slab);
	if (rc == 0)
		fill_entries(rt->fam, r, 0, r->span / r->slab_bytes);
	xm_remote_grow_unlock(rt);
	return rc;
}

int xm_region_create(struct xm_runtime *rt, unsigned a, uint64_t bytes, const char *name, struct xmem_region **out)
{
	struct xm_region_info info;
	struct xm_peer_info pi;
	struct xmem_region *r;
	void *at;
	int rc;

	if (a >= rt->fam->cfg.appliances || !rt->peer[a] || !bytes || bytes > XM_EXT_BYTES / XM_REGION_SPAN)
		return -EINVAL;
	r = xm_local_alloc(sizeof(*r));
	if (!r)
		return -ENOMEM;
	xm_lock_init(&r->lock, XM_RANK_REGION);
	xm_rangemap_init(&r->used, &region_mem);
	xm_peer_info(rt->peer[a], &pi);
	r->appliance = a;
	r->slab_bytes = pi.slab_bytes;
	r->bytes = xm_round_up(bytes, r->slab_bytes);
	r->span = r->bytes * XM_REGION_SPAN;
	rc = xm_peer_region_create(rt->peer[a], r->bytes, name ? name : "", 0, &info);
	if (rc < 0)
		goto fail_free;
	r->id = info.id;
	rc = take_entries(rt, r);
	if (rc < 0)
		goto fail_region;
	xm_peer_region_attach(rt->peer[a], r->id, 0, r->bytes / r->slab_bytes);
	at = xm_map_new(r->span, XM_PAGE_SIZE, PROT_NONE, XM_MAP_REGION);
	rc = (int)(intptr_t)at;
	if ((intptr_t)at < 0 && (intptr_t)at > -4096)
		goto fail_entries;
	r->base = (uint64_t)(uintptr_t)at;
	xm_map_advise(at, r->span, MADV_DONTFORK); /* two writers of one slot would be none */
	*out = r;
	return 0;

fail_entries:
	clear_entries(rt->fam, r);
fail_region:
	xm_peer_region_free(rt->peer[a], r->id);
fail_free:
	xm_rangemap_fini(&r->used);
	xm_local_free(r, sizeof(*r));
	return rc;
}

void xm_region_destroy(struct xm_runtime *rt, struct xmem_region *r)
{
	xm_map_unmap((void *)r->base, r->span);
	clear_entries(rt->fam, r);
	xm_peer_region_free(rt->peer[r->appliance], r->id);
	xm_rangemap_fini(&r->used);
	xm_local_free(r, sizeof(*r));
}

int xm_region_resize(struct xm_runtime *rt, struct xmem_region *r, uint64_t bytes)
{
	struct xm_region_info info;
	const struct xm_range *beyond;
	int rc;

	if (!bytes)
		return -EINVAL;
	if (bytes > r->span)
		return -ENOMEM;
	bytes = xm_round_up(bytes, r->slab_bytes);
	xm_lock(&r->lock);
	beyond = r->used.n ? &r->used.r[r->used.n - 1] : NULL;
	if (beyond && beyond->end > bytes) {
		xm_unlock(&r->lock);
		return -EBUSY;
	}
	rc = xm_peer_region_resize(rt->peer[r->appliance], r->id, bytes, &info);
	if (rc == 0) {
		if (bytes > r->bytes)
			xm_peer_region_attach(rt->peer[r->appliance], r->id, 0, bytes / r->slab_bytes);
		r->bytes = bytes;
	}
	xm_unlock(&r->lock);
	return rc;
}

/* First use of pages: their words get their slots. A page that was used before is where it was. */
static void give_slots(struct xm_runtime *rt, struct xmem_region *r, uint64_t offset, uint64_t len)
{
	uint64_t page = (r->base + offset - xm_ext_lo) >> XM_PAGE_SHIFT;

	for (uint64_t at = 0; at < len; at += XM_PAGE_SIZE, page++) {
		xm_pte *p = xm_pte_touch(rt, page);
		xm_pte seen = xm_pg_load(p);

		/* BUSY for a moment: a run of first touches of a neighbour has reached here */
		while (xm_pg_busy(seen) || !(seen & XM_PG_HAS_SLOT)) {
			xm_pte to = xm_pg_with_slot(XM_PG_EMPTY, slot_of(r, offset + at));

			if (xm_pg_busy(seen))
				seen = xm_pg_load(p);
			else if (xm_pg_cas(p, &seen, to))
				break;
		}
	}
}

int xm_region_use(struct xm_runtime *rt, struct xmem_region *r, int kind, uint64_t *offset, uint64_t len)
{
	const uint64_t value[2] = { (uint64_t)kind, r->base + *offset };
	uint64_t unique[2] = { (uint64_t)kind, 0 };
	const struct xm_range *there;
	int rc = 0;

	xm_lock(&r->lock);
	if (kind == 1)
		rc = xm_rangemap_fit(&r->used, 0, r->bytes, len, XM_PAGE_SIZE, &r->cursor, offset);
	there = rc == 0 ? xm_rangemap_find(&r->used, *offset) : NULL;
	if (rc == 0 && (*offset + len > r->bytes || *offset + len < *offset))
		rc = -EINVAL;
	else if (there && there->start < *offset + len)
		rc = -EEXIST;
	unique[1] = value[1] + *offset; /* tells neighbouring portions apart: they are not merged */
	if (rc == 0)
		rc = xm_rangemap_set(&r->used, *offset, *offset + len, unique);
	if (rc == 0 && kind == 1) /* zeros, whatever a mapping left there */
		rc = xm_map_discard((void *)(r->base + *offset), len);
	if (rc == 0) {
		give_slots(rt, r, *offset, len);
		rc = xm_map_protect((void *)(r->base + *offset), len, PROT_READ | PROT_WRITE);
		if (rc < 0)
			xm_rangemap_clear(&r->used, *offset, *offset + len);
	}
	xm_unlock(&r->lock);
	return rc;
}

/* Written back, and no word left: the contents are the region's again. */
static int write_back(struct xm_runtime *rt, struct xmem_region *r, uint64_t offset, uint64_t len)
{
	uint64_t page = (r->base + offset - xm_ext_lo) >> XM_PAGE_SHIFT, n = len >> XM_PAGE_SHIFT;

	return xm_reclaim_all(rt, page, n);
}

int xm_region_unuse(struct xm_runtime *rt, struct xmem_region *r, int kind, uint64_t offset, uint64_t len, bool keep)
{
	const struct xm_range *u;
	int rc = 0;

	xm_lock(&r->lock);
	u = xm_rangemap_get(&r->used, offset);
	if (!u || u->value[0] != (uint64_t)kind || (kind == 1 && u->start != offset))
		rc = -EINVAL;
	if (rc == 0 && kind == 1)
		len = u->end - u->start;
	if (rc == 0 && offset + len > u->end)
		rc = -EINVAL;
	if (rc == 0 && keep)
		rc = write_back(rt, r, offset, len);
	if (rc == 0 && !keep)
		rc = xm_map_discard((void *)(r->base + offset), len);
	if (rc == 0)
		rc = xm_map_protect((void *)(r->base + offset), len, PROT_NONE);
	if (rc == 0)
		rc = xm_rangemap_clear(&r->used, offset, offset + len);
	xm_unlock(&r->lock);
	return rc;
}
