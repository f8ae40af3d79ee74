/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_fault_time.c - where the time of faults goes: the parts of one fault, threads that wait for another's page, and
 * the canary that samples what no handler sees.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include "runtime/uffd.h"
#include "tests/harness.h"

#define RW (PROT_READ | PROT_WRITE)
#define PAGE XM_PAGE_SIZE

static struct test_appliance appliance;
static struct test_config config;

#define STAT(field) xm_load(&xm_rt.me->stats.field)

/* ---- without a runtime ----------------------------------------------------------------------------------------- */

static struct xm_runtime alone;
static struct xm_proc proc;
static struct xm_worker worker;

static int fresh_alone(void **state)
{
	memset(&alone, 0, sizeof(alone));
	memset(&proc, 0, sizeof(proc));
	memset(&worker, 0, sizeof(worker));
	alone.me = &proc;
	return 0;
}

static void test_account_when_parts_are_known_then_rest_is_what_is_left(void **state)
{
	struct xm_proc_stats *s = &proc.stats;

	worker.spent = (struct xm_fault_time){ .wait_ns = 500, .fetch_ns = 2000 };
	xm_fault_account(&alone, &worker, XM_FAULT_FETCH, 3000);
	assert_int_equal(s->fetch_ns.sum, 3000);
	assert_int_equal(s->part_wait_ns.sum, 500);
	assert_int_equal(s->part_fetch_ns.sum, 2000);
	assert_int_equal(s->part_rest_ns.sum, 500);
	/* a part that a fault does not have is not counted as 0 */
	worker.spent = (struct xm_fault_time){ 0 };
	xm_fault_account(&alone, &worker, XM_FAULT_WRITE, 70);
	xm_fault_account(&alone, &worker, XM_FAULT_ZERO, 80);
	xm_fault_account(&alone, &worker, XM_FAULT_WAIT, 90);
	assert_int_equal(s->part_wait_ns.count, 1);
	assert_int_equal(s->part_fetch_ns.count, 1);
	assert_int_equal(s->part_rest_ns.count, 4);
	assert_int_equal(s->part_rest_ns.sum, 500 + 70 + 80 + 90);
	assert_int_equal(s->write_ns.sum, 70);
	assert_int_equal(s->zero_ns.sum, 80);
	assert_int_equal(s->fetch_ns.count, 1);
	/* parts are no more than all */
	worker.spent.wait_ns = 1000;
	xm_fault_account(&alone, &worker, XM_FAULT_FETCH, 10);
	assert_int_equal(s->part_rest_ns.sum, 500 + 70 + 80 + 90);
}

static void test_waiters_when_their_page_is_settled_then_measured_once(void **state)
{
	const struct xm_hist *h = &proc.stats.part_wait_ns;

	xm_waiter_begin(&alone, 7, 100);
	xm_waiter_begin(&alone, 8, 100);
	xm_waiter_begin(&alone, 9, 101);
	xm_waiters_end(&alone, 99);
	assert_int_equal(h->count, 0);
	alone.waiter[7 % XM_WAITERS].since_ns -= 1000000; /* began a millisecond earlier */
	xm_waiters_end(&alone, 100);
	assert_int_equal(h->count, 2);
	assert_true(h->max >= 1000000);
	xm_waiters_end(&alone, 100);
	assert_int_equal(h->count, 2);
	xm_waiter_cancel(&alone, 9, 101);
	xm_waiters_end(&alone, 101);
	assert_int_equal(h->count, 2);
}

static void test_waiters_when_they_share_an_entry_then_the_later_is_measured(void **state)
{
	const struct xm_hist *h = &proc.stats.part_wait_ns;

	xm_waiter_begin(&alone, 5, 100);
	xm_waiter_begin(&alone, 5 + XM_WAITERS, 0); /* page 0 is a page too */
	xm_waiter_cancel(&alone, 5, 100);	    /* takes nothing of the other's away */
	xm_waiters_end(&alone, 100);
	assert_int_equal(h->count, 0);
	xm_waiters_end(&alone, 0);
	assert_int_equal(h->count, 1);
}

/* ---- with one ---------------------------------------------------------------------------------------------------- */

static int fresh(void **state)
{
	memset(&config, 0, sizeof(config));
	config.budget_bytes = 2048 * PAGE;
	config.prefetch = "none";
	return 0;
}

static int stop(void **state)
{
	test_runtime_stop();
	if (appliance.pid > 0)
		test_appliance_stop(&appliance);
	return 0;
}

static void start(const char *link)
{
	test_appliance_start(&appliance, "64M", link);
	test_runtime_start(&config, &appliance, 1);
	xm_store(&xm_rt.canary.state, 2); /* the tests take the samples themselves */
}

static char *filled(uint64_t pages)
{
	char *p = xm_map_new(pages * PAGE, 0, RW, 0);

	assert_false(test_is_error(p));
	test_fill(p, pages, 1);
	return p;
}

/* Counters of a fault follow its wake-up. */
static void becomes(const uint64_t *counter, uint64_t want)
{
	for (int tries = 0; xm_load(counter) < want && tries < 5000; tries++)
		usleep(1000);
	assert_int_equal(xm_load(counter), want);
}

static void test_parts_when_pages_come_over_a_link_then_add_up(void **state)
{
	uint64_t calls, faults;
	char *p;

	start("tcp");
	p = filled(1024);
	assert_int_equal(test_evict(p, 1024), 0);
	assert_int_equal(test_wrong(p, 1024, 1, 0), 0);
	becomes(&xm_rt.me->stats.faults_fetch, 1024);
	faults = STAT(faults_fetch) + STAT(faults_zero) + STAT(faults_write) + STAT(faults_wait) +
		 STAT(faults_spurious) + STAT(faults_bad);
	becomes(&xm_rt.me->stats.part_rest_ns.count, faults); /* written last */
	assert_int_equal(STAT(fetch_ns.count), 1024);
	assert_int_equal(STAT(part_fetch_ns.count), 1024);
	/* no part is counted twice, none is left out */
	assert_true(STAT(part_fetch_ns.sum) < STAT(fetch_ns.sum));
	assert_true(STAT(part_fetch_ns.sum) + STAT(part_rest_ns.sum) + STAT(part_wait_ns.sum) >=
		    STAT(fetch_ns.sum) + STAT(zero_ns.sum) + STAT(write_ns.sum));
	/* one call of XM_INSTALL_SAMPLE a handler is timed: pages come in whole all the same (looked at above) */
	calls = STAT(install_calls);
	assert_in_range(STAT(part_install_ns.count), calls / XM_INSTALL_SAMPLE - 1,
			calls / XM_INSTALL_SAMPLE);
}

static void test_parts_when_memory_is_shared_then_no_fetch(void **state)
{
	char *p;

	start("shm");
	p = filled(64);
	assert_int_equal(test_evict(p, 64), 0);
	assert_int_equal(test_wrong(p, 64, 1, 0), 0);
	becomes(&xm_rt.me->stats.fetch_ns.count, 64);
	assert_int_equal(STAT(part_fetch_ns.count), 0); /* the install copies it */
}

static void *write_one(void *arg)
{
	*(volatile char *)arg = 7;
	return NULL;
}

static void test_wait_when_another_has_the_page_then_measured(void **state)
{
	uint64_t waits, began;
	xm_pte *word, seen;
	pthread_t writer;
	char *p;

	start("shm");
	p = xm_map_new(PAGE, 0, RW, 0);
	word = xm_pte_touch(&xm_rt, xm_page_of(p));
	seen = xm_pg_load(word);
	assert_true(xm_pg_cas(word, &seen, xm_pg_with_state(seen, XM_PG_TAKEN)));
	waits = STAT(faults_wait);
	began = xm_now_ns();
	pthread_create(&writer, NULL, write_one, p);
	becomes(&xm_rt.me->stats.faults_wait, waits + 1);
	assert_int_equal(STAT(part_wait_ns.count), 0);
	xm_page_forget(&xm_rt, xm_page_of(p));
	assert_int_equal(STAT(part_wait_ns.count), 1);
	assert_in_range(STAT(part_wait_ns.sum), 1, xm_now_ns() - began);
	pthread_join(writer, NULL);
	assert_int_equal(*p, 7);
}

/* ---- the canary ---------------------------------------------------------------------------------------------------- */

static void test_canary_when_it_looks_then_one_sample_and_no_frame(void **state)
{
	uint64_t began, before, took, resident;

	start("shm");
	resident = xm_load(&xm_rt.me->resident);
	for (uint64_t n = 1; n <= 3; n++) {
		before = STAT(part_delivery_ns.sum) + STAT(part_return_ns.sum);
		began = xm_now_ns();
		assert_true(xm_canary_look(&xm_rt));
		took = xm_now_ns() - began;
		assert_int_equal(STAT(part_delivery_ns.count), n);
		assert_int_equal(STAT(part_return_ns.count), n);
		assert_true(STAT(part_delivery_ns.sum) + STAT(part_return_ns.sum) - before <=
			    took); /* they do not overlap */
	}
	assert_true(STAT(part_delivery_ns.sum) + STAT(part_return_ns.sum) > 0);
	assert_int_equal(xm_load(&xm_rt.me->resident), resident);
	assert_int_equal(STAT(part_rest_ns.count), 0); /* it is no fault of the program's */
}

static void test_canary_when_the_gate_is_closed_then_no_sample(void **state)
{
	start("shm");
	__atomic_store_n(&xm_rt.gate_closed, 1, __ATOMIC_SEQ_CST);
	assert_false(xm_canary_look(&xm_rt));
	__atomic_store_n(&xm_rt.gate_closed, 0, __ATOMIC_SEQ_CST);
	xm_sys6(SYS_futex, (long)&xm_rt.gate_closed, FUTEX_WAKE_PRIVATE, 100, 0, 0, 0);
	assert_true(xm_canary_look(&xm_rt));
}

static void test_canary_when_forked_then_the_child_has_its_own(void **state)
{
	pid_t pid;

	start("shm");
	assert_true(xm_canary_look(&xm_rt));
	pid = test_fork();
	if (pid == 0) {
		xm_store(&xm_rt.canary.state, 2);
		_exit(xm_canary_look(&xm_rt) && STAT(part_delivery_ns.count) == 1 ? 0 : 1);
	}
	assert_int_equal(test_wait(pid), 0);
	assert_true(xm_canary_look(&xm_rt));
}

static uint32_t touched;

static void *touch_canary(void *arg)
{
	xm_sys_madvise(xm_rt.canary.page, PAGE, MADV_DONTNEED);
	(void)*(volatile char *)xm_rt.canary.page;
	xm_store(&touched, 1);
	return NULL;
}

/* Nobody answers (the handlers are kept at the gate): taking the registration back wakes it. */
static void test_canary_when_nobody_answers_then_stop_ends_it(void **state)
{
	struct pollfd fault;
	pthread_t thread;
	uint64_t reads;

	start("shm");
	fault = (struct pollfd){ .fd = xm_rt.uffd, .events = POLLIN };
	xm_store(&touched, 0);
	__atomic_store_n(&xm_rt.gate_closed, 1, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&xm_rt.gate_active, __ATOMIC_SEQ_CST))
		sched_yield();
	reads = STAT(message_reads);
	pthread_create(&thread, NULL, touch_canary, NULL);
	if (xm_rt.handlers_block) /* then one has the message, but is not past the gate */
		while (STAT(message_reads) == reads)
			sched_yield();
	else
		assert_int_equal(poll(&fault, 1, 30000), 1);
	assert_false(xm_load(&touched));
	xm_canary_stop(&xm_rt);
	pthread_join(thread, NULL);
	assert_true(xm_load(&touched));
	__atomic_store_n(&xm_rt.gate_closed, 0, __ATOMIC_SEQ_CST);
	xm_sys6(SYS_futex, (long)&xm_rt.gate_closed, FUTEX_WAKE_PRIVATE, 100, 0, 0, 0);
	assert_true(xm_canary_register(&xm_rt)); /* the handlers are stopped by it */
}

static void test_canary_when_there_are_faults_then_its_thread_samples_and_ends(void **state)
{
	char *p;

	test_appliance_start(&appliance, "64M", "shm");
	test_runtime_start(&config, &appliance, 1);
	p = xm_map_new(16384 * PAGE, 0, RW, 0);
	for (uint64_t i = 0; STAT(part_return_ns.count) < 2; i += 2) {
		assert_true(i < 16384);
		p[i * PAGE] = 1; /* a fault each */
		usleep(4000);
	}
	assert_int_equal(xm_load(&xm_rt.canary.state), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define A(name) cmocka_unit_test_setup(name, fresh_alone)
#define T(name) cmocka_unit_test_setup_teardown(name, fresh, stop)
		A(test_account_when_parts_are_known_then_rest_is_what_is_left),
		A(test_waiters_when_their_page_is_settled_then_measured_once),
		A(test_waiters_when_they_share_an_entry_then_the_later_is_measured),
		T(test_parts_when_pages_come_over_a_link_then_add_up),
		T(test_parts_when_memory_is_shared_then_no_fetch),
		T(test_wait_when_another_has_the_page_then_measured),
		T(test_canary_when_it_looks_then_one_sample_and_no_frame),
		T(test_canary_when_the_gate_is_closed_then_no_sample),
		T(test_canary_when_forked_then_the_child_has_its_own),
		T(test_canary_when_nobody_answers_then_stop_ends_it),
		T(test_canary_when_there_are_faults_then_its_thread_samples_and_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
