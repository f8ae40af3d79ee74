/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bare_preload.c - LD_PRELOAD: what a program maps comes from the range of the least pager (bare.h), with BARE_LOCAL bytes of it
 * in memory: the floor of a real program under fault mode `thread`.
 *
 * Only for programs whose allocator maps by mmap(), gives nothing back (MALLOC_CONF: see rows_apps.py), and which do not fork:
 * addresses are given out once, in order. Nothing is in the range that is mapped before the constructor has run.
 */
#include "bare.h"
#include "units.h"

#define RANGE (1ull << 30)
#define LEAST (64ull << 10) /* smaller ones are not the program's set */

static uint64_t given; /* atomic; bytes of the range */
static uint32_t begun; /* atomic */

__attribute__((constructor)) static void start(void)
{
	const char *local = getenv("BARE_LOCAL");
	uint64_t bytes;
	void *mem;

	if (!local || xm_parse_size(local, 0, &bytes) != 0 || bytes < 1024 * XM_PAGE_SIZE) {
		fprintf(stderr, "bare_preload: BARE_LOCAL is to be a size of at least 4M\n");
		exit(2);
	}
	mem = mmap(NULL, RANGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mem == MAP_FAILED)
		bare_die("memory");
	bare_start(mem, RANGE / XM_PAGE_SIZE, bytes / XM_PAGE_SIZE, true);
	xm_store(&begun, 1);
}

__attribute__((visibility("default"))) void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	uint64_t bytes = xm_round_up(len, XM_PAGE_SIZE), at;

	if (addr || len < LEAST || prot != (PROT_READ | PROT_WRITE) || !xm_load(&begun) ||
	    (flags & ~MAP_NORESERVE) != (MAP_PRIVATE | MAP_ANONYMOUS))
		return (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, offset);
	at = xm_add(&given, bytes);
	if (at + bytes > RANGE) {
		errno = ENOMEM;
		bare_die("the range is given out");
	}
	return bare.mem + at;
}

__attribute__((visibility("default"), alias("mmap"))) void *mmap64(void *addr, size_t len, int prot, int flags, int fd,
								  off_t offset);

__attribute__((visibility("default"))) int munmap(void *addr, size_t len)
{
	char *p = addr;

	return bare.mem && p >= bare.mem && p < bare.mem + RANGE ? 0 : (int)syscall(SYS_munmap, addr, len);
}
