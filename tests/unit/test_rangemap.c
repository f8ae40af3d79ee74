/* SPDX-License-Identifier: Apache-2.0 */
/* test_rangemap.c - the map against an array with one value a unit, and its promises about memory. */
#include "rangemap.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "traces.h"

#define UNIVERSE 256

static const uint64_t A[2] = { 1, 10 }, B[2] = { 2, 20 };

/* 0: hole; else value[0] */
struct model {
	uint8_t at[UNIVERSE];
};

static void agree(const struct xm_rangemap *m, const struct model *model)
{
	unsigned i;

	assert_true(xm_rangemap_valid(m));
	for (i = 0; i < UNIVERSE; i++) {
		const struct xm_range *r = xm_rangemap_get(m, i);
		const struct xm_range *f = xm_rangemap_find(m, i);
		unsigned next = i;

		assert_int_equal(r ? r->value[0] : 0, model->at[i]);
		assert_int_equal(r ? r->value[1] : 0, model->at[i] * 10u);
		while (next < UNIVERSE && !model->at[next])
			next++;
		if (next == UNIVERSE)
			assert_null(f);
		else
			assert_true(f && f->end > i && (f == r || f->start == next));
	}
}

static bool model_covers(const struct model *model, uint64_t start, uint64_t end)
{
	for (; start < end; start++)
		if (!model->at[start])
			return false;
	return true;
}

/* lowest free aligned place at or above from, or UNIVERSE */
static uint64_t model_fit(const struct model *model, uint64_t from, uint64_t hi, uint64_t len, uint64_t align)
{
	uint64_t a, i;

	for (a = (from + align - 1) / align * align; a + len <= hi; a += align) {
		for (i = a; i < a + len && !model->at[i]; i++)
			;
		if (i == a + len)
			return a;
	}
	return UNIVERSE;
}

static void check_fit(const struct xm_rangemap *m, const struct model *model, uint64_t *seed)
{
	uint64_t lo = test_random(seed) % UNIVERSE, hi = lo + test_random(seed) % (UNIVERSE - lo + 1);
	uint64_t len = 1 + test_random(seed) % 24, align = 1ull << test_random(seed) % 5;
	uint64_t cursor = test_random(seed) % UNIVERSE, out = 12345;
	uint64_t from = cursor > lo ? cursor : lo;
	uint64_t want = model_fit(model, from, hi, len, align);
	int ret;

	if (want == UNIVERSE)
		want = model_fit(model, lo, hi, len, align);
	ret = xm_rangemap_fit(m, lo, hi, len, align, &cursor, &out);
	if (want == UNIVERSE) {
		assert_int_equal(ret, -ENOMEM);
		assert_int_equal(out, 12345);
	} else {
		assert_int_equal(ret, 0);
		assert_int_equal(out, want);
		assert_int_equal(cursor, want + len);
	}
}

static void test_map_when_random_changes_then_as_the_model(void **unused)
{
	uint64_t seed = test_seed("rangemap");
	int round, op;

	for (round = 0; round < 60; round++) {
		struct model model = { { 0 } };
		struct xm_rangemap m;

		xm_rangemap_init(&m, NULL);
		for (op = 0; op < 200; op++) {
			uint64_t start = test_random(&seed) % UNIVERSE;
			uint64_t end = start + 1 + test_random(&seed) % 40;
			uint8_t v = (uint8_t)(test_random(&seed) % 4);
			uint64_t value[2] = { v, v * 10u };

			if (end > UNIVERSE)
				end = UNIVERSE;
			if (v)
				assert_int_equal(xm_rangemap_set(&m, start, end, value), 0);
			else
				assert_int_equal(xm_rangemap_clear(&m, start, end), 0);
			memset(model.at + start, v, end - start);
			agree(&m, &model);
			assert_int_equal(xm_rangemap_covers(&m, start, end), v != 0);
			start = test_random(&seed) % UNIVERSE;
			end = start + test_random(&seed) % (UNIVERSE - start + 1);
			assert_int_equal(xm_rangemap_covers(&m, start, end),
					 model_covers(&model, start, end));
			check_fit(&m, &model, &seed);
		}
		xm_rangemap_fini(&m);
	}
}

static void test_set_when_neighbours_are_equal_then_merged(void **unused)
{
	struct xm_rangemap m;

	xm_rangemap_init(&m, NULL);
	assert_int_equal(xm_rangemap_set(&m, 0, 10, A), 0);
	assert_int_equal(xm_rangemap_set(&m, 20, 30, A), 0);
	assert_int_equal(m.n, 2);
	assert_int_equal(xm_rangemap_set(&m, 10, 20, A), 0);
	assert_int_equal(m.n, 1);
	assert_int_equal(xm_rangemap_set(&m, 5, 6, B), 0);
	assert_int_equal(m.n, 3);
	assert_int_equal(xm_rangemap_set(&m, 5, 6, A), 0);
	assert_int_equal(m.n, 1);
	xm_rangemap_fini(&m);
}

static void test_set_when_empty_then_einval(void **unused)
{
	struct xm_rangemap m;

	xm_rangemap_init(&m, NULL);
	assert_int_equal(xm_rangemap_set(&m, 5, 5, A), -EINVAL);
	assert_int_equal(xm_rangemap_set(&m, 6, 5, A), -EINVAL);
	assert_int_equal(xm_rangemap_clear(&m, 5, 5), -EINVAL);
	assert_int_equal(m.n, 0);
	xm_rangemap_fini(&m);
}

static void test_set_when_at_the_ends_of_the_numbers_then_kept(void **unused)
{
	struct xm_rangemap m;

	xm_rangemap_init(&m, NULL);
	assert_int_equal(xm_rangemap_set(&m, 0, UINT64_MAX, A), 0);
	assert_int_equal(xm_rangemap_set(&m, UINT64_MAX - 5, UINT64_MAX, B), 0);
	assert_int_equal(xm_rangemap_clear(&m, 0, 1), 0);
	assert_true(xm_rangemap_valid(&m));
	assert_null(xm_rangemap_get(&m, 0));
	assert_int_equal(xm_rangemap_get(&m, UINT64_MAX - 1)->value[0], 2);
	assert_null(xm_rangemap_get(&m, UINT64_MAX));
	xm_rangemap_fini(&m);
}

static void test_fit_when_at_the_end_of_the_numbers_then_no_overflow(void **unused)
{
	struct xm_rangemap m;
	uint64_t cursor = 0, out = 0;

	xm_rangemap_init(&m, NULL);
	assert_int_equal(xm_rangemap_set(&m, UINT64_MAX - 100, UINT64_MAX - 50, A), 0);
	assert_int_equal(xm_rangemap_fit(&m, UINT64_MAX - 80, UINT64_MAX, 49, 1, &cursor, &out), 0);
	assert_true(out == UINT64_MAX - 50);
	assert_int_equal(xm_rangemap_fit(&m, UINT64_MAX - 80, UINT64_MAX, 51, 1, &cursor, &out), -ENOMEM);
	assert_int_equal(xm_rangemap_fit(&m, UINT64_MAX - 80, UINT64_MAX, 1, 4096, &cursor, &out), -ENOMEM);
	assert_int_equal(xm_rangemap_fit(&m, 0, 100, UINT64_MAX, 1, &cursor, &out), -ENOMEM);
	assert_int_equal(xm_rangemap_fit(&m, 0, 100, 0, 1, &cursor, &out), -EINVAL);
	assert_int_equal(xm_rangemap_fit(&m, 0, 100, 8, 3, &cursor, &out), -EINVAL);
	xm_rangemap_fini(&m);
}

/* ---- memory ----------------------------------------------------------------------------------------- */

static int allocations_left;
static size_t bytes_out;

static void *counted_alloc(size_t bytes)
{
	if (allocations_left-- <= 0)
		return NULL;
	bytes_out += bytes;
	return malloc(bytes);
}

static void counted_free(void *p, size_t bytes)
{
	bytes_out -= bytes;
	free(p);
}

static const struct xm_rangemap_mem counted = { .alloc = counted_alloc, .free = counted_free };

static void test_set_when_memory_ends_then_enomem_and_unchanged(void **unused)
{
	struct xm_rangemap m;
	uint64_t i;
	size_t n;

	allocations_left = 1;
	bytes_out = 0;
	xm_rangemap_init(&m, &counted);
	for (i = 0; xm_rangemap_set(&m, i * 4, i * 4 + 2, A) == 0; i++)
		;
	assert_true(i > 0);
	n = m.n;
	assert_int_equal(xm_rangemap_set(&m, i * 4, i * 4 + 2, A), -ENOMEM);
	/* a hole in the middle of a range needs an entry as well */
	assert_int_equal(xm_rangemap_set(&m, 0, 4, B), 0);
	assert_int_equal(xm_rangemap_clear(&m, 1, 2), -ENOMEM);
	assert_true(xm_rangemap_valid(&m));
	assert_int_equal(m.n, n);
	xm_rangemap_fini(&m);
	assert_int_equal(bytes_out, 0);
}

static void test_reserve_when_done_then_changes_need_no_memory(void **unused)
{
	struct xm_rangemap m;
	uint64_t i;

	allocations_left = 100;
	bytes_out = 0;
	xm_rangemap_init(&m, &counted);
	assert_int_equal(xm_rangemap_set(&m, 0, 100000, A), 0);
	assert_int_equal(xm_rangemap_reserve(&m, 1000), 0);
	allocations_left = 0;
	for (i = 0; i < 1000; i++)
		assert_int_equal(i & 1 ? xm_rangemap_clear(&m, i * 10, i * 10 + 3)
				       : xm_rangemap_set(&m, i * 10, i * 10 + 3, B),
				 0);
	assert_int_equal(xm_rangemap_reserve(&m, 100000), -ENOMEM);
	assert_int_equal(xm_rangemap_reserve(&m, SIZE_MAX), -ENOMEM);
	assert_true(xm_rangemap_valid(&m));
	xm_rangemap_fini(&m);
	assert_int_equal(bytes_out, 0);
}

static void test_valid_when_broken_then_false(void **unused)
{
	struct xm_range r[2] = { { 0, 10, { 1, 1 } }, { 10, 20, { 2, 2 } } };
	struct xm_rangemap m = { .r = r, .n = 2, .cap = 2 };

	assert_true(xm_rangemap_valid(&m));
	r[1].start = 9;
	assert_false(xm_rangemap_valid(&m));
	r[1].start = 10;
	r[1].value[0] = r[1].value[1] = 1;
	assert_false(xm_rangemap_valid(&m));
	r[1].end = 10;
	assert_false(xm_rangemap_valid(&m));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_map_when_random_changes_then_as_the_model),
		cmocka_unit_test(test_set_when_neighbours_are_equal_then_merged),
		cmocka_unit_test(test_set_when_empty_then_einval),
		cmocka_unit_test(test_set_when_at_the_ends_of_the_numbers_then_kept),
		cmocka_unit_test(test_fit_when_at_the_end_of_the_numbers_then_no_overflow),
		cmocka_unit_test(test_set_when_memory_ends_then_enomem_and_unchanged),
		cmocka_unit_test(test_reserve_when_done_then_changes_need_no_memory),
		cmocka_unit_test(test_valid_when_broken_then_false),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
