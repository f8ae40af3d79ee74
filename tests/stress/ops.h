/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ops.h - what the stress program does to external memory: choosing pages, accesses, mappings, advice, regions. Part of
 * stress.c, which includes it once, behind its options, workers and shared area; it has no other user.
 */
#ifndef XM_STRESS_OPS_H
#define XM_STRESS_OPS_H

/* ---- choosing ------------------------------------------------------------------------------------------ */

static struct area *free_area(struct worker *w)
{
	for (unsigned i = 0; i < AREAS; i++)
		if (w->area[i].kind == AREA_FREE)
			return &w->area[i];
	return NULL;
}

/* An area that is there; kind AREA_FREE: of any kind. */
static struct area *some_area(struct worker *w, enum area_kind kind)
{
	unsigned first = (unsigned)rnd(w, AREAS);

	for (unsigned i = 0; i < AREAS; i++) {
		struct area *a = &w->area[(first + i) % AREAS];

		if (a->kind != AREA_FREE && a->mapped && (kind == AREA_FREE || a->kind == kind))
			return a;
	}
	return NULL;
}

static void some_range(struct worker *w, const struct area *a, uint32_t max, uint32_t *page, uint32_t *n)
{
	*page = (uint32_t)rnd(w, a->pages);
	*n = 1 + (uint32_t)rnd(w, xm_min(a->pages - *page, max));
}

static char *page_at(const struct area *a, uint32_t page)
{
	return a->at + (size_t)page * XM_PAGE_SIZE;
}

/* ---- accesses -------------------------------------------------------------------------------------------- */

static void need_prot(struct worker *w, struct area *a, int prot)
{
	if ((a->prot & prot) == prot)
		return;
	expect(w, xm_map_protect(a->at, a->pages * XM_PAGE_SIZE, PROT_READ | PROT_WRITE), "mprotect");
	a->prot = PROT_READ | PROT_WRITE;
}

static void op_read(struct worker *w)
{
	struct area *a = some_area(w, AREA_FREE);
	uint32_t page, n;

	if (!a)
		return;
	need_prot(w, a, PROT_READ);
	some_range(w, a, TOUCH_MAX, &page, &n);
	if (rnd(w, 3) == 0) {
		for (; n; n -= xm_min(n, 4u))
			check_page("random read", a, (uint32_t)rnd(w, a->pages));
		return;
	}
	for (uint32_t i = 0; i < n; i++)
		check_page("sequential read", a, page + i);
}

static void write_page(struct worker *w, struct area *a, uint32_t page)
{
	unsigned only = (unsigned)rnd(w, BLOCKS * 2);

	for (unsigned b = 0; b < BLOCKS; b++) {
		if (only < BLOCKS && b != only)
			continue;
		a->keys[page].key[b] = rnd(w, 40) ? new_key(w) : 0;
		fill_block(block_at(a, page, b), a->keys[page].key[b]);
	}
}

static void op_write(struct worker *w)
{
	struct area *a = some_area(w, AREA_FREE);
	uint32_t page, n;

	if (!a)
		return;
	need_prot(w, a, PROT_READ | PROT_WRITE);
	some_range(w, a, TOUCH_MAX, &page, &n);
	if (rnd(w, 3) == 0) {
		note("random write", a->at, a->pages, 0);
		for (; n; n -= xm_min(n, 4u))
			write_page(w, a, (uint32_t)rnd(w, a->pages));
		return;
	}
	note("write", page_at(a, page), n, 0);
	for (uint32_t i = 0; i < n; i++)
		write_page(w, a, page + i);
}

static void op_shared(struct worker *w)
{
	uint32_t page = (uint32_t)rnd(w, SHARED_PAGES), n = 1 + (uint32_t)rnd(w, 64);

	for (uint32_t p = page; p < xm_min(page + n, (uint32_t)SHARED_PAGES); p++) {
		for (unsigned b = 0; b < BLOCKS; b++) {
			if ((p + b) % opt.threads != w->index)
				continue;
			check_block("shared page", block_at(&shared, p, b), shared.keys[p].key[b]);
			if (rnd(w, 3))
				continue;
			shared.keys[p].key[b] = new_key(w);
			fill_block(block_at(&shared, p, b), shared.keys[p].key[b]);
		}
	}
}

/* The kernel reads and writes external memory. */
static void op_file(struct worker *w)
{
	struct area *a = some_area(w, AREA_MAP);
	uint64_t copy[XM_PAGE_SIZE / 8];
	struct page_keys keys;
	uint32_t page;

	if (!a)
		return;
	need_prot(w, a, PROT_READ | PROT_WRITE);
	page = (uint32_t)rnd(w, a->pages);
	if (pwrite(w->file, page_at(a, page), XM_PAGE_SIZE, 0) != (ssize_t)XM_PAGE_SIZE)
		broken(w, "pwrite from external memory: %s", strerror(errno));
	if (pread(w->file, copy, sizeof(copy), 0) != (ssize_t)sizeof(copy))
		broken(w, "pread: %s", strerror(errno));
	for (unsigned b = 0; b < BLOCKS; b++)
		check_block("file written by the kernel", copy + b * BLOCK_WORDS, a->keys[page].key[b]);
	for (unsigned b = 0; b < BLOCKS; b++) {
		keys.key[b] = new_key(w);
		fill_block(copy + b * BLOCK_WORDS, keys.key[b]);
	}
	if (pwrite(w->file, copy, sizeof(copy), XM_PAGE_SIZE) != (ssize_t)sizeof(copy))
		broken(w, "pwrite: %s", strerror(errno));
	page = (uint32_t)rnd(w, a->pages);
	if (pread(w->file, page_at(a, page), XM_PAGE_SIZE, XM_PAGE_SIZE) != (ssize_t)XM_PAGE_SIZE)
		broken(w, "pread into external memory: %s", strerror(errno));
	a->keys[page] = keys;
}

/* ---- mappings ---------------------------------------------------------------------------------------------- */

static void adopt(struct area *a, enum area_kind kind, void *at, uint32_t pages)
{
	a->kind = kind;
	a->at = at;
	a->pages = pages;
	a->prot = PROT_READ | PROT_WRITE;
	a->mapped = true;
	a->wiped = a->unforked = false;
}

static void op_map(struct worker *w)
{
	struct area *a = free_area(w);
	uint32_t pages = 1 + (uint32_t)rnd(w, rnd(w, 4) ? 256 : AREA_PAGES);
	unsigned flags = rnd(w, 8) == 0 ? XM_MAP_NORESERVE : 0;
	void *at;

	if (!a)
		return;
	if (rnd(w, 16) == 0)
		flags |= XM_MAP_POPULATE;
	at = xm_map_new(pages * XM_PAGE_SIZE, 0, PROT_READ | PROT_WRITE, flags);
	if (test_is_error(at))
		broken(w, "mmap of %u pages: %s", pages, xm_strerror((int)(intptr_t)at));
	adopt(a, AREA_MAP, at, pages);
	forget_keys(a, 0, pages);
	note("mmap", at, pages, flags);
}

static void cut_head(struct area *a, uint32_t n)
{
	memmove(a->keys, a->keys + n, (a->pages - n) * sizeof(a->keys[0]));
	a->at += (size_t)n * XM_PAGE_SIZE;
	a->pages -= n;
	if (!a->pages)
		a->kind = AREA_FREE;
}

static void op_unmap(struct worker *w)
{
	struct area *a = some_area(w, AREA_MAP);
	uint32_t n;

	if (!a)
		return;
	n = rnd(w, 3) ? a->pages : 1 + (uint32_t)rnd(w, a->pages);
	note("munmap of a part of", a->at, a->pages, n);
	if (rnd(w, 2)) {
		expect(w, xm_map_unmap(a->at, n * XM_PAGE_SIZE), "munmap");
		cut_head(a, n);
		return;
	}
	expect(w, xm_map_unmap(page_at(a, a->pages - n), n * XM_PAGE_SIZE), "munmap");
	a->pages -= n;
	if (!a->pages)
		a->kind = AREA_FREE;
}

static void op_fixed(struct worker *w)
{
	struct area *a = some_area(w, AREA_MAP);
	uint32_t page, n;
	void *at;

	if (!a || (a->wiped | a->unforked))
		return;
	need_prot(w, a, PROT_READ | PROT_WRITE);
	some_range(w, a, 64, &page, &n);
	at = xm_map_fixed(page_at(a, page), n * XM_PAGE_SIZE, PROT_READ | PROT_WRITE, 0, false);
	if (at != page_at(a, page))
		broken(w, "mmap fixed of %u pages: %s", n, xm_strerror((int)(intptr_t)at));
	forget_keys(a, page, n);
	note("mmap fixed", at, n, 0);
}

static void op_protect(struct worker *w)
{
	static const int prots[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE };
	struct area *a = some_area(w, AREA_MAP);
	uint32_t page, n;
	int prot = prots[rnd(w, 3)];

	if (!a)
		return;
	note("mprotect", a->at, a->pages, prot);
	if (rnd(w, 2)) { /* whole, and it stays so until somebody needs it */
		expect(w, xm_map_protect(a->at, a->pages * XM_PAGE_SIZE, prot), "mprotect");
		a->prot = prot;
		return;
	}
	need_prot(w, a, PROT_READ | PROT_WRITE);
	some_range(w, a, 32, &page, &n);
	expect(w, xm_map_protect(page_at(a, page), n * XM_PAGE_SIZE, prot), "mprotect");
	expect(w, xm_map_advise(page_at(a, page), n * XM_PAGE_SIZE, MADV_PAGEOUT), "pageout of a protected range");
	if (prot & PROT_READ)
		check_page("protected page", a, page);
	expect(w, xm_map_protect(page_at(a, page), n * XM_PAGE_SIZE, PROT_READ | PROT_WRITE), "mprotect back");
}

static void remap_resize(struct worker *w, struct area *a)
{
	uint32_t pages = 1 + (uint32_t)rnd(w, AREA_PAGES);
	void *at = xm_map_remap(a->at, a->pages * XM_PAGE_SIZE, pages * XM_PAGE_SIZE, MREMAP_MAYMOVE, NULL);

	if (test_is_error(at)) {
		broken(w, "mremap %u -> %u pages: %s", a->pages, pages, xm_strerror((int)(intptr_t)at));
		return;
	}
	note("mremap from", a->at, a->pages, (long)at);
	note("mremap to", at, pages, (long)a->at);
	a->at = at;
	if (pages > a->pages)
		forget_keys(a, a->pages, pages - a->pages);
	a->pages = pages;
}

static void remap_fixed(struct worker *w, struct area *a)
{
	size_t len = a->pages * XM_PAGE_SIZE;
	void *to = xm_map_new(len, 0, PROT_NONE, 0), *at;

	if (test_is_error(to))
		broken(w, "mmap: %s", xm_strerror((int)(intptr_t)to));
	at = xm_map_remap(a->at, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	note("mremap fixed from", a->at, a->pages, (long)at);
	note("mremap fixed to", to, a->pages, (long)a->at);
	if (at == to)
		a->at = to;
	else
		broken(w, "mremap fixed: %s", xm_strerror((int)(intptr_t)at));
}

static void remap_keep(struct worker *w, struct area *a)
{
	struct area *b = free_area(w);
	size_t len = a->pages * XM_PAGE_SIZE;
	void *at;

	if (!b)
		return;
	at = xm_map_remap(a->at, len, len, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	if (test_is_error(at)) {
		/* pages that are pinned cannot leave an address that stays in use */
		if ((intptr_t)at != -EINVAL && !((intptr_t)at == -ENOMEM && opt.pins))
			broken(w, "mremap dontunmap: %s", xm_strerror((int)(intptr_t)at));
		return;
	}
	note("mremap dontunmap from", a->at, a->pages, (long)at);
	note("mremap dontunmap to", at, a->pages, (long)a->at);
	adopt(b, AREA_MAP, at, a->pages);
	b->prot = a->prot;
	memcpy(b->keys, a->keys, a->pages * sizeof(a->keys[0]));
	forget_keys(a, 0, a->pages);
}

static void op_remap(struct worker *w)
{
	struct area *a = some_area(w, AREA_MAP);

	if (!a || (a->wiped | a->unforked))
		return;
	switch (rnd(w, 4)) {
	case 0:
		remap_fixed(w, a);
		break;
	case 1:
		remap_keep(w, a);
		break;
	default:
		remap_resize(w, a);
	}
}

/* ---- advice -------------------------------------------------------------------------------------------------- */

static void op_discard(struct worker *w)
{
	struct area *a = some_area(w, AREA_MAP);
	uint32_t page, n;
	int how = (int)rnd(w, 3);
	int rc;

	if (!a)
		return;
	some_range(w, a, AREA_PAGES, &page, &n);
	if (how == 0)
		rc = xm_map_discard(page_at(a, page), n * XM_PAGE_SIZE);
	else
		rc = xm_map_advise(page_at(a, page), n * XM_PAGE_SIZE, how == 1 ? MADV_DONTNEED : MADV_FREE);
	if (rc == -EINVAL) { /* locked pages among them: nothing has happened */
		expect(w, xm_map_unlock(a->at, a->pages * XM_PAGE_SIZE), "munlock");
		return;
	}
	expect(w, rc, "discard");
	forget_keys(a, page, n);
	note("discard", page_at(a, page), n, how);
}

static void op_advise(struct worker *w)
{
	static const int harmless[] = { MADV_WILLNEED, MADV_WILLNEED, 20 /* COLD */, 21 /* PAGEOUT */, 21,
					MADV_SEQUENTIAL, MADV_RANDOM, MADV_NORMAL, MADV_HUGEPAGE, 22, 23 };
	int advice = harmless[rnd(w, XM_ARRAY_SIZE(harmless))];
	struct area *a = rnd(w, 4) ? some_area(w, AREA_FREE) : &shared;
	uint32_t page, n;

	if (!a)
		return;
	if (advice == 22 || advice == 23)
		need_prot(w, a, PROT_READ | PROT_WRITE);
	some_range(w, a, 256, &page, &n);
	note("madvise", page_at(a, page), n, advice);
	expect(w, xm_map_advise(page_at(a, page), n * XM_PAGE_SIZE, advice), "madvise");
}

static void op_forkflag(struct worker *w)
{
	struct area *a = some_area(w, AREA_MAP);
	bool wipe = rnd(w, 2);
	bool *flag, on;
	int advice;

	if (!a)
		return;
	flag = wipe ? &a->wiped : &a->unforked;
	on = !*flag;
	advice = wipe ? (on ? MADV_WIPEONFORK : MADV_KEEPONFORK) : (on ? MADV_DONTFORK : MADV_DOFORK);
	expect(w, xm_map_advise(a->at, a->pages * XM_PAGE_SIZE, advice), "fork advice");
	*flag = on;
}

static void op_lock(struct worker *w)
{
	struct area *a = some_area(w, AREA_MAP);
	uint32_t page, n;
	int rc;

	if (!a)
		return;
	need_prot(w, a, PROT_READ | PROT_WRITE);
	some_range(w, a, 32, &page, &n);
	rc = xm_map_lock(page_at(a, page), n * XM_PAGE_SIZE);
	note("mlock", page_at(a, page), n, rc);
	if (rc < 0 && rc != -ENOMEM)
		broken(w, "mlock: %s", xm_strerror(rc));
	if (rc == 0)
		check_page("locked page", a, page);
	if (rnd(w, 4))
		expect(w, xm_map_unlock(a->at, a->pages * XM_PAGE_SIZE), "munlock");
	expect(w, xm_map_pin(page_at(a, page), n * XM_PAGE_SIZE), "pin");
	check_page("pinned page", a, page + n - 1);
	xm_map_unpin(page_at(a, page), n * XM_PAGE_SIZE);
}

static void op_mincore(struct worker *w)
{
	struct area *a = some_area(w, AREA_FREE);
	unsigned char vec[AREA_PAGES];
	int rc;

	if (!a)
		return;
	rc = xm_map_mincore(a->at, a->pages * XM_PAGE_SIZE, vec);
	expect(w, rc, "mincore");
}

/* ---- regions through the API ------------------------------------------------------------------------------- */

static void op_portion(struct worker *w)
{
	struct area *a = some_area(w, AREA_PORTION);
	uint32_t pages = 1 + (uint32_t)rnd(w, 256);
	void *at;
	int err = 0;

	if (a && rnd(w, 2)) {
		expect(w, xmem_free(portions, a->at), "xmem_free");
		a->kind = AREA_FREE;
		return;
	}
	a = free_area(w);
	if (!a || stress_in_child)
		return;
	at = xmem_alloc(portions, pages * XM_PAGE_SIZE, &err);
	if (!at && err != -ENOMEM)
		broken(w, "xmem_alloc: %s", xm_strerror(err));
	if (!at)
		return;
	adopt(a, AREA_PORTION, at, pages);
	forget_keys(a, 0, pages);
}

/* A window keeps its contents on the appliance while it is not mapped. */
static void op_window(struct worker *w)
{
	struct area *a = &w->area[0];
	uint64_t bytes = WINDOW_PAGES * XM_PAGE_SIZE;
	int err = 0, rc;

	note("window", a->at, a->pages, a->mapped);
	if (a->mapped) {
		rc = xmem_unmap(windows, a->at, bytes);
		if (rc < 0)
			broken(w, "xmem_unmap: %s", xm_strerror(rc));
		a->mapped = false;
		return;
	}
	a->at = xmem_map(windows, w->index * bytes, bytes, &err);
	if (!a->at)
		broken(w, "xmem_map: %s", xm_strerror(err));
	a->mapped = true;
	check_area("window mapped again", a);
}

#endif
