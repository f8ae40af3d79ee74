/* SPDX-License-Identifier: Apache-2.0 */
/* rdma_sysfs.h - what the kernel says of RDMA devices in /sys/class/infiniband. Any thread; no locks, no allocation. */
#ifndef XM_RDMA_SYSFS_H
#define XM_RDMA_SYSFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct xm_rdma_gid {
	uint8_t raw[16];
	bool roce_v2;
	char netdev[32]; /* "": not known */
};

/* First line of the file /sys/class/infiniband/FMT, without its end; "" and -errno when it cannot be read. */
int xm_rdma_file(char *buf, size_t size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
bool xm_rdma_port_exists(const char *device, int port);
/* false: the port is not active; *state then is what it is, "DOWN", and netdev (>= 32 bytes) its interface, or "". */
bool xm_rdma_port_active(const char *device, int port, char *state, size_t size, char *netdev);
/* 0; -ENOENT past the end of the table; -EINVAL nothing there */
int xm_rdma_gid(const char *device, int port, int index, struct xm_rdma_gid *out);
/* NUMA node of the device, -1: not known */
int xm_rdma_node(const char *device);
/* What the device has sent again, of all its connections, as far as its driver counts that. -1: it does not. */
int64_t xm_rdma_retries(const char *device, int port);

#endif
