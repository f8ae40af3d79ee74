/* SPDX-License-Identifier: Apache-2.0 */
/* util.h - macros and tiny inline helpers used everywhere; no state. */
#ifndef XM_UTIL_H
#define XM_UTIL_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define XM_PAGE_SHIFT 12
#define XM_PAGE_SIZE 4096ull

#define xm_min(a, b) ((a) < (b) ? (a) : (b))
#define xm_max(a, b) ((a) > (b) ? (a) : (b))
#define xm_likely(x) __builtin_expect(!!(x), 1)
#define xm_unlikely(x) __builtin_expect(!!(x), 0)
#define XM_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define xm_container_of(p, type, member) ((type *)((char *)(p)-offsetof(type, member)))

#define xm_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define xm_load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define xm_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define xm_add(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)
#define xm_sub(p, v) __atomic_fetch_sub((p), (v), __ATOMIC_RELAXED)

static inline uint64_t xm_round_up(uint64_t v, uint64_t unit)
{
	return (v + unit - 1) / unit * unit;
}

static inline uint64_t xm_round_down(uint64_t v, uint64_t unit)
{
	return v / unit * unit;
}

/* CLOCK_MONOTONIC in nanoseconds; async-signal-safe (vDSO). */
static inline uint64_t xm_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

/* What the calling thread has used: other programs on a busy machine do not show in it. A system call. */
static inline uint64_t xm_thread_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static inline void xm_cpu_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#endif
}

#endif
