/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_mapping_refused.c - mapping calls that the kernel refuses something, for a moment or for good: contents survive,
 * and a call that fails has changed nothing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/mman.h>

#include "runtime/uffd_abi.h"
#include "tests/unit/refuse.h"
#include "tests/unit/runtime_fixture.h"

#define RW (PROT_READ | PROT_WRITE)
#define PAGE XM_PAGE_SIZE

static void start(uint32_t masked)
{
	struct test_config c = { .budget_bytes = 8 << 20, .lost_timeout_ns = 500000000, .masked_features = masked };

	group_start(&c, "64M");
}

static int group_setup(void **state)
{
	start(0);
	return 0;
}

/* No write protection: pages move by MOVE. */
static int group_setup_moving(void **state)
{
	start(XM_FEAT_WP);
	return 0;
}

static char *filled(uint64_t pages, uint64_t seed)
{
	char *p = map(pages, RW);

	test_fill(p, pages, seed);
	assert_int_equal(test_pages_become(p, pages, XM_PG_RESIDENT, pages), pages);
	return p;
}

/* Pages of the range that a handler has not settled within two seconds. */
static uint64_t test_left_busy(const void *at, uint64_t pages)
{
	return test_pages_become(at, pages, XM_PG_FETCHING, 0);
}

static void unmap(void *p, uint64_t pages)
{
	assert_int_equal(xm_map_unmap(p, pages * PAGE), 0);
}

/* ---- mremap ------------------------------------------------------------------------------------------------- */

struct remap_call {
	char *p, *to;
	uint64_t pages;
	int flags;
	void *result;
};

static void do_remap(void *ctx)
{
	struct remap_call *c = ctx;

	c->result = xm_map_remap(c->p, c->pages * PAGE, c->pages * PAGE, c->flags, c->to);
}

static struct remap_call moving(char *p, char *to, uint64_t pages, int more)
{
	return (struct remap_call){ p, to, pages, MREMAP_MAYMOVE | MREMAP_FIXED | more, NULL };
}

/* The handlers have theirs: each asks once, when it starts. */
static void wait_for_handlers(void)
{
	int have;

	do {
		have = 0;
		for (int i = 0; i < XM_WORKERS_MAX; i++)
			have += xm_load(&xm_rt.worker[i].busy) != 0;
		usleep(1000);
	} while (have < xm_rt.nhandlers);
}

static void test_remap_when_no_worker_then_enomem_and_contents_stay(void **state)
{
	struct xm_worker *w[XM_WORKERS_MAX];
	char *p = filled(8, 1);
	int n = 0;

	wait_for_handlers();
	while ((w[n] = xm_worker_get(&xm_rt)))
		n++;
	assert_int_equal((intptr_t)xm_map_remap(p, 8 * PAGE, 16 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p + 64 * PAGE),
			 -ENOMEM);
	while (n)
		xm_worker_put(w[--n]);
	assert_int_equal(test_wrong(p, 8, 1, 0), 0);
	unmap(p, 8);
}

static struct refuse refused_ioctl(unsigned long request, int skip, int times, int err)
{
	return (struct refuse){ .nr = SYS_ioctl, .arg = 1, .value = request, .skip = skip, .times = times, .err = err };
}

/* The call of 8 pages meets refusals that pass: all arrives. */
static void check_moves(struct refuse r, uint64_t seed)
{
	char *p = filled(8, seed);
	struct remap_call c = moving(p, p + 64 * PAGE, 8, 0);

	refuse_run(&r, do_remap, &c);
	assert_true(r.seen > r.skip + r.times);
	assert_false(test_is_error(c.result));
	assert_int_equal(test_wrong(c.result, 8, seed, 0), 0);
	assert_int_equal(test_evict(c.result, 8), 0);
	assert_int_equal(test_wrong(c.result, 8, seed, 0), 0);
	unmap(c.result, 8);
}

/* Refusals that do not pass: ENOMEM, and what was there is there, and leaves as always. */
static void check_stays(struct refuse r, uint64_t seed, int flags)
{
	char *p = filled(8, seed);
	struct remap_call c = moving(p, p + 64 * PAGE, 8, flags);

	refuse_run(&r, do_remap, &c);
	assert_true(r.seen > r.skip);
	assert_int_equal((intptr_t)c.result, -ENOMEM);
	assert_int_equal(test_wrong(p, 8, seed, 0), 0);
	assert_int_equal(test_evict(p, 8), 0);
	assert_int_equal(test_wrong(p, 8, seed, 0), 0);
	unmap(p, 8);
}

static void test_remap_when_protection_refused_for_a_moment_then_contents_arrive(void **state)
{
	check_moves(refused_ioctl(UFFDIO_WRITEPROTECT, 0, 12, ENOMEM), 2);
}

static void test_remap_when_protection_refused_then_enomem_and_contents_stay(void **state)
{
	check_stays(refused_ioctl(UFFDIO_WRITEPROTECT, 0, REFUSE_ALWAYS, ENOMEM), 3, 0);
	check_stays(refused_ioctl(UFFDIO_WRITEPROTECT, 0, REFUSE_ALWAYS, ENOMEM), 4, MREMAP_DONTUNMAP);
}

static void test_remap_when_copy_refused_for_a_moment_then_contents_arrive(void **state)
{
	check_moves(refused_ioctl(UFFDIO_COPY, 0, 3, EFAULT), 5);
}

static void test_remap_when_pages_mapped_anew_behind_our_back_then_zeros_there(void **state)
{
	char *p = filled(8, 6), *q;

	q = xm_sys_mmap(p + 3 * PAGE, 2 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	assert_ptr_equal(q, p + 3 * PAGE);
	q = xm_map_remap(p, 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p + 64 * PAGE);
	assert_ptr_equal(q, p + 64 * PAGE);
	assert_int_equal(test_wrong(q, 3, 6, 0) + test_wrong(q + 5 * PAGE, 3, 6, 5), 0);
	assert_int_equal(test_not_zero(q + 3 * PAGE, 2), 0);
	unmap(q, 8);
}

/* MOVE has been tried for each page: one that was refused, or had to be copied, does not decide for the others. */
static void test_move_when_refused_for_a_moment_then_all_move(void **state)
{
	struct refuse r = refused_ioctl(UFFDIO_MOVE, 2, 3, ENOMEM);
	char *p = filled(8, 7);
	struct remap_call c = moving(p, p + 64 * PAGE, 8, 0);

	refuse_run(&r, do_remap, &c);
	assert_ptr_equal(c.result, c.to);
	assert_int_equal(r.seen, 8 + 3);
	assert_int_equal(test_wrong(c.to, 8, 7, 0), 0);
	unmap(c.to, 8);
}

static void test_move_when_one_page_is_read_only_then_the_others_move(void **state)
{
	struct refuse r = refused_ioctl(UFFDIO_MOVE, 0, 0, 0);
	char *p = filled(8, 8);
	struct remap_call c = moving(p, p + 64 * PAGE, 8, 0);

	assert_int_equal(xm_map_protect(p + 2 * PAGE, PAGE, PROT_READ), 0);
	refuse_run(&r, do_remap, &c);
	assert_ptr_equal(c.result, c.to);
	assert_int_equal(r.seen, 8);
	assert_int_equal(test_wrong(c.to, 8, 8, 0), 0);
	unmap(c.to, 8);
}

static void test_move_when_one_page_was_dropped_behind_our_back_then_zeros_and_the_others_move(void **state)
{
	struct refuse r = refused_ioctl(UFFDIO_MOVE, 0, 0, 0);
	char *p = filled(8, 9);
	struct remap_call c = moving(p, p + 64 * PAGE, 8, 0);

	assert_int_equal(xm_sys_madvise(p + 2 * PAGE, PAGE, MADV_DONTNEED), 0);
	refuse_run(&r, do_remap, &c);
	assert_ptr_equal(c.result, c.to);
	assert_int_equal(r.seen, 8);
	assert_int_equal(test_wrong(c.to, 2, 9, 0) + test_wrong(c.to + 3 * PAGE, 5, 9, 3), 0);
	assert_int_equal(test_not_zero(c.to + 2 * PAGE, 1), 0);
	unmap(c.to, 8);
}

static void test_move_when_refused_then_enomem_and_contents_stay(void **state)
{
	check_stays(refused_ioctl(UFFDIO_MOVE, 4, REFUSE_ALWAYS, ENOMEM), 10, 0);
	check_stays(refused_ioctl(UFFDIO_MOVE, 4, REFUSE_ALWAYS, ENOMEM), 11, MREMAP_DONTUNMAP);
}

static void test_remap_when_old_range_cannot_be_closed_then_enomem_and_contents_stay(void **state)
{
	char *p = filled(8, 12);
	struct refuse r = { .nr = SYS_mprotect, .arg = 2, .value = PROT_NONE, .times = REFUSE_ALWAYS, .err = ENOMEM };
	struct remap_call c = moving(p, p + 64 * PAGE, 8, 0);

	refuse_run(&r, do_remap, &c);
	assert_int_equal((intptr_t)c.result, -ENOMEM);
	assert_int_equal(test_wrong(p, 8, 12, 0), 0);
	unmap(p, 8);
}

static enum xm_page_fact gone(void *ctx, uint64_t page)
{
	__atomic_fetch_and(&xm_rt.pt[page], ~XM_PG_QUEUED, __ATOMIC_ACQ_REL);
	return XM_PAGE_GONE;
}

static void *refuse_in_thread(void *arg)
{
	struct remap_call *c = arg;
	struct refuse r = refused_ioctl(UFFDIO_WRITEPROTECT, 0, REFUSE_ALWAYS, ENOMEM);

	refuse_run(&r, do_remap, c);
	return NULL;
}

/* The policy asks about pages that a mapping call holds just then, and forgets them, as reclaim has it. */
static void test_remap_when_it_fails_then_policy_knows_the_pages(void **state)
{
	struct xm_evict_view view = { gone, NULL };
	char *p = filled(8, 13);
	struct remap_call c = moving(p, p + 64 * PAGE, 8, 0);
	uint64_t page = xm_page_of(p);
	pthread_t thread;

	xm_lock(&xm_rt.reclaim_lock);
	assert_int_equal(pthread_create(&thread, NULL, refuse_in_thread, &c), 0);
	while (xm_pg_state(xm_pg_load(&xm_rt.pt[page + 7])) != XM_PG_TAKEN)
		usleep(100);
	xm_lock(&xm_rt.policy_lock);
	for (uint64_t victim; xm_rt.evict->pick(xm_rt.evict_state, &view, &victim, 1, 1000) > 0;)
		;
	xm_unlock(&xm_rt.policy_lock);
	xm_unlock(&xm_rt.reclaim_lock);
	pthread_join(thread, NULL);
	assert_int_equal((intptr_t)c.result, -ENOMEM);
	for (int i = 0; i < 8; i++)
		assert_true(xm_pg_load(&xm_rt.pt[page + i]) & XM_PG_QUEUED);
	unmap(p, 8);
}

/* ---- unmapping ---------------------------------------------------------------------------------------------- */

struct range_call {
	char *at;
	uint64_t pages;
	intptr_t result;
};

static void do_unmap(void *ctx)
{
	struct range_call *c = ctx;

	c->result = xm_map_unmap(c->at, c->pages * PAGE);
}

static void do_map_fixed(void *ctx)
{
	struct range_call *c = ctx;

	c->result = (intptr_t)xm_map_fixed(c->at, c->pages * PAGE, RW, 0, false);
}

static void do_shrink(void *ctx)
{
	struct range_call *c = ctx;

	c->result = (intptr_t)xm_map_remap(c->at - 4 * PAGE, (4 + c->pages) * PAGE, 4 * PAGE, MREMAP_MAYMOVE, NULL);
}

/* The kernel cannot split a mapping: ENOMEM, and every page is what it was: resident, clean, on the appliance. */
static void check_no_split(void (*call)(void *), uint64_t seed)
{
	char *p = filled(32, seed);
	struct range_call c = { p + 4 * PAGE, 28, 0 };
	struct refuse r = { .nr = SYS_mmap, .value = (uintptr_t)c.at, .times = 1, .err = ENOMEM };
	uint64_t resident;

	assert_int_equal(test_evict(p, 32), 0);
	for (uint64_t i = 0; i < 32; i += 3)
		(void)*(volatile char *)(p + i * PAGE);
	test_fill(p + 6 * PAGE, 1, seed + 100);
	assert_int_equal(test_left_busy(p, 32), 0);
	resident = xm_load(&xm_rt.me->resident) - test_own_pages();
	refuse_run(&r, call, &c);
	assert_int_equal(r.seen, 1);
	assert_int_equal(c.result, -ENOMEM);
	assert_int_equal(xm_load(&xm_rt.me->resident) - test_own_pages(), resident);
	assert_int_equal(test_wrong(p, 6, seed, 0) + test_wrong(p + 7 * PAGE, 25, seed, 7), 0);
	assert_int_equal(test_wrong(p + 6 * PAGE, 1, seed + 100, 0), 0);
	assert_int_equal(test_evict(p, 32), 0);
	assert_int_equal(test_wrong(p, 6, seed, 0) + test_wrong(p + 7 * PAGE, 25, seed, 7), 0);
	assert_int_equal(xm_load(&xm_rt.fam->committed_pages), 32);
	unmap(p, 32);
}

static void test_unmap_when_it_cannot_be_split_then_enomem_and_nothing_changed(void **state)
{
	check_no_split(do_unmap, 14);
}

static void test_fixed_when_it_cannot_be_split_then_enomem_and_nothing_changed(void **state)
{
	check_no_split(do_map_fixed, 15);
}

static void test_remap_when_it_cannot_shrink_then_enomem_and_nothing_changed(void **state)
{
	check_no_split(do_shrink, 16);
}

/* All has moved when the old range cannot be unmapped: it stays as a mapping without contents, which munmap ends. */
static void test_remap_when_old_range_stays_then_empty_and_accounts_right(void **state)
{
	char *p = filled(8, 17);
	struct refuse r = { .nr = SYS_mmap, .value = (uintptr_t)p, .times = 1, .err = ENOMEM };
	struct remap_call c = moving(p, p + 64 * PAGE, 8, 0);

	refuse_run(&r, do_remap, &c);
	assert_int_equal(r.seen, 1);
	assert_ptr_equal(c.result, c.to);
	assert_int_equal(test_wrong(c.to, 8, 17, 0), 0);
	assert_int_equal(xm_load(&xm_rt.fam->committed_pages), 8);
	assert_int_equal(test_pages_in(p, 8, XM_PG_EMPTY), 8);
	unmap(p, 8);
	unmap(c.to, 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_teardown(name, nothing_left)
		T(test_remap_when_no_worker_then_enomem_and_contents_stay),
		T(test_remap_when_protection_refused_for_a_moment_then_contents_arrive),
		T(test_remap_when_protection_refused_then_enomem_and_contents_stay),
		T(test_remap_when_copy_refused_for_a_moment_then_contents_arrive),
		T(test_remap_when_pages_mapped_anew_behind_our_back_then_zeros_there),
		T(test_remap_when_old_range_cannot_be_closed_then_enomem_and_contents_stay),
		T(test_remap_when_it_fails_then_policy_knows_the_pages),
		T(test_unmap_when_it_cannot_be_split_then_enomem_and_nothing_changed),
		T(test_fixed_when_it_cannot_be_split_then_enomem_and_nothing_changed),
		T(test_remap_when_it_cannot_shrink_then_enomem_and_nothing_changed),
		T(test_remap_when_old_range_stays_then_empty_and_accounts_right),
	};
	const struct CMUnitTest moving_tests[] = {
		T(test_remap_when_no_worker_then_enomem_and_contents_stay),
		T(test_move_when_refused_for_a_moment_then_all_move),
		T(test_move_when_one_page_is_read_only_then_the_others_move),
		T(test_move_when_one_page_was_dropped_behind_our_back_then_zeros_and_the_others_move),
		T(test_move_when_refused_then_enomem_and_contents_stay),
		T(test_remap_when_old_range_cannot_be_closed_then_enomem_and_contents_stay),
	};

	return cmocka_run_group_tests_name("copied", tests, group_setup, group_teardown) +
	       cmocka_run_group_tests_name("moved", moving_tests, group_setup_moving, group_teardown);
}
