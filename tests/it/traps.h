/* SPDX-License-Identifier: Apache-2.0 */
/*
 * traps.h - what the traps*.c programs share. Each row of the table of traps is one function of one
 * of them, and runs in a process of its own (the program executes itself), so that a row that hangs
 * or dies is one failed row. `traps ROW...` runs some rows.
 *
 * An ordinary run must pass. Under a small budget the pages in question must really be far away when
 * they are touched: with TRAPS_PRESS=MIB in the environment (more than the budget), away() walks over
 * that much other memory until mincore() says that they are absent, and fails when they stay.
 * Standard output is the same in every run; what differs goes to standard error.
 */
#ifndef XM_IT_TRAPS_H
#define XM_IT_TRAPS_H

#include "check.h"

#include <fcntl.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

#define ROW_SECONDS 100 /* of one row: it hangs after that, even on a busy machine */
#define AWAY_ROUNDS 40
#define AWAY_TRIES 20

struct row {
	const char *name;
	void (*run)(void);
};

static char *ballast;
static size_t ballast_bytes; /* 0: an ordinary run */

__attribute__((unused)) static void *map(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	FATAL(p != MAP_FAILED);
	return p;
}

/* Reads all of the ballast and sometimes changes it: whatever else was resident goes. One thread. */
__attribute__((unused)) static void press(void)
{
	static uint64_t seed, calls;

	if (!ballast_bytes)
		return;
	if (!ballast) {
		ballast = map(ballast_bytes);
		fill(ballast, ballast_bytes, seed);
	}
	CHECK(differs(ballast, ballast_bytes, seed) == 0);
	if (++calls % 3 == 0)
		fill(ballast, ballast_bytes, ++seed);
}

/* Pages of [p, p + bytes) that are in memory. */
__attribute__((unused)) static size_t resident(const void *p, size_t bytes)
{
	uintptr_t from = (uintptr_t)p / PAGE * PAGE;
	size_t pages = ((uintptr_t)p + bytes - from + PAGE - 1) / PAGE, n = 0;
	static unsigned char vec[1024];

	FATAL(pages <= sizeof(vec));
	CHECK(mincore((void *)from, pages * PAGE, vec) == 0);
	for (size_t i = 0; i < pages; i++)
		n += vec[i] & 1;
	return n;
}

/* All of them, once what brings them has settled its books. */
__attribute__((unused)) static bool all_resident(const void *p, size_t bytes)
{
	size_t pages = ((uintptr_t)p % PAGE + bytes + PAGE - 1) / PAGE;
	struct timespec tick = { 0, 2000000 };

	for (int i = 0; i < 2000 && resident(p, bytes) != pages; i++)
		nanosleep(&tick, NULL);
	return resident(p, bytes) == pages;
}

/* Every page of [p, p + bytes) is absent afterwards, at least for a moment. One thread. */
#define away(p, bytes) away_at(__FILE__, __LINE__, p, bytes)
__attribute__((unused)) static void away_at(const char *file, int line, const void *p, size_t bytes)
{
	uintptr_t from = (uintptr_t)p / PAGE * PAGE;
	size_t len = ((uintptr_t)p + bytes - from + PAGE - 1) / PAGE * PAGE;
	struct timespec tick = { 0, 1000000 };

	if (!ballast_bytes)
		return;
	for (int i = 0; i < AWAY_ROUNDS; i++) {
		press();
		/* what is touched often stays through a walk, and the walk's prefetch may go on into these pages */
		for (int k = 0; k < AWAY_TRIES; k++) {
			if (!resident(p, bytes))
				return;
			madvise((void *)from, len, MADV_PAGEOUT);
			if (!resident(p, bytes))
				return;
			nanosleep(&tick, NULL);
		}
	}
	check_failed(file, line, "pages stay resident");
}

/* Whether xmem-run was asked for this fault mode: the test that starts us says so. */
__attribute__((unused)) static bool in_mode(const char *mode)
{
	const char *is = getenv("TRAPS_FAULT");

	return is && !strcmp(is, mode);
}

/* Why part of a row is left out. */
__attribute__((unused)) static void left_out(const char *why)
{
	fprintf(stderr, "left out: %s\n", why);
}

/* A seed, printed where it does not disturb the comparison of outputs. */
__attribute__((unused)) static unsigned traps_seed(void)
{
	const char *given = getenv("TRAPS_SEED");
	unsigned seed = given ? (unsigned)strtoul(given, NULL, 0) : (unsigned)time(NULL) ^ (unsigned)getpid();

	fprintf(stderr, "TRAPS_SEED=%u\n", seed);
	return seed;
}

/* A file of the directory TRAPS_DIR that has no name any more. */
__attribute__((unused)) static int scratch_file(int flags)
{
	const char *dir = getenv("TRAPS_DIR");
	char path[4000];
	int fd;

	snprintf(path, sizeof(path), "%s/traps-%d-%ld", dir ? dir : ".", getpid(), random());
	fd = open(path, flags | O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd >= 0)
		unlink(path);
	return fd;
}

/* A block of the heap of which is known that it can be away: whole pages of its own, and the rest of them. */
__attribute__((unused)) static char *heap(size_t bytes)
{
	char *p = malloc(bytes + 2 * PAGE);

	FATAL(p);
	memset(p, 0, bytes + 2 * PAGE);
	p = (char *)(((uintptr_t)p + PAGE - 1) / PAGE * PAGE);
	away(p, bytes);
	return p;
}

static int run_row(const struct row *r)
{
	alarm(ROW_SECONDS);
	press(); /* from now on the heap is external: a program begins with local memory */
	r->run();
	if (ballast)
		press();
	return check_finish(r->name);
}

static int start_row(char *name)
{
	char *const args[] = { (char *)"traps", (char *)"-", name, NULL };
	pid_t pid;
	int r;

	fflush(stdout);
	pid = fork();
	FATAL(pid >= 0);
	if (!pid) {
		execv("/proc/self/exe", args);
		_exit(97);
	}
	r = wait_for(pid);
	if (r < 0 || r > 1)
		printf("%s: FAILED: %s %d\n", name, r < 0 ? "signal" : "status", r < 0 ? -r : r);
	return r != 0;
}

/* Rows named on the command line, or all of them; after "-" the one that this process is for. */
__attribute__((unused)) static int traps_main(const struct row *rows, int argc, char **argv)
{
	const char *mib = getenv("TRAPS_PRESS");
	bool here = argc == 3 && !strcmp(argv[1], "-");
	int failed = 0, found = 0;

	ballast_bytes = mib ? strtoul(mib, NULL, 0) << 20 : 0;
	for (const struct row *r = rows; r->name; r++) {
		bool wanted = argc < 2;

		for (int i = 1; i < argc; i++)
			wanted = wanted || !strcmp(argv[i], r->name);
		if (!wanted)
			continue;
		found++;
		if (here)
			return run_row(r);
		failed += start_row((char *)r->name);
	}
	if (!found)
		printf("no such row\n");
	return failed || !found;
}

#endif
