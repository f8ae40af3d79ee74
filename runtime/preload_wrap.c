/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload_wrap.c - fault mode signal: libc's functions whose system call is made here, with the pages held, instead of being
 * trapped. Two kinds: those that are called often, for speed (a trap costs a microsecond), and those whose pointers lie
 * in a structure, which may be local while what it points to is external: the filter does not see that.
 *
 * Memory that is not external goes to libc's own function. In a process that is not in this mode everything does.
 */
#include "runtime/preload_signal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#include "runtime/preload.h"

/* Whether the call has to be made here. (As a number: nothing is read from there.) */
static bool reaches_at(uintptr_t p, size_t n)
{
	return xm_sig_active() && xm_ext_overlaps((void *)p, n);
}

#define reaches(p, n) reaches_at((uintptr_t)(p), (n))

/* libc's own names of those that signal handlers call: nothing is looked up there. */
ssize_t __read(int fd, void *buf, size_t n);
ssize_t __write(int fd, const void *buf, size_t n);
ssize_t __pread64(int fd, void *buf, size_t n, off64_t at);
ssize_t __pwrite64(int fd, const void *buf, size_t n, off64_t at);
ssize_t __send(int fd, const void *buf, size_t n, int flags);

static bool vector_reaches(const struct iovec *iov, int n)
{
	if (!xm_sig_active() || !iov || n < 0 || n > IOV_MAX) /* libc's function says what is wrong */
		return false;
	for (int i = 0; i < n; i++)
		if (xm_ext_overlaps(iov[i].iov_base, iov[i].iov_len))
			return true;
	return xm_ext_contains(iov);
}

static bool message_reaches(const struct msghdr *m)
{
	return xm_sig_active() && m && (xm_ext_contains(m) || xm_ext_contains(m->msg_name) || xm_ext_contains(m->msg_control) ||
				   vector_reaches(m->msg_iov, (int)xm_min(m->msg_iovlen, (size_t)1024)));
}

/* ---- read and write ---------------------------------------------------------------------------------------------------------- */

/* A large buffer goes in parts, so that little of the local budget is held at a time. Files are read and written to the end;
 * from anything else a read may bring less than was asked for, and must not wait for more. One write is one message, one
 * record of a log, or one of several writers' to a pipe: it stays whole. */
static ssize_t in_parts(long nr, int fd, uintptr_t buf, size_t n, off_t at)
{
	bool reads = nr == SYS_read || nr == SYS_pread64, goes_on = true;
	size_t part = xm_call_part_bytes(), done = 0;
	struct stat st;
	ssize_t r;

	if (n > part) {
		goes_on = fstat(fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode));
		if (!reads && (!goes_on || (fcntl(fd, F_GETFL) & O_APPEND)))
			part = n;
	}
	do {
		size_t want = xm_min(n - done, part);

		r = xm_sig_call(nr, fd, (long)(buf + done), (long)want, at + (off_t)done, 0, 0);
		if (r <= 0)
			return done ? (ssize_t)done : r;
		done += (size_t)r;
		if ((size_t)r < want)
			break;
	} while (done < n && goes_on);
	return (ssize_t)done;
}

XM_PUBLIC ssize_t read(int fd, void *buf, size_t n)
{
	if (!reaches(buf, n))
		return __read(fd, buf, n);
	return in_parts(SYS_read, fd, (uintptr_t)buf, n, 0);
}

XM_PUBLIC ssize_t write(int fd, const void *buf, size_t n)
{
	if (!reaches(buf, n))
		return __write(fd, buf, n);
	return in_parts(SYS_write, fd, (uintptr_t)buf, n, 0);
}

XM_PUBLIC ssize_t pread(int fd, void *buf, size_t n, off_t at)
{
	if (!reaches(buf, n))
		return __pread64(fd, buf, n, at);
	return in_parts(SYS_pread64, fd, (uintptr_t)buf, n, at);
}

XM_PUBLIC ssize_t pwrite(int fd, const void *buf, size_t n, off_t at)
{
	if (!reaches(buf, n))
		return __pwrite64(fd, buf, n, at);
	return in_parts(SYS_pwrite64, fd, (uintptr_t)buf, n, at);
}

XM_PUBLIC ssize_t pread64(int fd, void *buf, size_t n, off64_t at) __attribute__((alias("pread")));
XM_PUBLIC ssize_t pwrite64(int fd, const void *buf, size_t n, off64_t at) __attribute__((alias("pwrite")));

XM_PUBLIC ssize_t recv(int fd, void *buf, size_t n, int flags)
{
	if (!reaches(buf, n))
		return XM_NEXT(recv)(fd, buf, n, flags);
	return xm_sig_call(SYS_recvfrom, fd, (long)buf, (long)n, flags, 0, 0);
}

XM_PUBLIC ssize_t send(int fd, const void *buf, size_t n, int flags)
{
	if (!reaches(buf, n))
		return __send(fd, buf, n, flags);
	return xm_sig_call(SYS_sendto, fd, (long)buf, (long)n, flags, 0, 0);
}

XM_PUBLIC ssize_t getrandom(void *buf, size_t n, unsigned flags)
{
	if (!reaches(buf, n))
		return XM_NEXT(getrandom)(buf, n, flags);
	return xm_sig_call(SYS_getrandom, (long)buf, (long)n, flags, 0, 0, 0);
}

/* ---- vectors and messages -------------------------------------------------------------------------------------------------------- */

XM_PUBLIC ssize_t readv(int fd, const struct iovec *iov, int n)
{
	if (!vector_reaches(iov, n))
		return XM_NEXT(readv)(fd, iov, n);
	return xm_sig_call(SYS_readv, fd, (long)iov, n, 0, 0, 0);
}

XM_PUBLIC ssize_t writev(int fd, const struct iovec *iov, int n)
{
	if (!vector_reaches(iov, n))
		return XM_NEXT(writev)(fd, iov, n);
	return xm_sig_call(SYS_writev, fd, (long)iov, n, 0, 0, 0);
}

XM_PUBLIC ssize_t preadv(int fd, const struct iovec *iov, int n, off_t at)
{
	if (!vector_reaches(iov, n))
		return XM_NEXT(preadv)(fd, iov, n, at);
	return xm_sig_call(SYS_preadv, fd, (long)iov, n, at, 0, 0);
}

XM_PUBLIC ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t at)
{
	if (!vector_reaches(iov, n))
		return XM_NEXT(pwritev)(fd, iov, n, at);
	return xm_sig_call(SYS_pwritev, fd, (long)iov, n, at, 0, 0);
}

XM_PUBLIC ssize_t preadv2(int fd, const struct iovec *iov, int n, off_t at, int flags)
{
	if (at == -1 || !vector_reaches(iov, n))
		return XM_NEXT(preadv2)(fd, iov, n, at, flags);
	return xm_sig_call(SYS_preadv2, fd, (long)iov, n, at, 0, flags);
}

XM_PUBLIC ssize_t pwritev2(int fd, const struct iovec *iov, int n, off_t at, int flags)
{
	if (at == -1 || !vector_reaches(iov, n))
		return XM_NEXT(pwritev2)(fd, iov, n, at, flags);
	return xm_sig_call(SYS_pwritev2, fd, (long)iov, n, at, 0, flags);
}

XM_PUBLIC ssize_t preadv64(int fd, const struct iovec *iov, int n, off64_t at) __attribute__((alias("preadv")));
XM_PUBLIC ssize_t pwritev64(int fd, const struct iovec *iov, int n, off64_t at) __attribute__((alias("pwritev")));
XM_PUBLIC ssize_t preadv64v2(int fd, const struct iovec *iov, int n, off64_t at, int flags)
	__attribute__((alias("preadv2")));
XM_PUBLIC ssize_t pwritev64v2(int fd, const struct iovec *iov, int n, off64_t at, int flags)
	__attribute__((alias("pwritev2")));

XM_PUBLIC ssize_t process_vm_readv(pid_t pid, const struct iovec *to, unsigned long nt, const struct iovec *from,
				   unsigned long nf, unsigned long flags)
{
	if (!vector_reaches(to, (int)nt))
		return XM_NEXT(process_vm_readv)(pid, to, nt, from, nf, flags);
	return xm_sig_call(SYS_process_vm_readv, pid, (long)to, (long)nt, (long)from, (long)nf, (long)flags);
}

XM_PUBLIC ssize_t process_vm_writev(pid_t pid, const struct iovec *from, unsigned long nf, const struct iovec *to,
				    unsigned long nt, unsigned long flags)
{
	if (!vector_reaches(from, (int)nf))
		return XM_NEXT(process_vm_writev)(pid, from, nf, to, nt, flags);
	return xm_sig_call(SYS_process_vm_writev, pid, (long)from, (long)nf, (long)to, (long)nt, (long)flags);
}

XM_PUBLIC ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
	if (!message_reaches(m))
		return XM_NEXT(sendmsg)(fd, m, flags);
	return xm_sig_call(SYS_sendmsg, fd, (long)m, flags, 0, 0, 0);
}

XM_PUBLIC ssize_t recvmsg(int fd, struct msghdr *m, int flags)
{
	if (!message_reaches(m))
		return XM_NEXT(recvmsg)(fd, m, flags);
	return xm_sig_call(SYS_recvmsg, fd, (long)m, flags, 0, 0, 0);
}

static bool messages_reach(const struct mmsghdr *m, unsigned n)
{
	for (unsigned i = 0; m && i < n; i++)
		if (message_reaches(&m[i].msg_hdr))
			return true;
	return false;
}

XM_PUBLIC int sendmmsg(int fd, struct mmsghdr *m, unsigned n, int flags)
{
	if (!messages_reach(m, n))
		return XM_NEXT(sendmmsg)(fd, m, n, flags);
	return (int)xm_sig_call(SYS_sendmmsg, fd, (long)m, n, flags, 0, 0);
}

XM_PUBLIC int recvmmsg(int fd, struct mmsghdr *m, unsigned n, int flags, struct timespec *timeout)
{
	if (!messages_reach(m, n))
		return XM_NEXT(recvmmsg)(fd, m, n, flags, timeout);
	return (int)xm_sig_call(SYS_recvmmsg, fd, (long)m, n, flags, (long)timeout, 0);
}

/* ---- commands: their words are read by a child that shares our memory and has all signals blocked -------------------------------- */

/* The list itself has to be local (preload_exec.c), also where the program has made it. */
static void localise_environment(void)
{
	size_t n = 0;
	char **list;

	if (!xm_ext_contains(environ))
		return;
	while (environ[n])
		n++;
	list = xm_je_mallocx((n + 1) * sizeof(*list), XM_JE_LOCAL);
	if (!list)
		return;
	memcpy(list, environ, (n + 1) * sizeof(*list));
	environ = list;
}

static struct xm_call *hold_command(struct xm_call *own, const char *command)
{
	static const long none[6];
	struct xm_call *c;

	localise_environment();
	c = xm_call_begin(own, SYS_getpid, none);
	xm_call_hold_string(c, command);
	xm_call_hold_strings(c, environ);
	return c;
}

XM_PUBLIC int system(const char *command)
{
	struct xm_call own, *c;
	int r;

	if (!xm_sig_active())
		return XM_NEXT(system)(command);
	c = hold_command(&own, command);
	r = XM_NEXT(system)(command);
	xm_call_end(c);
	return r;
}

XM_PUBLIC FILE *popen(const char *command, const char *mode)
{
	struct xm_call own, *c;
	FILE *r;

	if (!xm_sig_active())
		return XM_NEXT(popen)(command, mode);
	c = hold_command(&own, command);
	r = XM_NEXT(popen)(command, mode);
	xm_call_end(c);
	return r;
}

/* ---- contexts: the end of one, and setcontext, read the next one's mask in a call that is not trapped (preload_calls.c) ---------- */

XM_PUBLIC int setcontext(const ucontext_t *ucp)
{
	int r;

	do {
		if (xm_sig_active())
			(void)*(volatile const char *)&ucp->uc_sigmask;
		r = XM_NEXT(setcontext)(ucp);
	} while (r < 0 && errno == EFAULT && xm_sig_active() && xm_ext_contains(ucp));
	return r;
}

/* The caller goes on from here when it is resumed: this frame lies on its own stack. */
XM_PUBLIC int swapcontext(ucontext_t *old, const ucontext_t *ucp)
{
	__typeof__(&swapcontext) real = XM_NEXT(swapcontext);
	int r;

	do {
		if (xm_sig_active())
			(void)*(volatile const char *)&ucp->uc_sigmask;
		r = real(old, ucp);
	} while (r < 0 && errno == EFAULT && xm_sig_active() && xm_ext_contains(ucp));
	return r;
}
