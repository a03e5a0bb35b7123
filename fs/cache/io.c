#include "fs/cache/io.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef HAVE_LIBURING
#include <liburing.h>
#endif

/* Syncs in flight at a time; a larger batch goes in parts. */
#define IO_DEPTH 32

struct io {
	atomic_bool uring; /* others may look at it meanwhile */
#ifdef HAVE_LIBURING
	struct io_uring ring;
#endif
};

static void sync_each(const int *fds, unsigned count, int *ret_results)
{
	for (unsigned i = 0; i < count; i++)
		ret_results[i] = fdatasync(fds[i]) < 0 ? -errno : 0;
}

#ifdef HAVE_LIBURING

static bool uring_begin(struct io *io)
{
	const char *wish = getenv("LEASEHOLD_IO_URING");
	struct io_uring_probe *probe;
	bool can;

	if ((wish && strcmp(wish, "off") == 0) || io_uring_queue_init(IO_DEPTH, &io->ring, 0) < 0)
		return false;
	probe = io_uring_get_probe_ring(&io->ring);
	can = probe && io_uring_opcode_supported(probe, IORING_OP_FSYNC);
	io_uring_free_probe(probe);
	if (!can)
		io_uring_queue_exit(&io->ring);
	return can;
}

static void uring_end(struct io *io)
{
	if (io->uring)
		io_uring_queue_exit(&io->ring);
	io->uring = false;
}

/* One that was submitted; there is one. */
static void uring_reap(struct io *io, int *ret_results)
{
	struct io_uring_cqe *done = NULL;
	int rc;

	do
		rc = io_uring_wait_cqe(&io->ring, &done);
	while (rc == -EINTR || rc == -EAGAIN);
	assert(rc == 0); /* a wait without a timeout fails for our own mistakes only */
	ret_results[io_uring_cqe_get_data64(done)] = done->res < 0 ? done->res : 0;
	io_uring_cqe_seen(&io->ring, done);
}

/* How many of at most IO_DEPTH were synced; fewer than asked for: the kernel takes no more. */
static unsigned uring_sync(struct io *io, const int *fds, unsigned count, int *ret_results)
{
	int submitted;

	for (unsigned i = 0; i < count; i++) {
		struct io_uring_sqe *entry = io_uring_get_sqe(&io->ring);

		assert(entry); /* the ring is empty between calls, and as deep */
		io_uring_prep_fsync(entry, fds[i], IORING_FSYNC_DATASYNC);
		io_uring_sqe_set_data64(entry, i);
	}
	submitted = io_uring_submit(&io->ring);
	for (int i = 0; i < submitted; i++)
		uring_reap(io, ret_results);
	return submitted < 0 ? 0 : (unsigned)submitted;
}

#else

static bool uring_begin(struct io *io)
{
	return false;
}

static void uring_end(struct io *io)
{
}

static unsigned uring_sync(struct io *io, const int *fds, unsigned count, int *ret_results)
{
	return 0;
}

#endif

struct io *io_create(void)
{
	struct io *io = calloc(1, sizeof(*io));

	if (io)
		io->uring = uring_begin(io);
	return io;
}

void io_destroy(struct io *io)
{
	if (!io)
		return;
	uring_end(io);
	free(io);
}

bool io_has_uring(const struct io *io)
{
	return io->uring;
}

void io_sync(struct io *io, const int *fds, unsigned count, int *ret_results)
{
	unsigned done = 0;

	/* One file gains nothing. */
	while (io->uring && count - done > 1) {
		unsigned part = count - done < IO_DEPTH ? count - done : IO_DEPTH;
		unsigned synced = uring_sync(io, fds + done, part, ret_results + done);

		done += synced;
		if (synced < part)
			uring_end(io); /* what it did not take goes with it */
	}
	sync_each(fds + done, count - done, ret_results + done);
}
