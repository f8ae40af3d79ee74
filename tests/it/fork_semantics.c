/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fork_semantics [MIB] - whoever makes a process, and however: the child has the memory as it was
 * at that moment, for as long as it lives, and neither sees what the other writes. Both sides can
 * allocate, and the program's own fork handlers may use the heap.
 */
#include "check.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>

extern pid_t _Fork(void);
extern char **environ;

static char *area, *blank;
static size_t area_bytes;
static uint64_t area_seed = 1;
static int handler_calls[3]; /* prepare, parent, child */

/* A byte each way: says that this side has come so far, and waits for the other. */
struct meeting {
	int to_child[2], to_parent[2];
};

static void meeting_open(struct meeting *m)
{
	FATAL(pipe(m->to_child) == 0 && pipe(m->to_parent) == 0);
}

static void meeting_close(struct meeting *m)
{
	close(m->to_child[0]);
	close(m->to_child[1]);
	close(m->to_parent[0]);
	close(m->to_parent[1]);
}

static void tell(int fd[2])
{
	FATAL(write(fd[1], "x", 1) == 1);
}

static void await(int fd[2])
{
	char c;

	FATAL(read(fd[0], &c, 1) == 1);
}

/* The heap works: blocks are new, hold their contents, are freed. */
static bool heap_works(void)
{
	char *p[64];
	bool good = true;

	for (int i = 0; i < 64; i++) {
		size_t size = 100ul << (i % 12);

		p[i] = malloc(size);
		FATAL(p[i]);
		memset(p[i], i, size);
	}
	for (int i = 0; i < 64; i++) {
		size_t size = 100ul << (i % 12);

		good = good && p[i][0] == i && p[i][size - 1] == i;
		free(p[i]);
	}
	return good;
}

static void change_area(void)
{
	area_seed++;
	fill(area, area_bytes, area_seed);
}

/* What every child does: status 0 when its memory is as at the fork and is its own. */
static int child_work(uint64_t seed)
{
	CHECK(differs(area, area_bytes, seed) == 0);
	CHECK(nonzero(blank, area_bytes / 4) == 0);
	CHECK(heap_works());
	fill(area, area_bytes, seed + 1000);
	CHECK(differs(area, area_bytes, seed + 1000) == 0);
	return check_failures ? 1 : 0;
}

static void test_both_sides_write(void)
{
	struct meeting m;
	pid_t pid;

	meeting_open(&m);
	change_area();
	pid = fork();
	if (!pid) {
		uint64_t seed = area_seed;

		CHECK(differs(area, area_bytes / 2, seed) == 0);
		tell(m.to_parent);
		await(m.to_child); /* the parent has changed everything */
		_exit(child_work(seed));
	}
	await(m.to_parent);
	change_area();
	tell(m.to_child);
	CHECK(wait_for(pid) == 0);
	CHECK(differs(area, area_bytes, area_seed) == 0);
	CHECK(heap_works());
	meeting_close(&m);
}

static void test_generations(void)
{
	pid_t pid = fork();

	if (!pid) {
		pid_t grandchild;

		change_area();
		grandchild = fork();
		if (!grandchild) {
			pid_t last;

			CHECK(differs(area, area_bytes, area_seed) == 0);
			fill(area, area_bytes / 2, 77);
			last = fork();
			if (!last) {
				CHECK(differs(area, area_bytes / 2, 77) == 0);
				_exit(check_failures ? 1 : 0);
			}
			fill(area, area_bytes / 2, 78);
			CHECK(wait_for(last) == 0);
			CHECK(differs(area, area_bytes / 2, 78) == 0);
			_exit(check_failures ? 1 : 0);
		}
		change_area();
		CHECK(wait_for(grandchild) == 0);
		CHECK(differs(area, area_bytes, area_seed) == 0);
		_exit(check_failures ? 1 : 0);
	}
	CHECK(differs(area, area_bytes, area_seed) == 0);
	CHECK(wait_for(pid) == 0);
	change_area();
}

static void test_many_children_at_once(void)
{
	pid_t pid[6];

	for (int i = 0; i < 6; i++) {
		change_area();
		pid[i] = fork();
		if (!pid[i])
			_exit(child_work(area_seed));
	}
	change_area();
	for (int i = 0; i < 6; i++)
		CHECK(wait_for(pid[i]) == 0);
	CHECK(differs(area, area_bytes, area_seed) == 0);
}

/* ---- threads ------------------------------------------------------------------------------------------ */

static bool stop;
static uint64_t *noise;

static void *busy_thread(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;
	char *keep[16] = { 0 };

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		int i = rand_r(&seed) % 16;

		free(keep[i]);
		keep[i] = malloc((size_t)rand_r(&seed) % 100000 + 1);
		FATAL(keep[i]);
		keep[i][0] = 1;
		noise[rand_r(&seed) % (1 << 20)]++;
	}
	for (int i = 0; i < 16; i++)
		free(keep[i]);
	return NULL;
}

static void test_fork_beside_busy_threads(void)
{
	pthread_t thread[4];

	noise = calloc(1 << 20, sizeof(*noise));
	FATAL(noise);
	for (int i = 0; i < 4; i++)
		FATAL(!pthread_create(&thread[i], NULL, busy_thread, (void *)(uintptr_t)(i + 1)));
	for (int i = 0; i < 12; i++) {
		pid_t pid;

		change_area();
		pid = fork();
		if (!pid)
			_exit(child_work(area_seed));
		if (i % 2)
			change_area();
		CHECK(wait_for(pid) == 0);
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	free(noise);
	CHECK(differs(area, area_bytes, area_seed) == 0);
}

static void *forking_thread(void *arg)
{
	pid_t pid = fork();

	if (!pid)
		_exit(child_work(area_seed));
	CHECK(wait_for(pid) == 0);
	return NULL;
}

static void test_fork_on_given_stack(void)
{
	size_t bytes = 256 << 10;
	pthread_attr_t attr;
	pthread_t thread;
	void *stack = NULL;

	FATAL(!posix_memalign(&stack, PAGE, bytes));
	pthread_attr_init(&attr);
	CHECK(!pthread_attr_setstack(&attr, stack, bytes));
	FATAL(!pthread_create(&thread, &attr, forking_thread, NULL));
	CHECK(pthread_join(thread, NULL) == 0);
	pthread_attr_destroy(&attr);
	free(stack);
}

static ucontext_t main_context, coroutine;

static void forking_coroutine(void)
{
	forking_thread(NULL);
}

static void test_fork_on_coroutine_stack(void)
{
	char *stack = malloc(128 << 10);

	FATAL(stack && !getcontext(&coroutine));
	coroutine.uc_stack.ss_sp = stack;
	coroutine.uc_stack.ss_size = 128 << 10;
	coroutine.uc_link = &main_context;
	makecontext(&coroutine, forking_coroutine, 0);
	CHECK(swapcontext(&main_context, &coroutine) == 0);
	free(stack);
}

/* ---- other ways to make a process ----------------------------------------------------------------------- */

static void test_raw_forks(void)
{
	pid_t pid;

	change_area();
	pid = _Fork();
	if (!pid)
		_exit(child_work(area_seed));
	change_area();
	CHECK(wait_for(pid) == 0);

	pid = (pid_t)syscall(SYS_fork);
	if (!pid)
		_exit(child_work(area_seed));
	change_area();
	CHECK(wait_for(pid) == 0);

	pid = (pid_t)syscall(SYS_clone, SIGCHLD | CLONE_FILES, NULL, NULL, NULL, NULL);
	if (!pid)
		_exit(child_work(area_seed));
	change_area();
	CHECK(wait_for(pid) == 0);

	errno = 0;
	CHECK(syscall(SYS_clone, SIGCHLD | CLONE_SIGHAND, NULL, NULL, NULL, NULL) == -1 && errno == EINVAL);
	CHECK(differs(area, area_bytes, area_seed) == 0 && heap_works());
	CHECK(differs(area, area_bytes, area_seed) == 0);
}

static int cloned(void *arg)
{
	return child_work(*(uint64_t *)arg);
}

static void test_clone(void)
{
	uint64_t *seed = malloc(sizeof(*seed));
	char *stack = malloc(256 << 10);
	pid_t pid;

	FATAL(seed && stack);
	change_area();
	*seed = area_seed;
	pid = clone(cloned, stack + (256 << 10), SIGCHLD | CLONE_FILES, seed);
	CHECK(pid > 0);
	*seed = 0;
	change_area();
	CHECK(wait_for(pid) == 0);
	CHECK(differs(area, area_bytes, area_seed) == 0);
	free(stack);
	free(seed);
}

static void test_daemon(void)
{
	char result = 'f';
	int out[2];
	pid_t pid;

	FATAL(pipe(out) == 0);
	change_area();
	pid = fork();
	if (!pid) {
		uint64_t seed = area_seed;

		if (daemon(1, 1))
			_exit(96);
		/* the parent of this one has gone */
		result = child_work(seed) ? 'b' : 'g';
		_exit(write(out[1], &result, 1) != 1);
	}
	close(out[1]);
	CHECK(wait_for(pid) == 0);
	change_area();
	CHECK(read(out[0], &result, 1) == 1 && result == 'g');
	close(out[0]);
}

static void test_other_programs(void)
{
	char **args = malloc(4 * sizeof(*args)), line[100] = "";
	pid_t pid;
	FILE *f;

	FATAL(args);
	args[0] = strdup("sh");
	args[1] = strdup("-c");
	args[2] = strdup("exit 5");
	args[3] = NULL;
	CHECK(differs(area, area_bytes, area_seed) == 0); /* with a small budget args are far away now */
	CHECK(posix_spawn(&pid, "/bin/sh", NULL, NULL, args, environ) == 0);
	CHECK(wait_for(pid) == 5);
	CHECK(differs(area, area_bytes, area_seed) == 0);
	pid = vfork();
	if (!pid) {
		execv("/bin/sh", args);
		_exit(95);
	}
	CHECK(wait_for(pid) == 5);
	pid = fork();
	if (!pid) {
		execv("/bin/sh", args);
		_exit(95);
	}
	CHECK(wait_for(pid) == 5);
	CHECK(WEXITSTATUS(system("exit 9")) == 9);
	f = popen("echo through a pipe", "r");
	FATAL(f);
	CHECK(fgets(line, sizeof(line), f) && !strcmp(line, "through a pipe\n"));
	CHECK(pclose(f) == 0);
	CHECK(differs(area, area_bytes, area_seed) == 0);
	for (int i = 0; i < 3; i++)
		free(args[i]);
	free(args);
}

/* ---- the program's own handlers --------------------------------------------------------------------------- */

static char *handler_block;

static void on_prepare(void)
{
	handler_calls[0]++;
	free(handler_block);
	handler_block = malloc(200000);
	FATAL(handler_block);
	memset(handler_block, 0x21, 200000);
}

static void on_parent(void)
{
	handler_calls[1]++;
	CHECK(handler_block[199999] == 0x21);
}

static void on_child(void)
{
	handler_calls[2]++;
	CHECK(handler_block[199999] == 0x21);
	CHECK(((uint64_t *)area)[area_bytes / 16] == pattern(area_seed, area_bytes / 16));
	free(handler_block);
	handler_block = malloc(300000);
	FATAL(handler_block);
	memset(handler_block, 0x21, 300000);
}

static void test_own_handlers(void)
{
	pid_t pid;

	CHECK(!pthread_atfork(on_prepare, on_parent, on_child));
	change_area();
	pid = fork();
	if (!pid) {
		CHECK(handler_calls[2] == 1 && handler_calls[1] == 0);
		_exit(child_work(area_seed));
	}
	CHECK(wait_for(pid) == 0);
	CHECK(handler_calls[0] == 1 && handler_calls[1] == 1 && handler_calls[2] == 0);
}

static void *map(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	FATAL(p != MAP_FAILED);
	return p;
}

int main(int argc, char **argv)
{
	area_bytes = check_bytes(argc, argv, 32);
	area = map(area_bytes);
	blank = map(area_bytes);
	fill(area, area_bytes, area_seed);
	test_both_sides_write();
	test_generations();
	test_many_children_at_once();
	test_raw_forks();
	test_clone();
	test_daemon();
	test_other_programs();
	test_fork_on_coroutine_stack();
	test_fork_on_given_stack();
	test_own_handlers();
	test_fork_beside_busy_threads();
	CHECK(differs(area, area_bytes, area_seed) == 0);
	return check_finish("fork_semantics");
}
