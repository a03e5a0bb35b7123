/*
 * trace_record.h - what applications do on a mount, written down until a signal comes.
 *
 * One thread; takes over SIGINT and SIGTERM of the process while it runs.
 */
#ifndef TOOLS_TRACE_RECORD_H
#define TOOLS_TRACE_RECORD_H

/*
 * Records the mount that `path` is on into the file `output` (NULL or "-": standard output). Returns an
 * exit status, and has said what went wrong.
 */
int trace_record(const char *path, const char *output);

#endif
