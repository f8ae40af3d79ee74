/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_link_lent.c - writes from lent memory, which a link may make later, and together: they are made once each, in their
 * order with what follows them, each with its own result. Over all links.
 */
#include "link_fixture.h"

#define PAGES 128

static uint8_t *lent;
static struct fixture f;

static void begin(uint64_t slabs)
{
	open_fixture(&f, slabs);
	lent = aligned_alloc(PAGE, PAGES * PAGE);
	assert_non_null(lent);
	fill(lent, PAGES * PAGE, seed++);
	assert_true(xm_link_lend(f.link, lent, PAGES * PAGE) >= 0);
	for (uint64_t i = 0; i < slabs; i++) /* each slab is known here */
		assert_int_equal(put(f.link, lent, 8, f.region.id, i * RIG_SLAB), 0);
}

static void end(void)
{
	close_fixture(&f);
	free(lent);
}

static uint8_t *page(unsigned i)
{
	return lent + (size_t)i * PAGE;
}

static int submit(unsigned i, size_t len, uint64_t off)
{
	struct iovec iov = { page(i), len };

	return f.link->ops->writev(f.link, &iov, 1, f.region.id, off, i);
}

/* n operations with cookies from 0 on come back, each once. */
static void collect(unsigned n, int *status)
{
	bool seen[PAGES] = { false };

	for (unsigned k = 0; k < n; k++) {
		struct xm_completion c = one_completion(f.link), more;

		assert_true(c.cookie < n && !seen[c.cookie]);
		seen[c.cookie] = true;
		status[c.cookie] = c.status;
		if (k == n - 1)
			assert_int_equal(f.link->ops->poll(f.link, &more, 1), 0);
	}
}

static void holds(uint64_t off, unsigned i, size_t len)
{
	uint8_t back[2 * PAGE];

	assert_int_equal(get(f.link, back, len, f.region.id, off), 0);
	assert_memory_equal(back, page(i), len);
}

static void test_full_depth_when_lent_then_all_arrive_and_no_more_are_accepted(void **unused)
{
	const unsigned other = 100; /* something else in between: not all wait at the end */
	uint8_t back[8];
	int status[PAGES];

	begin(2);
	for (unsigned i = 0; i < XM_LINK_DEPTH; i++) { /* backwards: none is a neighbour of the one before */
		if (i == other)
			assert_int_equal(f.link->ops->read(f.link, back, 8, f.region.id, 0, i), 0);
		else
			assert_int_equal(submit(i, PAGE, (XM_LINK_DEPTH - 1 - i) * PAGE), 0);
	}
	assert_int_equal(submit(0, PAGE, 0), -EAGAIN);
	collect(XM_LINK_DEPTH, status);
	for (unsigned i = 0; i < XM_LINK_DEPTH; i++) {
		assert_int_equal(status[i], 0);
		if (i != other)
			holds((XM_LINK_DEPTH - 1 - i) * PAGE, i, PAGE);
	}
	end();
}

static void test_later_operations_when_writes_wait_then_come_after_them(void **unused)
{
	uint8_t back[PAGE];
	uint64_t word;
	int status[4];

	begin(1);
	assert_int_equal(submit(0, PAGE, 0), 0);
	assert_int_equal(f.link->ops->faa(f.link, f.region.id, 0, 1, 3), 0);
	assert_int_equal(submit(1, PAGE, PAGE), 0);
	assert_int_equal(f.link->ops->read(f.link, back, PAGE, f.region.id, PAGE, 2), 0);
	collect(4, status);
	assert_int_equal(status[0] | status[1] | status[2] | status[3], 0);
	assert_memory_equal(back, page(1), PAGE);
	memcpy(&word, page(0), 8);
	word++;
	memcpy(page(0), &word, 8);
	holds(0, 0, PAGE);
	end();
}

static void test_write_when_it_overwrites_one_that_waits_then_is_the_last(void **unused)
{
	uint8_t mine[PAGE];
	struct iovec iov = { mine, PAGE };
	int status[3];

	begin(1);
	memcpy(mine, page(9), PAGE);
	assert_int_equal(submit(0, PAGE, 0), 0);
	assert_int_equal(submit(1, PAGE, 0), 0);
	assert_int_equal(f.link->ops->writev(f.link, &iov, 1, f.region.id, 0, 2), 0);
	memset(mine, 0, PAGE); /* it was not lent: that does not matter any more */
	collect(3, status);
	assert_int_equal(status[0] | status[1] | status[2], 0);
	holds(0, 9, PAGE);
	end();
}

static void test_write_when_partly_lent_then_is_read_at_once(void **unused)
{
	uint8_t *two, saved[2 * PAGE], back[2 * PAGE];
	struct iovec iov;
	int status[1];

	begin(1);
	two = malloc(2 * PAGE);
	fill(two, 2 * PAGE, seed++);
	assert_true(xm_link_lend(f.link, two, PAGE) >= 0);
	memcpy(saved, two, sizeof(saved));
	iov = (struct iovec){ two + PAGE / 2, PAGE };
	assert_int_equal(f.link->ops->writev(f.link, &iov, 1, f.region.id, 0, 0), 0);
	memset(two + PAGE / 2, 0, PAGE);
	collect(1, status);
	assert_int_equal(status[0], 0);
	assert_int_equal(get(f.link, back, PAGE, f.region.id, 0), 0);
	assert_memory_equal(back, saved + PAGE / 2, PAGE);
	end();
	free(two);
}

static void test_writes_when_one_slab_is_gone_then_the_others_arrive(void **unused)
{
	const uint64_t across = 3 * RIG_SLAB - PAGE; /* half in the slab that goes */
	int status[PAGES];

	begin(5);
	assert_int_equal(submit(0, PAGE, 0), 0);
	assert_int_equal(submit(1, PAGE, RIG_SLAB), 0);
	assert_int_equal(submit(2, 2 * PAGE, 2 * RIG_SLAB - PAGE), 0);
	collect(3, status);
	assert_int_equal(status[0] | status[1] | status[2], 0);
	holds(2 * RIG_SLAB - PAGE, 2, 2 * PAGE);

	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(submit(i, i == 7 ? 2 * PAGE : PAGE,
					i == 7	? across :
					i == 11 ? 3 * RIG_SLAB :
						  4 * RIG_SLAB + i * PAGE),
				 0);
	assert_int_equal(xm_peer_region_drop_slabs(f.peer, f.region.id, 3, 1), 0);
	collect(20, status);
	for (unsigned i = 0; i < 20; i++) {
		bool to_the_gone = i == 7 || i == 11;

		/* over a network they may have been there before it went, or, over verbs, the connection broke with it */
		if (to_the_gone)
			assert_true(status[i] == -ENXIO || status[i] == -ENOLINK || ((use_tcp || use_verbs) && !status[i]));
		else if (status[i] == 0)
			holds(4 * RIG_SLAB + i * PAGE, i, PAGE);
		else
			assert_true(use_verbs && status[i] == -ENOLINK);
	}
	end();
}

static void test_writes_when_killed_then_each_comes_back_once(void **unused)
{
	uint8_t before[PAGE], back[PAGE];
	int status[4];

	begin(1);
	assert_int_equal(put(f.link, page(100), 4 * PAGE, f.region.id, 0), 0);
	memcpy(before, page(100), PAGE);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(submit(i, PAGE, i * PAGE), 0);
	f.link->ops->kill(f.link);
	collect(4, status);
	for (unsigned i = 0; i < 4; i++)
		assert_true(status[i] == -ENOLINK || (use_verbs && !status[i]));
	assert_int_equal(xm_link_reconnect(f.link), 0);
	if (!use_tcp && !use_verbs) { /* else they may have left already */
		assert_int_equal(get(f.link, back, PAGE, f.region.id, 0), 0);
		assert_memory_equal(back, before, PAGE);
	}
	assert_int_equal(put(f.link, page(50), PAGE, f.region.id, 0), 0);
	holds(0, 50, PAGE);
	end();
}

static void test_link_when_closed_with_writes_that_wait_then_nothing_is_left(void **unused)
{
	begin(1);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(submit(i, PAGE, i * PAGE), 0);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_full_depth_when_lent_then_all_arrive_and_no_more_are_accepted),
		cmocka_unit_test(test_later_operations_when_writes_wait_then_come_after_them),
		cmocka_unit_test(test_write_when_it_overwrites_one_that_waits_then_is_the_last),
		cmocka_unit_test(test_write_when_partly_lent_then_is_read_at_once),
		cmocka_unit_test(test_writes_when_one_slab_is_gone_then_the_others_arrive),
		cmocka_unit_test(test_writes_when_killed_then_each_comes_back_once),
		cmocka_unit_test(test_link_when_closed_with_writes_that_wait_then_nothing_is_left),
	};

	return run_on_each_transport(tests, XM_ARRAY_SIZE(tests));
}
