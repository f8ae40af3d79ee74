/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hist.h - log-linear histogram of nanoseconds (or any u64): 16 linear buckets per power of two, so a quantile
 * is at most 6.25 % high. Fixed size, lives in shared memory, recorded with relaxed atomic adds by any number
 * of threads and processes, read while being written.
 */
#ifndef XM_HIST_H
#define XM_HIST_H

#include <stdint.h>

#define XM_HIST_SUB 16
#define XM_HIST_BUCKETS (XM_HIST_SUB * 41) /* up to 2^44 ns = 4.8 h; larger values land in the last */

struct xm_hist {
	uint64_t count, sum, max;
	uint64_t bucket[XM_HIST_BUCKETS];
};

unsigned xm_hist_bucket_of(uint64_t value);
uint64_t xm_hist_bucket_high(unsigned bucket); /* largest value that lands in it */
void xm_hist_record(struct xm_hist *h, uint64_t value);
/* q in 0..1; 0 when empty; never above max */
uint64_t xm_hist_quantile(const struct xm_hist *h, double q);
void xm_hist_merge(struct xm_hist *into, const struct xm_hist *from);

#endif
