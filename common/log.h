/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.h - one line to stderr, formatted on the caller's stack and written with one write(2).
 * No malloc, no stdio, no locks: usable on runtime threads, in the child of fork and in signal handlers
 * (the formatter is our own subset of printf: %s %d %i %u %x %lu %ld %llu %lld %zu %zd %p %c %%, widths and
 * precision, %m is NOT supported: use xm_strerror).
 */
#ifndef XM_LOG_H
#define XM_LOG_H

#include <stdarg.h>
#include <stddef.h>

enum xm_log_level { XM_LOG_ERROR, XM_LOG_WARN, XM_LOG_INFO, XM_LOG_DEBUG };

/* prefix: "xmem-run", "xmem-appliance", "xmem"; stored by reference. Lines read "prefix: warning: text". */
void xm_log_init(const char *prefix, enum xm_log_level level);
void xm_log_set_level(enum xm_log_level level);
/* descriptor to write to, default 2 (the runtime keeps a private duplicate of stderr) */
void xm_log_set_fd(int fd);
void xm_log(enum xm_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define xm_err(...) xm_log(XM_LOG_ERROR, __VA_ARGS__)
#define xm_warn(...) xm_log(XM_LOG_WARN, __VA_ARGS__)
#define xm_info(...) xm_log(XM_LOG_INFO, __VA_ARGS__)
#define xm_debug(...) xm_log(XM_LOG_DEBUG, __VA_ARGS__)

/* snprintf without malloc or locale: always terminates, returns the length it wanted */
int xm_snprintf(char *buf, size_t size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int xm_vsnprintf(char *buf, size_t size, const char *fmt, va_list ap);
/* constant text for an errno value (positive or negative), async-signal-safe (strerrordesc_np) */
const char *xm_strerror(int err);

/* Cheap invariant, always on: "prefix: bug: FILE:LINE: text" and abort(). Never for input or exhaustion. */
#define xm_assert(c)                                                                                         \
	do {                                                                                                 \
		if (__builtin_expect(!(c), 0))                                                               \
			xm_assert_fail(#c, __FILE__, __LINE__);                                              \
	} while (0)
void xm_assert_fail(const char *what, const char *file, int line) __attribute__((noreturn));
#ifdef XM_CHECKED
#define xm_check(c) xm_assert(c)
#else
#define xm_check(c) ((void)sizeof(!(c)))
#endif

#endif
