/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_frames.c - accounting of the local budget: what a charge says at the edge, sums over two processes of a
 * family, peaks, and that threads lose nothing. A runtime of which only the counters exist: no thread runs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "runtime/internal.h"

#define BUDGET 1000u

static struct xm_runtime *make_member(struct xm_family *f)
{
	struct xm_runtime *rt = calloc(1, sizeof(*rt));
	int i = xm_family_proc_claim(f);

	assert_non_null(rt);
	assert_true(i >= 0);
	rt->fam = f;
	rt->proc = (uint32_t)i;
	rt->me = &f->proc[i];
	rt->reserve_pages = BUDGET / 16;
	return rt;
}

static struct xm_runtime *rt, *other;

static int setup(void **state)
{
	struct xm_family_config cfg = { .budget_bytes = BUDGET * XM_PAGE_SIZE };
	int err = 0;
	struct xm_family *f = xm_family_create(&cfg, NULL, &err);

	if (!f)
		return -1;
	rt = make_member(f);
	other = make_member(f);
	return 0;
}

static int teardown(void **state)
{
	xm_family_unmap(rt->fam);
	free(rt);
	free(other);
	return 0;
}

static void test_charge_when_within_then_true_up_to_the_last_frame(void **state)
{
	assert_true(xm_frame_charge(rt, BUDGET - 1));
	assert_int_equal(xm_frame_free(rt), 1);
	assert_true(xm_frame_charge(rt, 1));
	assert_int_equal(xm_frame_free(rt), 0);
	assert_int_equal(rt->me->stats.over_budget_pages_max, 0);
}

static void test_charge_when_beyond_then_false_but_counted(void **state)
{
	assert_true(xm_frame_charge(rt, BUDGET));
	assert_false(xm_frame_charge(rt, 3));
	assert_int_equal(rt->fam->resident_pages, BUDGET + 3);
	assert_int_equal(xm_frame_free(rt), 0);
	assert_int_equal(rt->me->stats.over_budget_pages_max, 3);
	xm_frame_uncharge(rt, 4);
	assert_int_equal(xm_frame_free(rt), 1);
}

static void test_charge_when_two_processes_then_one_budget(void **state)
{
	assert_true(xm_frame_charge(rt, BUDGET / 2));
	assert_true(xm_frame_charge(other, BUDGET / 2));
	assert_false(xm_frame_charge(other, 1));
	assert_int_equal(rt->me->resident, BUDGET / 2);
	assert_int_equal(other->me->resident, BUDGET / 2 + 1);
	assert_int_equal(rt->fam->resident_pages, BUDGET + 1);
	assert_int_equal(xm_frame_free(rt), 0);
	xm_frame_uncharge(rt, BUDGET / 2);
	assert_int_equal(xm_frame_free(other), BUDGET / 2 - 1);
}

static void test_peaks_when_uncharged_then_stay(void **state)
{
	xm_frame_charge(rt, 700);
	xm_frame_uncharge(rt, 650);
	xm_frame_charge(rt, 10);
	assert_int_equal(rt->me->stats.resident_pages, 60);
	assert_int_equal(rt->me->stats.resident_pages_max, 700);
	assert_int_equal(rt->fam->resident_pages_max, 700);
}

static void test_uncharge_when_nothing_then_no_change(void **state)
{
	xm_frame_charge(rt, 5);
	xm_frame_uncharge(rt, 0);
	assert_int_equal(rt->me->resident, 5);
}

static void test_process_when_dropped_then_its_frames_are_free(void **state)
{
	xm_frame_charge(rt, 100);
	xm_frame_charge(other, 300);
	xm_family_proc_drop(other->fam, other->proc);
	assert_int_equal(rt->fam->resident_pages, 100);
	assert_int_equal(xm_frame_free(rt), BUDGET - 100);
}

static void *charger_main(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	for (int i = 0; i < 100000; i++) {
		uint64_t n = 1 + (uint64_t)rand_r(&seed) % 8;

		xm_frame_charge(rt, n);
		xm_frame_uncharge(rt, n);
	}
	return NULL;
}

static void test_charge_when_threads_compete_then_sums_exact(void **state)
{
	pthread_t t[3];

	for (uintptr_t i = 0; i < 3; i++)
		pthread_create(&t[i], NULL, charger_main, (void *)(i + 1));
	for (unsigned i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(rt->me->resident, 0);
	assert_int_equal(rt->fam->resident_pages, 0);
	assert_int_equal(xm_frame_free(rt), BUDGET);
}

static void test_epoch_when_budget_turned_over_then_eight_steps(void **state)
{
	uint8_t before = xm_reclaim_epoch(rt);

	rt->inserted += BUDGET;
	assert_in_range((uint8_t)(xm_reclaim_epoch(rt) - before), 7, 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_charge_when_within_then_true_up_to_the_last_frame, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_charge_when_beyond_then_false_but_counted, setup, teardown),
		cmocka_unit_test_setup_teardown(test_charge_when_two_processes_then_one_budget, setup, teardown),
		cmocka_unit_test_setup_teardown(test_peaks_when_uncharged_then_stay, setup, teardown),
		cmocka_unit_test_setup_teardown(test_uncharge_when_nothing_then_no_change, setup, teardown),
		cmocka_unit_test_setup_teardown(test_process_when_dropped_then_its_frames_are_free, setup, teardown),
		cmocka_unit_test_setup_teardown(test_charge_when_threads_compete_then_sums_exact, setup, teardown),
		cmocka_unit_test_setup_teardown(test_epoch_when_budget_turned_over_then_eight_steps, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
