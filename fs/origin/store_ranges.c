#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/types.h>
#include <unistd.h>

#include "fs/origin/credentials.h"
#include "fs/origin/store_private.h"

#define CLONE_ALIGN_BYTES 4096u       /* of no file system is it less */
#define CLONE_BYTES_MAX (1u << 30)    /* what a reply can count, and some more */

/* A descriptor for writing, with the thread acting as the caller. */
static int writable(struct store *s, const struct credential *caller, struct inode *inode,
		    int *ret_fd)
{
	int error = store_access(s, caller, inode, OPEN_ACCESS_WRITE, true), fd;

	if (error)
		return error;
	fd = inodes_data_fd(s->inodes, inode, true);
	if (fd < 0)
		return fd;
	error = credentials_assume(caller);
	if (!error)
		*ret_fd = fd;
	return error;
}

int store_fallocate(struct store *s, const struct credential *caller, struct inode *inode,
		    uint32_t mode, uint64_t offset, uint64_t length)
{
	int flags = 0, fd, error;

	if (mode & ~(uint32_t)(FALLOCATE_KEEP_SIZE | FALLOCATE_PUNCH_HOLE | FALLOCATE_ZERO_RANGE))
		return -EOPNOTSUPP;
	if (length == 0 || length > INT64_MAX || offset > INT64_MAX)
		return -EINVAL;
	if (offset > INT64_MAX - length)
		return -EFBIG;
	if (mode & FALLOCATE_KEEP_SIZE)
		flags |= FALLOC_FL_KEEP_SIZE;
	if (mode & FALLOCATE_PUNCH_HOLE)
		flags |= FALLOC_FL_PUNCH_HOLE;
	if (mode & FALLOCATE_ZERO_RANGE)
		flags |= FALLOC_FL_ZERO_RANGE;
	error = writable(s, caller, inode, &fd);
	if (error)
		return error;
	inodes_mark_dirty(inode);
	return fallocate(fd, flags, (off_t)offset, (off_t)length) < 0 ? -errno : 0;
}

int store_seek(struct store *s, const struct credential *caller, struct inode *inode,
	       uint64_t offset, bool hole, uint64_t *ret_offset)
{
	off_t found;
	int fd, error;

	error = store_access(s, caller, inode, OPEN_ACCESS_READ, true);
	/* Who has it open for writing only may ask as well. */
	if (error == -EACCES)
		error = store_access(s, caller, inode, OPEN_ACCESS_WRITE, true);
	if (error)
		return error;
	if (offset > INT64_MAX)
		return -ENXIO;
	fd = inodes_data_fd(s->inodes, inode, false);
	if (fd < 0)
		return fd;
	/* The descriptor's offset is shared, and nobody uses it. */
	found = lseek(fd, (off_t)offset, hole ? SEEK_HOLE : SEEK_DATA);
	if (found < 0)
		return -errno;
	*ret_offset = (uint64_t)found;
	return 0;
}

/*
 * Shares the bytes, where the store can and they lie well: then the length does not matter. False:
 * they have to be copied.
 */
static bool share(int from, uint64_t source_offset, int to, uint64_t offset, uint64_t length)
{
	struct file_clone_range range = {
		.src_fd = from,
		.src_offset = source_offset,
		.src_length = length,
		.dest_offset = offset,
	};

	return length > 0 && ioctl(to, FICLONERANGE, &range) == 0;
}

int store_copy_range(struct store *s, const struct credential *caller, struct inode *source,
		     uint64_t source_offset, struct inode *inode, uint64_t offset, uint64_t length,
		     uint32_t *ret_count)
{
	loff_t from_offset = (loff_t)source_offset, to_offset = (loff_t)offset;
	uint64_t whole = length < CLONE_BYTES_MAX ? length : CLONE_BYTES_MAX;
	int from, to, error;
	ssize_t copied;

	error = store_access(s, caller, source, OPEN_ACCESS_READ, true);
	if (error)
		return error;
	if (source_offset > INT64_MAX || offset > INT64_MAX || length > INT64_MAX - offset ||
	    length > INT64_MAX - source_offset)
		return -EINVAL;
	from = inodes_data_fd(s->inodes, source, false);
	if (from < 0)
		return from;
	error = writable(s, caller, inode, &to);
	if (error)
		return error;
	inodes_mark_dirty(inode);
	whole -= whole % CLONE_ALIGN_BYTES;
	if (length > STORE_COPY_BYTES_MAX && share(from, source_offset, to, offset, whole)) {
		*ret_count = (uint32_t)whole;
		return 0;
	}
	if (length > STORE_COPY_BYTES_MAX)
		length = STORE_COPY_BYTES_MAX;
	/* Shares, too, where that is possible. */
	copied = copy_file_range(from, &from_offset, to, &to_offset, (size_t)length, 0);
	if (copied < 0)
		return -errno;
	*ret_count = (uint32_t)copied;
	return 0;
}
