/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_early.c - when windows may leave as a whole (runtime/early.h): by the shares of pages that are asked for again soon
 * after they left in time, and early.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/early.h"
#include "util.h"

#define ASKED 100
#define EXCESS 16

static struct xm_early early;

static int fresh(void **state)
{
	memset(&early, 0, sizeof(early));
	return 0;
}

static xm_pte left(enum xm_page_left how, uint8_t epoch)
{
	return xm_pg_with_epoch(xm_pg_with_left(xm_pg_with_slot(XM_PG_REMOTE, 77), how), epoch);
}

/* n pages of a kind leave, of which percent are asked for again at once. */
static void leave(bool is_early, unsigned n, unsigned percent)
{
	for (unsigned i = 0; i < n; i++) {
		xm_early_gone(&early, is_early);
		if (i % 100 < percent)
			xm_early_back(&early, left(is_early ? XM_LEFT_EARLY : XM_LEFT_IN_TIME, 9), 9);
	}
}

static unsigned allowed(void)
{
	unsigned n = 0;

	for (int i = 0; i < ASKED; i++)
		n += xm_early_may(&early, EXCESS);
	return n;
}

static void test_may_when_nothing_is_known_then_always(void **state)
{
	assert_int_equal(allowed(), ASKED);
	leave(false, 5000, 0);
	leave(true, XM_EARLY_ENOUGH - 1, 100);
	assert_int_equal(allowed(), ASKED);
}

static void test_may_when_all_are_missed_alike_then_always(void **state)
{
	leave(false, 1000, 60);
	leave(true, 2000, 60);
	assert_int_equal(allowed(), ASKED);
}

static void test_may_when_early_ones_are_missed_more_then_not(void **state)
{
	leave(false, 1000, 20);
	leave(true, 2000, 20 + 100 / EXCESS);
	assert_int_equal(allowed(), ASKED);
	fresh(NULL);
	leave(false, 1000, 20);
	leave(true, 2000, 20 + 100 / EXCESS + 1);
	assert_int_equal(allowed(), 0);
}

static void test_may_when_nobody_leaves_in_time_then_not(void **state)
{
	leave(true, 10000, 0);
	assert_int_equal(allowed(), 0);
}

static void test_may_when_not_for_long_then_once(void **state)
{
	leave(false, 1000, 0);
	leave(true, 1000, 100);
	assert_int_equal(allowed(), 0);
	leave(false, XM_EARLY_SAMPLE - 1000, 0);
	for (int i = 0; i < 5; i++) {
		assert_int_equal(allowed(), 1);
		leave(false, XM_EARLY_SAMPLE - 1, 0);
		assert_int_equal(allowed(), 0);
		leave(false, 1, 0);
	}
}

static void test_may_when_habits_change_then_soon_again(void **state)
{
	leave(false, 500, 10);
	leave(true, 3000, 90);
	assert_int_equal(allowed(), 0);
	leave(true, XM_EARLY_KEEP, 10);
	leave(false, 500, 10);
	assert_int_equal(allowed(), 0);
	leave(true, 2 * XM_EARLY_KEEP, 10);
	leave(false, 500, 10);
	assert_int_equal(allowed(), ASKED);
}

static void test_back_when_late_or_clean_then_not_counted(void **state)
{
	xm_early_back(&early, left(XM_LEFT_EARLY, 100), 100 + XM_EARLY_SOON + 1);
	xm_early_back(&early, left(XM_LEFT_IN_TIME, 100), 100 + XM_EARLY_SOON + 1);
	xm_early_back(&early, left(XM_LEFT_CLEAN, 100), 100);
	assert_int_equal(early.back[0] + early.back[1], 0);
	/* the clock has gone round */
	xm_early_back(&early, left(XM_LEFT_EARLY, 255), (uint8_t)(255 + XM_EARLY_SOON));
	xm_early_back(&early, left(XM_LEFT_IN_TIME, 255), 255);
	assert_int_equal(early.back[0], 1);
	assert_int_equal(early.back[1], 1);
}

static void test_word_when_it_says_how_a_page_left_then_all_else_stays(void **state)
{
	static const enum xm_page_left all[] = { XM_LEFT_CLEAN, XM_LEFT_IN_TIME, XM_LEFT_EARLY };
	xm_pte word = xm_pg_with_epoch(xm_pg_with_slot(XM_PG_REMOTE | XM_PG_PINNED | XM_PG_QUEUED, 0xabcdef), 0x5a);

	for (unsigned i = 0; i < XM_ARRAY_SIZE(all); i++) {
		xm_pte w = xm_pg_with_left(word, all[i]);

		assert_int_equal(xm_pg_left(w), all[i]);
		assert_int_equal(xm_pg_with_left(w, XM_LEFT_CLEAN), word);
		/* a mapping call keeps its own note in the same place */
		assert_int_equal(xm_pg_prev(xm_pg_taken(w)), XM_PG_REMOTE);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_may_when_nothing_is_known_then_always, fresh),
		cmocka_unit_test_setup(test_may_when_all_are_missed_alike_then_always, fresh),
		cmocka_unit_test_setup(test_may_when_early_ones_are_missed_more_then_not, fresh),
		cmocka_unit_test_setup(test_may_when_nobody_leaves_in_time_then_not, fresh),
		cmocka_unit_test_setup(test_may_when_not_for_long_then_once, fresh),
		cmocka_unit_test_setup(test_may_when_habits_change_then_soon_again, fresh),
		cmocka_unit_test_setup(test_back_when_late_or_clean_then_not_counted, fresh),
		cmocka_unit_test_setup(test_word_when_it_says_how_a_page_left_then_all_else_stays, fresh),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
