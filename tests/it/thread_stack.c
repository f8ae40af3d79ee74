/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thread_stack [MIB] - what the kernel writes or reads by itself in the program's memory: the word
 * that it clears when a thread exits (in a stack that the program supplied), robust mutexes whose
 * owner dies, futexes with sleepers, signal frames on an alternate stack, coroutine stacks. Hangs
 * where such a write is lost: an alarm ends it.
 */
#include "check.h"

#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <ucontext.h>

#define STACK_BYTES (256ul << 10)

static char *ballast;
static size_t ballast_bytes;

/* With a small budget everything else is far away afterwards. */
static void press(void)
{
	CHECK(differs(ballast, ballast_bytes, 1) == 0);
}

static void *map(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	FATAL(p != MAP_FAILED);
	return p;
}

static pthread_t start_on(void *stack, void *(*fn)(void *), void *arg, int detached)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	CHECK(!pthread_attr_setstack(&attr, stack, STACK_BYTES));
	if (detached)
		pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	FATAL(!pthread_create(&thread, &attr, fn, arg));
	pthread_attr_destroy(&attr);
	return thread;
}

/* ---- stacks ------------------------------------------------------------------------------------------- */

static sem_t *go, *there; /* in the heap */

static int __attribute__((noinline)) deep(int n)
{
	volatile char frame[512];

	frame[0] = (char)n;
	frame[511] = (char)n;
	return n ? deep(n - 1) + (frame[511] == (char)n) : 0;
}

static void *on_given_stack(void *arg)
{
	int depth = deep(200);

	sem_post(there);
	sem_wait(go); /* meanwhile the stack may have been taken away */
	CHECK(depth == 200 && deep(250) == 250);
	return arg;
}

static void test_join_on_given_stack(int how)
{
	void *stack = how % 2 ? map(STACK_BYTES) : aligned_alloc(PAGE, STACK_BYTES), *value = NULL;
	struct timespec until;
	pthread_t thread;
	int r;

	FATAL(stack);
	thread = start_on(stack, on_given_stack, stack, 0);
	sem_wait(there);
	press();
	sem_post(go);
	if (how % 3 == 1) {
		press(); /* the thread is probably exiting right now */
		while ((r = pthread_tryjoin_np(thread, &value)) == EBUSY)
			sched_yield();
	} else if (how % 3 == 2) {
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += 50;
		r = pthread_timedjoin_np(thread, &value, &until);
	} else {
		press();
		r = pthread_join(thread, &value);
	}
	CHECK(r == 0 && value == stack);
	if (how % 2)
		CHECK(munmap(stack, STACK_BYTES) == 0);
	else
		free(stack);
}

static void test_detached_on_given_stack(void)
{
	for (int i = 0; i < 4; i++) {
		start_on(map(STACK_BYTES), on_given_stack, NULL, 1);
		sem_wait(there);
		press();
		sem_post(go);
	}
}

/* ---- robust mutexes ------------------------------------------------------------------------------------ */

struct robust {
	pthread_mutex_t first;
	char between[3 * PAGE];
	pthread_mutex_t second;
};

static void *dying_owner(void *arg)
{
	struct robust *r = arg;

	CHECK(pthread_mutex_lock(&r->first) == 0);
	CHECK(pthread_mutex_lock(&r->second) == 0);
	sem_post(there);
	sem_wait(go);
	return NULL; /* owns both */
}

static void take_over(pthread_mutex_t *m)
{
	CHECK(pthread_mutex_lock(m) == EOWNERDEAD);
	CHECK(pthread_mutex_consistent(m) == 0);
	CHECK(pthread_mutex_unlock(m) == 0);
	CHECK(pthread_mutex_lock(m) == 0);
	CHECK(pthread_mutex_unlock(m) == 0);
	CHECK(pthread_mutex_destroy(m) == 0);
}

static void test_robust_mutex(void)
{
	struct robust *r = malloc(sizeof(*r));
	pthread_mutexattr_t attr;
	pthread_t thread;

	FATAL(r);
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	CHECK(!pthread_mutex_init(&r->first, &attr) && !pthread_mutex_init(&r->second, &attr));
	FATAL(!pthread_create(&thread, NULL, dying_owner, r));
	sem_wait(there);
	press();
	sem_post(go);
	press();
	CHECK(pthread_join(thread, NULL) == 0);
	take_over(&r->first);
	take_over(&r->second);
	pthread_mutexattr_destroy(&attr);
	free(r);
}

/* ---- futexes with sleepers -------------------------------------------------------------------------------- */

struct queue {
	pthread_mutex_t lock;
	char pad1[PAGE];
	pthread_cond_t cond;
	char pad2[PAGE];
	int turn;
};

static void *waiter(void *arg)
{
	struct queue *q = arg;

	pthread_mutex_lock(&q->lock);
	while (q->turn < 10)
		pthread_cond_wait(&q->cond, &q->lock);
	q->turn++;
	pthread_mutex_unlock(&q->lock);
	return NULL;
}

static void test_sleepers(void)
{
	struct queue *q = calloc(1, sizeof(*q));
	pthread_t thread[8];

	FATAL(q && !pthread_mutex_init(&q->lock, NULL) && !pthread_cond_init(&q->cond, NULL));
	for (int i = 0; i < 8; i++)
		FATAL(!pthread_create(&thread[i], NULL, waiter, q));
	for (int i = 0; i < 10; i++) {
		press();
		pthread_mutex_lock(&q->lock);
		q->turn++;
		pthread_cond_broadcast(&q->cond);
		pthread_mutex_unlock(&q->lock);
	}
	for (int i = 0; i < 8; i++)
		CHECK(pthread_join(thread[i], NULL) == 0);
	CHECK(q->turn == 18);
	pthread_cond_destroy(&q->cond);
	pthread_mutex_destroy(&q->lock);
	free(q);
}

/* ---- the last thread ends the process ------------------------------------------------------------------------ */

static void *last_thread(void *arg)
{
	pthread_join(*(pthread_t *)arg, NULL);
	press();
	if (check_failures)
		_exit(1);
	return NULL;
}

static void test_main_thread_ends_first(void)
{
	pthread_t *self = malloc(sizeof(*self)), thread;
	pid_t pid;

	FATAL(self);
	pid = fork();
	if (!pid) {
		alarm(60);
		*self = pthread_self();
		FATAL(!pthread_create(&thread, NULL, last_thread, self));
		pthread_exit(NULL);
	}
	CHECK(wait_for(pid) == 0);
	free(self);
}

/* ---- frames that the kernel pushes, stacks that the program switches ---------------------------------------- */

static volatile sig_atomic_t signals_seen;
static char *alternate;

static void on_signal(int sig)
{
	char here;

	signals_seen += &here >= alternate && &here < alternate + STACK_BYTES;
}

static void test_alternate_stack(void)
{
	struct sigaction act = { .sa_handler = on_signal, .sa_flags = SA_ONSTACK };
	stack_t stack = { .ss_size = STACK_BYTES }, off = { .ss_flags = SS_DISABLE };

	alternate = malloc(STACK_BYTES);
	FATAL(alternate);
	stack.ss_sp = alternate;
	CHECK(sigaltstack(&stack, NULL) == 0 && sigaction(SIGUSR1, &act, NULL) == 0);
	for (int i = 0; i < 10; i++) {
		press();
		raise(SIGUSR1);
	}
	CHECK(signals_seen == 10);
	CHECK(sigaltstack(&off, NULL) == 0);
	free(alternate);
}

static ucontext_t home, away;
static int steps;

static void coroutine(void)
{
	for (int i = 0; i < 5; i++) {
		CHECK(deep(100) == 100);
		steps++;
		swapcontext(&away, &home);
	}
}

static void test_coroutine(void)
{
	char *stack = malloc(STACK_BYTES);

	FATAL(stack && !getcontext(&away));
	away.uc_stack.ss_sp = stack;
	away.uc_stack.ss_size = STACK_BYTES;
	away.uc_link = &home;
	makecontext(&away, coroutine, 0);
	for (int i = 0; i < 6; i++) {
		press();
		CHECK(swapcontext(&home, &away) == 0);
	}
	CHECK(steps == 5);
	free(stack);
}

int main(int argc, char **argv)
{
	ballast_bytes = check_bytes(argc, argv, 32);
	ballast = map(ballast_bytes);
	fill(ballast, ballast_bytes, 1);
	go = malloc(sizeof(*go));
	there = malloc(sizeof(*there));
	FATAL(go && there && !sem_init(go, 0, 0) && !sem_init(there, 0, 0));
	alarm(300);
	for (int how = 0; how < 12; how++)
		test_join_on_given_stack(how);
	test_detached_on_given_stack();
	for (int i = 0; i < 5; i++)
		test_robust_mutex();
	test_sleepers();
	test_main_thread_ends_first();
	test_alternate_stack();
	test_coroutine();
	return check_finish("thread_stack");
}
