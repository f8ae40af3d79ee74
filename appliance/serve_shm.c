/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve_shm.c - sockets: listening on both kinds, and what only unix sockets have: credentials, descriptors,
 * and a file that can be left behind. Control thread and start-up only; no locks.
 */
#include "appliance/serve.h"

#include "log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int listening(const struct sockaddr_storage *ss, socklen_t len)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int ret;

	if (fd < 0)
		return 1; /* cannot tell: leave the file alone */
	ret = connect(fd, (const struct sockaddr *)ss, len);
	ret = ret == 0 || errno != ECONNREFUSED;
	close(fd);
	return ret;
}

static int bind_unix(int fd, const struct xm_uri *u, const struct sockaddr_storage *ss, socklen_t len)
{
	mode_t old = umask(0177);
	struct stat st;
	int ret = bind(fd, (const struct sockaddr *)ss, len) < 0 ? -errno : 0;

	if (ret == -EADDRINUSE && u->path[0] != '@' && stat(u->path, &st) == 0 && S_ISSOCK(st.st_mode) &&
	    !listening(ss, len)) {
		unlink(u->path);
		ret = bind(fd, (const struct sockaddr *)ss, len) < 0 ? -errno : 0;
	}
	umask(old);
	return ret;
}

static int bind_tcp(int fd, const struct sockaddr_storage *ss, socklen_t len)
{
	int one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	return bind(fd, (const struct sockaddr *)ss, len) < 0 ? -errno : 0;
}

static void name_inet(struct xm_listener *l)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	char host[INET6_ADDRSTRLEN] = "?";
	const char *kind = l->verbs ? "verbs" : "tcp";
	struct sockaddr_in *v4 = (struct sockaddr_in *)&ss;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&ss;

	if (getsockname(l->fd, (struct sockaddr *)&ss, &len) < 0)
		return;
	if (ss.ss_family == AF_INET6) {
		inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
		xm_snprintf(l->uri, sizeof(l->uri), "%s:[%s]:%u", kind, host, ntohs(v6->sin6_port));
	} else {
		inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
		xm_snprintf(l->uri, sizeof(l->uri), "%s:%s:%u", kind, host, ntohs(v4->sin_port));
	}
	if (!xm_uri_is_local(&ss))
		xm_warn("%s: access is not authenticated yet: whoever reaches this address can use the memory "
			"(put it on a closed network)",
			l->uri);
}

static int explain(const char *uri, int err, char *why)
{
	const char *hint = "";

	if (err == -EADDRINUSE)
		hint = " (another appliance? choose another --listen)";
	else if (err == -EACCES || err == -EPERM)
		hint = " (not permitted there)";
	else if (err == -ENOENT)
		hint = " (the directory does not exist)";
	xm_snprintf(why, XM_WHY_MAX, "--listen %.80s: %s%s", uri, xm_strerror(err), hint);
	return err;
}

int xm_listen(const char *uri, struct xm_listener *out, char *why)
{
	struct xm_listener l = { .fd = -1 };
	struct sockaddr_storage ss;
	struct xm_uri u;
	struct stat st;
	socklen_t len;
	int ret = xm_uri_parse(uri, &u, why);

	if (ret == 0)
		ret = xm_uri_resolve(&u, &ss, &len, why);
	if (ret < 0)
		return ret;
	l.local = u.kind == XM_URI_SHM;
	l.verbs = u.kind == XM_URI_VERBS;
	l.fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l.fd < 0)
		return explain(uri, -errno, why);
	ret = l.local ? bind_unix(l.fd, &u, &ss, len) : bind_tcp(l.fd, &ss, len);
	if (ret == 0 && listen(l.fd, 512) < 0)
		ret = -errno;
	if (ret < 0) {
		close(l.fd);
		return explain(uri, ret, why);
	}
	xm_snprintf(l.uri, sizeof(l.uri), "%s", uri);
	if (!l.local) {
		name_inet(&l);
	} else if (u.path[0] != '@' && stat(u.path, &st) == 0) {
		xm_snprintf(l.path, sizeof(l.path), "%s", u.path);
		l.path_inode = st.st_ino;
		l.path_time = st.st_mtim;
	}
	*out = l;
	return 0;
}

void xm_unlisten(struct xm_listener *l)
{
	struct stat st;

	if (l->fd >= 0)
		close(l->fd);
	l->fd = -1;
	if (l->path[0] && stat(l->path, &st) == 0 && st.st_ino == l->path_inode &&
	    st.st_mtim.tv_sec == l->path_time.tv_sec && st.st_mtim.tv_nsec == l->path_time.tv_nsec)
		unlink(l->path);
	l->path[0] = 0;
}

ssize_t xm_send_fds(int fd, const void *bytes, size_t len, const int *fds, int nfds)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(XM_WIRE_FDS * sizeof(int))];
	} control;
	struct iovec iov = { (void *)bytes, len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	size_t room = (size_t)nfds * sizeof(int);
	ssize_t n;

	if (nfds) {
		struct cmsghdr *c;

		memset(&control, 0, sizeof(control));
		msg.msg_control = control.room;
		msg.msg_controllen = CMSG_SPACE(room);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(room);
		memcpy(CMSG_DATA(c), fds, room);
	}
	n = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	return n < 0 ? -errno : n;
}

uid_t xm_peer_uid(int fd)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return (uid_t)-1;
	return cred.uid;
}

void xm_tune_socket(int fd)
{
	int one = 1, idle = 2, interval = 2, probes = 3;
	unsigned user_timeout_ms = 10000;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout_ms, sizeof(user_timeout_ms));
}
