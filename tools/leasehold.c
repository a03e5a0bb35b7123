/*
 * leasehold - the one binary. Picks the subcommand; as mount.fuse.leasehold it is mount(8)'s
 * helper.
 */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cmd.h"

const char *argp_program_version = "leasehold " LEASEHOLD_VERSION;
const char *argp_program_bug_address = NULL;

static const struct command {
	const char *name;
	const char *title; /* argv[0] of the subcommand */
	int (*run)(int argc, char **argv);
	const char *text;
} commands[] = {
	{ "origin", "leasehold origin", cmd_origin, "export directory trees to hosts" },
	{ "mount", "leasehold mount", cmd_mount, "mount an export of an origin" },
	{ "status", "leasehold status", cmd_status, "what a mount is doing" },
	{ "stat", "leasehold stat", cmd_stat, "what is cached of a file or a directory" },
	{ "policy", "leasehold policy", cmd_policy, "what is to be done with which files" },
	{ "prefetch", "leasehold prefetch", cmd_prefetch, "fetch what will be read" },
	{ "evict", "leasehold evict", cmd_evict, "forget what is cached" },
	{ "pin", "leasehold pin", cmd_pin, "keep what is cached" },
	{ "unpin", "leasehold unpin", cmd_unpin, "not any more" },
	{ "seal", "leasehold seal", cmd_seal, "let nobody modify files and directories any more" },
	{ "unseal", "leasehold unseal", cmd_unseal, "take seals away" },
	{ "trace", "leasehold trace", cmd_trace, "record a job, and what prefetch would have saved it" },
};

#define COMMAND_COUNT (sizeof(commands) / sizeof(commands[0]))

static void print_help(FILE *stream)
{
	fputs("Usage: leasehold COMMAND ...\n"
	      "A strictly coherent cache file system: one origin, many hosts, no old answers.\n\n",
	      stream);
	for (size_t i = 0; i < COMMAND_COUNT; i++)
		fprintf(stream, "  %-10s %s\n", commands[i].name, commands[i].text);
	fputs("  help       this text, or that of a command: leasehold help mount\n"
	      "  version    the version\n\n"
	      "Each command has --help and a manual page, leasehold-COMMAND.\n",
	      stream);
}

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < COMMAND_COUNT; i++) {
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	}
	return NULL;
}

static int run_command(const struct command *command, int argc, char **argv)
{
	argv[0] = (char *)command->title; /* argp only reads it */
	return command->run(argc, argv);
}

static int unknown_command(const char *name)
{
	fprintf(stderr, "leasehold: there is no command '%s'; see leasehold help\n", name);
	return EXIT_USAGE;
}

static int help(int argc, char **argv)
{
	static char help_flag[] = "--help";
	char *arguments[] = { NULL, help_flag, NULL };
	const struct command *command;

	if (argc < 2) {
		print_help(stdout);
		return EXIT_SUCCESS;
	}
	command = find_command(argv[1]);
	if (!command)
		return unknown_command(argv[1]);
	return run_command(command, 2, arguments);
}

/* Whatever was printed is known to have arrived, or the exit status says that it did not. */
static int finish_output(int status)
{
	if (fflush(stdout) != 0 || ferror(stdout)) {
		perror("leasehold: standard output");
		return status != 0 ? status : EXIT_FAILURE;
	}
	return status;
}

int main(int argc, char **argv)
{
	const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
	const char *name = slash ? slash + 1 : argc > 0 ? argv[0] : "";
	const struct command *command;

	argp_err_exit_status = EXIT_USAGE;
	if (strcmp(name, "mount.fuse.leasehold") == 0 || strcmp(name, "mount.leasehold") == 0)
		return cmd_mount_helper(argc, argv);
	if (argc < 2) {
		print_help(stderr);
		return EXIT_USAGE;
	}
	name = argv[1];
	if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
		return finish_output(help(argc - 1, argv + 1));
	if (strcmp(name, "version") == 0 || strcmp(name, "--version") == 0 ||
	    strcmp(name, "-V") == 0) {
		puts(argp_program_version);
		return finish_output(EXIT_SUCCESS);
	}
	command = find_command(name);
	if (!command)
		return unknown_command(name);
	return finish_output(run_command(command, argc - 1, argv + 1));
}
