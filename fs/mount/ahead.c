#include "fs/mount/ahead.h"

#include "fs/mount/memory.h"
#include "fs/mount/reply.h"
#include "fs/mount/rules.h"

/* What is known of the file when it may be fetched ahead at all. Under the lock. */
static bool allowed(struct mount *m, struct inode *inode, struct change *ret_change,
		    uint64_t *ret_size)
{
	struct attributes known;
	const struct attributes *attributes = inode_attributes(m, inode, mount_now(), &known);

	if (!attributes || inode->live->no_ahead || m->ahead_count >= AHEAD_COUNT_MAX || memory_is_short(m) ||
	    !inode_lease(m, inode, mount_now(), ret_change))
		return false;
	*ret_size = attributes->size;
	return true;
}

/* `near`: so far from the end of the latest it is in order, and what lies before that is no step back. */
static void count(struct sequence *sequence, uint64_t offset, uint64_t end, uint64_t near)
{
	uint64_t next = sequence->next_offset;

	if (offset + near < next || offset > next + near)
		sequence->count = 0;
	else if (end > next)
		sequence->count++;
	else
		return;
	sequence->next_offset = end;
}

struct sequence *ahead_count(struct open_file *file, uint64_t offset, size_t size, bool page)
{
	struct sequence *together = &inode_live(file->inode)->together;

	count(&file->sequence, offset, offset + size, 0);
	if (!page)
		return &file->sequence;
	count(together, offset, offset + size, AHEAD_NEAR);
	return together->count >= AHEAD_READS && together->count > file->sequence.count ?
		       together :
		       &file->sequence;
}

void ahead_plan(struct mount *m, struct open_file *file, struct sequence *sequence, uint64_t offset,
		size_t size, struct ahead *ret_ahead)
{
	struct inode *inode = file->inode;
	struct cache_file *cached;
	struct change change;
	uint64_t file_size = 0, end = offset + size, window, most;
	bool waits, able, passes;

	ret_ahead->inode = NULL;
	if (file->lock_number || file->mappable)
		return;
	pthread_mutex_lock(&m->lock);
	if (sequence->count < AHEAD_READS) {
		sequence->window = 0;
		inode_live(inode)->no_ahead = false; /* there may be room by now */
		pthread_mutex_unlock(&m->lock);
		return;
	}
	most = rules_read_ahead(m, inode);
	able = most >= AHEAD_BYTES_MIN && allowed(m, inode, &change, &file_size) &&
	       offset < file_size;
	/* The kernel has what it read in pages of the mount; of what is sealed, others will want the file. */
	passes = file->mode == MODE_PAGES && !inode->final;
	pthread_mutex_unlock(&m->lock);
	cached = read_cache_file(m, inode);
	if (cached && passes)
		cache_file_behind(cached, offset, end);
	if (!cached || !able)
		return;
	waits = !cache_file_covers(cached, change, offset,
				   (end < file_size ? end : file_size) - offset);
	pthread_mutex_lock(&m->lock);
	window = sequence->window;
	if (waits)
		window = window ? 2 * window : AHEAD_BYTES_MIN;
	if (window > most)
		window = most;
	sequence->window = window;
	if (window) {
		inode_use(m, inode);
		*ret_ahead = (struct ahead){ inode, file->credential, end, end + window };
	}
	pthread_mutex_unlock(&m->lock);
}

/* The next fetch behind ahead->start, which moves past it. False: there is none. */
static bool next(struct mount *m, struct ahead *ahead, uint64_t *ret_offset, size_t *ret_size)
{
	struct inode *inode = ahead->inode;
	struct cache_file *cached = read_cache_file(m, inode);
	uint64_t size, start, end, gap_start, gap_end;
	struct change change;
	bool may;

	while (cached) {
		pthread_mutex_lock(&m->lock);
		may = allowed(m, inode, &change, &size);
		start = may ? read_fetched_to(inode, ahead->start) : 0;
		pthread_mutex_unlock(&m->lock);
		if (!may)
			return false;
		end = (start / BULK_BYTES_MAX + 1) * BULK_BYTES_MAX;
		if (end > size)
			end = size;
		if (start >= end || end > ahead->end + (end == size ? BULK_BYTES_MAX : 0))
			return false;
		if (!cache_file_gap(cached, change, start, end, &gap_start, &gap_end)) {
			ahead->start = end; /* all of that is cached */
		} else if (gap_start > start) {
			ahead->start = gap_start;
		} else {
			ahead->start = gap_end;
			*ret_offset = start;
			*ret_size = (size_t)(gap_end - start);
			return true;
		}
	}
	return false;
}

void ahead_send(struct mount *m, struct ahead *ahead)
{
	uint64_t offset;
	size_t size;

	if (!ahead->inode)
		return;
	while (next(m, ahead, &offset, &size) &&
	       read_fetch_ahead(m, ahead->inode, &ahead->credential, offset, size))
		;
	pthread_mutex_lock(&m->lock);
	inode_unuse(m, ahead->inode);
	pthread_mutex_unlock(&m->lock);
}
