/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rdma_share.c - what the keys of guests to a shared region are good for over verbs, whatever the guests try. Prints one
 * line a check; exits 0 when all held, else 1.
 *
 *   rdma_share HOST PORT    an appliance with --slab 1M and room for 3 slabs
 *
 * Runs where there is a device (tests/rdma/raw.sh). One thread.
 */
#include "rdma_client.h"

/* A region that other sessions may open by its name. */
static uint64_t create_shared(struct session *s, uint64_t slabs, const char *name, uint32_t rights)
{
	memset(&out.u, 0, sizeof(out.u));
	out.u.create.size_bytes = slabs * SLAB;
	out.u.create.type = XM_WIRE_REGION_SHARED;
	snprintf(out.u.create.name, sizeof(out.u.create.name), "%s", name);
	out.u.create.rules[0] = (struct xm_wire_rule){ .kind = XM_WIRE_RULE_ANYBODY, .rights = rights };
	if (ask(s, XM_WIRE_REGION_CREATE) < 0)
		give_up("create a shared region");
	return in.u.region.id;
}

/* Three sessions, each with a connection. */
struct sharing {
	struct session owner, reader, writer;
	struct wire_to o, r, w;
	uint64_t readable, writable;
	struct xm_wire_key own, own_too, reads, writes;
};

static void start_sharing(struct sharing *h)
{
	int ret;

	enter(&h->owner);
	enter(&h->reader);
	enter(&h->writer);
	ret = join(&h->o, &h->owner, 90) | join(&h->r, &h->reader, 91) | join(&h->w, &h->writer, 92);
	h->readable = create_shared(&h->owner, 2, "readable", XM_WIRE_RIGHT_READ);
	h->writable = create_shared(&h->owner, 1, "writable", XM_WIRE_RIGHT_READ | XM_WIRE_RIGHT_WRITE);
	ret |= ask_key(&h->owner, h->readable, 0, &h->own) | ask_key(&h->owner, h->writable, 0, &h->own_too);
	memset(h->o.page, 0x5a, PAGE);
	ret |= transfer(&h->o, IBV_WR_RDMA_WRITE, &h->own, 0);
	check("an owner and its shared regions", ret == 0, ret);
	memset(&out.u, 0, sizeof(out.u));
	strcpy(out.u.op.name, "readable");
	ret = ask(&h->reader, XM_WIRE_REGION_OPEN);
	check("a guest opens one",
	      ret == 0 && in.u.region.id == h->readable && in.u.region.rights == XM_WIRE_RIGHT_READ, ret);
	ret = ask_key(&h->reader, h->readable, 0, &h->reads);
	check("its key is its own, and for reading",
	      ret == 0 && h->reads.rkey != h->own.rkey && h->reads.rights == XM_WIRE_RIGHT_READ, ret);
	ret = ask_key(&h->writer, h->writable, 0, &h->writes);
	check("one for writing", ret == 0 && h->writes.rights == (XM_WIRE_RIGHT_READ | XM_WIRE_RIGHT_WRITE),
	      ret);
}

static int reads_5a(struct wire_to *w, const struct xm_wire_key *key)
{
	int ret;

	memset(w->page, 0, PAGE);
	ret = transfer(w, IBV_WR_RDMA_READ, key, 0);
	for (unsigned i = 0; ret == 0 && i < PAGE; i++)
		ret = w->page[i] == 0x5a ? 0 : -EIO;
	return ret;
}

/* Each ends the connection that it came by, and nothing else. */
static void check_reader(struct sharing *h)
{
	struct xm_wire_key theirs;
	struct wire_to beside, one;
	int ret;

	expect("the guest reads what the owner wrote", reads_5a(&h->r, &h->reads), 0);
	expect("another connection of its", join(&beside, &h->reader, 93), 0);
	memset(h->r.page, 0x33, PAGE);
	ret = transfer(&h->r, IBV_WR_RDMA_WRITE, &h->reads, 0);
	check("it writes by its key: remote access error", ret == IBV_WC_REM_ACCESS_ERR, ret);
	ret = transfer(&h->r, IBV_WR_RDMA_READ, &h->reads, 0);
	check("and that connection has ended", ret != 0, ret);
	hang_up(&h->r);
	expect("it connects anew", join(&h->r, &h->reader, 91), 0);
	ret = atomic(&h->r, IBV_WR_ATOMIC_FETCH_AND_ADD, &h->reads, 1, 0);
	check("fetch and add by its key: remote access error", ret == IBV_WC_REM_ACCESS_ERR, ret);
	hang_up(&h->r);
	expect("it connects anew", join(&h->r, &h->reader, 91), 0);
	memset(h->r.page, 0x33, PAGE);
	ret = transfer(&h->r, IBV_WR_RDMA_WRITE, &h->own, 0);
	check("it writes by the owner's key: remote access error", ret == IBV_WC_REM_ACCESS_ERR, ret);
	hang_up(&h->r);
	expect("it connects anew", join(&h->r, &h->reader, 91), 0);
	ret = ask_key(&h->reader, h->readable, 0, &theirs);
	check("its key is what it was", ret == 0 && theirs.rkey == h->reads.rkey, ret);
	expect("and reads", reads_5a(&h->r, &h->reads), 0);
	expect("its other connection works", reads_5a(&beside, &h->reads), 0);
	expect("the owner's works, its bytes are untouched", reads_5a(&h->o, &h->own), 0);
	expect("another guest connects", join(&one, &h->writer, 94), 0);
	ret = ask_key(&h->writer, h->readable, 0, &theirs);
	check("it may read, too", ret == 0 && reads_5a(&one, &theirs) == 0, ret);
	hang_up(&one);
	hang_up(&beside);
}

static void check_writer(struct sharing *h)
{
	int ret = atomic(&h->w, IBV_WR_ATOMIC_CMP_AND_SWP, &h->writes, 0, 40);

	check("a guest that may write compares and swaps", ret == 0 && word(&h->w) == 0, ret);
	ret = atomic(&h->o, IBV_WR_ATOMIC_FETCH_AND_ADD, &h->own_too, 2, 0);
	check("the owner adds", ret == 0 && word(&h->o) == 40, ret);
	memset(h->w.page, 0x5a, PAGE);
	expect("the guest writes", transfer(&h->w, IBV_WR_RDMA_WRITE, &h->writes, 0), 0);
	expect("the owner reads it", reads_5a(&h->o, &h->own_too), 0);
}

static void check_owners_free(struct sharing *h)
{
	struct xm_wire_key none;
	int ret;

	memset(&out.u, 0, sizeof(out.u));
	out.u.op.region = h->writable;
	expect("a guest frees: EACCES", ask(&h->writer, XM_WIRE_REGION_FREE), -EACCES);
	memset(&out.u, 0, sizeof(out.u));
	out.u.op.region = h->readable;
	expect("the owner frees", ask(&h->owner, XM_WIRE_REGION_FREE), 0);
	ret = transfer(&h->r, IBV_WR_RDMA_READ, &h->reads, 0);
	check("the guest's key is dead: remote access error", ret == IBV_WC_REM_ACCESS_ERR, ret);
	expect("and not given again: ENOENT", ask_key(&h->reader, h->readable, 0, &none), -ENOENT);
	hang_up(&h->r);
}

static void check_ends(struct sharing *h)
{
	int ret = 0;

	leave(&h->reader);
	expect("a guest has gone: the owner's other region is there", reads_5a(&h->o, &h->own_too), 0);
	expect("also for its guest", reads_5a(&h->w, &h->writes), 0);
	leave(&h->owner);
	for (int i = 0; i < 100 && ret == 0; i++) {
		ret = transfer(&h->w, IBV_WR_RDMA_READ, &h->writes, 0);
		usleep(ret ? 0 : 100000);
	}
	check("the owner's session is over: its guest's key dies", ret == IBV_WC_REM_ACCESS_ERR, ret);
	leave(&h->writer);
	hang_up(&h->w);
	hang_up(&h->o);
}

int main(int argc, char **argv)
{
	long before[2];
	struct sharing h;

	if (argc != 3)
		return 2;
	set_server(argv);
	before[0] = objects("pd");
	before[1] = objects("mr");
	start_sharing(&h);
	check_reader(&h);
	check_writer(&h);
	check_owners_free(&h);
	check_ends(&h);
	check("no protection domain is left behind but the warm slabs'",
	      settled("pd", before[0]) <= before[0] + 1, before[0]);
	check("nor a registration", settled("mr", before[1]) <= before[1] + 2, before[1]);
	return verdict();
}
