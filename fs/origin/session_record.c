#include "fs/origin/session_record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/origin/siphash.h"
#include "lease/base/bytes.h"

#define MAGIC UINT64_C(0x7373657373694c01)
#define VERSION 2u
/* It ends with its entries: no seal had a term when it was written. */
#define VERSION_WITHOUT_SILENT 1u
#define HEAD_BYTES (8 + 4 + 8 + 8 + 1 + 4)
#define ENTRY_BYTES (8 + 16)
#define SILENT_HEAD_BYTES (16 + 8 + 4)
#define SILENT_BYTES (8 + 16 + 8 + 8 + AUTHORITY_HOST_NAME_BYTES)
#define CHECK_BYTES SESSION_RECORD_CHECK_BYTES

uint64_t session_record_checksum(const void *data, size_t length)
{
	static const uint8_t key[SIPHASH_KEY_BYTES] = "session record";

	return siphash(key, data, length);
}

/* The part that says who may rely on seals, up to its entries. */
static void read_silent_head(struct reader *r, uint32_t version, struct session_record *record)
{
	if (version == VERSION_WITHOUT_SILENT) {
		/* Whoever wrote it may have come after one that did tell terms, and knew nobody. */
		record->silent_unknown.ns = 1;
		return;
	}
	memcpy(record->boot, reader_bytes(r, sizeof(record->boot)).data, sizeof(record->boot));
	record->silent_unknown.ns = reader_u64(r);
	record->silent_count = reader_u32(r);
}

int session_record_decode(const void *data, size_t length, struct session_record *ret_record)
{
	struct session_record record = { .count = 0 };
	struct reader r = reader_of(data, length);
	struct reader check;
	size_t head = HEAD_BYTES;
	uint32_t version;

	if (length < HEAD_BYTES + CHECK_BYTES)
		return -EUCLEAN;
	check = reader_of((const uint8_t *)data + length - CHECK_BYTES, CHECK_BYTES);
	if (reader_u64(&check) != session_record_checksum(data, length - CHECK_BYTES) ||
	    reader_u64(&r) != MAGIC)
		return -EUCLEAN;
	version = reader_u32(&r);
	if (version != VERSION && version != VERSION_WITHOUT_SILENT)
		return -EUCLEAN;
	if (version == VERSION)
		head += SILENT_HEAD_BYTES;
	record.epoch = reader_u64(&r);
	record.promise_ms = reader_u64(&r);
	record.unknown = reader_u8(&r) != 0;
	record.count = reader_u32(&r);
	if (length < head + CHECK_BYTES)
		return -EUCLEAN;
	read_silent_head(&r, version, &record);
	if (record.count > SESSION_RECORD_COUNT_MAX ||
	    record.silent_count > SESSION_RECORD_COUNT_MAX ||
	    length != head + (size_t)record.count * ENTRY_BYTES +
			      (size_t)record.silent_count * SILENT_BYTES + CHECK_BYTES)
		return -EUCLEAN;
	record.entries = (struct authority_previous *)calloc(record.count + 1u,
							     sizeof(*record.entries));
	record.silent = (struct authority_silent *)calloc(record.silent_count + 1u,
							  sizeof(*record.silent));
	if (!record.entries || !record.silent) {
		session_record_finish(&record);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < record.count; i++) {
		record.entries[i].session.value = reader_u64(&r);
		memcpy(record.entries[i].host, reader_bytes(&r, 16).data, 16);
	}
	for (uint32_t i = 0; i < record.silent_count; i++) {
		struct authority_silent *silent = &record.silent[i];

		silent->session.value = reader_u64(&r);
		memcpy(silent->host, reader_bytes(&r, 16).data, 16);
		silent->instance = reader_u64(&r);
		silent->renewed.ns = reader_u64(&r);
		memcpy(silent->name, reader_bytes(&r, sizeof(silent->name)).data,
		       sizeof(silent->name));
		silent->name[sizeof(silent->name) - 1] = '\0';
	}
	*ret_record = record;
	return 0;
}

int session_record_load(int state_fd, const char *name, struct session_record *ret_record)
{
	uint8_t *data;
	struct stat st;
	ssize_t got;
	int error = 0;
	int fd = openat(state_fd, name, O_RDONLY | O_CLOEXEC);

	if (fd < 0 && errno == ENOENT) {
		*ret_record = (struct session_record){ .count = 0 };
		return 0;
	}
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0) {
		error = -errno;
		close(fd);
		return error;
	}
	if (st.st_size > (off_t)SESSION_RECORD_COUNT_MAX * (ENTRY_BYTES + SILENT_BYTES) + 4096) {
		close(fd);
		return -EUCLEAN;
	}
	data = (uint8_t *)malloc((size_t)st.st_size + 1);
	if (!data) {
		close(fd);
		return -ENOMEM;
	}
	got = pread(fd, data, (size_t)st.st_size, 0);
	if (got < 0)
		error = -errno;
	else
		error = session_record_decode(data, (size_t)got, ret_record);
	free(data);
	close(fd);
	return error;
}

static int write_whole(int fd, const uint8_t *data, size_t length)
{
	size_t done = 0;

	while (done < length) {
		ssize_t put = write(fd, data + done, length - done);

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return put < 0 ? -errno : -EIO;
		done += (size_t)put;
	}
	return fsync(fd) < 0 ? -errno : 0;
}

int session_record_store(int state_fd, const char *name, const struct session_record *record)
{
	size_t length = HEAD_BYTES + SILENT_HEAD_BYTES + (size_t)record->count * ENTRY_BYTES +
			(size_t)record->silent_count * SILENT_BYTES + CHECK_BYTES;
	uint8_t *data = (uint8_t *)malloc(length);
	struct writer w = writer_of(data, length);
	char temporary[64];
	int fd, error;

	if (!data)
		return -ENOMEM;
	writer_u64(&w, MAGIC);
	writer_u32(&w, VERSION);
	writer_u64(&w, record->epoch);
	writer_u64(&w, record->promise_ms);
	writer_u8(&w, record->unknown);
	writer_u32(&w, record->count);
	writer_bytes(&w, record->boot, sizeof(record->boot));
	writer_u64(&w, record->silent_unknown.ns);
	writer_u32(&w, record->silent_count);
	for (uint32_t i = 0; i < record->count; i++) {
		writer_u64(&w, record->entries[i].session.value);
		writer_bytes(&w, record->entries[i].host, 16);
	}
	for (uint32_t i = 0; i < record->silent_count; i++) {
		const struct authority_silent *silent = &record->silent[i];

		writer_u64(&w, silent->session.value);
		writer_bytes(&w, silent->host, 16);
		writer_u64(&w, silent->instance);
		writer_u64(&w, silent->renewed.ns);
		writer_bytes(&w, silent->name, sizeof(silent->name));
	}
	writer_u64(&w, session_record_checksum(data, w.at));
	(void)snprintf(temporary, sizeof(temporary), "%s.new", name); /* names are ours, short */
	fd = openat(state_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0) {
		error = -errno;
		free(data);
		return error;
	}
	error = write_whole(fd, data, length);
	close(fd);
	free(data);
	if (!error && renameat(state_fd, temporary, state_fd, name) < 0)
		error = -errno;
	if (!error && fsync(state_fd) < 0)
		error = -errno;
	return error;
}

void session_record_finish(struct session_record *record)
{
	free(record->entries);
	free(record->silent);
	record->entries = NULL;
	record->silent = NULL;
	record->count = record->silent_count = 0;
}
