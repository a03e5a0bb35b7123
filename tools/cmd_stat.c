/*
 * cmd_stat - leasehold stat: what a mount knows of files and directories.
 */
#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tools/cmd.h"
#include "tools/xattr.h"

static const char *const names[] = { "cached", "ranges",  "lease", "change", "sealed",
				     "mode",   "fetched", "pin",   "rules" };

#define NAME_COUNT (sizeof(names) / sizeof(names[0]))

struct facts {
	struct stat stat;
	char *values[NAME_COUNT]; /* NULL: the mount has no such attribute for it */
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	bool *json = state->input;

	(void)arg;
	switch (key) {
	case 'j':
		*json = true;
		return 0;
	case ARGP_KEY_ARG:
		return ARGP_ERR_UNKNOWN; /* all of them are taken from ARGP_KEY_ARGS */
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "which file? Name a path on a mount");
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static void facts_finish(struct facts *facts)
{
	for (size_t i = 0; i < NAME_COUNT; i++)
		free(facts->values[i]);
}

static int facts_init(struct facts *facts, const char *path)
{
	int r;

	memset(facts, 0, sizeof(*facts));
	if (stat(path, &facts->stat) < 0)
		return -errno;
	/* The kernel asks for user.* attributes of files and directories only. */
	if (!S_ISREG(facts->stat.st_mode) && !S_ISDIR(facts->stat.st_mode))
		return -EINVAL;
	r = xattr_is_leasehold(path);
	if (r < 0)
		return r;
	for (size_t i = 0; i < NAME_COUNT; i++) {
		r = xattr_get(path, names[i], &facts->values[i]);
		if (r < 0 && r != -ENODATA) {
			facts_finish(facts);
			return r;
		}
	}
	return 0;
}

static const char *type_of(const struct facts *facts)
{
	return S_ISDIR(facts->stat.st_mode) ? "directory" : "file";
}

static void print_text(const char *path, const struct facts *facts)
{
	printf("path:    %s\n", path);
	printf("type:    %s\n", type_of(facts));
	printf("size:    %jd\n", (intmax_t)facts->stat.st_size);
	for (size_t i = 0; i < NAME_COUNT; i++) {
		const char *at = facts->values[i], *name = names[i];

		for (; at && (*at || name == names[i]); name = "") {
			size_t length = strcspn(at, "\n");

			printf("%s%s%*s%.*s\n", name, *name ? ":" : " ", (int)(8 - strlen(name)), "",
			       (int)length, at);
			at += length + (at[length] == '\n');
		}
	}
}

static json_t *facts_to_json(const char *path, const struct facts *facts)
{
	json_t *object = json_pack("{s:s, s:s, s:I}", "path", path, "type", type_of(facts), "size",
				   (json_int_t)facts->stat.st_size);

	for (size_t i = 0; object && i < NAME_COUNT; i++) {
		const char *value = facts->values[i];
		char *end;
		intmax_t number;

		if (!value)
			continue;
		number = strtoimax(value, &end, 10);
		/* Attributes are text; one that is a number alone is a number here. */
		json_object_set_new(object, names[i],
				    end != value && *end == '\0' ? json_integer(number) :
								   json_string(value));
	}
	return object;
}

static int print_path(const char *path, json_t *list)
{
	struct facts facts;
	int r = facts_init(&facts, path);

	if (r < 0) {
		fprintf(stderr, "leasehold stat: %s%s%s\n", path,
			r == -ENODATA || r == -EINVAL ? " is " : ": ",
			r == -ENODATA ? "not on a Leasehold mount" :
			r == -EINVAL  ? "neither a file nor a directory; only those are cached" :
					strerror(-r));
		return EXIT_FAILURE;
	}
	if (list)
		json_array_append_new(list, facts_to_json(path, &facts));
	else
		print_text(path, &facts);
	facts_finish(&facts);
	return EXIT_SUCCESS;
}

int cmd_stat(int argc, char **argv)
{
	static const struct argp_option rows[] = {
		{ "json", 'j', NULL, 0, "print a JSON object, or an array of them for several", 0 },
		{ 0 },
	};
	static const struct argp argp = {
		.options = rows,
		.parser = parse,
		.args_doc = "PATH ...",
		.doc = "Prints what a mount holds of files and directories: cached bytes and "
		       "ranges, lease, change.\vSee leasehold-stat(1).",
	};
	json_t *list = NULL;
	bool json = false;
	int status = EXIT_SUCCESS;
	int first;

	if (argp_parse(&argp, argc, argv, 0, &first, &json) != 0)
		return EXIT_USAGE;
	if (json)
		list = json_array();
	for (int i = first; i < argc; i++) {
		if (i > first && !json)
			putchar('\n');
		if (print_path(argv[i], list) != EXIT_SUCCESS)
			status = EXIT_FAILURE;
	}
	if (list) {
		if (argc - first > 1)
			json_dumpf(list, stdout, JSON_INDENT(2));
		else if (json_array_size(list) == 1)
			json_dumpf(json_array_get(list, 0), stdout, JSON_INDENT(2));
		if (argc - first > 1 || json_array_size(list) == 1)
			putchar('\n');
		json_decref(list);
	}
	return status;
}
