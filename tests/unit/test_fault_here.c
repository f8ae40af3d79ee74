/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_fault_here.c - fault mode signal without the preload object: a handler of SIGBUS that calls the resolver, as its does,
 * and pages that are held for system calls. The seed is printed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>

#include "tests/unit/runtime_fixture.h"

#define RW (PROT_READ | PROT_WRITE)
#define PAGE XM_PAGE_SIZE
#define BUDGET_PAGES 2048u
#define FIGHT_ROUNDS 30000

static uint32_t refused; /* atomic: faults that could not be resolved */

static void on_bus(int sig, siginfo_t *info, void *context)
{
	const ucontext_t *uc = context;
	long code = uc->uc_mcontext.gregs[REG_ERR];
	bool write = code & 2;

	if (xm_fault_here(&xm_rt, xm_page_of(info->si_addr), (uint32_t)xm_sys_gettid(), write, write && (code & 1)) == 0)
		return;
	if (xm_add(&refused, 1) > 100)
		_exit(99); /* the same access, again and again */
}

/* By each test itself: cmocka puts a handler of its own there before. */
static void handle(void)
{
	struct sigaction act = { .sa_sigaction = on_bus, .sa_flags = SA_SIGINFO };

	sigfillset(&act.sa_mask);
	assert_int_equal(sigaction(SIGBUS, &act, NULL), 0);
}

static bool ready(char *why, size_t size)
{
	return true;
}

static int start(void **state)
{
	struct test_config c = { .budget_bytes = BUDGET_PAGES * PAGE, .fault_mode = XM_FAULT_SIGNAL, .prefetch = "none" };

	xm_runtime_by_signal = ready;
	group_start(&c, "128M");
	return xm_rt.by_signal ? 0 : -1;
}

static uint64_t faults(void)
{
	return xm_load_relaxed(&xm_rt.me->stats.faults_by_signal);
}

static void test_touch_when_more_than_the_budget_then_by_signal_and_right(void **state)
{
	uint64_t pages = 3 * BUDGET_PAGES, before = faults();
	char *p = map(pages, RW);

	handle();
	test_fill(p, pages, 1);
	assert_int_equal(test_wrong(p, pages, 1, 0), 0);
	assert_true(faults() > before + pages / 64);
	assert_int_equal(xm_load_relaxed(&xm_rt.me->stats.message_reads), 0);
	assert_true(xm_load_relaxed(&xm_rt.me->stats.evicted_dirty_pages) > BUDGET_PAGES);
	assert_int_equal(xm_map_unmap(p, pages * PAGE), 0);
}

struct part {
	char *p;
	uint64_t pages, seed;
	uint64_t wrong;
};

static void *works(void *arg)
{
	struct part *a = arg;

	for (uint64_t i = 0; i < 6; i++) {
		test_fill(a->p, a->pages, a->seed + i);
		a->wrong += test_wrong(a->p, a->pages, a->seed + i, 0);
	}
	return NULL;
}

/* More threads than there are workers. */
static void test_touch_when_by_many_threads_then_right(void **state)
{
	enum { THREADS = XM_WORKERS_MAX + 6 };
	struct part part[THREADS];
	pthread_t t[THREADS];

	handle();
	for (int i = 0; i < THREADS; i++) {
		part[i] = (struct part){ map(200, RW), 200, (uint64_t)i * 1000, 0 };
		assert_int_equal(pthread_create(&t[i], NULL, works, &part[i]), 0);
	}
	for (int i = 0; i < THREADS; i++) {
		assert_int_equal(pthread_join(t[i], NULL), 0);
		assert_int_equal(part[i].wrong, 0);
		assert_int_equal(xm_map_unmap(part[i].p, 200 * PAGE), 0);
	}
}

static uint64_t hold(char *p, uint64_t len, bool write)
{
	return xm_fault_hold(&xm_rt, (uint64_t)(uintptr_t)p, len, write, (uint32_t)xm_sys_gettid());
}

static void release(char *p, uint64_t pages)
{
	for (uint64_t i = 0; i < pages; i++)
		xm_fault_release(&xm_rt.pt[xm_page_of(p) + i]);
}

static void test_hold_when_pages_are_remote_then_the_kernel_may_write_until_released(void **state)
{
	const uint64_t pages = 100;
	char *p = map(pages, RW);
	int fd[2];

	handle();
	test_fill(p, pages, 1);
	assert_int_equal(test_evict(p, pages), 0);
	assert_int_equal(pipe(fd), 0);
	for (uint64_t i = 0; i + 1 < pages; i += 9) { /* absent: that is what calls say in this mode */
		assert_int_equal(write(fd[1], "0123456789", 10), 10);
		assert_int_equal(xm_sys_read(fd[0], p + i * PAGE, 10), -EFAULT);
		assert_int_equal(hold(p + i * PAGE + PAGE - 5, 10, true), 2);
		assert_int_equal(xm_sys_read(fd[0], p + i * PAGE + PAGE - 5, 10), 10);
		assert_int_equal(xm_reclaim_range(&xm_rt, xm_page_of(p) + i, 2), 0);
		assert_memory_equal(p + i * PAGE + PAGE - 5, "0123456789", 10);
		release(p + i * PAGE, 2);
		assert_int_equal(xm_reclaim_range(&xm_rt, xm_page_of(p) + i, 2), 2);
	}
	close(fd[0]);
	close(fd[1]);
	assert_int_equal(xm_map_unmap(p, pages * PAGE), 0);
}

static void test_hold_when_a_clean_page_is_to_be_written_then_it_is_writable(void **state)
{
	char *p = map(1, RW);
	int fd[2];

	handle();
	test_fill(p, 1, 1);
	assert_int_equal(test_evict(p, 1), 0);
	assert_int_equal(hold(p, 1, false), 1); /* comes in clean, and protected */
	assert_int_equal(hold(p, 1, true), 1);
	assert_int_equal(pipe(fd), 0);
	assert_int_equal(write(fd[1], "x", 1), 1);
	assert_int_equal(xm_sys_read(fd[0], p + 9, 1), 1);
	assert_int_equal(p[9], 'x');
	release(p, 1);
	release(p, 1);
	close(fd[0]);
	close(fd[1]);
	assert_int_equal(xm_map_unmap(p, PAGE), 0);
}

static void test_hold_when_not_mapped_then_no_page(void **state)
{
	char *p = map(4, RW);

	handle();
	assert_int_equal(xm_map_unmap(p + 2 * PAGE, PAGE), 0);
	assert_int_equal(hold(p, 4 * PAGE, true), 2);
	release(p, 2);
	assert_int_equal(hold(p + 2 * PAGE, 1, false), 0);
	assert_int_equal(xm_map_unmap(p, 2 * PAGE), 0);
	assert_int_equal(xm_map_unmap(p + 3 * PAGE, PAGE), 0);
}

static void test_hold_when_as_many_as_can_be_counted_then_full_and_present(void **state)
{
	char *p = map(1, RW);
	int n = 0;

	handle();
	while (hold(p, 1, true))
		n++;
	assert_int_equal(n, 14);
	
	assert_int_equal(xm_pg_state(xm_pg_load(&xm_rt.pt[xm_page_of(p)])), XM_PG_RESIDENT);
	for (; n; n--)
		release(p, 1);
	release(p, 1); /* one too many: of a page that was unmapped meanwhile */
	
	assert_int_equal(xm_reclaim_range(&xm_rt, xm_page_of(p), 1), 1);
	assert_int_equal(xm_map_unmap(p, PAGE), 0);
}

/* ---- held pages beside an evictor that protects what lies between its victims ------------------------------------------------ */

struct fight {
	char *p;
	uint64_t pages, seed, rounds;
	uint32_t stop; /* atomic */
};

static uint64_t next(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return *seed >> 33;
}

static void *writes_here_and_there(void *arg)
{
	struct fight *f = arg;
	uint64_t seed = f->seed + 1;

	while (!xm_load(&f->stop))
		*(volatile char *)(f->p + next(&seed) % f->pages * PAGE + PAGE / 2) = (char)seed;
	return NULL;
}

static void *evicts_here_and_there(void *arg)
{
	struct fight *f = arg;
	uint64_t seed = f->seed + 2;

	xm_in_runtime = 1;
	while (!xm_load(&f->stop))
		xm_reclaim_range(&xm_rt, xm_page_of(f->p) + next(&seed) % (f->pages - 32), 32);
	return NULL;
}

static void test_kernel_writes_when_pages_are_held_then_never_refused(void **state)
{
	struct fight f = { map(3 * BUDGET_PAGES / 2, RW), 3 * BUDGET_PAGES / 2, (uint64_t)time(NULL), FIGHT_ROUNDS, 0 };
	uint64_t seed = f.seed, held = 1;
	pthread_t writer, evictor;
	xm_pte word = 0;
	ssize_t got = 8;
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);

	handle();
	print_message("seed %llu\n", (unsigned long long)f.seed);
	assert_true(fd >= 0);
	assert_int_equal(pthread_create(&writer, NULL, writes_here_and_there, &f), 0);
	assert_int_equal(pthread_create(&evictor, NULL, evicts_here_and_there, &f), 0);
	for (uint64_t i = 0; i < f.rounds && held == 1 && got == 8; i++) {
		char *at = f.p + next(&seed) % f.pages * PAGE;

		held = hold(at, 8, true);
		for (int k = 0; k < 3 && got == 8; k++)
			got = xm_sys_read(fd, at, 8);
		word = xm_pg_load(&xm_rt.pt[xm_page_of(at)]);
		release(at, 1);
	}
	xm_store(&f.stop, 1); /* the threads use f: nothing is asserted before they have ended */
	assert_int_equal(pthread_join(writer, NULL), 0);
	assert_int_equal(pthread_join(evictor, NULL), 0);
	close(fd);
	if (got != 8)
		print_message("refused: %ld, word 0x%llx\n", (long)got, (unsigned long long)word);
	assert_int_equal(held, 1);
	assert_int_equal(got, 8);
	assert_int_equal(xm_map_unmap(f.p, f.pages * PAGE), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_touch_when_more_than_the_budget_then_by_signal_and_right, nothing_left),
		cmocka_unit_test_teardown(test_touch_when_by_many_threads_then_right, nothing_left),
		cmocka_unit_test_teardown(test_hold_when_pages_are_remote_then_the_kernel_may_write_until_released, nothing_left),
		cmocka_unit_test_teardown(test_hold_when_a_clean_page_is_to_be_written_then_it_is_writable, nothing_left),
		cmocka_unit_test_teardown(test_hold_when_not_mapped_then_no_page, nothing_left),
		cmocka_unit_test_teardown(test_hold_when_as_many_as_can_be_counted_then_full_and_present, nothing_left),
		cmocka_unit_test_teardown(test_kernel_writes_when_pages_are_held_then_never_refused, nothing_left),
	};

	return cmocka_run_group_tests(tests, start, group_teardown);
}
