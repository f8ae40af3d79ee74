/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check.h - for the programs of this folder. They are ordinary programs that know nothing of xmem:
 * each checks what the system promises, must pass when run by itself, and must pass just so under
 * xmem-run with a small budget. Exit status 0: all as promised. CHECK counts and goes on; FATAL
 * ends the program.
 */
#ifndef XM_IT_CHECK_H
#define XM_IT_CHECK_H

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul

static int check_failures;

/* One line with one write: also usable in a fork child of a threaded program. */
__attribute__((unused, noinline)) static void check_failed(const char *file, int line, const char *text)
{
	char buf[300];
	int n = snprintf(buf, sizeof(buf), "%s:%d: %s (pid %d, errno %d)\n", file, line, text, getpid(),
			 errno);

	if (write(2, buf, (size_t)(n < 299 ? n : 299)) < 0)
		_exit(99);
	__atomic_fetch_add(&check_failures, 1, __ATOMIC_RELAXED);
}

#define CHECK(c)                                              \
	do {                                                  \
		if (!(c))                                     \
			check_failed(__FILE__, __LINE__, #c); \
	} while (0)
#define CHECK_ERR(call, err) CHECK((errno = 0, (long)(call) == -1) && errno == (err))
#define FATAL(c)                                              \
	do {                                                  \
		if (!(c)) {                                   \
			check_failed(__FILE__, __LINE__, #c); \
			_exit(98);                            \
		}                                             \
	} while (0)

static sigjmp_buf check_jump;

__attribute__((unused)) static void check_on_fault(int sig)
{
	siglongjmp(check_jump, sig);
}

/* The signal that touching p brings, 0 for none. Not for threads. */
__attribute__((unused)) static int fault_of(volatile char *p, int write_it)
{
	struct sigaction act = { .sa_handler = check_on_fault }, segv, bus;
	int sig;

	sigaction(SIGSEGV, &act, &segv);
	sigaction(SIGBUS, &act, &bus);
	sig = sigsetjmp(check_jump, 1);
	if (!sig) {
		if (write_it)
			*p = 1;
		else
			(void)*p;
	}
	sigaction(SIGSEGV, &segv, NULL);
	sigaction(SIGBUS, &bus, NULL);
	return sig;
}

#define READ_FAULTS(p) (fault_of((volatile char *)(p), 0) == SIGSEGV)
#define WRITE_FAULTS(p) (fault_of((volatile char *)(p), 1) == SIGSEGV)

/* What word i of a pattern is. */
__attribute__((unused)) static uint64_t pattern(uint64_t seed, uint64_t i)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15ull + i;

	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9ull;
	return x ^ (x >> 27);
}

/* A few words a page: dear enough to notice a wrong page, cheap enough for all of them. */
__attribute__((unused)) static void fill(void *p, size_t bytes, uint64_t seed)
{
	uint64_t *w = p;

	for (size_t i = 0; i < bytes / 8; i += 64)
		w[i] = pattern(seed, i);
}

/* Number of words that differ. */
__attribute__((unused)) static size_t differs(const void *p, size_t bytes, uint64_t seed)
{
	const uint64_t *w = p;
	size_t n = 0;

	for (size_t i = 0; i < bytes / 8; i += 64)
		n += w[i] != pattern(seed, i);
	return n;
}

/* Number of words that are not zero. */
__attribute__((unused)) static size_t nonzero(const void *p, size_t bytes)
{
	const uint64_t *w = p;
	size_t n = 0;

	for (size_t i = 0; i < bytes / 8; i += 64)
		n += w[i] != 0;
	return n;
}

/* Waits for a child; its exit status, or -signal. */
__attribute__((unused)) static int wait_for(pid_t pid)
{
	int status = 0;

	while (waitpid(pid, &status, 0) < 0)
		FATAL(errno == EINTR);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* MiB to work on: the program's argument, else what it likes. */
__attribute__((unused)) static size_t check_bytes(int argc, char **argv, size_t mib)
{
	return (argc > 1 ? strtoul(argv[1], NULL, 0) : mib) << 20;
}

/* A seed, from the second argument or the clock, printed. */
__attribute__((unused)) static unsigned check_seed(int argc, char **argv)
{
	unsigned seed = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 0) : (unsigned)time(NULL);

	printf("seed %u\n", seed);
	fflush(stdout);
	return seed;
}

__attribute__((unused)) static int check_finish(const char *name)
{
	printf("%s: %s\n", name, check_failures ? "FAILED" : "ok");
	return check_failures ? 1 : 0;
}

#endif
