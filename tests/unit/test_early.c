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

#define EXCESS 16
#define SAMPLE 1000

static struct xm_early early;
static uint8_t now;

static int fresh(void **state)
{
	memset(&early, 0, sizeof(early));
	now = 250; /* the clock goes round soon */
	early.epoch = early.judged = now;
	return 0;
}

static xm_pte left(enum xm_page_left how, uint8_t epoch)
{
	return xm_pg_with_epoch(xm_pg_with_left(xm_pg_with_slot(XM_PG_REMOTE, 77), how), epoch);
}

/* n pages of a kind leave now, of which percent are wanted again at once. */
static void leave(bool is_early, unsigned n, unsigned percent)
{
	xm_pte w = left(is_early ? XM_LEFT_EARLY : XM_LEFT_IN_TIME, now);

	for (unsigned i = 0; i < n; i++) {
		xm_early_gone(&early, w);
		if (i % 100 < percent)
			xm_early_back(&early, w, now);
	}
}

static bool may(void)
{
	return xm_early_may(&early, now, EXCESS, SAMPLE);
}

/* Epochs in each of which so many pages leave, the early ones last: since then no sample is due. */
static void epochs(unsigned n, unsigned in_time, unsigned its_percent, unsigned earlies, unsigned percent)
{
	while (n--) {
		may();
		leave(false, in_time, its_percent);
		leave(true, earlies, percent);
		now++;
	}
}

static void test_may_when_nothing_is_known_then_not(void **state)
{
	assert_false(may());
	epochs(3 * XM_EARLY_EPOCHS, XM_EARLY_ENOUGH, 0, 1, 0);
	assert_false(may());
	fresh(NULL);
	epochs(3 * XM_EARLY_EPOCHS, 1, 0, XM_EARLY_ENOUGH, 0);
	assert_false(may());
}

static void test_may_when_all_are_missed_alike_then_yes(void **state)
{
	epochs(XM_EARLY_EPOCHS, 100, 60, 100, 60);
	assert_true(may());
	epochs(300, 100, 60, 100, 60);
	assert_true(may());
}

static void test_may_when_early_ones_are_missed_more_then_not(void **state)
{
	epochs(XM_EARLY_EPOCHS, 100, 20, 300, 20 + 100 / EXCESS);
	assert_true(may());
	epochs(XM_EARLY_EPOCHS, 100, 20, 300, 20 + 100 / EXCESS + 1);
	assert_false(may());
}

/* Those that left a moment ago have had no time to be missed. */
static void test_may_when_all_has_just_left_then_not_judged(void **state)
{
	epochs(XM_EARLY_SOON, 900, 0, 900, 0);
	assert_false(may());
	epochs(1, 0, 0, 0, 0);
	assert_true(may());
	epochs(XM_EARLY_SOON, 0, 0, 900, 100);
	assert_true(may());
	epochs(1, 0, 0, 0, 0);
	assert_false(may());
}

static void test_may_when_habits_change_then_a_turn_later(void **state)
{
	epochs(50, 100, 10, 100, 90);
	assert_false(may());
	epochs(XM_EARLY_EPOCHS, 100, 10, 100, 10);
	assert_true(may());
}

static void test_may_when_time_has_passed_then_nothing_is_known(void **state)
{
	epochs(XM_EARLY_EPOCHS, 100, 10, 100, 10);
	assert_true(may());
	now += 100; /* a multiple of the ring and a bit */
	assert_false(may());
}

static void test_may_when_not_for_long_then_samples_of_the_same_share(void **state)
{
	unsigned windows = 0;

	epochs(XM_EARLY_EPOCHS, 100, 0, 100, 100);
	for (unsigned i = 0; i < 100000; i++) {
		if (i % 500 == 0)
			now++;
		if (may()) {
			windows++;
			leave(true, 60, 90);
		}
		leave(false, 1, 0);
	}
	assert_in_range(windows, 100000 / SAMPLE - 1, 100000 / SAMPLE + 1);
}

/* The clock goes on while a batch leaves. */
static void test_gone_when_a_new_epoch_has_begun_then_counted(void **state)
{
	may();
	now++;
	leave(true, 10, 100);
	assert_false(may());
	assert_int_equal(early.of[now % XM_EARLY_EPOCHS].gone[1], 10);
	assert_int_equal(early.of[now % XM_EARLY_EPOCHS].back[1], 10);
}

static void test_back_when_late_or_unknown_then_not_counted(void **state)
{
	uint32_t back = 0;

	xm_early_back(&early, left(XM_LEFT_EARLY, 100), 100 + XM_EARLY_SOON + 1);
	xm_early_back(&early, left(XM_LEFT_IN_TIME, 100), 100 + XM_EARLY_SOON + 1);
	xm_early_back(&early, left(XM_LEFT_UNKNOWN, 100), 100);
	xm_early_gone(&early, left(XM_LEFT_UNKNOWN, 100));
	assert_int_equal(early.since, 0);
	for (unsigned i = 0; i < XM_EARLY_EPOCHS; i++)
		back += early.of[i].back[0] + early.of[i].back[1] + early.of[i].gone[0] + early.of[i].gone[1];
	assert_int_equal(back, 0);
	/* the clock has gone round */
	xm_early_back(&early, left(XM_LEFT_EARLY, 255), (uint8_t)(255 + XM_EARLY_SOON));
	xm_early_back(&early, left(XM_LEFT_IN_TIME, 255), 255);
	assert_int_equal(early.of[255 % XM_EARLY_EPOCHS].back[0], 1);
	assert_int_equal(early.of[255 % XM_EARLY_EPOCHS].back[1], 1);
}

static void test_word_when_it_says_how_a_page_left_then_all_else_stays(void **state)
{
	static const enum xm_page_left all[] = { XM_LEFT_UNKNOWN, XM_LEFT_IN_TIME, XM_LEFT_EARLY };
	xm_pte word = xm_pg_with_epoch(xm_pg_with_slot(XM_PG_REMOTE | XM_PG_PINNED | XM_PG_QUEUED, 0xabcdef), 0x5a);

	for (unsigned i = 0; i < XM_ARRAY_SIZE(all); i++) {
		xm_pte w = xm_pg_with_left(word, all[i]);

		assert_int_equal(xm_pg_left(w), all[i]);
		assert_int_equal(xm_pg_with_left(w, XM_LEFT_UNKNOWN), word);
		/* a mapping call keeps its own note in the same place */
		assert_int_equal(xm_pg_prev(xm_pg_taken(w)), XM_PG_REMOTE);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_may_when_nothing_is_known_then_not, fresh),
		cmocka_unit_test_setup(test_may_when_all_are_missed_alike_then_yes, fresh),
		cmocka_unit_test_setup(test_may_when_early_ones_are_missed_more_then_not, fresh),
		cmocka_unit_test_setup(test_may_when_all_has_just_left_then_not_judged, fresh),
		cmocka_unit_test_setup(test_may_when_habits_change_then_a_turn_later, fresh),
		cmocka_unit_test_setup(test_may_when_time_has_passed_then_nothing_is_known, fresh),
		cmocka_unit_test_setup(test_may_when_not_for_long_then_samples_of_the_same_share, fresh),
		cmocka_unit_test_setup(test_gone_when_a_new_epoch_has_begun_then_counted, fresh),
		cmocka_unit_test_setup(test_back_when_late_or_unknown_then_not_counted, fresh),
		cmocka_unit_test_setup(test_word_when_it_says_how_a_page_left_then_all_else_stays, fresh),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
