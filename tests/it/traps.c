/* SPDX-License-Identifier: Apache-2.0 */
/*
 * traps [ROW...] - traps of memory itself: what the kernel writes by itself, stacks in external
 * memory, futexes, protections, advice, locks, and calls that race with eviction. See traps.h.
 */
#include "traps.h"

#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <ucontext.h>

#define STACK_BYTES (128ul << 10)
#define N 256ul
#define LEN (N * PAGE)

static int __attribute__((noinline)) deep(int n)
{
	volatile char frame[512];

	frame[0] = (char)n;
	frame[511] = (char)n;
	return n ? deep(n - 1) + (frame[0] == (char)n && frame[511] == (char)n) : 0;
}

static pthread_t start_on(void *stack, void *(*fn)(void *), void *arg)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	CHECK(!pthread_attr_setstack(&attr, stack, STACK_BYTES));
	FATAL(!pthread_create(&thread, &attr, fn, arg));
	pthread_attr_destroy(&attr);
	return thread;
}

static bool joined_in_time(pthread_t thread)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 40;
	return pthread_timedjoin_np(thread, NULL, &until) == 0;
}

/* ---- what the kernel writes when a thread exits ---------------------------------------------------------- */

static sem_t go, there;

static void *waits_and_ends(void *arg)
{
	CHECK(deep(100) == 100);
	sem_post(&there);
	sem_wait(&go);
	return arg;
}

static uint32_t gate; /* a futex in local memory */

/* Waits at the gate and exits, and its own memory is not touched in between: only the kernel writes there. */
static void *ends_without_a_touch(void *arg)
{
	sem_post(&there);
	__asm__ volatile("1: mov %[futex], %%eax\n\t"
			 "lea %[gate], %%rdi\n\t"
			 "mov %[wait], %%esi\n\t"
			 "xor %%edx, %%edx\n\t"
			 "xor %%r10d, %%r10d\n\t"
			 "syscall\n\t"
			 "cmpl $0, %[gate]\n\t"
			 "je 1b\n\t"
			 "mov %[exit], %%eax\n\t"
			 "xor %%edi, %%edi\n\t"
			 "syscall"
			 :
			 : [gate] "m"(gate), [futex] "i"(SYS_futex), [exit] "i"(SYS_exit),
			   [wait] "i"(FUTEX_WAIT_PRIVATE)
			 : "rax", "rdi", "rsi", "rdx", "r10", "rcx", "r11", "memory");
	return arg;
}

static void exits_on_absent_word(char **stack)
{
	pthread_t thread[8];

	for (int i = 0; i < 8; i++) {
		stack[i] = i % 2 ? stack[i] : heap(STACK_BYTES + PAGE);
		thread[i] = start_on(stack[i], ends_without_a_touch, NULL);
	}
	for (int i = 0; i < 8; i++)
		sem_wait(&there);
	for (int round = 0; round < 2; round++) {
		press();
		for (int i = 0; i < 8; i++)
			madvise((char *)((uintptr_t)stack[i] / PAGE * PAGE), STACK_BYTES + PAGE,
				MADV_PAGEOUT);
	}
	__atomic_store_n(&gate, 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, &gate, FUTEX_WAKE_PRIVATE, 100, NULL, NULL, 0);
	for (int i = 0; i < 8; i++)
		CHECK(joined_in_time(thread[i]));
}

static void thread_exit_word(void)
{
	char *stack[8] = { NULL };
	pthread_t thread[8];

	if (!getenv("GLIBC_TUNABLES")) {
		/* with rseq the kernel looks at the thread's descriptor each time that it runs again */
		setenv("GLIBC_TUNABLES", "glibc.pthread.rseq=0", 1);
		execl("/proc/self/exe", "traps", "-", __func__, NULL);
		_exit(97);
	}
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 8; i++) {
			/* neither aligned nor alone on its pages, as part of something larger, and a mapping */
			if (i % 2 == 0)
				stack[i] = map(STACK_BYTES);
			else if (!stack[i]) /* one that an earlier thread has left is used again */
				stack[i] = heap(STACK_BYTES + PAGE) + 4000 * (i % 4 == 1);
			thread[i] = start_on(stack[i], waits_and_ends, NULL);
		}
		for (int i = 0; i < 8; i++)
			sem_wait(&there);
		press();
		for (int i = 0; i < 8; i++) {
			/* asked to go, and may not: the descriptor is at the upper end */
			madvise((char *)((uintptr_t)stack[i] / PAGE * PAGE), STACK_BYTES, MADV_PAGEOUT);
			sem_post(&go);
		}
		press();
		for (int i = 0; i < 8; i++) {
			CHECK(joined_in_time(thread[i]));
			if (i % 2 == 0)
				CHECK(munmap(stack[i], STACK_BYTES) == 0);
		}
	}
	exits_on_absent_word(stack);
}

#define ROBUST 6

struct robust {
	pthread_mutex_t lock;
	char between[PAGE + 200];
};

static struct robust *robust;

static void *dies_as_owner(void *arg)
{
	for (int i = 0; i < ROBUST; i++)
		CHECK(pthread_mutex_lock(&robust[i].lock) == 0);
	sem_post(&there);
	sem_wait(&go);
	return NULL;
}

static void *wants_the_first(void *arg)
{
	int r = pthread_mutex_lock(&robust[0].lock);

	CHECK(r == EOWNERDEAD && pthread_mutex_consistent(&robust[0].lock) == 0);
	CHECK(pthread_mutex_unlock(&robust[0].lock) == 0);
	return NULL;
}

static void robust_mutex(void)
{
	pthread_mutexattr_t attr;
	pthread_t owner, heir;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	for (int round = 0; round < 3; round++) {
		robust = (struct robust *)(heap(ROBUST * sizeof(*robust) + 64) + 40);
		pthread_mutexattr_setprotocol(&attr, round == 2 ? PTHREAD_PRIO_INHERIT : PTHREAD_PRIO_NONE);
		for (int i = 0; i < ROBUST; i++)
			CHECK(!pthread_mutex_init(&robust[i].lock, &attr));
		FATAL(!pthread_create(&owner, NULL, dies_as_owner, NULL));
		sem_wait(&there);
		FATAL(!pthread_create(&heir, NULL, wants_the_first, NULL));
		press();
		madvise((char *)((uintptr_t)robust / PAGE * PAGE), 8 * PAGE, MADV_PAGEOUT);
		sem_post(&go);
		CHECK(joined_in_time(owner) && joined_in_time(heir));
		for (int i = 1; i < ROBUST; i++) {
			CHECK(pthread_mutex_lock(&robust[i].lock) == EOWNERDEAD);
			CHECK(pthread_mutex_consistent(&robust[i].lock) == 0);
			CHECK(pthread_mutex_unlock(&robust[i].lock) == 0);
		}
		for (int i = 0; i < ROBUST; i++)
			CHECK(pthread_mutex_destroy(&robust[i].lock) == 0);
	}
	pthread_mutexattr_destroy(&attr);
}

/* ---- stacks ------------------------------------------------------------------------------------------------- */

static bool enough;

static void *runs_on(void *arg)
{
	sem_post(&there);
	while (!__atomic_load_n(&enough, __ATOMIC_RELAXED))
		CHECK(deep(180) == 180);
	return NULL;
}

static void external_stack(void)
{
	char *at = heap(STACK_BYTES);
	pthread_t thread = start_on(at, runs_on, NULL);

	sem_wait(&there);
	for (int i = 0; i < 20; i++) {
		if (i % 5 == 0)
			press();
		madvise(at, STACK_BYTES, MADV_PAGEOUT);
	}
	__atomic_store_n(&enough, true, __ATOMIC_RELAXED);
	CHECK(joined_in_time(thread));
}

static volatile sig_atomic_t seen, seen_inside;
static char *signal_stack;

static void on_signal(int sig)
{
	char here;

	CHECK(deep(20) == 20);
	seen++;
	seen_inside += &here >= signal_stack && &here < signal_stack + STACK_BYTES;
}

static ucontext_t home, other;
static int steps;

static void coroutine(void)
{
	char *lowest = (char *)((uintptr_t)&lowest / PAGE * PAGE) - 2 * PAGE;

	for (int i = 0; i < 5; i++) {
		CHECK(deep(150) == 150);
		/* the frame of a signal reaches into pages of this stack that are away */
		away(signal_stack, (size_t)(lowest - signal_stack));
		raise(SIGUSR1);
		steps++;
		swapcontext(&other, &home);
	}
}

static void coroutine_stack(void)
{
	struct sigaction act = { .sa_handler = on_signal };

	signal_stack = heap(STACK_BYTES);
	FATAL(!getcontext(&other) && !sigaction(SIGUSR1, &act, NULL));
	other.uc_stack.ss_sp = signal_stack;
	other.uc_stack.ss_size = STACK_BYTES;
	other.uc_link = &home;
	makecontext(&other, coroutine, 0);
	for (int i = 0; i < 6; i++) {
		if (i)
			away(signal_stack, STACK_BYTES);
		CHECK(swapcontext(&home, &other) == 0);
	}
	CHECK(steps == 5 && seen == 5 && seen_inside == 5);
}

static void alternate_stack(void)
{
	struct sigaction act = { .sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_RESTART };
	stack_t on = { .ss_size = STACK_BYTES }, off = { .ss_flags = SS_DISABLE }, old;
	struct timespec tick = { 0, 2000000 };

	signal_stack = heap(STACK_BYTES);
	on.ss_sp = signal_stack;
	CHECK(sigaltstack(&on, NULL) == 0 && sigaction(SIGUSR1, &act, NULL) == 0);
	for (int i = 0; i < 10; i++) {
		away(signal_stack, STACK_BYTES);
		if (i % 2)
			raise(SIGUSR1);
		else
			kill(getpid(), SIGUSR1);
		for (int n = 0; seen <= i && n < 10000; n++)
			nanosleep(&tick, NULL); /* another thread of the process may have been given it */
	}
	CHECK(seen == 10 && seen_inside == 10);
	CHECK(sigaltstack(&off, &old) == 0 && old.ss_sp == signal_stack);
}

/* ---- futexes --------------------------------------------------------------------------------------------------- */

static long futex(uint32_t *word, int op, uint32_t value, void *time_or_n, uint32_t *second, uint32_t value3)
{
	return syscall(SYS_futex, word, op, value, time_or_n, second, value3);
}

static uint32_t *word;
static int private_flag;

static void *sleeps_on_word(void *arg)
{
	long r;

	do
		r = futex(word, FUTEX_WAIT | private_flag, 0, NULL, NULL, 0);
	while (r < 0 && errno == EINTR);
	CHECK(r == 0);
	return NULL;
}

static void futex_over_eviction(void)
{
	char *p = map(LEN);
	pthread_t thread[2];

	word = (uint32_t *)(p + 20 * PAGE);
	for (int round = 0; round < 4; round++) {
		int woken = 0;

		private_flag = round % 2 ? FUTEX_PRIVATE_FLAG : 0;
		for (int i = 0; i < 2; i++)
			FATAL(!pthread_create(&thread[i], NULL, sleeps_on_word, NULL));
		/* sleeping or about to: the page goes under them again and again */
		for (int i = 0; woken < 2 && i < 100000; i++) {
			away(word, sizeof(*word));
			woken += (int)futex(word, FUTEX_WAKE | private_flag, 1, NULL, NULL, 0);
		}
		CHECK(woken == 2);
		for (int i = 0; i < 2; i++)
			CHECK(joined_in_time(thread[i]));
	}
	CHECK(munmap(p, LEN) == 0);
}

static void futex_on_absent(void)
{
	uint32_t *a = map(LEN), *b = a + 100 * PAGE / 4;
	struct timespec soon = { 0, 1000000 };

	for (int flag = 0; flag <= FUTEX_PRIVATE_FLAG; flag += FUTEX_PRIVATE_FLAG) {
		*a = 7;
		*b = 9;
		away(a, LEN);
		CHECK_ERR(futex(a, FUTEX_WAIT | flag, 6, NULL, NULL, 0), EAGAIN);
		away(a, LEN);
		CHECK_ERR(futex(a, FUTEX_WAIT | flag, 7, &soon, NULL, 0), ETIMEDOUT);
		away(a, LEN);
		CHECK(futex(a, FUTEX_WAKE | flag, 1, NULL, NULL, 0) == 0);
		away(a, LEN);
		CHECK(futex(a, FUTEX_WAKE_OP | flag, 1, (void *)1ul, b,
			    FUTEX_OP(FUTEX_OP_ADD, 5, FUTEX_OP_CMP_EQ, 9)) == 0);
		CHECK(*b == 14);
		away(a, LEN);
		CHECK(futex(a, FUTEX_CMP_REQUEUE | flag, 1, (void *)1ul, b, 7) == 0);
		*a = 0;
		away(a, LEN);
		CHECK(futex(a, FUTEX_LOCK_PI | flag, 0, NULL, NULL, 0) == 0);
		CHECK((*a & FUTEX_TID_MASK) == (uint32_t)getpid());
		away(a, LEN);
		CHECK(futex(a, FUTEX_UNLOCK_PI | flag, 0, NULL, NULL, 0) == 0 && *a == 0);
	}
	CHECK(munmap(a, LEN) == 0);
}

/* ---- protections ------------------------------------------------------------------------------------------------- */

static size_t differs_from(const char *base, size_t first, size_t pages, uint64_t seed)
{
	const uint64_t *w = (const uint64_t *)base;
	size_t n = 0;

	for (size_t i = first * PAGE / 8; i < (first + pages) * PAGE / 8; i += 64)
		n += w[i] != pattern(seed, i);
	return n;
}

static void protected_pages(void)
{
	char *p = map(LEN);

	fill(p, LEN, 1);
	CHECK(mprotect(p, LEN / 2, PROT_NONE) == 0 && mprotect(p + LEN / 2, LEN / 2, PROT_READ) == 0);
	for (int i = 0; i < 2; i++) {
		away(p, LEN);
		CHECK(differs_from(p, N / 2, N / 2, 1) == 0);
		CHECK(WRITE_FAULTS(p + LEN / 2 + PAGE) && READ_FAULTS(p + 3 * PAGE) && WRITE_FAULTS(p));
	}
	CHECK(mprotect(p, LEN / 2, PROT_READ | PROT_WRITE) == 0);
	CHECK(differs(p, LEN, 1) == 0);
	fill(p, LEN / 2, 2);
	CHECK(mprotect(p, LEN, PROT_NONE) == 0);
	away(p, LEN);
	CHECK(mprotect(p, LEN, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
	CHECK(differs(p, LEN / 2, 2) == 0 && differs_from(p, N / 2, N / 2, 1) == 0);
	CHECK(munmap(p, LEN) == 0);
}

/* Runs that are fetched or dropped together cross pages of every kind. */
static void fetch_over_boundary(void)
{
	static const int prot[] = { PROT_READ | PROT_WRITE, PROT_READ, PROT_NONE, PROT_READ | PROT_WRITE };

	for (size_t step = 1; step <= 4; step++) {
		char *p = map(LEN);

		fill(p, LEN, 3);
		away(p, LEN);
		for (size_t i = 0; i < N; i += step)
			CHECK(mprotect(p + i * PAGE, (i + step > N ? N - i : step) * PAGE,
				       prot[i / step % 4]) == 0);
		CHECK(munmap(p + 200 * PAGE, PAGE) == 0);
		CHECK(madvise(p + 100 * PAGE, 8 * PAGE, MADV_WILLNEED) == 0);
		for (size_t i = 0; i < N; i++)
			CHECK(i == 200 || prot[i / step % 4] == PROT_NONE || !differs_from(p, i, 1, 3));
		CHECK(READ_FAULTS(p + 200 * PAGE) && READ_FAULTS(p + (2 * step) * PAGE));
		away(p, 200 * PAGE);
		for (size_t i = 0; i < N; i++)
			if (i != 200 && prot[i / step % 4] == (PROT_READ | PROT_WRITE))
				fill(p + i * PAGE, PAGE, i);
		press();
		CHECK(mprotect(p, 200 * PAGE, PROT_READ) == 0);
		CHECK(mprotect(p + 201 * PAGE, LEN - 201 * PAGE, PROT_READ) == 0);
		for (size_t i = 0; i < N; i++)
			if (prot[i / step % 4] == (PROT_READ | PROT_WRITE))
				CHECK(i == 200 || !differs(p + i * PAGE, PAGE, i));
			else
				CHECK(i == 200 || !differs_from(p, i, 1, 3));
		CHECK(munmap(p, LEN) == 0);
	}
}

/* ---- advice and locks ----------------------------------------------------------------------------------------------- */

static void free_advice(void)
{
	char *p = map(LEN);
	size_t bad = 0;

	for (int round = 0; round < 3; round++) {
		fill(p, LEN, 4);
		if (round)
			away(p, LEN);
		CHECK(madvise(p, LEN, MADV_FREE) == 0);
		for (size_t i = 0; i < N; i += 2)
			((uint64_t *)p)[i * PAGE / 8] = i + 1;
		away(p, LEN);
		for (size_t i = 0; i < N; i++) {
			uint64_t v = ((uint64_t *)p)[i * PAGE / 8], w = ((uint64_t *)p)[i * PAGE / 8 + 64];

			bad += i % 2 ? v != 0 && v != pattern(4, i * PAGE / 8) : v != i + 1;
			bad += w != 0 && w != pattern(4, i * PAGE / 8 + 64);
		}
	}
	CHECK(bad == 0);
	CHECK(munmap(p, LEN) == 0);
}

static void locked_pages(void)
{
	char *p = map(LEN);

	fill(p, LEN, 5);
	away(p, LEN);
	if (mlock(p + 10 * PAGE, 64 * PAGE)) {
		CHECK(errno == ENOMEM || errno == EPERM);
		left_out("mlock is refused here");
		return;
	}
	CHECK(all_resident(p + 10 * PAGE, 64 * PAGE));
	for (int i = 0; i < 3; i++)
		press();
	CHECK(madvise(p + 10 * PAGE, 4 * PAGE, MADV_PAGEOUT) == 0 || errno == EINVAL);
	CHECK(all_resident(p + 10 * PAGE, 64 * PAGE));
	CHECK_ERR(madvise(p + 10 * PAGE, PAGE, MADV_DONTNEED), EINVAL);
	CHECK_ERR(madvise(p + 9 * PAGE, 4 * PAGE, MADV_FREE), EINVAL);
	CHECK(differs_from(p, 10, N - 10, 5) == 0);
	CHECK(mprotect(p + 20 * PAGE, 10 * PAGE, PROT_READ) == 0);
	CHECK(munlock(p, LEN) == 0);
	away(p, LEN);
	CHECK(differs_from(p, 10, N - 10, 5) == 0);
	CHECK(munmap(p, LEN) == 0);
}

static void lock_all(void)
{
	char *p = map(LEN), *q;

	fill(p, LEN, 6);
	away(p, LEN);
	/* all of it is more than the budget: refused then, and nothing is lost */
	if (mlockall(MCL_CURRENT | MCL_FUTURE))
		CHECK(errno == ENOMEM || errno == EPERM);
	CHECK(differs(p, LEN, 6) == 0);
	q = malloc(LEN / 4);
	if (q)
		fill(q, LEN / 4, 7);
	CHECK(munlockall() == 0);
	away(p, LEN);
	CHECK(differs(p, LEN, 6) == 0 && (!q || differs(q, LEN / 4, 7) == 0));
	free(q);
	CHECK(munmap(p, LEN) == 0);
}

/* ---- behind the runtime's back ------------------------------------------------------------------------------------- */

static long bare_madvise(void *p, size_t len, int advice)
{
	long r;

	__asm__ volatile("syscall"
			 : "=a"(r)
			 : "a"(SYS_madvise), "D"(p), "S"(len), "d"((long)advice)
			 : "rcx", "r11", "memory");
	return r;
}

/* Pages of [p, p + LEN) that are neither all zero nor as they were. */
static size_t neither(const char *p, uint64_t seed)
{
	size_t n = 0;

	for (size_t i = 0; i < N; i++)
		n += nonzero(p + i * PAGE, PAGE) && differs_from(p, i, 1, seed);
	return n;
}

static void raw_dontneed(void)
{
	unsigned char before[N], after[N];
	char *p = map(LEN);
	size_t old = 0;

	/* resident and dirty, dropped by the kernel alone: zeros */
	for (int tries = 0; tries < 5; tries++) {
		fill(p, LEN, 8);
		CHECK(mincore(p, LEN, before) == 0);
		CHECK(bare_madvise(p, LEN, MADV_DONTNEED) == 0);
		CHECK(mincore(p, LEN, after) == 0);
		for (size_t i = 0; i < N; i++) /* an evicted one comes back: nobody saw the call */
			old += (before[i] & after[i] & 1) && nonzero(p + i * PAGE, PAGE);
		CHECK(neither(p, 8) == 0);
	}
	CHECK(old == 0);
	/* evicted afterwards: the runtime believes that there is something to copy */
	fill(p, LEN, 9);
	CHECK(bare_madvise(p, LEN / 2, MADV_DONTNEED) == 0);
	away(p, LEN);
	CHECK(neither(p, 9) == 0);
	CHECK(differs_from(p, N / 2, N / 2, 9) == 0);
	/* clean ones, written again, and calls of the kernel on them */
	away(p, LEN);
	CHECK(differs_from(p, N / 2, N / 2, 9) == 0);
	CHECK(bare_madvise(p, LEN, MADV_DONTNEED) == 0);
	fill(p, LEN, 10);
	away(p, LEN);
	CHECK(differs(p, LEN, 10) == 0);
	CHECK(bare_madvise(p, LEN, MADV_DONTNEED) == 0);
	CHECK(munmap(p, LEN) == 0);
}

/* ---- eviction races with everything --------------------------------------------------------------------------------- */

#define RACERS 3
#define RACE_PAGES 128ul

static struct racer {
	char *p; /* atomic: where its memory is, for those that only look */
	unsigned seed;
	size_t rounds;
} racers[RACERS];

/* Says what is there instead: zeros, or something else. */
static void race_failed(int what, const char *p, size_t len, uint64_t seed)
{
	size_t bad = 0, zero = 0, first = 0;

	for (size_t i = 0; i < len / PAGE; i++) {
		if (!differs_from(p, i, 1, seed))
			continue;
		first = bad++ ? first : i;
		zero += !nonzero(p + i * PAGE, PAGE);
	}
	fprintf(stderr, "case %d: %zu of %zu pages are wrong, the first is %zu, %zu are zeros\n", what, bad,
		len / PAGE, first, zero);
	CHECK(!"memory keeps its contents");
}

/* One life of a mapping; what must be there is known at every step. */
static void race_round(struct racer *r, uint64_t seed)
{
	size_t len = RACE_PAGES * PAGE, bytes = ((size_t)rand_r(&r->seed) % (RACE_PAGES / 2) + 1) * PAGE;
	char *p = map(len), *q;
	int what = rand_r(&r->seed) % 6;

	__atomic_store_n(&r->p, p, __ATOMIC_RELAXED);
	fill(p, len, seed);
	switch (what) {
	case 0:
		CHECK(mprotect(p, bytes, PROT_READ) == 0 && differs(p, len, seed) == 0);
		CHECK(mprotect(p, bytes, PROT_NONE) == 0 && mprotect(p, bytes, PROT_READ | PROT_WRITE) == 0);
		break;
	case 1:
		q = mremap(p, len, 2 * len, MREMAP_MAYMOVE);
		FATAL(q != MAP_FAILED);
		CHECK(nonzero(q + len, len) == 0);
		CHECK(munmap(q + len, len) == 0);
		p = q;
		break;
	case 2:
		q = mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, map(len));
		FATAL(q != MAP_FAILED);
		p = q;
		break;
	case 3:
		CHECK(madvise(p, bytes, MADV_DONTNEED) == 0 && nonzero(p, bytes) == 0);
		fill(p, len, seed);
		break;
	case 4:
		CHECK(munmap(p + len - bytes, bytes) == 0);
		len -= bytes;
		break;
	default: CHECK(madvise(p, len, rand_r(&r->seed) % 2 ? MADV_PAGEOUT : MADV_WILLNEED) == 0);
	}
	__atomic_store_n(&r->p, p, __ATOMIC_RELAXED);
	if (differs(p, len, seed))
		race_failed(what, p, len, seed);
	CHECK(munmap(p, len) == 0);
}

static void *races(void *arg)
{
	struct racer *r = arg;

	while (!__atomic_load_n(&enough, __ATOMIC_RELAXED))
		race_round(r, r->seed + ++r->rounds);
	return NULL;
}

/* Lets the kernel look at memory that comes and goes: data or EFAULT, nothing else. */
static void *looks(void *arg)
{
	int fd = memfd_create("looks", MFD_CLOEXEC);
	unsigned seed = *(unsigned *)arg;

	while (!__atomic_load_n(&enough, __ATOMIC_RELAXED)) {
		char *p = __atomic_load_n(&racers[rand_r(&seed) % RACERS].p, __ATOMIC_RELAXED);

		if (p && pwrite(fd, p + (size_t)rand_r(&seed) % RACE_PAGES * PAGE, PAGE, 0) < 0)
			CHECK(errno == EFAULT);
	}
	close(fd);
	return NULL;
}

static void race_with_eviction(void)
{
	const char *s = getenv("TRAPS_SECONDS");
	unsigned seed = traps_seed(), look_seed = seed;
	time_t until = time(NULL) + (s ? atoi(s) : 3);
	pthread_t thread[RACERS + 1];
	size_t rounds = 0;

	for (int i = 0; i < RACERS; i++) {
		racers[i].seed = seed + (unsigned)i;
		FATAL(!pthread_create(&thread[i], NULL, races, &racers[i]));
	}
	FATAL(!pthread_create(&thread[RACERS], NULL, looks, &look_seed));
	while (time(NULL) < until)
		press(); /* in an ordinary run this thread only spins */
	__atomic_store_n(&enough, true, __ATOMIC_RELAXED);
	for (int i = 0; i <= RACERS; i++)
		CHECK(joined_in_time(thread[i]));
	for (int i = 0; i < RACERS; i++)
		rounds += racers[i].rounds;
	CHECK(rounds > 0);
	fprintf(stderr, "race_with_eviction: %zu rounds\n", rounds);
}

int main(int argc, char **argv)
{
	static const struct row rows[] = {
		{ "thread_exit_word", thread_exit_word },
		{ "robust_mutex", robust_mutex },
		{ "external_stack", external_stack },
		{ "coroutine_stack", coroutine_stack },
		{ "alternate_stack", alternate_stack },
		{ "futex_over_eviction", futex_over_eviction },
		{ "futex_on_absent", futex_on_absent },
		{ "protected_pages", protected_pages },
		{ "fetch_over_boundary", fetch_over_boundary },
		{ "free_advice", free_advice },
		{ "locked_pages", locked_pages },
		{ "lock_all", lock_all },
		{ "raw_dontneed", raw_dontneed },
		{ "race_with_eviction", race_with_eviction },
		{ NULL, NULL },
	};

	FATAL(!sem_init(&go, 0, 0) && !sem_init(&there, 0, 0));
	return traps_main(rows, argc, argv);
}
