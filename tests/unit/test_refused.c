/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_refused.c - the kernel refuses a call, for a moment or because the program has changed things behind our back:
 * nobody sleeps for ever, and no page is lost for it. Refusals are made by a seccomp filter of one thread, which ends
 * with it. Every case starts a runtime of its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "link/peer_impl.h"
#include "runtime/uffd.h"
#include "runtime/uffd_abi.h"
#include "tests/harness.h"

#define RW (PROT_READ | PROT_WRITE)
#define PAGE XM_PAGE_SIZE
#define BUDGET_PAGES 2048u

static struct test_appliance appliance;
static struct test_config config;

static int fresh(void **state)
{
	memset(&config, 0, sizeof(config));
	config.budget_bytes = BUDGET_PAGES * PAGE;
	return 0;
}

static int stop(void **state)
{
	if (!xm_rt.state)
		return 0;
	test_runtime_stop();
	test_appliance_stop(&appliance);
	return 0;
}

static void start(const char *link, const char *memory)
{
	test_appliance_start(&appliance, memory, link);
	test_runtime_start(&config, &appliance, 1);
}

static char *filled(uint64_t pages, uint64_t seed)
{
	char *p = xm_map_new(pages * PAGE, 0, RW, 0);

	assert_false(test_is_error(p));
	test_fill(p, pages, seed);
	return p;
}

/* ---- calls that fail -------------------------------------------------------------------------------------------- */

struct refused {
	uint32_t call, second;	/* system call, and its second argument where that is not 0: the ioctl */
	int err;
	void (*work)(void *arg);
	void *arg;
};

static void refuse(const struct refused *r)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, r->call, 0, 2),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, r->second, 1, r->second ? 0 : 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)r->err),
	};
	struct sock_fprog prog = { XM_ARRAY_SIZE(code), code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) != 0)
		test_die("seccomp: %s", strerror(errno));
}

static void *refused_main(void *arg)
{
	const struct refused *r = arg;

	xm_in_runtime++;
	refuse(r);
	r->work(r->arg);
	xm_in_runtime--;
	return NULL;
}

static void while_refused(uint32_t call, uint32_t second, int err, void (*work)(void *arg), void *arg)
{
	struct refused r = { call, second, err, work, arg };
	pthread_t t;

	assert_int_equal(pthread_create(&t, NULL, refused_main, &r), 0);
	pthread_join(t, NULL);
}

/* ---- sleepers --------------------------------------------------------------------------------------------------- */

struct toucher {
	pthread_t thread;
	volatile char *at;
	bool write;
	uint32_t through;
};

static void *toucher_main(void *arg)
{
	struct toucher *t = arg;

	if (t->write)
		*t->at = 7;
	else
		(void)*t->at;
	xm_store(&t->through, 1);
	return NULL;
}

/* A thread sleeps on the page and a handler has the message, but waits at the gate, until let_go. */
static void sleeps_on(struct toucher *t, char *at, bool write)
{
	uint64_t reads;

	while (!xm_fork_prepare(XM_FORK_WAIT_NS))
		;
	reads = xm_load(&xm_rt.me->stats.message_reads);
	*t = (struct toucher){ .at = at, .write = write };
	assert_int_equal(pthread_create(&t->thread, NULL, toucher_main, t), 0);
	while (xm_load(&xm_rt.me->stats.message_reads) == reads)
		usleep(1000);
}

static void let_go(void)
{
	errno = EAGAIN; /* as if fork had failed */
	xm_fork_parent();
}

/* A thread that sleeps for ever cannot be joined: the test ends as a failure. */
static void gets_through(struct toucher *t)
{
	for (int i = 0; i < 5000 && !xm_load(&t->through); i++)
		usleep(1000);
	if (!xm_load(&t->through))
		test_die("a thread sleeps on its page for ever");
	pthread_join(t->thread, NULL);
}

static void test_sleeper_when_page_is_there_already_then_woken(void **state)
{
	struct toucher t;
	char *p;

	start("shm", "64M");
	p = filled(1, 1);
	assert_int_equal(test_evict(p, 1), 0);
	sleeps_on(&t, p, false);
	assert_int_equal(xm_uffd_copy_asleep(xm_rt.uffd, (uint64_t)(uintptr_t)p, xm_rt.zeros, PAGE, false), PAGE);
	let_go();
	gets_through(&t);
}

static void test_sleeper_when_mapped_anew_behind_our_back_then_woken(void **state)
{
	struct toucher t;
	char *p;

	start("shm", "64M");
	if (!(xm_rt.features & XM_FEAT_WP)) {
		print_message("skipped: this kernel does not write-protect\n");
		skip();
	}
	p = filled(1, 1);
	assert_int_equal(test_evict(p, 1), 0);
	assert_int_equal(test_wrong(p, 1, 1, 0), 0); /* clean from now on: a write is a fault */
	assert_int_equal(test_pages_become(p, 1, XM_PG_RESIDENT, 1), 1);
	sleeps_on(&t, p, true);
	assert_ptr_equal(xm_sys_mmap(p, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), p);
	let_go();
	gets_through(&t);
	assert_int_equal(*p, 7);
}

/* The evictor has locked the page, which a raw system call has dropped: nobody but itself could answer its fault. */
static void test_unshare_when_page_is_absent_or_protected_then_does_not_sleep(void **state)
{
	xm_pte *word, seen;
	char *p;

	start("shm", "64M");
	p = filled(1, 1);
	word = &xm_rt.pt[xm_page_of(p)];
	do
		seen = xm_pg_load(word);
	while (xm_pg_state(seen) != XM_PG_RESIDENT || !xm_pg_cas(word, &seen, xm_pg_with_state(seen, XM_PG_EVICTING)));
	if (xm_rt.features & XM_FEAT_WP)
		assert_int_equal(xm_uffd_writeprotect(xm_rt.uffd, (uint64_t)(uintptr_t)p, PAGE, true), 0);
	alarm(60);
	xm_evict_unshare((uint64_t)(uintptr_t)p);
	assert_int_equal(xm_sys_madvise(p, PAGE, MADV_DONTNEED), 0);
	xm_evict_unshare((uint64_t)(uintptr_t)p);
	alarm(0);
	xm_frame_uncharge(&xm_rt, 1);
	xm_page_settle(&xm_rt, xm_page_of(p), XM_PG_EMPTY);
}

static enum xm_fault_kind resolve(char *at)
{
	struct xm_worker *w = xm_worker_get(&xm_rt);
	enum xm_fault_kind kind;

	xm_gate_enter(&xm_rt);
	kind = xm_fault_resolve(&xm_rt, w, xm_page_of(at), 0, false, false);
	xm_gate_leave(&xm_rt);
	xm_worker_put(w);
	return kind;
}

/* Two threads touched it at once: a second message comes when the page is unreadable already. */
static void test_lost_page_when_told_twice_then_ordinary_when_given_up(void **state)
{
	char *p;

	config.lost_timeout_ns = config.stall_ns = 500000000;
	start("tcp", "64M");
	p = filled(2, 1);
	assert_int_equal(test_evict(p, 2), 0);
	test_appliance_kill(&appliance);
	assert_int_equal(test_signal_of(p, false), SIGBUS);
	assert_int_equal(test_pages_become(p, 1, XM_PG_LOST, 1), 1);
	assert_int_equal(resolve(p), XM_FAULT_BAD);
	assert_int_equal(test_pages_in(p, 1, XM_PG_LOST), 1);
	assert_int_equal(test_signal_of(p, false), SIGBUS);
	assert_int_equal(xm_map_advise(p, 2 * PAGE, MADV_DONTNEED), 0);
	assert_int_equal(test_signal_of(p, true), 0);
	assert_int_equal(xm_map_unmap(p, 2 * PAGE), 0);
	assert_int_equal(test_left_over(), 0);
}

/* ---- pages that could not leave ---------------------------------------------------------------------------------- */

static void evict_all(void *arg)
{
	xm_gate_enter(&xm_rt);
	xm_reclaim_range(&xm_rt, xm_page_of(arg), 3000);
	xm_gate_leave(&xm_rt);
}

/* Moved out, no slot is free for them, and just now no frame for a copy. */
static void test_moved_page_when_no_slot_and_no_memory_then_goes_back(void **state)
{
	char *p;

	config.budget_bytes = 4096 * PAGE;
	start("shm", "8M");
	if (!(xm_rt.features & XM_FEAT_MOVE)) {
		print_message("skipped: this kernel has no MOVE\n");
		skip();
	}
	xm_pins_seen("the test");
	p = filled(3000, 1);
	assert_int_equal(test_pages_become(p, 3000, XM_PG_RESIDENT, 3000), 3000);
	while_refused(SYS_ioctl, UFFDIO_COPY, ENOMEM, evict_all, p);
	assert_int_equal(test_pages_in(p, 3000, XM_PG_REMOTE), (8 << 20) / PAGE);
	assert_int_equal(test_wrong(p, 3000, 1, 0), 0);
}

/* ---- pages that could not be fetched ------------------------------------------------------------------------------ */

struct one_read {
	uint64_t slot;
	int32_t status;
	struct xm_worker *w; /* NULL: any */
};

static void read_one(void *arg)
{
	struct one_read *r = arg;
	struct xm_worker *w = r->w ? r->w : xm_worker_get(&xm_rt);

	xm_remote_read(&xm_rt, w, &r->slot, &r->status, 1);
	if (!r->w)
		xm_worker_put(w);
}

static struct one_read remote_page(char **at)
{
	*at = filled(1, 1);
	assert_int_equal(test_evict(*at, 1), 0);
	return (struct one_read){ .slot = xm_pg_slot(xm_pg_load(&xm_rt.pt[xm_page_of(*at)])) };
}

/* The kernel says EFAULT also when it finds no memory for its tables. */
static void test_shm_read_when_kernel_has_no_memory_then_may_pass(void **state)
{
	struct one_read r;
	char *p;

	start("shm", "64M");
	r = remote_page(&p);
	while_refused(SYS_process_vm_readv, 0, EFAULT, read_one, &r);
	assert_int_equal(r.status, -ENOMEM);
	read_one(&r);
	assert_int_equal(r.status, 0);
}

/* No memory for a link, and the appliance is well: the page is not lost. */
static void link_cannot_be_opened(const char *link)
{
	struct xm_worker *used, *w;
	struct one_read r;
	char *p;

#ifdef __SANITIZE_ADDRESS__
	print_message("skipped: the sanitizer itself needs memory meanwhile\n");
	skip();
#endif
	config.lost_timeout_ns = 300000000;
	start(link, "64M");
	r = remote_page(&p);
	used = xm_worker_get(&xm_rt);
	w = xm_worker_get(&xm_rt);
	assert_non_null(w);
	r.w = w->link[0] ? used : w;
	assert_null(r.w->link[0]);
	while_refused(SYS_mmap, 0, ENOMEM, read_one, &r);
	assert_int_equal(r.status, -ENOMEM);
	read_one(&r);
	assert_int_equal(r.status, 0);
	xm_worker_put(used);
	xm_worker_put(w);
}

static void test_read_when_no_memory_for_a_link_over_shm_then_may_pass(void **state)
{
	link_cannot_be_opened("shm");
}

static void test_read_when_no_memory_for_a_link_over_tcp_then_may_pass(void **state)
{
	link_cannot_be_opened("tcp");
}

/* Other processes of the family have taken all connections that the session may have: that passes too. */
static void test_read_when_session_has_its_connections_then_may_pass(void **state)
{
	struct xm_link *l[XM_WIRE_SESSION_DATA + 1];
	struct xm_worker *used, *w;
	struct one_read r;
	int n = 0, rc;
	char *p;

	config.lost_timeout_ns = 300000000;
	start("tcp", "64M");
	r = remote_page(&p);
	used = xm_worker_get(&xm_rt);
	w = xm_worker_get(&xm_rt);
	r.w = w->link[0] ? used : w;
	assert_null(r.w->link[0]);
	while ((rc = xm_link_open(xm_rt.peer[0], &l[n])) == 0)
		n++;
	assert_int_equal(rc, -EUSERS);
	read_one(&r);
	assert_int_equal(r.status, -ENOMEM);
	l[0]->ops->kill(l[0]);
	/* until the place of this one, which has gone, is somebody else's */
	while ((rc = xm_link_open(xm_rt.peer[0], &l[n])) < 0)
		usleep(1000);
	assert_int_equal(xm_link_reconnect(l[0]), -EUSERS);
	for (; n >= 0; n--)
		l[n]->ops->close(l[n]);
	read_one(&r);
	assert_int_equal(r.status, 0);
	xm_worker_put(used);
	xm_worker_put(w);
}

/* No descriptor is left by which the slab could be mapped: the thread waits until there is one again. */
static void test_page_when_no_descriptor_for_its_slab_then_waited_for(void **state)
{
	struct rlimit was, none;
	struct toucher t;
	uint64_t tries;
	char *p;

	start("shm", "64M");
	remote_page(&p);
	xm_peer_slabs_drop(xm_rt.peer[0], xm_rt.fam->region_id[0], 0, UINT64_MAX);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
	none = (struct rlimit){ 1, was.rlim_max }; /* not 0: no poll() either then */
	tries = xm_load(&xm_rt.me->stats.faults_fetch);
	t = (struct toucher){ .at = p };
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	assert_int_equal(pthread_create(&t.thread, NULL, toucher_main, &t), 0);
	while (xm_load(&xm_rt.me->stats.faults_fetch) < tries + 5)
		usleep(1000);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
	gets_through(&t);
	assert_int_equal(test_wrong(p, 1, 1, 0), 0);
	assert_int_equal(xm_load(&xm_rt.me->stats.faults_lost), 0);
}

/* Cuts the object short that is mapped at this address; false: it cannot be had by /proc. */
static bool cut_short(const void *at)
{
	unsigned long from, to;
	char line[300], path[100] = "";
	FILE *maps = fopen("/proc/self/maps", "re");
	bool done;
	int fd;

	while (maps && fgets(line, sizeof(line), maps))
		if (sscanf(line, "%lx-%lx", &from, &to) == 2 && from <= (uintptr_t)at && (uintptr_t)at < to)
			snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", from, to);
	if (maps)
		fclose(maps);
	fd = open(path, O_RDWR | O_CLOEXEC);
	done = fd >= 0 && ftruncate(fd, 0) == 0;
	if (fd >= 0)
		close(fd);
	return done;
}

/* What a client has cut off is gone, though the appliance hands the object out again: SIGBUS, and not for ever asked. */
static void test_shm_read_when_slab_was_cut_short_then_lost(void **state)
{
	struct xm_worker *w;
	struct one_read r;
	const void *at;
	char *p;

	start("shm", "64M");
	r = remote_page(&p);
	w = xm_worker_get(&xm_rt);
	at = xm_remote_direct(&xm_rt, w, r.slot, 1, false);
	xm_worker_put(w);
	if (!cut_short(at)) {
		print_message("skipped: no /proc/self/map_files\n");
		skip();
	}
	read_one(&r);
	assert_int_equal(r.status, -ENXIO);
	assert_int_equal(test_signal_of(p, false), SIGBUS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, fresh, stop)
		T(test_sleeper_when_page_is_there_already_then_woken),
		T(test_sleeper_when_mapped_anew_behind_our_back_then_woken),
		T(test_unshare_when_page_is_absent_or_protected_then_does_not_sleep),
		T(test_lost_page_when_told_twice_then_ordinary_when_given_up),
		T(test_moved_page_when_no_slot_and_no_memory_then_goes_back),
		T(test_shm_read_when_kernel_has_no_memory_then_may_pass),
		T(test_read_when_no_memory_for_a_link_over_shm_then_may_pass),
		T(test_read_when_no_memory_for_a_link_over_tcp_then_may_pass),
		T(test_read_when_session_has_its_connections_then_may_pass),
		T(test_page_when_no_descriptor_for_its_slab_then_waited_for),
		T(test_shm_read_when_slab_was_cut_short_then_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
