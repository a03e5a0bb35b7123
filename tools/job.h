/*
 * job.h - what is noted of jobs of `leasehold prefetch`, one small file each, for list, show and cancel.
 *
 * The files are the user's: $XDG_STATE_HOME/leasehold/jobs, else ~/.local/state/leasehold/jobs. Of those
 * that are over the newest 100 stay. A job whose process is gone without a word was interrupted.
 */
#ifndef TOOLS_JOB_H
#define TOOLS_JOB_H

#include <limits.h>
#include <sys/types.h>

#include "lease/base/types.h"

enum job_state { JOB_RUNNING, JOB_DONE, JOB_FAILED, JOB_CANCELLED, JOB_INTERRUPTED };

struct job {
	unsigned number; /* 0: not noted */
	pid_t pid;
	enum job_state state;
	uint64_t files, found;       /* worked on, of those that were found so far */
	uint64_t bytes, found_bytes; /* the same */
	uint64_t failed;
	char root[PATH_MAX]; /* the mount point */
	char what[PATH_MAX + 8];
};

/* Gives it a number and a file. 0 or -errno (then it goes on without). */
int job_begin(struct job *job) MUST_CHECK;
/* How far it is. */
void job_write(const struct job *job);

/* "list", "show JOB", "cancel JOB": an exit status. */
int job_command(int argc, char **argv);

#endif
