/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_api.c - the public calls of xmem.h: what each does and every errno that its comment names, against a real
 * appliance of 64 MiB with slabs of 4 MiB. Opening is test_api_open.c's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/link_sync.h"
#include "tests/unit/api_fixture.h"

/* ---- regions --------------------------------------------------------------------------------------------------- */

static struct xmem_region *region(uint64_t bytes)
{
	int err = 0;
	struct xmem_region *r = xmem_region_create(x, 0, bytes, NULL, &err);

	assert_int_equal(err, 0);
	assert_non_null(r);
	return r;
}

static void not_created(unsigned a, uint64_t bytes, const char *name, int want)
{
	int err = 0;

	assert_null(xmem_region_create(x, a, bytes, name, &err));
	assert_int_equal(err, want);
	assert_null(xmem_region_create(x, a, bytes, name, NULL));
}

static void test_region_when_arguments_bad_then_einval(void **state)
{
	char longest[300];
	int err = 0;

	not_created(0, 0, NULL, -EINVAL);
	not_created(1, SLAB, NULL, -EINVAL);
	not_created(99, SLAB, NULL, -EINVAL);
	not_created(0, UINT64_MAX, NULL, -EINVAL);
	not_created(0, 1ull << 50, NULL, -EINVAL);
	memset(longest, 'n', sizeof(longest));
	longest[sizeof(longest) - 1] = 0;
	not_created(0, SLAB, longest, -EINVAL);
	assert_null(xmem_region_create(NULL, 0, SLAB, NULL, &err));
	assert_int_equal(err, -EINVAL);
}

static void test_region_when_no_room_then_enomem_and_later_again(void **state)
{
	struct xmem_region *r;

	not_created(0, 1ull << 30, NULL, -ENOMEM);
	r = region(48ull << 20);
	not_created(0, 32ull << 20, NULL, -ENOMEM);
	xmem_region_release(r);
	xmem_region_release(region(48ull << 20));
	xmem_region_release(NULL);
}

static void test_region_when_named_twice_then_eexist(void **state)
{
	int err = 0;
	struct xmem_region *r = xmem_region_create(x, 0, SLAB, "books", &err);

	assert_non_null(r);
	not_created(0, SLAB, "books", -EEXIST);
	xmem_region_release(r);
	r = xmem_region_create(x, 0, SLAB, "books", &err);
	assert_non_null(r);
	xmem_region_release(r);
}

static void test_region_when_bytes_odd_then_rounded_to_slabs(void **state)
{
	struct xmem_region *r = region(SLAB + 1);

	assert_int_equal(xmem_region_bytes(r), 2 * SLAB);
	xmem_region_release(r);
}

static void test_region_when_many_made_and_released_then_nothing_runs_out(void **state)
{
	for (int i = 0; i < 300; i++)
		xmem_region_release(region(8 * SLAB));
}

static void test_resize_when_grown_and_shrunk_then_contents_stay(void **state)
{
	struct xmem_region *r = region(SLAB);
	int err = 0;
	char *p = xmem_alloc(r, SLAB / 2, &err), *q;

	test_fill(p, SLAB / 2 / PAGE, 3);
	assert_null(xmem_alloc(r, SLAB, &err));
	assert_int_equal(err, -ENOMEM);
	assert_int_equal(xmem_region_resize(r, 3 * SLAB), 0);
	assert_int_equal(xmem_region_bytes(r), 3 * SLAB);
	q = xmem_alloc(r, 2 * SLAB, &err);
	assert_non_null(q);
	test_fill(q, 2 * SLAB / PAGE, 4);
	assert_int_equal(test_wrong(p, SLAB / 2 / PAGE, 3, 0), 0);
	assert_int_equal(test_wrong(q, 2 * SLAB / PAGE, 4, 0), 0);
	assert_int_equal(xmem_region_resize(r, SLAB), -EBUSY);
	assert_int_equal(xmem_region_bytes(r), 3 * SLAB);
	assert_int_equal(xmem_free(r, q), 0);
	assert_int_equal(xmem_region_resize(r, SLAB), 0);
	assert_int_equal(test_wrong(p, SLAB / 2 / PAGE, 3, 0), 0);
	xmem_region_release(r);
}

static void test_resize_when_impossible_then_errno_and_state_as_before(void **state)
{
	struct xmem_region *r = region(SLAB), *hog;

	assert_int_equal(xmem_region_resize(NULL, SLAB), -EINVAL);
	assert_int_equal(xmem_region_resize(r, 0), -EINVAL);
	assert_int_equal(xmem_region_resize(r, 9 * SLAB), -ENOMEM);
	assert_int_equal(xmem_region_resize(r, UINT64_MAX), -ENOMEM);
	hog = region(48ull << 20);
	assert_int_equal(xmem_region_resize(r, 6 * SLAB), -ENOMEM);
	assert_int_equal(xmem_region_bytes(r), SLAB);
	xmem_region_release(hog);
	xmem_region_release(r);
}

/* ---- mappings and portions ----------------------------------------------------------------------------------------- */

static void not_mapped(struct xmem_region *r, uint64_t offset, uint64_t len, int want)
{
	int err = 0;

	assert_null(xmem_map(r, offset, len, &err));
	assert_int_equal(err, want);
	assert_null(xmem_map(r, offset, len, NULL));
}

static void test_map_when_arguments_bad_then_errno(void **state)
{
	struct xmem_region *r = region(SLAB);
	int err = 0;

	not_mapped(NULL, 0, PAGE, -EINVAL);
	not_mapped(r, 0, 0, -EINVAL);
	not_mapped(r, 1, PAGE, -EINVAL);
	not_mapped(r, 0, PAGE + 1, -EINVAL);
	not_mapped(r, SLAB, PAGE, -EINVAL);
	not_mapped(r, SLAB - PAGE, 2 * PAGE, -EINVAL);
	not_mapped(r, UINT64_MAX - PAGE + 1, 2 * PAGE, -EINVAL);
	assert_non_null(xmem_map(r, 4 * PAGE, 4 * PAGE, &err));
	not_mapped(r, 0, 5 * PAGE, -EEXIST);
	not_mapped(r, 7 * PAGE, 2 * PAGE, -EEXIST);
	xmem_region_release(r);
}

static void test_map_when_unmapped_between_then_same_address_and_contents(void **state)
{
	struct xmem_region *r = region(4 * SLAB);
	uint64_t pages = 3 * SLAB / PAGE; /* more than the budget */
	int err = 0;
	char *p = xmem_map(r, SLAB, 3 * SLAB, &err);

	assert_int_equal(test_not_zero(p, pages), 0);
	test_fill(p, pages, 5);
	assert_int_equal(xmem_unmap(r, p, 3 * SLAB), 0);
	assert_int_equal(test_signal_of(p, false), SIGSEGV);
	assert_ptr_equal(xmem_map(r, SLAB, 3 * SLAB, &err), p);
	assert_int_equal(test_wrong(p, pages, 5, 0), 0);
	assert_int_equal(xmem_unmap(r, p, SLAB), 0); /* a part */
	assert_int_equal(test_wrong(p + SLAB, pages - SLAB / PAGE, 5, SLAB / PAGE), 0);
	assert_ptr_equal(xmem_map(r, SLAB, SLAB, &err), p);
	assert_int_equal(test_wrong(p, pages, 5, 0), 0);
	xmem_region_release(r);
	assert_int_equal(test_signal_of(p, false), SIGSEGV);
}

static void test_unmap_when_not_a_mapping_then_einval(void **state)
{
	struct xmem_region *r = region(SLAB), *other = region(SLAB);
	int err = 0;
	char *p = xmem_map(r, 0, 8 * PAGE, &err), *portion = xmem_alloc(r, PAGE, &err);

	assert_int_equal(xmem_unmap(NULL, p, PAGE), -EINVAL);
	assert_int_equal(xmem_unmap(r, p + 1, PAGE), -EINVAL);
	assert_int_equal(xmem_unmap(r, p, 0), -EINVAL);
	assert_int_equal(xmem_unmap(r, p, 9 * PAGE), -EINVAL);
	assert_int_equal(xmem_unmap(r, portion, PAGE), -EINVAL);
	assert_int_equal(xmem_unmap(other, p, PAGE), -EINVAL);
	assert_int_equal(xmem_unmap(r, &err, PAGE), -EINVAL);
	assert_int_equal(xmem_unmap(r, p, 8 * PAGE), 0);
	assert_int_equal(xmem_unmap(r, p, 8 * PAGE), -EINVAL);
	xmem_region_release(other);
	xmem_region_release(r);
}

static void test_alloc_when_arguments_bad_or_full_then_errno(void **state)
{
	struct xmem_region *r = region(SLAB);
	int err = 0;

	assert_null(xmem_alloc(NULL, PAGE, &err));
	assert_int_equal(err, -EINVAL);
	assert_null(xmem_alloc(r, 0, &err));
	assert_int_equal(err, -EINVAL);
	assert_null(xmem_alloc(r, UINT64_MAX, &err));
	assert_int_equal(err, -EINVAL);
	assert_null(xmem_alloc(r, SLAB + 1, &err));
	assert_int_equal(err, -ENOMEM);
	assert_null(xmem_alloc(r, SLAB + 1, NULL));
	assert_non_null(xmem_alloc(r, SLAB, &err));
	assert_null(xmem_alloc(r, 1, &err));
	assert_int_equal(err, -ENOMEM);
	xmem_region_release(r);
}

static void test_alloc_when_many_then_disjoint_inside_the_region(void **state)
{
	struct xmem_region *r = region(SLAB);
	char *p[256], *base = NULL;
	int err = 0;

	for (unsigned i = 0; i < 256; i++) {
		p[i] = xmem_alloc(r, 1 + (uint64_t)(i % 4) * PAGE, &err);
		assert_non_null(p[i]);
		base = base && base < p[i] ? base : p[i];
		memset(p[i], (int)i, (i % 4 + 1) * PAGE);
	}
	for (unsigned i = 0; i < 256; i++) {
		for (uint64_t k = 0; k < (i % 4 + 1) * PAGE; k++)
			assert_int_equal((uint8_t)p[i][k], i);
		assert_true(p[i] >= base && p[i] < base + SLAB);
		assert_int_equal(xmem_free(r, p[i]), 0);
	}
	assert_non_null(xmem_alloc(r, SLAB, &err));
	xmem_region_release(r);
}

static void test_alloc_when_place_was_used_before_then_zeros(void **state)
{
	struct xmem_region *r = region(SLAB);
	int err = 0;
	char *p = xmem_alloc(r, SLAB, &err);

	test_fill(p, SLAB / PAGE, 6);
	assert_int_equal(xmem_advise(x, p, SLAB, XMEM_EVICT), 0);
	assert_int_equal(xmem_free(r, p), 0);
	assert_int_equal(test_signal_of(p, false), SIGSEGV);
	p = xmem_alloc(r, SLAB, &err);
	assert_int_equal(test_not_zero(p, SLAB / PAGE), 0);
	assert_int_equal(xmem_free(r, p), 0);
	/* and where a mapping left its contents */
	p = xmem_map(r, 0, SLAB, &err);
	test_fill(p, SLAB / PAGE, 7);
	assert_int_equal(xmem_unmap(r, p, SLAB), 0);
	p = xmem_alloc(r, SLAB, &err);
	assert_int_equal(test_not_zero(p, SLAB / PAGE), 0);
	xmem_region_release(r);
}

static void test_free_when_not_a_portion_then_einval(void **state)
{
	struct xmem_region *r = region(SLAB);
	int err = 0;
	char *p = xmem_alloc(r, 4 * PAGE, &err), *m = xmem_map(r, SLAB - PAGE, PAGE, &err);

	assert_int_equal(xmem_free(NULL, p), -EINVAL);
	assert_int_equal(xmem_free(r, p + PAGE), -EINVAL);
	assert_int_equal(xmem_free(r, p + 1), -EINVAL);
	assert_int_equal(xmem_free(r, m), -EINVAL);
	assert_int_equal(xmem_free(r, &err), -EINVAL);
	assert_int_equal(xmem_free(r, NULL), -EINVAL);
	assert_int_equal(xmem_free(r, p), 0);
	assert_int_equal(xmem_free(r, p), -EINVAL);
	xmem_region_release(r);
}

/* ---- advice, pins, statistics -------------------------------------------------------------------------------------- */

static void test_advise_when_arguments_bad_then_errno(void **state)
{
	struct xmem_region *r = region(SLAB);
	int err = 0;
	char *p = xmem_alloc(r, 4 * PAGE, &err);

	assert_int_equal(xmem_advise(NULL, p, PAGE, XMEM_EVICT), -EINVAL);
	assert_int_equal(xmem_advise(x, p, PAGE, (enum xmem_advice)0), -EINVAL);
	assert_int_equal(xmem_advise(x, p, PAGE, (enum xmem_advice)9), -EINVAL);
	assert_int_equal(xmem_advise(x, p + 1, PAGE, XMEM_EVICT), -EINVAL);
	assert_int_equal(xmem_advise(x, p, PAGE + 1, XMEM_EVICT), -EINVAL);
	assert_int_equal(xmem_advise(x, p, 0, XMEM_EVICT), -EINVAL);
	assert_int_equal(xmem_advise(x, &err, PAGE, XMEM_EVICT), -EINVAL);
	assert_int_equal(xmem_advise(x, (void *)(xm_ext_hi - PAGE), PAGE, XMEM_EVICT), -ENOMEM);
	xmem_region_release(r);
}

static void test_advise_when_each_then_contents_as_promised(void **state)
{
	static const enum xmem_advice all[] = { XMEM_PREFETCH, XMEM_EVICT, XMEM_COLD, XMEM_SEQUENTIAL, XMEM_RANDOM,
						XMEM_NORMAL, XMEM_FLUSH };
	struct xmem_region *r = region(SLAB);
	int err = 0;
	char *p = xmem_alloc(r, 64 * PAGE, &err);

	test_fill(p, 64, 8);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(all); i++) {
		assert_int_equal(xmem_advise(x, p, 64 * PAGE, all[i]), 0);
		assert_int_equal(test_wrong(p, 64, 8, 0), 0);
	}
	assert_int_equal(xmem_advise(x, p, 64 * PAGE, XMEM_DISCARD), 0);
	assert_int_equal(test_not_zero(p, 64), 0);
	xmem_region_release(r);
}

/* What FLUSH promises, seen from the appliance: the bytes are in the region's own place. */
static void test_flush_when_done_then_the_appliance_has_the_bytes(void **state)
{
	struct xmem_region *r = region(SLAB);
	struct xm_link *l = NULL;
	char *copy = malloc(16 * PAGE), *p;
	uint64_t base, slot;
	int err = 0;

	p = xmem_map(r, 32 * PAGE, 16 * PAGE, &err);
	test_fill(p, 16, 9);
	assert_int_equal(xmem_advise(x, p, 16 * PAGE, XMEM_FLUSH), 0);
	base = xm_page_of(p);
	slot = xm_pg_slot(xm_pg_load(&xm_rt.pt[base]));
	assert_int_equal(xm_slot_offset(xm_rt.fam, slot), 32 * PAGE);
	assert_int_equal(xm_link_open(xm_rt.peer[0], &l), 0);
	assert_int_equal(link_read_sync(l, copy, 16 * PAGE, xm_slot_slab(xm_rt.fam, slot)->region, 32 * PAGE,
					   1000000000),
			 0);
	l->ops->close(l);
	assert_int_equal(test_wrong(copy, 16, 9, 0), 0);
	free(copy);
	xmem_region_release(r);
}

static void test_pin_when_beyond_three_quarters_then_enomem(void **state)
{
	struct xmem_region *r = region(3 * SLAB);
	int err = 0;
	char *p = xmem_alloc(r, BUDGET, &err);

	assert_int_equal(xmem_pin(x, p, BUDGET / 4 * 3 + PAGE), -ENOMEM);
	assert_int_equal(xmem_pin(x, p + 1, PAGE), 0); /* both pages that it touches */
	assert_int_equal(xmem_unpin(x, p + PAGE + 1, 1), 0);
	assert_int_equal(xmem_unpin(x, p + 1, 1), 0);
	assert_int_equal(xmem_pin(x, p, BUDGET / 2), 0);
	assert_int_equal(xmem_pin(x, p, BUDGET / 2), 0);
	assert_int_equal(xmem_pin(x, p + BUDGET / 2, BUDGET / 2), -ENOMEM);
	assert_int_equal(xmem_unpin(x, p, BUDGET / 2), 0);
	assert_int_equal(xmem_pin(x, p + BUDGET / 2, BUDGET / 2), 0);
	assert_int_equal(xmem_pin(NULL, p, PAGE), -EINVAL);
	assert_int_equal(xmem_pin(x, p, 0), -EINVAL);
	assert_int_equal(xmem_pin(x, &err, PAGE), -EINVAL);
	assert_int_equal(xmem_unpin(x, &err, PAGE), -EINVAL);
	xmem_region_release(r);
	assert_int_equal(xm_rt.pinned_pages, 0);
}

static void test_flush_when_pinned_then_ebusy_and_unmap_does_not_lie(void **state)
{
	struct xmem_region *r = region(SLAB);
	int err = 0;
	char *p = xmem_map(r, 0, 4 * PAGE, &err);

	test_fill(p, 4, 10);
	assert_int_equal(xmem_pin(x, p, 4 * PAGE), 0);
	assert_int_equal(xmem_advise(x, p, 4 * PAGE, XMEM_FLUSH), -EBUSY);
	assert_int_not_equal(xmem_unmap(r, p, 4 * PAGE), 0);
	assert_int_equal(test_wrong(p, 4, 10, 0), 0);
	assert_int_equal(xmem_unpin(x, p, 4 * PAGE), 0);
	assert_int_equal(xmem_unmap(r, p, 4 * PAGE), 0);
	xmem_region_release(r);
}

static void test_stats_when_size_unknown_then_einval(void **state)
{
	struct xmem_stats s = { .size = sizeof(s) - 8 };

	assert_int_equal(xmem_get_stats(x, &s), -EINVAL);
	s.size = sizeof(s);
	assert_int_equal(xmem_get_stats(NULL, &s), -EINVAL);
	assert_int_equal(xmem_get_stats(x, NULL), -EINVAL);
	assert_int_equal(xmem_get_stats(x, &s), 0);
	assert_int_equal(s.budget_bytes, BUDGET);
}

static void test_strerror_when_any_number_then_text(void **state)
{
	for (int e = -200; e < 10; e++)
		assert_non_null(xmem_strerror(e));
	assert_string_not_equal(xmem_strerror(-ENOLINK), xmem_strerror(-ENOMEM));
	assert_non_null(xmem_version());
}

/* ---- another process, another world ----------------------------------------------------------------------------- */

/* A forked child has a copy of the handle: nothing that it does there may touch the parent's memory. */
static void test_child_when_it_uses_the_handle_then_parent_unharmed(void **state)
{
	struct xmem_region *r = region(SLAB);
	struct xmem_stats s = { .size = sizeof(s) };
	int err = 0;
	char *p = xmem_alloc(r, 64 * PAGE, &err);
	pid_t pid;

	test_fill(p, 64, 11);
	assert_int_equal(xmem_advise(x, p, 64 * PAGE, XMEM_EVICT), 0);
	pid = fork();
	if (pid == 0) {
		if (xmem_alloc(r, PAGE, &err) || err != -EINVAL || xmem_free(r, p) != -EINVAL ||
		    xmem_region_resize(r, 2 * SLAB) != -EINVAL || xmem_get_stats(x, &s) != -EINVAL ||
		    xmem_region_create(x, 0, SLAB, NULL, &err))
			_exit(1);
		xmem_region_release(r);
		xmem_close(x);
		_exit(test_signal_of(p, false) == SIGSEGV ? 0 : 2);
	}
	assert_int_equal(test_wait(pid), 0);
	assert_int_equal(test_wrong(p, 64, 11, 0), 0);
	assert_int_equal(xmem_advise(x, p, 64 * PAGE, XMEM_FLUSH), 0);
	assert_non_null(xmem_alloc(r, PAGE, &err));
	xmem_region_release(r);
}

/* Last, since it ends the appliance that it uses: an own one. */
static void test_appliance_when_killed_then_enolink_and_sigbus(void **state)
{
	struct test_appliance dying;
	const char *to[] = { dying.uri, NULL };
	struct xmem_options o = options();
	struct xmem_region *r;
	char *p, *q;
	int err = 0;

	test_appliance_start(&dying, "64M", "tcp");
	o.appliances = to;
	x = xmem_open(&o, &err);
	assert_non_null(x);
	r = region(SLAB);
	p = xmem_alloc(r, 64 * PAGE, &err);
	q = xmem_alloc(r, 64 * PAGE, &err);
	test_fill(p, 64, 12);
	assert_int_equal(xmem_advise(x, p, 64 * PAGE, XMEM_EVICT), 0);
	test_fill(q, 64, 13);
	test_appliance_kill(&dying);
	assert_int_equal(test_signal_of(p + 3 * PAGE, false), SIGBUS);
	assert_int_equal(write(1, p, 0), 0);
	assert_int_equal(test_wrong(q, 64, 13, 0), 0); /* what is here stays */
	assert_int_not_equal(xmem_advise(x, q, 64 * PAGE, XMEM_FLUSH), 0);
	assert_null(xmem_region_create(x, 0, SLAB, NULL, &err));
	assert_int_equal(err, -ENOLINK);
	assert_int_equal(xmem_region_resize(r, 2 * SLAB), -ENOLINK);
	xmem_close(x);
	x = NULL;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define OPEN(name) cmocka_unit_test_setup_teardown(name, open_it, close_it)
		OPEN(test_region_when_arguments_bad_then_einval),
		OPEN(test_region_when_no_room_then_enomem_and_later_again),
		OPEN(test_region_when_named_twice_then_eexist),
		OPEN(test_region_when_bytes_odd_then_rounded_to_slabs),
		OPEN(test_region_when_many_made_and_released_then_nothing_runs_out),
		OPEN(test_resize_when_grown_and_shrunk_then_contents_stay),
		OPEN(test_resize_when_impossible_then_errno_and_state_as_before),
		OPEN(test_map_when_arguments_bad_then_errno),
		OPEN(test_map_when_unmapped_between_then_same_address_and_contents),
		OPEN(test_unmap_when_not_a_mapping_then_einval),
		OPEN(test_alloc_when_arguments_bad_or_full_then_errno),
		OPEN(test_alloc_when_many_then_disjoint_inside_the_region),
		OPEN(test_alloc_when_place_was_used_before_then_zeros),
		OPEN(test_free_when_not_a_portion_then_einval),
		OPEN(test_advise_when_arguments_bad_then_errno),
		OPEN(test_advise_when_each_then_contents_as_promised),
		OPEN(test_flush_when_done_then_the_appliance_has_the_bytes),
		OPEN(test_pin_when_beyond_three_quarters_then_enomem),
		OPEN(test_flush_when_pinned_then_ebusy_and_unmap_does_not_lie),
		OPEN(test_stats_when_size_unknown_then_einval),
		cmocka_unit_test(test_strerror_when_any_number_then_text),
		OPEN(test_child_when_it_uses_the_handle_then_parent_unharmed),
		cmocka_unit_test(test_appliance_when_killed_then_enolink_and_sigbus),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
