/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mirror.h - what external memory must contain, kept in ordinary memory. (Part of stress.c.)
 *
 *   page  = 4 blocks of 1024 bytes; block = 128 words made from one 32-bit key; key 0: zeros
 *   mirror: one key a block, moved, dropped and copied as the calls under test say the pages are
 *
 * A key is used once in a run, so a wrong block tells what it is instead: old contents of the same page, another
 * page's, zeros, or nonsense. Each area belongs to one thread; blocks of the shared area each to one thread.
 */
#ifndef XM_STRESS_MIRROR_H
#define XM_STRESS_MIRROR_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/harness.h"

#define BLOCKS 4
#define BLOCK_WORDS (XM_PAGE_SIZE / BLOCKS / 8)

struct page_keys {
	uint32_t key[BLOCKS];
};

enum area_kind { AREA_FREE = 0, AREA_MAP, AREA_PORTION, AREA_WINDOW };

struct area {
	enum area_kind kind;
	char *at;
	uint32_t pages;
	int prot;
	bool mapped;	      /* windows of a region are unmapped now and then */
	bool wiped, unforked; /* WIPEONFORK, DONTFORK */
	struct page_keys *keys; /* room for AREA_PAGES */
};

static uint64_t stress_seed;
static bool stress_in_child;

/* The last calls, to be told when a page turns out wrong. */
#define NOTES 65536
static struct note {
	const char *what;
	uint64_t at, pages, order;
	long arg;
} notes[NOTES];
static uint64_t notes_taken;

static inline void note(const char *what, const void *at, uint64_t pages, long arg)
{
	uint64_t n = xm_add(&notes_taken, 1);

	notes[n % NOTES] = (struct note){ what, (uint64_t)(uintptr_t)at, pages, n, arg };
}

static void tell_notes(const void *page)
{
	uint64_t at = xm_round_down((uint64_t)(uintptr_t)page, XM_PAGE_SIZE);

	for (uint64_t n = notes_taken > NOTES ? notes_taken - NOTES : 0; n < notes_taken; n++) {
		const struct note *e = &notes[n % NOTES];

		if (at >= e->at && at < e->at + e->pages * XM_PAGE_SIZE)
			fprintf(stderr, "  #%llu of %llu: %s %#llx + %llu pages, %#lx\n", (unsigned long long)e->order,
				(unsigned long long)notes_taken, e->what, (unsigned long long)e->at,
				(unsigned long long)e->pages, e->arg);
	}
}

static inline uint64_t next_random(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static inline uint64_t block_word(uint32_t key, unsigned i)
{
	return key ? (uint64_t)key << 32 | (key * 2654435761u + i * 40503u) : 0;
}

static inline void fill_block(void *at, uint32_t key)
{
	uint64_t *w = at;

	for (unsigned i = 0; i < BLOCK_WORDS; i++)
		w[i] = block_word(key, i);
}

__attribute__((noinline, noreturn)) static void wrong_block(const char *op, const uint64_t *at, uint32_t key, unsigned i)
{
	const char *copy = (const char *)at;
	bool external = xm_ext_contains(at);
	uint64_t word = external ? xm_pg_load(&xm_rt.pt[xm_page_of(at)]) : 0;
	uint64_t found = at[i];

	fprintf(stderr,
		"stress: WRONG CONTENTS in %s%s, seed %llu: page %p block %u word %u: expected %016llx (key %x), found "
		"%016llx%s; page word %016llx\n",
		op, stress_in_child ? " (forked child)" : "", (unsigned long long)stress_seed, (const void *)copy,
		(unsigned)(((uintptr_t)at & 4095) / (XM_PAGE_SIZE / BLOCKS)), i,
		(unsigned long long)block_word(key, i), key, (unsigned long long)found,
		!found ? " (zeros)" : found == block_word((uint32_t)(found >> 32), i) ? " (another key)" : " (nonsense)",
		(unsigned long long)word);
	tell_notes(at);
	_exit(3);
}

static inline void check_block(const char *op, const void *at, uint32_t key)
{
	const uint64_t *w = at;

	for (unsigned i = 0; i < BLOCK_WORDS; i++)
		if (xm_unlikely(w[i] != block_word(key, i)))
			wrong_block(op, w, key, i);
}

static inline char *block_at(const struct area *a, uint32_t page, unsigned block)
{
	return a->at + (size_t)page * XM_PAGE_SIZE + (size_t)block * (XM_PAGE_SIZE / BLOCKS);
}

static inline void check_page(const char *op, const struct area *a, uint32_t page)
{
	for (unsigned b = 0; b < BLOCKS; b++)
		check_block(op, block_at(a, page, b), a->keys[page].key[b]);
}

static inline void forget_keys(struct area *a, uint32_t page, uint32_t n)
{
	memset(&a->keys[page], 0, n * sizeof(a->keys[0]));
}

/* Whether its contents may be looked at now. */
static inline bool readable_area(const struct area *a)
{
	return a->kind != AREA_FREE && a->mapped && (a->prot & PROT_READ);
}

static inline void check_area(const char *op, const struct area *a)
{
	if (!readable_area(a))
		return;
	for (uint32_t p = 0; p < a->pages; p++)
		check_page(op, a, p);
}

#endif
