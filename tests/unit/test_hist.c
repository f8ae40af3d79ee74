/* SPDX-License-Identifier: Apache-2.0 */
/* test_hist.c - buckets, quantiles against sorted values, concurrent recording. */
#include "hist.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "traces.h"
#include "util.h"

static void test_bucket_when_any_value_then_between_its_edges(void **unused)
{
	uint64_t seed = test_seed("hist");
	int i;

	for (i = 0; i < 200000; i++) {
		uint64_t v = test_random(&seed) >> (20 + test_random(&seed) % 44);
		unsigned b = xm_hist_bucket_of(v);

		assert_true(b < XM_HIST_BUCKETS);
		assert_true(v <= xm_hist_bucket_high(b));
		assert_true(b == 0 || v > xm_hist_bucket_high(b - 1));
		/* at most 6.25 % too high */
		assert_true(b == XM_HIST_BUCKETS - 1 || (xm_hist_bucket_high(b) - v) * 16 <= v);
	}
}

static void test_bucket_when_edges_then_exact(void **unused)
{
	unsigned b;

	for (b = 0; b < XM_HIST_BUCKETS - 1; b++) {
		assert_int_equal(xm_hist_bucket_of(xm_hist_bucket_high(b)), b);
		assert_int_equal(xm_hist_bucket_of(xm_hist_bucket_high(b) + 1), b + 1);
	}
	assert_int_equal(xm_hist_bucket_of(UINT64_MAX), XM_HIST_BUCKETS - 1);
	assert_int_equal(xm_hist_bucket_of((1ull << 44) - 1), XM_HIST_BUCKETS - 1);
	assert_true(xm_hist_bucket_high(XM_HIST_BUCKETS - 1) == UINT64_MAX);
}

static void test_quantile_when_empty_then_zero(void **unused)
{
	static struct xm_hist h;

	assert_int_equal(xm_hist_quantile(&h, 0.5), 0);
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void test_quantile_when_random_values_then_near_the_sorted_one(void **unused)
{
	static const double qs[] = { 0, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1 };
	static uint64_t values[10000];
	static struct xm_hist h;
	uint64_t seed = test_seed("hist"), sum = 0, exact, got;
	unsigned i;

	for (i = 0; i < XM_ARRAY_SIZE(values); i++) {
		values[i] = test_random(&seed) % 5000000;
		sum += values[i];
		xm_hist_record(&h, values[i]);
	}
	qsort(values, XM_ARRAY_SIZE(values), sizeof(values[0]), by_value);
	assert_int_equal(h.count, XM_ARRAY_SIZE(values));
	assert_int_equal(h.sum, sum);
	assert_int_equal(h.max, values[XM_ARRAY_SIZE(values) - 1]);
	for (i = 0; i < XM_ARRAY_SIZE(qs); i++) {
		size_t rank = (size_t)(qs[i] * (double)XM_ARRAY_SIZE(values) + 0.999999);

		exact = values[rank ? rank - 1 : 0];
		got = xm_hist_quantile(&h, qs[i]);
		assert_true(got >= exact);
		assert_true((got - exact) * 16 <= exact);
		assert_true(got <= h.max);
	}
}

static void test_quantile_when_one_value_then_never_above_it(void **unused)
{
	static struct xm_hist h;

	xm_hist_record(&h, 1000001);
	assert_int_equal(xm_hist_quantile(&h, 0), 1000001);
	assert_int_equal(xm_hist_quantile(&h, 0.5), 1000001);
	assert_int_equal(xm_hist_quantile(&h, 1), 1000001);
}

static void test_merge_when_two_then_as_if_recorded_in_one(void **unused)
{
	static struct xm_hist a, b, both;
	uint64_t v;
	unsigned i;

	for (v = 1; v < 100000; v = v * 3 / 2 + 1) {
		xm_hist_record(v & 1 ? &a : &b, v);
		xm_hist_record(&both, v);
	}
	xm_hist_merge(&a, &b);
	assert_int_equal(a.count, both.count);
	assert_int_equal(a.sum, both.sum);
	assert_int_equal(a.max, both.max);
	for (i = 0; i < XM_HIST_BUCKETS; i++)
		assert_int_equal(a.bucket[i], both.bucket[i]);
}

#define THREADS 4
#define EACH 50000

static void *record_many(void *arg)
{
	uint64_t i;

	for (i = 0; i < EACH; i++)
		xm_hist_record(arg, i);
	return NULL;
}

static void test_record_when_threads_then_none_is_lost(void **unused)
{
	static struct xm_hist h;
	pthread_t thread[THREADS];
	uint64_t total = 0;
	int i;

	for (i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, record_many, &h), 0);
	for (i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	for (i = 0; i < XM_HIST_BUCKETS; i++)
		total += h.bucket[i];
	assert_int_equal(total, THREADS * EACH);
	assert_int_equal(h.count, THREADS * EACH);
	assert_int_equal(h.sum, (uint64_t)THREADS * EACH * (EACH - 1) / 2);
	assert_int_equal(h.max, EACH - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bucket_when_any_value_then_between_its_edges),
		cmocka_unit_test(test_bucket_when_edges_then_exact),
		cmocka_unit_test(test_quantile_when_empty_then_zero),
		cmocka_unit_test(test_quantile_when_random_values_then_near_the_sorted_one),
		cmocka_unit_test(test_quantile_when_one_value_then_never_above_it),
		cmocka_unit_test(test_merge_when_two_then_as_if_recorded_in_one),
		cmocka_unit_test(test_record_when_threads_then_none_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
