/* SPDX-License-Identifier: Apache-2.0 */
/* traces.c - synthetic traces; pure but for test_seed(). Running out of memory ends the program. */
#include "traces.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

uint64_t test_seed(const char *what)
{
	const char *text = getenv("XMEM_TEST_SEED");
	struct timespec ts;
	uint64_t seed;

	clock_gettime(CLOCK_REALTIME, &ts);
	seed = text ? strtoull(text, NULL, 0) : (uint64_t)ts.tv_nsec ^ (uint64_t)ts.tv_sec << 20;
	printf("%s: XMEM_TEST_SEED=%llu\n", what, (unsigned long long)seed);
	return seed;
}

uint64_t test_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static void *must_alloc(size_t n, size_t size)
{
	void *p = calloc(n, size);

	if (!p) {
		perror("calloc");
		exit(1);
	}
	return p;
}

static struct trace new_trace(const char *name, uint64_t seed, size_t n, uint32_t pages)
{
	return (struct trace){
		.name = name,
		.seed = seed,
		.pages = pages,
		.n = n,
		.page = must_alloc(n, sizeof(uint32_t)),
	};
}

struct trace trace_zipf(uint64_t seed, size_t n, uint32_t pages, double theta)
{
	struct trace t = new_trace("zipf", seed, n, pages);
	double *cdf = must_alloc(pages, sizeof(*cdf));
	uint32_t *place = must_alloc(pages, sizeof(*place));
	double sum = 0;
	uint32_t r, other, tmp;
	size_t i;

	for (r = 0; r < pages; r++) {
		sum += 1 / pow(r + 1, theta);
		cdf[r] = sum;
		place[r] = r;
	}
	/* popular pages do not lie together */
	for (r = pages - 1; r > 0; r--) {
		other = (uint32_t)(test_random(&seed) % (r + 1));
		tmp = place[r];
		place[r] = place[other];
		place[other] = tmp;
	}
	for (i = 0; i < n; i++) {
		double u = (double)(test_random(&seed) >> 11) / (double)(1ull << 53) * sum;
		uint32_t lo = 0, hi = pages - 1;

		while (lo < hi) {
			uint32_t mid = lo + (hi - lo) / 2;

			if (cdf[mid] > u)
				hi = mid;
			else
				lo = mid + 1;
		}
		t.page[i] = place[lo];
	}
	free(cdf);
	free(place);
	return t;
}

struct trace trace_loop(size_t n, uint32_t pages)
{
	struct trace t = new_trace("loop", 0, n, pages);
	size_t i;

	for (i = 0; i < n; i++)
		t.page[i] = (uint32_t)(i % pages);
	return t;
}

struct trace trace_sequential(size_t n)
{
	struct trace t = trace_loop(n, (uint32_t)n);

	t.name = "sequential";
	return t;
}

struct trace trace_scan_hot(uint64_t seed, size_t n, uint32_t hot)
{
	struct trace t = new_trace("scan+hot", seed, n, hot + (uint32_t)(n / 4) + 1);
	uint32_t next = hot;
	size_t i;

	for (i = 0; i < n; i++)
		t.page[i] = i % 4 == 3 ? next++ : (uint32_t)(test_random(&seed) % hot);
	return t;
}

void trace_free(struct trace *t)
{
	free(t->page);
	t->page = NULL;
}
