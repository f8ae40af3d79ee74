/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keeper_serve.c - the keeper's socket: requests of family.h, one message each. Runs on the keeper's only
 * thread; never waits for a client. Requests come from anybody who can see the abstract name, so each is
 * checked: the token for members, the user for watchers; anything else is answered -EACCES or dropped.
 */
#include "runtime/keeper_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "log.h"
#include "procid.h"

#define UNCOVERED_SAID 10 /* lines about commands that are not covered */

int keeper_listen(struct keeper *k, const char *name)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	size_t len = strlen(name);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	memcpy(addr.sun_path + 1, name, xm_min(len, sizeof(addr.sun_path) - 1));
	if (fd < 0 ||
	    bind(fd, (struct sockaddr *)&addr,
		 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + len)) ||
	    listen(fd, 1024)) {
		int ret = -errno;

		xm_err("keeper: socket @%s: %s", name, xm_strerror(ret));
		if (fd >= 0)
			close(fd);
		return ret;
	}
	k->listen_fd = fd;
	return keeper_poll_add(k, fd, EV_LISTEN, 0);
}

static void drop_client(struct keeper *k, uint32_t i)
{
	close(k->client[i].fd);
	k->client[i].fd = -1;
}

/* A free place; when there is none the one that has been silent longest. Watchers are spared. */
static uint32_t client_place(struct keeper *k)
{
	uint32_t oldest = 0;
	uint64_t since = UINT64_MAX;

	for (uint32_t i = 0; i < KEEPER_CLIENTS; i++) {
		if (k->client[i].fd < 0)
			return i;
		if (!k->client[i].top && k->client[i].since_ns < since) {
			since = k->client[i].since_ns;
			oldest = i;
		}
	}
	drop_client(k, oldest);
	return oldest;
}

void keeper_accept(struct keeper *k)
{
	for (;;) {
		int fd = accept4(k->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		uint32_t i;

		if (fd < 0)
			return;
		i = client_place(k);
		k->client[i].fd = fd;
		k->client[i].top = false;
		k->client[i].since_ns = xm_now_ns();
		if (keeper_poll_add(k, fd, EV_CLIENT, i))
			drop_client(k, i);
		else
			keeper_client(k, i); /* it has said it by now, as a rule, and may have to make room for others */
	}
}

void keeper_hear(struct keeper *k)
{
	keeper_accept(k);
	for (uint32_t i = 0; i < KEEPER_CLIENTS; i++)
		keeper_client(k, i);
}

static void reply(int sock, int status, int fd)
{
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} ctl;
	struct xm_keeper_reply r = { .status = status, .version = XM_FAM_VERSION, .bytes = XM_FAM_BYTES };
	struct iovec iov = { &r, sizeof(r) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		struct cmsghdr *c;

		memset(&ctl, 0, sizeof(ctl));
		msg.msg_control = &ctl;
		msg.msg_controllen = sizeof(ctl);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	}
	if (sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		xm_debug("keeper: reply: %s", xm_strerror(errno));
}

static bool token_fits(const struct keeper *k, const struct xm_keeper_request *req)
{
	uint8_t diff = 0;

	for (size_t i = 0; i < sizeof(req->token); i++)
		diff |= (uint8_t)(k->token[i] ^ req->token[i]);
	return !diff;
}

static void join(struct keeper *k, uint32_t index, const struct ucred *who)
{
	struct xm_procid self, id;
	struct xm_proc *p;

	if (index >= XM_MAX_PROCS)
		return;
	p = &k->f->proc[index];
	/* the sender's pid as this namespace knows it; its start time is the same everywhere */
	if ((xm_load(&p->flags) & XM_PROC_FOREIGN) && who->pid > 0 && p->start_time) {
		xm_procid_self(&self);
		id = self;
		id.pid = (uint32_t)who->pid;
		id.start_time = p->start_time;
		if (xm_procid_check(&self, &id) == XM_PROC_ALIVE) {
			p->pid = who->pid;
			__atomic_and_fetch(&p->flags, ~(uint32_t)XM_PROC_FOREIGN, __ATOMIC_ACQ_REL);
		}
	}
	keeper_watch(k, index);
}

static void watcher(struct keeper *k, uint32_t i, const struct ucred *who)
{
	char path[40];
	int fd;

	if (who->uid != geteuid() && who->uid != 0) {
		reply(k->client[i].fd, -EACCES, -1);
		drop_client(k, i);
		return;
	}
	/* opened anew: the descriptor itself cannot be written through */
	keeper_name_command(k);
	xm_snprintf(path, sizeof(path), "/proc/self/fd/%d", k->obj_fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	reply(k->client[i].fd, fd < 0 ? -errno : 0, fd);
	if (fd >= 0)
		close(fd);
	k->client[i].top = true;
}

static void uncovered(struct keeper *k, struct xm_keeper_request *req)
{
	req->text[sizeof(req->text) - 1] = 0;
	for (char *p = req->text; *p; p++)
		if ((unsigned char)*p < 0x20 || (unsigned char)*p > 0x7e)
			*p = '?';
	/* a script may start thousands of one kind */
	if (xm_add(&k->f->uncovered, 1) + 1 <= UNCOVERED_SAID)
		xm_warn("not covered: %s%s", req->text,
			xm_load(&k->f->uncovered) == UNCOVERED_SAID ? " (further ones are only counted)" : "");
}

void keeper_client(struct keeper *k, uint32_t i)
{
	struct xm_keeper_request req;
	struct ucred who = { 0 };
	socklen_t len = sizeof(who);
	ssize_t n;

	if (k->client[i].fd < 0)
		return;
	n = recv(k->client[i].fd, &req, sizeof(req), MSG_DONTWAIT | MSG_TRUNC);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	/* a watcher has nothing more to say: what comes is its end */
	if (n != (ssize_t)sizeof(req) || k->client[i].top ||
	    getsockopt(k->client[i].fd, SOL_SOCKET, SO_PEERCRED, &who, &len)) {
		drop_client(k, i);
		return;
	}
	if (req.op == XM_KEEPER_TOP) {
		watcher(k, i, &who);
		return;
	}
	if (!token_fits(k, &req))
		reply(k->client[i].fd, -EACCES, -1);
	else if (req.op == XM_KEEPER_GET)
		reply(k->client[i].fd, 0, k->obj_fd);
	else if (req.op == XM_KEEPER_JOIN)
		join(k, req.index, &who);
	else if (req.op == XM_KEEPER_UNCOVERED)
		uncovered(k, &req);
	else
		reply(k->client[i].fd, -EOPNOTSUPP, -1);
	drop_client(k, i);
}

bool keeper_clients_tick(struct keeper *k)
{
	uint64_t now = xm_now_ns();
	bool watched = false;

	for (uint32_t i = 0; i < KEEPER_CLIENTS; i++) {
		if (k->client[i].fd < 0)
			continue;
		watched |= k->client[i].top;
		if (!k->client[i].top && now - k->client[i].since_ns > KEEPER_CLIENT_IDLE_NS)
			drop_client(k, i);
	}
	return watched;
}
