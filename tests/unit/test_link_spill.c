/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_link_spill.c - the copies of what is written over verbs and was not lent, without a device: nothing of what is
 * written here gets as far as one. What a link is made of is nobody else's, hence the include.
 */
#include "tests/unit/appliance_rig.h"

#include "common/link/verbs.c"

#include <pthread.h>
#include <sys/socket.h>

#define DEPTH 256u

/* No slab is present here. */
static void *refuse(void *arg)
{
	static uint8_t bytes[XM_WIRE_MAX];
	static struct xm_wire_msg msg;
	int fd = *(int *)arg, len;

	while ((len = (int)recv(fd, bytes, sizeof(bytes), 0)) > 0) {
		if (xm_wire_decode(bytes, (size_t)len, &msg) < 0)
			break;
		msg.h.flags = XM_WIRE_REPLY;
		msg.h.status = -ENXIO;
		memset(&msg.u, 0, sizeof(msg.u));
		len = xm_wire_encode(&msg, bytes, sizeof(bytes));
		if (len < 0 || send(fd, bytes, (size_t)len, MSG_NOSIGNAL) != len)
			break;
	}
	return NULL;
}

static unsigned resident_pages(uint8_t *at, size_t bytes)
{
	static unsigned char in[XM_LINK_OP_MAX / XM_PAGE_SIZE];
	unsigned pages = 0;

	assert_int_equal(mincore(at, bytes, in), 0);
	for (size_t i = 0; i < bytes / XM_PAGE_SIZE; i++)
		pages += in[i] & 1;
	return pages;
}

static struct verbs_link *make_link(struct xm_peer *p, struct ibv_qp *qp)
{
	struct verbs_link *v = xm_link_alloc(sizeof(*v));

	assert_non_null(v);
	v->link.ops = &verbs_ops;
	v->link.peer = p;
	v->conn.qp = qp;
	v->depth = DEPTH;
	v->req = xm_link_alloc(v->depth * sizeof(*v->req));
	v->staging = xm_link_alloc(STAGING_BYTES);
	v->spill = xm_link_alloc(SPILL_BYTES);
	assert_true(v->req && v->staging && v->spill);
	return v;
}

static void test_large_write_when_refused_then_keeps_no_memory(void **unused)
{
	static uint8_t from[XM_LINK_OP_MAX];
	struct iovec iov = { from, sizeof(from) };
	static struct xm_peer peer;
	struct ibv_qp qp = { 0 };
	struct verbs_link *v;
	struct xm_completion c;
	pthread_t thread;
	int fd[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	assert_int_equal(pthread_create(&thread, NULL, refuse, &fd[1]), 0);
	pthread_mutex_init(&peer.mutex, NULL);
	peer.uri.kind = XM_URI_VERBS;
	peer.slab_shift = 20;
	peer.connect_timeout_ns = RIG_WAIT_NS;
	peer.fd = fd[0];
	v = make_link(&peer, &qp);
	memset(from, 1, sizeof(from));
	assert_int_equal(verbs_ops.writev(&v->link, &iov, 1, 7, 0, 5), 0);
	assert_int_equal(resident_pages(v->spill, sizeof(from)), sizeof(from) / XM_PAGE_SIZE);
	verbs_ops.flush(&v->link);
	assert_int_equal(verbs_ops.poll(&v->link, &c, 1), 1);
	assert_int_equal(c.cookie, 5);
	assert_int_equal(c.status, -ENXIO);
	assert_int_equal(c.bytes, 0);
	assert_int_equal(resident_pages(v->spill, sizeof(from)), 0);
	release(v);
	shutdown(fd[0], SHUT_RDWR);
	pthread_join(thread, NULL);
	close(fd[0]);
	close(fd[1]);
	xm_peer_slabs_fini(&peer);
}

static void test_large_write_when_its_source_goes_away_half_way_then_keeps_no_memory(void **unused)
{
	uint8_t *from = mmap(NULL, XM_LINK_OP_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			     0);
	struct iovec iov = { from, XM_LINK_OP_MAX };
	static struct xm_peer peer;
	struct ibv_qp qp = { 0 };
	struct verbs_link *v;
	struct xm_completion c;

	assert_true(from != MAP_FAILED);
	memset(from, 1, XM_LINK_OP_MAX);
	munmap(from + XM_LINK_OP_MAX / 2, XM_LINK_OP_MAX / 2);
	v = make_link(&peer, &qp);
	assert_int_equal(verbs_ops.writev(&v->link, &iov, 1, 7, 0, 5), 0);
	assert_int_equal(verbs_ops.poll(&v->link, &c, 1), 1);
	assert_int_equal(c.status, -EFAULT);
	assert_int_equal(resident_pages(v->spill, XM_LINK_OP_MAX), 0);
	release(v);
	munmap(from, XM_LINK_OP_MAX / 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_large_write_when_refused_then_keeps_no_memory),
		cmocka_unit_test(test_large_write_when_its_source_goes_away_half_way_then_keeps_no_memory),
	};

	xm_log_init("test_link_spill", XM_LOG_ERROR);
	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
