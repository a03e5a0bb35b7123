/*
 * cmd_origin - leasehold origin: the command line of an origin.
 */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/origin/origin.h"
#include "tools/cmd.h"
#include "tools/options.h"

#define EXPORT_NAME_BYTES_MAX 64
#define KEY_EXPORT 'e'

/* Static, so that what it points to is in use until exit. */
static struct origin_options options;

/* Names stand in URLs and in paths of the protocol as they are. */
static bool is_export_name(const char *name)
{
	size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyz"
				     "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");

	return length > 0 && length <= EXPORT_NAME_BYTES_MAX && name[length] == '\0' &&
	       name[0] != '.';
}

static void add_export(struct argp_state *state, const struct origin_export *export)
{
	if (!is_export_name(export->name))
		argp_error(state,
			   "'%s' is not a name for an export (letters, digits, '.', '_', '-', at "
			   "most %d); name it: --export NAME=%s",
			   export->name, EXPORT_NAME_BYTES_MAX, export->directory);
	for (uint32_t i = 0; i < options.export_count; i++) {
		if (strcmp(options.exports[i].name, export->name) == 0)
			argp_error(state, "two exports have the name '%s'", export->name);
	}
	if (options.export_count == ORIGIN_EXPORTS_MAX)
		argp_error(state, "more than %d exports", ORIGIN_EXPORTS_MAX);
	options.exports[options.export_count++] = *export;
}

/* NAME=DIR[,ro][,root_squash][,hosts=NAME:NAME]; cuts `text` up. */
static void parse_export(struct argp_state *state, char *text)
{
	struct origin_export export = { .name = text };
	char *directory = strchr(text, '=');
	char *rest, *word;

	if (!directory || directory[1] == '\0' || directory[1] == ',')
		argp_error(state, "--export: '%s' is not NAME=DIR[,ro][,root_squash][,hosts=A:B]",
			   text);
	*directory++ = '\0';
	rest = directory;
	strsep(&rest, ",");
	export.directory = options_absolute_path(directory);
	while ((word = strsep(&rest, ",")) != NULL) {
		if (strcmp(word, "ro") == 0)
			export.read_only = true;
		else if (strcmp(word, "root_squash") == 0)
			export.root_squash = true;
		else if (strncmp(word, "hosts=", 6) == 0 && word[6] != '\0')
			export.hosts = word + 6;
		else
			argp_error(state,
				   "--export %s: '%s' is none of ro, root_squash, hosts=NAME:NAME",
				   export.name, word);
	}
	add_export(state, &export);
}

/*
 * A directory without a name: "default" when it is the only export, else its last component.
 * argp hands over positional arguments last, so all --export are known by now.
 */
static void add_directories(struct argp_state *state, char **directories, int count)
{
	for (int i = 0; i < count; i++) {
		struct origin_export export = { .name = "default" };
		char *end = directories[i] + strlen(directories[i]);

		if (end == directories[i])
			argp_error(state, "the directory to export has an empty name");
		while (end > directories[i] + 1 && end[-1] == '/')
			*--end = '\0';
		export.directory = options_absolute_path(directories[i]);
		if (count > 1 || options.export_count > 0) {
			const char *slash = strrchr(directories[i], '/');

			export.name = slash ? slash + 1 : directories[i];
		}
		add_export(state, &export);
	}
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	char error[OPTIONS_ERROR_BYTES_MAX];
	const struct option_row *row;

	switch (key) {
	case KEY_EXPORT:
		parse_export(state, arg);
		return 0;
	case ARGP_KEY_ARGS:
		add_directories(state, state->argv + state->next, state->argc - state->next);
		return 0;
	case ARGP_KEY_END:
		if (options.export_count == 0)
			argp_error(state, "nothing to export: name a directory");
		return 0;
	}
	row = options_of_key(&origin_option_table, key);
	if (!row)
		return ARGP_ERR_UNKNOWN;
	if (options_set(row, &options, arg, error) < 0)
		argp_error(state, "--%s", error);
	return 0;
}

int cmd_origin(int argc, char **argv)
{
	static struct argp_option rows[OPTIONS_ROWS_MAX];
	static const struct argp argp = {
		.options = rows,
		.parser = parse,
		.args_doc = "[DIR ...]",
		.doc = "Exports directory trees to hosts.\v"
		       "A single DIR is the export 'default'; of several, each has the name of its "
		       "last component. Prints, once it serves, the command that mounts each "
		       "export on a host. See leasehold-origin(1).",
	};

	options_to_argp(&origin_option_table, rows);
	rows[origin_option_table.count] = (struct argp_option){
		.name = "export",
		.key = KEY_EXPORT,
		.arg = "NAME=DIR[,ro][,root_squash][,hosts=A:B]",
		.doc = "a directory and the name that hosts mount it by; may be given again",
	};
	options_set_defaults(&origin_option_table, &options);
	if (argp_parse(&argp, argc, argv, 0, NULL, NULL) != 0)
		return EXIT_USAGE;
	return origin_run(&options) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
