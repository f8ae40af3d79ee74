/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.c - messages of one line, and the formatter behind them.
 * Runs on any thread, in signal handlers and in the child of fork: a line is built in a buffer on
 * the caller's stack and written by one raw write(2), so that lines of several threads do not mix.
 * No lock, no allocation, no locale; errno is left alone. A line longer than the buffer is cut and
 * ends with "...". Control characters in the text (it may quote a peer or a file) are replaced, so
 * that a message cannot forge another line.
 */
#include "log.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "sys.h"
#include "util.h"

#define LINE_MAX_BYTES 1024
#define DIGITS_MAX 24 /* 2^64 in octal has 22 digits */

/* Each is set by relaxed stores and read by relaxed loads: a late reader uses the previous setting once. */
static const char *log_prefix = "xmem";
static int log_level = XM_LOG_WARN;
static int log_fd = 2;

static const char *const level_marks[] = { "error: ", "warning: ", "", "debug: " };

/* ---- formatter -------------------------------------------------------------------------------------- */

struct sink {
	char *buf;
	size_t size; /* including the terminator */
	size_t len;  /* wanted so far, may exceed size */
};

struct spec {
	bool left, zero, plus, space, alt;
	int width;
	int precision; /* -1: not given */
	int longs;     /* 0 int, 1 long (also z, j, t), 2 long long, -1 short, -2 char */
	char conv;
};

static void put(struct sink *s, char c)
{
	if (s->len + 1 < s->size)
		s->buf[s->len] = c;
	s->len++;
}

static void put_repeated(struct sink *s, char c, int n)
{
	while (n-- > 0)
		put(s, c);
}

static void put_text(struct sink *s, const struct spec *sp, const char *text, size_t len)
{
	int pad = sp->width > (int)len ? sp->width - (int)len : 0;
	size_t i;

	if (!sp->left)
		put_repeated(s, ' ', pad);
	for (i = 0; i < len; i++)
		put(s, text[i]);
	if (sp->left)
		put_repeated(s, ' ', pad);
}

static void put_number(struct sink *s, const struct spec *sp, uint64_t v, bool negative, unsigned base)
{
	const char *digits = sp->conv == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
	char tmp[DIGITS_MAX];
	char sign = negative ? '-' : sp->plus ? '+' : sp->space ? ' ' : 0;
	bool hex_mark = sp->alt && base == 16 && v != 0;
	int n = 0, zeros, body, pad;

	while (v) {
		tmp[n++] = digits[v % base];
		v /= base;
	}
	if (n == 0 && sp->precision != 0)
		tmp[n++] = '0';
	zeros = sp->precision > n ? sp->precision - n : 0;
	body = n + zeros + (sign ? 1 : 0) + (hex_mark ? 2 : 0);
	pad = sp->width > body ? sp->width - body : 0;
	if (sp->zero && !sp->left && sp->precision < 0) {
		zeros += pad;
		pad = 0;
	}
	if (!sp->left)
		put_repeated(s, ' ', pad);
	if (sign)
		put(s, sign);
	if (hex_mark) {
		put(s, '0');
		put(s, sp->conv == 'X' ? 'X' : 'x');
	}
	put_repeated(s, '0', zeros);
	while (n)
		put(s, tmp[--n]);
	if (sp->left)
		put_repeated(s, ' ', pad);
}

static const char *parse_flags(const char *f, struct spec *sp)
{
	for (;; f++) {
		switch (*f) {
		case '-': sp->left = true; break;
		case '0': sp->zero = true; break;
		case '+': sp->plus = true; break;
		case ' ': sp->space = true; break;
		case '#': sp->alt = true; break;
		default: return f;
		}
	}
}

static const char *parse_int(const char *f, int *out)
{
	int v = 0;

	for (; *f >= '0' && *f <= '9'; f++)
		v = v < 100000 ? v * 10 + (*f - '0') : v;
	*out = v;
	return f;
}

static const char *parse_length(const char *f, struct spec *sp)
{
	for (;; f++) {
		switch (*f) {
		case 'h': sp->longs--; break;
		case 'l': sp->longs++; break;
		case 'z':
		case 'j':
		case 't': sp->longs = 1; break;
		default: return f;
		}
	}
}

/* va_list is an array on this ABI and decays when passed on, hence the wrapper struct */
struct args {
	va_list ap;
};

static const char *parse_spec(const char *f, struct spec *sp, struct args *a)
{
	*sp = (struct spec){ .precision = -1 };
	f = parse_flags(f, sp);
	if (*f == '*') {
		sp->width = va_arg(a->ap, int);
		if (sp->width < 0) {
			sp->left = true;
			sp->width = sp->width == INT32_MIN ? 0 : -sp->width;
		}
		f++;
	} else {
		f = parse_int(f, &sp->width);
	}
	if (*f == '.') {
		if (f[1] == '*') {
			sp->precision = va_arg(a->ap, int);
			f += 2;
		} else {
			f = parse_int(f + 1, &sp->precision);
		}
	}
	f = parse_length(f, sp);
	sp->conv = *f;
	return f;
}

static int64_t next_signed(const struct spec *sp, struct args *a)
{
	if (sp->longs >= 2)
		return va_arg(a->ap, long long);
	if (sp->longs == 1)
		return va_arg(a->ap, long);
	if (sp->longs == -1)
		return (short)va_arg(a->ap, int);
	if (sp->longs <= -2)
		return (signed char)va_arg(a->ap, int);
	return va_arg(a->ap, int);
}

static uint64_t next_unsigned(const struct spec *sp, struct args *a)
{
	if (sp->longs >= 2)
		return va_arg(a->ap, unsigned long long);
	if (sp->longs == 1)
		return va_arg(a->ap, unsigned long);
	if (sp->longs == -1)
		return (unsigned short)va_arg(a->ap, unsigned);
	if (sp->longs <= -2)
		return (unsigned char)va_arg(a->ap, unsigned);
	return va_arg(a->ap, unsigned);
}

static void put_string(struct sink *s, const struct spec *sp, const char *text)
{
	size_t len;

	if (!text)
		text = "(null)";
	len = sp->precision >= 0 ? strnlen(text, (size_t)sp->precision) : strlen(text);
	put_text(s, sp, text, len);
}

/* false: a conversion that this subset lacks (its argument cannot be skipped safely) */
static bool convert(struct sink *s, struct spec *sp, struct args *a)
{
	int64_t sv;
	char c;

	switch (sp->conv) {
	case '%': put(s, '%'); return true;
	case 'c':
		c = (char)va_arg(a->ap, int);
		put_text(s, sp, &c, 1);
		return true;
	case 's': put_string(s, sp, va_arg(a->ap, const char *)); return true;
	case 'd':
	case 'i':
		sv = next_signed(sp, a);
		put_number(s, sp, sv < 0 ? -(uint64_t)sv : (uint64_t)sv, sv < 0, 10);
		return true;
	case 'u':
		sp->plus = sp->space = false;
		put_number(s, sp, next_unsigned(sp, a), false, 10);
		return true;
	case 'x':
	case 'X':
	case 'o':
		sp->plus = sp->space = false;
		put_number(s, sp, next_unsigned(sp, a), false, sp->conv == 'o' ? 8 : 16);
		return true;
	case 'p':
		put(s, '0');
		put(s, 'x');
		put_number(s, sp, (uintptr_t)va_arg(a->ap, void *), false, 16);
		return true;
	default: return false;
	}
}

int xm_vsnprintf(char *buf, size_t size, const char *fmt, va_list ap)
{
	struct sink s = { .buf = buf, .size = size };
	const char *f;
	struct spec sp;
	struct args a;

	va_copy(a.ap, ap);
	for (f = fmt; *f; f++) {
		const char *start = f;

		if (*f != '%') {
			put(&s, *f);
			continue;
		}
		f = parse_spec(f + 1, &sp, &a);
		if (*f && convert(&s, &sp, &a))
			continue;
		/* not ours: the rest of the format appears as it is written */
		for (f = start; *f; f++)
			put(&s, *f);
		break;
	}
	va_end(a.ap);
	if (size)
		buf[xm_min(s.len, size - 1)] = '\0';
	return s.len > INT32_MAX ? INT32_MAX : (int)s.len;
}

int xm_snprintf(char *buf, size_t size, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = xm_vsnprintf(buf, size, fmt, ap);
	va_end(ap);
	return n;
}

const char *xm_strerror(int err)
{
	const char *text = strerrordesc_np(err == INT32_MIN ? 0 : err < 0 ? -err : err);

	return text ? text : "unknown error";
}

/* ---- lines ------------------------------------------------------------------------------------------ */

void xm_log_init(const char *prefix, enum xm_log_level level)
{
	__atomic_store_n(&log_prefix, prefix, __ATOMIC_RELAXED);
	xm_log_set_level(level);
}

void xm_log_set_level(enum xm_log_level level)
{
	__atomic_store_n(&log_level, (int)level, __ATOMIC_RELAXED);
}

void xm_log_set_fd(int fd)
{
	__atomic_store_n(&log_fd, fd, __ATOMIC_RELAXED);
}

/* line holds `len` wanted bytes in a buffer of LINE_MAX_BYTES; adds the newline and writes it */
static void write_line(char *line, size_t len)
{
	int fd = xm_load_relaxed(&log_fd);
	size_t i;

	if (len > LINE_MAX_BYTES - 2) {
		len = LINE_MAX_BYTES - 2;
		memcpy(line + len - 3, "...", 3);
	}
	for (i = 0; i < len; i++) {
		unsigned char c = (unsigned char)line[i];

		if (c == '\n' || c == '\t')
			line[i] = ' ';
		else if (c < 0x20 || c == 0x7f)
			line[i] = '?';
	}
	while (len && line[len - 1] == ' ')
		len--;
	line[len++] = '\n';
	while (xm_sys_write(fd, line, len) == -EINTR)
		;
}

void xm_log(enum xm_log_level level, const char *fmt, ...)
{
	char line[LINE_MAX_BYTES];
	size_t head;
	va_list ap;
	int n;

	if ((int)level > xm_load_relaxed(&log_level))
		return;
	head = (size_t)xm_snprintf(line, sizeof(line) / 2, "%s: %s", xm_load_relaxed(&log_prefix),
				   level_marks[level]);
	head = xm_min(head, sizeof(line) / 2 - 1);
	va_start(ap, fmt);
	n = xm_vsnprintf(line + head, sizeof(line) - head, fmt, ap);
	va_end(ap);
	write_line(line, head + (size_t)n);
}

void xm_assert_fail(const char *what, const char *file, int line)
{
	char text[LINE_MAX_BYTES];
	int n = xm_snprintf(text, sizeof(text), "%s: bug: %s:%d: %s", xm_load_relaxed(&log_prefix), file,
			    line, what);

	write_line(text, (size_t)n);
	abort();
}
