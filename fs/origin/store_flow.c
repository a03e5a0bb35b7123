/* Reading ahead of who reads in order, and writing out behind who writes in order. */
#include <fcntl.h>
#include <stdatomic.h>

#include "fs/origin/store_private.h"

/*
 * Ahead of what hosts ask for, which is ahead of their readers already (fs/mount/ahead.h): enough for a
 * disk of 1 GB/s to answer in 8 ms, whatever its device reads ahead by itself.
 */
#define READ_AHEAD_BYTES (8u << 20)
#define READ_STEP_BYTES	 (4u << 20)
/* Behind a writer: as much as is worth a request to the disk. */
#define WRITE_STEP_BYTES (8u << 20)
#define PAGE_BYTES	 4096u

void store_flows_init(struct store *s)
{
	pthread_mutex_init(&s->flow_lock, NULL);
	flow_init(&s->reads, READ_AHEAD_BYTES, READ_STEP_BYTES);
	flow_init(&s->writes, 0, WRITE_STEP_BYTES);
}

static bool note(struct store *s, struct flow *flow, const struct inode *inode, uint64_t offset,
		 uint64_t length, uint64_t *ret_start, uint64_t *ret_end)
{
	bool due;

	if (!S_ISREG(inode->type))
		return false;
	pthread_mutex_lock(&s->flow_lock);
	due = flow_note(flow, inode->identity.key.words[0], offset, length, ret_start, ret_end);
	pthread_mutex_unlock(&s->flow_lock);
	return due;
}

void store_read_ahead(struct store *s, struct inode *inode, uint64_t offset, uint64_t length)
{
	uint64_t start, end;
	int fd;

	if (!note(s, &s->reads, inode, offset, length, &start, &end))
		return;
	fd = inodes_data_fd(s->inodes, inode, false);
	if (fd < 0)
		return; /* whoever reads it hears why */
	/* Only queues what is not in memory; what it cannot do is read when it is asked for. */
	(void)posix_fadvise(fd, (off_t)start, (off_t)(end - start), POSIX_FADV_WILLNEED);
	atomic_fetch_add(&s->read_ahead_bytes, end - start);
}

void store_write_out(struct store *s, struct inode *inode, uint64_t offset, uint64_t length)
{
	uint64_t start, end;
	int fd;

	if (!note(s, &s->writes, inode, offset, length, &start, &end))
		return;
	/* Not the page that the next write goes on with, which would be written twice. */
	start &= ~(uint64_t)(PAGE_BYTES - 1);
	end &= ~(uint64_t)(PAGE_BYTES - 1);
	fd = end > start ? inodes_data_fd(s->inodes, inode, true) : -1;
	if (fd < 0)
		return;
	/* Begins it and waits for none of it. That all is well only a sync says, which the kernel
	   also tells of errors that were met here. */
	(void)sync_file_range(fd, (off_t)start, (off_t)(end - start), SYNC_FILE_RANGE_WRITE);
	atomic_fetch_add(&s->written_out_bytes, end - start);
}

void store_flow_counters(struct store *s, uint64_t *ret_read_ahead, uint64_t *ret_written_out)
{
	*ret_read_ahead = atomic_load(&s->read_ahead_bytes);
	*ret_written_out = atomic_load(&s->written_out_bytes);
}
