/* SPDX-License-Identifier: Apache-2.0 */
/* test_stream.c - faults in several places in turn are told apart, and stray ones end nothing: stream.h. */
#include "runtime/stream.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define FAR 1000000ull /* pages between what is read */
#define FOR_EACH_POLICY(name) for (const char *const *name = xm_prefetch_names; *name; name++)

static const struct xm_prefetch_ops *ops;
static struct xm_streams set;
static uint64_t faults, fetched; /* fetched: ahead */
static struct xm_stream_judged judged;
static bool protected[3 * FAR]; /* how a reader's pages came in */
static uint64_t seed = 88172645463325252ull;

/* Somebody who reads page after page, or backwards. */
struct reader {
	uint64_t next;
	int64_t step;
	uint64_t there; /* so many more pages were fetched ahead, or left out as marks */
	uint64_t mark;	/* the one of them that is not there; 0: none */
};

static void begin(const char *name)
{
	ops = xm_prefetch_find(name);
	assert_non_null(ops);
	memset(&set, 0, sizeof(set));
	faults = fetched = 0;
	judged = (struct xm_stream_judged){ 0, 0 };
}

static struct xm_stream *stream_of(uint64_t page, bool write, struct xm_stream_advice *a)
{
	const struct xm_stream_fault f = { .page = page, .write = write };

	return xm_stream_fetch(&set, ops, &f, a, &judged);
}

static struct xm_stream_advice fetch(uint64_t page, int64_t step, bool write)
{
	struct xm_stream_advice a;
	struct xm_stream *s = stream_of(page, write, &a);
	int pages;

	assert_non_null(s);
	if (xm_stream_long(&a))
		assert_true(xm_stream_marks(&a, a.count / XM_STREAM_MARK));
	pages = a.count - (a.leave != a.from);
	if (a.leave == a.from) /* no mark */
		xm_stream_began(&set, s, &a, pages, a.writable ? 1 : pages + !write, 0);
	else if (a.writable)
		xm_stream_began(&set, s, &a, pages, 0, 1);
	else
		xm_stream_began(&set, s, &a, pages, a.count / XM_STREAM_MARK - 1 + (!a.ahead && !write),
				a.count - a.count / XM_STREAM_MARK);
	faults++;
	fetched += (uint64_t)pages;
	if (a.count && step)
		assert_int_equal(a.stride, step);
	return a;
}

static void note_protected(uint64_t page, const struct xm_stream_advice *a)
{
	if (page < sizeof(protected))
		protected[page] = !a->ahead; /* a mark's is not counted */
	for (int k = 1; k <= a->count; k++) {
		uint64_t at = a->from + (uint64_t)(a->stride * k);

		if (at < sizeof(protected))
			protected[at] = !a->writable || k == a->count;
	}
}

static void read_next(struct reader *r)
{
	bool faults_here = r->there == 0 || r->next == r->mark;
	struct xm_stream_advice a;

	if (r->there)
		r->there--;
	if (faults_here) {
		a = fetch(r->next, r->step, false);
		assert_true(r->there == 0 || !a.count || a.ahead);
		assert_int_equal(a.from, r->next + (a.ahead ? r->there * (uint64_t)r->step : 0));
		note_protected(r->next, &a);
		r->there += (uint64_t)a.count;
		r->mark = a.leave == a.from ? 0 : a.leave;
	}
	r->next += (uint64_t)r->step;
}

static uint64_t random_page(void)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return 1000 * FAR + (seed >> 33) % (1 << 20);
}

/* Where readers begin: their distances are no trend. */
static uint64_t place(int k)
{
	return FAR * (uint64_t)(k * k + 1);
}

/* n readers in turn, each 10000 pages; returns the faults of all. */
static uint64_t read_in_turn(struct reader *r, int n, int strays)
{
	for (int i = 0; i < 10000; i++) {
		for (int k = 0; k < n; k++)
			read_next(&r[k]);
		for (int k = 0; k < strays; k++)
			fetch(random_page(), 0, false);
	}
	return faults - 10000 * (uint64_t)strays;
}

/* What n streams of 10000 pages cost at most, each by itself: 64 at a time, and the beginning. */
#define COST(n) ((n) * (10000ull / 65 + 12))

static void test_readers_when_in_turn_then_each_is_followed(void **unused)
{
	FOR_EACH_POLICY(name)
	{
		for (int n = 1; n <= XM_STREAM_WAYS; n++) {
			struct reader r[XM_STREAM_WAYS];

			for (int k = 0; k < n; k++)
				r[k] = (struct reader){ .next = place(k), .step = k % 2 ? -1 : 1 };
			begin(*name);
			read_in_turn(r, n, 0);
			if (ops == &xm_prefetch_none)
				assert_int_equal(fetched, 0);
			else
				assert_in_range(faults, 1, COST((uint64_t)n));
			assert_int_equal(judged.waste, 0);
		}
	}
}

static void test_readers_when_more_than_ways_then_sound(void **unused)
{
	struct reader r[2 * XM_STREAM_WAYS];

	for (int k = 0; k < 2 * XM_STREAM_WAYS; k++)
		r[k] = (struct reader){ .next = place(k), .step = 1 };
	begin("majority");
	read_in_turn(r, 2 * XM_STREAM_WAYS, 0);
	assert_true(judged.hit + judged.waste <= fetched);
}

static void test_reader_when_others_stray_then_keeps_its_window(void **unused)
{
	struct reader r[2] = { { .next = FAR, .step = 1 }, { .next = 2 * FAR, .step = 1 } };

	begin("majority");
	/* between two faults of a reader lie 65 * 3 stray ones */
	assert_in_range(read_in_turn(r, 2, 3), 1, COST(2ull));
	assert_true(judged.waste < fetched / 100);
}

/* At the mark of a long run the next is fetched; from then on no fault but at the marks. */
static void test_reader_when_at_the_mark_then_the_next_run_follows(void **unused)
{
	FOR_EACH_POLICY(name)
	{
		struct reader r = { .next = FAR, .step = 1 };
		uint64_t least = UINT64_MAX;

		begin(*name);
		for (int i = 0; i < 10000; i++) {
			read_next(&r);
			if (i >= 1000)
				least = xm_min(least, r.there);
		}
		if (ops == &xm_prefetch_none)
			assert_int_equal(least, 0);
		else
			assert_true(least >= XM_PREFETCH_MAX / 2 - 1);
	}
}

/* The handler could not tell that it fetched (another thread had the set), or told it of a stream that is another by now. */
static void test_run_when_not_recorded_then_sound(void **unused)
{
	struct xm_stream_advice a, other;
	struct xm_stream *s;
	uint64_t page = FAR, next;

	begin("majority");
	for (int i = 0; i < 20; i++)
		page += (uint64_t)fetch(page, 1, false).count + 1;
	s = stream_of(page, false, &a);
	next = s->run_next;
	assert_ptr_equal(stream_of(page + 1, false, &other), s);
	xm_stream_began(&set, s, &a, 63, 32, 32);
	assert_int_equal(s->run_next, next);
	xm_stream_began(&set, s, &other, 0, 1, 0);
	assert_true(judged.hit + judged.waste <= fetched);
}

/* A reader with a long run, at its mark: what the fetch of it was told. */
static struct xm_stream *at_the_mark(uint64_t *page, struct xm_stream_advice *a)
{
	struct xm_stream_advice last;
	struct xm_stream *s;

	begin("majority");
	*page = FAR;
	for (int i = 0; i < 20; i++) {
		last = fetch(*page, 1, false);
		*page += (uint64_t)last.count + 1;
	}
	last = fetch(*page, 1, false);
	assert_int_not_equal(last.leave, last.from);
	*page = last.leave;
	s = stream_of(*page, false, a);
	assert_true(a->ahead);
	return s;
}

/* Between the fetch of the mark and that of the next run the reader goes on, and writes. */
static void test_writes_when_while_fetching_ahead_then_counted(void **unused)
{
	struct xm_stream_advice a, next;
	uint64_t page;
	struct xm_stream *s = at_the_mark(&page, &a);

	assert_false(a.writable);
	xm_stream_wrote(&set, page + 1, 40);
	assert_true(xm_stream_marks(&a, 16));
	xm_stream_began(&set, s, &a, 63, 15, 48);
	assert_int_equal(s->run_writes, 40);
	stream_of(a.leave, true, &next);
	assert_true(next.ahead);
	assert_true(next.writable);
}

/* It comes to the end of its run before the next was fetched, and fetches that itself: the mark's fetch comes second. What it
 * brings all the same is judged with the rest, once, and a mark is none a second time. */
static void test_reader_when_faster_than_the_fetch_ahead_then_sound(void **unused)
{
	struct xm_stream_advice a, own, again;
	uint64_t page, end;
	struct xm_stream *s = at_the_mark(&page, &a);

	end = s->run_next;
	assert_ptr_equal(stream_of(end, false, &own), s);
	assert_false(own.ahead);
	xm_stream_began(&set, s, &own, 30, 31, 0);
	xm_stream_began(&set, s, &a, 33, 33, 0);
	fetched += 63;
	assert_int_equal(s->run_pages, 63);
	assert_int_equal(s->run_first, end);
	stream_of(page, false, &again);
	assert_false(again.ahead);
	stream_of(s->run_next, false, &again);
	assert_true(judged.hit + judged.waste <= fetched);
}

static void test_random_when_read_then_nothing_ahead(void **unused)
{
	begin("majority");
	for (int i = 0; i < 100000; i++)
		fetch(random_page(), 0, false);
	assert_int_equal(fetched, 0);
}

/* Farther apart than what counts as near: found as the faults that follow each other. */
static void test_stride_when_long_then_seen(void **unused)
{
	FOR_EACH_POLICY(name)
	{
		struct reader r = { .next = FAR, .step = 3000 };

		begin(*name);
		read_in_turn(&r, 1, 0);
		if (ops != &xm_prefetch_none)
			assert_in_range(faults, 1, COST(1ull));
	}
}

/* A reader that goes on elsewhere: what it had fetched is waste, once, and is told. */
static void test_reader_when_it_stops_then_waste_is_counted_once(void **unused)
{
	struct reader r = { .next = FAR, .step = 1 };
	uint64_t rest;

	begin("majority");
	read_in_turn(&r, 1, 0);
	/* but for the last run, and the one before, which the reader was not seen to finish */
	assert_in_range(fetched - judged.hit, 1, 2 * XM_PREFETCH_MAX);
	rest = fetched - judged.hit;
	for (int i = 0; i < (int)XM_STREAM_STALE + 100; i++)
		fetch(random_page(), 0, false);
	assert_int_equal(judged.waste, rest);
	assert_int_equal(judged.hit + judged.waste, fetched);
}

/* One is only read, the other read and written: each comes in as it is used. */
static void test_writes_when_of_one_stream_then_only_it_comes_in_writable(void **unused)
{
	struct reader r[2] = { { .next = FAR, .step = 1 }, { .next = 2 * FAR, .step = 1 } };

	begin("majority");
	for (int i = 0; i < 10000; i++) {
		read_next(&r[0]);
		read_next(&r[1]);
		if (protected[r[1].next - 1]) /* a load, then a store */
			xm_stream_wrote(&set, r[1].next - 1, 1);
	}
	for (int k = 0; k < 2; k++) {
		bool writable = false;

		for (int i = 0; i < XM_STREAM_WAYS; i++)
			if (set.way[i].fetches && set.way[i].run_first / FAR == (uint64_t)k + 1)
				writable = set.way[i].run_writable;
		assert_int_equal(writable, k == 1);
	}
}

/* Pages that follow each other, up or down, several runs in turn. */
static void test_runs_when_in_turn_then_double_either_way(void **unused)
{
	uint64_t next[XM_STREAM_RUNS];

	begin("none");
	for (int k = 0; k < XM_STREAM_RUNS; k++)
		next[k] = place(k) + FAR / 2;
	for (int i = 0; i < 20; i++) {
		for (int k = 0; k < XM_STREAM_RUNS; k++) {
			bool down = i > 0 && k % 2;
			int64_t n = 1ll << xm_min(i, 6);

			assert_int_equal(xm_stream_touch(&set, next[k], 64), down ? -n : n);
			next[k] += (uint64_t)(k % 2 ? -n : n);
		}
	}
	assert_int_equal(xm_stream_touch(&set, next[0], 5), 5);
	assert_int_equal(xm_stream_touch(&set, next[0] + 5, 0), 1); /* no frame is free: the page itself */
	assert_int_equal(xm_stream_write(&set, next[0] + 6, 64), 1); /* writes are followed by themselves */
}

static void test_run_when_it_turns_then_begins_anew(void **unused)
{
	begin("none");
	assert_int_equal(xm_stream_write(&set, 1000, 64), 1);
	assert_int_equal(xm_stream_write(&set, 1001, 64), 2);
	assert_int_equal(xm_stream_write(&set, 1003, 64), 4);
	assert_int_equal(xm_stream_write(&set, 1002, 64), 1);
	assert_int_equal(xm_stream_write(&set, 1000 - XM_WRITE_GAP, 64), 1); /* too far below */
	assert_int_equal(xm_stream_write(&set, 1007 + XM_WRITE_GAP, 64), 8);
}

/* Who touches every other page does not get those between. */
static void test_touches_when_there_are_gaps_then_no_run(void **unused)
{
	begin("none");
	for (uint64_t page = 1000; page < 1200; page += 2)
		assert_int_equal(xm_stream_touch(&set, page, 64), 1);
}

static void test_run_when_it_reaches_page_0_then_ends_there(void **unused)
{
	begin("none");
	assert_int_equal(xm_stream_touch(&set, 9, 64), 1);
	assert_int_equal(xm_stream_touch(&set, 8, 64), -2);
	assert_int_equal(xm_stream_touch(&set, 6, 64), -4);
	assert_int_equal(xm_stream_touch(&set, 2, 64), -3);
	assert_int_equal(xm_stream_touch(&set, 0, 64), 1);
}

/* Ten stray touches between two runs each time. */
static void test_run_when_others_stray_then_goes_on(void **unused)
{
	uint64_t next = FAR;

	begin("none");
	for (int i = 0; i < 100; i++) {
		next += (uint64_t)xm_stream_touch(&set, next, 64);
		for (int k = 0; k < 10 && i > 0; k++)
			assert_int_equal(xm_stream_touch(&set, random_page(), 64), 1);
	}
	assert_in_range(next - FAR, 64 * 90, 64 * 100);
}

/* Long runs of long ago are not in the way of new ones. */
static void test_runs_when_all_are_old_then_new_ones_double(void **unused)
{
	uint64_t next[2] = { place(20), place(21) };

	begin("none");
	for (int k = 0; k < XM_STREAM_RUNS; k++)
		for (uint64_t page = place(k), i = 0; i < 10; i++)
			page += (uint64_t)xm_stream_touch(&set, page, 64);
	for (unsigned i = 0; i < XM_RUN_STALE; i++)
		xm_stream_touch(&set, random_page(), 64);
	for (int i = 0; i < 10; i++)
		for (int k = 0; k < 2; k++)
			next[k] += (uint64_t)xm_stream_touch(&set, next[k], 64);
	assert_int_equal(xm_stream_touch(&set, next[0], 64), 64);
	assert_int_equal(xm_stream_touch(&set, next[1], 64), 64);
}

/* Nearly all that one reader advances over is there, so that its long window costs it little; between its faults records of
 * two pages each are read, which must not be given that window. */
static void test_records_when_beside_a_reader_then_nothing_in_vain(void **unused)
{
	uint64_t page = FAR, before;

	begin("majority");
	for (int i = 0; i < 40; i++)
		page += (uint64_t)fetch(page, 1, false).count + 1;
	before = fetched;
	for (int i = 0; i < 1000; i++) {
		struct xm_stream_advice a;
		struct xm_stream *s = stream_of(page, false, &a);
		uint64_t record = random_page();

		xm_stream_began(&set, s, &a, 2, 3, 0); /* two of the 64 were not there */
		page += (uint64_t)a.count + 1;
		fetched += 2;
		if (fetch(record, 0, false).count == 1)
			fetched--; /* the record's other page, no more */
		else
			fetch(record + 1, 0, false);
	}
	assert_true(fetched - before <= 2 * 1000 + 1000 / 10);
}

/* A range of so many pages, read in order, of which the program has said how it reads it. Returns the faults. */
static uint64_t read_advised(enum xm_pattern pattern, uint64_t pages)
{
	uint64_t before = faults, page = random_page() * 8, end = page + pages;

	while (page < end) {
		const struct xm_stream_fault f = { .page = page, .pattern = pattern };
		struct xm_stream_advice a;
		struct xm_stream *s = xm_stream_fetch(&set, ops, &f, &a, &judged);

		xm_stream_began(&set, s, &a, a.count, a.count + 1, 0);
		faults++;
		fetched += (uint64_t)a.count;
		page += (uint64_t)a.count + 1;
	}
	return faults - before;
}

/* From the first fault on, and from the second as somebody who has long been reading. */
static void test_advice_when_sequential_then_ahead_at_once(void **unused)
{
	FOR_EACH_POLICY(name)
	{
		begin(*name);
		if (ops == &xm_prefetch_none) {
			assert_int_equal(read_advised(XM_PATTERN_SEQUENTIAL, 64), 64);
			continue;
		}
		for (int i = 0; i < 20; i++)
			assert_int_equal(read_advised(XM_PATTERN_SEQUENTIAL, 1 + XM_STREAM_GUESS), 1);
		begin(*name);
		assert_in_range(read_advised(XM_PATTERN_SEQUENTIAL, 1 + XM_STREAM_GUESS + 65 * 4), 3, 6);
		assert_int_equal(judged.waste, 0);
	}
}

static void test_advice_when_random_then_nothing_ahead(void **unused)
{
	FOR_EACH_POLICY(name)
	{
		begin(*name);
		assert_int_equal(read_advised(XM_PATTERN_RANDOM, 500), 500);
		assert_int_equal(fetched, 0);
		if (ops != &xm_prefetch_none)
			assert_in_range(read_advised(XM_PATTERN_NONE, 650), 10, 40);
	}
}

/* Records at random places, each of so many pages, the last `there` of which are in memory. Returns the faults of all. */
static uint64_t read_records(int n, int pages, int there)
{
	uint64_t before = faults;

	for (int i = 0; i < n; i++) {
		uint64_t record = random_page() * 8;

		for (int k = 0; k < pages - there; k++) {
			const struct xm_stream_fault f = { .page = record + (uint64_t)k, .alone = k + 1 >= pages - there };
			struct xm_stream_advice a;
			struct xm_stream *s = xm_stream_fetch(&set, ops, &f, &a, &judged);

			xm_stream_began(&set, s, &a, a.count, a.count + 1, 0);
			faults++;
			fetched += (uint64_t)a.count;
			k += a.count;
		}
	}
	return faults - before;
}

/* What lies across a page boundary comes with one fault, but for the samples; and the pages are no stride. */
static void test_records_when_of_two_pages_then_both_come(void **unused)
{
	FOR_EACH_POLICY(name)
	{
		begin(*name);
		read_records(100, 2, 0);
		if (ops == &xm_prefetch_none) {
			assert_int_equal(fetched, 0);
			continue;
		}
		assert_in_range(read_records(10000, 2, 0), 10000, 10000 + 10000 / 8);
		assert_in_range(judged.waste, 0, fetched / 100); /* one that was just left out counts as not asked for yet */
		assert_in_range(fetched - judged.hit - judged.waste, 0, 1);
	}
}

/* Most of what is read is one page; neighbours come no more, whatever was learned before. */
static void test_records_when_they_become_short_then_their_neighbours_stay(void **unused)
{
	uint64_t before;

	begin("majority");
	read_records(1000, 2, 0);
	for (int i = 0; i < 3000; i++)
		fetch(random_page(), 0, false);
	before = fetched;
	for (int i = 0; i < 3000; i++)
		fetch(random_page(), 0, false);
	assert_int_equal(fetched, before);
	assert_in_range(judged.waste, 1, 2000);
	for (int i = 0; i < 20; i++)
		read_records(16, 2, 0);
	assert_in_range(read_records(1000, 2, 0), 1000, 1000 + 1000 / 8);
}

/* An index page that stands alone, then three records of two, always in turn: a quarter of what comes is for nothing, and is
 * said to be. */
static void test_records_when_in_a_period_then_samples_have_none(void **unused)
{
	begin("majority");
	for (int i = 0; i < 20000; i++) {
		fetch(random_page(), 0, false);
		read_records(3, 2, 0);
	}
	assert_true(fetched > 20000);
	assert_in_range(judged.hit * 100 / fetched, 65, 85);
	begin("majority");
	read_records(100, 2, 0);
	for (int i = 0; i < 20000; i++) {
		for (int k = 0; k < 3; k++)
			fetch(random_page(), 0, false);
		read_records(1, 2, 0);
	}
	assert_in_range(fetched, 100, 4000); /* a quarter pays nothing */
}

/* A neighbour that is in memory says nothing of those that are not. */
static void test_records_when_the_neighbour_is_there_then_nothing_comes(void **unused)
{
	begin("majority");
	for (int i = 0; i < 1000; i++)
		read_records(1, 2, i % 2);
	assert_in_range(faults, 1000, 1000 + 1000 / 8);
	begin("majority");
	read_records(1000, 2, 1);
	assert_int_equal(fetched, 0);
}

/* Three pages: the second comes with the first, and nobody takes the step from the first to the third for a stride. */
static void test_records_when_longer_then_followed(void **unused)
{
	begin("majority");
	read_records(1000, 3, 0);
	assert_in_range(faults, 1, 1000 * 9 / 4);
	for (int i = 0; i < XM_STREAM_WAYS; i++)
		assert_int_not_equal(set.way[i].run_stride, 2);
}

/* A stray touch just behind a run that is in use: the run goes on as it was. */
static void test_reader_when_touched_near_then_keeps_its_window(void **unused)
{
	uint64_t page = FAR;
	int32_t n = 0;

	begin("majority");
	for (int i = 0; i < 40; i++) {
		n = fetch(page, 1, false).count;
		page += (uint64_t)n + 1;
	}
	assert_int_equal(n, 64);
	fetch(page + 85, 0, false);
	assert_int_equal(fetch(page, 1, false).count, 64);
	assert_int_equal(judged.waste, 0);
}

static void test_reader_when_it_arrives_at_page_0_then_others_are_told_apart(void **unused)
{
	struct reader r = { .next = 500, .step = -1 };

	begin("majority");
	for (int i = 0; i < 501; i++)
		read_next(&r);
	for (int i = 0; i < 10; i++)
		fetch(random_page(), 0, false);
	assert_int_equal(judged.waste, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_readers_when_in_turn_then_each_is_followed),
		cmocka_unit_test(test_readers_when_more_than_ways_then_sound),
		cmocka_unit_test(test_reader_when_others_stray_then_keeps_its_window),
		cmocka_unit_test(test_reader_when_at_the_mark_then_the_next_run_follows),
		cmocka_unit_test(test_run_when_not_recorded_then_sound),
		cmocka_unit_test(test_writes_when_while_fetching_ahead_then_counted),
		cmocka_unit_test(test_reader_when_faster_than_the_fetch_ahead_then_sound),
		cmocka_unit_test(test_random_when_read_then_nothing_ahead),
		cmocka_unit_test(test_stride_when_long_then_seen),
		cmocka_unit_test(test_reader_when_it_stops_then_waste_is_counted_once),
		cmocka_unit_test(test_writes_when_of_one_stream_then_only_it_comes_in_writable),
		cmocka_unit_test(test_runs_when_in_turn_then_double_either_way),
		cmocka_unit_test(test_run_when_it_turns_then_begins_anew),
		cmocka_unit_test(test_touches_when_there_are_gaps_then_no_run),
		cmocka_unit_test(test_run_when_it_reaches_page_0_then_ends_there),
		cmocka_unit_test(test_run_when_others_stray_then_goes_on),
		cmocka_unit_test(test_runs_when_all_are_old_then_new_ones_double),
		cmocka_unit_test(test_records_when_beside_a_reader_then_nothing_in_vain),
		cmocka_unit_test(test_advice_when_sequential_then_ahead_at_once),
		cmocka_unit_test(test_advice_when_random_then_nothing_ahead),
		cmocka_unit_test(test_records_when_of_two_pages_then_both_come),
		cmocka_unit_test(test_records_when_they_become_short_then_their_neighbours_stay),
		cmocka_unit_test(test_records_when_in_a_period_then_samples_have_none),
		cmocka_unit_test(test_records_when_the_neighbour_is_there_then_nothing_comes),
		cmocka_unit_test(test_records_when_longer_then_followed),
		cmocka_unit_test(test_reader_when_touched_near_then_keeps_its_window),
		cmocka_unit_test(test_reader_when_it_arrives_at_page_0_then_others_are_told_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
