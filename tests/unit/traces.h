/* SPDX-License-Identifier: Apache-2.0 */
/* traces.h - synthetic traces of page accesses for the policy tests; the same seed makes the same trace. */
#ifndef XM_TEST_TRACES_H
#define XM_TEST_TRACES_H

#include <stddef.h>
#include <stdint.h>

struct trace {
	const char *name;
	uint64_t seed;
	uint32_t pages; /* accesses are below */
	size_t n;
	uint32_t *page; /* malloc; trace_free() */
};

/* XMEM_TEST_SEED, or one from the clock; printed, so that a failure can be repeated */
uint64_t test_seed(const char *what);
/* splitmix64 */
uint64_t test_random(uint64_t *state);

struct trace trace_zipf(uint64_t seed, size_t n, uint32_t pages, double theta);
/* 0, 1 .. pages-1, 0, 1 .. */
struct trace trace_loop(size_t n, uint32_t pages);
/* 0, 1 .. n-1: nothing comes back */
struct trace trace_sequential(size_t n);
/* three of four accesses uniformly to `hot` pages, the fourth is the next page of one long scan */
struct trace trace_scan_hot(uint64_t seed, size_t n, uint32_t hot);
void trace_free(struct trace *t);

#endif
