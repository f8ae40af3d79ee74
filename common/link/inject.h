/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inject.h - a link that misbehaves on purpose, by a seed, around any other link.
 *
 * Specification: comma-separated items
 *   seed=N            default 1; the n-th link wrapped in a process uses seed + n
 *   delay=TIME:P      a completion is held back by TIME with probability P
 *   error=P           the operation does not happen and completes with -EIO
 *   disconnect=P      the link dies at this operation: everything in flight completes with -ENOLINK
 *   corrupt=P         one bit of the bytes that were read is flipped
 * Probabilities are decimal fractions from 0 to 1. direct() answers NULL, so that all reads pass here.
 */
#ifndef XM_INJECT_H
#define XM_INJECT_H

#include "link/link.h"

struct xm_inject_spec {
	uint64_t seed;
	uint64_t delay_ns;
	uint32_t delay, error, disconnect, corrupt; /* probabilities in units of 2^-32, saturated */
};

/* 0; -EINVAL: unknown item or malformed value */
int xm_inject_parse(const char *text, struct xm_inject_spec *out);
/* Takes ownership of `inner`, on success only. -EINVAL, -ENOMEM. Same rules as any link. */
int xm_inject_wrap(struct xm_link *inner, const char *spec, struct xm_link **out);

#endif
