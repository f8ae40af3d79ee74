/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bare.h - the least that a pager of fault mode `thread` can be: the floor that the bench puts beside xmem's figures.
 *
 * One range; a copy of all of it in memory of the same process plays the appliance. A handler on each processor in a
 * blocking read(), which answers a fault by one UFFDIO_COPY, protected where `track` says so; one evictor, which walks round
 * the range in windows and takes all that it finds in one: lock by compare-and-swap, one write-protection, copies, one drop.
 * Nothing else: no budget of a family, no fork, no policy, no statistics, no prefetch, no link; pages that the kernel has
 * pinned would be lost. Frames are counted, not charged.
 *
 * What is locked is waited for by yielding: an evictor has it for a window's time at most. Started once, never stopped.
 * Threads: the handlers and the evictor; no locks but the pages' words.
 */
#ifndef BENCH_BARE_H
#define BENCH_BARE_H

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/family.h"
#include "runtime/uffd.h"
#include "util.h"

#define BARE_WINDOW 512
#define BARE_SPARE 16 /* a sixteenth of the frames is kept free, as in xmem */

enum bare_state { BARE_ABSENT, BARE_CLEAN, BARE_DIRTY, BARE_LOCKED };

static struct {
	char *mem, *store;
	uint64_t pages, budget, resident, evicted, evict_cpu_ns;
	uint8_t *state; /* atomic, enum bare_state */
	uint32_t wanted; /* futex: bumped when the evictor is to look */
	int uffd;
	bool track;	/* what is read comes in protected; else everything counts as dirty */
} bare;

static void bare_die(const char *what)
{
	fprintf(stderr, "access: bare pager: %s: %s\n", what, strerror(errno));
	exit(2);
}

static uint64_t bare_addr(uint64_t page)
{
	return (uint64_t)(uintptr_t)bare.mem + page * XM_PAGE_SIZE;
}

static void bare_kick(void)
{
	xm_add(&bare.wanted, 1);
	syscall(SYS_futex, &bare.wanted, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* The page's state before; it is locked then. */
static uint8_t bare_lock(uint64_t page)
{
	uint8_t was;

	while ((was = __atomic_exchange_n(&bare.state[page], BARE_LOCKED, __ATOMIC_ACQ_REL)) == BARE_LOCKED)
		sched_yield();
	return was;
}

static void bare_answer(const struct xm_uffd_event *ev)
{
	uint64_t addr = xm_round_down(ev->addr, XM_PAGE_SIZE), page = (addr - bare_addr(0)) / XM_PAGE_SIZE;
	bool clean = bare.track && !ev->write;
	uint64_t before;
	uint8_t was;

	if (page >= bare.pages)
		return;
	was = bare_lock(page);
	if (was == BARE_ABSENT && !ev->wp) {
		if (xm_uffd_copy(bare.uffd, addr, bare.store + page * XM_PAGE_SIZE, XM_PAGE_SIZE, clean) != XM_PAGE_SIZE)
			bare_die("UFFDIO_COPY");
		xm_store(&bare.state[page], clean ? BARE_CLEAN : BARE_DIRTY);
		before = xm_add(&bare.resident, 1);
		if (before == bare.budget - bare.budget / BARE_SPARE / 2)
			bare_kick();
		while (xm_load(&bare.resident) > bare.budget)
			sched_yield();
		return;
	}
	if (was == BARE_ABSENT)
		xm_uffd_wake(bare.uffd, addr, XM_PAGE_SIZE);
	else if (xm_uffd_writeprotect(bare.uffd, addr, XM_PAGE_SIZE, false) != 0)
		bare_die("UFFDIO_WRITEPROTECT");
	xm_store(&bare.state[page], was == BARE_ABSENT ? BARE_ABSENT : BARE_DIRTY);
}

static void *bare_handler(void *arg)
{
	long cpu = (long)(uintptr_t)arg;
	struct xm_uffd_event ev;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((unsigned)cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
	for (;;)
		if (xm_uffd_read(bare.uffd, &ev, 1) == 1)
			bare_answer(&ev);
	return NULL;
}

/* Everything in the window leaves, but for what a handler has in hand. */
static void bare_evict(uint64_t first)
{
	uint64_t n = xm_min((uint64_t)BARE_WINDOW, bare.pages - first), gone = 0, dirty = 0;
	uint8_t was[BARE_WINDOW];

	for (uint64_t i = 0; i < n; i++) {
		was[i] = __atomic_exchange_n(&bare.state[first + i], BARE_LOCKED, __ATOMIC_ACQ_REL);
		gone += was[i] == BARE_CLEAN || was[i] == BARE_DIRTY;
		dirty += was[i] == BARE_DIRTY;
	}
	if (dirty && xm_uffd_writeprotect(bare.uffd, bare_addr(first), n * XM_PAGE_SIZE, true) != 0)
		bare_die("UFFDIO_WRITEPROTECT");
	for (uint64_t i = 0; i < n && dirty; i++)
		if (was[i] == BARE_DIRTY)
			memcpy(bare.store + (first + i) * XM_PAGE_SIZE, bare.mem + (first + i) * XM_PAGE_SIZE, XM_PAGE_SIZE);
	for (uint64_t i = 0, end; i < n && gone; i = end) {
		for (end = i + 1; end < n && (was[end] == BARE_LOCKED) == (was[i] == BARE_LOCKED); end++)
			;
		if (was[i] != BARE_LOCKED && madvise((void *)bare_addr(first + i), (end - i) * XM_PAGE_SIZE, MADV_DONTNEED) != 0)
			bare_die("MADV_DONTNEED");
	}
	for (uint64_t i = 0; i < n; i++)
		if (was[i] != BARE_LOCKED)
			xm_store(&bare.state[first + i], BARE_ABSENT);
	xm_sub(&bare.resident, gone);
	xm_add(&bare.evicted, gone);
}

static void *bare_evictor(void *arg)
{
	uint64_t next = 0;

	for (;;) {
		uint32_t seen = xm_load(&bare.wanted);

		while (xm_load(&bare.resident) + bare.budget / BARE_SPARE > bare.budget) {
			uint64_t before = xm_thread_cpu_ns();

			bare_evict(next);
			xm_add(&bare.evict_cpu_ns, xm_thread_cpu_ns() - before);
			next += BARE_WINDOW;
			if (next >= bare.pages)
				next = 0;
		}
		syscall(SYS_futex, &bare.wanted, FUTEX_WAIT, seen, NULL, NULL, 0);
	}
	return NULL;
}

static void bare_thread(void *(*fn)(void *), uintptr_t arg)
{
	pthread_t thread;

	if ((errno = pthread_create(&thread, NULL, fn, (void *)arg)) != 0)
		bare_die("pthread_create");
}

/* From now on at most `budget` of the pages at mem, none of which has been touched, are in memory. */
static void bare_start(void *mem, uint64_t pages, uint64_t budget, bool track)
{
	uint32_t features;
	cpu_set_t set;

	bare.mem = mem;
	bare.pages = pages;
	bare.budget = budget;
	bare.track = track;
	bare.store = mmap(NULL, pages * XM_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bare.state = calloc(pages, 1);
	if (bare.store == MAP_FAILED || !bare.state)
		bare_die("memory");
	memset(bare.store, 0, pages * XM_PAGE_SIZE);
	bare.uffd = xm_uffd_open(0, false, &features);
	if (bare.uffd < 0 || !(features & XM_FEAT_WP) || fcntl(bare.uffd, F_SETFL, 0) != 0 ||
	    xm_uffd_register(bare.uffd, bare_addr(0), pages * XM_PAGE_SIZE, true) != 0)
		bare_die("userfaultfd");
	if (sched_getaffinity(0, sizeof(set), &set) != 0)
		bare_die("sched_getaffinity");
	for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &set))
			bare_thread(bare_handler, cpu);
	bare_thread(bare_evictor, 0);
}

#endif
