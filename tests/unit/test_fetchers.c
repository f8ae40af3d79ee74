/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_fetchers.c - the set of handlers grows where their messages wait for a link, and there only; what is handed on is
 * answered across forks and at the end. Every case starts a runtime of its own. The links' delay is what makes faults
 * meet: nothing here is measured.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "tests/harness.h"

#define RW (PROT_READ | PROT_WRITE)
#define PAGE XM_PAGE_SIZE
#define PAGES 512u
#define THREADS_MAX 8u
#define STAT(field) xm_load_relaxed(&xm_rt.me->stats.field)

static struct test_appliance appliance;
static struct test_config config;
static char *pages;	/* PAGES of them, filled with seed 1 */
static uint32_t enough; /* atomic: readers end */

struct reader {
	pthread_t thread;
	uint64_t first, n, wrong;
} reader[THREADS_MAX];

static int fresh(void **state)
{
	memset(&config, 0, sizeof(config));
	config.budget_bytes = 4 * PAGES * PAGE;
	config.prefetch = "none";
	return 0;
}

static int stop(void **state)
{
	if (xm_runtime_state() == 1)
		test_runtime_stop();
	test_appliance_stop(&appliance);
	return 0;
}

/* All pages are on the appliance then. */
static void start(const char *link, const char *inject)
{
	config.inject = inject;
	test_appliance_start(&appliance, "64M", link);
	test_runtime_start(&config, &appliance, 1);
	pages = xm_map_new(PAGES * PAGE, 0, RW, 0);
	assert_false(test_is_error(pages));
	test_fill(pages, PAGES, 1);
	assert_int_equal(test_evict(pages, PAGES), 0);
}

static void *reader_main(void *arg)
{
	struct reader *r = arg;

	for (uint64_t i = r->first; i < r->first + r->n && !xm_load(&enough); i++)
		r->wrong += test_wrong(pages + i * PAGE, 1, 1, i);
	return NULL;
}

/* Each thread reads its own part of n pages. */
static void begin(unsigned threads, uint64_t n)
{
	xm_store(&enough, 0);
	for (unsigned i = 0; i < threads; i++) {
		reader[i] = (struct reader){ .first = i * (n / threads), .n = n / threads };
		assert_int_equal(pthread_create(&reader[i].thread, NULL, reader_main, &reader[i]), 0);
	}
}

static void end(unsigned threads)
{
	for (unsigned i = 0; i < threads; i++) {
		pthread_join(reader[i].thread, NULL);
		assert_int_equal(reader[i].wrong, 0);
	}
}

/* Fetchers that wait for a message. */
static uint32_t idle(void)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < xm_load(&xm_rt.fetchers); i++)
		n += xm_load(&xm_rt.fetcher[i].state) == XM_FETCHER_IDLE;
	return n;
}

static void await_idle(uint32_t want)
{
	for (int tries = 0; idle() < want && tries < 50000; tries++)
		usleep(200);
	assert_true(idle() >= want);
}

/* Fetchers that are to be there, and idle, when many have faulted at once. */
static void grown(uint32_t want)
{
	for (int round = 0; xm_load(&xm_rt.fetchers) < want && round < 200; round++) {
		begin(THREADS_MAX, PAGES);
		while (xm_load(&xm_rt.fetchers) < want &&
		       test_pages_in(pages, PAGES, XM_PG_REMOTE) > THREADS_MAX)
			usleep(200);
		xm_store(&enough, 1);
		end(THREADS_MAX);
		assert_int_equal(test_evict(pages, PAGES), 0);
	}
	await_idle(want);
}

/* ---- when it helps ------------------------------------------------------------------------------------------- */

static void check_under_way(const char *link)
{
	uint64_t most = 0;

	start(link, "seed=1,delay=20ms:1");
	for (int round = 0; most < 6 && round < 20; round++) {
		begin(THREADS_MAX, PAGES);
		while (most < 6 && test_pages_in(pages, PAGES, XM_PG_REMOTE))
			most = xm_max(most, test_pages_in(pages, PAGES, XM_PG_FETCHING));
		xm_store(&enough, 1);
		end(THREADS_MAX);
		assert_int_equal(test_evict(pages, PAGES), 0);
	}
	print_message("%" PRIu64 " at once; %" PRIu64 " handed to %" PRIu64 " fetchers\n", most,
		      STAT(faults_handed), STAT(fetchers_max));
	assert_true(most >= 6);
	assert_true(STAT(faults_handed) > 0);
	assert_true(STAT(fetchers_max) >= 3 && STAT(fetchers_max) <= XM_FETCHERS_MAX);
}

static void test_faults_when_tcp_is_slow_then_more_are_under_way_than_handlers(void **state)
{
	check_under_way("tcp");
}

static void test_faults_when_shm_is_slow_then_more_are_under_way_than_handlers(void **state)
{
	check_under_way("shm");
}

/* ---- and when not ---------------------------------------------------------------------------------------------- */

static void check_none(unsigned threads)
{
	for (int round = 0; round < 3; round++) {
		begin(threads, PAGES);
		end(threads);
		assert_int_equal(test_evict(pages, PAGES), 0);
	}
	assert_true(STAT(faults_fetch) >= PAGES);
	assert_int_equal(STAT(faults_handed), 0);
	assert_int_equal(xm_load(&xm_rt.fetchers), 0);
}

static void test_faults_when_over_shm_then_none_is_handed_on(void **state)
{
	start("shm", NULL);
	check_none(THREADS_MAX);
}

static void test_faults_when_of_one_thread_then_none_is_handed_on(void **state)
{
	start("tcp", NULL);
	check_none(1);
}

static void test_faults_when_handlers_were_said_then_none_is_handed_on(void **state)
{
	config.handlers = 2;
	start("tcp", "seed=1,delay=1ms:1");
	check_none(THREADS_MAX);
}

/* Nobody would be waiting for the handler that reads on. */
static void test_faults_when_of_no_more_threads_than_handlers_then_none_is_handed_on(void **state)
{
	start("tcp", "seed=1,delay=1ms:1");
	begin(2, PAGES);
	end(2);
	assert_int_equal(STAT(faults_handed), 0);
	assert_int_equal(xm_load(&xm_rt.fetchers), 0);
}

/* As in a crowd, and with one handler away for good: what needs a link is handed on while a fetcher is idle. */
static void press(void)
{
	for (unsigned i = 0; i < XM_FAULTERS; i++)
		__atomic_store_n(&xm_rt.link_fault_ns[i], UINT64_MAX / 2, __ATOMIC_RELAXED);
	xm_add(&xm_rt.readers_away, 1);
}

/* First touches and writes to clean pages need no link, whoever else waits for one. */
static void test_faults_when_no_link_is_needed_then_a_handler_answers(void **state)
{
	uint64_t handed, zero, wrote;
	char *p;

	start("tcp", "seed=1,delay=20ms:1");
	grown(1);
	p = xm_map_new(PAGES * PAGE, 0, RW, 0);
	assert_false(test_is_error(p));
	assert_int_equal(test_wrong(pages + 64 * PAGE, 16, 1, 64), 0); /* clean now */
	await_idle(1);
	zero = STAT(faults_zero);
	wrote = STAT(faults_write);
	handed = STAT(faults_handed);
	press();
	for (unsigned i = 0; i < PAGES; i += 2)
		p[i * PAGE] = 1;
	for (unsigned i = 64; i < 80; i++) {
		volatile char *at = pages + i * PAGE;

		*at = *at;
	}
	assert_true(STAT(faults_zero) > zero);
	assert_true(!(xm_rt.features & XM_FEAT_WP) || STAT(faults_write) > wrote);
	assert_int_equal(STAT(faults_handed), handed);
	for (unsigned i = 0; i < 4; i++) { /* but these */
		await_idle(1);
		assert_int_equal(test_wrong(pages + i * PAGE, 1, 1, i), 0);
		assert_int_equal(STAT(faults_handed), handed + i + 1);
	}
}

/* ---- forks, and the end ---------------------------------------------------------------------------------------- */

/* It has a set of its own, which grows too. */
static int child(void)
{
	bool wrong = xm_load(&xm_rt.fetchers) || test_wrong(pages, 8, 1, 0);

#ifndef __SANITIZE_THREAD__ /* which takes a thread where one of the parent's was for the same */
	begin(4, 64);
	for (unsigned i = 0; i < 4; i++) {
		pthread_join(reader[i].thread, NULL);
		wrong |= reader[i].wrong != 0;
	}
#endif
	return wrong;
}

static void test_fork_when_messages_are_handed_on_then_both_go_on(void **state)
{
	start("tcp", "seed=1,delay=5ms:1");
	grown(XM_FETCHERS_MAX); /* none is made while a fork is under way: sanitizers would take its locks along */
	for (int round = 0; round < 4; round++) {
		uint64_t handed = STAT(faults_handed);
		pid_t pid;

		begin(THREADS_MAX, PAGES);
		while (STAT(faults_handed) < handed + 2 && test_pages_in(pages, PAGES, XM_PG_REMOTE))
			usleep(100);
		assert_true(STAT(faults_handed) >= handed + 2);
		pid = test_fork();
		if (pid == 0)
			_exit(child());
		assert_true(pid > 0);
		end(THREADS_MAX);
		assert_int_equal(test_wait(pid), 0);
		assert_int_equal(test_evict(pages, PAGES), 0);
	}
	assert_int_equal(test_wrong(pages, 64, 1, 0), 0);
}

/* By the kernel, which answers with EFAULT if the page is gone when it is awake again. */
static void *copier_main(void *arg)
{
	struct reader *r = arg;
	uint64_t copy[PAGE / 8];
	int fd[2];
	ssize_t n;

	if (pipe(fd) != 0)
		return NULL;
	n = write(fd[1], pages + r->first * PAGE, PAGE);
	if (n == (ssize_t)PAGE && read(fd[0], copy, PAGE) == (ssize_t)PAGE)
		r->wrong = test_wrong(copy, 1, 1, r->first);
	else
		r->wrong = n >= 0 || errno != EFAULT;
	close(fd[0]);
	close(fd[1]);
	return NULL;
}

static void test_stop_when_messages_are_handed_on_then_they_are_answered(void **state)
{
	uint64_t handed, fetched;
	struct xm_family *f;
	uint32_t proc;

	start("shm", "seed=1,delay=20ms:1");
	grown(3);
	f = mremap(xm_rt.fam, 0, sizeof(*f), MREMAP_MAYMOVE); /* once more: to be read when the runtime has ended */
	assert_true(f != MAP_FAILED);
	proc = xm_rt.proc;
	usleep(20000); /* they sleep, and look at the flag when they have been given something */
	__atomic_store_n(&xm_rt.stopping, 1, __ATOMIC_SEQ_CST);
	press();
	fetched = STAT(fetched_pages);
	handed = STAT(faults_handed);
	for (unsigned i = 0; i < 3; i++) {
		reader[i] = (struct reader){ .first = i * 8, .wrong = 1 };
		assert_int_equal(pthread_create(&reader[i].thread, NULL, copier_main, &reader[i]), 0);
	}
	for (int tries = 0; STAT(faults_handed) < handed + 3 && tries < 50000; tries++)
		usleep(200);
	assert_int_equal(STAT(faults_handed), handed + 3);
	test_runtime_stop();
	assert_int_equal(xm_load(&f->proc[proc].stats.fetched_pages), fetched + 3);
	end(3);
	munmap(f, sizeof(*f));
}

/* As if the pause were over. */
static void no_pause(void)
{
	xm_store(&xm_rt.fetchers_not_before_ns, 0);
}

/* Readers, until growth pauses. */
static void paused(void)
{
	begin(THREADS_MAX, PAGES);
	for (int tries = 0; !xm_load(&xm_rt.fetchers_not_before_ns) && tries < 10000; tries++)
		usleep(1000);
	assert_true(xm_load(&xm_rt.fetchers_not_before_ns) != 0);
}

/* A fetcher that finds no descriptor for its link gives back what it has and ends; the handlers do what they did before, and
 * after a while one is made again. */
static void test_growth_when_links_are_refused_then_pauses(void **state)
{
	struct rlimit was, none;

	start("tcp", "seed=1,delay=5ms:1");
	assert_int_equal(test_wrong(pages, 16, 1, 0), 0); /* one handler has its link, at least */
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
	none = (struct rlimit){ 3, was.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	paused();
	assert_int_equal(idle(), 0);
	assert_int_equal(STAT(fetchers_max), 0);
	assert_null(xm_rt.worker[XM_WORKERS_MAX - 1].link[0]);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
	end(THREADS_MAX);
	assert_int_equal(test_evict(pages, PAGES), 0);
	no_pause();
	grown(2);
	assert_int_equal(STAT(faults_lost), 0);
}

/* Their links, all of one session, could become too many: a pause, also while that is so. */
static void test_growth_when_family_has_many_processes_then_pauses(void **state)
{
	struct xm_family *f;
	uint32_t high;

	start("tcp", "seed=1,delay=5ms:1");
	f = xm_rt.fam;
	high = f->procs_high;
	for (uint32_t i = high; i < high + 40; i++)
		f->proc[i].state = XM_PROC_STARTING;
	xm_store(&f->procs_high, high + 40);
	paused();
	end(THREADS_MAX);
	assert_int_equal(xm_load(&xm_rt.fetchers), 0);
	assert_int_equal(STAT(faults_handed), 0);
	assert_int_equal(test_evict(pages, PAGES), 0);
	xm_store(&f->procs_high, high);
	for (uint32_t i = high; i < high + 40; i++)
		f->proc[i].state = XM_PROC_FREE;
	no_pause();
	grown(1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, fresh, stop)
		T(test_faults_when_tcp_is_slow_then_more_are_under_way_than_handlers),
		T(test_faults_when_shm_is_slow_then_more_are_under_way_than_handlers),
		T(test_faults_when_over_shm_then_none_is_handed_on),
		T(test_faults_when_of_one_thread_then_none_is_handed_on),
		T(test_faults_when_handlers_were_said_then_none_is_handed_on),
		T(test_faults_when_of_no_more_threads_than_handlers_then_none_is_handed_on),
		T(test_faults_when_no_link_is_needed_then_a_handler_answers),
		T(test_fork_when_messages_are_handed_on_then_both_go_on),
		T(test_stop_when_messages_are_handed_on_then_they_are_answered),
		T(test_growth_when_links_are_refused_then_pauses),
		T(test_growth_when_family_has_many_processes_then_pauses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
