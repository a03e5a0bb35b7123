/*
 * io.h - syncs of several files at once, by io_uring where the kernel lets us; one after the other where
 * it does not (older kernels, kernel.io_uring_disabled, seccomp), where this was built without liburing,
 * and with LEASEHOLD_IO_URING=off in the environment.
 *
 * Only syncs: reads and writes of cache files were measured, and are no faster so (README.md).
 * One caller at a time, but for io_has_uring(). Nothing is in flight when a call returns.
 */
#ifndef FS_CACHE_IO_H
#define FS_CACHE_IO_H

#include <stdbool.h>

#include "lease/base/types.h"

struct io;

/* Looks at what there is. NULL: no memory. */
struct io *io_create(void) MUST_CHECK;
void io_destroy(struct io *io);

/* True until the kernel refuses; then all goes on without. */
bool io_has_uring(const struct io *io);

/* fdatasync(2) of each; ret_results[i] is 0 or -errno. Blocks until the last is done. */
void io_sync(struct io *io, const int *fds, unsigned count, int *ret_results);

#endif
