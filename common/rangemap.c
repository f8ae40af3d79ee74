/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rangemap.c - ranges in one sorted array; the caller's lock serialises. Memory comes from the
 * table given at init only, and only in reserve/set/clear.
 *
 *   set(start, end):     ..[ a )   [  b  )[ c )   [  d  )..        entries i..j-1 overlap the new range
 *                                     |start   end|
 *   is one splice:       ..[ a )   [b')[   new    )[ d' )..        b', d' are what sticks out on either side
 *
 * A neighbour (or remainder) with the same value is absorbed into the new range, so the array
 * stays minimal. A splice puts at most three entries where at least one was, or one where none
 * was: two more at most.
 */
#include "rangemap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util.h"

#define FIRST_CAPACITY \
	(XM_PAGE_SIZE / sizeof(struct xm_range)) /* one page: the runtime's memory is raw mmap */

static void *heap_alloc(size_t bytes)
{
	return malloc(bytes);
}

static void heap_free(void *p, size_t bytes)
{
	free(p);
}

static const struct xm_rangemap_mem heap_mem = { .alloc = heap_alloc, .free = heap_free };

void xm_rangemap_init(struct xm_rangemap *m, const struct xm_rangemap_mem *mem)
{
	*m = (struct xm_rangemap){ .mem = mem ? mem : &heap_mem };
}

void xm_rangemap_fini(struct xm_rangemap *m)
{
	if (m->r)
		m->mem->free(m->r, m->cap * sizeof(*m->r));
	m->r = NULL;
	m->n = m->cap = 0;
}

static int ensure(struct xm_rangemap *m, size_t want)
{
	size_t cap = m->cap ? m->cap : FIRST_CAPACITY;
	struct xm_range *r;

	if (want <= m->cap)
		return 0;
	if (want > SIZE_MAX / 4 / sizeof(*r))
		return -ENOMEM;
	while (cap < want)
		cap *= 2;
	r = m->mem->alloc(cap * sizeof(*r));
	if (!r)
		return -ENOMEM;
	if (m->n)
		memcpy(r, m->r, m->n * sizeof(*r));
	if (m->r)
		m->mem->free(m->r, m->cap * sizeof(*r));
	m->r = r;
	m->cap = cap;
	return 0;
}

int xm_rangemap_reserve(struct xm_rangemap *m, size_t ops)
{
	size_t want;

	if (__builtin_mul_overflow(ops, (size_t)2, &want) || __builtin_add_overflow(want, m->n, &want))
		return -ENOMEM;
	return ensure(m, want);
}

/* index of the first range that ends after `at`; n: none */
static size_t first_ending_after(const struct xm_rangemap *m, uint64_t at)
{
	size_t lo = 0, hi = m->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (m->r[mid].end > at)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

/* index of the first range at or after `from` that starts at or after `at`; n: none */
static size_t first_starting_at(const struct xm_rangemap *m, size_t from, uint64_t at)
{
	size_t lo = from, hi = m->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (m->r[mid].start >= at)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

static bool same_value(const struct xm_range *a, const struct xm_range *b)
{
	return a->value[0] == b->value[0] && a->value[1] == b->value[1];
}

/* replaces entries [i, j) by the k given ones */
static int splice(struct xm_rangemap *m, size_t i, size_t j, const struct xm_range *with, size_t k)
{
	size_t n = m->n - (j - i) + k;
	int ret;

	ret = ensure(m, n);
	if (ret)
		return ret;
	if (m->n != j && i + k != j)
		memmove(m->r + i + k, m->r + j, (m->n - j) * sizeof(*m->r));
	if (k)
		memcpy(m->r + i, with, k * sizeof(*with));
	m->n = n;
	return 0;
}

/* Puts `middle` (NULL: a hole) into [start, end). */
static int replace(struct xm_rangemap *m, uint64_t start, uint64_t end, const struct xm_range *middle)
{
	size_t i = first_ending_after(m, start);
	size_t j = first_starting_at(m, i, end);
	struct xm_range piece[3], left = { 0 }, right = { 0 }, mid = { 0 };
	size_t k = 0;

	if (i < j && m->r[i].start < start) {
		left = m->r[i];
		left.end = start;
	}
	if (i < j && m->r[j - 1].end > end) {
		right = m->r[j - 1];
		right.start = end;
	}
	if (middle) {
		mid = *middle;
		if (!left.end && i > 0 && m->r[i - 1].end == start)
			left = m->r[--i];
		if (left.end && same_value(&left, &mid)) {
			mid.start = left.start;
			left.end = 0;
		}
		if (!right.end && j < m->n && m->r[j].start == end)
			right = m->r[j++];
		if (right.end && same_value(&right, &mid)) {
			mid.end = right.end;
			right.end = 0;
		}
	}
	/* an end of 0 marks "none": no range ends there */
	if (left.end)
		piece[k++] = left;
	if (middle)
		piece[k++] = mid;
	if (right.end)
		piece[k++] = right;
	return splice(m, i, j, piece, k);
}

int xm_rangemap_set(struct xm_rangemap *m, uint64_t start, uint64_t end, const uint64_t value[2])
{
	struct xm_range r = { .start = start, .end = end, .value = { value[0], value[1] } };

	if (start >= end)
		return -EINVAL;
	return replace(m, start, end, &r);
}

int xm_rangemap_clear(struct xm_rangemap *m, uint64_t start, uint64_t end)
{
	if (start >= end)
		return -EINVAL;
	return replace(m, start, end, NULL);
}

const struct xm_range *xm_rangemap_find(const struct xm_rangemap *m, uint64_t at)
{
	size_t i = first_ending_after(m, at);

	return i < m->n ? &m->r[i] : NULL;
}

const struct xm_range *xm_rangemap_get(const struct xm_rangemap *m, uint64_t at)
{
	const struct xm_range *r = xm_rangemap_find(m, at);

	return r && r->start <= at ? r : NULL;
}

bool xm_rangemap_covers(const struct xm_rangemap *m, uint64_t start, uint64_t end)
{
	size_t i;

	for (i = first_ending_after(m, start); start < end; i++) {
		if (i == m->n || m->r[i].start > start)
			return false;
		start = m->r[i].end;
	}
	return true;
}

/* First fit with lo <= a and a + len <= hi; -ENOMEM */
static int fit_from(const struct xm_rangemap *m, uint64_t lo, uint64_t hi, uint64_t len, uint64_t align,
		    uint64_t *out)
{
	size_t i = first_ending_after(m, lo);
	uint64_t a = lo;

	for (;; i++) {
		if (a > UINT64_MAX - (align - 1))
			return -ENOMEM;
		a = (a + align - 1) & ~(align - 1);
		if (a > hi || hi - a < len)
			return -ENOMEM;
		/* alignment may have moved a past a whole range */
		while (i < m->n && m->r[i].end <= a)
			i++;
		if (i == m->n || m->r[i].start >= a + len)
			break;
		a = m->r[i].end;
	}
	*out = a;
	return 0;
}

/* lint: 7 params (the header's contract) */
int xm_rangemap_fit(const struct xm_rangemap *m, uint64_t lo, uint64_t hi, uint64_t len, uint64_t align,
		    uint64_t *cursor, uint64_t *out)
{
	uint64_t from = cursor ? xm_max(*cursor, lo) : lo;
	uint64_t a;
	int ret;

	if (len == 0 || align == 0 || (align & (align - 1)))
		return -EINVAL;
	ret = fit_from(m, from, hi, len, align, &a);
	if (ret && from != lo)
		ret = fit_from(m, lo, hi, len, align, &a);
	if (ret)
		return ret;
	if (cursor)
		*cursor = a + len;
	*out = a;
	return 0;
}

bool xm_rangemap_valid(const struct xm_rangemap *m)
{
	size_t i;

	if (m->n > m->cap)
		return false;
	for (i = 0; i < m->n; i++) {
		const struct xm_range *r = &m->r[i];

		if (r->start >= r->end)
			return false;
		if (i == 0)
			continue;
		if (r[-1].end > r->start || (r[-1].end == r->start && same_value(r - 1, r)))
			return false;
	}
	return true;
}
