/*
 * log.h - where the log lines of a process that mounts go: standard error, a file, or syslog.
 *
 * One log a process. mount_log() (state.h) may be called by any thread; the rest by the main thread
 * before there are others, and log_to_background() by one thread at a time.
 */
#ifndef FS_MOUNT_LOG_H
#define FS_MOUNT_LOG_H

#include "lease/base/types.h"

/* From now on into `path`, though standard error stays what it is until the mount answers. 0 or -errno. */
int log_open(const char *path) MUST_CHECK;
/* Descriptor of the log file; -1: there is none. */
int log_file(void);
/* What is said from now on is no more for whoever started the mount: standard error is the log file. */
void log_to_file(void);
/*
 * The process is in the background now: it keeps nothing of its starter's, so that whoever reads that
 * one's output to the end does not wait for it; without a log file it logs to syslog.
 */
void log_to_background(void);
/*
 * Errors of this thread go into `text` instead (the last one stays), until it is called with NULL: for
 * who asked another process for something.
 */
void log_capture(char *text, size_t size);

#endif
