/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link_fixture.h - what the tests of links share: one appliance, a peer, a link and a region, and a main() that
 * runs a program's tests once per transport: shm and tcp, or, with XMEM_RDMA_ADDR, verbs. XM_SEED=n repeats a run of the random ones.
 */
#ifndef XM_LINK_FIXTURE_H
#define XM_LINK_FIXTURE_H

#include "tests/link_sync.h"
#include "tests/unit/appliance_rig.h"

#include <sys/socket.h>

#define SECOND 1000000000ull
#define PAGE 4096u

static struct rig rig;
static int use_tcp, use_verbs; /* neither: shm */
static uint64_t seed;

static inline const char *uri_of(const struct rig *r)
{
	return use_verbs ? r->verbs : use_tcp ? r->tcp : r->shm;
}

static inline const char *uri(void)
{
	return uri_of(&rig);
}

struct fixture {
	struct xm_peer *peer;
	struct xm_link *link;
	struct xm_region_info region;
};

static inline void open_fixture(struct fixture *f, uint64_t slabs)
{
	memset(f, 0, sizeof(*f));
	f->peer = rig_peer(uri());
	assert_int_equal(xm_link_open(f->peer, &f->link), 0);
	assert_int_equal(xm_peer_region_create(f->peer, slabs * RIG_SLAB, NULL, 0, &f->region), 0);
	assert_int_equal(f->region.slabs, slabs);
}

static inline void close_fixture(struct fixture *f)
{
	f->link->ops->close(f->link);
	xm_peer_close(f->peer);
	rig_until(rig_stat(&rig).slabs_used == 0);
}

static inline int put(struct xm_link *l, const void *from, size_t len, uint64_t region, uint64_t off)
{
	struct iovec iov = { (void *)from, len };

	return link_writev_sync(l, &iov, 1, region, off, 5 * SECOND);
}

static inline int get(struct xm_link *l, void *to, size_t len, uint64_t region, uint64_t off)
{
	return link_read_sync(l, to, len, region, off, 5 * SECOND);
}

static inline void fill(uint8_t *p, size_t n, uint64_t x)
{
	for (size_t i = 0; i < n; i++) {
		x = x * 6364136223846793005ull + 1442695040888963407ull;
		p[i] = (uint8_t)(x >> 56);
	}
}

static inline int all_zero(const uint8_t *p, size_t n)
{
	while (n--)
		if (*p++)
			return 0;
	return 1;
}

static inline struct xm_completion one_completion(struct xm_link *l)
{
	struct xm_completion c = { 0 };

	l->ops->flush(l);
	while (l->ops->poll(l, &c, 1) == 0)
		assert_int_equal(l->ops->wait(l, 5 * SECOND), 0);
	return c;
}

static int placed[16], placed_count;

static inline int remember_fd(int fd)
{
	placed[placed_count++ % 16] = fd;
	return fd;
}

static inline void cut_connections(void)
{
	for (int i = 0; i < placed_count; i++)
		shutdown(placed[i], SHUT_RDWR);
	placed_count = 0;
}

static inline int start_rig(void **unused)
{
	struct rig_options o = rig_defaults();

	rig_start(&rig, &o);
	return 0;
}

static inline int stop_rig(void **unused)
{
	rig_kill(&rig);
	return 0;
}

static inline int run_on_each_transport(const struct CMUnitTest *tests, size_t count)
{
	const char *given = getenv("XM_SEED");
	int failed;

	seed = given ? strtoull(given, NULL, 0) : xm_now_ns();
	printf("XM_SEED=%llu\n", (unsigned long long)seed);
	xm_log_init("test_link", XM_LOG_ERROR);
	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(300);
	use_verbs = getenv("XMEM_RDMA_ADDR") != NULL; /* the address of an RDMA device: over that alone */
	if (use_verbs)
		return _cmocka_run_group_tests("verbs", tests, count, start_rig, stop_rig);
	failed = _cmocka_run_group_tests("shm", tests, count, start_rig, stop_rig);
	use_tcp = 1;
	failed += _cmocka_run_group_tests("tcp", tests, count, start_rig, stop_rig);
	return failed;
}

#endif
