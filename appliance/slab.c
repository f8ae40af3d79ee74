/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slab.c - memory objects. Runs on the control thread's workers, the pool's thread and (unpopulated slabs) the tcp
 * thread; no locks. No sealing is allowed on the objects (memfd without MFD_ALLOW_SEALING): a seal
 * against shrinking would bind us as well, and truncation is how a freed slab is taken from those who map it.
 * A client can therefore truncate a slab of its own, and one that was freed is truncated while transfers under way still
 * hold it; the tcp thread expects that (serve_tcp.c).
 */
#include "appliance/slab.h"

#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <numa.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static int object_create(const struct xm_slab_kind *kind)
{
	unsigned flags = MFD_CLOEXEC;
	int fd;

	if (kind->huge_bytes)
		flags |= MFD_HUGETLB | (kind->huge_bytes == 1ull << 30 ? MFD_HUGE_1GB : MFD_HUGE_2MB);
	fd = memfd_create("xmem-slab", flags);
	if (fd < 0)
		return -errno;
	/* before anybody else can have it: a memfd is born 0777, and can be re-opened through /proc */
	if (fchmod(fd, 0600) < 0 || ftruncate(fd, (off_t)kind->bytes) < 0) {
		int err = errno;

		close(fd);
		return -err;
	}
	return fd;
}

static int populate_pages(struct xm_slab *s, const struct xm_slab_kind *kind)
{
	if (madvise(s->addr, s->bytes, MADV_POPULATE_WRITE) == 0)
		return 0;
	if (errno != EINVAL)
		return -ENOMEM;
	/* before Linux 5.14: reserve first, so that a shortage is an error here and no signal below */
	if (fallocate(s->fd, 0, 0, (off_t)s->bytes) < 0)
		return -ENOMEM;
	for (uint64_t off = 0; off < s->bytes; off += kind->huge_bytes ? kind->huge_bytes : XM_PAGE_SIZE)
		*(volatile uint8_t *)(s->addr + off) = 0;
	return 0;
}

int xm_slab_create(const struct xm_slab_kind *kind, bool populate, struct xm_slab **out)
{
	struct xm_slab *s = calloc(1, sizeof(*s));
	int ret = -ENOMEM;

	if (!s)
		return ret;
	s->bytes = kind->bytes;
	s->refs = 1;
	s->fd = object_create(kind);
	if (s->fd < 0) {
		ret = s->fd == -EMFILE || s->fd == -ENFILE ? -EMFILE : -ENOMEM;
		goto free_struct;
	}
	s->addr = mmap(NULL, s->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
	if (s->addr == MAP_FAILED)
		goto close_fd;
	madvise(s->addr, s->bytes, MADV_DONTDUMP);
	/* the policy belongs to the object: it holds for whoever touches a page first */
	if (kind->numa >= 0)
		numa_tonode_memory(s->addr, s->bytes, kind->numa);
	else if (kind->numa == XM_NUMA_INTERLEAVE)
		numa_interleave_memory(s->addr, s->bytes, numa_all_nodes_ptr);
	if (populate) {
		ret = populate_pages(s, kind);
		if (ret < 0)
			goto unmap;
	}
	*out = s;
	return 0;
unmap:
	munmap(s->addr, s->bytes);
close_fd:
	close(s->fd);
free_struct:
	free(s);
	return ret;
}

void xm_slab_cut(struct xm_slab *s)
{
	while (ftruncate(s->fd, 0) < 0 && errno == EINTR)
		;
}

void xm_slab_destroy(struct xm_slab *s)
{
	if (!s)
		return;
	xm_domain_deregister(s);
	munmap(s->addr, s->bytes);
	xm_slab_cut(s);
	close(s->fd);
	free(s);
}
