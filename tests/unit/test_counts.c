/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_counts.c - how many calls and transfers things cost, by the runtime's own counters: installs of a sequential
 * read, calls of an eviction batch, fetches of pages that are here. Each prints what it counts. What the handlers' system
 * calls are is looked at from outside, by strace (tests/it).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/uffd.h"
#include "tests/harness.h"

#define RW (PROT_READ | PROT_WRITE)
#define PAGE XM_PAGE_SIZE
#define BUDGET_PAGES 4096u

static struct test_appliance appliance;
static struct test_config config;

static int fresh(void **state)
{
	memset(&config, 0, sizeof(config));
	config.budget_bytes = BUDGET_PAGES * PAGE;
	return 0;
}

static int stop(void **state)
{
	kill(appliance.pid, SIGCONT); /* a test that failed may have left it stopped */
	test_runtime_stop();
	test_appliance_stop(&appliance);
	return 0;
}

static void start(const char *link)
{
	test_appliance_start(&appliance, "128M", link);
	test_runtime_start(&config, &appliance, 1);
}

static char *new_map(uint64_t pages)
{
	char *p = xm_map_new(pages * PAGE, 0, RW, 0);

	assert_false(test_is_error(p));
	return p;
}

static uint64_t count(const uint64_t *counter)
{
	return xm_load_relaxed(counter);
}

#define COUNT(field) count(&xm_rt.me->stats.field)

/* Reads one word of every stride-th page; the pages have been filled by test_fill, seed 1. */
static void look(const char *p, uint64_t pages, uint64_t stride)
{
	for (uint64_t i = 0; i < pages; i += stride)
		assert_int_equal(*(const volatile uint64_t *)(p + i * PAGE), test_value(1, i, 0));
}

/* ---- installs of a sequential read ------------------------------------------------------------------------------- */

static void read_in_order(const char *prefetch, const char *link)
{
	const uint64_t pages = 3 * BUDGET_PAGES;
	uint64_t calls;
	char *p;

	config.prefetch = prefetch;
	start(link);
	p = new_map(pages);
	test_fill(p, pages, 1);
	assert_int_equal(test_evict(p, pages), 0);
	calls = COUNT(install_calls);
	look(p, pages, 1);
	calls = COUNT(install_calls) - calls;
	print_message("%s, %s: %llu pages read in order: %llu install calls\n", prefetch, link,
		      (unsigned long long)pages, (unsigned long long)calls);
	assert_true(calls <= pages / 16);
}

static void test_read_in_order_when_majority_then_an_install_for_16_pages(void **state)
{
	read_in_order("majority", "shm");
}

static void test_read_in_order_when_stride_then_an_install_for_16_pages(void **state)
{
	read_in_order("stride", "shm");
}

static void test_read_in_order_when_over_a_link_then_an_install_for_16_pages(void **state)
{
	read_in_order("majority", "tcp");
}

/* Once a stream is in its stride its next pages are there before it comes to them, without a fault for them: all but one, at
 * whose touch the next run is fetched. */
static bool nearly_all_come(const char *p, uint64_t n, uint64_t wait_ns)
{
	uint64_t until = xm_now_ns() + wait_ns;
	bool here;

	while (!(here = test_pages_in(p, n, XM_PG_RESIDENT) >= n - 1) && xm_now_ns() < until)
		sched_yield();
	return here;
}

static void read_and_wait(const char *link, int step)
{
	const int pages = 4096, near = 32;
	bool here;
	char *p;

	config.budget_bytes = 4 * BUDGET_PAGES * PAGE; /* room for two runs in the reserve */
	start(link);
	p = new_map((uint64_t)pages);
	test_fill(p, (uint64_t)pages, 1);
	assert_int_equal(test_evict(p, (uint64_t)pages), 0);
	for (int i = 0; i < 2000; i++) {
		int at = step > 0 ? i : pages - 1 - i;

		assert_int_equal(*(volatile uint64_t *)(p + at * PAGE), test_value(1, (uint64_t)at, 0));
		here = nearly_all_come(p + (step > 0 ? at + 1 : at - near) * PAGE, (uint64_t)near,
				       i < 1000 ? 100000 : 5000000000);
		if (i >= 1000)
			assert_true(here);
	}
}

static void test_read_when_upwards_then_the_next_pages_are_there(void **state)
{
	read_and_wait("shm", 1);
}

static void test_read_when_downwards_then_the_next_pages_are_there(void **state)
{
	read_and_wait("shm", -1);
}

static void test_read_when_over_a_link_then_the_next_pages_are_there(void **state)
{
	read_and_wait("tcp", 1);
}

/* ---- faults of pages that follow each other ----------------------------------------------------------------------- */

#define RUN_PAGES 1024u
#define FAULTS_MAX (RUN_PAGES / 64 + 16) /* 64 at a time, and the beginning and the end of a run */

/* Stores to every page, upwards or downwards. */
static void store_in_order(char *p, uint64_t pages, bool down)
{
	for (uint64_t i = 0; i < pages; i++) {
		uint64_t at = down ? pages - 1 - i : i;

		*(volatile uint64_t *)(p + at * PAGE) = test_value(1, at, 0);
	}
}

/* Fresh pages; what lies below them is unmapped, or somebody else's. */
static void touch_in_order(bool down, bool mapped_below)
{
	uint64_t faults;
	char *p, *below;

	start("shm");
	p = new_map(2 * RUN_PAGES);
	below = p;
	p += RUN_PAGES * PAGE;
	test_fill(below, 1, 7);
	if (!mapped_below)
		assert_int_equal(xm_map_unmap(below + PAGE, (RUN_PAGES - 1) * PAGE), 0);
	faults = COUNT(faults_zero);
	store_in_order(p, RUN_PAGES, down);
	faults = COUNT(faults_zero) - faults;
	print_message("%s: %u first touches, %llu faults\n", down ? "down" : "up", RUN_PAGES, (unsigned long long)faults);
	assert_in_range(faults, RUN_PAGES / 64, FAULTS_MAX);
	look(p, RUN_PAGES, 1);
	assert_int_equal(test_wrong(below, 1, 7, 0), 0);
}

static void test_first_touches_when_upwards_then_a_fault_for_64(void **state)
{
	touch_in_order(false, true);
}

static void test_first_touches_when_downwards_then_a_fault_for_64(void **state)
{
	touch_in_order(true, true);
}

static void test_first_touches_when_downwards_to_the_end_then_a_fault_for_64(void **state)
{
	touch_in_order(true, false);
}

/* Clean pages of which the first half is written, so that what is behind shows what was taken for written in vain. */
static void write_in_order(bool down)
{
	uint64_t faults, dirty;
	char *p, *half;

	start("shm");
	p = new_map(2 * RUN_PAGES);
	test_fill(p, 2 * RUN_PAGES, 2);
	assert_int_equal(test_evict(p, 2 * RUN_PAGES), 0);
	assert_int_equal(test_wrong(p, 2 * RUN_PAGES, 2, 0), 0);
	faults = COUNT(faults_write);
	half = down ? p + RUN_PAGES * PAGE : p;
	store_in_order(half, RUN_PAGES, down);
	faults = COUNT(faults_write) - faults;
	print_message("%s: %u writes to clean pages, %llu faults\n", down ? "down" : "up", RUN_PAGES, (unsigned long long)faults);
	assert_in_range(faults, RUN_PAGES / 64, FAULTS_MAX);
	dirty = COUNT(evicted_dirty_pages);
	assert_int_equal(test_evict(p, 2 * RUN_PAGES), 0);
	dirty = COUNT(evicted_dirty_pages) - dirty;
	assert_in_range(dirty, RUN_PAGES, RUN_PAGES + 64);
	look(half, RUN_PAGES, 1);
	assert_int_equal(test_wrong(down ? p : p + RUN_PAGES * PAGE, RUN_PAGES, 2, down ? 0 : RUN_PAGES), 0);
}

static void test_writes_to_clean_pages_when_upwards_then_a_fault_for_64(void **state)
{
	write_in_order(false);
}

static void test_writes_to_clean_pages_when_downwards_then_a_fault_for_64(void **state)
{
	write_in_order(true);
}

/* Two arrays in turn, one of them read and written. */
static void test_two_arrays_when_in_turn_then_a_fault_for_24_pages(void **state)
{
	const uint64_t pages = 3 * BUDGET_PAGES / 2;
	uint64_t faults;
	char *a, *b;

	start("shm");
	a = new_map(pages);
	b = new_map(pages);
	test_fill(a, pages, 1);
	test_fill(b, pages, 1);
	assert_int_equal(test_evict(a, pages), 0);
	assert_int_equal(test_evict(b, pages), 0);
	faults = COUNT(faults_fetch) + COUNT(faults_write);
	for (uint64_t i = 0; i < pages; i++)
		*(volatile uint64_t *)(b + i * PAGE) += *(volatile uint64_t *)(a + i * PAGE);
	faults = COUNT(faults_fetch) + COUNT(faults_write) - faults;
	print_message("b += a: %llu pages, %llu faults\n", (unsigned long long)(2 * pages), (unsigned long long)faults);
	assert_true(faults <= 2 * pages / 24);
	for (uint64_t i = 0; i < pages; i++)
		assert_int_equal(*(volatile uint64_t *)(b + i * PAGE), 2 * test_value(1, i, 0));
	look(a, pages, 1);
}

/* ---- calls of an eviction ----------------------------------------------------------------------------------------- */

#define BATCH 64u

/* Calls of one batch, of every other page: none has a neighbour. */
static uint64_t evict_scattered(char *p, const char *what)
{
	uint64_t calls = COUNT(evict_calls), batches = COUNT(evict_ns.count), gone;

	assert_int_equal(test_pages_become(p, 2 * BATCH, XM_PG_RESIDENT, BATCH), BATCH);
	xm_gate_enter(&xm_rt);
	gone = xm_reclaim_range(&xm_rt, xm_page_of(p), 2 * BATCH);
	xm_gate_leave(&xm_rt);
	calls = COUNT(evict_calls) - calls;
	assert_int_equal(gone, BATCH);
	assert_int_equal(COUNT(evict_ns.count) - batches, 1);
	print_message("features %x, %s: %u scattered pages left by %llu calls\n", xm_rt.features, what, BATCH,
		      (unsigned long long)calls);
	return calls;
}

/* dirty, then clean: limits of the calls of a batch. masked: enum xm_feature */
static void batches(uint32_t masked, bool pins, uint64_t dirty_max, uint64_t clean_max)
{
	uint64_t clean;
	char *p;

	config.masked_features = masked;
	config.prefetch = "none";
	start("shm");
	if (!masked && !(xm_rt.features & XM_FEAT_MADVISE_VEC)) {
		print_message("skipped: this kernel does not drop many runs by one call\n");
		skip();
	}
	if (pins)
		xm_pins_seen("the test");
	p = new_map(2 * BATCH);
	for (uint64_t i = 0; i < 2 * BATCH; i += 2)
		*(uint64_t *)(p + i * PAGE) = test_value(1, i, 0);
	assert_true(evict_scattered(p, "dirty") <= dirty_max);
	look(p, 2 * BATCH, 2);
	clean = COUNT(evicted_clean_pages);
	assert_true(evict_scattered(p, "read since") <= clean_max);
	assert_int_equal(COUNT(evicted_clean_pages) - clean, xm_rt.features & XM_FEAT_WP ? BATCH : 0);
	look(p, 2 * BATCH, 2);
}

/* What lies between them is protected with them: it is not here. */
static void test_batch_when_all_features_then_four_calls(void **state)
{
	batches(0, false, 4, 4);
}

static void test_batch_when_no_vectored_drop_then_a_call_a_run(void **state)
{
	batches(XM_FEAT_MADVISE_VEC, false, BATCH + 2, BATCH);
}

/* Dirty pages between those that leave: they stay as they are, writable. */
static void test_batch_when_dirty_pages_between_then_those_stay_writable(void **state)
{
	uint64_t faults;
	char *p;

	config.prefetch = "none";
	start("shm");
	p = new_map(2 * BATCH);
	test_fill(p, 2 * BATCH, 1);
	assert_int_equal(test_pages_become(p, 2 * BATCH, XM_PG_RESIDENT, 2 * BATCH), 2 * BATCH);
	for (uint64_t i = 1; i < 2 * BATCH; i += 2)
		__atomic_fetch_or(&xm_rt.pt[xm_page_of(p) + i], XM_PG_PINNED, __ATOMIC_ACQ_REL);
	xm_gate_enter(&xm_rt);
	assert_int_equal(xm_reclaim_range(&xm_rt, xm_page_of(p), 2 * BATCH), BATCH);
	xm_gate_leave(&xm_rt);
	faults = COUNT(faults_write);
	for (uint64_t i = 1; i < 2 * BATCH; i += 2)
		test_fill(p + i * PAGE, 1, 2);
	assert_int_equal(COUNT(faults_write), faults);
	look(p, 2 * BATCH, 2);
}

/* A page between them that is held and just coming in, writable: it must not be protected after it is there. */
static void test_batch_when_held_page_comes_in_between_then_it_stays_writable(void **state)
{
	uint64_t faults;
	xm_pte *word;
	char *p;

	config.prefetch = "none";
	start("shm");
	p = new_map(3);
	test_fill(p, 1, 1);
	test_fill(p + 2 * PAGE, 1, 1);
	assert_int_equal(test_pages_become(p, 3, XM_PG_RESIDENT, 2), 2);
	word = &xm_rt.pt[xm_page_of(p) + 1];
	xm_store(word, XM_PG_FETCHING | XM_PG_PINNED);
	assert_int_equal(xm_uffd_copy(xm_rt.uffd, (uint64_t)(uintptr_t)p + PAGE, xm_rt.zeros, PAGE, false), PAGE);
	xm_frame_charge(&xm_rt, 1);
	xm_gate_enter(&xm_rt);
	assert_int_equal(xm_reclaim_range(&xm_rt, xm_page_of(p), 3), 2);
	xm_gate_leave(&xm_rt);
	xm_page_settle(&xm_rt, xm_page_of(p) + 1, XM_PG_RESIDENT | XM_PG_DIRTY);
	faults = COUNT(faults_write);
	test_fill(p + PAGE, 1, 2);
	assert_int_equal(COUNT(faults_write), faults);
}

static void need_move(void)
{
	uint32_t features = 0;
	int fd = xm_uffd_open(0, false, &features);

	assert_true(fd >= 0);
	close(fd);
	if (!(features & XM_FEAT_MOVE)) {
		print_message("skipped: this kernel has no MOVE\n");
		skip();
	}
}

static void test_batch_when_pages_are_moved_then_a_call_a_page(void **state)
{
	need_move();
	batches(XM_FEAT_POISON, true, BATCH + 1, BATCH + 1);
}

/* ---- windows that leave as a whole ------------------------------------------------------------------------------------ */

#define SET_PAGES (4 * BUDGET_PAGES)

static uint64_t next_random(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return *seed >> 33;
}

static uint64_t written[SET_PAGES]; /* to the second word of each page, last */

static void write_to(char *p, uint64_t page, uint64_t value)
{
	*(volatile uint64_t *)(p + page * PAGE + 8) = written[page] = value;
}

static void look_at_written(const char *p)
{
	for (uint64_t i = 0; i < SET_PAGES; i++)
		assert_int_equal(*(const volatile uint64_t *)(p + i * PAGE + 8), written[i] ? written[i] : test_value(1, i, 1));
	look(p, SET_PAGES, 1);
}

static char *start_over_a_set(void)
{
	char *p;

	config.prefetch = "none";
	memset(written, 0, sizeof(written));
	start("shm");
	p = new_map(SET_PAGES);
	test_fill(p, SET_PAGES, 1);
	return p;
}

/* Each page is as likely to be the next as any other: nothing is lost when a window goes. */
static void test_windows_when_written_at_random_then_a_call_for_12_pages(void **state)
{
	char *p = start_over_a_set();
	uint64_t seed = 1, calls = 0, gone = 0;

	if (!(xm_rt.features & XM_FEAT_MADVISE_VEC) || !(xm_rt.features & XM_FEAT_WP))
		skip();
	for (unsigned i = 0; i < 8 * SET_PAGES; i++) {
		if (i == 4 * SET_PAGES) { /* it has been found out by now */
			calls = COUNT(evict_calls);
			gone = COUNT(evicted_dirty_pages);
		}
		write_to(p, next_random(&seed) % SET_PAGES, i + 1);
	}
	calls = COUNT(evict_calls) - calls;
	gone = COUNT(evicted_dirty_pages) - gone;
	print_message("random writes: %llu dirty pages left by %llu calls\n", (unsigned long long)gone, (unsigned long long)calls);
	assert_true(gone > SET_PAGES);
	assert_true(calls <= gone / 12);
	look_at_written(p);
}

/* Half of the writes go to one page in 16, which the policy keeps: windows do not take them away. */
static void test_windows_when_some_pages_are_hot_then_those_stay(void **state)
{
	char *p = start_over_a_set();
	uint64_t seed = 1, missed = 0, hot = 0, early = 0;

	for (unsigned i = 0; i < 12 * SET_PAGES; i++) {
		uint64_t page = next_random(&seed) % SET_PAGES, before = COUNT(faults_fetch);

		if (i & 1)
			page -= page % 16;
		write_to(p, page, i + 1);
		if ((i & 1) && i > 6 * SET_PAGES) {
			hot++;
			missed += COUNT(faults_fetch) - before;
		}
	}
	for (unsigned i = 0; i < XM_EARLY_EPOCHS; i++)
		early += xm_load_relaxed(&xm_rt.early.of[i].gone[1]);
	print_message("hot pages: %llu of %llu writes missed\n", (unsigned long long)missed, (unsigned long long)hot);
	assert_true(early > 0); /* a sample was taken lately */
	assert_true(missed < hot / 6); /* a fifth, if windows always left as a whole */
	look_at_written(p);
}

static void test_batch_when_neighbours_then_three_calls(void **state)
{
	uint64_t calls;
	char *p;

	start("shm");
	p = new_map(BATCH);
	test_fill(p, BATCH, 1);
	assert_int_equal(test_pages_become(p, BATCH, XM_PG_RESIDENT, BATCH), BATCH);
	calls = COUNT(evict_calls);
	xm_gate_enter(&xm_rt);
	assert_int_equal(xm_reclaim_range(&xm_rt, xm_page_of(p), BATCH), BATCH);
	xm_gate_leave(&xm_rt);
	calls = COUNT(evict_calls) - calls;
	print_message("%u neighbouring dirty pages left by %llu calls\n", BATCH, (unsigned long long)calls);
	assert_true(calls <= 3); /* protect, copy, drop */
}

/* A fetch is counted a moment after its page is there. */
static uint64_t fetched_become(uint64_t want)
{
	for (int tries = 0; COUNT(fetched_pages) < want && tries < 1000; tries++)
		usleep(2000);
	return COUNT(fetched_pages);
}

/* ---- no fetch of what is here ---------------------------------------------------------------------------------------- */

static void test_fetch_when_pages_are_here_then_none(void **state)
{
	const uint64_t pages = 1024;
	char *p;

	start("tcp");
	p = new_map(pages);
	test_fill(p, pages, 1);
	assert_int_equal(test_evict(p, pages), 0);
	look(p, pages, 2); /* half of them, or what prefetch thinks right */
	xm_map_advise(p, pages * PAGE, MADV_WILLNEED);
	assert_int_equal(test_wrong(p, pages, 1, 0), 0); /* the rest */
	assert_int_equal(fetched_become(pages), pages);
	/* clean pages with a copy on the appliance: read, wanted, written, wanted once more, read */
	assert_int_equal(test_wrong(p, pages, 1, 0), 0);
	xm_map_advise(p, pages * PAGE, MADV_WILLNEED);
	test_fill(p, pages, 1);
	xm_map_advise(p, pages * PAGE, MADV_WILLNEED);
	assert_int_equal(test_wrong(p, pages, 1, 0), 0);
	assert_int_equal(COUNT(fetched_pages), pages);
	assert_int_equal(COUNT(link[0].read_bytes), pages * PAGE);
}

struct eviction {
	char *at;
	uint64_t pages;
};

static void *evict_main(void *arg)
{
	struct eviction *e = arg;

	xm_in_runtime++;
	xm_map_advise(e->at, e->pages * PAGE, 21 /* MADV_PAGEOUT */);
	xm_in_runtime--;
	return NULL;
}

/* Pages that are being written back are read where they are, for as long as that lasts. */
static void test_fetch_when_pages_are_being_written_back_then_none(void **state)
{
	const uint64_t pages = BATCH;
	struct eviction e = { NULL, pages };
	pthread_t thread;

	config.lost_timeout_ns = 60000000000ull; /* it only looks as if the appliance were lost */
	start("tcp");
	if (!(xm_rt.features & XM_FEAT_WP))
		skip();
	e.at = new_map(pages);
	test_fill(e.at, pages, 1);
	assert_int_equal(test_evict(e.at, pages), 0); /* the link is open, the slots are there */
	assert_int_equal(test_wrong(e.at, pages, 1, 0), 0);
	test_fill(e.at, pages, 1);
	assert_int_equal(test_pages_become(e.at, pages, XM_PG_RESIDENT, pages), pages);
	assert_int_equal(fetched_become(pages), pages);
	assert_true(test_appliance_pause(&appliance));
	pthread_create(&thread, NULL, evict_main, &e);
	assert_int_equal(test_pages_become(e.at, pages, XM_PG_EVICTING, pages), pages);
	for (int i = 0; i < 3; i++)
		assert_int_equal(test_wrong(e.at, pages, 1, 0), 0);
	assert_int_equal(test_pages_in(e.at, pages, XM_PG_EVICTING), pages);
	assert_int_equal(COUNT(fetched_pages), pages);
	kill(appliance.pid, SIGCONT);
	pthread_join(thread, NULL);
	assert_int_equal(test_wrong(e.at, pages, 1, 0), 0);
	assert_int_equal(fetched_become(2 * pages), 2 * pages); /* once each, when they had gone */
}

/* Once: what refuses stays. */
static void *evict_once_main(void *arg)
{
	struct eviction *e = arg;

	xm_in_runtime++;
	xm_gate_enter(&xm_rt);
	xm_reclaim_range(&xm_rt, xm_page_of(e->at), e->pages);
	xm_gate_leave(&xm_rt);
	xm_in_runtime--;
	return NULL;
}

static void *write_main(void *arg)
{
	*(volatile uint64_t *)arg = 77;
	return NULL;
}

/* A write to a page that is being written back waits; then the page is where it was. */
static void test_fetch_when_page_is_written_while_written_back_then_none(void **state)
{
	struct eviction e = { NULL, BATCH };
	pthread_t evictor, writer;
	uint64_t waits, calls;

	config.lost_timeout_ns = 60000000000ull;
	start("tcp");
	if (!(xm_rt.features & XM_FEAT_WP))
		skip();
	e.at = new_map(BATCH);
	test_fill(e.at, BATCH, 1);
	assert_int_equal(test_evict(e.at, BATCH), 0);
	test_fill(e.at, BATCH, 1);
	assert_int_equal(fetched_become(BATCH), BATCH);
	assert_int_equal(test_pages_become(e.at, BATCH, XM_PG_RESIDENT, BATCH), BATCH);
	waits = COUNT(faults_wait);
	calls = COUNT(evict_calls);
	assert_true(test_appliance_pause(&appliance));
	pthread_create(&evictor, NULL, evict_once_main, &e);
	assert_int_equal(test_pages_become(e.at, BATCH, XM_PG_EVICTING, BATCH), BATCH);
	while (COUNT(evict_calls) < calls + 2) /* protected, copied: until then a write is just a write */
		usleep(1000);
	pthread_create(&writer, NULL, write_main, e.at + 5 * PAGE);
	while (COUNT(faults_wait) == waits)
		usleep(1000);
	kill(appliance.pid, SIGCONT);
	pthread_join(writer, NULL);
	pthread_join(evictor, NULL);
	assert_int_equal(test_pages_in(e.at, BATCH, XM_PG_REMOTE), BATCH - 1);
	assert_int_equal(*(volatile uint64_t *)(e.at + 5 * PAGE), 77);
	assert_int_equal(COUNT(fetched_pages), BATCH);
	*(volatile uint64_t *)(e.at + 5 * PAGE) = test_value(1, 5, 0);
	assert_int_equal(test_wrong(e.at, BATCH, 1, 0), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, fresh, stop)
		T(test_read_in_order_when_majority_then_an_install_for_16_pages),
		T(test_read_in_order_when_stride_then_an_install_for_16_pages),
		T(test_read_in_order_when_over_a_link_then_an_install_for_16_pages),
		T(test_read_when_upwards_then_the_next_pages_are_there),
		T(test_read_when_downwards_then_the_next_pages_are_there),
		T(test_read_when_over_a_link_then_the_next_pages_are_there),
		T(test_first_touches_when_upwards_then_a_fault_for_64),
		T(test_first_touches_when_downwards_then_a_fault_for_64),
		T(test_first_touches_when_downwards_to_the_end_then_a_fault_for_64),
		T(test_writes_to_clean_pages_when_upwards_then_a_fault_for_64),
		T(test_writes_to_clean_pages_when_downwards_then_a_fault_for_64),
		T(test_two_arrays_when_in_turn_then_a_fault_for_24_pages),
		T(test_batch_when_all_features_then_four_calls),
		T(test_batch_when_no_vectored_drop_then_a_call_a_run),
		T(test_batch_when_dirty_pages_between_then_those_stay_writable),
		T(test_batch_when_held_page_comes_in_between_then_it_stays_writable),
		T(test_batch_when_pages_are_moved_then_a_call_a_page),
		T(test_windows_when_written_at_random_then_a_call_for_12_pages),
		T(test_windows_when_some_pages_are_hot_then_those_stay),
		T(test_batch_when_neighbours_then_three_calls),
		T(test_fetch_when_pages_are_here_then_none),
		T(test_fetch_when_pages_are_being_written_back_then_none),
		T(test_fetch_when_page_is_written_while_written_back_then_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
