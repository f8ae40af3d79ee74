/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_link_keys.c - the keys of slabs that a peer over verbs knows, without a device: whoever asks the appliance for
 * them is answered by a thread of this program, which names other keys each time.
 */
#include "tests/unit/appliance_rig.h"

#include "link/peer_impl.h"

#include <pthread.h>
#include <sys/socket.h>

#define REGION 7u
#define SLABS XM_WIRE_KEYS
#define ROUNDS 20000u

/* Every key that was ever given out is like this, and no mixture of two is. */
static struct xm_wire_key make_key(uint32_t n)
{
	return (struct xm_wire_key){ .addr = (uint64_t)n << 32 | n, .rkey = n, .rights = ~n };
}

static bool is_whole(const struct xm_wire_key *k)
{
	return k->addr == ((uint64_t)k->rkey << 32 | k->rkey) && k->rights == ~k->rkey;
}

static void *answer_with_keys(void *arg)
{
	static uint8_t bytes[XM_WIRE_MAX];
	static struct xm_wire_msg msg;
	int fd = *(int *)arg, len;
	struct xm_wire_slabs ask;
	uint32_t n = 0;

	while ((len = (int)recv(fd, bytes, sizeof(bytes), 0)) > 0) {
		if (xm_wire_decode(bytes, (size_t)len, &msg) < 0)
			break;
		ask = msg.u.slabs;
		msg.h.flags = XM_WIRE_REPLY;
		msg.u.keys.first = ask.first;
		msg.u.keys.count = (uint32_t)ask.count;
		for (uint64_t i = 0; i < ask.count; i++)
			msg.u.keys.key[i] = make_key(++n);
		len = xm_wire_encode(&msg, bytes, sizeof(bytes));
		if (len < 0 || send(fd, bytes, (size_t)len, MSG_NOSIGNAL) != len)
			break;
	}
	return NULL;
}

struct keys {
	struct xm_peer peer;
	int appliance;
	pthread_t thread;
};

static void start(struct keys *k)
{
	int fd[2];

	memset(k, 0, sizeof(*k));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	pthread_mutex_init(&k->peer.mutex, NULL);
	k->peer.uri.kind = XM_URI_VERBS;
	k->peer.slab_shift = 20;
	k->peer.connect_timeout_ns = RIG_WAIT_NS;
	k->peer.fd = fd[0];
	k->appliance = fd[1];
	assert_int_equal(pthread_create(&k->thread, NULL, answer_with_keys, &k->appliance), 0);
}

static void stop(struct keys *k)
{
	shutdown(k->peer.fd, SHUT_RDWR);
	pthread_join(k->thread, NULL);
	close(k->peer.fd);
	close(k->appliance);
	xm_peer_slabs_fini(&k->peer);
	pthread_mutex_destroy(&k->peer.mutex);
}

struct reader {
	struct xm_peer *peer;
	int stop;	      /* atomic */
	unsigned mixed, read; /* its own until it is joined */
};

static void *read_keys(void *arg)
{
	struct reader *r = arg;
	struct xm_wire_key key;

	while (!xm_load(&r->stop)) {
		if (!xm_peer_key(r->peer, REGION, 0, &key))
			continue;
		r->read++;
		r->mixed += !is_whole(&key);
	}
	return NULL;
}

static void test_key_when_replaced_while_read_then_is_the_old_or_the_new_one(void **unused)
{
	static struct keys k;
	struct reader r = { .peer = &k.peer };
	struct xm_wire_key key;
	pthread_t thread;

	start(&k);
	assert_int_equal(xm_peer_slab_map(&k.peer, REGION, 0, 0), 0);
	assert_int_equal(pthread_create(&thread, NULL, read_keys, &r), 0);
	for (unsigned i = 0; i < ROUNDS; i++)
		assert_int_equal(xm_peer_slab_map(&k.peer, REGION, 0, 1), 0);
	xm_store(&r.stop, 1);
	pthread_join(thread, NULL);
	assert_true(r.read > 0);
	assert_int_equal(r.mixed, 0);
	assert_true(xm_peer_key(&k.peer, REGION, 0, &key));
	assert_int_equal(key.rkey, ROUNDS + 1);
	stop(&k);
}

static void test_key_when_its_writer_was_left_behind_by_fork_then_is_asked_for(void **unused)
{
	struct xm_wire_key key;
	static struct keys k;
	struct xm_key *half = NULL;

	start(&k);
	assert_int_equal(xm_peer_region_attach(&k.peer, REGION, 0, SLABS), 0);
	for (unsigned i = 0; i < XM_PEER_REGIONS; i++)
		if (k.peer.regions[i].id == REGION)
			half = &k.peer.regions[i].chunks[0].key[3];
	assert_non_null(half);
	half->seq++;
	half->key.addr = 1;
	assert_false(xm_peer_key(&k.peer, REGION, 3, &key));
	assert_int_equal(xm_peer_key_get(&k.peer, REGION, 3, &key), 0);
	assert_int_equal(key.rkey, SLABS + 1);
	assert_true(is_whole(&key));
	assert_true(xm_peer_key(&k.peer, REGION, 3, &key));
	assert_true(is_whole(&key));
	stop(&k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_key_when_replaced_while_read_then_is_the_old_or_the_new_one),
		cmocka_unit_test(test_key_when_its_writer_was_left_behind_by_fork_then_is_asked_for),
	};

	xm_log_init("test_link_keys", XM_LOG_ERROR);
	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
