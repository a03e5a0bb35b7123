/*
 * cmd_mount - leasehold mount, and the helper that mount(8) runs.
 */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/mount/mount.h"
#include "tools/cmd.h"
#include "tools/options.h"

/* Static, so that what it points to is in use until exit. */
static struct mount_options options;

static error_t parse(int key, char *arg, struct argp_state *state)
{
	char error[OPTIONS_ERROR_BYTES_MAX];
	const struct option_row *row;

	switch (key) {
	case 'f':
		options.foreground = true;
		return 0;
	case 'o':
		if (options_set_list(&mount_option_table, &options, arg, true, error) < 0)
			argp_error(state, "%s", error);
		return 0;
	case ARGP_KEY_ARG:
		if (state->arg_num == 0)
			options.url = arg;
		else if (state->arg_num == 1)
			options.mountpoint = options_absolute_path(arg);
		else
			argp_error(state, "'%s' is one argument too many", arg);
		return 0;
	case ARGP_KEY_END:
		if (!options.url || !options.mountpoint)
			argp_error(state, "needs a URL and a mount point: "
					  "https://HOST:PORT/EXPORT MOUNTPOINT");
		return 0;
	}
	row = options_of_key(&mount_option_table, key);
	if (!row)
		return ARGP_ERR_UNKNOWN;
	if (options_set(row, &options, arg, error) < 0)
		argp_error(state, "--%s", error);
	return 0;
}

int cmd_mount(int argc, char **argv)
{
	static struct argp_option rows[OPTIONS_ROWS_MAX];
	static const struct argp argp = {
		.options = rows,
		.parser = parse,
		.args_doc = "URL MOUNTPOINT",
		.doc = "Mounts an export, https://HOST:PORT/EXPORT as the origin prints it, or a "
		       "directory in it, https://HOST:PORT/EXPORT/DIRECTORY.\v"
		       "Comes back once the mount answers and serves it from the background. "
		       "See leasehold-mount(8).",
	};
	struct argp_option *row;

	options_to_argp(&mount_option_table, rows);
	for (row = rows; row->name; row++) {
		if (strcmp(row->name, "foreground") == 0)
			row->key = 'f';
	}
	*row = (struct argp_option){
		.name = "options",
		.key = 'o',
		.arg = "NAME[=VALUE],...",
		.doc = "the options above the way mount(8) and fstab write them",
	};
	options_set_defaults(&mount_option_table, &options);
	if (argp_parse(&argp, argc, argv, 0, NULL, NULL) != 0)
		return EXIT_USAGE;
	return mount_run(&options) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int cmd_mount_helper(int argc, char **argv)
{
	char error[OPTIONS_ERROR_BYTES_MAX];
	bool fake = false;
	int c;

	options_set_defaults(&mount_option_table, &options);
	/* -s (sloppy), -n (no mtab), -v, -N and -t are mount(8)'s own affairs. */
	while ((c = getopt(argc, argv, "sfnvN:t:o:")) != -1) {
		switch (c) {
		case 'f':
			fake = true;
			break;
		case 'o':
			if (options_set_list(&mount_option_table, &options, optarg, true,
					     error) < 0) {
				fprintf(stderr, "%s: %s\n", argv[0], error);
				return EXIT_USAGE;
			}
			break;
		case '?':
			return EXIT_USAGE; /* getopt has said why */
		}
	}
	if (argc - optind != 2) {
		fprintf(stderr, "usage: %s https://HOST:PORT/EXPORT MOUNTPOINT [-o OPTIONS]\n",
			argv[0]);
		return EXIT_USAGE;
	}
	options.url = argv[optind];
	options.mountpoint = options_absolute_path(argv[optind + 1]);
	if (!options.mountpoint) {
		fprintf(stderr, "%s: the present directory is gone\n", argv[0]);
		return EXIT_FAILURE;
	}
	if (fake)
		return EXIT_SUCCESS;
	return mount_run(&options) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
