/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_runtime.c - counts that the design promises, through the API: no control message per allocation, few installs for
 * a sequential read, no network for pages never written, no write for clean pages, a budget that holds. No times.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "tests/harness.h"
#include "xmem.h"

#define PAGE XM_PAGE_SIZE
#define BUDGET (8ull << 20)
#define BUDGET_PAGES (BUDGET / PAGE)
#define MIB (1ull << 20)

static struct test_appliance appliance;
static struct xmem *x;
static struct xmem_region *r;

static int open_with(const char *evict, const char *prefetch, uint64_t budget)
{
	const char *uris[] = { appliance.uri, NULL };
	struct xmem_options o = { .size = sizeof(o), .local_bytes = budget, .appliances = uris, .evict = evict,
				  .prefetch = prefetch };
	int err = 0;

	x = xmem_open(&o, &err);
	r = x ? xmem_region_create(x, 0, 64 * MIB, NULL, &err) : NULL;
	return r ? 0 : -1;
}

static int start(void **state)
{
	test_appliance_start(&appliance, "256M", "shm");
	return open_with(NULL, NULL, BUDGET);
}

static int start_tcp(void **state)
{
	test_appliance_start(&appliance, "256M", "tcp");
	return open_with(NULL, NULL, BUDGET);
}

static int stop(void **state)
{
	xmem_close(x);
	return test_appliance_stop(&appliance);
}

static struct xmem_stats stats(void)
{
	struct xmem_stats s = { .size = sizeof(s) };

	assert_int_equal(xmem_get_stats(x, &s), 0);
	return s;
}

/* A fault wakes its thread before it is counted: what the handlers have in hand is awaited. */
static struct xmem_stats settled(void)
{
	struct xmem_stats a = stats(), b;

	for (int same = 0; same < 5;) {
		usleep(2000);
		b = stats();
		same = memcmp(&a, &b, sizeof(a)) == 0 ? same + 1 : 0;
		a = b;
	}
	return a;
}

static char *take(uint64_t bytes)
{
	int err = 0;
	char *p = xmem_alloc(r, bytes, &err);

	assert_int_equal(err, 0);
	return p;
}

static uint64_t sum_pages(const char *p, uint64_t pages)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < pages; i++)
		sum += *(const volatile uint64_t *)(p + i * PAGE);
	return sum;
}

static void test_alloc_when_100000_times_then_no_control_message(void **state)
{
	uint64_t before = stats().control_messages;
	void *keep[64] = { NULL };
	int err = 0;

	for (unsigned i = 0; i < 100000; i++) {
		void **p = &keep[i % 64];

		if (*p)
			assert_int_equal(xmem_free(r, *p), 0);
		*p = xmem_alloc(r, 1 + i % 9000, &err);
		assert_non_null(*p);
	}
	assert_int_equal(stats().control_messages, before);
}

static void test_heap_when_100000_mappings_then_no_control_message(void **state)
{
	uint64_t before = stats().control_messages;

	for (unsigned i = 0; i < 100000; i++) {
		char *p = xm_map_new((1 + i % 8) * PAGE, 0, PROT_READ | PROT_WRITE, 0);

		assert_false(test_is_error(p));
		if (i % 16 == 0)
			*p = 1;
		assert_int_equal(xm_map_unmap(p, (1 + i % 8) * PAGE), 0);
	}
	assert_int_equal(stats().control_messages, before);
}

static void check_sequential(uint64_t pages)
{
	char *p = take(pages * PAGE);
	struct xmem_stats a, b;

	test_fill(p, pages, 1);
	assert_int_equal(xmem_advise(x, p, pages * PAGE, XMEM_FLUSH), 0);
	a = stats();
	assert_int_equal(test_wrong(p, pages, 1, 0), 0);
	b = stats();
	assert_true(b.fetched_pages - a.fetched_pages >= pages - BUDGET_PAGES);
	assert_true(b.install_calls - a.install_calls <= pages / 8);
	assert_true(b.faults_fetch - a.faults_fetch <= pages / 8);
}

static void test_read_when_sequential_then_at_most_an_eighth_installs(void **state)
{
	check_sequential(4 * BUDGET_PAGES);
}

/* The heap's way: pool slots, chosen by eviction, not the identity of a region. */
static void test_read_when_heap_sequential_then_at_most_an_eighth_installs(void **state)
{
	uint64_t pages = 4 * BUDGET_PAGES;
	char *p = xm_map_new(pages * PAGE, 0, PROT_READ | PROT_WRITE, 0);
	struct xmem_stats a, b;

	test_fill(p, pages, 2);
	a = stats();
	assert_int_equal(test_wrong(p, pages, 2, 0), 0);
	b = stats();
	assert_true(b.install_calls - a.install_calls <= pages / 8);
	xm_map_unmap(p, pages * PAGE);
}

static void test_first_touch_when_in_order_then_filled_in_runs(void **state)
{
	uint64_t pages = BUDGET_PAGES / 4;
	char *p = take(pages * PAGE);
	struct xmem_stats a = stats(), b;

	for (uint64_t i = 0; i < pages; i++)
		p[i * PAGE] = 1;
	b = stats();
	assert_true(b.faults_zero - a.faults_zero <= pages / 8);
	assert_int_equal(b.fetched_bytes + b.written_bytes, a.fetched_bytes + a.written_bytes);
}

static void check_never_written(char *p, uint64_t pages)
{
	struct xmem_stats a = stats(), b;

	for (int round = 0; round < 2; round++)
		assert_int_equal(sum_pages(p, pages), 0);
	b = stats();
	assert_int_equal(b.fetched_pages, a.fetched_pages);
	assert_int_equal(b.fetched_bytes, a.fetched_bytes);
}

/* As when it was killed in the middle, and its parent does not wait for it. */
static void test_growth_when_owner_is_a_zombie_then_replaced(void **state)
{
	siginfo_t si;
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	assert_int_equal(waitid(P_PID, (id_t)pid, &si, WEXITED | WNOWAIT), 0);
	xm_store(&xm_rt.fam->grow_owner, pid);
	assert_int_equal(xm_remote_grow_lock(&xm_rt), 0);
	xm_remote_grow_unlock(&xm_rt);
	xm_store(&xm_rt.fam->grow_owner, getppid()); /* it lives */
	assert_int_equal(xm_remote_grow_lock(&xm_rt), -EBUSY);
	xm_store(&xm_rt.fam->grow_owner, 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* Twice the budget is read, so that it is evicted meanwhile: neither way may anything travel. */
static void test_read_when_never_written_then_no_fetch_and_no_write(void **state)
{
	uint64_t pages = 2 * BUDGET_PAGES, written = stats().written_bytes;
	char *heap = xm_map_new(pages * PAGE, 0, PROT_READ | PROT_WRITE, 0);

	check_never_written(heap, pages);
	assert_int_equal(stats().written_bytes, written);
	xm_map_unmap(heap, pages * PAGE);
	check_never_written(take(BUDGET / 2), BUDGET_PAGES / 2);
}

static void test_map_when_region_fresh_then_no_fetch(void **state)
{
	int err = 0;
	char *p = xmem_map(r, 0, BUDGET / 2, &err);

	assert_non_null(p);
	check_never_written(p, BUDGET_PAGES / 2);
	assert_true(stats().remote_bytes <= 64 * MIB); /* and no count below zero */
}

static void test_evict_when_only_read_since_fetched_then_no_write(void **state)
{
	uint64_t pages = 3 * BUDGET_PAGES;
	char *p = take(pages * PAGE);
	struct xmem_stats a, b;

	test_fill(p, pages, 3);
	assert_int_equal(xmem_advise(x, p, pages * PAGE, XMEM_FLUSH), 0);
	a = stats();
	for (int round = 0; round < 3; round++)
		assert_int_equal(test_wrong(p, pages, 3, 0), 0);
	b = stats();
	assert_true(b.evicted_clean_pages - a.evicted_clean_pages >= 2 * BUDGET_PAGES);
	assert_int_equal(b.written_bytes, a.written_bytes);
	assert_int_equal(b.evicted_dirty_pages, a.evicted_dirty_pages);
}

static void test_bytes_when_pages_travelled_then_link_counters_agree(void **state)
{
	uint64_t pages = 2 * BUDGET_PAGES;
	char *p = take(pages * PAGE);
	struct xmem_stats a = stats(), b;

	test_fill(p, pages, 4);
	assert_int_equal(xmem_advise(x, p, pages * PAGE, XMEM_FLUSH), 0);
	assert_int_equal(test_wrong(p, pages, 4, 0), 0);
	b = settled();
	assert_int_equal(b.written_bytes - a.written_bytes, (b.evicted_dirty_pages - a.evicted_dirty_pages) * PAGE);
	assert_int_equal(b.fetched_bytes - a.fetched_bytes, (b.fetched_pages - a.fetched_pages) * PAGE);
	assert_true(b.written_bytes - a.written_bytes >= pages * PAGE);
	assert_true(b.fetched_bytes - a.fetched_bytes >= pages * PAGE);
}

/* The other side's opinion of the same thing. */
static void test_bytes_when_over_tcp_then_appliance_counters_agree(void **state)
{
	uint64_t pages = 2 * BUDGET_PAGES;
	char *p = take(pages * PAGE);
	struct xm_appliance_stat before, after;
	struct xmem_stats a = stats(), b;

	assert_int_equal(xm_peer_appliance_stat(xm_rt.peer[0], &before), 0);
	test_fill(p, pages, 5);
	assert_int_equal(xmem_advise(x, p, pages * PAGE, XMEM_FLUSH), 0);
	assert_int_equal(test_wrong(p, pages, 5, 0), 0);
	b = settled();
	assert_int_equal(xm_peer_appliance_stat(xm_rt.peer[0], &after), 0);
	assert_int_equal(after.write_bytes - before.write_bytes, b.written_bytes - a.written_bytes);
	assert_int_equal(after.read_bytes - before.read_bytes, b.fetched_bytes - a.fetched_bytes);
}

static void test_budget_when_four_times_as_much_is_written_then_kept(void **state)
{
	uint64_t pages = 4 * BUDGET_PAGES;
	char *p = take(pages * PAGE);
	struct xmem_stats s;

	for (int round = 0; round < 3; round++)
		test_fill(p, pages, 6);
	s = stats();
	/* what two handlers have in hand when they find the budget used up, and the reserve, by which faults may exceed it where
	 * nothing can leave at once: whoever evicts has lost its processor, with a window in hand */
	assert_in_range(s.resident_bytes_max, 0, BUDGET + BUDGET / 16 + 2 * 65 * PAGE);
	assert_true(s.resident_bytes <= s.resident_bytes_max);
}

/* The kernel's figure, not the runtime's: what is resident really. */
static void test_budget_when_asked_of_the_kernel_then_kept(void **state)
{
	uint64_t pages = 4 * BUDGET_PAGES, in = 0;
	char *p = take(pages * PAGE);
	unsigned char *vec = calloc(pages, 1);

	test_fill(p, pages, 7);
	assert_int_equal(syscall(SYS_mincore, p, pages * PAGE, vec), 0);
	for (uint64_t i = 0; i < pages; i++)
		in += vec[i] & 1;
	free(vec);
	assert_true(in <= BUDGET_PAGES);
	assert_true(in >= BUDGET_PAGES / 2);
}

static void test_prefetch_when_advised_then_no_demand_fault(void **state)
{
	char *p = take(64 * PAGE);
	struct xmem_stats a;

	test_fill(p, 64, 8);
	assert_int_equal(xmem_advise(x, p, 64 * PAGE, XMEM_FLUSH), 0);
	assert_int_equal(xmem_advise(x, p, 64 * PAGE, XMEM_PREFETCH), 0);
	a = stats();
	assert_int_equal(test_wrong(p, 64, 8, 0), 0);
	assert_int_equal(stats().faults_fetch, a.faults_fetch);
}

static void test_prefetch_when_none_then_one_page_a_fault(void **state)
{
	uint64_t pages = 512;
	struct xmem_stats a, b;
	char *p;

	xmem_close(x);
	assert_int_equal(open_with("clock", "none", BUDGET), 0);
	p = take(pages * PAGE);
	test_fill(p, pages, 9);
	assert_int_equal(xmem_advise(x, p, pages * PAGE, XMEM_FLUSH), 0);
	a = stats();
	assert_int_equal(test_wrong(p, pages, 9, 0), 0);
	b = settled();
	assert_int_equal(b.prefetched_pages, a.prefetched_pages);
	assert_int_equal(b.faults_fetch - a.faults_fetch, pages);
}

static void test_policies_when_each_pair_then_contents_right(void **state)
{
	uint64_t pages = 3 * BUDGET_PAGES;

	for (unsigned e = 0; xm_evict_names[e]; e++) {
		for (unsigned f = 0; xm_prefetch_names[f]; f++) {
			char *p;

			xmem_close(x);
			assert_int_equal(open_with(xm_evict_names[e], xm_prefetch_names[f], BUDGET), 0);
			p = take(pages * PAGE);
			test_fill(p, pages, e * 8 + f);
			assert_int_equal(test_wrong(p, pages, e * 8 + f, 0), 0);
			for (uint64_t i = 0; i < pages; i += 7)
				*(uint64_t *)(p + i * PAGE) += 1;
			assert_int_equal(test_wrong(p, pages, e * 8 + f, 0), (pages + 6) / 7);
		}
	}
}

static void test_reads_when_latencies_counted_then_plausible(void **state)
{
	char *p = take(256 * PAGE);
	struct xmem_stats s;

	test_fill(p, 256, 10);
	assert_int_equal(xmem_advise(x, p, 256 * PAGE, XMEM_FLUSH), 0);
	assert_int_equal(test_wrong(p, 256, 10, 0), 0);
	s = stats();
	assert_true(s.fetch_p50_ns > 0);
	assert_true(s.fetch_p50_ns <= s.fetch_p99_ns && s.fetch_p99_ns <= s.fetch_max_ns);
}

/* At most 16 bytes of metadata a page of external memory: the page word is 8, a slot costs 6 (and policies by frame). */
static void test_metadata_when_counted_by_structure_then_within_sixteen_bytes(void **state)
{
	size_t slot = sizeof(*xm_family_refs(xm_rt.fam)) + sizeof(*xm_family_sums(xm_rt.fam));

	assert_true(sizeof(xm_pte) + slot <= 16);
	for (unsigned e = 0; xm_evict_names[e]; e++)
		assert_true(xm_evict_find(xm_evict_names[e])->state_bytes(1 << 20) <= 16ull << 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, start, stop)
		T(test_alloc_when_100000_times_then_no_control_message),
		T(test_heap_when_100000_mappings_then_no_control_message),
		T(test_read_when_sequential_then_at_most_an_eighth_installs),
		T(test_read_when_heap_sequential_then_at_most_an_eighth_installs),
		T(test_first_touch_when_in_order_then_filled_in_runs),
		T(test_growth_when_owner_is_a_zombie_then_replaced),
		T(test_read_when_never_written_then_no_fetch_and_no_write),
		T(test_map_when_region_fresh_then_no_fetch),
		T(test_evict_when_only_read_since_fetched_then_no_write),
		T(test_bytes_when_pages_travelled_then_link_counters_agree),
		cmocka_unit_test_setup_teardown(test_bytes_when_over_tcp_then_appliance_counters_agree, start_tcp,
						stop),
		T(test_budget_when_four_times_as_much_is_written_then_kept),
		T(test_budget_when_asked_of_the_kernel_then_kept),
		T(test_prefetch_when_advised_then_no_demand_fault),
		T(test_prefetch_when_none_then_one_page_a_fault),
		T(test_policies_when_each_pair_then_contents_right),
		T(test_reads_when_latencies_counted_then_plausible),
		T(test_metadata_when_counted_by_structure_then_within_sixteen_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
