/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_fault.c - resolution of faults and eviction with each way of an older kernel (masked features), and what
 * becomes of faults when the appliance is away, full, slow or dead. Every case starts a runtime of its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sys/mman.h>

#include "runtime/uffd.h"
#include "tests/harness.h"

#define RW (PROT_READ | PROT_WRITE)
#define PAGE XM_PAGE_SIZE
#define BUDGET_PAGES 2048u
#define PAGES 6000u

static struct test_appliance appliance[2];
static struct test_config config;

static int fresh(void **state)
{
	memset(&config, 0, sizeof(config));
	config.budget_bytes = BUDGET_PAGES * PAGE;
	return 0;
}

static int stop(void **state)
{
	test_runtime_stop();
	for (unsigned i = 0; i < 2; i++)
		if (appliance[i].pid > 0)
			test_appliance_stop(&appliance[i]);
	return 0;
}

static void start(const char *link, const char *memory)
{
	test_appliance_start(&appliance[0], memory, link);
	test_runtime_start(&config, &appliance[0], 1);
}

static char *filled(uint64_t pages, uint64_t seed)
{
	char *p = xm_map_new(pages * PAGE, 0, RW, 0);

	assert_false(test_is_error(p));
	test_fill(p, pages, seed);
	return p;
}

/* Writes, reads, half rewrites and reads three times the budget. */
static void work(void)
{
	char *p = filled(PAGES, 1);

	assert_int_equal(test_wrong(p, PAGES, 1, 0), 0);
	test_fill(p, PAGES / 2, 2);
	assert_int_equal(test_wrong(p, PAGES / 2, 2, 0), 0);
	assert_int_equal(test_wrong(p + PAGES / 2 * PAGE, PAGES / 2, 1, PAGES / 2), 0);
	assert_int_equal(xm_map_unmap(p, PAGES * PAGE), 0);
	assert_int_equal(test_left_over(), 0);
}

/* Skips a test of a way that this kernel does not have. */
static void need(uint32_t feature)
{
	uint32_t features = 0;
	int fd = xm_uffd_open(0, false, &features);

	assert_true(fd >= 0);
	close(fd);
	if (!(features & feature)) {
		print_message("skipped: this kernel has no such feature\n");
		skip();
	}
}

/* ---- each way -------------------------------------------------------------------------------------------------- */

static void with_mask(uint32_t mask, bool pins)
{
	config.masked_features = mask;
	start("shm", "128M");
	assert_int_equal(xm_rt.features & mask, 0);
	if (pins)
		xm_pins_seen("the test");
	work();
	assert_true(xm_load(&xm_rt.me->stats.evicted_pages) >= PAGES - BUDGET_PAGES);
}

static void test_work_when_all_features_then_right(void **state)
{
	with_mask(0, false);
}

static void test_work_when_kernel_6_1_then_right(void **state)
{
	with_mask(XM_FEAT_MOVE | XM_FEAT_POISON | XM_FEAT_MADVISE_VEC, false);
}

static void test_work_when_no_write_protection_then_by_move(void **state)
{
	need(XM_FEAT_MOVE);
	with_mask(XM_FEAT_WP, false);
	assert_int_equal(xm_load(&xm_rt.me->stats.evicted_clean_pages), 0); /* nobody knows that a page is clean */
}

static void test_work_when_pins_seen_then_by_move(void **state)
{
	need(XM_FEAT_MOVE);
	with_mask(0, true);
}

static void test_start_when_neither_wp_nor_move_then_eopnotsupp(void **state)
{
	config.masked_features = XM_FEAT_WP | XM_FEAT_MOVE;
	test_appliance_start(&appliance[0], "16M", "shm");
	assert_int_equal(test_runtime_try(&config, &appliance[0], 1), -EOPNOTSUPP);
	test_leave_sessions();
	test_appliance_stop(&appliance[0]);
}

/* Nobody can tell which pages are pinned: none leaves, the budget is exceeded, and that neither kills nor stalls. */
static void test_work_when_pins_seen_and_no_move_then_stays_and_goes_on(void **state)
{
	uint64_t began = xm_now_ns();
	char *p;

	config.masked_features = XM_FEAT_MOVE;
	start("shm", "128M");
	xm_pins_seen("the test");
	p = filled(PAGES, 3);
	assert_int_equal(test_wrong(p, PAGES, 3, 0), 0);
	assert_int_equal(xm_load(&xm_rt.me->stats.evicted_pages), 0);
	assert_int_equal(xm_load(&xm_rt.me->stats.faults_lost), 0);
	assert_true(xm_now_ns() - began < 40000000000ull); /* a limit against hangs, no measurement */
}

/* ---- what the kernel does with external memory ------------------------------------------------------------------ */

static void test_syscalls_when_buffers_are_remote_then_transparent(void **state)
{
	int fd = (int)syscall(SYS_memfd_create, "file", 0);
	char *p, *q;

	start("shm", "128M");
	p = filled(512, 4);
	q = filled(512, 5);
	assert_int_equal(test_evict(p, 512) + test_evict(q, 512), 0);
	assert_int_equal(write(fd, p, 512 * PAGE), 512 * PAGE);
	assert_int_equal(pread(fd, q, 512 * PAGE, 0), 512 * PAGE);
	assert_int_equal(test_wrong(q, 512, 4, 0), 0);
	assert_int_equal(test_evict(q, 512), 0);
	assert_int_equal(test_wrong(q, 512, 4, 0), 0);
	close(fd);
}

/* Pages under direct I/O while everything else presses: what the device wrote must be there. */
static void test_direct_io_when_pressed_then_nothing_lost(void **state)
{
	char path[] = "/var/tmp/xmem-test-XXXXXX";
	uint64_t n = 256;
	char *p, *q;
	int fd = mkstemp(path), dfd;

	assert_true(fd >= 0);
	dfd = open(path, O_RDWR | O_DIRECT);
	unlink(path);
	start("shm", "128M");
	if (dfd < 0) {
		close(fd);
		skip();
	}
	xm_pins_seen("O_DIRECT");
	p = filled(n, 6);
	assert_int_equal(pwrite(dfd, p, n * PAGE, 0), n * PAGE);
	for (int round = 0; round < 8; round++) {
		q = filled(PAGES, 7);
		assert_int_equal(pread(dfd, q, n * PAGE, 0), n * PAGE);
		assert_int_equal(test_wrong(q, n, 6, 0), 0);
		assert_int_equal(xm_map_unmap(q, PAGES * PAGE), 0);
	}
	close(dfd);
	close(fd);
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

struct reader {
	pthread_t thread;
	const char *at;
	uint64_t wrong;
};

static void *reader_main(void *arg)
{
	struct reader *r = arg;

	r->wrong = test_wrong(r->at, 1024, 8, 0);
	return NULL;
}

static void test_page_when_many_threads_fault_on_it_then_fetched_once(void **state)
{
	struct reader r[6];
	uint64_t fetched;
	char *p;

	config.prefetch = "none";
	start("shm", "128M");
	p = filled(1024, 8);
	assert_int_equal(test_evict(p, 1024), 0);
	fetched = xm_load(&xm_rt.me->stats.fetched_pages);
	for (unsigned i = 0; i < 6; i++) {
		r[i] = (struct reader){ .at = p };
		pthread_create(&r[i].thread, NULL, reader_main, &r[i]);
	}
	for (unsigned i = 0; i < 6; i++) {
		pthread_join(r[i].thread, NULL);
		assert_int_equal(r[i].wrong, 0);
	}
	usleep(10000);
	assert_int_equal(xm_load(&xm_rt.me->stats.fetched_pages) - fetched, 1024);
}

static uint32_t writer_through;

static void *writer_main(void *arg)
{
	char *p = arg;

	*p = 7;
	xm_store(&writer_through, 1);
	return NULL;
}

/* The evictor's steps by hand, with a raw MADV_DONTNEED of the program between its lock and its copy. */
static void test_page_when_dropped_under_the_evictor_then_no_write_is_lost(void **state)
{
	struct iovec local, remote;
	xm_pte *word, seen;
	pthread_t writer;
	char copy[PAGE], *p;

	need(XM_FEAT_WP);
	start("shm", "128M");
	p = filled(1, 3);
	word = &xm_rt.pt[((uintptr_t)p - xm_ext_lo) / PAGE];
	do /* the handler may not have settled the first touch yet */
		seen = xm_pg_load(word);
	while (xm_pg_state(seen) != XM_PG_RESIDENT || !xm_pg_cas(word, &seen, xm_pg_with_state(seen, XM_PG_EVICTING)));
	assert_int_equal(xm_sys_madvise(p, PAGE, MADV_DONTNEED), 0);
	local = (struct iovec){ copy, PAGE };
	remote = (struct iovec){ p, PAGE };
	xm_store(&xm_rt.evictor_tid, (uint32_t)xm_sys_gettid());
	assert_int_equal(xm_sys_vm_readv(&local, 1, &remote, 1), PAGE);
	xm_store(&xm_rt.evictor_tid, 0);
	assert_int_equal(copy[0], 0);
	xm_store(&writer_through, 0);
	pthread_create(&writer, NULL, writer_main, p);
	while (!(xm_pg_load(word) & XM_PG_WAITER) && !xm_load(&writer_through))
		sched_yield();
	assert_false(xm_load(&writer_through));
	assert_int_equal(xm_sys_madvise(p, PAGE, MADV_DONTNEED), 0);
	xm_frame_uncharge(&xm_rt, 1);
	xm_page_settle(&xm_rt, (uint64_t)(word - xm_rt.pt), XM_PG_EMPTY);
	pthread_join(writer, NULL);
	assert_int_equal(*p, 7);
}

/* ---- appliances that fail ------------------------------------------------------------------------------------------ */

static void test_appliance_when_stopped_for_a_moment_then_nobody_notices(void **state)
{
	char *p;

	start("tcp", "128M");
	p = filled(PAGES, 9);
	for (int i = 0; i < 3; i++) {
		assert_true(test_appliance_pause(&appliance[0]));
		if (fork() == 0) { /* somebody lets it go on while we wait for a page */
			usleep(300000);
			kill(appliance[0].pid, SIGCONT);
			_exit(0);
		}
		assert_int_equal(test_wrong(p, PAGES, 9, 0), 0);
		assert_true(wait(NULL) > 0);
	}
}

/* Backwards: each page by a fault of its own. */
static void *filler_main(void *arg)
{
	for (uint64_t i = PAGES / 4; i--;)
		test_fill((char *)arg + i * PAGE, 1, 10);
	return NULL;
}

/* Whoever evicts waits for the appliance: those who need room wait for him, and do not exceed the budget meanwhile. */
static void test_budget_when_eviction_is_slow_then_kept(void **state)
{
	pthread_t t[4];
	char *p, *more;
	int64_t over;

	start("tcp", "128M");
	p = filled(PAGES, 9);
	xm_rt.reserve_pages = 16; /* which may be exceeded; the sooner it is used up */
	more = xm_map_new(PAGES * PAGE, 0, RW, 0);
	assert_true(test_appliance_pause(&appliance[0]));
	for (unsigned i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, filler_main, more + i * (PAGES / 4) * PAGE);
	usleep(1500000); /* for as long as the eviction is to take */
	over = (int64_t)(xm_load(&xm_rt.fam->resident_pages) - xm_rt.fam->budget_pages);
	kill(appliance[0].pid, SIGCONT);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	assert_true(over <= 16 + 2 * 4); /* and one or two that a thread has in hand */
	assert_int_equal(test_wrong(p, PAGES, 9, 0), 0);
	for (uint64_t i = 0; i < PAGES; i++)
		assert_int_equal(test_wrong(more + i * PAGE, 1, 10, 0), 0);
}

static void test_links_when_they_break_again_and_again_then_nobody_notices(void **state)
{
	config.inject = "seed=7,disconnect=0.002";
	start("tcp", "128M");
	/* how many operations it takes is a matter of how pages are batched */
	for (int i = 0; i < 20 && !xm_load(&xm_rt.me->stats.link_reconnects); i++)
		work();
	assert_true(xm_load(&xm_rt.me->stats.link_reconnects) > 0);
}

static void test_links_when_corrupted_then_found_and_repeated(void **state)
{
	config.inject = "seed=8,corrupt=0.01,error=0.01";
	start("shm", "128M");
	for (int i = 0; i < 20 && (!xm_load(&xm_rt.me->stats.checksum_errors) ||
				   xm_load(&xm_rt.me->stats.link_errors) == xm_load(&xm_rt.me->stats.checksum_errors)); i++)
		work();
	assert_true(xm_load(&xm_rt.me->stats.checksum_errors) > 0);
	assert_true(xm_load(&xm_rt.me->stats.link_errors) > xm_load(&xm_rt.me->stats.checksum_errors));
}

static void check_dead(uint32_t mask)
{
	/* p is remote, q is here when the appliance dies */
	uint64_t began;
	char *p, *q;
	int fd = (int)syscall(SYS_memfd_create, "file", 0);

	config.masked_features = mask;
	config.lost_timeout_ns = 1000000000;
	config.stall_ns = 1000000000;
	start("tcp", "128M");
	p = filled(256, 10);
	q = filled(256, 11);
	assert_int_equal(test_evict(p, 256), 0);
	test_appliance_kill(&appliance[0]);
	began = xm_now_ns();
	assert_int_equal(test_signal_of(p, false), SIGBUS);
	assert_int_equal(test_signal_of(p, false), SIGBUS); /* and again */
	assert_int_equal(test_signal_of(p + PAGE, true), SIGBUS);
	assert_int_equal(write(fd, p + 5 * PAGE, 100), -1);
	assert_int_equal(errno, EFAULT);
	assert_true(xm_now_ns() - began < 20000000000ull);
	assert_int_equal(test_wrong(q, 256, 11, 0), 0);
	/* a lost page is ordinary memory again when its contents are given up */
	assert_int_equal(xm_map_advise(p, 256 * PAGE, MADV_DONTNEED), 0);
	assert_int_equal(test_not_zero(p, 256), 0);
	assert_int_equal(test_signal_of(p, true), 0);
	assert_int_equal(xm_map_unmap(p, 256 * PAGE) | xm_map_unmap(q, 256 * PAGE), 0);
	assert_int_equal(test_left_over(), 0);
	close(fd);
}

static void test_appliance_when_dead_over_tcp_then_sigbus_and_efault(void **state)
{
	check_dead(0);
}

/* Over shm the memory is mapped here and outlives its appliance: right or SIGBUS, never anything else. */
static void test_appliance_when_dead_over_shm_then_right_or_sigbus(void **state)
{
	char *p;

	config.lost_timeout_ns = 500000000;
	config.stall_ns = 500000000;
	start("shm", "128M");
	p = filled(1024, 14);
	assert_int_equal(test_evict(p, 1024), 0);
	test_appliance_kill(&appliance[0]);
	for (unsigned i = 0; i < 1024; i++)
		if (test_signal_of(p + i * PAGE, false) == 0)
			assert_int_equal(test_wrong(p + i * PAGE, 1, 14, i), 0);
	assert_int_equal(xm_map_unmap(p, 1024 * PAGE), 0);
	assert_int_equal(test_left_over(), 0);
}

static void test_appliance_when_dead_without_poison_then_sigbus_and_efault(void **state)
{
	check_dead(XM_FEAT_POISON);
}

/* The kernel cannot copy from the memory that holds it, as when it finds no page for its tables: the link can. */
static void test_page_when_direct_copy_is_refused_then_by_the_link(void **state)
{
	struct xm_worker *w;
	uint64_t slot;
	char *p, *at;

	start("shm", "128M");
	p = filled(8, 14);
	assert_int_equal(test_evict(p, 8), 0);
	slot = xm_pg_slot(xm_pg_load(&xm_rt.pt[xm_page_of(p)]));
	w = xm_worker_get(&xm_rt);
	at = (char *)(uintptr_t)xm_remote_direct(&xm_rt, w, slot, 1, false);
	xm_worker_put(w);
	assert_non_null(at);
	assert_int_equal(mprotect(at, PAGE, PROT_NONE), 0);
	assert_int_equal(test_wrong(p, 8, 14, 0), 0);
	assert_int_equal(xm_load(&xm_rt.me->stats.faults_lost), 0);
}

/* The same on the way out: a dirty page that has a slot. */
static void test_page_when_direct_copy_out_is_refused_then_by_the_link(void **state)
{
	uint64_t slot, written;
	struct xm_worker *w;
	char *p, *at;

	start("shm", "128M");
	p = filled(8, 14);
	assert_int_equal(test_evict(p, 8), 0);
	test_fill(p, 8, 15);
	slot = xm_pg_slot(xm_pg_load(&xm_rt.pt[xm_page_of(p + 3 * PAGE)]));
	w = xm_worker_get(&xm_rt);
	at = xm_remote_direct(&xm_rt, w, slot, 1, true);
	xm_worker_put(w);
	assert_non_null(at);
	assert_int_equal(mprotect(at, PAGE, PROT_NONE), 0);
	written = xm_load(&xm_rt.me->stats.written_bytes);
	assert_int_equal(test_evict(p, 8), 0);
	assert_int_equal(xm_load(&xm_rt.me->stats.written_bytes) - written, 8 * PAGE);
	assert_int_equal(test_wrong(p, 8, 15, 0), 0);
	assert_int_equal(xm_load(&xm_rt.me->stats.evict_refused_pages), 0);
}

/* Pages of zeros that have slots keep them, unless there are no others. */
static void test_slot_when_page_is_zero_again_then_kept_until_they_are_short(void **state)
{
	uint64_t slots;
	char *p;

	start("shm", "128M");
	p = filled(64, 14);
	assert_int_equal(test_evict(p, 64), 0);
	slots = xm_slots_free(xm_rt.fam);
	memset(p, 0, 64 * PAGE);
	assert_int_equal(test_evict(p, 64), 0);
	assert_int_equal(xm_slots_free(xm_rt.fam), slots);
	for (unsigned i = 0; i < 64; i++)
		((volatile char *)p)[i * PAGE] = 0;
	xm_store(&xm_rt.no_room, 1);
	assert_int_equal(test_evict(p, 64), 0);
	assert_int_equal(xm_slots_free(xm_rt.fam), slots + 64);
	for (unsigned i = 0; i < 64 * PAGE; i++)
		assert_int_equal(p[i], 0);
}

/* ---- known clean, or not ---------------------------------------------------------------------------------------- */

struct habit {
	uint64_t fetched, faults_write, evicted, clean;
};

/* Touches pages in random order or in theirs, by a load and, `store`, a store behind it: what that cost in its second
 * half. */
static struct habit touch_pages(volatile uint64_t *at, bool random, bool store, unsigned touches)
{
	const struct xm_proc_stats *st = &xm_rt.me->stats;
	struct habit before = { 0 };
	uint64_t x = 88172645463325252ull;

	for (unsigned i = 0; i < touches; i++) {
		volatile uint64_t *word;

		if (i == touches / 2)
			before = (struct habit){ xm_load(&st->faults_fetch), xm_load(&st->faults_write),
						 xm_load(&st->evicted_pages), xm_load(&st->evicted_clean_pages) };
		x = x * 6364136223846793005ull + 1442695040888963407ull;
		word = &at[(random ? x >> 33 : i) % PAGES * (PAGE / 8)];
		assert_int_not_equal(*word, 0);
		if (store)
			*word += 2; /* they start odd */
	}
	return (struct habit){ xm_load(&st->faults_fetch) - before.fetched, xm_load(&st->faults_write) - before.faults_write,
			       xm_load(&st->evicted_pages) - before.evicted,
			       xm_load(&st->evicted_clean_pages) - before.clean };
}

/* What is read and then written comes in writable after a while; when that is over pages are known clean again. */
static void check_habits(bool random, const char *prefetch)
{
	uint64_t *p;
	struct habit h;

	config.prefetch = prefetch;
	start("shm", "128M");
	p = xm_map_new(PAGES * PAGE, 0, RW, 0);
	for (uint64_t i = 0; i < PAGES; i++)
		p[i * (PAGE / 8)] = 1;
	h = touch_pages(p, random, true, 40000);
	print_message("written: %" PRIu64 " evicted, %" PRIu64 " writes to clean pages\n", h.evicted, h.faults_write);
	assert_true(h.evicted > 10000);
	assert_true(h.faults_write * (random ? 4 : 16) < h.evicted);
	h = touch_pages(p, random, false, 80000);
	print_message("read: %" PRIu64 " evicted, %" PRIu64 " clean\n", h.evicted, h.clean);
	assert_true(h.evicted > 10000);
	assert_true(h.clean * 20 > h.evicted * 19);
}

static void test_tracking_when_habits_change_then_follows(void **state)
{
	check_habits(true, "none");
}

/* In order with few faults, of which each decides on a run. */
static void test_stream_when_habits_change_then_follows(void **state)
{
	check_habits(false, "majority");
}

/* Full: the page that finds no room waits, then the thread that wants it gets SIGBUS; what was there stays. */
static void test_appliance_when_full_then_sigbus_after_the_stall(void **state)
{
	uint64_t n = 3 * (8 << 20) / PAGE, ok = 0;
	char *p;

	config.stall_ns = 500000000;
	start("shm", "8M");
	p = xm_map_new(n * PAGE, 0, RW, XM_MAP_NORESERVE);
	for (uint64_t i = 0; i < n; i++, ok++) {
		if (test_signal_of(p + i * PAGE, true) != 0)
			break;
		test_fill(p + i * PAGE, 1, i);
	}
	assert_true(ok >= (8 << 20) / PAGE);
	assert_true(ok < n);
	/* what came in gives its slot to what goes out: no page waits for room again */
	for (uint64_t i = 0; i + 256 < ok; i += 41)
		assert_int_equal(test_wrong(p + i * PAGE, 1, i, 0), 0);
	assert_true(xm_load(&xm_rt.me->stats.stalls) <= 3);
	/* room is made: it goes on */
	assert_int_equal(xm_map_unmap(p, n / 2 * PAGE), 0);
	p = filled(256, 12);
	assert_int_equal(test_wrong(p, 256, 12, 0), 0);
}

/* Pages of another process: a fork has made as many as the parent has. They do not leave by themselves. */
static struct xm_proc *burden(uint64_t pages)
{
	int i = xm_family_proc_claim(xm_rt.fam);

	assert_true(i >= 0);
	xm_store(&xm_rt.fam->proc[i].resident, pages);
	xm_add(&xm_rt.fam->resident_pages, pages);
	return &xm_rt.fam->proc[i];
}

/* Batch after batch leaves, for longer than the stall limit, then nothing more of ours: no reason for SIGBUS. */
static void test_stall_when_pages_left_all_the_time_then_budget_is_exceeded(void **state)
{
	struct xm_proc *other;

	config.stall_ns = 20000000;
	config.inject = "seed=1,delay=5ms:1";
	start("tcp", "128M");
	filled(BUDGET_PAGES / 2, 1);
	other = burden(2 * BUDGET_PAGES);
	xm_gate_enter(&xm_rt);
	xm_in_runtime++;
	assert_int_equal(xm_reclaim_for_fault(&xm_rt, true), 0);
	xm_in_runtime--;
	xm_gate_leave(&xm_rt);
	xm_family_proc_drop(xm_rt.fam, (uint32_t)(other - xm_rt.fam->proc));
}

struct full {
	int rc;
	uint64_t ns;
};

static void *full_main(void *arg)
{
	struct full *f = arg;
	uint64_t before = xm_now_ns();

	xm_in_runtime++;
	xm_gate_enter(&xm_rt);
	f->rc = xm_reclaim_for_fault(&xm_rt, true);
	xm_gate_leave(&xm_rt);
	xm_in_runtime--;
	f->ns = xm_now_ns() - before;
	return NULL;
}

struct answers {
	struct xm_proc *proc;
	int stop; /* atomic */
};

static void *answer_main(void *arg)
{
	struct answers *a = arg;

	while (!xm_load(&a->stop)) {
		xm_store(&a->proc->answered_ns, xm_now_ns());
		usleep(1000);
	}
	return NULL;
}

/* Another process has all the pages. While it has had no processor to give any, it is waited for, and the budget is not
 * exceeded further; if it has none to give, there is nothing to wait for. */
static void test_stall_when_others_owe_pages_then_they_are_waited_for(void **state)
{
	struct answers a = { NULL, 0 };
	pthread_t t;
	struct full f;

	start("shm", "128M");
	a.proc = burden(BUDGET_PAGES + 2 * xm_rt.reserve_pages + 1);
	xm_store(&a.proc->state, XM_PROC_LIVE);
	full_main(&f);
	assert_int_equal(f.rc, 0);
	assert_true(f.ns > 1900000000);
	usleep(150000); /* longer than what was found holds */
	assert_int_equal(pthread_create(&t, NULL, answer_main, &a), 0);
	full_main(&f);
	xm_store(&a.stop, 1);
	pthread_join(t, NULL);
	assert_int_equal(f.rc, 0);
	assert_true(f.ns < 1900000000);
	xm_family_proc_drop(xm_rt.fam, (uint32_t)(a.proc - xm_rt.fam->proc));
}

/* Full: the time in which the process was stopped is none that it has waited; also not when another thread's batch was
 * under way, which says nothing of whether there is room. */
static void test_stall_when_stopped_meanwhile_then_waits_by_its_own_time(void **state)
{
	const uint64_t stopped_ns = 1500000000;
	struct xm_proc *other;
	struct full f;
	pthread_t t;
	pid_t pid, parent = getpid();
	int go[2];
	char c = 0;

	config.stall_ns = 1000000000;
	start("shm", "8M");
	filled((8 << 20) / PAGE + 256, 1);
	other = burden(2 * BUDGET_PAGES);
	assert_int_equal(pipe(go), 0);
	pid = fork();
	if (pid == 0) {
		assert_int_equal(read(go[0], &c, 1), 1);
		kill(parent, SIGSTOP);
		xm_sys_sleep(stopped_ns);
		kill(parent, SIGCONT);
		_exit(0);
	}
	assert_int_equal(pthread_create(&t, NULL, full_main, &f), 0);
	while (!xm_load(&xm_rt.me->stats.stalls))
		usleep(1000);
	xm_lock(&xm_rt.reclaim_lock);
	assert_int_equal(write(go[1], &c, 1), 1);
	assert_int_equal(test_wait(pid), 0);
	usleep(150000); /* longer than anybody waits for the lock */
	xm_unlock(&xm_rt.reclaim_lock);
	pthread_join(t, NULL);
	assert_int_equal(f.rc, -ENOMEM);
	assert_true(f.ns > stopped_ns + config.stall_ns - 300000000);
	close(go[0]);
	close(go[1]);
	xm_family_proc_drop(xm_rt.fam, (uint32_t)(other - xm_rt.fam->proc));
}

/* What was believed when the last page left need not be so any more, and who has only pages without a slot finds out. */
static void test_growth_when_taken_for_full_without_a_slot_then_asks(void **state)
{
	config.stall_ns = 500000000;
	start("shm", "128M");
	xm_store(&xm_rt.no_room, 1);
	work();
	assert_int_equal(xm_load(&xm_rt.no_room), 0);
	assert_int_equal(xm_load(&xm_rt.me->stats.faults_lost), 0);
}

/* Another process has the right to ask for more, and does not get on: that is no word of the appliance's. */
static void test_growth_when_another_process_is_at_it_then_not_taken_for_full(void **state)
{
	char *p;

	config.stall_ns = 500000000;
	start("shm", "128M");
	xm_store(&xm_rt.fam->grow_owner, getppid());
	p = filled(BUDGET_PAGES + 256, 1);
	assert_int_equal(xm_load(&xm_rt.no_room), 0);
	assert_int_equal(xm_load(&xm_rt.me->stats.faults_lost), 0);
	xm_store(&xm_rt.fam->grow_owner, 0);
	assert_int_equal(test_wrong(p, BUDGET_PAGES + 256, 1, 0), 0);
	assert_int_equal(xm_map_unmap(p, (BUDGET_PAGES + 256) * PAGE), 0);
	work();
}

static void test_appliance_when_full_then_the_second_is_used(void **state)
{
	test_appliance_start(&appliance[0], "8M", "shm");
	test_appliance_start(&appliance[1], "128M", "tcp");
	test_runtime_start(&config, appliance, 2);
	work();
	assert_true(xm_rt.fam->region_id[0] && xm_rt.fam->region_id[1]);
}

static void test_appliance_when_first_dies_then_evictions_go_to_the_second(void **state)
{
	char *p;

	config.lost_timeout_ns = 500000000;
	test_appliance_start(&appliance[0], "128M", "tcp");
	test_appliance_start(&appliance[1], "128M", "shm");
	test_runtime_start(&config, appliance, 2);
	p = filled(512, 13);
	test_appliance_kill(&appliance[0]);
	assert_int_equal(test_evict(p, 512), 0); /* they were here: nothing is lost */
	assert_int_equal(test_wrong(p, 512, 13, 0), 0);
	assert_int_equal(xm_map_unmap(p, 512 * PAGE), 0);
	work();
	assert_int_equal(xm_load(&xm_rt.me->stats.faults_lost), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, fresh, stop)
		T(test_work_when_all_features_then_right),
		T(test_work_when_kernel_6_1_then_right),
		T(test_work_when_no_write_protection_then_by_move),
		T(test_work_when_pins_seen_then_by_move),
		cmocka_unit_test_setup(test_start_when_neither_wp_nor_move_then_eopnotsupp, fresh),
		T(test_work_when_pins_seen_and_no_move_then_stays_and_goes_on),
		T(test_syscalls_when_buffers_are_remote_then_transparent),
		T(test_direct_io_when_pressed_then_nothing_lost),
		T(test_page_when_many_threads_fault_on_it_then_fetched_once),
		T(test_page_when_dropped_under_the_evictor_then_no_write_is_lost),
		T(test_page_when_direct_copy_is_refused_then_by_the_link),
		T(test_page_when_direct_copy_out_is_refused_then_by_the_link),
		T(test_slot_when_page_is_zero_again_then_kept_until_they_are_short),
		T(test_tracking_when_habits_change_then_follows),
		T(test_stream_when_habits_change_then_follows),
		T(test_appliance_when_stopped_for_a_moment_then_nobody_notices),
		T(test_budget_when_eviction_is_slow_then_kept),
		T(test_links_when_they_break_again_and_again_then_nobody_notices),
		T(test_links_when_corrupted_then_found_and_repeated),
		T(test_appliance_when_dead_over_tcp_then_sigbus_and_efault),
		T(test_appliance_when_dead_over_shm_then_right_or_sigbus),
		T(test_appliance_when_dead_without_poison_then_sigbus_and_efault),
		T(test_appliance_when_full_then_sigbus_after_the_stall),
		T(test_stall_when_pages_left_all_the_time_then_budget_is_exceeded),
		T(test_stall_when_others_owe_pages_then_they_are_waited_for),
		T(test_stall_when_stopped_meanwhile_then_waits_by_its_own_time),
		T(test_growth_when_taken_for_full_without_a_slot_then_asks),
		T(test_growth_when_another_process_is_at_it_then_not_taken_for_full),
		T(test_appliance_when_full_then_the_second_is_used),
		T(test_appliance_when_first_dies_then_evictions_go_to_the_second),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
