/*
 * cmd.h - the subcommands of leasehold(1). Each gets its own argument vector (argv[0] is what
 * messages and --help call the command) and returns an exit status: 0, 1 for what went wrong, 2
 * for a command line that makes no sense. One line to standard error goes with 1 and 2.
 */
#ifndef TOOLS_CMD_H
#define TOOLS_CMD_H

#define EXIT_USAGE 2

int cmd_origin(int argc, char **argv);
int cmd_mount(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_stat(int argc, char **argv);
int cmd_policy(int argc, char **argv);
int cmd_prefetch(int argc, char **argv);
int cmd_evict(int argc, char **argv);
int cmd_pin(int argc, char **argv);
int cmd_unpin(int argc, char **argv);
int cmd_seal(int argc, char **argv);
int cmd_unseal(int argc, char **argv);
int cmd_trace(int argc, char **argv);

/* What mount(8) runs: SOURCE MOUNTPOINT [-sfnv] [-N NS] [-t TYPE] [-o OPTIONS]. */
int cmd_mount_helper(int argc, char **argv);

#endif
