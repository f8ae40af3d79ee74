/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_fork_runtime.c - fork with external memory: what the child sees, for as long as it lives, while the parent goes
 * on writing; slots, frames and charges of both; children of children; fork that fails; kills. An appliance of
 * the test's own; after each test nothing is left over.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include "tests/harness.h"

#define RW (PROT_READ | PROT_WRITE)
#define PAGE XM_PAGE_SIZE
#define BUDGET_PAGES 2048u
#define PAGES 3000u

static struct test_appliance appliance;
static const char *link_name = "shm";

static int group_setup(void **state)
{
	struct test_config c = { .budget_bytes = BUDGET_PAGES * PAGE };

	test_appliance_start(&appliance, "256M", link_name);
	test_runtime_start(&c, &appliance, 1);
	return 0;
}

static int group_teardown(void **state)
{
	test_runtime_stop();
	return test_appliance_stop(&appliance);
}

/* What a dead child held comes back at the latest when its grace time is over. */
static int nothing_left(void **state)
{
	uint64_t end = xm_now_ns() + 3 * xm_rt.fam->reap_grace_ns + 1000000000;

	do {
		xm_family_reap_dead(xm_rt.fam);
		if (!test_slots_left())
			break;
		usleep(10000);
	} while (xm_now_ns() < end);
	return test_left_over() ? -1 : 0;
}

static char *filled(uint64_t pages, uint64_t seed)
{
	char *p = xm_map_new(pages * PAGE, 0, RW, 0);

	assert_false(test_is_error(p));
	test_fill(p, pages, seed);
	return p;
}

static void unmap(void *p, uint64_t pages)
{
	assert_int_equal(xm_map_unmap(p, pages * PAGE), 0);
}

/* Two processes in step: each waits for the other's byte. */
struct pair {
	int to_child[2], to_parent[2];
};

static void pair_open(struct pair *s)
{
	assert_int_equal(pipe(s->to_child) | pipe(s->to_parent), 0);
}

static void pair_close(struct pair *s)
{
	close(s->to_child[0]);
	close(s->to_child[1]);
	close(s->to_parent[0]);
	close(s->to_parent[1]);
}

static void tell(int fd)
{
	if (write(fd, "", 1) != 1)
		_exit(90);
}

static void await(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char c;

	if (poll(&p, 1, 50000) != 1 || read(fd, &c, 1) != 1) {
		fprintf(stderr, "the other process does not go on\n");
		_exit(91);
	}
}

static void child_ends_well(pid_t pid)
{
	assert_true(pid > 0);
	assert_int_equal(test_wait(pid), 0);
}

static void test_child_when_parent_writes_on_then_sees_the_fork(void **state)
{
	char *p = filled(PAGES, 1);
	struct pair s;
	pid_t pid;

	pair_open(&s);
	pid = test_fork();
	if (pid == 0) {
		uint64_t wrong = test_wrong(p, PAGES, 1, 0);

		tell(s.to_parent[1]);
		await(s.to_child[0]); /* the parent has rewritten everything, its pages went out */
		wrong += test_wrong(p, PAGES, 1, 0);
		_exit(wrong ? 1 : 0);
	}
	await(s.to_parent[0]);
	for (int round = 0; round < 3; round++)
		test_fill(p, PAGES, 2);
	tell(s.to_child[1]);
	child_ends_well(pid);
	assert_int_equal(test_wrong(p, PAGES, 2, 0), 0);
	pair_close(&s);
	unmap(p, PAGES);
}

/* That it found no room, or no victim, is the parent's own affair. */
static void test_child_when_parent_had_no_room_then_finds_out_for_itself(void **state)
{
	pid_t pid;

	xm_store(&xm_rt.no_room, 1);
	xm_store(&xm_rt.no_victim_until_ns, UINT64_MAX);
	pid = test_fork();
	if (pid == 0)
		_exit(xm_load(&xm_rt.no_room) || xm_load(&xm_rt.no_victim_until_ns));
	xm_store(&xm_rt.no_room, 0);
	xm_store(&xm_rt.no_victim_until_ns, 0);
	child_ends_well(pid);
}

static void test_parent_when_child_writes_then_unharmed(void **state)
{
	char *p = filled(PAGES, 3);
	pid_t pid = test_fork();

	if (pid == 0) {
		test_fill(p, PAGES, 4);
		_exit(test_wrong(p, PAGES, 4, 0) ? 1 : 0);
	}
	child_ends_well(pid);
	assert_int_equal(test_wrong(p, PAGES, 3, 0), 0);
	unmap(p, PAGES);
}

static void test_child_when_parent_unmaps_then_still_sees(void **state)
{
	char *p = filled(PAGES, 5);
	struct pair s;
	pid_t pid;

	pair_open(&s);
	pid = test_fork();
	if (pid == 0) {
		await(s.to_child[0]);
		_exit(test_wrong(p, PAGES, 5, 0) ? 1 : 0);
	}
	unmap(p, PAGES);
	p = filled(PAGES, 6); /* the slots are given out again: not the child's */
	assert_int_equal(test_wrong(p, PAGES, 6, 0), 0);
	tell(s.to_child[1]);
	child_ends_well(pid);
	pair_close(&s);
	unmap(p, PAGES);
}

static void test_parent_when_child_unmaps_and_ends_then_slots_stay_its_own(void **state)
{
	char *p = filled(PAGES, 7);
	pid_t pid = test_fork();

	if (pid == 0)
		_exit(xm_map_unmap(p, PAGES * PAGE) ? 1 : 0);
	child_ends_well(pid);
	xm_family_reap_dead(xm_rt.fam);
	assert_int_equal(test_wrong(p, PAGES, 7, 0), 0);
	unmap(p, PAGES);
}

/* Everything was clean and shared at the fork: a write by either side takes it a slot of its own. */
static void test_slots_when_shared_then_written_apart(void **state)
{
	char *p = filled(512, 8);
	pid_t pid;

	assert_int_equal(test_evict(p, 512), 0);
	assert_int_equal(xm_load(&xm_rt.fam->slots_used), 512);
	pid = test_fork();
	if (pid == 0) {
		if (test_wrong(p, 512, 8, 0))
			_exit(1);
		test_fill(p, 512, 9);
		if (test_evict(p, 512))
			_exit(2);
		_exit(test_wrong(p, 512, 9, 0) ? 3 : 0);
	}
	test_fill(p, 512, 10);
	assert_int_equal(test_evict(p, 512), 0);
	child_ends_well(pid);
	assert_int_equal(test_wrong(p, 512, 10, 0), 0);
	unmap(p, 512);
}

static void test_child_when_of_a_child_then_each_sees_its_own(void **state)
{
	char *p = filled(PAGES, 11);
	pid_t pid = test_fork(), inner;

	if (pid == 0) {
		test_fill(p, PAGES / 2, 12);
		inner = test_fork();
		if (inner == 0) {
			uint64_t wrong = test_wrong(p, PAGES / 2, 12, 0);

			wrong += test_wrong(p + PAGES / 2 * PAGE, PAGES / 2, 11, PAGES / 2);
			test_fill(p, PAGES, 13);
			_exit(wrong + test_wrong(p, PAGES, 13, 0) ? 1 : 0);
		}
		test_fill(p + PAGES / 2 * PAGE, PAGES / 2, 14);
		if (test_wait(inner) != 0)
			_exit(2);
		_exit(test_wrong(p, PAGES / 2, 12, 0) + test_wrong(p + PAGES / 2 * PAGE, PAGES / 2, 14, 0) ? 3 : 0);
	}
	child_ends_well(pid);
	assert_int_equal(test_wrong(p, PAGES, 11, 0), 0);
	unmap(p, PAGES);
}

static void test_advice_when_wipe_or_dont_then_child_sees_zeros_or_nothing(void **state)
{
	char *wiped = filled(64, 15), *gone = filled(64, 16), *kept = filled(64, 17);
	pid_t pid;

	assert_int_equal(test_evict(wiped, 32) + test_evict(gone, 32), 0);
	assert_int_equal(xm_map_advise(wiped, 64 * PAGE, MADV_WIPEONFORK), 0);
	assert_int_equal(xm_map_advise(gone, 64 * PAGE, MADV_DONTFORK), 0);
	pid = test_fork();
	if (pid == 0) {
		if (test_not_zero(wiped, 64) || test_wrong(kept, 64, 17, 0))
			_exit(1);
		if (test_signal_of(gone, false) != SIGSEGV || test_signal_of(gone + 63 * PAGE, true) != SIGSEGV)
			_exit(2);
		test_fill(wiped, 64, 18);
		_exit(test_evict(wiped, 64) || test_wrong(wiped, 64, 18, 0) ? 3 : 0);
	}
	child_ends_well(pid);
	assert_int_equal(test_wrong(wiped, 64, 15, 0) + test_wrong(gone, 64, 16, 0), 0);
	unmap(wiped, 64);
	unmap(gone, 64);
	unmap(kept, 64);
}

/* The advice goes with the mapping: to what it becomes, to where it moves, into local memory. */
static void test_wipe_when_remapped_then_child_sees_zeros(void **state)
{
	char *local = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *p = filled(64, 19), *q = filled(16, 20);
	pid_t pid;

	assert_int_equal(xm_map_advise(p, 64 * PAGE, MADV_WIPEONFORK) + xm_map_advise(q, 16 * PAGE, MADV_WIPEONFORK), 0);
	p = xm_map_remap(p, 64 * PAGE, 64 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, filled(64, 22));
	p = xm_map_remap(p, 64 * PAGE, 96 * PAGE, MREMAP_MAYMOVE, NULL);
	assert_false(test_is_error(p));
	test_fill(p, 96, 21);
	assert_ptr_equal(xm_map_remap(q, 16 * PAGE, 16 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, local), local);
	pid = test_fork();
	if (pid == 0)
		_exit(test_not_zero(p, 96) ? 2 : test_not_zero(local, 16) ? 3 : 0);
	assert_int_equal(test_wait(pid), 0);
	assert_int_equal(test_wrong(p, 96, 21, 0), 0);
	unmap(p, 96);
	munmap(local, 16 * PAGE);
}

/* The kernel does not inherit memory locks. */
static void test_locks_when_forked_then_not_inherited(void **state)
{
	char *p = filled(256, 19);
	pid_t pid;

	assert_int_equal(xm_map_lock(p, 256 * PAGE), 0);
	assert_int_equal(xm_map_lock_all(MCL_FUTURE), 0);
	pid = test_fork();
	if (pid == 0) {
		char *q = filled(16, 20);

		if (xm_load(&xm_rt.pinned_pages) != 0 || test_evict(p, 256) || test_evict(q, 16))
			_exit(1);
		if (xm_map_unlock(p, 256 * PAGE) || xm_map_lock(p, 256 * PAGE) || xm_load(&xm_rt.pinned_pages) != 256)
			_exit(2);
		_exit(xm_map_unmap(p, 256 * PAGE) || xm_load(&xm_rt.pinned_pages) ? 3 : 0);
	}
	child_ends_well(pid);
	assert_int_equal(xm_load(&xm_rt.pinned_pages), 256);
	xm_map_unlock_all();
	unmap(p, 256);
}

static void test_protected_when_forked_then_contents_follow(void **state)
{
	char *p = filled(128, 21);
	pid_t pid;

	assert_int_equal(xm_map_protect(p, 128 * PAGE, PROT_NONE), 0);
	assert_int_equal(test_evict(p, 64), 0);
	pid = test_fork();
	if (pid == 0) {
		if (test_signal_of(p, false) != SIGSEGV)
			_exit(1);
		_exit(xm_map_protect(p, 128 * PAGE, RW) || test_wrong(p, 128, 21, 0) ? 2 : 0);
	}
	child_ends_well(pid);
	assert_int_equal(xm_map_protect(p, 128 * PAGE, RW), 0);
	assert_int_equal(test_wrong(p, 128, 21, 0), 0);
	unmap(p, 128);
}

static void test_fork_when_it_failed_then_nothing_is_charged(void **state)
{
	char *p = filled(1000, 22);
	uint64_t resident = xm_load(&xm_rt.fam->resident_pages), committed = xm_load(&xm_rt.fam->committed_pages);
	uint64_t slots = xm_load(&xm_rt.fam->slots_used);

	for (int i = 0; i < 20; i++) {
		while (!xm_fork_prepare(XM_FORK_WAIT_NS))
			;
		errno = EAGAIN; /* as fork leaves it */
		xm_fork_parent();
	}
	assert_true(xm_load(&xm_rt.fam->resident_pages) <= resident);
	assert_int_equal(xm_load(&xm_rt.fam->committed_pages), committed);
	assert_true(xm_load(&xm_rt.fam->slots_used) <= slots + 1000);
	assert_int_equal(test_wrong(p, 1000, 22, 0), 0);
	unmap(p, 1000);
}

/* A minute later, as far as the entries of processes that have not come to life are concerned. */
static void age_entries(void)
{
	for (uint32_t i = 0; i < xm_load(&xm_rt.fam->procs_high); i++) {
		struct xm_proc *p = &xm_rt.fam->proc[i];

		if (xm_load(&p->state) != XM_PROC_STARTING)
			continue;
		p->joined_ns -= 60000000000ull;
		p->ended_ns = xm_now_ns() - 60000000000ull;
	}
}

/* Killed before it had a runtime: its parent lives, and must not answer for it for ever. */
static void test_child_when_dead_before_it_lives_then_taken_back(void **state)
{
	char *p = filled(1000, 28);
	uint64_t committed = xm_load(&xm_rt.fam->committed_pages);
	pid_t pid;

	while (!xm_fork_prepare(XM_FORK_WAIT_NS))
		;
	pid = fork();
	if (pid == 0)
		_exit(0);
	xm_fork_parent();
	assert_int_equal(test_wait(pid), 0);
	assert_true(xm_load(&xm_rt.fam->committed_pages) > committed);
	xm_family_reap_dead(xm_rt.fam);
	age_entries();
	xm_family_reap_dead(xm_rt.fam);
	assert_int_equal(xm_load(&xm_rt.fam->committed_pages), committed);
	assert_int_equal(test_wrong(p, 1000, 28, 0), 0);
	unmap(p, 1000);
}

static void test_child_when_killed_then_everything_comes_back(void **state)
{
	char *p = filled(PAGES, 23);

	for (int i = 0; i < 10; i++) {
		struct pair s;
		pid_t pid;

		pair_open(&s);
		pid = test_fork();
		if (pid == 0) {
			tell(s.to_parent[1]);
			for (uint64_t round = 0;; round++)
				test_fill(p, PAGES, round);
		}
		await(s.to_parent[0]);
		usleep(2000 * (unsigned)i); /* somewhere in the middle of its work */
		kill(pid, SIGKILL);
		test_kills++;
		assert_int_equal(test_wait(pid), 128 + SIGKILL);
		pair_close(&s);
	}
	assert_int_equal(test_wrong(p, PAGES, 23, 0), 0);
	unmap(p, PAGES);
}

struct writer {
	pthread_t thread;
	char *at;
	uint32_t runs, stop;
};

static void *writer_main(void *arg)
{
	struct writer *w = arg;

	xm_store(&w->runs, 1);
	for (uint64_t i = 0; !xm_load(&w->stop); i++)
		*(volatile uint64_t *)(w->at + i % 1500 * PAGE) = i;
	return NULL;
}

/* Threads fault and write while the process forks again and again: no deadlock of gate and locks, no wrong page. */
static void test_fork_when_threads_fault_then_neither_waits_for_ever(void **state)
{
	char *p = filled(1500, 24);
	struct writer w[2];

	for (unsigned i = 0; i < 2; i++) {
		w[i] = (struct writer){ .at = filled(1500, 25) };
		pthread_create(&w[i].thread, NULL, writer_main, &w[i]);
		while (!xm_load(&w[i].runs)) /* past the sanitizer's work at a thread's start: test_fork() */
			sched_yield();
	}
	for (int i = 0; i < 25; i++) {
		pid_t pid = test_fork();

		if (pid == 0)
			_exit(test_wrong(p + i * 40 * PAGE, 100, 24, (uint64_t)i * 40) ? 1 : 0);
		child_ends_well(pid);
	}
	for (unsigned i = 0; i < 2; i++) {
		xm_store(&w[i].stop, 1);
		pthread_join(w[i].thread, NULL);
		unmap(w[i].at, 1500);
	}
	unmap(p, 1500);
}

/* Inside the gate, and opens a file, for which it wants libio's list, just when somebody forks and has that. */
static void *opener_main(void *arg)
{
	FILE *f;

	xm_gate_enter(&xm_rt);
	xm_store((uint32_t *)arg, 1);
	while (!xm_load(&xm_rt.gate_closed))
		sched_yield();
	f = fopen("/dev/null", "r");
	if (f)
		fclose(f);
	xm_gate_leave(&xm_rt);
	return f;
}

static void test_fork_when_one_inside_opens_a_file_then_neither_waits_for_ever(void **state)
{
	for (int i = 0; i < 5; i++) {
		uint32_t inside = 0;
		pthread_t t;
		void *file;
		pid_t pid;

		pthread_create(&t, NULL, opener_main, &inside);
		while (!xm_load(&inside))
			sched_yield();
		pid = test_fork();
		if (pid == 0)
			_exit(0);
		child_ends_well(pid);
		pthread_join(t, &file);
		assert_non_null(file);
	}
}

struct forker {
	pthread_t thread;
	pthread_barrier_t *both;
	int blocked; /* signal */
	uint32_t wrong;
};

static bool mask_is(int blocked)
{
	sigset_t mask;

	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	for (int s = SIGUSR1; s <= SIGTERM; s++)
		if (sigismember(&mask, s) != (s == blocked))
			return false;
	return true;
}

static void *forker_main(void *arg)
{
	struct forker *f = arg;
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, f->blocked);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	pthread_barrier_wait(f->both);
	for (int i = 0; i < 20; i++) {
		pid_t pid = test_fork();
		int status = -1;

		if (pid == 0)
			_exit(!mask_is(f->blocked));
		waitpid(pid, &status, 0);
		f->wrong += status != 0 || !mask_is(f->blocked);
	}
	return NULL;
}

static void test_fork_when_two_threads_do_then_each_keeps_its_signal_mask(void **state)
{
	struct forker f[2] = { { .blocked = SIGUSR1 }, { .blocked = SIGUSR2 } };
	pthread_barrier_t both;

#ifdef __SANITIZE_ADDRESS__
	skip(); /* its allocator's lock may be the other thread's at the fork: test_fork() */
#endif
	pthread_barrier_init(&both, NULL, 2);
	for (unsigned i = 0; i < 2; i++) {
		f[i].both = &both;
		pthread_create(&f[i].thread, NULL, forker_main, &f[i]);
	}
	for (unsigned i = 0; i < 2; i++) {
		pthread_join(f[i].thread, NULL);
		assert_int_equal(f[i].wrong, 0);
	}
}

/* The child uses every call that the parent could. */
static void test_child_when_it_maps_and_remaps_then_works(void **state)
{
	char *p = filled(256, 26);
	pid_t pid = test_fork();

	if (pid == 0) {
		char *q = filled(PAGES, 27), *to;

		to = xm_map_remap(p, 256 * PAGE, 512 * PAGE, MREMAP_MAYMOVE, NULL);
		if (test_is_error(to) || test_wrong(to, 256, 26, 0) || test_not_zero(to + 256 * PAGE, 256))
			_exit(1);
		if (test_wrong(q, PAGES, 27, 0) || xm_map_unmap(q, PAGES * PAGE) || xm_map_discard(to, 512 * PAGE))
			_exit(2);
		_exit(test_not_zero(to, 512) ? 3 : 0);
	}
	child_ends_well(pid);
	assert_int_equal(test_wrong(p, 256, 26, 0), 0);
	unmap(p, 256);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_teardown(name, nothing_left)
		T(test_child_when_parent_writes_on_then_sees_the_fork),
		T(test_child_when_parent_had_no_room_then_finds_out_for_itself),
		T(test_parent_when_child_writes_then_unharmed),
		T(test_child_when_parent_unmaps_then_still_sees),
		T(test_parent_when_child_unmaps_and_ends_then_slots_stay_its_own),
		T(test_slots_when_shared_then_written_apart),
		T(test_child_when_of_a_child_then_each_sees_its_own),
		T(test_advice_when_wipe_or_dont_then_child_sees_zeros_or_nothing),
		T(test_wipe_when_remapped_then_child_sees_zeros),
		T(test_locks_when_forked_then_not_inherited),
		T(test_protected_when_forked_then_contents_follow),
		T(test_fork_when_it_failed_then_nothing_is_charged),
		T(test_child_when_dead_before_it_lives_then_taken_back),
		T(test_child_when_killed_then_everything_comes_back),
		T(test_fork_when_threads_fault_then_neither_waits_for_ever),
		T(test_fork_when_one_inside_opens_a_file_then_neither_waits_for_ever),
		T(test_fork_when_two_threads_do_then_each_keeps_its_signal_mask),
		T(test_child_when_it_maps_and_remaps_then_works),
	};
	int failed;

	if (getenv("XMEM_RDMA_ADDR")) {
		link_name = "verbs";
		return cmocka_run_group_tests_name("fork, verbs", tests, group_setup, group_teardown);
	}
	failed = cmocka_run_group_tests_name("fork, shm", tests, group_setup, group_teardown);
	link_name = "tcp";
	return failed + cmocka_run_group_tests_name("fork, tcp", tests, group_setup, group_teardown);
}
