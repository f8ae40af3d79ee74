/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_pagetab.c - page words: what the bits say, which transitions are legal, what an owner may and may not
 * change when it settles a word, and that no waiter is forgotten. Threads only in the race tests.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>

#include "runtime/pagetab.h"

#define ROUNDS 200000

static void test_word_when_zero_then_empty_without_slot(void **state)
{
	assert_int_equal(xm_pg_state(0), XM_PG_EMPTY);
	assert_false(xm_pg_busy(0));
	assert_int_equal(0 & XM_PG_HAS_SLOT, 0);
}

static void test_busy_when_any_state_then_only_the_three(void **state)
{
	for (unsigned s = 0; s < 8; s++)
		assert_int_equal(xm_pg_busy(s), s == XM_PG_FETCHING || s == XM_PG_EVICTING || s == XM_PG_TAKEN);
}

static void test_slot_when_set_and_cleared_then_nothing_else_changes(void **state)
{
	xm_pte w = XM_PG_RESIDENT | XM_PG_DIRTY | XM_PG_PINNED | 3 * XM_PG_HOLD_ONE | XM_PG_QUEUED;
	xm_pte e = xm_pg_with_epoch(w, 0xa5);

	for (uint64_t slot = 1; slot < 1ull << 40; slot = slot * 3 + 1) {
		xm_pte s = xm_pg_with_slot(e, slot);

		assert_int_equal(xm_pg_slot(s), slot);
		assert_true(s & XM_PG_HAS_SLOT);
		assert_int_equal(xm_pg_epoch(s), 0xa5);
		assert_int_equal(xm_pg_without_slot(s), e);
	}
	assert_int_equal(xm_pg_slot(xm_pg_with_slot(0, (1ull << 40) - 1)), (1ull << 40) - 1);
}

static void test_epoch_when_changed_then_wraps_in_its_byte(void **state)
{
	xm_pte w = xm_pg_with_slot(XM_PG_REMOTE, 77);

	for (unsigned e = 0; e < 256; e++) {
		assert_int_equal(xm_pg_epoch(xm_pg_with_epoch(w, (uint8_t)e)), e);
		assert_int_equal(xm_pg_slot(xm_pg_with_epoch(w, (uint8_t)e)), 77);
	}
}

static void test_taken_when_undone_then_former_state_known(void **state)
{
	static const enum xm_page_state of[] = { XM_PG_EMPTY, XM_PG_FREED, XM_PG_REMOTE, XM_PG_RESIDENT, XM_PG_LOST };

	for (unsigned i = 0; i < sizeof(of) / sizeof(of[0]); i++) {
		xm_pte w = xm_pg_with_slot(of[i] | XM_PG_DIRTY | XM_PG_PINNED, 5);
		xm_pte t = xm_pg_taken(w);

		assert_int_equal(xm_pg_state(t), XM_PG_TAKEN);
		assert_int_equal(xm_pg_prev(t), of[i]);
		assert_int_equal(xm_pg_with_state(t & ~XM_PG_PREV_MASK, xm_pg_prev(t)), w);
	}
}

/* The whole table, written down a second time: rows from, columns to, in the order of the states. */
static void test_legal_when_all_pairs_then_as_designed(void **state)
{
	static const char *const may[8] = {
		[XM_PG_EMPTY] = "y.yyy..y",    [XM_PG_FREED] = "yy..y..y",
		[XM_PG_REMOTE] = "..y.y.yy",   [XM_PG_RESIDENT] = "...yyy.y",
		[XM_PG_FETCHING] = "yyyyy.y.", [XM_PG_EVICTING] = "y.yy.y..",
		[XM_PG_LOST] = "....y.yy",     [XM_PG_TAKEN] = "yyyyyyyy",
	};

	for (unsigned from = 0; from < 8; from++)
		for (unsigned to = 0; to < 8; to++)
			assert_int_equal(xm_pg_legal(xm_pg_with_slot(from, 1), xm_pg_with_slot(to, 1)),
					 may[from][to] == 'y');
}

static void test_legal_when_remote_without_slot_then_refused(void **state)
{
	for (unsigned from = 0; from < 8; from++)
		assert_false(xm_pg_legal(from, XM_PG_REMOTE));
}

static void test_cas_when_word_changed_then_tells_current(void **state)
{
	xm_pte w = XM_PG_RESIDENT | XM_PG_DIRTY, seen = XM_PG_RESIDENT;

	assert_false(xm_pg_cas(&w, &seen, XM_PG_EVICTING));
	assert_int_equal(seen, XM_PG_RESIDENT | XM_PG_DIRTY);
	assert_true(xm_pg_cas(&w, &seen, xm_pg_with_state(seen, XM_PG_EVICTING)));
	assert_int_equal(w, XM_PG_EVICTING | XM_PG_DIRTY);
}

static void test_finish_when_marks_came_meanwhile_then_kept(void **state)
{
	xm_pte w = XM_PG_FETCHING | XM_PG_PINNED | 2 * XM_PG_HOLD_ONE;

	assert_false(xm_pg_finish(&w, XM_PG_RESIDENT | XM_PG_DIRTY));
	assert_int_equal(w, XM_PG_RESIDENT | XM_PG_DIRTY | XM_PG_PINNED | 2 * XM_PG_HOLD_ONE);
}

static void test_finish_when_unpinned_meanwhile_then_not_pinned_again(void **state)
{
	xm_pte w = XM_PG_FETCHING;

	assert_false(xm_pg_finish(&w, XM_PG_RESIDENT | XM_PG_PINNED | XM_PG_HOLD_ONE));
	assert_int_equal(w, XM_PG_RESIDENT);
}

static void test_finish_when_waiter_then_told_once(void **state)
{
	xm_pte w = xm_pg_with_slot(XM_PG_EVICTING | XM_PG_WAITER, 9);

	assert_true(xm_pg_finish(&w, xm_pg_with_slot(XM_PG_REMOTE, 9)));
	assert_false(w & XM_PG_WAITER);
}

static void test_clear_when_taken_then_empty_and_waiter_told(void **state)
{
	xm_pte w = xm_pg_with_slot(XM_PG_TAKEN | XM_PG_WAITER | XM_PG_PINNED | 15 * XM_PG_HOLD_ONE, 3);

	assert_true(xm_pg_clear(&w));
	assert_int_equal(w & ~XM_PG_QUEUED, 0);
	w = XM_PG_TAKEN;
	assert_false(xm_pg_clear(&w));
}

/* ---- races ---------------------------------------------------------------------------------------------- */

struct race {
	xm_pte word;
	uint64_t wakes, waits; /* waits: WAITER bits set by the waiter */
	uint32_t stop;
};

static void *owner_main(void *arg)
{
	struct race *r = arg;

	for (unsigned i = 0; i < ROUNDS; i++) {
		xm_pte seen = xm_pg_load(&r->word);

		while (!xm_pg_cas(&r->word, &seen, xm_pg_with_state(seen, XM_PG_FETCHING)))
			;
		if (xm_pg_finish(&r->word, XM_PG_RESIDENT))
			r->wakes++;
	}
	xm_store(&r->stop, 1);
	return NULL;
}

static void *waiter_main(void *arg)
{
	struct race *r = arg;

	while (!xm_load(&r->stop)) {
		xm_pte seen = xm_pg_load(&r->word);

		if (xm_pg_busy(seen) && !(seen & XM_PG_WAITER) && xm_pg_cas(&r->word, &seen, seen | XM_PG_WAITER))
			r->waits++;
	}
	return NULL;
}

static void test_waiter_when_racing_with_finish_then_every_wait_is_woken(void **state)
{
	struct race r = { .word = XM_PG_RESIDENT };
	pthread_t a, b;

	pthread_create(&b, NULL, waiter_main, &r);
	pthread_create(&a, NULL, owner_main, &r);
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	assert_int_equal(r.wakes, r.waits);
	assert_int_equal(r.word, XM_PG_RESIDENT);
}

static void *holder_main(void *arg)
{
	struct race *r = arg;

	for (unsigned i = 0; i < ROUNDS; i++) {
		__atomic_fetch_add(&r->word, XM_PG_HOLD_ONE, __ATOMIC_ACQ_REL);
		__atomic_fetch_sub(&r->word, XM_PG_HOLD_ONE, __ATOMIC_ACQ_REL);
	}
	return NULL;
}

static void test_holds_when_racing_with_finish_then_counted_exactly(void **state)
{
	struct race r = { .word = XM_PG_RESIDENT };
	pthread_t a, b;

	pthread_create(&b, NULL, holder_main, &r);
	pthread_create(&a, NULL, owner_main, &r);
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	assert_int_equal(r.word, XM_PG_RESIDENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_word_when_zero_then_empty_without_slot),
		cmocka_unit_test(test_busy_when_any_state_then_only_the_three),
		cmocka_unit_test(test_slot_when_set_and_cleared_then_nothing_else_changes),
		cmocka_unit_test(test_epoch_when_changed_then_wraps_in_its_byte),
		cmocka_unit_test(test_taken_when_undone_then_former_state_known),
		cmocka_unit_test(test_legal_when_all_pairs_then_as_designed),
		cmocka_unit_test(test_legal_when_remote_without_slot_then_refused),
		cmocka_unit_test(test_cas_when_word_changed_then_tells_current),
		cmocka_unit_test(test_finish_when_marks_came_meanwhile_then_kept),
		cmocka_unit_test(test_finish_when_unpinned_meanwhile_then_not_pinned_again),
		cmocka_unit_test(test_finish_when_waiter_then_told_once),
		cmocka_unit_test(test_clear_when_taken_then_empty_and_waiter_told),
		cmocka_unit_test(test_waiter_when_racing_with_finish_then_every_wait_is_woken),
		cmocka_unit_test(test_holds_when_racing_with_finish_then_counted_exactly),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
