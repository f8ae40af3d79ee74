/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_advice.c - madvise, mincore, mlock and pins on external memory, against a real appliance: what they do to
 * contents and residence, their errors, and after each test: nothing left over.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/mman.h>

#include "runtime/stream.h"
#include "tests/unit/runtime_fixture.h"

#define RW (PROT_READ | PROT_WRITE)
#define PAGE XM_PAGE_SIZE
#define BUDGET_PAGES 2048u

static int group_setup(void **state)
{
	struct test_config c = { .budget_bytes = BUDGET_PAGES * PAGE };

	group_start(&c, "128M");
	return 0;
}

static char *filled(uint64_t pages, uint64_t seed)
{
	char *p = map(pages, RW);

	test_fill(p, pages, seed);
	return p;
}

static void unmap(void *p, uint64_t pages)
{
	assert_int_equal(xm_map_unmap(p, pages * PAGE), 0);
}

static int advise(void *p, uint64_t pages, int advice)
{
	return xm_map_advise(p, pages * PAGE, advice);
}

/* More than the budget goes through local memory: whatever may leave has left. */
static void press(void)
{
	char *p = filled(2 * BUDGET_PAGES, 99);

	unmap(p, 2 * BUDGET_PAGES);
}

/* ---- discard ------------------------------------------------------------------------------------------------ */

static void check_discard(int advice)
{
	char *p = filled(64, 1);
	uint64_t used;

	assert_int_equal(test_evict(p, 32), 0);
	used = xm_load(&xm_rt.fam->slots_used);
	assert_int_equal(advise(p + 8 * PAGE, 48, advice), 0);
	assert_int_equal(test_wrong(p, 8, 1, 0), 0);
	assert_int_equal(test_not_zero(p + 8 * PAGE, 48), 0);
	assert_int_equal(test_wrong(p + 56 * PAGE, 8, 1, 56), 0);
	assert_true(xm_load(&xm_rt.fam->slots_used) + 16 <= used);
	unmap(p, 64);
}

static void test_dontneed_when_resident_and_remote_then_zeros_and_slots_back(void **state)
{
	check_discard(MADV_DONTNEED);
}

static void test_free_when_resident_and_remote_then_zeros_and_slots_back(void **state)
{
	check_discard(MADV_FREE);
}

static void test_discard_when_called_then_no_fetch(void **state)
{
	char *p = filled(64, 2);
	uint64_t fetched;

	assert_int_equal(test_evict(p, 64), 0);
	fetched = xm_load(&xm_rt.me->stats.fetched_pages);
	assert_int_equal(xm_map_discard(p, 64 * PAGE), 0);
	assert_int_equal(test_not_zero(p, 64), 0);
	assert_int_equal(xm_load(&xm_rt.me->stats.fetched_pages), fetched);
	unmap(p, 64);
}

struct toucher {
	char *at;
	uint32_t stop, wrong;
};

/* Touches every page for the first time, again and again: the main thread takes them away. */
static void *toucher_main(void *arg)
{
	struct toucher *t = arg;

	while (!xm_load(&t->stop))
		for (unsigned p = 0; p < 512; p++)
			*(volatile char *)(t->at + p * PAGE) = 1;
	return NULL;
}

/* A run of first touches meets madvise(DONTNEED): whoever wins, the page must be neither lost to the accounts nor
 * stop the evictor, which may find it resident and absent. */
static void test_dontneed_when_racing_with_first_touch_then_reclaim_goes_on(void **state)
{
	struct toucher t = { .at = xm_map_new(512 * PAGE, 0, RW, 0) };
	pthread_t thread;

	assert_false(test_is_error(t.at));
	assert_int_equal(pthread_create(&thread, NULL, toucher_main, &t), 0);
	for (int i = 0; i < 3000; i++) {
		assert_int_equal(advise(t.at + (i % 7) * PAGE, 500, MADV_DONTNEED), 0);
		if (i % 16 == 0)
			assert_int_equal(advise(t.at, 512, 21), 0);
	}
	xm_store(&t.stop, 1);
	pthread_join(thread, NULL);
	press();
	unmap(t.at, 512);
}

/* By a raw system call, which the runtime does not see: zeros, as from the kernel, and no hang of the evictor. */
static void test_dontneed_when_raw_on_resident_then_zeros_and_reclaim_goes_on(void **state)
{
	char *p = filled(64, 3);

	assert_int_equal(syscall(SYS_madvise, p, 64 * PAGE, MADV_DONTNEED), 0);
	press();
	assert_int_equal(test_not_zero(p, 64), 0);
	unmap(p, 64);
}

/* ---- residence ---------------------------------------------------------------------------------------------- */

static void test_pageout_when_dirty_then_remote_and_contents_kept(void **state)
{
	char *p = filled(128, 4);

	assert_int_equal(test_evict(p, 128), 0);
	assert_int_equal(test_pages_become(p, 128, XM_PG_REMOTE, 128), 128);
	assert_int_equal(test_wrong(p, 128, 4, 0), 0);
	unmap(p, 128);
}

static void test_willneed_when_remote_then_resident_without_a_fault(void **state)
{
	char *p = filled(128, 5);
	uint64_t faults;

	assert_int_equal(test_evict(p, 128), 0);
	assert_int_equal(advise(p, 128, MADV_WILLNEED), 0);
	faults = xm_load(&xm_rt.me->stats.faults_fetch);
	assert_int_equal(test_pages_become(p, 128, XM_PG_RESIDENT, 128), 128);
	assert_int_equal(test_wrong(p, 128, 5, 0), 0);
	assert_int_equal(xm_load(&xm_rt.me->stats.faults_fetch), faults);
	unmap(p, 128);
}

/* Patterns are kept in parts of 2 MiB: the first page of such a part, and two parts from there. */
#define PART (2u << 20)
#define PARTS_PAGES (2 * PART / PAGE)

static uint64_t first_of_part(char *p)
{
	return ((PART - (uintptr_t)p % PART) % PART) / PAGE;
}

/* Evicts them and reads so many in order: how many pages were fetched ahead. */
static uint64_t read_ahead_of(char *all, uint64_t from, uint64_t pages)
{
	uint64_t before;

	assert_int_equal(test_evict(all + from * PAGE, PARTS_PAGES), 0);
	before = xm_load(&xm_rt.me->stats.prefetched_pages);
	assert_int_equal(test_wrong(all + from * PAGE, pages, 6, from), 0);
	return xm_load(&xm_rt.me->stats.prefetched_pages) - before;
}

static void test_random_when_read_in_order_then_nothing_ahead_until_normal(void **state)
{
	uint64_t pages = PARTS_PAGES + PART / PAGE, from;
	char *p = filled(pages, 6);

	from = first_of_part(p);
	assert_true(read_ahead_of(p, from, PARTS_PAGES) > PARTS_PAGES / 2);
	assert_int_equal(advise(p, pages, MADV_RANDOM), 0);
	assert_int_equal(read_ahead_of(p, from, PARTS_PAGES), 0);
	assert_int_equal(advise(p, pages, MADV_NORMAL), 0);
	assert_true(read_ahead_of(p, from, PARTS_PAGES) > PARTS_PAGES / 2);
	unmap(p, pages);
}

static void test_random_when_mapped_anew_then_forgotten(void **state)
{
	uint64_t pages = PARTS_PAGES + PART / PAGE, from;
	char *p = filled(pages, 6);

	from = first_of_part(p);
	assert_int_equal(advise(p, pages, MADV_RANDOM), 0);
	assert_ptr_equal(xm_map_fixed(p, pages * PAGE, RW, 0, false), p);
	test_fill(p, pages, 6);
	assert_true(read_ahead_of(p, from, PARTS_PAGES) > PARTS_PAGES / 2);
	unmap(p, pages);
}

static void test_sequential_when_first_fault_then_read_ahead(void **state)
{
	uint64_t pages = PARTS_PAGES + PART / PAGE, from;
	char *p = filled(pages, 6);

	from = first_of_part(p);
	assert_int_equal(read_ahead_of(p, from, 1), 0);
	assert_int_equal(advise(p, pages, MADV_SEQUENTIAL), 0);
	assert_int_equal(read_ahead_of(p, from, 1), XM_STREAM_GUESS);
	assert_int_equal(test_wrong(p, pages, 6, 0), 0);
	unmap(p, pages);
}

static void test_cold_when_room_is_needed_then_contents_kept(void **state)
{
	char *p = filled(512, 6), *more;

	assert_int_equal(advise(p, 512, 20), 0);
	more = filled(BUDGET_PAGES, 8);
	assert_true(test_pages_in(p, 512, XM_PG_REMOTE) > 0);
	assert_int_equal(test_wrong(p, 512, 6, 0), 0);
	unmap(more, BUDGET_PAGES);
	unmap(p, 512);
}

static void test_populate_when_called_then_resident(void **state)
{
	char *p = xm_map_new(64 * PAGE, 0, RW, 0), *q = xm_map_new(64 * PAGE, 0, RW, XM_MAP_POPULATE);

	assert_int_equal(advise(p, 64, 23 /* POPULATE_WRITE */), 0);
	assert_int_equal(test_pages_become(p, 64, XM_PG_RESIDENT, 64), 64);
	assert_int_equal(test_pages_become(q, 64, XM_PG_RESIDENT, 64), 64);
	unmap(p, 64);
	unmap(q, 64);
}

static void test_mincore_when_half_evicted_then_tells(void **state)
{
	unsigned char vec[64];
	char *p = filled(64, 9);
	unsigned in = 0;

	assert_int_equal(test_evict(p, 32), 0);
	assert_int_equal(xm_map_mincore(p, 64 * PAGE, vec), 0);
	for (unsigned i = 0; i < 64; i++)
		in += vec[i] & 1;
	assert_int_equal(in, 32);
	assert_int_equal(vec[0] & 1, 0);
	assert_int_equal(vec[63] & 1, 1);
	assert_int_equal(xm_map_mincore(p + 1, PAGE, vec), -EINVAL);
	unmap(p, 64);
	assert_int_equal(xm_map_mincore(p, PAGE, vec), -ENOMEM);
}

static void test_advice_when_arguments_bad_then_as_the_kernel(void **state)
{
	char *p = filled(8, 10);

	assert_int_equal(advise(p, 8, 12345), -EINVAL);
	assert_int_equal(xm_map_advise(p + 1, PAGE, MADV_DONTNEED), -EINVAL);
	assert_int_equal(xm_map_advise(p, 0, MADV_DONTNEED), 0);
	unmap(p + 4 * PAGE, 1);
	assert_int_equal(advise(p, 8, MADV_DONTNEED), -ENOMEM);
	assert_int_equal(test_not_zero(p, 4) + test_not_zero(p + 5 * PAGE, 3), 0);
	assert_int_equal(advise(p, 8, MADV_WILLNEED), -ENOMEM);
	unmap(p, 8);
}

/* ---- locked and pinned ----------------------------------------------------------------------------------------- */

static void test_lock_when_pressed_then_stays(void **state)
{
	char *p = filled(256, 11);

	assert_int_equal(test_evict(p, 256), 0);
	assert_int_equal(xm_map_lock(p, 256 * PAGE), 0);
	press();
	assert_int_equal(test_pages_become(p, 256, XM_PG_RESIDENT, 256), 256);
	assert_int_equal(advise(p, 256, MADV_DONTNEED), -EINVAL);
	assert_int_equal(test_wrong(p, 256, 11, 0), 0);
	assert_int_equal(xm_map_unlock(p, 256 * PAGE), 0);
	assert_int_equal(xm_load(&xm_rt.pinned_pages), 0);
	assert_int_equal(test_evict(p, 256), 0);
	unmap(p, 256);
}

static void test_lock_when_repeated_then_counted_once(void **state)
{
	uint64_t n = BUDGET_PAGES / 2;
	char *p = filled(n, 12);

	for (int i = 0; i < 3; i++)
		assert_int_equal(xm_map_lock(p, n * PAGE), 0);
	assert_int_equal(xm_load(&xm_rt.pinned_pages), n);
	unmap(p, n);
	assert_int_equal(xm_load(&xm_rt.pinned_pages), 0);
}

static void test_lock_when_beyond_the_budget_then_enomem_and_nothing_locked(void **state)
{
	uint64_t n = BUDGET_PAGES / 4 * 3 + 1;
	char *p = xm_map_new(n * PAGE, 0, RW, 0);

	assert_int_equal(xm_map_lock(p, n * PAGE), -ENOMEM);
	assert_int_equal(xm_load(&xm_rt.pinned_pages), 0);
	assert_int_equal((intptr_t)xm_map_new(n * PAGE, 0, RW, XM_MAP_LOCKED), -ENOMEM);
	unmap(p, n);
	assert_int_equal(xm_map_lock(p, PAGE), -ENOMEM);
}

static void test_lock_when_moved_then_still_locked(void **state)
{
	char *p = filled(32, 13), *q;

	assert_int_equal(xm_map_lock(p, 32 * PAGE), 0);
	q = xm_map_remap(p, 32 * PAGE, 32 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
			 xm_map_new(32 * PAGE, 0, PROT_NONE, 0));
	assert_false(test_is_error(q));
	press();
	assert_int_equal(test_pages_become(q, 32, XM_PG_RESIDENT, 32), 32);
	unmap(q, 32);
	assert_int_equal(xm_load(&xm_rt.pinned_pages), 0);
}

static void test_lock_all_when_current_and_future_then_both(void **state)
{
	char *p = filled(16, 14), *q;

	assert_int_equal(xm_map_lock_all(MCL_CURRENT), 0);
	press();
	assert_int_equal(test_pages_become(p, 16, XM_PG_RESIDENT, 16), 16);
	assert_int_equal(xm_map_lock_all(MCL_FUTURE), 0);
	q = filled(16, 15);
	assert_int_equal(xm_load(&xm_rt.pinned_pages), 32);
	assert_int_equal((intptr_t)xm_map_new(BUDGET_PAGES * PAGE, 0, RW, 0), -ENOMEM);
	assert_int_equal(xm_map_unlock_all(), 0);
	assert_int_equal(xm_load(&xm_rt.pinned_pages), 0);
	unmap(p, 16);
	unmap(q, 16);
	p = filled(4, 16);
	assert_int_equal(xm_load(&xm_rt.pinned_pages), 0);
	unmap(p, 4);
}

static void test_pin_when_counted_then_leaves_after_the_last_unpin(void **state)
{
	char *p = filled(1, 17);

	for (int i = 0; i < 5; i++)
		assert_int_equal(xm_map_pin(p + 100, 8), 0);
	for (int i = 0; i < 4; i++)
		xm_map_unpin(p + 100, 8);
	press();
	assert_int_equal(test_pages_become(p, 1, XM_PG_RESIDENT, 1), 1);
	xm_map_unpin(p + 100, 8);
	assert_int_equal(test_evict(p, 1), 0);
	unmap(p, 1);
}

static void test_pin_when_more_than_can_be_counted_then_stays(void **state)
{
	char *p = filled(1, 18);

	for (int i = 0; i < 20; i++)
		assert_int_equal(xm_map_pin(p, 8), 0);
	for (int i = 0; i < 19; i++)
		xm_map_unpin(p, 8);
	press();
	assert_int_equal(test_pages_become(p, 1, XM_PG_RESIDENT, 1), 1);
	unmap(p, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_teardown(name, nothing_left)
		T(test_dontneed_when_resident_and_remote_then_zeros_and_slots_back),
		T(test_free_when_resident_and_remote_then_zeros_and_slots_back),
		T(test_discard_when_called_then_no_fetch),
		T(test_dontneed_when_racing_with_first_touch_then_reclaim_goes_on),
		T(test_dontneed_when_raw_on_resident_then_zeros_and_reclaim_goes_on),
		T(test_pageout_when_dirty_then_remote_and_contents_kept),
		T(test_willneed_when_remote_then_resident_without_a_fault),
		T(test_random_when_read_in_order_then_nothing_ahead_until_normal),
		T(test_random_when_mapped_anew_then_forgotten),
		T(test_sequential_when_first_fault_then_read_ahead),
		T(test_cold_when_room_is_needed_then_contents_kept),
		T(test_populate_when_called_then_resident),
		T(test_mincore_when_half_evicted_then_tells),
		T(test_advice_when_arguments_bad_then_as_the_kernel),
		T(test_lock_when_pressed_then_stays),
		T(test_lock_when_repeated_then_counted_once),
		T(test_lock_when_beyond_the_budget_then_enomem_and_nothing_locked),
		T(test_lock_when_moved_then_still_locked),
		T(test_lock_all_when_current_and_future_then_both),
		T(test_pin_when_counted_then_leaves_after_the_last_unpin),
		T(test_pin_when_more_than_can_be_counted_then_stays),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
