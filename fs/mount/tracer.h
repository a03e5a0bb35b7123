/*
 * tracer.h - what applications do, as text, for whoever asks (leasehold trace record).
 *
 * Who reads the attribute TRACE_XATTR of any inode gets what was done since he read it last, as lines of
 * a trace (prefetch/trace.h, without its header; ids are those of the mount). The first read begins
 * it, and it ends when nobody has read for TRACER_LASTS. What is not read in time is dropped, and said
 * in a comment. One at a time: two that read would each get a part.
 *
 * Root, and the user that runs the daemon. Any thread; its lock is a leaf.
 */
#ifndef FS_MOUNT_TRACER_H
#define FS_MOUNT_TRACER_H

#include <pthread.h>
#include <stdatomic.h>

#include "prefetch/access.h"

#define TRACE_XATTR "system.leasehold.trace"
#define TRACER_BYTES_MAX (1u << 20) /* that wait to be read */
#define TRACER_LASTS ((struct duration){ 10 * NS_PER_S })

struct tracer {
	atomic_bool on;
	pthread_mutex_t lock;
	char *text;
	size_t length;
	uint64_t dropped;
	struct instant previous; /* line */
	struct instant ends;
};

void tracer_init(struct tracer *t);
void tracer_finish(struct tracer *t);
/* An access that was told. Next to nothing when nobody asks. */
void tracer_access(struct tracer *t, struct instant now, const struct access *access);
/* Whole lines, up to `size` bytes, into `buffer`; returns how many bytes. -ENOMEM. */
int tracer_take(struct tracer *t, struct instant now, char *buffer, size_t size,
		size_t *ret_length) MUST_CHECK;

#endif
