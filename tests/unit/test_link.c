/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_link.c - the contract of link.h over every transport, while all is well: data, regions, sessions.
 * Connections that break are test_link_loss.c's.
 */
#include "tests/unit/link_fixture.h"

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
	assert_int_equal(link_writev_sync(f.link, iov, 3, f.region.id, 7 * PAGE, 5 * SECOND), 0);
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
	direct = f.link->ops->direct(f.link, f.region.id, 2 * RIG_SLAB, PAGE, false);
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
	assert_int_equal(!!direct, !use_tcp && !use_verbs);
	assert_null(f.link->ops->direct(f.link, f.region.id, 2 * RIG_SLAB, PAGE, false));
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

static void test_region_that_never_was_is_enxio(void **unused)
{
	static const uint64_t ids[] = { 0, 77777, UINT64_MAX };
	static uint8_t page[PAGE];
	struct fixture f;

	open_fixture(&f, 1);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(ids); i++) {
		assert_int_equal(xm_peer_region_free(f.peer, ids[i]), -ENOENT);
		assert_int_equal(get(f.link, page, PAGE, ids[i], 0), -ENXIO);
		assert_int_equal(put(f.link, page, PAGE, ids[i], 0), -ENXIO);
	}
	assert_int_equal(put(f.link, page, PAGE, f.region.id, 0), 0);
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
	assert_int_equal(link_writev_sync(f.link, iov, 3, f.region.id, 0, 5 * SECOND), -EFAULT);
	munmap(p, PAGE);
	assert_int_equal(link_writev_sync(f.link, iov, 3, f.region.id, 0, 5 * SECOND), -EFAULT);
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

/* Both ask in the same session, and a request that was repeated is recognised by its nonce. */
static void test_regions_when_parent_and_child_create_then_are_two(void **unused)
{
	struct xm_region_info mine, childs = { 0 };
	struct fixture f;
	int result[2], status;
	pid_t pid;

	open_fixture(&f, 1);
	assert_int_equal(pipe(result), 0);
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		xm_link_forget(f.link);
		if (xm_peer_after_fork(f.peer, NULL) == 0)
			xm_peer_region_create(f.peer, RIG_SLAB, NULL, 0, &childs);
		if (write(result[1], &childs, sizeof(childs)) != (ssize_t)sizeof(childs))
			_exit(1);
		_exit(0);
	}
	assert_int_equal(xm_peer_region_create(f.peer, RIG_SLAB, NULL, 0, &mine), 0);
	assert_int_equal(read(result[0], &childs, sizeof(childs)), sizeof(childs));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_not_equal(childs.id, 0);
	assert_int_not_equal(childs.id, mine.id);
	/* nor has the child's hello taken the parent's connection for its own */
	assert_int_equal(xm_peer_region_info(f.peer, childs.id, &childs), 0);
	close(result[0]);
	close(result[1]);
	close_fixture(&f);
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
	cmocka_unit_test(test_region_that_never_was_is_enxio),
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
	cmocka_unit_test(test_regions_when_parent_and_child_create_then_are_two),
	cmocka_unit_test(test_slab_replaced_by_another_process_is_found),
	cmocka_unit_test(test_killed_client_frees_at_once),
};

int main(void)
{
	return run_on_each_transport(tests, XM_ARRAY_SIZE(tests));
}
