/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rdma_raw.c - a client of verbs: without manners: uses keys that are dead or somebody else's, lies in its hello, leaves
 * connections half open, dies (50 times; XMEM_LEVEL=all: 1000). Prints one line a check; exits 0 when all held, else 1.
 *
 *   rdma_raw HOST PORT    an appliance with --memory 8M --slab 1M --warm 2 (checks count on it), listening on verbs:
 *   rdma_raw HOST PORT victim    writes until it is killed; says x when it starts to
 *   rdma_raw HOST PORT locked    an appliance that may lock less than it lends: keys are refused, in words
 *
 * Runs where there is a device (tests/rdma/raw.sh). One thread.
 */
#include "rdma_client.h"

/* ---- checks ------------------------------------------------------------------------------------------- */

static void check_use(struct session *s, struct wire_to *w, uint64_t region)
{
	struct xm_wire_key key = { 0 };
	uint64_t start = now_us();
	int ret = ask_key(s, region, 0, &key);

	check("a key", ret == 0 && key.rkey && key.addr, ret);
	start = now_us() - start;
	printf("info: first key after %lu us\n", (unsigned long)start);
	start = now_us();
	ask(s, XM_WIRE_PING);
	printf("info: a ping takes %lu us\n", (unsigned long)(now_us() - start));
	for (unsigned i = 0; i < PAGE; i++)
		w->page[i] = (uint8_t)(i * 7);
	expect("write a page", transfer(w, IBV_WR_RDMA_WRITE, &key, 3 * PAGE), 0);
	memset(w->page, 0xff, PAGE);
	expect("read a page", transfer(w, IBV_WR_RDMA_READ, &key, 3 * PAGE), 0);
	ret = 0;
	for (unsigned i = 0; i < PAGE; i++)
		ret += w->page[i] != (uint8_t)(i * 7);
	check("the same bytes", ret == 0, ret);
	ret = transfer(w, IBV_WR_RDMA_READ, &key, 8 * PAGE);
	check("memory beside it is zero", ret == 0 && word(w) == 0, ret);
	ret = atomic(w, IBV_WR_ATOMIC_CMP_AND_SWP, &key, 0, 40);
	check("compare and swap", ret == 0 && word(w) == 0, ret);
	ret = atomic(w, IBV_WR_ATOMIC_FETCH_AND_ADD, &key, 2, 0);
	check("fetch and add", ret == 0 && word(w) == 40, ret);
	ret = transfer(w, IBV_WR_RDMA_READ, &key, 0);
	check("the sum", ret == 0 && word(w) == 42, (long)word(w));
}

static void check_keys(struct session *s, uint64_t region)
{
	int ret = ask_slabs(s, XM_WIRE_SLAB_KEYS, region, 0, 64);

	check("keys of neighbours: those that have memory", ret == 0 && in.u.keys.count == 1,
	      in.u.keys.count);
	ret = ask_slabs(s, XM_WIRE_SLAB_KEYS, region, 1, 1);
	check("a key of the next", ret == 0 && in.u.keys.count == 1, ret);
	ret = ask_slabs(s, XM_WIRE_SLAB_KEYS, region, 0, 64);
	check("keys of both", ret == 0 && in.u.keys.count == 2, in.u.keys.count);
	ret = ask_slabs(s, XM_WIRE_SLAB_KEYS, region, 4, 1);
	check("beyond the end: ENXIO", ret == -ENXIO, ret);
	ret = ask_slabs(s, XM_WIRE_SLAB_KEYS, region + 99, 0, 1);
	check("no such region: ENOENT", ret == -ENOENT, ret);
}

/* A dead key, now and when somebody else has the memory. */
static void check_dropped(struct session *s, uint64_t region)
{
	struct xm_wire_key key = { 0 }, again = { 0 };
	struct session other;
	struct wire_to w, ow;
	uint64_t theirs;
	int ret;

	expect("connect", join(&w, s, 7), 0);
	ask_key(s, region, 1, &key);
	expect("a live key", transfer(&w, IBV_WR_RDMA_READ, &key, 0), 0);
	expect("drop the slab", ask_slabs(s, XM_WIRE_REGION_DROP, region, 1, 1), 0);
	ret = transfer(&w, IBV_WR_RDMA_READ, &key, 0);
	check("read with its key: remote access error", ret == IBV_WC_REM_ACCESS_ERR, ret);
	expect("its key is not given again: ENXIO", ask_key(s, region, 1, &again), -ENXIO);
	hang_up(&w);
	enter(&other);
	theirs = create(&other, 5); /* with the other three all there is: what was freed is among them */
	expect("another session connects", join(&ow, &other, 8), 0);
	for (unsigned i = 0; i < 5; i++) {
		ret = ask_key(&other, theirs, i, &again);
		if (ret < 0)
			break;
		memset(ow.page, 0x5a, PAGE);
		ret = transfer(&ow, IBV_WR_RDMA_READ, &again, 0);
		if (ret == 0 && word(&ow))
			ret = -EIO;
		memset(ow.page, 0x5a, PAGE);
		if (ret == 0)
			ret = transfer(&ow, IBV_WR_RDMA_WRITE, &again, 0);
	}
	check("it gets all the memory, and it is zero", ret == 0, ret);
	expect("connect again", join(&w, s, 7), 0);
	ret = transfer(&w, IBV_WR_RDMA_READ, &key, 0);
	check("the dead key is still dead", ret == IBV_WC_REM_ACCESS_ERR, ret);
	hang_up(&w);
	expect("connect again", join(&w, s, 7), 0);
	ret = transfer(&w, IBV_WR_RDMA_WRITE, &again, 0);
	check("a live key of another session: remote access error", ret == IBV_WC_REM_ACCESS_ERR, ret);
	hang_up(&w);
	memset(ow.page, 0, PAGE);
	ret = transfer(&ow, IBV_WR_RDMA_READ, &again, 0);
	check("its bytes are untouched, its connection works", ret == 0 && ow.page[0] == 0x5a, ret);
	leave(&other);
	hang_up(&ow);
}

static void check_fence(struct session *s, uint64_t region)
{
	struct xm_wire_key key = { 0 };
	struct wire_to old, new, beside;
	int ret;

	expect("connect", join(&old, s, 20), 0);
	expect("connect another link", join(&beside, s, 21), 0);
	ask_key(s, region, 0, &key);
	expect("it works", transfer(&old, IBV_WR_RDMA_READ, &key, 0), 0);
	expect("connect the first link again", join(&new, s, 20), 0);
	expect("the new connection works", transfer(&new, IBV_WR_RDMA_READ, &key, 0), 0);
	ret = transfer(&old, IBV_WR_RDMA_WRITE, &key, 0);
	check("the old one does not", ret != 0, ret);
	expect("the other link does", transfer(&beside, IBV_WR_RDMA_READ, &key, 0), 0);
	hang_up(&old);
	hang_up(&new);
	hang_up(&beside);
}

static void check_refused(const char *what, const void *bytes, unsigned len, int want)
{
	uint64_t start = now_us();
	struct wire_to w;
	int ret = say_hello(&w, bytes, (uint8_t)len);

	hang_up(&w);
	check(what, ret == want && now_us() - start < 3000000, ret);
}

static void check_lies(const struct session *s)
{
	uint8_t bytes[56] = { 0 };
	struct xm_wire_rdma_hello h;

	check_refused("nothing said: refused", NULL, 0, -EPROTO);
	check_refused("zeros: refused", bytes, sizeof(bytes), -EPROTO);
	memset(bytes, 0xa5, sizeof(bytes));
	check_refused("garbage: refused", bytes, sizeof(bytes), -EPROTO);
	fill_hello(s, 30, &h);
	h.major = XM_WIRE_MAJOR + 1;
	xm_wire_put_rdma_hello(bytes, &h);
	check_refused("another version: refused", bytes, XM_WIRE_RDMA_HELLO, -EPROTONOSUPPORT);
	fill_hello(s, 30, &h);
	h.token[15] ^= 1;
	xm_wire_put_rdma_hello(bytes, &h);
	check_refused("wrong token: refused", bytes, XM_WIRE_RDMA_HELLO, -EACCES);
	fill_hello(s, 30, &h);
	h.session ^= 1;
	xm_wire_put_rdma_hello(bytes, &h);
	check_refused("no such session: refused", bytes, XM_WIRE_RDMA_HELLO, -ESTALE);
	fill_hello(s, 0, &h);
	xm_wire_put_rdma_hello(bytes, &h);
	check_refused("no link: refused", bytes, XM_WIRE_RDMA_HELLO, -EPROTO);
}

/* Accepted, but never confirmed: without a queue pair of its own in the identifier, librdmacm leaves that to us. */
static void check_half_open(const struct session *s)
{
	struct xm_wire_rdma_reply reply;
	uint8_t bytes[XM_WIRE_RDMA_HELLO];
	struct xm_wire_rdma_hello h;
	struct rdma_conn_param p = { .private_data = bytes,
				     .private_data_len = sizeof(bytes),
				     .initiator_depth = 4 };
	struct wire_to w[3];
	long before;
	int ret;

	for (int i = 0; i < 3; i++) {
		resolve(&w[i]);
		p.qp_num = w[i].id->qp->qp_num;
		rdma_destroy_qp(w[i].id);
	}
	before = objects("qp");
	for (int i = 0; i < 3; i++) {
		fill_hello(s, 40 + (uint64_t)i, &h);
		xm_wire_put_rdma_hello(bytes, &h);
		p.qp_num = 0x1000u + (uint32_t)i;
		if (rdma_connect(w[i].id, &p) < 0)
			give_up("rdma_connect");
		ret = event(&w[i], RDMA_CM_EVENT_CONNECT_RESPONSE, &reply, WAIT_MS);
		check("half open", ret == 0, ret);
	}
	check("queue pairs wait for them", objects("qp") == before + 3, objects("qp") - before);
	expect("and do not wait for ever", settled("qp", before), before);
	for (int i = 0; i < 3; i++)
		hang_up(&w[i]);
}

/* A session ends while its connection is in use. */
static void check_ended(void)
{
	struct xm_wire_key key = { 0 };
	struct session s;
	struct wire_to w;
	int ret;

	enter(&s);
	ret = join(&w, &s, 50);
	if (ret == 0)
		ret = ask_key(&s, create(&s, 2), 0, &key);
	if (ret == 0)
		ret = transfer(&w, IBV_WR_RDMA_READ, &key, 0);
	check("a session of its own", ret == 0, ret);
	leave(&s);
	usleep(300000);
	ret = transfer(&w, IBV_WR_RDMA_READ, &key, 0);
	check("its key is dead when it is over", ret > 0, ret);
	hang_up(&w);
}

/* Of two processes of a session one is no more, and nobody says that its connection has ended. */
static void check_control(void)
{
	struct xm_wire_key key = { 0 };
	struct wire_to mine, childs;
	struct session s, child;
	long all;
	int ret;

	attach(&s, NULL, 100);
	attach(&child, &s, 101);
	ret = join_for(&mine, &s, 80, 100);
	if (ret == 0)
		ret = join_for(&childs, &child, 81, 101);
	if (ret == 0)
		ret = ask_key(&s, create(&s, 1), 0, &key);
	check("two processes of a session", ret == 0, ret);
	all = objects("qp");
	close(child.fd);
	attach(&child, &s, 101);
	usleep(3000000); /* longer than the lease */
	expect("a control connection that came back within the lease keeps the other",
	       transfer(&childs, IBV_WR_RDMA_READ, &key, 0), 0);
	close(child.fd);
	expect("the queue pair of one that did not ends after the lease", settled("qp", all - 1), all - 1);
	ret = transfer(&childs, IBV_WR_RDMA_READ, &key, 0);
	check("and cannot be used", ret != 0, ret);
	expect("the other process's can", transfer(&mine, IBV_WR_RDMA_READ, &key, 0), 0);
	attach(&child, &s, 101); /* or the session would end as well */
	leave(&s);
	expect("after a BYE it ends", settled("qp", all - 2), all - 2);
	leave(&child);
	hang_up(&mine);
	hang_up(&childs);
}

static int be_victim(void)
{
	struct xm_wire_key key = { 0 };
	struct session s;
	struct wire_to w;

	enter(&s);
	if (join(&w, &s, 60) < 0 || ask_key(&s, create(&s, 2), 0, &key) < 0 || write(1, "x", 1) != 1)
		return 1;
	while (transfer(&w, IBV_WR_RDMA_WRITE, &key, 0) == 0)
		;
	return 1;
}

static void check_killed(char **argv, unsigned rounds)
{
	const char *kind[] = { "qp", "pd", "cq", "mr", "cm_id" };
	long before[5], after;
	unsigned died = 0;

	for (int i = 0; i < 5; i++)
		before[i] = objects(kind[i]);
	for (unsigned i = 0; i < rounds; i++) {
		int status, fds[2];
		char byte;
		pid_t pid;

		if (pipe(fds) < 0 || (pid = fork()) < 0)
			give_up("fork");
		if (pid == 0) {
			/* a program of its own: what a fork child makes belongs to the parent's device file */
			dup2(fds[1], 1);
			execv("/proc/self/exe", argv);
			_exit(1);
		}
		close(fds[1]);
		died += read(fds[0], &byte, 1) == 1;
		usleep(1000 * (i % 7));
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		close(fds[0]);
	}
	check("rounds of connect and kill", died == rounds, died);
	for (int i = 0; i < 5; i++) {
		char text[64];

		after = settled(kind[i], before[i]);
		snprintf(text, sizeof(text), "nothing left behind: %s %ld, before %ld", kind[i], after,
			 before[i]);
		/* warm slabs are registered for the session that was there last, or for none */
		check(text, after <= before[i] + (i == 3 ? 2 : 0), after - before[i]);
	}
}

static int check_locked(void)
{
	struct xm_wire_key key;
	struct session s;
	struct wire_to w;
	uint64_t region;
	int ret = 0;

	enter(&s);
	expect("connect", join(&w, &s, 70), 0);
	region = create(&s, 6);
	for (unsigned i = 0; i < 6 && ret == 0; i++)
		ret = ask_key(&s, region, i, &key);
	expect("more than may be locked: ENOMEM", ret, -ENOMEM);
	printf("info: %s\n", in.u.error.text);
	check("in words", strstr(in.u.error.text, "ulimit -l") != NULL, 0);
	expect("the session lives on", ask(&s, XM_WIRE_PING), 0);
	leave(&s);
	hang_up(&w);
	return failures ? 1 : 0;
}

int main(int argc, char **argv)
{
	const char *level = getenv("XMEM_LEVEL");
	struct session s;
	struct wire_to w;
	uint64_t region;
	int ret;

	if (argc < 3)
		return 2;
	set_server(argv);
	if (argc == 4)
		return strcmp(argv[3], "victim") == 0 ? be_victim() : check_locked();
	enter(&s);
	region = create(&s, 4);
	ret = ask_slabs(&s, XM_WIRE_SLAB_KEYS, region, 0, 1);
	check("keys before a verbs connection: EAGAIN", ret == -EAGAIN, ret);
	expect("connect", join(&w, &s, 7), 0);
	expect("warm slabs are registered ahead of need", settled("mr", 3), 3); /* two, and ours */
	check_use(&s, &w, region);
	check_keys(&s, region);
	hang_up(&w);
	check_dropped(&s, region);
	check_fence(&s, region);
	check_lies(&s);
	check_half_open(&s);
	check_ended();
	check_control();
	check_killed((char *[]){ argv[0], argv[1], argv[2], "victim", NULL },
		     level && strcmp(level, "all") == 0 ? 1000 : 50);
	leave(&s);
	return verdict();
}
