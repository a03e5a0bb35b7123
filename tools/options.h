/*
 * options.h - the rows of the option tables (fs/origin/origin.h, fs/mount/mount.h) at run time.
 *
 * One description serves --NAME VALUE, -o NAME=VALUE and --help. Rows are constant; the struct
 * that they fill belongs to the caller, and the texts in it are borrowed from the command line,
 * except paths, which are made absolute (a daemon changes its directory) and live until exit.
 * One thread, at start.
 */
#ifndef TOOLS_OPTIONS_H
#define TOOLS_OPTIONS_H

#include <argp.h>
#include <stdbool.h>
#include <stddef.h>

#include "lease/base/types.h"

#define OPTIONS_ERROR_BYTES_MAX 256
/* argp keys of the rows: the first row has this one. Above every character. */
#define OPTIONS_KEY_FIRST 0x1000
#define OPTIONS_ROWS_MAX 64

enum option_kind {
	OPTION_TEXT,         /* const char *; with '|' in the metavar one of those words */
	OPTION_COUNT,        /* uint32_t, 1 or more */
	OPTION_BYTES,        /* uint64_t */
	OPTION_MILLISECONDS, /* uint64_t, 1 or more */
	OPTION_FLAG,         /* bool */
};

struct option_row {
	enum option_kind kind;
	const char *name;
	const char *metavar;
	const char *fallback; /* the default, as text */
	const char *text;
	size_t offset; /* of the field in the struct that the table describes */
};

struct option_table {
	const struct option_row *rows;
	size_t count;
};

extern const struct option_table origin_option_table; /* of struct origin_options */
extern const struct option_table mount_option_table;  /* of struct mount_options */

/* Fills `target` with the defaults. They are ours: one that does not parse aborts. */
void options_set_defaults(const struct option_table *table, void *target);

/* The row of that name, or of that argp key; NULL when there is none. */
const struct option_row *options_find(const struct option_table *table, const char *name);
const struct option_row *options_of_key(const struct option_table *table, int key);

/*
 * Sets one option from text; `value` is NULL for a flag. -EINVAL with a sentence in `error`, that
 * names the option and says what was expected.
 */
int options_set(const struct option_row *row, void *target, const char *value,
		char error[static OPTIONS_ERROR_BYTES_MAX]) MUST_CHECK;

/*
 * Sets what -o says: "name=value,name,...". Cuts `list` up in place; it must live on. With
 * `ignore_generic`, options that mount(8) and fstab carry for their own use are passed over, but for
 * what they say of a row that there is (rw of ro, user of nosuid, nodev and noexec).
 */
int options_set_list(const struct option_table *table, void *target, char *list,
		     bool ignore_generic, char error[static OPTIONS_ERROR_BYTES_MAX]) MUST_CHECK;

/*
 * argp's rows for a table, empty ones behind them: room for one more of the caller's and for the
 * empty one that ends them is left. The texts live until exit.
 */
void options_to_argp(const struct option_table *table,
		     struct argp_option out[static OPTIONS_ROWS_MAX]);

/* `path` seen from here, absolute, in memory that lives until exit. NULL: no memory. */
const char *options_absolute_path(const char *path);

#endif
