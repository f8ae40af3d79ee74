/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opt.h - the options of a program as one table: command line, configuration file and --help come from it.
 * A program declares a const array of struct xm_opt that ends with a zeroed entry. Parsing stops at "--" or
 * at the first word that is no option. Every error is one line: "prog: error: --local: '12Q' is not a size
 * (want e.g. 256M, 1.5G or 25%)"; an unknown option names the nearest known one.
 */
#ifndef XM_OPT_H
#define XM_OPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum xm_opt_type {
	XM_OPT_FLAG,	/* bool *: --name, --no-name */
	XM_OPT_STRING,	/* const char ** */
	XM_OPT_SIZE,	/* uint64_t * bytes; percent of xm_opt.percent_of() where that is given */
	XM_OPT_TIME,	/* uint64_t * ns */
	XM_OPT_U64,	/* uint64_t * */
	XM_OPT_ENUM,	/* int *: index into xm_opt.names (NULL-terminated) */
	XM_OPT_LIST,	/* struct xm_opt_list *: may be given several times */
	XM_OPT_OPTIONAL_STRING, /* const char **: --name or --name=VALUE; "" when given without a value */
};

#define XM_OPT_LIST_MAX 32
struct xm_opt_list {
	int n;
	const char *v[XM_OPT_LIST_MAX];
};

struct xm_opt {
	const char *name;      /* long name without "--" */
	char letter;	       /* short name or 0 */
	enum xm_opt_type type;
	void *var;
	const char *value_name; /* for --help: "SIZE" */
	const char *help;	/* one line with unit and default */
	uint64_t min, max;	/* for SIZE, TIME, U64; max 0: no bound */
	uint64_t (*percent_of)(void);
	const char *const *names;
	bool command_line_only; /* not a key of the configuration file */
};

struct xm_opt_program {
	const char *name;	/* "xmem-run" */
	const char *synopsis;	/* text after the name in "usage:" */
	const char *summary;	/* a sentence or two */
	const char *epilog;	/* examples; may be NULL */
	const struct xm_opt *opts;
};

/* 0 and *first_word = index of the first non-option; 1: --help or --version was answered (exit 0);
 * -EINVAL: one line was printed. Strings are stored by reference into argv. */
int xm_opt_parse(const struct xm_opt_program *prog, int argc, char **argv, int *first_word);
/* INI file with the same names and no sections (libinih). Unknown key, malformed value or line: one line
 * "prog: error: FILE:LINE: ..." and -EINVAL. -ENOENT when the file does not exist (silent). Strings are duplicated. */
int xm_opt_parse_file(const struct xm_opt_program *prog, const char *path);
void xm_opt_help(const struct xm_opt_program *prog, int fd);

#endif
