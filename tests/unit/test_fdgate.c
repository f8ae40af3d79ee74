/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_fdgate.c - numbers of descriptors: who borrows one and who chooses one are never inside at a time, nobody waits
 * for ever or for himself, and the table of own descriptors. Threads, but no runtime.
 *
 * What a gate that gives up those inside does is told by turns: what xm_fd_choose() returns stays the same until then.
 * Whether a chooser waits is told by its question whether it is apart.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fdgate.h"
#include "runtime/runtime.h"
#include "sys.h"
#include "util.h"

#define CHOOSERS 3
#define BORROWS 2000
#define ROUNDS 4

static int waits; /* atomic */

static bool not_apart(void)
{
	xm_add(&waits, 1);
	return false;
}

static bool is_apart(void)
{
	return true;
}

/* ---- one of each side, inside until told ---------------------------------------------------------------- */

struct held {
	pthread_t thread;
	sem_t in, out;
};

static void *hold_borrowed(void *arg)
{
	struct held *h = arg;

	xm_fd_borrow();
	sem_post(&h->in);
	sem_wait(&h->out);
	xm_fd_return();
	return NULL;
}

static void *hold_chosen(void *arg)
{
	struct held *h = arg;
	uint32_t turn = xm_fd_choose(not_apart);

	sem_post(&h->in);
	sem_wait(&h->out);
	xm_fd_chosen(turn);
	return NULL;
}

static void hold(struct held *h, void *(*how)(void *))
{
	sem_init(&h->in, 0, 0);
	sem_init(&h->out, 0, 0);
	assert_int_equal(pthread_create(&h->thread, NULL, how, h), 0);
	sem_wait(&h->in);
}

static void let_go(struct held *h)
{
	sem_post(&h->out);
	pthread_join(h->thread, NULL);
}

/* The turn of choosers now. Nobody borrows. */
static uint32_t turn_now(void)
{
	int before = xm_load(&waits);
	uint32_t turn = xm_fd_choose(not_apart);

	xm_fd_chosen(turn);
	assert_int_equal(xm_load(&waits), before);
	return turn;
}

/* ---- both at once ----------------------------------------------------------------------------------------- */

static int borrowers_in, choosers_in, met, stop, gave_up_too; /* atomic */

static void *choose_often(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	while (!xm_load(&stop)) {
		uint64_t before = xm_now_ns();
		uint32_t turn = xm_fd_choose(not_apart);

		if (xm_now_ns() - before >= XM_FD_CHOOSER_NS)
			xm_add(&gave_up_too, 1);
		xm_add(&choosers_in, 1);
		for (int i = rand_r(&seed) % 64; i >= 0; i--)
			if (__atomic_load_n(&borrowers_in, __ATOMIC_SEQ_CST))
				xm_add(&met, 1);
		xm_sub(&choosers_in, 1);
		xm_fd_chosen(turn);
	}
	return NULL;
}

/* How often a borrower waited until it gave up the choosers. */
static int borrow_often(unsigned seed)
{
	int gave_up = 0;

	for (int n = 0; n < BORROWS; n++) {
		uint64_t before = xm_now_ns();

		xm_fd_borrow();
		gave_up += xm_now_ns() - before >= XM_FD_BORROWER_NS;
		__atomic_fetch_add(&borrowers_in, 1, __ATOMIC_SEQ_CST);
		for (int i = rand_r(&seed) % 64; i >= 0; i--)
			if (xm_load(&choosers_in))
				xm_add(&met, 1);
		__atomic_fetch_sub(&borrowers_in, 1, __ATOMIC_SEQ_CST);
		xm_fd_return();
		for (int i = rand_r(&seed) % 256; i >= 0; i--)
			xm_cpu_relax();
	}
	return gave_up;
}

static void *borrow_too(void *arg)
{
	xm_add(&gave_up_too, borrow_often((unsigned)(uintptr_t)arg));
	return NULL;
}

static void test_both_when_at_once_then_never_inside_together(void **state)
{
	unsigned seed = (unsigned)xm_now_ns();
	int judged = 0;

	print_message("seed %u\n", seed);
	for (int round = 0; judged < ROUNDS; round++) {
		pthread_t chooser[CHOOSERS], borrower;
		int gave_up;

		assert_true(round < 100 * ROUNDS);
		stop = met = gave_up_too = 0;
		for (int i = 0; i < CHOOSERS; i++)
			pthread_create(&chooser[i], NULL, choose_often,
				       (void *)(uintptr_t)(seed + (unsigned)i));
		pthread_create(&borrower, NULL, borrow_too, (void *)(uintptr_t)(seed + 77));
		gave_up = borrow_often(seed + 78);
		pthread_join(borrower, NULL);
		xm_store(&stop, 1);
		for (int i = 0; i < CHOOSERS; i++)
			pthread_join(chooser[i], NULL);
		gave_up += gave_up_too;
		/* a storm of choosers does not keep borrowers out */
		assert_true(gave_up <= BORROWS / 20);
		if (gave_up)
			continue; /* somebody had no processor for so long: those inside were given up */
		judged++;
		assert_int_equal(met, 0);
		seed += 100;
	}
}

/* ---- signal handlers ---------------------------------------------------------------------------------------- */

static int handled; /* atomic */

static void choose_in_handler(int sig)
{
	xm_fd_chosen(xm_fd_choose(not_apart));
	xm_add(&handled, 1);
}

static void borrow_in_handler(int sig)
{
	xm_fd_borrow();
	xm_fd_borrow();
	xm_fd_return();
	xm_fd_return();
	xm_add(&handled, 1);
}

static void test_handler_when_borrowing_then_runs_afterwards(void **state)
{
	int before = waits;

	handled = 0;
	signal(SIGUSR1, choose_in_handler);
	xm_fd_borrow();
	raise(SIGUSR1);
	assert_int_equal(handled, 0);
	xm_fd_borrow();
	xm_fd_return();
	assert_int_equal(handled, 0);
	xm_fd_return();
	while (!xm_load(&handled))
		usleep(1); /* the thread sanitizer runs handlers in calls that it knows */
	assert_int_equal(handled, 1);
	assert_int_equal(waits, before);
}

static void test_handler_when_choosing_then_borrows_without_waiting(void **state)
{
	uint32_t turn = xm_fd_choose(not_apart);

	handled = 0;
	signal(SIGUSR1, borrow_in_handler);
	raise(SIGUSR1);
	assert_int_equal(handled, 1);
	signal(SIGUSR1, choose_in_handler);
	raise(SIGUSR1);
	assert_int_equal(handled, 2);
	/* nor after one that chose: this thread still does */
	signal(SIGUSR1, borrow_in_handler);
	raise(SIGUSR1);
	assert_int_equal(handled, 3);
	assert_int_equal(xm_fd_choose(not_apart), 0);
	xm_fd_chosen(0);
	xm_fd_chosen(turn);
	assert_int_equal(turn_now(), turn);
}

static void test_choose_when_own_thread_borrows_then_passes(void **state)
{
	xm_fd_borrow();
	assert_int_equal(xm_fd_choose(not_apart), 0);
	xm_fd_chosen(0);
	xm_fd_return();
}

static void test_choose_when_apart_then_passes(void **state)
{
	struct held h;

	hold(&h, hold_borrowed);
	assert_int_equal(xm_fd_choose(is_apart), 0);
	let_go(&h);
	turn_now();
}

/* ---- limits --------------------------------------------------------------------------------------------------- */

static void test_choose_when_borrower_is_stuck_then_once_for_the_limit(void **state)
{
	uint64_t start = xm_now_ns(), took;
	struct held h, second;

	hold(&h, hold_borrowed);
	xm_fd_chosen(xm_fd_choose(not_apart));
	took = xm_now_ns() - start;
	assert_true(took >= XM_FD_CHOOSER_NS && took < 20 * XM_FD_CHOOSER_NS);
	turn_now(); /* does not wait again */
	/* it is not counted any more, and must not count another down */
	hold(&second, hold_borrowed);
	let_go(&h);
	assert_int_equal(xm_fd_choose(is_apart), 0);
	let_go(&second);
	turn_now();
}

static void test_borrow_when_chooser_is_stuck_then_once_for_the_limit(void **state)
{
	uint64_t start = xm_now_ns(), took;
	uint32_t turn = turn_now(), next;
	struct held h, second;

	hold(&h, hold_chosen);
	xm_fd_borrow();
	xm_fd_return();
	took = xm_now_ns() - start;
	assert_true(took >= XM_FD_BORROWER_NS && took < 500 * XM_FD_BORROWER_NS);
	next = turn_now();
	assert_int_not_equal(next, turn);
	xm_fd_borrow(); /* does not wait again */
	xm_fd_return();
	assert_int_equal(turn_now(), next);
	hold(&second, hold_chosen);
	let_go(&h);
	xm_fd_borrow(); /* but for the second */
	xm_fd_return();
	assert_int_not_equal(turn_now(), next);
	let_go(&second);
}

static void test_choose_when_borrower_returns_then_wakes(void **state)
{
	struct held borrower, chooser;
	uint64_t start;
	int before = xm_load(&waits);

	for (int i = 0; i < 20; i++, before++) {
		hold(&borrower, hold_borrowed);
		sem_init(&chooser.in, 0, 0);
		sem_init(&chooser.out, 0, 1);
		pthread_create(&chooser.thread, NULL, hold_chosen, &chooser);
		while (xm_load(&waits) == before)
			sched_yield();
		start = xm_now_ns();
		let_go(&borrower);
		sem_wait(&chooser.in);
		pthread_join(chooser.thread, NULL);
		if (xm_now_ns() - start < XM_FD_CHOOSER_NS / 2)
			return; /* else it may have been a busy machine: again */
	}
	fail_msg("it sleeps until the limit");
}

/* ---- fork ----------------------------------------------------------------------------------------------------- */

static void fork_while(void *(*how)(void *))
{
	struct held other;
	int status = 0;
	pid_t pid;

	hold(&other, how);
	pid = fork();
	if (!pid) {
		uint32_t turn;

		xm_fd_gate_forked();
		xm_store(&waits, 0);
		turn = xm_fd_choose(not_apart);
		xm_fd_chosen(turn);
		xm_fd_borrow();
		xm_fd_return();
		_exit(waits || xm_fd_choose(not_apart) != turn);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	let_go(&other);
	assert_int_equal(status, 0);
}

static void test_child_when_others_were_inside_then_waits_for_nobody(void **state)
{
	fork_while(hold_borrowed);
	fork_while(hold_chosen);
}

/* ---- the table of own descriptors --------------------------------------------------------------------------- */

static void test_place_when_opened_then_high_and_ours(void **state)
{
	int low, high;

	xm_fd_borrow();
	low = xm_sys_open("/dev/null", O_RDONLY | O_CLOEXEC);
	high = xm_fd_place(low);
	assert_int_equal(xm_fd_place(high), high);
	xm_fd_return();
	assert_true(high > low);
	assert_int_equal(fcntl(low, F_GETFD), -1);
	assert_int_equal(fcntl(high, F_GETFD), FD_CLOEXEC);
	assert_true(xm_fd_is_ours(high));
	xm_sys_close(high);
	assert_false(xm_fd_is_ours(high));
}

static void test_ours_when_vfork_child_looks_then_parents_still(void **state)
{
	int status = 0, fd;
	pid_t pid;

	xm_fd_borrow();
	fd = xm_fd_place(xm_sys_open("/dev/null", O_RDONLY | O_CLOEXEC));
	xm_fd_return();
	pid = vfork();
	if (!pid) {
		xm_sys_close(fd);
		_exit(xm_fd_is_ours(fd));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_true(xm_fd_is_ours(fd));
	xm_sys_close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_both_when_at_once_then_never_inside_together),
		cmocka_unit_test(test_handler_when_borrowing_then_runs_afterwards),
		cmocka_unit_test(test_handler_when_choosing_then_borrows_without_waiting),
		cmocka_unit_test(test_choose_when_own_thread_borrows_then_passes),
		cmocka_unit_test(test_choose_when_apart_then_passes),
		cmocka_unit_test(test_choose_when_borrower_is_stuck_then_once_for_the_limit),
		cmocka_unit_test(test_borrow_when_chooser_is_stuck_then_once_for_the_limit),
		cmocka_unit_test(test_choose_when_borrower_returns_then_wakes),
		cmocka_unit_test(test_child_when_others_were_inside_then_waits_for_nobody),
		cmocka_unit_test(test_place_when_opened_then_high_and_ours),
		cmocka_unit_test(test_ours_when_vfork_child_looks_then_parents_still),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
