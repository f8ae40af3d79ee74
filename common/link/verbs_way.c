/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verbs_way.c - by which device, port and GID an appliance is reached.
 *
 * Without options the routing table decides. A device is asked for by the source address that its GID stands for: a GID
 * of RoCE v2 is an address of the interface below. What came out is compared with what was asked for, since the kernel
 * has the last word (routes, policies); on InfiniBand, where addresses are IPoIB's, it is compared only.
 */
#include "link/rdma_sysfs.h"
#include "link/verbs_impl.h"

#include "log.h"
#include "units.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>

/* Life time of a packet on RoCE, 4.096 us * 2^16: as the kernel's connection manager has it (CMA_IBOE_PACKET_LIFETIME). */
#define PACKET_LIFETIME 16
#define PATH_EQUAL (2u << 6) /* selector of a path record: exactly this */

struct source {
	struct sockaddr_storage addr; /* ss_family 0: by route */
	bool has_gid;
	uint8_t gid[16];
};

static bool is_mapped_v4(const uint8_t gid[16])
{
	static const uint8_t prefix[12] = { [10] = 0xff, [11] = 0xff };

	return memcmp(gid, prefix, sizeof(prefix)) == 0;
}

/* Bits that the GID and the appliance's address have in common; -1: it is of the other kind. */
static int likeness(const struct xm_peer *p, const uint8_t gid[16])
{
	uint8_t to[16] = { [10] = 0xff, [11] = 0xff };
	int n = 0;

	if (is_mapped_v4(gid) != (p->addr.ss_family == AF_INET))
		return -1;
	if (p->addr.ss_family == AF_INET)
		memcpy(to + 12, &((const struct sockaddr_in *)&p->addr)->sin_addr, 4);
	else
		memcpy(to, &((const struct sockaddr_in6 *)&p->addr)->sin6_addr, 16);
	while (n < 128 && !((to[n / 8] ^ gid[n / 8]) & (0x80 >> n % 8)))
		n++;
	return n;
}

static void take(const struct xm_rdma_gid *g, struct source *out)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)&out->addr;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&out->addr;
	char line[32];
	uint64_t ifindex;

	*out = (struct source){ .has_gid = true };
	memcpy(out->gid, g->raw, sizeof(out->gid));
	if (is_mapped_v4(g->raw)) {
		v4->sin_family = AF_INET;
		memcpy(&v4->sin_addr, g->raw + 12, 4);
		return;
	}
	v6->sin6_family = AF_INET6;
	memcpy(&v6->sin6_addr, g->raw, 16);
	if (IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr) && xm_rdma_file(line, sizeof(line), "../net/%s/ifindex", g->netdev) == 0 &&
	    xm_parse_u64(line, 1, INT32_MAX, &ifindex) == 0)
		v6->sin6_scope_id = (uint32_t)ifindex;
}

/* The GID that was asked for. */
static int take_index(const struct xm_peer *p, int port, struct source *out, char *why)
{
	const struct xm_uri_options *o = &p->uri.verbs;
	struct xm_rdma_gid g;
	char line[64];

	if (xm_rdma_gid(o->device, port, o->gid, &g) < 0) {
		xm_verbs_say(why, p, "port %d of %s has no GID %d (see /sys/class/infiniband/%s/ports/%d/gids)", port, o->device,
			     o->gid, o->device, port);
		return -EINVAL;
	}
	if (!g.roce_v2) {
		xm_rdma_file(line, sizeof(line), "%s/ports/%d/gid_attrs/types/%d", o->device, port, o->gid);
		xm_verbs_say(why, p, "GID %d of %s is of type %s: RoCE v2 is wanted", o->gid, o->device, line);
		return -EINVAL;
	}
	if (likeness(p, g.raw) < 0) {
		xm_verbs_say(why, p, "GID %d of %s is no %s address as the appliance's is", o->gid, o->device,
			     p->addr.ss_family == AF_INET ? "IPv4" : "IPv6");
		return -EINVAL;
	}
	take(&g, out);
	return 0;
}

/* The GID of the port that is most like the appliance's address, if it is more so than what was found before. */
static void take_nearest(const struct xm_peer *p, int port, struct source *out, int *best)
{
	struct xm_rdma_gid g;
	int ret = 0;

	for (int i = 0; i < 1024 && ret != -ENOENT; i++) {
		ret = xm_rdma_gid(p->uri.verbs.device, port, i, &g);
		if (ret < 0 || !g.roce_v2 || likeness(p, g.raw) <= *best)
			continue;
		*best = likeness(p, g.raw);
		take(&g, out);
	}
}

static void no_such_device(const struct xm_peer *p, char *why)
{
	struct ibv_device **list = xm_verbs_devices();
	char names[80] = "";

	for (int i = 0; list && list[i] && strlen(names) < sizeof(names) - 2; i++)
		xm_snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%s", i ? ", " : "",
			    xm_rdma.get_device_name(list[i]));
	if (list)
		xm_rdma.free_device_list(list);
	xm_verbs_say(why, p, "there is no RDMA device '%.30s' (%s%s)", p->uri.verbs.device,
		     names[0] ? "there are: " : "there is none: see 'rdma link'", names);
}

static bool say_if_down(const struct xm_peer *p, const char *device, int port, char *why)
{
	char state[32], netdev[32];

	if (xm_rdma_port_active(device, port, state, sizeof(state), netdev))
		return false;
	xm_verbs_say(why, p, "port %d of %.30s is %s: ip link set %s up, or look at the cable", port, device, state,
		     netdev[0] ? netdev : "DEVICE");
	return true;
}

bool xm_verbs_port_down(const struct xm_peer *p, char *why)
{
	struct ibv_device **list = xm_verbs_devices();
	char state[32], netdev[32];
	bool up = false, down = false;

	for (int i = 0; list && list[i]; i++) {
		const char *name = xm_rdma.get_device_name(list[i]);

		if (p->uri.verbs.device[0] && strcmp(p->uri.verbs.device, name) != 0)
			continue;
		for (int port = 1; xm_rdma_port_exists(name, port); port++) {
			if (xm_rdma_port_active(name, port, state, sizeof(state), netdev))
				up = true;
			else if (!down)
				down = say_if_down(p, name, port, why);
		}
	}
	if (list)
		xm_rdma.free_device_list(list);
	if (up && down && why)
		why[0] = 0;
	return down && !up;
}

static int choose_on_ports(const struct xm_peer *p, struct source *out, char *why)
{
	const struct xm_uri_options *o = &p->uri.verbs;
	int first = xm_verbs_option(o->port, 1), last = xm_verbs_option(o->port, o->gid >= 0 ? 1 : 255), best = -1;
	bool down = false;
	char line[64];

	for (int port = first; port <= last && xm_rdma_port_exists(o->device, port); port++) {
		if (say_if_down(p, o->device, port, why)) {
			down = true;
			continue;
		}
		xm_rdma_file(line, sizeof(line), "%s/ports/%d/link_layer", o->device, port);
		if (strcmp(line, "Ethernet") != 0)
			return 0;
		if (o->gid >= 0)
			return take_index(p, port, out, why);
		take_nearest(p, port, out, &best);
	}
	if (best >= 0)
		return 0;
	if (!down)
		xm_verbs_say(why, p, "%s has no RoCE v2 GID of %s (ip address add ... to its interface)", o->device,
			     p->addr.ss_family == AF_INET ? "IPv4" : "IPv6");
	return -EINVAL;
}

static int choose_source(const struct xm_peer *p, struct source *out, char *why)
{
	const struct xm_uri_options *o = &p->uri.verbs;
	char line[64];

	*out = (struct source){ 0 };
	if (!o->device[0])
		return 0;
	if (xm_rdma_file(line, sizeof(line), "%s/node_guid", o->device) < 0) {
		no_such_device(p, why);
		return -EINVAL;
	}
	if (!xm_rdma_port_exists(o->device, xm_verbs_option(o->port, 1))) {
		xm_verbs_say(why, p, "%s has no port %d", o->device, o->port);
		return -EINVAL;
	}
	return choose_on_ports(p, out, why);
}

/* Is the way that was found the one that was asked for? */
static int compare(const struct xm_peer *p, const struct xm_verbs_conn *c, const struct source *s, char *why)
{
	const struct xm_uri_options *o = &p->uri.verbs;
	const char *name = xm_rdma.get_device_name(c->id->verbs->device);
	char found[INET6_ADDRSTRLEN];

	if (!o->device[0])
		return 0;
	if (strcmp(name, o->device) != 0 || (o->port >= 0 && c->id->port_num != o->port)) {
		xm_verbs_say(why, p, "the way there is by %.30s port %d, not by the device and port asked for (ip route)", name,
			     c->id->port_num);
		return -EINVAL;
	}
	if (s->has_gid && memcmp(&c->id->route.addr.addr.ibaddr.sgid, s->gid, sizeof(s->gid)) != 0) {
		inet_ntop(AF_INET6, &c->id->route.addr.addr.ibaddr.sgid, found, sizeof(found));
		xm_verbs_say(why, p, "the way there is by GID %s, not by the one asked for (ip route)", found);
		return -EINVAL;
	}
	return 0;
}

/* Puts a path of this MTU in the place of the one that rdma_resolve_route() makes. It is sent to the appliance's side
 * with the request, so both use it; otherwise as the kernel makes one for RoCE (cma_resolve_iboe_route). */
static int set_path(const struct xm_peer *p, const struct xm_verbs_conn *c, char *why)
{
	const struct rdma_ib_addr *a = &c->id->route.addr.addr.ibaddr;
	unsigned mtu = 1;
	struct ibv_path_data d = { .flags = IBV_PATH_FLAG_GMP | IBV_PATH_FLAG_PRIMARY | IBV_PATH_FLAG_BIDIRECTIONAL };

	struct ibv_port_attr port = { 0 };

	/* the library fills in what a program of its first version knows, which is enough */
	if (xm_rdma.query_port(c->id->verbs, c->id->port_num, (struct _compat_ibv_port_attr *)&port) != 0)
		return -ENODEV;
	if (port.link_layer != IBV_LINK_LAYER_ETHERNET) {
		xm_verbs_say(why, p, "mtu= is for RoCE: on InfiniBand the subnet manager decides");
		return -EINVAL;
	}
	while (128 << mtu < p->uri.verbs.mtu)
		mtu++;
	if (mtu > port.active_mtu) {
		xm_verbs_say(why, p, "mtu=%d is more than the port's %d (ip link set DEVICE mtu ...)", p->uri.verbs.mtu,
			     128 << port.active_mtu);
		return -EINVAL;
	}
	d.path.sgid = a->sgid;
	d.path.dgid = a->dgid;
	d.path.pkey = htobe16(0xffff); /* the only one there is on RoCE */
	d.path.flowlabel_hoplimit = htobe32(64);
	d.path.reversible_numpath = 0x80 | 1;
	d.path.mtu = (uint8_t)(PATH_EQUAL | mtu);
	d.path.rate = PATH_EQUAL; /* 0: that of the port */
	d.path.packetlifetime = PATH_EQUAL | PACKET_LIFETIME;
	return xm_rdma.set_option(c->id, RDMA_OPTION_IB, RDMA_OPTION_IB_PATH, &d, sizeof(d)) < 0 ? -errno : 0;
}

int xm_verbs_find_way(struct xm_peer *p, uint64_t deadline_ns, struct xm_verbs_conn *c, char *why)
{
	uint64_t now = xm_now_ns();
	int ms = now < deadline_ns ? (int)xm_min((deadline_ns - now) / 1000000 + 1, 60000ull) : 1;
	struct source s;
	int ret = choose_source(p, &s, why);

	if (ret < 0)
		return ret;
	if (xm_rdma.create_id(c->events, &c->id, NULL, RDMA_PS_TCP) < 0)
		return -errno;
	if (xm_rdma.resolve_addr(c->id, s.addr.ss_family ? (struct sockaddr *)&s.addr : NULL, (struct sockaddr *)&p->addr,
				 ms) < 0)
		return errno == ENODEV || errno == EADDRNOTAVAIL ? -ENODEV : -errno;
	ret = xm_verbs_next_event(p, c, RDMA_CM_EVENT_ADDR_RESOLVED, deadline_ns, NULL);
	if (ret == 0)
		ret = compare(p, c, &s, why);
	if (ret < 0)
		return ret;
	if (p->uri.verbs.mtu > 0)
		ret = set_path(p, c, why);
	else
		ret = xm_rdma.resolve_route(c->id, ms) < 0 ? -errno : 0;
	return ret < 0 ? ret : xm_verbs_next_event(p, c, RDMA_CM_EVENT_ROUTE_RESOLVED, deadline_ns, NULL);
}
