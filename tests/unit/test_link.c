/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_link.c - the contract of link.h, over every transport: the same tests run on shm and on tcp, against a real
 * appliance in a child process. XM_SEED=n repeats a run of the random tests.
 */
#include "tests/unit/appliance_rig.h"

#include "link/inject.h"
#include "link/trace.h"

#include <sys/socket.h>

#define SECOND 1000000000ull
#define PAGE 4096u

static struct rig rig;
static int use_tcp;
static uint64_t seed;

static const char *uri(void)
{
	return use_tcp ? rig.tcp : rig.shm;
}

struct fixture {
	struct xm_peer *peer;
	struct xm_link *link;
	struct xm_region_info region;
};

static void open_fixture(struct fixture *f, uint64_t slabs)
{
	memset(f, 0, sizeof(*f));
	f->peer = rig_peer(uri());
	assert_int_equal(xm_link_open(f->peer, &f->link), 0);
	assert_int_equal(xm_peer_region_create(f->peer, slabs * RIG_SLAB, NULL, 0, &f->region), 0);
	assert_int_equal(f->region.slabs, slabs);
}

static void close_fixture(struct fixture *f)
{
	f->link->ops->close(f->link);
	xm_peer_close(f->peer);
	rig_until(rig_stat(&rig).slabs_used == 0);
}

static int put(struct xm_link *l, const void *from, size_t len, uint64_t region, uint64_t off)
{
	struct iovec iov = { (void *)from, len };

	return xm_link_writev_sync(l, &iov, 1, region, off, 5 * SECOND);
}

static int get(struct xm_link *l, void *to, size_t len, uint64_t region, uint64_t off)
{
	return xm_link_read_sync(l, to, len, region, off, 5 * SECOND);
}

static void fill(uint8_t *p, size_t n, uint64_t x)
{
	for (size_t i = 0; i < n; i++) {
		x = x * 6364136223846793005ull + 1442695040888963407ull;
		p[i] = (uint8_t)(x >> 56);
	}
}

static int all_zero(const uint8_t *p, size_t n)
{
	while (n--)
		if (*p++)
			return 0;
	return 1;
}

static struct xm_completion one_completion(struct xm_link *l)
{
	struct xm_completion c = { 0 };

	l->ops->flush(l);
	while (l->ops->poll(l, &c, 1) == 0)
		assert_int_equal(l->ops->wait(l, 5 * SECOND), 0);
	return c;
}

/* ---- data ---------------------------------------------------------------------------------------------- */

static void test_read_after_write_gathers_pieces_in_order(void **unused)
{
	static uint8_t a[3 * PAGE], b[100], c[5 * PAGE], all[8 * PAGE + 100], back[8 * PAGE + 100];
	struct iovec iov[] = { { a, sizeof(a) }, { b, sizeof(b) }, { c, sizeof(c) } };
	struct fixture f;

	open_fixture(&f, 3);
	fill(all, sizeof(all), seed);
	memcpy(a, all, sizeof(a));
	memcpy(b, all + sizeof(a), sizeof(b));
	memcpy(c, all + sizeof(a) + sizeof(b), sizeof(c));
	assert_int_equal(xm_link_writev_sync(f.link, iov, 3, f.region.id, 7 * PAGE, 5 * SECOND), 0);
	assert_int_equal(get(f.link, back, sizeof(back), f.region.id, 7 * PAGE), 0);
	assert_memory_equal(back, all, sizeof(all));
	close_fixture(&f);
}

static void test_operation_across_slabs_moves_all_bytes(void **unused)
{
	uint8_t *data = malloc(XM_LINK_OP_MAX), *back = malloc(XM_LINK_OP_MAX);
	struct fixture f;

	open_fixture(&f, 3);
	fill(data, XM_LINK_OP_MAX, seed + 1);
	assert_int_equal(put(f.link, data, XM_LINK_OP_MAX, f.region.id, RIG_SLAB / 2 + 3), 0);
	assert_int_equal(get(f.link, back, XM_LINK_OP_MAX, f.region.id, RIG_SLAB / 2 + 3), 0);
	assert_memory_equal(back, data, XM_LINK_OP_MAX);
	close_fixture(&f);
	free(data);
	free(back);
}

static void test_fresh_region_reads_zero(void **unused)
{
	static uint8_t page[PAGE];
	struct fixture f;

	open_fixture(&f, 4);
	for (uint64_t off = 0; off < 4 * RIG_SLAB; off += 37 * PAGE) {
		memset(page, 1, sizeof(page));
		assert_int_equal(get(f.link, page, PAGE, f.region.id, off), 0);
		assert_true(all_zero(page, PAGE));
	}
	close_fixture(&f);
}

static void test_memory_used_again_reads_zero(void **unused)
{
	uint8_t *page = malloc(RIG_SLAB);
	struct fixture f;

	for (int round = 0; round < 3; round++) {
		open_fixture(&f, 60); /* nearly all of the pool: the same memory must come again */
		for (uint64_t s = 0; s < 60; s++) {
			assert_int_equal(get(f.link, page, RIG_SLAB, f.region.id, s * RIG_SLAB), 0);
			assert_true(all_zero(page, RIG_SLAB));
			memset(page, 0xa5, RIG_SLAB);
			assert_int_equal(put(f.link, page, RIG_SLAB, f.region.id, s * RIG_SLAB), 0);
		}
		close_fixture(&f);
	}
	free(page);
}

static void test_range_beyond_end_is_enxio_and_link_stays(void **unused)
{
	static uint8_t buf[2 * PAGE];
	struct fixture f;

	open_fixture(&f, 2);
	assert_int_equal(get(f.link, buf, PAGE, f.region.id, 2 * RIG_SLAB), -ENXIO);
	assert_int_equal(get(f.link, buf, 2 * PAGE, f.region.id, 2 * RIG_SLAB - PAGE), -ENXIO);
	assert_int_equal(put(f.link, buf, 2 * PAGE, f.region.id, 2 * RIG_SLAB - PAGE), -ENXIO);
	assert_int_equal(get(f.link, buf, PAGE, f.region.id, UINT64_MAX - 100), -ENXIO);
	assert_int_equal(get(f.link, buf, PAGE, 1ull << 50, 0), -ENXIO);
	assert_int_equal(f.link->ops->state(f.link), 0);
	memset(buf, 7, PAGE);
	assert_int_equal(put(f.link, buf, PAGE, f.region.id, 2 * RIG_SLAB - PAGE), 0);
	close_fixture(&f);
}

static void test_write_partly_beyond_end_writes_nothing(void **unused)
{
	static uint8_t buf[2 * PAGE], back[PAGE];
	struct fixture f;

	open_fixture(&f, 1);
	memset(buf, 0x11, sizeof(buf));
	assert_int_equal(put(f.link, buf, 2 * PAGE, f.region.id, RIG_SLAB - PAGE), -ENXIO);
	assert_int_equal(get(f.link, back, PAGE, f.region.id, RIG_SLAB - PAGE), 0);
	assert_true(all_zero(back, PAGE));
	close_fixture(&f);
}

static void test_dropped_slab_is_enxio_and_neighbours_keep_data(void **unused)
{
	static uint8_t page[PAGE];
	struct xm_region_info info;
	const void *direct;
	struct fixture f;

	open_fixture(&f, 5);
	for (uint64_t s = 0; s < 5; s++) {
		memset(page, (int)s + 1, PAGE);
		assert_int_equal(put(f.link, page, PAGE, f.region.id, s * RIG_SLAB), 0);
	}
	direct = f.link->ops->direct(f.link, f.region.id, 2 * RIG_SLAB, PAGE);
	assert_int_equal(xm_peer_region_drop_slabs(f.peer, f.region.id, 2, 2), 0);
	assert_int_equal(xm_peer_region_drop_slabs(f.peer, f.region.id, 3, 1), 0); /* again: no matter */
	assert_int_equal(xm_peer_region_drop_slabs(f.peer, f.region.id, 4, 2), -EINVAL);
	for (uint64_t s = 0; s < 5; s++) {
		int want = s == 2 || s == 3 ? -ENXIO : 0;

		assert_int_equal(get(f.link, page, PAGE, f.region.id, s * RIG_SLAB), want);
		assert_int_equal(put(f.link, page, PAGE, f.region.id, s * RIG_SLAB + PAGE), want);
		if (!want)
			assert_int_equal(page[17], s + 1);
	}
	assert_int_equal(!!direct, !use_tcp);
	assert_null(f.link->ops->direct(f.link, f.region.id, 2 * RIG_SLAB, PAGE));
	assert_int_equal(xm_peer_region_info(f.peer, f.region.id, &info), 0);
	assert_int_equal(info.slabs, 5);
	assert_int_equal(info.slabs_present, 3);
	assert_true(info.generation > f.region.generation);
	close_fixture(&f);
}

static void test_resize_keeps_what_stays_and_grows_zero(void **unused)
{
	static uint8_t page[PAGE];
	struct xm_region_info info;
	struct fixture f;

	open_fixture(&f, 4);
	memset(page, 0x33, PAGE);
	assert_int_equal(put(f.link, page, PAGE, f.region.id, 0), 0);
	assert_int_equal(put(f.link, page, PAGE, f.region.id, 3 * RIG_SLAB), 0);
	assert_int_equal(xm_peer_region_resize(f.peer, f.region.id, RIG_SLAB + 1, &info), 0);
	assert_int_equal(info.slabs, 2);
	assert_int_equal(get(f.link, page, PAGE, f.region.id, 3 * RIG_SLAB), -ENXIO);
	assert_int_equal(xm_peer_region_resize(f.peer, f.region.id, 6 * RIG_SLAB, &info), 0);
	assert_int_equal(info.slabs_present, 6);
	assert_int_equal(get(f.link, page, PAGE, f.region.id, 3 * RIG_SLAB), 0);
	assert_true(all_zero(page, PAGE));
	assert_int_equal(get(f.link, page, PAGE, f.region.id, 0), 0);
	assert_int_equal(page[99], 0x33);
	close_fixture(&f);
}

static void test_freed_region_is_enxio_and_memory_returns(void **unused)
{
	static uint8_t page[PAGE];
	struct fixture f;

	open_fixture(&f, 4);
	assert_int_equal(put(f.link, page, PAGE, f.region.id, 0), 0);
	assert_int_equal(rig_stat(&rig).slabs_used, 4);
	assert_int_equal(xm_peer_region_free(f.peer, f.region.id), 0);
	assert_int_equal(get(f.link, page, PAGE, f.region.id, 0), -ENXIO);
	assert_int_equal(put(f.link, page, PAGE, f.region.id, 0), -ENXIO);
	assert_int_equal(xm_peer_region_free(f.peer, f.region.id), -ENOENT);
	assert_int_equal(rig_stat(&rig).slabs_used, 0);
	assert_int_equal(rig_stat(&rig).free_bytes, rig_stat(&rig).total_bytes);
	close_fixture(&f);
}

static void test_create_beyond_pool_is_enomem_and_tells_free(void **unused)
{
	struct xm_region_info r;
	struct xm_peer_info info;
	struct fixture f;

	open_fixture(&f, 10);
	assert_int_equal(xm_peer_region_create(f.peer, 55 * RIG_SLAB, "x", 0, &r), -ENOMEM);
	xm_peer_info(f.peer, &info);
	assert_int_equal(info.free_bytes, 54 * RIG_SLAB);
	assert_int_equal(xm_peer_region_resize(f.peer, f.region.id, 65 * RIG_SLAB, &r), -ENOMEM);
	assert_int_equal(xm_peer_region_create(f.peer, 54 * RIG_SLAB, "x", 0, &r), 0);
	assert_int_equal(xm_peer_region_create(f.peer, 0, "y", 0, &r), -EINVAL);
	assert_int_equal(xm_peer_region_create(f.peer, UINT64_MAX, "y", 0, &r), -EINVAL);
	assert_int_equal(xm_peer_region_open(f.peer, "x", &r), 0);
	assert_int_equal(r.slabs, 54);
	assert_int_equal(xm_peer_region_open(f.peer, "nobody", &r), -ENOENT);
	close_fixture(&f);
}

static void test_atomics_exchange_and_add(void **unused)
{
	struct xm_completion c;
	struct fixture f;
	uint64_t word;

	open_fixture(&f, 1);
	assert_int_equal(f.link->ops->faa(f.link, f.region.id, 64, 40, 1), 0);
	c = one_completion(f.link);
	assert_int_equal(c.status, 0);
	assert_int_equal(c.value, 0);
	assert_int_equal(f.link->ops->faa(f.link, f.region.id, 64, 2, 2), 0);
	assert_int_equal(one_completion(f.link).value, 40);
	assert_int_equal(f.link->ops->cas(f.link, f.region.id, 64, 41, 7, 3), 0);
	assert_int_equal(one_completion(f.link).value, 42); /* did not match */
	assert_int_equal(f.link->ops->cas(f.link, f.region.id, 64, 42, 7, 4), 0);
	assert_int_equal(one_completion(f.link).value, 42);
	assert_int_equal(get(f.link, &word, 8, f.region.id, 64), 0);
	assert_int_equal(word, 7);
	assert_int_equal(f.link->ops->faa(f.link, f.region.id, 63, 1, 5), 0);
	assert_int_equal(one_completion(f.link).status, -EINVAL);
	assert_int_equal(f.link->ops->faa(f.link, f.region.id, RIG_SLAB, 1, 6), 0);
	assert_int_equal(one_completion(f.link).status, -ENXIO);
	close_fixture(&f);
}

static void test_unmapped_local_pages_are_efault_and_link_stays(void **unused)
{
	uint8_t *p = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct iovec iov[3] = { { p, PAGE }, { p + PAGE, PAGE }, { p + 2 * PAGE, PAGE } };
	uint8_t back[PAGE];
	struct fixture f;

	open_fixture(&f, 1);
	memset(p, 0x5a, 3 * PAGE);
	munmap(p + PAGE, PAGE);
	assert_int_equal(xm_link_writev_sync(f.link, iov, 3, f.region.id, 0, 5 * SECOND), -EFAULT);
	munmap(p, PAGE);
	assert_int_equal(xm_link_writev_sync(f.link, iov, 3, f.region.id, 0, 5 * SECOND), -EFAULT);
	assert_int_equal(f.link->ops->state(f.link), 0);
	assert_int_equal(put(f.link, p + 2 * PAGE, PAGE, f.region.id, 3 * PAGE), 0);
	assert_int_equal(get(f.link, back, PAGE, f.region.id, 3 * PAGE), 0);
	assert_int_equal(back[5], 0x5a);
	munmap(p + 2 * PAGE, PAGE);
	close_fixture(&f);
}

static void test_malformed_operations_are_refused_at_submission(void **unused)
{
	uint8_t b[8];
	struct iovec iov = { b, 0 };
	struct fixture f;

	open_fixture(&f, 1);
	assert_int_equal(f.link->ops->read(f.link, b, 0, f.region.id, 0, 0), -EINVAL);
	assert_int_equal(f.link->ops->read(f.link, b, XM_LINK_OP_MAX + 1, f.region.id, 0, 0), -EINVAL);
	assert_int_equal(f.link->ops->writev(f.link, &iov, 1, f.region.id, 0, 0), -EINVAL);
	assert_int_equal(f.link->ops->writev(f.link, &iov, 0, f.region.id, 0, 0), -EINVAL);
	assert_int_equal(f.link->ops->writev(f.link, &iov, XM_LINK_IOV_MAX + 1, f.region.id, 0, 0), -EINVAL);
	assert_int_equal(f.link->ops->wait(f.link, 1000), -ETIMEDOUT);
	close_fixture(&f);
}

static void test_full_depth_completes_each_cookie_once(void **unused)
{
	static uint8_t buf[XM_LINK_DEPTH][PAGE];
	struct xm_completion c[16];
	unsigned seen[XM_LINK_DEPTH] = { 0 }, total = 0;
	struct xm_link_stats st;
	struct fixture f;

	open_fixture(&f, 4);
	for (unsigned round = 0; round < 20; round++) {
		memset(seen, 0, sizeof(seen));
		for (uint64_t i = 0; i < XM_LINK_DEPTH; i++)
			assert_int_equal(f.link->ops->read(f.link, buf[i], PAGE, f.region.id, i * PAGE, i),
					 0);
		assert_int_equal(f.link->ops->read(f.link, buf[0], PAGE, f.region.id, 0, 999), -EAGAIN);
		for (total = 0; total < XM_LINK_DEPTH;) {
			int n;

			f.link->ops->flush(f.link);
			assert_int_equal(f.link->ops->wait(f.link, 5 * SECOND), 0);
			n = f.link->ops->poll(f.link, c, 16);
			for (int i = 0; i < n; i++, total++) {
				assert_int_equal(c[i].status, 0);
				assert_int_equal(c[i].bytes, PAGE);
				seen[c[i].cookie]++;
			}
		}
		for (unsigned i = 0; i < XM_LINK_DEPTH; i++)
			assert_int_equal(seen[i], 1);
		assert_int_equal(f.link->ops->poll(f.link, c, 16), 0);
	}
	f.link->ops->stats(f.link, &st);
	assert_int_equal(st.reads, 20 * XM_LINK_DEPTH);
	assert_int_equal(st.completions, 20 * XM_LINK_DEPTH);
	close_fixture(&f);
}

static void test_full_depth_of_largest_writes_arrives(void **unused)
{
	uint8_t *data = malloc(XM_LINK_OP_MAX), *back = malloc(XM_LINK_OP_MAX);
	unsigned done = 0;
	struct fixture f;

	open_fixture(&f, 40);
	for (uint64_t i = 0; i < XM_LINK_DEPTH; i++) {
		struct iovec iov = { data, XM_LINK_OP_MAX };

		fill(data, XM_LINK_OP_MAX, i);
		assert_int_equal(f.link->ops->writev(f.link, &iov, 1, f.region.id, (i % 40) * RIG_SLAB, i),
				 0);
	}
	while (done < XM_LINK_DEPTH) {
		assert_int_equal(one_completion(f.link).status, 0);
		done++;
	}
	for (uint64_t i = XM_LINK_DEPTH - 40; i < XM_LINK_DEPTH; i++) {
		fill(data, XM_LINK_OP_MAX, i);
		assert_int_equal(get(f.link, back, XM_LINK_OP_MAX, f.region.id, (i % 40) * RIG_SLAB), 0);
		assert_memory_equal(back, data, XM_LINK_OP_MAX);
	}
	close_fixture(&f);
	free(data);
	free(back);
}

static void test_data_path_sends_no_control_messages(void **unused)
{
	static uint8_t page[PAGE];
	struct fixture f;
	uint64_t before;

	open_fixture(&f, 2);
	assert_int_equal(xm_peer_region_attach(f.peer, f.region.id, 0, 2), 0);
	before = xm_peer_control_messages(f.peer);
	for (unsigned i = 0; i < 200; i++)
		assert_int_equal(put(f.link, page, PAGE, f.region.id, (uint64_t)i * PAGE), 0);
	assert_int_equal(xm_peer_control_messages(f.peer), before);
	close_fixture(&f);
}

struct worker {
	struct fixture *f;
	unsigned index;
	int error;
};

/* Its own link, its own slab, the session's other slabs read on the side. */
static void *work(void *arg)
{
	struct worker *w = arg;
	uint8_t page[PAGE], back[PAGE];
	uint64_t base = w->index * RIG_SLAB, region = w->f->region.id;
	struct xm_link *l;

	w->error = xm_link_open(w->f->peer, &l);
	for (unsigned i = 0; i < 300 && !w->error; i++) {
		fill(page, PAGE, seed + w->index * 1000 + i);
		w->error = put(l, page, PAGE, region, base + (i % 200) * PAGE);
		if (!w->error)
			w->error = get(l, back, PAGE, region, base + (i % 200) * PAGE);
		if (!w->error && memcmp(page, back, PAGE) != 0)
			w->error = -EBADMSG;
		if (!w->error)
			w->error = get(l, back, PAGE, region, (i % 4) * RIG_SLAB + 300 * 512);
	}
	if (l)
		l->ops->close(l);
	return NULL;
}

static void test_threads_with_links_of_one_peer_do_not_disturb_each_other(void **unused)
{
	struct worker w[4];
	pthread_t thread[4];
	struct xm_region_info r;
	struct fixture f;

	open_fixture(&f, 4);
	for (unsigned i = 0; i < 4; i++) {
		w[i] = (struct worker){ .f = &f, .index = i };
		assert_int_equal(pthread_create(&thread[i], NULL, work, &w[i]), 0);
	}
	for (unsigned i = 0; i < 30; i++) { /* control calls meanwhile */
		assert_int_equal(xm_peer_region_create(f.peer, 2 * RIG_SLAB, NULL, 0, &r), 0);
		assert_int_equal(xm_peer_region_attach(f.peer, r.id, 0, 2), 0);
		xm_peer_tick(f.peer);
		assert_int_equal(xm_peer_region_free(f.peer, r.id), 0);
	}
	for (unsigned i = 0; i < 4; i++) {
		pthread_join(thread[i], NULL);
		assert_int_equal(w[i].error, 0);
	}
	close_fixture(&f);
}

/* ---- sessions ------------------------------------------------------------------------------------------ */

static void test_other_session_cannot_touch_region(void **unused)
{
	static uint8_t page[PAGE];
	struct xm_region_info info;
	struct fixture f, g;

	open_fixture(&f, 2);
	open_fixture(&g, 1);
	memset(page, 0x77, PAGE);
	assert_int_equal(put(f.link, page, PAGE, f.region.id, 0), 0);
	assert_int_equal(get(g.link, page, PAGE, f.region.id, 0), -EACCES);
	assert_int_equal(put(g.link, page, PAGE, f.region.id, 0), -EACCES);
	assert_int_equal(xm_peer_region_info(g.peer, f.region.id, &info), -EACCES);
	assert_int_equal(xm_peer_region_free(g.peer, f.region.id), -EACCES);
	assert_int_equal(xm_peer_region_resize(g.peer, f.region.id, RIG_SLAB, &info), -EACCES);
	assert_int_equal(xm_peer_region_drop_slabs(g.peer, f.region.id, 0, 1), -EACCES);
	assert_int_equal(get(g.link, page, PAGE, g.region.id, 0), 0);
	g.link->ops->close(g.link);
	xm_peer_close(g.peer);
	close_fixture(&f);
}

static void test_attach_with_token_shares_and_without_is_refused(void **unused)
{
	struct xm_peer_config cfg = { .uri = uri() };
	static uint8_t page[PAGE];
	char why[XM_WHY_MAX] = "";
	struct xm_peer_info info;
	struct xm_peer *q = NULL;
	struct xm_link *l;
	struct fixture f;

	open_fixture(&f, 1);
	memset(page, 0x44, PAGE);
	assert_int_equal(put(f.link, page, PAGE, f.region.id, 0), 0);
	xm_peer_info(f.peer, &info);
	cfg.session = info.session;
	assert_int_equal(xm_peer_open(&cfg, &q, why), 0);
	assert_int_equal(xm_link_open(q, &l), 0);
	assert_int_equal(get(l, page, PAGE, f.region.id, 0), 0);
	assert_int_equal(page[9], 0x44);
	l->ops->close(l);
	xm_peer_close(q);
	assert_int_equal(get(f.link, page, PAGE, f.region.id, 0), 0); /* the session lives on */
	cfg.session.token[3] ^= 1;
	assert_int_equal(xm_peer_open(&cfg, &q, why), -EACCES);
	assert_non_null(strstr(why, "token"));
	cfg.session = info.session;
	cfg.session.id++;
	assert_int_equal(xm_peer_open(&cfg, &q, why), -ESTALE);
	cfg.session = info.session;
	cfg.session.boot[0] ^= 1;
	assert_int_equal(xm_peer_open(&cfg, &q, why), -ESTALE);
	close_fixture(&f);
}

static void child_of_fork(struct fixture *f, int go)
{
	static uint8_t page[PAGE];
	char why[XM_WHY_MAX], byte;
	struct xm_link *l;

	xm_link_forget(f->link);
	if (xm_peer_after_fork(f->peer, why) < 0 || xm_link_open(f->peer, &l) < 0)
		_exit(1);
	if (read(go, &byte, 1) != 1) /* the parent has left by now */
		_exit(2);
	if (get(l, page, PAGE, f->region.id, PAGE) != 0 || page[8] != 0x66)
		_exit(3);
	if (xm_peer_region_resize(f->peer, f->region.id, 4 * RIG_SLAB, NULL) < 0)
		_exit(4);
	if (put(l, page, PAGE, f->region.id, 3 * RIG_SLAB) != 0)
		_exit(5);
	_exit(42); /* without saying good-bye */
}

static void test_fork_child_keeps_session_after_parent_leaves(void **unused)
{
	static uint8_t page[PAGE];
	struct fixture f;
	int go[2], status;
	pid_t pid;

	open_fixture(&f, 2);
	memset(page, 0x66, PAGE);
	assert_int_equal(put(f.link, page, PAGE, f.region.id, PAGE), 0);
	assert_int_equal(pipe(go), 0);
	fflush(NULL);
	pid = fork();
	if (pid == 0)
		child_of_fork(&f, go[0]);
	f.link->ops->close(f.link);
	xm_peer_close(f.peer);
	assert_int_equal(write(go[1], "x", 1), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 42);
	rig_until(rig_stat(&rig).slabs_used == 0); /* long before the lease: all its processes are dead */
	close(go[0]);
	close(go[1]);
}

static void test_slab_replaced_by_another_process_is_found(void **unused)
{
	static uint8_t page[PAGE];
	struct xm_peer_config cfg = { .uri = uri() };
	struct xm_peer_info info;
	struct xm_peer *q = NULL;
	struct fixture f;

	open_fixture(&f, 3);
	memset(page, 0x21, PAGE);
	assert_int_equal(put(f.link, page, PAGE, f.region.id, 2 * RIG_SLAB), 0);
	xm_peer_info(f.peer, &info);
	cfg.session = info.session;
	assert_int_equal(xm_peer_open(&cfg, &q, NULL), 0);
	assert_int_equal(xm_peer_region_resize(q, f.region.id, 2 * RIG_SLAB, NULL), 0);
	assert_int_equal(get(f.link, page, PAGE, f.region.id, 2 * RIG_SLAB), -ENXIO);
	assert_int_equal(put(f.link, page, PAGE, f.region.id, 2 * RIG_SLAB), -ENXIO);
	assert_int_equal(f.link->ops->faa(f.link, f.region.id, 2 * RIG_SLAB, 1, 1), 0);
	assert_int_equal(one_completion(f.link).status, -ENXIO);
	assert_int_equal(xm_peer_region_resize(q, f.region.id, 3 * RIG_SLAB, NULL), 0);
	assert_int_equal(get(f.link, page, PAGE, f.region.id, 2 * RIG_SLAB), 0);
	assert_true(all_zero(page, PAGE));
	xm_peer_close(q);
	close_fixture(&f);
}

static void test_killed_client_frees_at_once(void **unused)
{
	int ready[2];
	char byte;
	pid_t pid;

	assert_int_equal(pipe(ready), 0);
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		static uint8_t page[PAGE];
		struct fixture f;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		open_fixture(&f, 20);
		put(f.link, page, PAGE, f.region.id, 0);
		if (write(ready[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_int_equal(rig_stat(&rig).slabs_used, 20);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	rig_until(rig_stat(&rig).slabs_used == 0); /* the lease is 30 s, the limit of rig_until 10 s */
	close(ready[0]);
	close(ready[1]);
}

static int placed[16], placed_count;

static int remember_fd(int fd)
{
	placed[placed_count++ % 16] = fd;
	return fd;
}

static void cut_connections(void)
{
	for (int i = 0; i < placed_count; i++)
		shutdown(placed[i], SHUT_RDWR);
	placed_count = 0;
}

static void test_reconnect_within_lease_keeps_data(void **unused)
{
	struct xm_peer_config cfg = { .place_fd = remember_fd };
	static uint8_t page[PAGE];
	struct xm_region_info r;
	struct xm_peer *p;
	struct xm_link *l;

	if (!use_tcp)
		return; /* on one host the end of the connection is the end of the session */
	placed_count = 0;
	p = rig_peer_with(uri(), cfg);
	assert_int_equal(xm_link_open(p, &l), 0);
	assert_int_equal(xm_peer_region_create(p, RIG_SLAB, NULL, 0, &r), 0);
	memset(page, 0x12, PAGE);
	assert_int_equal(put(l, page, PAGE, r.id, 0), 0);
	for (int round = 0; round < 3; round++) {
		cut_connections();
		rig_until(l->ops->state(l) == -ENOLINK);
		assert_int_equal(l->ops->read(l, page, PAGE, r.id, 0, 0), -ENOLINK);
		rig_until(rig_stat(&rig).connections <= 1);
		if (round == 1)
			xm_peer_tick(p);
		assert_int_equal(xm_link_reconnect(l), 0);
		memset(page, 0, PAGE);
		assert_int_equal(get(l, page, PAGE, r.id, 0), 0);
		assert_int_equal(page[77], 0x12);
		assert_int_equal(xm_peer_region_info(p, r.id, &r), 0); /* the control connection too */
		assert_int_equal(xm_peer_state(p), 0);
	}
	l->ops->close(l);
	xm_peer_close(p);
	rig_until(rig_stat(&rig).slabs_used == 0);
}

/* ---- loss ---------------------------------------------------------------------------------------------- */

static void test_lease_over_frees_and_client_is_told(void **unused)
{
	struct xm_peer_config cfg = { .place_fd = remember_fd };
	struct rig_options o = rig_defaults();
	struct xm_region_info r;
	struct rig own;
	struct xm_peer *p;
	struct xm_link *l;

	if (!use_tcp)
		return;
	o.lease_ns = 200000000;
	rig_start(&own, &o);
	placed_count = 0;
	p = rig_peer_with(own.tcp, cfg);
	assert_int_equal(xm_link_open(p, &l), 0);
	assert_int_equal(xm_peer_region_create(p, 3 * RIG_SLAB, NULL, 0, &r), 0);
	assert_int_equal(rig_stat(&own).slabs_used, 3);
	cut_connections();
	rig_until(rig_stat(&own).slabs_used == 0);
	assert_int_equal(xm_link_reconnect(l), -ENOLINK);
	assert_int_equal(xm_peer_state(p), -ENOLINK);
	assert_int_equal(xm_peer_region_info(p, r.id, &r), -ENOLINK);
	l->ops->close(l);
	xm_peer_close(p);
	rig_kill(&own);
}

static void stop_appliance(struct rig *r)
{
	int status;

	kill(r->pid, SIGSTOP);
	assert_int_equal(waitpid(r->pid, &status, WUNTRACED), r->pid);
	assert_true(WIFSTOPPED(status));
}

static void test_killed_appliance_completes_everything_once(void **unused)
{
	static uint8_t buf[XM_LINK_DEPTH][PAGE];
	struct rig_options o = rig_defaults();
	unsigned seen[XM_LINK_DEPTH] = { 0 }, accepted = 0, total = 0;
	struct xm_completion c[XM_LINK_DEPTH];
	struct xm_region_info r;
	struct xm_peer *p;
	struct xm_link *l;
	struct rig own;

	rig_start(&own, &o);
	p = rig_peer(use_tcp ? own.tcp : own.shm);
	assert_int_equal(xm_link_open(p, &l), 0);
	assert_int_equal(xm_peer_region_create(p, 4 * RIG_SLAB, NULL, 0, &r), 0);
	stop_appliance(&own); /* so that requests stay in flight */
	for (uint64_t i = 0; i < XM_LINK_DEPTH / 2 && use_tcp; i++, accepted++)
		assert_int_equal(l->ops->read(l, buf[i], PAGE, r.id, i * PAGE, i), 0);
	l->ops->flush(l);
	rig_kill(&own);
	while (l->ops->wait(l, SECOND) == 0 && total < accepted) {
		int n = l->ops->poll(l, c, XM_LINK_DEPTH);

		for (int i = 0; i < n; i++, total++) {
			assert_int_equal(c[i].status, -ENOLINK);
			seen[c[i].cookie]++;
		}
	}
	for (unsigned i = 0; i < accepted; i++)
		assert_int_equal(seen[i], 1);
	assert_int_equal(l->ops->poll(l, c, 1), 0);
	/* same host: its death is certain, so nobody waits for the lease */
	rig_until((xm_peer_tick(p), xm_peer_state(p) == -ENOLINK));
	assert_int_equal(l->ops->state(l), -ENOLINK);
	assert_int_equal(l->ops->read(l, buf[0], PAGE, r.id, 0, 1), -ENOLINK);
	assert_int_equal(xm_link_reconnect(l), -ENOLINK);
	assert_int_equal(xm_peer_region_create(p, RIG_SLAB, NULL, 0, &r), -ENOLINK);
	l->ops->close(l);
	xm_peer_close(p);
}

static void test_restarted_appliance_is_another_one(void **unused)
{
	struct rig_options o = rig_defaults();
	struct xm_region_info r;
	struct xm_peer *p;
	struct rig own, again;

	rig_start(&own, &o);
	p = rig_peer(use_tcp ? own.tcp : own.shm);
	assert_int_equal(xm_peer_region_create(p, RIG_SLAB, NULL, 0, &r), 0);
	o.shm = own.shm;
	o.tcp = own.tcp;
	rig_kill(&own);
	rig_start(&again, &o);
	assert_int_equal(xm_peer_region_info(p, r.id, &r), -ENOLINK);
	assert_int_equal(xm_peer_state(p), -ENOLINK);
	xm_peer_close(p);
	rig_kill(&again);
}

static void test_stopped_appliance_makes_sync_time_out(void **unused)
{
	struct rig_options o = rig_defaults();
	static uint8_t page[PAGE];
	struct xm_region_info r;
	struct xm_peer *p;
	struct xm_link *l;
	struct rig own;

	if (!use_tcp)
		return; /* nobody is asked */
	rig_start(&own, &o);
	p = rig_peer(own.tcp);
	assert_int_equal(xm_link_open(p, &l), 0);
	assert_int_equal(xm_peer_region_create(p, RIG_SLAB, NULL, 0, &r), 0);
	stop_appliance(&own);
	assert_int_equal(xm_link_read_sync(l, page, PAGE, r.id, 0, 20000000), -ETIMEDOUT);
	assert_int_equal(l->ops->state(l), -ENOLINK);
	kill(own.pid, SIGCONT);
	assert_int_equal(xm_link_reconnect(l), 0);
	assert_int_equal(get(l, page, PAGE, r.id, 0), 0);
	l->ops->close(l);
	xm_peer_close(p);
	rig_kill(&own);
}

static void test_few_descriptors_are_enough_for_many_slabs(void **unused)
{
	struct rlimit old, few;
	static uint8_t page[PAGE];
	struct fixture f;
	int fds[40], n = 0;

	open_fixture(&f, 60);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	few = old;
	few.rlim_cur = 48;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	while (n < 40 && (fds[n] = dup(0)) >= 0)
		n++;
	close(fds[--n]);
	assert_int_equal(xm_peer_region_attach(f.peer, f.region.id, 0, 60), 0);
	for (uint64_t s = 0; s < 60; s++)
		assert_int_equal(put(f.link, page, PAGE, f.region.id, s * RIG_SLAB), 0);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	while (n > 0)
		close(fds[--n]);
	close_fixture(&f);
}

/* ---- decorators ---------------------------------------------------------------------------------------- */

static struct xm_link *injected(struct fixture *f, const char *spec)
{
	struct xm_link *out = NULL;

	assert_int_equal(xm_inject_wrap(f->link, spec, &out), 0);
	return out;
}

/* A model of 64 pages beside the link; whatever is injected, each operation comes back once, and what
 * completed without error is what the model says. */
static void test_injected_trouble_completes_once_and_keeps_order_of_data(void **unused)
{
	static uint8_t model[64][PAGE], buf[64][PAGE], want[64][PAGE];
	uint8_t unsure[64] = { 0 };
	unsigned errors = 0, drops = 0;
	char spec[120];
	struct fixture f;
	uint64_t x = seed;

	open_fixture(&f, 1);
	memset(model, 0, sizeof(model));
	snprintf(spec, sizeof(spec), "seed=%llu,delay=100us:0.05,error=0.02,disconnect=0.01",
		 (unsigned long long)seed);
	f.link = injected(&f, spec);
	for (unsigned round = 0; round < 150; round++) {
		unsigned pending = 0, seen[64] = { 0 }, is_write[64], submitted[64] = { 0 };

		for (uint64_t i = 0; i < 64; i++) {
			struct iovec iov = { buf[i], PAGE };
			int ret;

			x = x * 6364136223846793005ull + 1442695040888963407ull;
			is_write[i] = x >> 63;
			if (is_write[i]) {
				fill(buf[i], PAGE, x);
				memcpy(want[i], buf[i], PAGE);
				ret = f.link->ops->writev(f.link, &iov, 1, f.region.id, i * PAGE, i);
			} else {
				ret = f.link->ops->read(f.link, buf[i], PAGE, f.region.id, i * PAGE, i);
			}
			assert_true(ret == 0 || ret == -ENOLINK);
			submitted[i] = ret == 0;
			pending += ret == 0;
		}
		f.link->ops->flush(f.link);
		while (pending) {
			struct xm_completion c[8];
			int n = f.link->ops->poll(f.link, c, 8);

			if (!n)
				assert_int_equal(f.link->ops->wait(f.link, 5 * SECOND), 0);
			for (int i = 0; i < n; i++, pending--) {
				uint64_t at = c[i].cookie;

				assert_true(at < 64 && submitted[at] && !seen[at]++);
				assert_true(c[i].status == 0 || c[i].status == -EIO ||
					    c[i].status == -ENOLINK);
				errors += c[i].status != 0;
				if (is_write[at] && c[i].status == 0)
					memcpy(model[at], want[at], PAGE);
				if (is_write[at])
					unsure[at] = c[i].status == -ENOLINK || (unsure[at] && c[i].status);
				else if (c[i].status == 0 && !unsure[at])
					assert_memory_equal(buf[at], model[at], PAGE);
			}
		}
		if (f.link->ops->state(f.link) < 0) {
			drops++;
			assert_int_equal(xm_link_reconnect(f.link), 0);
		}
	}
	assert_true(errors > 0);
	assert_true(drops > 0);
	close_fixture(&f);
}

static void test_injected_corruption_flips_one_bit(void **unused)
{
	static uint8_t page[PAGE], back[PAGE];
	unsigned bits = 0;
	struct fixture f;

	open_fixture(&f, 1);
	fill(page, PAGE, seed);
	assert_int_equal(put(f.link, page, PAGE, f.region.id, 0), 0);
	f.link = injected(&f, "corrupt=1");
	assert_int_equal(get(f.link, back, PAGE, f.region.id, 0), 0);
	for (unsigned i = 0; i < PAGE; i++)
		bits += (unsigned)__builtin_popcount(page[i] ^ back[i]);
	assert_int_equal(bits, 1);
	assert_null(f.link->ops->direct(f.link, f.region.id, 0, PAGE));
	close_fixture(&f);
}

static void test_inject_specification_is_checked(void **unused)
{
	struct xm_inject_spec s;

	assert_int_equal(
		xm_inject_parse("seed=7,delay=200us:0.01,error=0.001,disconnect=0.0005,corrupt=1", &s), 0);
	assert_int_equal(s.seed, 7);
	assert_int_equal(s.delay_ns, 200000);
	assert_true(s.delay > 0.0099 * 4294967296.0 && s.delay < 0.0101 * 4294967296.0);
	assert_true(s.error > 0.00099 * 4294967296.0 && s.error < 0.00101 * 4294967296.0);
	assert_int_equal(s.corrupt, UINT32_MAX);
	assert_int_equal(xm_inject_parse("", &s), 0);
	assert_int_equal(s.error, 0);
	assert_int_equal(xm_inject_parse("error", &s), -EINVAL);
	assert_int_equal(xm_inject_parse("error=", &s), -EINVAL);
	assert_int_equal(xm_inject_parse("error=2", &s), -EINVAL);
	assert_int_equal(xm_inject_parse("error=-1", &s), -EINVAL);
	assert_int_equal(xm_inject_parse("error=0.1x", &s), -EINVAL);
	assert_int_equal(xm_inject_parse("delay=0.1", &s), -EINVAL);
	assert_int_equal(xm_inject_parse("delay=5:0.1", &s), -EINVAL);
	assert_int_equal(xm_inject_parse("colour=red", &s), -EINVAL);
}

static void test_trace_remembers_operations(void **unused)
{
	static uint8_t page[PAGE];
	const struct xm_trace_entry *e;
	struct xm_link *traced;
	struct fixture f;

	open_fixture(&f, 1);
	assert_int_equal(xm_trace_wrap(f.link, &traced), 0);
	f.link = traced;
	assert_int_equal(put(traced, page, PAGE, f.region.id, 3 * PAGE), 0);
	assert_int_equal(xm_trace_count(traced), 3); /* write, flush, completion */
	e = xm_trace_get(traced, 0);
	assert_int_equal(e->what, XM_TRACE_WRITE);
	assert_int_equal(e->off, 3 * PAGE);
	assert_int_equal(e->len, PAGE);
	assert_int_equal(xm_trace_get(traced, 2)->what, XM_TRACE_COMPLETION);
	assert_null(xm_trace_get(traced, 3));
	for (unsigned i = 0; i < XM_TRACE_ENTRIES; i++)
		assert_int_equal(get(traced, page, PAGE, f.region.id, 0), 0);
	assert_null(xm_trace_get(traced, 0));
	close_fixture(&f);
}

static void test_open_explains_what_is_wrong(void **unused)
{
	struct xm_peer_config cfg = { .connect_timeout_ns = SECOND };
	char why[XM_WHY_MAX] = "";
	struct xm_peer *p;

	cfg.uri = "shm:@xmem-nobody-is-there";
	assert_int_equal(xm_peer_open(&cfg, &p, why), -ECONNREFUSED);
	assert_non_null(strstr(why, "xmem-appliance"));
	cfg.uri = "tcp:127.0.0.1:1";
	assert_int_equal(xm_peer_open(&cfg, &p, why), -ECONNREFUSED);
	cfg.uri = "carrier-pigeon:coop";
	assert_int_equal(xm_peer_open(&cfg, &p, why), -EINVAL);
	assert_non_null(strstr(why, "carrier-pigeon"));
	cfg.uri = "tcp:127.0.0.1:http";
	assert_int_equal(xm_peer_open(&cfg, &p, why), -EINVAL);
	cfg.uri = "shm:";
	assert_int_equal(xm_peer_open(&cfg, &p, why), -EINVAL);
	cfg.uri = NULL;
	assert_int_equal(xm_peer_open(&cfg, &p, why), -EINVAL);
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(test_read_after_write_gathers_pieces_in_order),
	cmocka_unit_test(test_operation_across_slabs_moves_all_bytes),
	cmocka_unit_test(test_fresh_region_reads_zero),
	cmocka_unit_test(test_memory_used_again_reads_zero),
	cmocka_unit_test(test_range_beyond_end_is_enxio_and_link_stays),
	cmocka_unit_test(test_write_partly_beyond_end_writes_nothing),
	cmocka_unit_test(test_dropped_slab_is_enxio_and_neighbours_keep_data),
	cmocka_unit_test(test_resize_keeps_what_stays_and_grows_zero),
	cmocka_unit_test(test_freed_region_is_enxio_and_memory_returns),
	cmocka_unit_test(test_create_beyond_pool_is_enomem_and_tells_free),
	cmocka_unit_test(test_atomics_exchange_and_add),
	cmocka_unit_test(test_unmapped_local_pages_are_efault_and_link_stays),
	cmocka_unit_test(test_malformed_operations_are_refused_at_submission),
	cmocka_unit_test(test_full_depth_completes_each_cookie_once),
	cmocka_unit_test(test_full_depth_of_largest_writes_arrives),
	cmocka_unit_test(test_data_path_sends_no_control_messages),
	cmocka_unit_test(test_threads_with_links_of_one_peer_do_not_disturb_each_other),
	cmocka_unit_test(test_other_session_cannot_touch_region),
	cmocka_unit_test(test_attach_with_token_shares_and_without_is_refused),
	cmocka_unit_test(test_fork_child_keeps_session_after_parent_leaves),
	cmocka_unit_test(test_slab_replaced_by_another_process_is_found),
	cmocka_unit_test(test_killed_client_frees_at_once),
	cmocka_unit_test(test_reconnect_within_lease_keeps_data),
	cmocka_unit_test(test_lease_over_frees_and_client_is_told),
	cmocka_unit_test(test_killed_appliance_completes_everything_once),
	cmocka_unit_test(test_restarted_appliance_is_another_one),
	cmocka_unit_test(test_stopped_appliance_makes_sync_time_out),
	cmocka_unit_test(test_few_descriptors_are_enough_for_many_slabs),
	cmocka_unit_test(test_injected_trouble_completes_once_and_keeps_order_of_data),
	cmocka_unit_test(test_injected_corruption_flips_one_bit),
	cmocka_unit_test(test_inject_specification_is_checked),
	cmocka_unit_test(test_trace_remembers_operations),
	cmocka_unit_test(test_open_explains_what_is_wrong),
};

static int start_rig(void **unused)
{
	struct rig_options o = rig_defaults();

	rig_start(&rig, &o);
	return 0;
}

static int stop_rig(void **unused)
{
	rig_kill(&rig);
	return 0;
}

int main(void)
{
	const char *given = getenv("XM_SEED");
	int failed;

	seed = given ? strtoull(given, NULL, 0) : xm_now_ns();
	printf("XM_SEED=%llu\n", (unsigned long long)seed);
	xm_log_init("test_link", XM_LOG_ERROR);
	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(300);
	failed = cmocka_run_group_tests_name("shm", tests, start_rig, stop_rig);
	use_tcp = 1;
	failed += cmocka_run_group_tests_name("tcp", tests, start_rig, stop_rig);
	return failed;
}
