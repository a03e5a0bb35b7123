#include "fs/mount/nodeids.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/mount/inode.h"
#include "fs/mount/state.h"

#define NAME "nodeids"
#define MAGIC 0x494e484cu /* "LHNI" */
#define VERSION 1u
#define HEADER_BYTES 8
#define RECORD_BYTES (8 + 1 + HANDLE_BYTES_MAX)

struct record {
	uint64_t nodeid;
	struct handle handle;
};

struct nodeids {
	uint32_t count;
	struct record records[]; /* by nodeid */
};

static int record_order(const void *a, const void *b)
{
	const struct record *x = a, *y = b;

	return x->nodeid < y->nodeid ? -1 : x->nodeid > y->nodeid;
}

static void path_of(const struct mount *m, const char *suffix, char path[PATH_MAX])
{
	(void)snprintf(path, PATH_MAX, "%s/" NAME "-%016" PRIx64 "-%u%s", m->options->cache,
		       m->cache_space, m->number, suffix); /* too long: not found */
}

/* A whole file, at most what NODEIDS_MAX records take. */
static uint8_t *read_file(const char *path, size_t *ret_length)
{
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	uint8_t *bytes = NULL;
	struct stat st;
	size_t done = 0;
	ssize_t got = 1;

	if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size >= HEADER_BYTES &&
	    st.st_size <= HEADER_BYTES + (off_t)NODEIDS_MAX * RECORD_BYTES)
		bytes = malloc((size_t)st.st_size);
	while (bytes && done < (size_t)st.st_size && got > 0) {
		got = read(fd, bytes + done, (size_t)st.st_size - done);
		done += got > 0 ? (size_t)got : 0;
	}
	if (fd >= 0)
		close(fd);
	*ret_length = done;
	return bytes;
}

/* What is damaged is left out: a nodeid is the hash of its handle. */
static bool record_read(struct reader *r, struct record *ret_record)
{
	struct record record = { .nodeid = reader_u64(r) };
	struct slice bytes;

	record.handle.length = reader_u8(r);
	bytes = reader_bytes(r, HANDLE_BYTES_MAX);
	if (r->failed || record.handle.length == 0 || record.handle.length > HANDLE_BYTES_MAX)
		return false;
	memcpy(record.handle.bytes, bytes.data, record.handle.length);
	*ret_record = record;
	return inode_nodeid(&record.handle) == record.nodeid;
}

struct nodeids *nodeids_load(const struct mount *m)
{
	char path[PATH_MAX];
	struct nodeids *n = NULL;
	struct reader r;
	uint8_t *bytes;
	size_t length;

	path_of(m, "", path);
	bytes = read_file(path, &length);
	if (!bytes)
		return NULL;
	r = reader_of(bytes, length);
	if (reader_u32(&r) == MAGIC && reader_u32(&r) == VERSION)
		n = malloc(sizeof(*n) + (length / RECORD_BYTES + 1) * sizeof(n->records[0]));
	if (n) {
		n->count = 0;
		for (size_t left = (length - HEADER_BYTES) / RECORD_BYTES; left > 0; left--)
			n->count += record_read(&r, &n->records[n->count]);
		qsort(n->records, n->count, sizeof(n->records[0]), record_order);
	}
	free(bytes);
	return n;
}

void nodeids_destroy(struct nodeids *n)
{
	free(n);
}

bool nodeids_find(const struct nodeids *n, uint64_t nodeid, struct handle *ret_handle)
{
	const struct record key = { .nodeid = nodeid }, *found;

	found = n ? bsearch(&key, n->records, n->count, sizeof(key), record_order) : NULL;
	if (found)
		*ret_handle = found->handle;
	return found != NULL;
}

static bool record_write(FILE *file, uint64_t nodeid, const struct handle *handle)
{
	uint8_t bytes[RECORD_BYTES] = { 0 };
	struct writer w = writer_of(bytes, sizeof(bytes));

	writer_u64(&w, nodeid);
	writer_u8(&w, handle->length);
	writer_bytes(&w, handle->bytes, HANDLE_BYTES_MAX);
	return fwrite(bytes, sizeof(bytes), 1, file) == 1;
}

/* What is known now, and then what was known before. */
static bool write_all(struct mount *m, FILE *file)
{
	uint8_t header[HEADER_BYTES];
	struct writer w = writer_of(header, sizeof(header));
	struct inode *inode;
	size_t cursor = 0;
	uint32_t count = 0;
	bool good;

	writer_u32(&w, MAGIC);
	writer_u32(&w, VERSION);
	good = fwrite(header, sizeof(header), 1, file) == 1;
	while ((inode = inode_next(m, &cursor))) {
		if (good && count < NODEIDS_MAX && inode->nodeid == inode_nodeid(INODE_HANDLE(inode))) {
			good = record_write(file, inode->nodeid, INODE_HANDLE(inode));
			count++;
		}
	}
	for (uint32_t i = 0; good && m->nodeids && i < m->nodeids->count && count < NODEIDS_MAX; i++) {
		const struct record *record = &m->nodeids->records[i];

		if (inode_by_nodeid(m, record->nodeid))
			continue;
		good = record_write(file, record->nodeid, &record->handle);
		count++;
	}
	return good;
}

void nodeids_save(struct mount *m)
{
	char path[PATH_MAX], fresh[PATH_MAX];
	FILE *file;
	bool good;
	int fd;

	path_of(m, "", path);
	path_of(m, ".new", fresh);
	(void)unlink(fresh); /* of a save that did not end */
	fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	file = fd < 0 ? NULL : fdopen(fd, "w");
	if (!file) {
		if (fd >= 0)
			close(fd);
		return;
	}
	good = write_all(m, file);
	/* In a crash of the machine it may be lost, or cut: then file handles are stale. */
	if (fclose(file) == 0 && good)
		good = rename(fresh, path) == 0;
	if (!good)
		(void)unlink(fresh);
}
