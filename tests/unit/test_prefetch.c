/* SPDX-License-Identifier: Apache-2.0 */
/* test_prefetch.c - the promises of policy.h for every prefetch policy, and what it saves. */
#include "runtime/policy/policy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "policy_sim.h"
#include "util.h"

#define FOR_EACH_POLICY(name) for (const char *const *name = xm_prefetch_names; *name; name++)

static const struct xm_prefetch_ops *ops;
static uint64_t state[512 / sizeof(uint64_t)];

static void begin(const char *name)
{
	ops = xm_prefetch_find(name);
	assert_non_null(ops);
	memset(state, 0xa5, sizeof(state));
	ops->init(state);
}

/* a fault whose advice must be sound in any case */
static struct xm_prefetch_advice fault(uint64_t page)
{
	struct xm_prefetch_advice a = ops->fault(state, page);
	__int128 last = (__int128)page + (__int128)a.stride * a.count;

	assert_in_range(a.count, 0, XM_PREFETCH_MAX);
	if (a.count > 0) {
		assert_true(a.stride != 0);
		assert_true(last >= 0 && last <= INT64_MAX);
	}
	return a;
}

/* Walks a run as a program does: the next fault is behind what was prefetched. The last advice. */
static struct xm_prefetch_advice walk(uint64_t *page, int64_t stride, int faults)
{
	struct xm_prefetch_advice a = { 0 };

	while (faults-- > 0) {
		a = fault(*page);
		*page += (uint64_t)(stride * (a.stride == stride ? a.count + 1 : 1));
	}
	return a;
}

static void test_find_when_listed_or_not_then_as_said(void **unused)
{
	FOR_EACH_POLICY(name)
	assert_string_equal(xm_prefetch_find(*name)->name, *name);
	assert_ptr_equal(xm_prefetch_find("none"), &xm_prefetch_none);
	assert_ptr_equal(xm_prefetch_find("stride"), &xm_prefetch_stride);
	assert_ptr_equal(xm_prefetch_find("majority"), &xm_prefetch_majority);
	assert_null(xm_prefetch_find("oracle"));
}

static void test_state_when_asked_then_small(void **unused)
{
	FOR_EACH_POLICY(name)
	assert_true(xm_prefetch_find(*name)->state_bytes() < 512);
}

static void test_none_when_sequential_then_nothing(void **unused)
{
	uint64_t page;

	begin("none");
	for (page = 0; page < 100; page++)
		assert_int_equal(fault(page).count, 0);
}

static void test_window_when_run_is_confirmed_then_doubles_to_the_maximum(void **unused)
{
	static const char *const names[] = { "stride", "majority" };
	static const int64_t strides[] = { 1, -1, 7, -13, 512 };
	unsigned i, j, round;

	for (i = 0; i < XM_ARRAY_SIZE(names); i++) {
		for (j = 0; j < XM_ARRAY_SIZE(strides); j++) {
			uint64_t page = 1 << 24;
			int32_t before = 0;

			begin(names[i]);
			for (round = 0; round < 12; round++) {
				struct xm_prefetch_advice a = walk(&page, strides[j], 1);

				if (before)
					assert_int_equal(a.count, xm_min(before * 2, XM_PREFETCH_MAX));
				else if (a.count)
					assert_int_equal(a.count, 2);
				before = a.count;
			}
			assert_int_equal(before, XM_PREFETCH_MAX);
		}
	}
}

static void test_window_when_wasted_then_shrinks_to_nothing(void **unused)
{
	static const char *const names[] = { "stride", "majority" };
	struct xm_prefetch_advice a;
	uint64_t page;
	unsigned i;
	int w;

	for (i = 0; i < XM_ARRAY_SIZE(names); i++) {
		page = 0;
		begin(names[i]);
		assert_int_equal(walk(&page, 1, 12).count, 64);
		/* a quarter of the window: it is halved, then the confirming fault doubles it again */
		for (w = 0; w < 16; w++)
			ops->waste(state, 1);
		assert_int_equal(fault(page).count, 64);
		for (w = 0; w < 200; w++)
			ops->waste(state, 1);
		a = fault(page + 65);
		assert_true(a.count <= 2);
	}
}

static void test_stride_when_page_is_far_away_then_run_ends(void **unused)
{
	uint64_t page = 1000;

	begin("stride");
	assert_true(walk(&page, 1, 6).count > 0);
	assert_int_equal(fault(90000).count, 0);
	assert_int_equal(fault(50).count, 0);
}

static void test_majority_when_stray_fault_then_run_goes_on(void **unused)
{
	uint64_t page = 1000;
	int32_t before;
	int i;

	begin("majority");
	before = walk(&page, 1, 12).count;
	assert_int_equal(before, 64);
	for (i = 0; i < 5; i++) {
		assert_int_equal(fault(500000 + (uint64_t)i * 977).count, 0);
		assert_int_equal(walk(&page, 1, 1).count, 64);
		walk(&page, 1, 2);
	}
}

static void test_majority_when_trend_changes_then_follows(void **unused)
{
	uint64_t page = 1000, other = 1 << 20;
	struct xm_prefetch_advice a;

	begin("majority");
	walk(&page, 1, 40);
	a = walk(&other, -3, 20);
	assert_int_equal(a.stride, -3);
	assert_int_equal(a.count, 64);
}

static void test_advice_when_near_the_ends_then_never_beyond(void **unused)
{
	FOR_EACH_POLICY(name)
	{
		uint64_t page;
		int i;

		begin(*name);
		for (page = 200; page < 300; page--)
			fault(page);
		begin(*name);
		for (i = 0; i < 60; i++)
			fault(3000 - (uint64_t)i * 50);
		begin(*name);
		for (page = UINT64_MAX - 100; page > 100; page++)
			fault(page);
		begin(*name);
		for (page = INT64_MAX - 100ull; page < INT64_MAX + 100ull; page++)
			fault(page);
		begin(*name);
		for (page = (1ull << 52) - 200; page < (1ull << 52) + 10; page++)
			fault(page);
	}
}

static void test_advice_when_strides_are_huge_then_no_overflow(void **unused)
{
	FOR_EACH_POLICY(name)
	{
		uint64_t page;
		int i;

		begin(*name);
		for (i = 0, page = 0; i < 20; i++, page += 1ull << 60)
			fault(page);
		begin(*name);
		for (i = 0; i < 40; i++)
			fault(i & 1 ? INT64_MAX : 0);
		begin(*name);
		for (i = 0, page = 0; i < 12; i++, page += 1ull << 48)
			fault(page);
		begin(*name);
		for (i = 0, page = 15ull << 48; i < 15; i++, page -= 1ull << 48)
			fault(page);
	}
}

static void test_advice_when_random_calls_then_sound_and_repeatable(void **unused)
{
	uint64_t first = test_seed("prefetch");

	FOR_EACH_POLICY(name)
	{
		uint64_t sum[2] = { 0, 0 };
		int pass, i;

		for (pass = 0; pass < 2; pass++) {
			uint64_t seed = first, page = 0;

			begin(*name);
			for (i = 0; i < 50000; i++) {
				uint64_t r = test_random(&seed);
				struct xm_prefetch_advice a;

				page = r % 16 == 0 ? test_random(&seed) >> (r / 16 % 64)
						   : page + (r / 16 % 4) - 1;
				a = fault(page);
				sum[pass] = sum[pass] * 31 + (uint64_t)a.stride + (uint64_t)a.count;
				if (r % 7 == 0)
					ops->waste(state, 1);
				if (r % 5 == 0)
					ops->hit(state, 1);
			}
		}
		assert_true(sum[0] == sum[1]);
	}
}

static void test_same_page_when_faulting_again_then_run_is_kept(void **unused)
{
	static const char *const names[] = { "stride", "majority" };
	unsigned i;

	for (i = 0; i < XM_ARRAY_SIZE(names); i++) {
		uint64_t page = 0;

		begin(names[i]);
		walk(&page, 1, 12);
		fault(page);
		fault(page);
		page += 1;
		assert_int_equal(fault(page).count, 64);
	}
}

static void test_sim_when_sequential_then_few_faults_and_no_waste(void **unused)
{
	static const char *const names[] = { "stride", "majority" };
	struct trace t = trace_sequential(100000);
	unsigned i;

	for (i = 0; i < XM_ARRAY_SIZE(names); i++) {
		struct sim_prefetch_result r = sim_prefetch(xm_prefetch_find(names[i]), &t, 1000);

		assert_false(r.wrong);
		assert_true(r.faults < t.n / 50);
		assert_int_equal(r.wasted, 0);
		assert_int_equal(r.faults + r.prefetched, t.n);
	}
	assert_int_equal(sim_prefetch(&xm_prefetch_none, &t, 1000).faults, t.n);
	trace_free(&t);
}

static void test_sim_when_random_then_hardly_any_waste(void **unused)
{
	uint64_t seed = test_seed("prefetch");
	struct trace t = trace_zipf(seed, 100000, 50000, 0.6);

	FOR_EACH_POLICY(name)
	{
		struct sim_prefetch_result r = sim_prefetch(xm_prefetch_find(*name), &t, 1000);

		assert_false(r.wrong);
		assert_true(r.prefetched < r.faults / 50);
	}
	trace_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_find_when_listed_or_not_then_as_said),
		cmocka_unit_test(test_state_when_asked_then_small),
		cmocka_unit_test(test_none_when_sequential_then_nothing),
		cmocka_unit_test(test_window_when_run_is_confirmed_then_doubles_to_the_maximum),
		cmocka_unit_test(test_window_when_wasted_then_shrinks_to_nothing),
		cmocka_unit_test(test_stride_when_page_is_far_away_then_run_ends),
		cmocka_unit_test(test_majority_when_stray_fault_then_run_goes_on),
		cmocka_unit_test(test_majority_when_trend_changes_then_follows),
		cmocka_unit_test(test_advice_when_near_the_ends_then_never_beyond),
		cmocka_unit_test(test_advice_when_strides_are_huge_then_no_overflow),
		cmocka_unit_test(test_advice_when_random_calls_then_sound_and_repeatable),
		cmocka_unit_test(test_same_page_when_faulting_again_then_run_is_kept),
		cmocka_unit_test(test_sim_when_sequential_then_few_faults_and_no_waste),
		cmocka_unit_test(test_sim_when_random_then_hardly_any_waste),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
