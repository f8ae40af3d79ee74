/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opt.c - options by table, from the command line and from an INI file (libinih). Runs once at the
 * start of a program, on its only thread. Errors are one line on descriptor 2. The command line
 * allocates nothing; values of the file are duplicated on the heap and stay for the life of the
 * program. Accepted: --name=value, --name value, --flag, --no-flag, -x value, -xvalue, -abc (flags
 * together).
 *
 * libinih is fed through our own reader: it counts lines (the handler is not told them), refuses a
 * line that does not fit libinih's buffer instead of cutting it, and strips leading blanks, which
 * libinih would take for the continuation of the previous value.
 */
#include "opt.h"

#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "sys.h"
#include "units.h"
#include "util.h"

#ifndef XM_VERSION
#define XM_VERSION "0.1.0"
#endif

#define NAME_MAX_BYTES 64
#define WHY_BYTES 256

static void write_all(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = xm_sys_write(fd, text, len);

		if (n == -EINTR)
			continue;
		if (n <= 0)
			return;
		text += n;
		len -= (size_t)n;
	}
}

static void complain(const struct xm_opt_program *prog, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* one line to descriptor 2 */
static void complain(const struct xm_opt_program *prog, const char *fmt, ...)
{
	char line[1024];
	va_list ap;
	size_t n;

	n = (size_t)xm_snprintf(line, sizeof(line) / 2, "%s: error: ", prog->name);
	va_start(ap, fmt);
	n += (size_t)xm_vsnprintf(line + n, sizeof(line) - 1 - n, fmt, ap);
	va_end(ap);
	n = xm_min(n, sizeof(line) - 2);
	line[n++] = '\n';
	write_all(2, line, n);
}

/* the entry of exactly that long name, or NULL */
static const struct xm_opt *find_name(const struct xm_opt *opts, const char *name, size_t len)
{
	const struct xm_opt *o;

	for (o = opts; o->name; o++)
		if (strlen(o->name) == len && memcmp(o->name, name, len) == 0)
			return o;
	return NULL;
}

static const struct xm_opt *find_letter(const struct xm_opt *opts, char letter)
{
	const struct xm_opt *o;

	for (o = opts; o->name; o++)
		if (o->letter == letter)
			return o;
	return NULL;
}

/* Levenshtein distance; both shorter than NAME_MAX_BYTES */
static unsigned edit_distance(const char *a, size_t a_len, const char *b, size_t b_len)
{
	unsigned row[NAME_MAX_BYTES];
	size_t i, j;

	for (j = 0; j <= b_len; j++)
		row[j] = (unsigned)j;
	for (i = 1; i <= a_len; i++) {
		unsigned diagonal = row[0];

		row[0] = (unsigned)i;
		for (j = 1; j <= b_len; j++) {
			unsigned above = row[j];
			unsigned best = diagonal + (a[i - 1] != b[j - 1]);

			best = xm_min(best, above + 1);
			best = xm_min(best, row[j - 1] + 1);
			row[j] = best;
			diagonal = above;
		}
	}
	return row[b_len];
}

/* the known long name nearest to a misspelt one, or NULL when none is near */
static const char *nearest(const struct xm_opt *opts, const char *name, size_t len)
{
	const char *best_name = NULL;
	unsigned best = UINT32_MAX;
	const struct xm_opt *o;

	if (len == 0 || len >= NAME_MAX_BYTES)
		return NULL;
	for (o = opts; o->name; o++) {
		size_t o_len = strlen(o->name);
		unsigned d;

		if (o_len >= NAME_MAX_BYTES)
			continue;
		/* an abbreviation is as near as one slip */
		if (len >= 2 && o_len > len && memcmp(o->name, name, len) == 0)
			d = 1;
		else
			d = edit_distance(name, len, o->name, o_len);
		if (d < best) {
			best = d;
			best_name = o->name;
		}
	}
	/* more than half of it wrong is another word */
	return best <= xm_max(len / 2, (size_t)1) ? best_name : NULL;
}

/* ---- values ----------------------------------------------------------------------------------------- */

static int set_flag(const struct xm_opt *o, const char *text, char *why)
{
	static const char *const words[] = { "no", "yes", "off", "on", "false", "true", "0", "1" };
	unsigned i;

	for (i = 0; i < XM_ARRAY_SIZE(words); i++) {
		if (strcmp(text, words[i]) == 0) {
			*(bool *)o->var = i & 1;
			return 0;
		}
	}
	xm_snprintf(why, WHY_BYTES, "'%.60s' is neither yes nor no", text);
	return -EINVAL;
}

/* in the unit in which it is a whole number, as it would be written */
static void range_time(uint64_t ns, char *buf, size_t len)
{
	static const struct {
		const char *name;
		uint64_t ns;
	} units[] = { { "h", 3600000000000ull }, { "m", 60000000000ull }, { "s", 1000000000 },
		      { "ms", 1000000 },	 { "us", 1000 },	  { "ns", 1 } };
	unsigned i = 0;

	while (ns % units[i].ns)
		i++;
	xm_snprintf(buf, len, "%llu%s", (unsigned long long)(ns / units[i].ns), ns ? units[i].name : "");
}

static void range_text(const struct xm_opt *o, uint64_t v, char *buf, size_t len)
{
	if (o->type == XM_OPT_SIZE)
		xm_format_size(v, buf, len);
	else if (o->type == XM_OPT_TIME)
		range_time(v, buf, len);
	else
		xm_snprintf(buf, len, "%llu", (unsigned long long)v);
}

static int set_number(const struct xm_opt *o, const char *text, char *why)
{
	uint64_t max = o->max ? o->max : UINT64_MAX;
	const char *want;
	char low[32], high[32];
	uint64_t v = 0;
	int ret;

	switch (o->type) {
	case XM_OPT_SIZE:
		ret = xm_parse_size(text, o->percent_of ? o->percent_of() : 0, &v);
		want = o->percent_of ? "a size (want e.g. 256M, 1.5G or 25%)"
				     : "a size (want e.g. 256M or 1.5G)";
		break;
	case XM_OPT_TIME:
		ret = xm_parse_time(text, &v);
		want = "a time (want e.g. 500us, 10ms or 2.5s)";
		break;
	default:
		ret = xm_parse_u64(text, 0, UINT64_MAX, &v);
		want = "a number (want e.g. 16)";
		break;
	}
	if (ret == -EINVAL) {
		xm_snprintf(why, WHY_BYTES, "'%.60s' is not %s", text, want);
		return -EINVAL;
	}
	if (ret == 0 && v >= o->min && v <= max) {
		*(uint64_t *)o->var = v;
		return 0;
	}
	range_text(o, o->min, low, sizeof(low));
	range_text(o, max, high, sizeof(high));
	if (o->max)
		xm_snprintf(why, WHY_BYTES, "'%.60s' is out of range (want %s to %s)", text, low, high);
	else if (ret)
		xm_snprintf(why, WHY_BYTES, "'%.60s' is too large", text);
	else
		xm_snprintf(why, WHY_BYTES, "'%.60s' is out of range (want at least %s)", text, low);
	return -EINVAL;
}

static int set_enum(const struct xm_opt *o, const char *text, char *why)
{
	size_t n;
	int i;

	for (i = 0; o->names[i]; i++) {
		if (strcmp(text, o->names[i]) == 0) {
			*(int *)o->var = i;
			return 0;
		}
	}
	n = (size_t)xm_snprintf(why, WHY_BYTES, "'%.60s' is none of", text);
	for (i = 0; o->names[i] && n < WHY_BYTES; i++)
		n += (size_t)xm_snprintf(why + n, WHY_BYTES - n, "%s %s", i ? "," : "", o->names[i]);
	return -EINVAL;
}

static int set_list(const struct xm_opt *o, const char *text, char *why)
{
	struct xm_opt_list *list = o->var;

	if (list->n >= XM_OPT_LIST_MAX) {
		xm_snprintf(why, WHY_BYTES, "given more than %d times", XM_OPT_LIST_MAX);
		return -EINVAL;
	}
	list->v[list->n++] = text;
	return 0;
}

/* Stores text (by reference) as the value. 0; -EINVAL and why (WHY_BYTES) filled. */
static int set_value(const struct xm_opt *o, const char *text, char *why)
{
	switch (o->type) {
	case XM_OPT_FLAG: return set_flag(o, text, why);
	case XM_OPT_STRING:
	case XM_OPT_OPTIONAL_STRING: *(const char **)o->var = text; return 0;
	case XM_OPT_SIZE:
	case XM_OPT_TIME:
	case XM_OPT_U64: return set_number(o, text, why);
	case XM_OPT_ENUM: return set_enum(o, text, why);
	case XM_OPT_LIST: return set_list(o, text, why);
	}
	xm_snprintf(why, WHY_BYTES, "is of an unknown type");
	return -EINVAL;
}

/* ---- command line ----------------------------------------------------------------------------------- */

/* where the parser is in argv */
struct cursor {
	const struct xm_opt_program *prog;
	int argc, i;
	char **argv;
};

static void answer_version(const struct xm_opt_program *prog)
{
	char line[128];
	int n = xm_snprintf(line, sizeof(line), "%s %s\n", prog->name, XM_VERSION);

	write_all(1, line, (size_t)xm_min(n, (int)sizeof(line) - 1));
}

/* label: "--local" or "-l"; text NULL: take the next word where the type wants a value */
static int apply(struct cursor *c, const struct xm_opt *o, const char *label, const char *text)
{
	char why[WHY_BYTES];
	int ret;

	if (!text && o->type == XM_OPT_FLAG)
		text = "yes";
	else if (!text && o->type == XM_OPT_OPTIONAL_STRING)
		text = "";
	else if (!text) {
		if (c->i + 1 >= c->argc) {
			complain(c->prog, "%s: wants a value (%s)", label,
				 o->value_name ? o->value_name : "VALUE");
			return -EINVAL;
		}
		text = c->argv[++c->i];
	}
	ret = set_value(o, text, why);
	if (ret)
		complain(c->prog, "%s: %s", label, why);
	return ret;
}

static int unknown(const struct cursor *c, const char *word, size_t name_len)
{
	const char *near = nearest(c->prog->opts, word + 2, name_len);

	if (near)
		complain(c->prog, "unknown option '%.*s' (did you mean --%s?)", (int)name_len + 2, word, near);
	else
		complain(c->prog, "unknown option '%.*s' (%s --help lists them)", (int)name_len + 2, word,
			 c->prog->name);
	return -EINVAL;
}

static int parse_long(struct cursor *c)
{
	const char *word = c->argv[c->i];
	const char *name = word + 2;
	const char *value = strchr(name, '=');
	size_t len = value ? (size_t)(value - name) : strlen(name);
	char label[NAME_MAX_BYTES + 8];
	const struct xm_opt *o = find_name(c->prog->opts, name, len);

	xm_snprintf(label, sizeof(label), "--%.*s", (int)xm_min(len, (size_t)NAME_MAX_BYTES), name);
	if (o)
		return apply(c, o, label, value ? value + 1 : NULL);
	if (strcmp(name, "help") == 0) {
		xm_opt_help(c->prog, 1);
		return 1;
	}
	if (strcmp(name, "version") == 0) {
		answer_version(c->prog);
		return 1;
	}
	if (len > 3 && memcmp(name, "no-", 3) == 0) {
		o = find_name(c->prog->opts, name + 3, len - 3);
		if (o && o->type == XM_OPT_FLAG && !value) {
			*(bool *)o->var = false;
			return 0;
		}
		if (o && o->type == XM_OPT_FLAG) {
			complain(c->prog, "%s: takes no value", label);
			return -EINVAL;
		}
	}
	return unknown(c, word, len);
}

/* one word of short options: -v, -vq, -x value, -xvalue */
static int parse_short(struct cursor *c)
{
	const char *p = c->argv[c->i] + 1;
	int ret;

	for (; *p; p++) {
		const struct xm_opt *o = find_letter(c->prog->opts, *p);
		char label[3] = { '-', *p, '\0' };

		if (!o && *p == 'h') {
			xm_opt_help(c->prog, 1);
			return 1;
		}
		if (!o) {
			complain(c->prog, "unknown option '-%c' (%s --help lists them)", *p, c->prog->name);
			return -EINVAL;
		}
		if (o->type != XM_OPT_FLAG)
			return apply(c, o, label, p[1] ? p + 1 : NULL);
		ret = apply(c, o, label, NULL);
		if (ret)
			return ret;
	}
	return 0;
}

int xm_opt_parse(const struct xm_opt_program *prog, int argc, char **argv, int *first_word)
{
	struct cursor c = { .prog = prog, .argc = argc, .i = 1, .argv = argv };
	int ret;

	for (; c.i < argc; c.i++) {
		const char *word = argv[c.i];

		if (word[0] != '-' || word[1] == '\0')
			break;
		if (strcmp(word, "--") == 0) {
			c.i++;
			break;
		}
		ret = word[1] == '-' ? parse_long(&c) : parse_short(&c);
		if (ret)
			return ret;
	}
	*first_word = xm_min(c.i, argc);
	return 0;
}

/* ---- configuration file ------------------------------------------------------------------------------ */

struct source {
	const struct xm_opt_program *prog;
	FILE *f;
	int line;	/* the one being handled */
	int error_line; /* of `why`, the first error; 0: none */
	char why[WHY_BYTES];
};

static int refuse(struct source *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* remembers the first error; always 0, which libinih takes as "refused" */
static int refuse(struct source *s, const char *fmt, ...)
{
	va_list ap;

	if (!s->error_line) {
		s->error_line = s->line;
		va_start(ap, fmt);
		xm_vsnprintf(s->why, sizeof(s->why), fmt, ap);
		va_end(ap);
	}
	return 0;
}

static char *read_line(char *buf, int size, void *arg)
{
	struct source *s = arg;
	size_t len, blanks;

	if (!fgets(buf, size, s->f))
		return NULL;
	s->line++;
	len = strlen(buf);
	if (len == (size_t)size - 1 && buf[len - 1] != '\n' && !feof(s->f)) {
		refuse(s, "longer than %d characters", size - 2);
		return NULL;
	}
	blanks = strspn(buf, " \t");
	memmove(buf, buf + blanks, len - blanks + 1);
	if (buf[0] == '[')
		refuse(s, "sections are not used here");
	return buf;
}

/* Values that settings point to, each text once, for as long as the process lives: a daemon that reads its file
 * again and again does not grow by it. NULL: out of memory. */
static char *keep(const char *value)
{
	static struct text {
		struct text *next;
		char bytes[];
	} * texts;
	size_t size = strlen(value) + 1;
	struct text *t;

	for (t = texts; t; t = t->next)
		if (strcmp(t->bytes, value) == 0)
			return t->bytes;
	t = malloc(sizeof(*t) + size);
	if (!t)
		return NULL;
	memcpy(t->bytes, value, size);
	t->next = texts;
	texts = t;
	return t->bytes;
}

static int handle(void *arg, const char *section, const char *name, const char *value)
{
	struct source *s = arg;
	char why[WHY_BYTES];
	const struct xm_opt *o;
	const char *near;
	char *copy;

	if (s->error_line)
		return 0;
	o = find_name(s->prog->opts, name, strlen(name));
	if (!o) {
		near = nearest(s->prog->opts, name, strlen(name));
		if (near)
			return refuse(s, "unknown key '%.60s' (did you mean %s?)", name, near);
		return refuse(s, "unknown key '%.60s'", name);
	}
	if (o->command_line_only)
		return refuse(s, "'%s' is for the command line only", name);
	copy = keep(value ? value : "");
	if (!copy)
		return refuse(s, "%s: out of memory", name);
	if (set_value(o, copy, why))
		return refuse(s, "%s: %s", name, why);
	return 1;
}

int xm_opt_parse_file(const struct xm_opt_program *prog, const char *path)
{
	struct source s = { .prog = prog };
	int ret, bad;

	s.f = fopen(path, "re");
	if (!s.f) {
		ret = -errno;
		if (ret != -ENOENT)
			complain(prog, "%s: %s", path, xm_strerror(ret));
		return ret;
	}
	bad = ini_parse_stream(read_line, &s, handle, &s);
	ret = -EINVAL;
	if (ferror(s.f)) {
		ret = -EIO;
		complain(prog, "%s: cannot be read", path);
	} else if (s.error_line && (bad <= 0 || s.error_line <= bad)) {
		complain(prog, "%s:%d: %s", path, s.error_line, s.why);
	} else if (bad > 0) {
		complain(prog, "%s:%d: not NAME = VALUE", path, bad);
	} else if (bad < 0) {
		ret = -ENOMEM;
		complain(prog, "%s: out of memory", path);
	} else {
		ret = 0;
	}
	fclose(s.f);
	return ret;
}

/* ---- help ------------------------------------------------------------------------------------------- */

#define HELP_COLUMN 30
#define HELP_WIDTH 80

/* text wrapped at HELP_WIDTH; `at` is the column where the cursor stands, `indent` where lines start */
static void write_wrapped(int fd, const char *text, size_t at, size_t indent)
{
	while (*text) {
		size_t word = strcspn(text, " \n");

		if (at > indent && at + 1 + word > HELP_WIDTH) {
			write_all(fd, "\n", 1);
			at = 0;
		} else if (at > indent) {
			write_all(fd, " ", 1);
			at++;
		}
		for (; at < indent; at++)
			write_all(fd, " ", 1);
		write_all(fd, text, word);
		at += word;
		text += word;
		if (*text == '\n') {
			write_all(fd, "\n", 1);
			at = 0;
		}
		text += strspn(text, " \n");
	}
	if (at)
		write_all(fd, "\n", 1);
}

static void help_one(int fd, char letter, const char *name, const struct xm_opt *o, const char *help)
{
	const char *value = o && o->value_name ? o->value_name : "VALUE";
	char head[160];
	size_t n;

	n = letter ? (size_t)xm_snprintf(head, sizeof(head), "  -%c, --", letter)
		   : (size_t)xm_snprintf(head, sizeof(head), "      --");
	if (!o)
		n += (size_t)xm_snprintf(head + n, sizeof(head) - n, "%s", name);
	else if (o->type == XM_OPT_FLAG)
		n += (size_t)xm_snprintf(head + n, sizeof(head) - n, "[no-]%s", name);
	else if (o->type == XM_OPT_OPTIONAL_STRING)
		n += (size_t)xm_snprintf(head + n, sizeof(head) - n, "%s[=%s]", name, value);
	else
		n += (size_t)xm_snprintf(head + n, sizeof(head) - n, "%s=%s", name, value);
	n = xm_min(n, sizeof(head) - 1);
	write_all(fd, head, n);
	if (n + 2 > HELP_COLUMN) {
		write_all(fd, "\n", 1);
		n = 0;
	}
	for (; n < HELP_COLUMN; n++)
		write_all(fd, " ", 1);
	write_wrapped(fd, help, HELP_COLUMN, HELP_COLUMN);
}

void xm_opt_help(const struct xm_opt_program *prog, int fd)
{
	const struct xm_opt *o;
	char usage[256];
	int n;

	n = xm_snprintf(usage, sizeof(usage), "usage: %s %s\n", prog->name, prog->synopsis);
	write_all(fd, usage, (size_t)xm_min(n, (int)sizeof(usage) - 1));
	if (prog->summary)
		write_wrapped(fd, prog->summary, 0, 0);
	write_all(fd, "\noptions:\n", 10);
	for (o = prog->opts; o->name; o++)
		if (o->help)
			help_one(fd, o->letter, o->name, o, o->help);
	if (!find_name(prog->opts, "help", 4))
		help_one(fd, find_letter(prog->opts, 'h') ? 0 : 'h', "help", NULL, "print this and exit");
	if (!find_name(prog->opts, "version", 7))
		help_one(fd, 0, "version", NULL, "print the version and exit");
	if (prog->epilog) {
		write_all(fd, "\n", 1);
		write_all(fd, prog->epilog, strlen(prog->epilog));
		if (*prog->epilog && prog->epilog[strlen(prog->epilog) - 1] != '\n')
			write_all(fd, "\n", 1);
	}
}
