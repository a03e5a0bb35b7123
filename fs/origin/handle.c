#include "fs/origin/handle.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/random.h>
#include <unistd.h>

#define KEY_FILE_MAGIC "LHkey\0\0\1"
#define KEY_FILE_BYTES (8 + sizeof(struct handle_key))

union kernel_handle {
	struct file_handle header;
	uint8_t space[sizeof(struct file_handle) + FILE_HANDLE_BYTES_MAX];
};

static int key_read(int fd, struct handle_key *ret_key)
{
	uint8_t bytes[KEY_FILE_BYTES + 1];
	ssize_t got = pread(fd, bytes, sizeof(bytes), 0);

	if (got < 0)
		return -errno;
	if (got != (ssize_t)KEY_FILE_BYTES || memcmp(bytes, KEY_FILE_MAGIC, 8) != 0)
		return -EUCLEAN;
	memcpy(ret_key, bytes + 8, sizeof(*ret_key));
	return 0;
}

static int key_make(int state_fd, const char *name, struct handle_key *ret_key)
{
	uint8_t bytes[KEY_FILE_BYTES];
	char temporary[64];
	int fd, error = 0;

	memcpy(bytes, KEY_FILE_MAGIC, 8);
	if (getrandom(bytes + 8, sizeof(*ret_key), 0) != (ssize_t)sizeof(*ret_key))
		return -EIO;
	if (snprintf(temporary, sizeof(temporary), "%s.new", name) >= (int)sizeof(temporary))
		return -ENAMETOOLONG;
	fd = openat(state_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	if (write(fd, bytes, sizeof(bytes)) != (ssize_t)sizeof(bytes) || fsync(fd) < 0)
		error = errno ? -errno : -EIO;
	close(fd);
	if (!error && renameat(state_fd, temporary, state_fd, name) < 0)
		error = -errno;
	if (!error && fsync(state_fd) < 0)
		error = -errno;
	if (!error)
		memcpy(ret_key, bytes + 8, sizeof(*ret_key));
	return error;
}

int handle_key_load(int state_fd, const char *name, struct handle_key *ret_key)
{
	int fd = openat(state_fd, name, O_RDONLY | O_CLOEXEC);
	int error;

	if (fd < 0)
		return errno == ENOENT ? key_make(state_fd, name, ret_key) : -errno;
	error = key_read(fd, ret_key);
	close(fd);
	return error;
}

uint32_t handle_export_id(const char *name)
{
	static const uint8_t key[SIPHASH_KEY_BYTES] = "leasehold export";

	return (uint32_t)siphash(key, name, strlen(name));
}

int file_id_of(int directory_fd, const char *name, struct file_id *ret_id, int *ret_mount_id)
{
	union kernel_handle h;
	int mount_id;

	h.header.handle_bytes = FILE_HANDLE_BYTES_MAX;
	if (name_to_handle_at(directory_fd, name, &h.header, &mount_id,
			      *name ? 0 : AT_EMPTY_PATH) < 0)
		return -errno;
	/* Types are small in every file system; one that does not fit its byte cannot be named. */
	if (h.header.handle_type < 0 || h.header.handle_type > UINT8_MAX)
		return -EOVERFLOW;
	memset(ret_id, 0, sizeof(*ret_id));
	ret_id->type = h.header.handle_type;
	ret_id->length = (uint8_t)h.header.handle_bytes;
	memcpy(ret_id->bytes, h.space + sizeof(h.header), ret_id->length);
	*ret_mount_id = mount_id;
	return 0;
}

int file_id_open(int mount_fd, const struct file_id *id, int flags)
{
	union kernel_handle h;
	int fd;

	h.header.handle_bytes = id->length;
	h.header.handle_type = id->type;
	memcpy(h.space + sizeof(h.header), id->bytes, id->length);
	fd = open_by_handle_at(mount_fd, &h.header, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

bool file_id_equal(const struct file_id *a, const struct file_id *b)
{
	return a->type == b->type && a->length == b->length &&
	       memcmp(a->bytes, b->bytes, a->length) == 0;
}

static uint64_t mac(const struct handle_space *space, const uint8_t *bytes, size_t length)
{
	uint8_t text[HANDLE_BYTES_MAX + 1 + FILE_HANDLE_BYTES_MAX];

	assert(length + 1 + space->root.length <= sizeof(text));
	memcpy(text, bytes, length);
	text[length] = (uint8_t)space->root.type;
	memcpy(text + length + 1, space->root.bytes, space->root.length);
	return siphash(space->key.mac, text, length + 1 + space->root.length);
}

static void put(uint8_t *p, uint64_t value, size_t length)
{
	for (size_t i = 0; i < length; i++)
		p[i] = (uint8_t)(value >> (8 * i));
}

void handle_make(const struct handle_space *space, const struct file_id *id,
		 struct handle *ret_handle)
{
	size_t covered = 5u + id->length;

	assert(id->length <= FILE_HANDLE_BYTES_MAX);
	memset(ret_handle, 0, sizeof(*ret_handle));
	put(ret_handle->bytes, space->export_id, 4);
	ret_handle->bytes[4] = (uint8_t)id->type;
	memcpy(ret_handle->bytes + 5, id->bytes, id->length);
	put(ret_handle->bytes + covered, mac(space, ret_handle->bytes, covered), 8);
	ret_handle->length = (uint8_t)(covered + 8);
}

int handle_parse(const struct handle_space *space, const struct handle *handle,
		 struct file_id *ret_id)
{
	uint8_t id[4], expected[8], difference = 0;
	size_t covered;

	if (handle->length <= HANDLE_OVERHEAD_BYTES || handle->length > HANDLE_BYTES_MAX)
		return -EBADMSG;
	put(id, space->export_id, 4);
	if (memcmp(id, handle->bytes, 4) != 0)
		return -EBADMSG;
	covered = handle->length - 8u;
	put(expected, mac(space, handle->bytes, covered), 8);
	/* In constant time: how far a guess was right must not show. */
	for (size_t i = 0; i < 8; i++)
		difference |= expected[i] ^ handle->bytes[covered + i];
	if (difference)
		return -EBADMSG;
	memset(ret_id, 0, sizeof(*ret_id));
	ret_id->type = handle->bytes[4];
	ret_id->length = (uint8_t)(covered - 5);
	memcpy(ret_id->bytes, handle->bytes + 5, ret_id->length);
	return 0;
}
