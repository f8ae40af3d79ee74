/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_zipf.c - the bench's draws by Zipf's law: how often ranks come, against the law itself summed up.
 */
#include "tests/bench/zipf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define RANKS 100000u
#define DRAWS 2000000u
#define EXPONENT 0.99
#define SEED 88172645463325252ull

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static unsigned *draw_many(void)
{
	unsigned *count = calloc(RANKS + 1, sizeof(*count));
	uint64_t seed = SEED;
	struct zipf z;

	assert_non_null(count);
	print_message("seed %llu\n", (unsigned long long)seed);
	zipf_init(&z, RANKS, EXPONENT);
	for (unsigned i = 0; i < DRAWS; i++) {
		uint64_t k = zipf_draw(&z, next_random, &seed);

		assert_in_range(k, 1, RANKS);
		count[k]++;
	}
	return count;
}

/* Five standard deviations of a binomial distribution, either way. */
static void assert_near(double drawn, double share)
{
	double mean = DRAWS * share, slack = 5 * sqrt(mean * (1 - share)) + 1;

	if (fabs(drawn - mean) > slack)
		fail_msg("drawn %.0f times, by the law %.0f +- %.0f", drawn, mean, slack);
}

static void test_ranks_when_drawn_often_come_as_the_law_says(void **st)
{
	unsigned *count = draw_many();
	double total = 0, share = 0, drawn = 0;

	for (unsigned k = 1; k <= RANKS; k++)
		total += pow(k, -EXPONENT);
	for (unsigned k = 1; k <= RANKS; k++) {
		share += pow(k, -EXPONENT) / total;
		drawn += count[k];
		if (k <= 5)
			assert_near(count[k], pow(k, -EXPONENT) / total);
		if (k == 10 || k == 100 || k == 1000 || k == 10000)
			assert_near(drawn, share);
	}
	free(count);
}

static void test_one_rank_when_drawn_is_one(void **st)
{
	uint64_t seed = SEED;
	struct zipf z;

	zipf_init(&z, 1, EXPONENT);
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(zipf_draw(&z, next_random, &seed), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ranks_when_drawn_often_come_as_the_law_says),
		cmocka_unit_test(test_one_rank_when_drawn_is_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
