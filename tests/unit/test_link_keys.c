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

static int refusal; /* atomic: 0: keys are given */
static int same;    /* atomic: the one that was given last, again */

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
		msg.h.status = xm_load(&refusal);
		memset(&msg.u, 0, sizeof(msg.u));
		if (!msg.h.status) {
			msg.u.keys.first = ask.first;
			msg.u.keys.count = (uint32_t)ask.count;
		}
		for (uint64_t i = 0; i < msg.u.keys.count && !msg.h.status; i++)
			msg.u.keys.key[i] = make_key(xm_load(&same) ? n : ++n);
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

/* What passes is not told as memory that is lost. */
static void test_operation_when_its_key_is_refused_then_is_told_what_the_appliance_says(void **unused)
{
	static const struct {
		int answer, told, asked; /* asked: by whoever needs a key that is not known */
	} cases[] = {
		{ -ENXIO, -ENXIO, -ENXIO },    { -ENOENT, -ENXIO, -ENXIO }, { -EACCES, -EACCES, -EACCES },
		{ -ENOMEM, -ENOMEM, -ENOMEM }, { -EMFILE, -EMFILE, -EMFILE }, { -EUSERS, -EACCES, -EACCES },
		{ -EAGAIN, -ENOLINK, -EAGAIN }, { -EINVAL, -ENXIO, -EINVAL },
	};
	struct xm_wire_key key, other;
	static struct keys k;

	start(&k);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(cases); i++) {
		xm_store(&refusal, 0);
		assert_int_equal(xm_peer_key_get(&k.peer, REGION, i, &key), 0);
		xm_store(&refusal, cases[i].answer);
		assert_int_equal(xm_peer_key_refused(&k.peer, REGION, i, &key), cases[i].told);
		assert_false(xm_peer_key(&k.peer, REGION, i, &other));
		assert_int_equal(xm_peer_key_get(&k.peer, REGION, i, &other), cases[i].asked);
		assert_int_equal(xm_peer_slab_map(&k.peer, REGION + 1, 0, 0), cases[i].asked);
	}
	xm_store(&refusal, 0);
	assert_int_equal(xm_peer_key_get(&k.peer, REGION, 0, &key), 0);
	xm_store(&same, 1);
	assert_int_equal(xm_peer_key_refused(&k.peer, REGION, 0, &key), -ENXIO); /* a good one, and still */
	xm_store(&same, 0);
	assert_int_equal(xm_peer_key_refused(&k.peer, REGION, 0, &key), -ENOLINK);
	assert_true(xm_peer_key(&k.peer, REGION, 0, &other));
	assert_int_not_equal(other.rkey, key.rkey);
	stop(&k);
}

/* Room for 256 regions is not taken by those that there are not. */
static void test_region_when_it_is_not_there_then_no_room_is_kept_for_it(void **unused)
{
	static struct keys k;

	start(&k);
	xm_store(&refusal, -ENOENT);
	for (unsigned i = 0; i < 3 * XM_PEER_REGIONS; i++) {
		assert_int_equal(xm_peer_slab_map(&k.peer, 1000 + i, 0, 0), -ENXIO);
		assert_int_equal(xm_peer_region_attach(&k.peer, 9000 + i, 0, 2), -ENXIO);
	}
	xm_store(&refusal, 0);
	for (unsigned i = 0; i < XM_PEER_REGIONS; i++)
		assert_int_equal(xm_peer_slab_map(&k.peer, 1 + i, 0, 0), 0);
	assert_int_equal(xm_peer_slab_map(&k.peer, 1000, 0, 0), -ENOMEM);
	xm_store(&refusal, -ENXIO); /* what is known stays, whatever becomes of another slab of it */
	assert_int_equal(xm_peer_slab_map(&k.peer, 5, 1, 0), -ENXIO);
	assert_int_equal(xm_peer_region_attach(&k.peer, 5, 1, 1), -ENXIO);
	assert_int_equal(xm_peer_slab_map(&k.peer, 5, 0, 0), 0);
	xm_store(&refusal, 0);
	stop(&k);
}

/* What others freed may be in use by other threads for a moment; what was closed is not. */
static void test_region_when_others_freed_it_then_its_room_rests_for_a_while(void **unused)
{
	static struct keys k;
	uint64_t found_ns;
	int ret;

	start(&k);
	for (unsigned i = 0; i < XM_PEER_REGIONS; i++)
		assert_int_equal(xm_peer_slab_map(&k.peer, 1 + i, 0, 0), 0);
	xm_store(&refusal, -ENOENT);
	found_ns = xm_now_ns();
	assert_int_equal(xm_peer_slab_map(&k.peer, 5, 0, 1), -ENXIO);
	xm_store(&refusal, 0);
	ret = xm_peer_slab_map(&k.peer, 1000, 0, 0);
	assert_true(ret == -ENOMEM || (ret == 0 && xm_now_ns() - found_ns >= XM_REGION_REST_NS));
	rig_until(xm_peer_slab_map(&k.peer, 1000, 0, 0) == 0);
	assert_true(xm_now_ns() - found_ns >= XM_REGION_REST_NS);
	assert_int_equal(xm_peer_slab_map(&k.peer, 2000, 0, 0), -ENOMEM);
	xm_peer_region_close(&k.peer, 6);
	xm_peer_region_close(&k.peer, 3000); /* never heard of */
	assert_int_equal(xm_peer_slab_map(&k.peer, 2000, 0, 0), 0);
	assert_int_equal(xm_peer_slab_map(&k.peer, 6, 0, 0), -ENOMEM);
	stop(&k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_key_when_replaced_while_read_then_is_the_old_or_the_new_one),
		cmocka_unit_test(test_key_when_its_writer_was_left_behind_by_fork_then_is_asked_for),
		cmocka_unit_test(test_operation_when_its_key_is_refused_then_is_told_what_the_appliance_says),
		cmocka_unit_test(test_region_when_it_is_not_there_then_no_room_is_kept_for_it),
		cmocka_unit_test(test_region_when_others_freed_it_then_its_room_rests_for_a_while),
	};

	xm_log_init("test_link_keys", XM_LOG_ERROR);
	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
