/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hist.c - log-linear histogram. Any number of threads and processes record at once with relaxed
 * atomic adds; no lock, no allocation. Readers see each bucket at some recent value: a quantile is
 * computed from the buckets alone, since count and buckets are not read at one instant.
 *
 *   value   0 .. 15 | 16 .. 31 | 32 .. 63 (steps of 2) | 64 .. 127 (steps of 4) | ...
 *   bucket  0 .. 15 | 16 .. 31 | 32 .. 47              | 48 .. 63               | ...
 */
#include "hist.h"

#include "util.h"

#define SUB_SHIFT 4
_Static_assert(1 << SUB_SHIFT == XM_HIST_SUB, "buckets per power of two");

unsigned xm_hist_bucket_of(uint64_t value)
{
	unsigned shift, bucket;

	if (value < XM_HIST_SUB)
		return (unsigned)value;
	shift = 63u - (unsigned)__builtin_clzll(value) - SUB_SHIFT;
	bucket = XM_HIST_SUB * shift + (unsigned)(value >> shift);
	return xm_min(bucket, XM_HIST_BUCKETS - 1u);
}

uint64_t xm_hist_bucket_high(unsigned bucket)
{
	unsigned shift;

	if (bucket < XM_HIST_SUB)
		return bucket;
	if (bucket >= XM_HIST_BUCKETS - 1)
		return UINT64_MAX;
	shift = bucket / XM_HIST_SUB - 1;
	return ((uint64_t)(bucket % XM_HIST_SUB + XM_HIST_SUB + 1) << shift) - 1;
}

static void raise_max(uint64_t *max, uint64_t value)
{
	uint64_t old = xm_load_relaxed(max);

	while (old < value &&
	       !__atomic_compare_exchange_n(max, &old, value, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

void xm_hist_record(struct xm_hist *h, uint64_t value)
{
	/* max first: a reader that sees the bucket rarely sees a max below it */
	raise_max(&h->max, value);
	xm_add(&h->bucket[xm_hist_bucket_of(value)], 1);
	xm_add(&h->sum, value);
	xm_add(&h->count, 1);
}

uint64_t xm_hist_quantile(const struct xm_hist *h, double q)
{
	uint64_t total = 0, seen = 0, rank, high, max;
	unsigned i;

	for (i = 0; i < XM_HIST_BUCKETS; i++)
		total += xm_load_relaxed(&h->bucket[i]);
	if (total == 0)
		return 0;
	if (!(q > 0))
		rank = 1;
	else if (q >= 1)
		rank = total;
	else
		rank = (uint64_t)(q * (double)total);
	/* the smallest rank r with r >= q * total */
	if (q > 0 && q < 1 && (double)rank < q * (double)total)
		rank++;
	rank = rank < 1 ? 1 : rank;
	for (i = 0; i < XM_HIST_BUCKETS - 1; i++) {
		seen += xm_load_relaxed(&h->bucket[i]);
		if (seen >= rank)
			break;
	}
	high = xm_hist_bucket_high(i);
	max = xm_load_relaxed(&h->max);
	return xm_min(high, max);
}

void xm_hist_merge(struct xm_hist *into, const struct xm_hist *from)
{
	unsigned i;

	raise_max(&into->max, xm_load_relaxed(&from->max));
	for (i = 0; i < XM_HIST_BUCKETS; i++) {
		uint64_t n = xm_load_relaxed(&from->bucket[i]);

		if (n)
			xm_add(&into->bucket[i], n);
	}
	xm_add(&into->sum, xm_load_relaxed(&from->sum));
	xm_add(&into->count, xm_load_relaxed(&from->count));
}
