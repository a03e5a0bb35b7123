/*
 * cmd_status - leasehold status: what a mount says of itself, for people or as JSON.
 *
 * The mount's root has the attribute system.leasehold.status, a JSON object, which is answered
 * without the origin. This prints what is in
 * it and knows no field by name, so that the daemon alone decides what there is to say: a name
 * that ends in "bytes" or has "bytes_" in it is a size, one in "milliseconds" a time.
 */
#include <argp.h>
#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cmd.h"
#include "tools/parse.h"
#include "tools/xattr.h"

#define COLUMN_BYTES 28

struct arguments {
	const char *path;
	bool json;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *arguments = state->input;

	switch (key) {
	case 'j':
		arguments->json = true;
		return 0;
	case ARGP_KEY_ARG:
		if (arguments->path)
			argp_error(state, "one mount at a time; '%s' is too many", arg);
		arguments->path = arg;
		return 0;
	case ARGP_KEY_END:
		if (!arguments->path)
			argp_error(state, "which mount? Name its mount point");
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static void print_name(const char *name, int depth)
{
	int width = printf("%*s", depth * 2, "");

	for (; *name; name++, width++)
		putchar(*name == '_' ? ' ' : *name);
	printf(":%*s", width < COLUMN_BYTES ? COLUMN_BYTES - width : 1, "");
}

static void print_number(const char *name, json_int_t number)
{
	size_t length = strlen(name);
	char text[PARSE_TEXT_BYTES_MAX];
	bool is_size = strstr(name, "bytes_") ||
		       (length >= 5 && strcmp(name + length - 5, "bytes") == 0);

	if (is_size && number >= 0) {
		print_bytes(text, (uint64_t)number);
		printf("%s\n", text);
	} else {
		printf("%" JSON_INTEGER_FORMAT "\n", number);
	}
}

static void print_object(json_t *object, int depth)
{
	const char *name;
	json_t *value;

	json_object_foreach(object, name, value) {
		char *text;

		print_name(name, depth);
		switch (json_typeof(value)) {
		case JSON_OBJECT:
			putchar('\n');
			if (depth < 4)
				print_object(value, depth + 1);
			break;
		case JSON_STRING:
			printf("%s\n", json_string_value(value));
			break;
		case JSON_INTEGER:
			print_number(name, json_integer_value(value));
			break;
		case JSON_REAL:
			printf("%.1f\n", json_real_value(value));
			break;
		case JSON_TRUE:
		case JSON_FALSE:
			puts(json_is_true(value) ? "yes" : "no");
			break;
		case JSON_ARRAY:
		case JSON_NULL:
			text = json_dumps(value, JSON_ENCODE_ANY);
			puts(text ? text : "?");
			free(text);
			break;
		}
	}
}

static int say_why_not(const char *path, int r)
{
	if (r == -ENODATA)
		fprintf(stderr, "leasehold status: %s is not on a Leasehold mount\n", path);
	else
		fprintf(stderr, "leasehold status: %s: %s\n", path, strerror(-r));
	return EXIT_FAILURE;
}

static int print_status(const char *text, bool as_json)
{
	json_error_t error;
	json_t *status = json_loads(text, 0, &error);

	if (!json_is_object(status)) {
		fprintf(stderr, "leasehold status: the mount's answer is not understood: %s\n",
			status ? "not an object" : error.text);
		json_decref(status);
		return EXIT_FAILURE;
	}
	if (as_json) {
		json_dumpf(status, stdout, JSON_INDENT(2));
		putchar('\n');
	} else {
		print_object(status, 0);
	}
	json_decref(status);
	return EXIT_SUCCESS;
}

int cmd_status(int argc, char **argv)
{
	static const struct argp_option rows[] = {
		{ "json", 'j', NULL, 0, "print a JSON object", 0 },
		{ 0 },
	};
	static const struct argp argp = {
		.options = rows,
		.parser = parse,
		.args_doc = "MOUNT",
		.doc = "Prints what a mount is doing: its origin, session, leases, cache and "
		       "counters.\vMOUNT is any path on the mount. See leasehold-status(1).",
	};
	struct arguments arguments = { 0 };
	char *root, *text;
	int r;

	if (argp_parse(&argp, argc, argv, 0, NULL, &arguments) != 0)
		return EXIT_USAGE;
	r = xattr_mount_root(arguments.path, &root);
	if (r < 0)
		return say_why_not(arguments.path, r);
	r = xattr_get_status(root, &text);
	free(root);
	if (r < 0)
		return say_why_not(arguments.path, r);
	r = print_status(text, arguments.json);
	free(text);
	return r;
}
