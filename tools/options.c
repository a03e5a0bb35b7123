#include "tools/options.h"

#include <assert.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/mount/mount.h"
#include "fs/origin/origin.h"
#include "tools/parse.h"

#define OPTION_ROW(KIND, field, flag, metavar, fallback, text)                                  \
	{ OPTION_##KIND, flag, metavar, fallback, text, offsetof(struct OPTION_STRUCT, field) },

#define OPTION_STRUCT origin_options
static const struct option_row origin_rows[] = { ORIGIN_OPTIONS(OPTION_ROW) };
#undef OPTION_STRUCT

#define OPTION_STRUCT mount_options
static const struct option_row mount_rows[] = { MOUNT_OPTIONS(OPTION_ROW) };
#undef OPTION_STRUCT

#define ROW_COUNT(rows) (sizeof(rows) / sizeof((rows)[0]))
_Static_assert(ROW_COUNT(origin_rows) + 2 <= OPTIONS_ROWS_MAX, "argp rows of an origin fit");
_Static_assert(ROW_COUNT(mount_rows) + 2 <= OPTIONS_ROWS_MAX, "argp rows of a mount fit");

const struct option_table origin_option_table = { origin_rows, ROW_COUNT(origin_rows) };
const struct option_table mount_option_table = { mount_rows, ROW_COUNT(mount_rows) };

/* What mount(8), systemd and fstab put into -o for themselves, or what is always so on a Leasehold
   mount. remount is not in this list since passing over it would be a lie. */
static const char *const generic_options[] = {
	"rw",	       "defaults",     "auto",	       "noauto",  "user",	"users",
	"nouser",      "user=*",       "owner",	       "group",	  "nofail",	"_netdev",
	"x-*",	       "X-*",	       "comment=*",    "atime",	  "noatime",	"relatime",
	"norelatime",  "strictatime",  "nostrictatime", "diratime", "nodiratime", "lazytime",
	"nolazytime",  "suid",	       "dev",	       "exec",	  "async",	"dirsync",
	"silent",       "loud",	       "mand",	  "nomand",	"iversion",
	"noiversion",  "uhelper=*",    "helper=*",     "allow_other", "default_permissions",
};

/* Of these, what says something of rows of ours, as mount(8) means it: the last word counts. */
static const struct {
	const char *option, *row;
	bool on;
} generic_effects[] = {
	{ "rw", "ro", false },	      { "suid", "nosuid", false },     { "dev", "nodev", false },
	{ "exec", "noexec", false },  { "defaults", "ro", false },     { "defaults", "nosuid", false },
	{ "defaults", "nodev", false }, { "defaults", "noexec", false }, { "user", "nosuid", true },
	{ "user", "nodev", true },    { "user", "noexec", true },      { "users", "nosuid", true },
	{ "users", "nodev", true },   { "users", "noexec", true },     { "owner", "nosuid", true },
	{ "owner", "nodev", true },   { "group", "nosuid", true },     { "group", "nodev", true },
	{ "async", "sync", false },   { "defaults", "sync", false },
};

static void apply_generic(const struct option_table *table, void *target, const char *option)
{
	for (size_t i = 0; i < ROW_COUNT(generic_effects); i++) {
		const struct option_row *row = options_find(table, generic_effects[i].row);

		if (row && strcmp(option, generic_effects[i].option) == 0)
			*(bool *)((char *)target + row->offset) = generic_effects[i].on;
	}
}

static bool is_generic(const char *option)
{
	for (size_t i = 0; i < ROW_COUNT(generic_options); i++) {
		if (fnmatch(generic_options[i], option, 0) == 0)
			return true;
	}
	return false;
}

/* Memory for texts that live until exit, reachable from here so that no leak is reported. */
struct kept_text {
	struct kept_text *next;
	char text[];
};
static struct kept_text *kept_texts;

static char *keep_text(size_t bytes)
{
	struct kept_text *kept = malloc(sizeof(*kept) + bytes);

	if (!kept)
		return NULL;
	kept->next = kept_texts;
	kept_texts = kept;
	return kept->text;
}

const char *options_absolute_path(const char *path)
{
	char *directory, *text;
	size_t bytes;

	if (path[0] == '/')
		return path;
	directory = getcwd(NULL, 0);
	if (!directory)
		return NULL;
	bytes = strlen(directory) + 1 + strlen(path) + 1;
	text = keep_text(bytes);
	if (text)
		snprintf(text, bytes, "%s/%s", directory, path);
	free(directory);
	return text;
}

static bool is_one_of(const char *words, const char *value)
{
	size_t length = strlen(value);

	while (*words) {
		size_t word = strcspn(words, "|");

		if (word == length && memcmp(words, value, word) == 0)
			return true;
		words += word + (words[word] == '|');
	}
	return false;
}

static int set_text(const struct option_row *row, void *field, const char *value,
		    const char **ret_expected)
{
	bool is_path = strcmp(row->metavar, "DIR") == 0 || strcmp(row->metavar, "FILE") == 0;

	if (strchr(row->metavar, '|') && !is_one_of(row->metavar, value)) {
		*ret_expected = row->metavar;
		return -EINVAL;
	}
	if (is_path && value[0] != '\0') {
		value = options_absolute_path(value);
		if (!value) {
			*ret_expected = "a path, and the present directory must exist";
			return -EINVAL;
		}
	}
	*(const char **)field = value;
	return 0;
}

/* Parses into the field; on an error says what was expected. */
static int set_field(const struct option_row *row, void *field, const char *value,
		     const char **ret_expected)
{
	uint64_t number;

	switch (row->kind) {
	case OPTION_TEXT:
		return set_text(row, field, value, ret_expected);
	case OPTION_COUNT:
		*ret_expected = "a whole number from 1 to 4294967295";
		return parse_count(value, 1, UINT32_MAX, (uint32_t *)field);
	case OPTION_BYTES:
		*ret_expected = "a size such as 512M or 10G";
		return parse_bytes(value, (uint64_t *)field);
	case OPTION_MILLISECONDS:
		*ret_expected = "a time such as 500ms, 30s or 2m";
		if (parse_milliseconds(value, &number) < 0 || number == 0)
			return -EINVAL;
		*(uint64_t *)field = number;
		return 0;
	case OPTION_FLAG:
		break;
	}
	return -EINVAL;
}

int options_set(const struct option_row *row, void *target, const char *value,
		char error[static OPTIONS_ERROR_BYTES_MAX])
{
	void *field = (char *)target + row->offset;
	const char *expected = "";

	if (row->kind == OPTION_FLAG) {
		if (value) {
			snprintf(error, OPTIONS_ERROR_BYTES_MAX, "%s takes no value", row->name);
			return -EINVAL;
		}
		*(bool *)field = true;
		return 0;
	}
	if (!value) {
		snprintf(error, OPTIONS_ERROR_BYTES_MAX, "%s needs a value: %s=%s", row->name,
			 row->name, row->metavar);
		return -EINVAL;
	}
	if (set_field(row, field, value, &expected) < 0) {
		snprintf(error, OPTIONS_ERROR_BYTES_MAX, "%s: '%s' is not %s%s", row->name, value,
			 strchr(expected, '|') ? "one of " : "", expected);
		return -EINVAL;
	}
	return 0;
}

void options_set_defaults(const struct option_table *table, void *target)
{
	char error[OPTIONS_ERROR_BYTES_MAX];

	for (size_t i = 0; i < table->count; i++) {
		const struct option_row *row = &table->rows[i];
		int r;

		if (row->kind == OPTION_FLAG) {
			*(bool *)((char *)target + row->offset) = false;
			continue;
		}
		r = options_set(row, target, row->fallback, error);
		assert(r == 0);
		(void)r;
	}
}

const struct option_row *options_find(const struct option_table *table, const char *name)
{
	for (size_t i = 0; i < table->count; i++) {
		if (strcmp(table->rows[i].name, name) == 0)
			return &table->rows[i];
	}
	return NULL;
}

const struct option_row *options_of_key(const struct option_table *table, int key)
{
	size_t index = (size_t)key - OPTIONS_KEY_FIRST;

	return key >= OPTIONS_KEY_FIRST && index < table->count ? &table->rows[index] : NULL;
}

int options_set_list(const struct option_table *table, void *target, char *list,
		     bool ignore_generic, char error[static OPTIONS_ERROR_BYTES_MAX])
{
	char *rest = list;
	char *option;
	int r;

	while ((option = strsep(&rest, ",")) != NULL) {
		const struct option_row *row;
		char *value;

		if (option[0] == '\0')
			continue;
		if (ignore_generic && is_generic(option)) {
			apply_generic(table, target, option);
			continue;
		}
		value = strchr(option, '=');
		if (value)
			*value++ = '\0';
		row = options_find(table, option);
		if (!row) {
			snprintf(error, OPTIONS_ERROR_BYTES_MAX,
				 "-o %s is not known; 'leasehold mount --help' lists the options",
				 option);
			return -EINVAL;
		}
		r = options_set(row, target, value, error);
		if (r < 0)
			return r;
	}
	return 0;
}

void options_to_argp(const struct option_table *table,
		     struct argp_option out[static OPTIONS_ROWS_MAX])
{
	memset(out, 0, sizeof(out[0]) * OPTIONS_ROWS_MAX);
	for (size_t i = 0; i < table->count; i++) {
		const struct option_row *row = &table->rows[i];
		bool has_default = row->kind != OPTION_FLAG && row->fallback[0] != '\0';
		const char *doc = row->text;

		if (has_default) {
			size_t bytes = strlen(row->text) + strlen(row->fallback) + 16;
			char *text = keep_text(bytes);

			if (text) {
				snprintf(text, bytes, "%s (default %s)", row->text, row->fallback);
				doc = text;
			}
		}
		out[i].name = row->name;
		out[i].key = OPTIONS_KEY_FIRST + (int)i;
		out[i].arg = row->kind == OPTION_FLAG ? NULL : row->metavar;
		out[i].doc = doc;
	}
}
