/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mman_semantics [MIB] - the memory management calls on anonymous private mappings mean what the
 * kernel says, also when most of the pages are far away. Around every group of calls a large
 * pattern is kept and verified, so that with a small budget the pages in question have been evicted
 * in between.
 */
#include "check.h"

#include <fcntl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#ifndef MADV_COLD
#define MADV_COLD 20
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

#define N 512ul /* pages of a test's mapping: above every --min-map */
#define LEN (N * PAGE)

static char *ballast;
static size_t ballast_bytes;

static char *map(size_t len)
{
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	FATAL(p != MAP_FAILED);
	return p;
}

static char *map_at(void *addr, size_t len, int extra)
{
	return mmap(addr, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | extra, -1, 0);
}

/* Walks over the ballast: whatever was resident before is not afterwards, with a small budget. */
static void press(void)
{
	CHECK(differs(ballast, ballast_bytes, 1) == 0);
}

static void test_map_is_zero_and_keeps(void)
{
	char *p = map(LEN);

	CHECK(nonzero(p, LEN) == 0);
	fill(p, LEN, 2);
	press();
	CHECK(differs(p, LEN, 2) == 0);
	CHECK(munmap(p, LEN) == 0);
	CHECK(READ_FAULTS(p));
	CHECK_ERR(mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), EINVAL);
	CHECK_ERR(mmap(NULL, LEN, PROT_READ, MAP_ANONYMOUS, -1, 0), EINVAL);
	CHECK_ERR(munmap(p, 0), EINVAL);
	CHECK_ERR(munmap(p + 1, PAGE), EINVAL);
	CHECK(munmap(p, LEN) == 0); /* nothing there: no error */
}

static void test_unmap_in_the_middle(void)
{
	char *p = map(LEN);

	fill(p, LEN, 3);
	press();
	CHECK(munmap(p + 100 * PAGE, 50 * PAGE) == 0);
	CHECK(READ_FAULTS(p + 100 * PAGE));
	CHECK(WRITE_FAULTS(p + 149 * PAGE));
	CHECK(differs(p, 100 * PAGE, 3) == 0);
	for (size_t i = 150 * PAGE / 8; i < LEN / 8; i += 64)
		CHECK(((uint64_t *)p)[i] == pattern(3, i));
	/* the hint is free: followed */
	CHECK(map_at(p + 100 * PAGE, 50 * PAGE, 0) == p + 100 * PAGE);
	CHECK(nonzero(p + 100 * PAGE, 50 * PAGE) == 0);
	fill(p + 100 * PAGE, 50 * PAGE, 4);
	press();
	CHECK(differs(p + 100 * PAGE, 50 * PAGE, 4) == 0);
	/* across what are several mappings now */
	CHECK(munmap(p, LEN) == 0);
	CHECK(READ_FAULTS(p + 120 * PAGE) && READ_FAULTS(p));
}

static void test_fixed_over_own_range(void)
{
	char *p = map(LEN), *q;

	fill(p, LEN, 5);
	press();
	CHECK(map_at(p + 10 * PAGE, 20 * PAGE, MAP_FIXED) == p + 10 * PAGE);
	CHECK(nonzero(p + 10 * PAGE, 20 * PAGE) == 0);
	CHECK(differs(p, 10 * PAGE, 5) == 0);
	CHECK_ERR(map_at(p, 4 * PAGE, MAP_FIXED_NOREPLACE), EEXIST);
	CHECK_ERR(map_at(p + 1, 4 * PAGE, MAP_FIXED), EINVAL);
	CHECK(munmap(p + 40 * PAGE, 8 * PAGE) == 0);
	CHECK(map_at(p + 40 * PAGE, 8 * PAGE, MAP_FIXED_NOREPLACE) == p + 40 * PAGE);
	CHECK(nonzero(p + 40 * PAGE, 8 * PAGE) == 0);
	/* a hint that is taken: somewhere else */
	q = map_at(p, LEN, 0);
	CHECK(q != MAP_FAILED && (q + LEN <= p || q >= p + LEN));
	CHECK(differs(p, 10 * PAGE, 5) == 0);
	CHECK(munmap(q, LEN) == 0);
	CHECK(munmap(p, LEN) == 0);
}

static int make_file(size_t bytes, uint64_t seed)
{
	int fd = memfd_create("mman_semantics", 0);
	char *buf = malloc(bytes);

	FATAL(fd >= 0 && buf);
	memset(buf, 0, bytes);
	fill(buf, bytes, seed);
	FATAL(write(fd, buf, bytes) == (ssize_t)bytes);
	free(buf);
	return fd;
}

static void test_file_over_own_range(void)
{
	int fd = make_file(16 * PAGE, 7);
	char *p = map(LEN), *at = p + 32 * PAGE;

	fill(p, LEN, 6);
	press();
	CHECK_ERR(mmap(at, 16 * PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, 12345, 0), EBADF);
	CHECK(((uint64_t *)at)[0] == pattern(6, 32 * PAGE / 8));
	CHECK(mmap(at, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0) == at);
	CHECK(differs(at, 16 * PAGE, 7) == 0);
	memset(at, 9, PAGE);
	press();
	CHECK(at[5] == 9 && differs(p, 32 * PAGE, 6) == 0);
	CHECK(((uint64_t *)p)[48 * PAGE / 8] == pattern(6, 48 * PAGE / 8));
	CHECK(mprotect(at, PAGE, PROT_READ) == 0);
	CHECK(WRITE_FAULTS(at));
	CHECK(munmap(at, 16 * PAGE) == 0);
	CHECK(READ_FAULTS(at));
	/* anonymous again */
	CHECK(map_at(at, 16 * PAGE, MAP_FIXED) == at);
	CHECK(nonzero(at, 16 * PAGE) == 0);
	CHECK(munmap(p + 40 * PAGE, 8 * PAGE) == 0);
	CHECK_ERR(mmap(at, 16 * PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED_NOREPLACE, fd, 0), EEXIST);
	CHECK(mmap(p + 40 * PAGE, 8 * PAGE, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0) ==
	      p + 40 * PAGE);
	CHECK(differs(p + 40 * PAGE, 8 * PAGE, 7) == 0);
	CHECK(munmap(p, LEN) == 0);
	close(fd);
}

static void test_shared_over_own_range(void)
{
	char *p = map(LEN), *at = p + 8 * PAGE;
	pid_t pid;

	fill(p, LEN, 8);
	press();
	CHECK(mmap(at, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
	      at);
	at[0] = 1;
	pid = fork();
	if (!pid) {
		at[0] = 2;
		p[0] = 3;
		_exit(0);
	}
	CHECK(wait_for(pid) == 0);
	CHECK(at[0] == 2);
	CHECK(differs(p, 8 * PAGE, 8) == 0);
	CHECK(munmap(p, LEN) == 0);
}

static void test_protect(void)
{
	char *p = map(LEN);

	fill(p, LEN, 9);
	press();
	CHECK(mprotect(p, LEN, PROT_READ) == 0);
	CHECK(differs(p, LEN, 9) == 0);
	CHECK(WRITE_FAULTS(p + 3 * PAGE));
	press();
	CHECK(WRITE_FAULTS(p + 4 * PAGE));
	CHECK(differs(p, LEN, 9) == 0);
	CHECK(mprotect(p, LEN, PROT_NONE) == 0);
	press();
	CHECK(READ_FAULTS(p + 5 * PAGE));
	CHECK(mprotect(p, LEN, PROT_READ | PROT_WRITE) == 0);
	CHECK(differs(p, LEN, 9) == 0);
	fill(p, LEN, 10);
	/* one piece */
	CHECK(mprotect(p + 64 * PAGE, PAGE, PROT_READ) == 0);
	press();
	CHECK(WRITE_FAULTS(p + 64 * PAGE) && !WRITE_FAULTS(p + 65 * PAGE + 1));
	CHECK_ERR(mprotect(p + 1, PAGE, PROT_READ), EINVAL);
	CHECK_ERR(mprotect(p, PAGE, 0x40), EINVAL);
	CHECK(mprotect(p, 0, PROT_READ) == 0);
	CHECK(munmap(p + 100 * PAGE, PAGE) == 0);
	CHECK_ERR(mprotect(p + 99 * PAGE, 3 * PAGE, PROT_READ), ENOMEM);
	CHECK(munmap(p, LEN) == 0);
}

static void test_reserve_then_commit(void)
{
	size_t huge = 16ul << 30;
	char *p = mmap(NULL, huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *q;

	FATAL(p != MAP_FAILED);
	q = p + huge / 2;
	CHECK(READ_FAULTS(q));
	CHECK(mprotect(q, LEN, PROT_READ | PROT_WRITE) == 0);
	fill(q, LEN, 11);
	CHECK(READ_FAULTS(q + LEN));
	press();
	CHECK(differs(q, LEN, 11) == 0);
	CHECK(map_at(q, LEN, MAP_FIXED) == q); /* as the JVM commits */
	CHECK(nonzero(q, LEN) == 0);
	CHECK(mmap(q, LEN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == q);
	CHECK(READ_FAULTS(q));
	CHECK(munmap(p, huge) == 0);
}

static void test_dontneed(void)
{
	char *p = map(LEN);

	fill(p, LEN, 12);
	press();
	CHECK(madvise(p + 16 * PAGE, 16 * PAGE, MADV_DONTNEED) == 0);
	CHECK(nonzero(p + 16 * PAGE, 16 * PAGE) == 0);
	CHECK(differs(p, 16 * PAGE, 12) == 0);
	press();
	CHECK(nonzero(p + 16 * PAGE, 16 * PAGE) == 0);
	CHECK(((uint64_t *)p)[32 * PAGE / 8] == pattern(12, 32 * PAGE / 8));
	fill(p, LEN, 13);
	CHECK(madvise(p, LEN, MADV_DONTNEED) == 0);
	CHECK(nonzero(p, LEN) == 0);
	fill(p, LEN, 14);
	CHECK(syscall(SYS_madvise, p, 8 * PAGE, MADV_DONTNEED) == 0);
	CHECK(nonzero(p, 8 * PAGE) == 0);
	CHECK_ERR(madvise(p + 8, PAGE, MADV_DONTNEED), EINVAL);
	CHECK_ERR(madvise(p, PAGE, 4711), EINVAL);
	CHECK_ERR(madvise(p, PAGE, MADV_REMOVE), EINVAL);
	/* over a hole: done as far as there is something, and told */
	CHECK(munmap(p + 200 * PAGE, PAGE) == 0);
	CHECK_ERR(madvise(p + 199 * PAGE, 3 * PAGE, MADV_DONTNEED), ENOMEM);
	CHECK(nonzero(p + 199 * PAGE, PAGE) == 0 && nonzero(p + 201 * PAGE, PAGE) == 0);
	CHECK(munmap(p, LEN) == 0);
}

static void test_free_advice(void)
{
	char *p = map(LEN);
	size_t bad = 0;

	fill(p, LEN, 15);
	press();
	CHECK(madvise(p, LEN, MADV_FREE) == 0);
	for (size_t i = 0; i < N; i += 2)
		*(uint64_t *)(p + i * PAGE) = i + 1; /* written again: kept from here on */
	press();
	for (size_t i = 0; i < N; i++) {
		uint64_t v = *(uint64_t *)(p + i * PAGE);

		if (i % 2)
			bad += v != 0 && v != pattern(15, i * PAGE / 8);
		else
			bad += v != i + 1;
	}
	CHECK(bad == 0);
	CHECK(munmap(p, LEN) == 0);
}

static void test_harmless_advice(void)
{
	static const int advice[] = { MADV_NORMAL, MADV_RANDOM,	      MADV_SEQUENTIAL, MADV_WILLNEED,
				      MADV_COLD,   MADV_PAGEOUT,      MADV_NOHUGEPAGE, MADV_DONTDUMP,
				      MADV_DODUMP, MADV_POPULATE_READ };
	char *p = map(LEN);
	struct iovec iov[2] = { { p, 8 * PAGE }, { p + 64 * PAGE, 4 * PAGE } };
	int self;

	fill(p, LEN, 16);
	for (size_t i = 0; i < sizeof(advice) / sizeof(advice[0]); i++) {
		press();
		CHECK(madvise(p, 64 * PAGE, advice[i]) == 0);
		CHECK(differs(p, LEN, 16) == 0);
	}
	CHECK(madvise(p, LEN, MADV_HUGEPAGE) == 0 || errno == EINVAL);
	CHECK(posix_madvise(p, LEN, POSIX_MADV_DONTNEED) == 0);
	CHECK(posix_madvise(p, LEN, POSIX_MADV_WILLNEED) == 0);
	CHECK(posix_madvise(p + 1, LEN, POSIX_MADV_RANDOM) == EINVAL);
	CHECK(differs(p, LEN, 16) == 0);
	self = (int)syscall(SYS_pidfd_open, getpid(), 0);
	CHECK(self >= 0);
	CHECK(process_madvise(self, iov, 2, MADV_COLD, 0) == 12 * (ssize_t)PAGE);
	CHECK(process_madvise(self, iov, 2, MADV_PAGEOUT, 0) == 12 * (ssize_t)PAGE);
	CHECK(differs(p, LEN, 16) == 0);
	close(self);
	CHECK(munmap(p, LEN) == 0);
}

static void test_fork_advice(void)
{
	char *p = map(LEN);
	pid_t pid;

	fill(p, LEN, 17);
	press();
	CHECK(madvise(p, 16 * PAGE, MADV_WIPEONFORK) == 0);
	CHECK(madvise(p + 32 * PAGE, 16 * PAGE, MADV_DONTFORK) == 0);
	pid = fork();
	if (!pid) {
		CHECK(nonzero(p, 16 * PAGE) == 0);
		CHECK(((uint64_t *)p)[16 * PAGE / 8] == pattern(17, 16 * PAGE / 8));
		CHECK(READ_FAULTS(p + 32 * PAGE) && READ_FAULTS(p + 47 * PAGE));
		CHECK(((uint64_t *)p)[48 * PAGE / 8] == pattern(17, 48 * PAGE / 8));
		_exit(check_failures);
	}
	CHECK(wait_for(pid) == 0);
	CHECK(differs(p, LEN, 17) == 0);
	CHECK(madvise(p, 16 * PAGE, MADV_KEEPONFORK) == 0);
	CHECK(madvise(p + 32 * PAGE, 16 * PAGE, MADV_DOFORK) == 0);
	press();
	pid = fork();
	if (!pid) {
		CHECK(differs(p, LEN, 17) == 0);
		_exit(check_failures);
	}
	CHECK(wait_for(pid) == 0);
	CHECK(munmap(p, LEN) == 0);
}

static void test_remap_grow_and_shrink(void)
{
	char *p = map(LEN), *q;

	fill(p, LEN, 18);
	press();
	q = mremap(p, LEN, 2 * LEN, MREMAP_MAYMOVE);
	FATAL(q != MAP_FAILED);
	CHECK(differs(q, LEN, 18) == 0);
	CHECK(nonzero(q + LEN, LEN) == 0);
	CHECK(q == p || READ_FAULTS(p));
	fill(q, 2 * LEN, 19);
	press();
	CHECK(mremap(q, 2 * LEN, LEN / 2, 0) == q);
	CHECK(differs(q, LEN / 2, 19) == 0);
	CHECK(READ_FAULTS(q + LEN / 2));
	/* no room: the neighbour is taken */
	CHECK(map_at(q + LEN / 2, PAGE, MAP_FIXED) == q + LEN / 2);
	CHECK_ERR(mremap(q, LEN / 2, LEN, 0), ENOMEM);
	CHECK(differs(q, LEN / 2, 19) == 0);
	p = mremap(q, LEN / 2, LEN, MREMAP_MAYMOVE);
	FATAL(p != MAP_FAILED);
	CHECK(p != q && differs(p, LEN / 2, 19) == 0 && nonzero(p + LEN / 2, LEN / 2) == 0);
	CHECK(munmap(q + LEN / 2, PAGE) == 0);
	CHECK(munmap(p, LEN) == 0);
}

static void test_remap_fixed(void)
{
	char *p = map(LEN), *q = map(LEN), *r;

	fill(p, LEN, 20);
	fill(q, LEN, 21);
	press();
	/* the middle of one onto the middle of the other */
	r = mremap(p + 64 * PAGE, 32 * PAGE, 32 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, q + 8 * PAGE);
	CHECK(r == q + 8 * PAGE);
	for (size_t i = 0; i < 32 * PAGE / 8; i += 64)
		CHECK(((uint64_t *)r)[i] == pattern(20, 64 * PAGE / 8 + i));
	CHECK(READ_FAULTS(p + 64 * PAGE));
	CHECK(differs(q, 8 * PAGE, 21) == 0 && differs(p, 64 * PAGE, 20) == 0);
	press();
	CHECK(((uint64_t *)r)[0] == pattern(20, 64 * PAGE / 8));
	CHECK_ERR(mremap(p, PAGE, PAGE, MREMAP_FIXED, q), EINVAL);
	CHECK_ERR(mremap(p, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p + PAGE), EINVAL);
	CHECK_ERR(mremap(p, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, q + 1), EINVAL);
	CHECK_ERR(mremap(p + 1, PAGE, PAGE, MREMAP_MAYMOVE), EINVAL);
	CHECK_ERR(mremap(p, PAGE, 0, MREMAP_MAYMOVE), EINVAL);
	CHECK_ERR(mremap(p, PAGE, PAGE, 0x80), EINVAL);
	CHECK_ERR(mremap(p + 64 * PAGE, PAGE, PAGE, MREMAP_MAYMOVE), EFAULT);
	CHECK(munmap(p, LEN) == 0 && munmap(q, LEN) == 0);
}

static void test_remap_dontunmap(void)
{
	char *p = map(LEN), *q;

	fill(p, LEN, 22);
	press();
	q = mremap(p, LEN, LEN, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	FATAL(q != MAP_FAILED);
	CHECK(q != p && differs(q, LEN, 22) == 0);
	CHECK(nonzero(p, LEN) == 0);
	fill(p, LEN, 23);
	press();
	CHECK(differs(q, LEN, 22) == 0 && differs(p, LEN, 23) == 0);
	CHECK_ERR(mremap(p, LEN, 2 * LEN, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL), EINVAL);
	CHECK(munmap(p, LEN) == 0 && munmap(q, LEN) == 0);
}

static void test_remap_small_onto_large(void)
{
	char *p = map(LEN), *small = map(2 * PAGE), *back;

	fill(p, LEN, 24);
	fill(small, 2 * PAGE, 25);
	press();
	CHECK(mremap(small, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p + 4 * PAGE) == p + 4 * PAGE);
	CHECK(differs(p + 4 * PAGE, 2 * PAGE, 25) == 0 && differs(p, 4 * PAGE, 24) == 0);
	small = map(2 * PAGE);
	back = mremap(p + 8 * PAGE, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, small);
	CHECK(back == small && ((uint64_t *)small)[0] == pattern(24, 8 * PAGE / 8));
	CHECK(READ_FAULTS(p + 8 * PAGE));
	CHECK(munmap(small, 2 * PAGE) == 0 && munmap(p, LEN) == 0);
}

/* A mapping of a file that lies where memory lay, is moved, grown and advised like any other. */
static void test_remap_of_a_file_inside(void)
{
	int fd = make_file(32 * PAGE, 31);
	char *p = map(LEN), *at = p + 16 * PAGE, *q;
	unsigned char vec[8];

	fill(p, LEN, 32);
	CHECK(mmap(at, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0) == at);
	memset(at, 1, PAGE);
	press();
	CHECK(mincore(at, 8 * PAGE, vec) == 0 && (vec[0] & 1)); /* a file's page: not external */
	CHECK(madvise(at, PAGE, MADV_DONTNEED) == 0);
	CHECK(differs(at, 16 * PAGE, 31) == 0); /* the file's again */
	CHECK(mlock(at, PAGE) == 0 || errno == ENOMEM || errno == EPERM);
	CHECK(munlock(at, PAGE) == 0);
	CHECK(madvise(p, 64 * PAGE, MADV_NORMAL) == 0);
	q = mremap(at, 16 * PAGE, 32 * PAGE, MREMAP_MAYMOVE);
	FATAL(q != MAP_FAILED);
	CHECK(differs(q, 32 * PAGE, 31) == 0);
	CHECK(q == at || READ_FAULTS(at));
	CHECK(mremap(q, 32 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p + 64 * PAGE) == p + 64 * PAGE);
	press();
	CHECK(differs(p + 64 * PAGE, 8 * PAGE, 31) == 0 && READ_FAULTS(q));
	CHECK(mremap(p + 64 * PAGE, 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p + 128 * PAGE) ==
	      p + 128 * PAGE);
	CHECK(differs(p + 128 * PAGE, 8 * PAGE, 31) == 0 && READ_FAULTS(p + 64 * PAGE));
	CHECK(mremap(p + 128 * PAGE, 8 * PAGE, 4 * PAGE, 0) == p + 128 * PAGE && READ_FAULTS(p + 132 * PAGE));
	CHECK(differs(p, 16 * PAGE, 32) == 0);
	CHECK(munmap(p, LEN) == 0);
	close(fd);
}

static void test_mincore(void)
{
	unsigned char *vec = malloc(N);
	char *p = map(LEN);
	size_t resident = 0;

	FATAL(vec);
	memset(vec, 0xff, N);
	CHECK(mincore(p, LEN, vec) == 0);
	for (size_t i = 0; i < N; i++)
		resident += vec[i] & 1;
	CHECK(resident == 0);
	/* a page may leave again at any time: touched until it is seen */
	for (int i = 0; i < 1000 && !(vec[3] & 1); i++) {
		p[3 * PAGE] = 1;
		CHECK(mincore(p, 4 * PAGE, vec) == 0);
	}
	CHECK(vec[3] & 1);
	CHECK(madvise(p, LEN, MADV_DONTNEED) == 0);
	CHECK(mincore(p, 4 * PAGE, vec) == 0 && !(vec[3] & 1));
	CHECK_ERR(mincore(p + 1, PAGE, vec), EINVAL);
	CHECK(munmap(p, LEN) == 0);
	CHECK_ERR(mincore(p, LEN, vec), ENOMEM);
	free(vec);
}

static size_t resident_pages(char *p, size_t pages)
{
	static unsigned char vec[N];
	size_t n = 0;

	CHECK(mincore(p, pages * PAGE, vec) == 0);
	for (size_t i = 0; i < pages; i++)
		n += vec[i] & 1;
	return n;
}

/* Locked pages are all there, once what brings them has settled its books. */
static int all_resident(char *p, size_t pages)
{
	struct timespec tick = { 0, 2000000 };

	for (int i = 0; i < 2000 && resident_pages(p, pages) != pages; i++)
		nanosleep(&tick, NULL);
	return resident_pages(p, pages) == pages;
}

/* A limit on locked memory (RLIMIT_MEMLOCK, or the budget) may say no; then nothing else is to
 * be checked. */
static void test_lock(void)
{
	char *p = map(LEN), *q;

	fill(p, LEN, 26);
	press();
	if (mlock(p, 16 * PAGE)) {
		CHECK(errno == ENOMEM || errno == EPERM);
	} else {
		press();
		CHECK(all_resident(p, 16));
		CHECK_ERR(madvise(p, PAGE, MADV_DONTNEED), EINVAL);
		CHECK(differs(p, LEN, 26) == 0);
		CHECK(munlock(p, 16 * PAGE) == 0);
		CHECK(madvise(p, PAGE, MADV_DONTNEED) == 0 && nonzero(p, PAGE) == 0);
		CHECK(mlock(p + 100, PAGE) == 0 && munlock(p + 100, PAGE) == 0); /* rounded, not refused */
		CHECK(munmap(p + 8 * PAGE, PAGE) == 0);
		CHECK_ERR(mlock(p + 7 * PAGE, 3 * PAGE), ENOMEM);
	}
	CHECK_ERR(mlockall(0), EINVAL);
	CHECK(munlockall() == 0);
	CHECK(munmap(p, LEN) == 0);
	q = map_at(NULL, 32 * PAGE, MAP_POPULATE);
	CHECK(q != MAP_FAILED && nonzero(q, 32 * PAGE) == 0); /* which may have been evicted already */
	CHECK(munmap(q, 32 * PAGE) == 0);
	q = map_at(NULL, LEN, MAP_LOCKED);
	CHECK(q != MAP_FAILED || errno == EAGAIN || errno == ENOMEM || errno == EPERM);
	CHECK(q == MAP_FAILED || munmap(q, LEN) == 0);
}

static void test_msync(void)
{
	char *p = map(LEN);

	fill(p, LEN, 27);
	press();
	CHECK(msync(p, LEN, MS_SYNC) == 0);
	CHECK_ERR(msync(p, LEN, MS_SYNC | MS_ASYNC), EINVAL);
	CHECK_ERR(msync(p + 1, LEN, MS_SYNC), EINVAL);
	CHECK(munmap(p + PAGE, PAGE) == 0);
	CHECK_ERR(msync(p, LEN, MS_ASYNC), ENOMEM);
	CHECK(munmap(p, LEN) == 0);
}

static void test_shm_segment_inside(void)
{
	int id = shmget(IPC_PRIVATE, 4 * PAGE, 0600 | IPC_CREAT);
	char *p = map(LEN), *other;

	if (id < 0)
		return; /* no System V memory here */
	fill(p, LEN, 28);
	press();
	CHECK_ERR(shmat(id, p, 0), EINVAL);
	CHECK(shmat(id, p + 8 * PAGE, SHM_REMAP) == p + 8 * PAGE);
	other = shmat(id, NULL, 0);
	CHECK(other != MAP_FAILED);
	strcpy(p + 8 * PAGE, "shared");
	CHECK(!strcmp(other, "shared"));
	CHECK(shmdt(p + 8 * PAGE) == 0 && READ_FAULTS(p + 8 * PAGE));
	CHECK(shmat(id, p + 8 * PAGE, 0) == p + 8 * PAGE && !strcmp(p + 8 * PAGE, "shared"));
	CHECK(differs(p, 8 * PAGE, 28) == 0);
	CHECK(shmdt(p + 8 * PAGE) == 0 && shmdt(other) == 0);
	shmctl(id, IPC_RMID, NULL);
	CHECK(munmap(p, LEN) == 0);
}

static void test_system_calls_on_pages(void)
{
	char *p = map(LEN);
	int fd[2];

	FATAL(pipe(fd) == 0);
	fill(p, LEN, 29);
	press();
	CHECK(write(fd[1], p + 5 * PAGE - 64, 128) == 128);
	press();
	CHECK(read(fd[0], p + 300 * PAGE - 64, 128) == 128);
	press();
	CHECK(!memcmp(p + 5 * PAGE - 64, p + 300 * PAGE - 64, 128));
	CHECK(munmap(p + 7 * PAGE, PAGE) == 0);
	CHECK_ERR(write(fd[1], p + 7 * PAGE, 8), EFAULT);
	CHECK(mprotect(p + 9 * PAGE, PAGE, PROT_READ) == 0);
	CHECK(write(fd[1], "12345678", 8) == 8);
	CHECK_ERR(read(fd[0], p + 9 * PAGE, 8), EFAULT);
	CHECK(munmap(p, LEN) == 0);
	close(fd[0]);
	close(fd[1]);
}

static void test_raw_calls(void)
{
	char *p = (char *)syscall(SYS_mmap, NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
				  -1, 0);

	FATAL(p != MAP_FAILED);
	fill(p, LEN, 30);
	press();
	CHECK(syscall(SYS_mprotect, p, PAGE, PROT_READ) == 0 && WRITE_FAULTS(p));
	CHECK(differs(p, LEN, 30) == 0);
	CHECK(syscall(SYS_mremap, p + 64 * PAGE, 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p) ==
	      (long)p);
	CHECK(((uint64_t *)p)[0] == pattern(30, 64 * PAGE / 8));
	CHECK(syscall(SYS_munmap, p, LEN) == 0 && READ_FAULTS(p));
	CHECK_ERR(syscall(SYS_munmap, p + 1, LEN), EINVAL);
}

int main(int argc, char **argv)
{
	static void (*const test[])(void) = {
		test_map_is_zero_and_keeps,
		test_unmap_in_the_middle,
		test_fixed_over_own_range,
		test_file_over_own_range,
		test_shared_over_own_range,
		test_protect,
		test_reserve_then_commit,
		test_dontneed,
		test_free_advice,
		test_harmless_advice,
		test_fork_advice,
		test_remap_grow_and_shrink,
		test_remap_fixed,
		test_remap_dontunmap,
		test_remap_small_onto_large,
		test_remap_of_a_file_inside,
		test_mincore,
		test_lock,
		test_msync,
		test_shm_segment_inside,
		test_system_calls_on_pages,
		test_raw_calls,
	};

	ballast_bytes = check_bytes(argc, argv, 64);
	ballast = map(ballast_bytes);
	fill(ballast, ballast_bytes, 1);
	for (size_t i = 0; i < sizeof(test) / sizeof(test[0]); i++)
		test[i]();
	CHECK(differs(ballast, ballast_bytes, 1) == 0);
	return check_finish("mman_semantics");
}
