/*
 * handle.h - what a wire handle is made of: export, kernel file handle, MAC.
 *
 *   u32 export id | u8 type of the kernel handle | its bytes | 8 bytes MAC
 *
 * The MAC is keyed with a secret in the state directory and covers the identity of the export's
 * root directory too, so that neither an invented handle nor one of another export, nor one of the
 * same export name on another directory, is ever opened. Handles are stable across restarts.
 * Immutable after handle_key_load(); any thread.
 */
#ifndef FS_ORIGIN_HANDLE_H
#define FS_ORIGIN_HANDLE_H

#include "fs/origin/siphash.h"
#include "lease/base/types.h"

#define HANDLE_OVERHEAD_BYTES (4 + 1 + 8)
#define FILE_HANDLE_BYTES_MAX (HANDLE_BYTES_MAX - HANDLE_OVERHEAD_BYTES)

/* The kernel's name of an inode on its file system: struct file_handle with a fixed bound. */
struct file_id {
	int type;
	uint8_t length;
	uint8_t bytes[FILE_HANDLE_BYTES_MAX];
};

struct handle_key {
	uint8_t mac[SIPHASH_KEY_BYTES];
	uint8_t spread[2][SIPHASH_KEY_BYTES]; /* for the change table's 128-bit keys */
};

/* What the handles of one export have in common. */
struct handle_space {
	struct handle_key key;
	uint32_t export_id;
	struct file_id root;
};

/* Reads the key from `state_fd`/`name`, made on first use (0600). 0 or -errno. */
int handle_key_load(int state_fd, const char *name, struct handle_key *ret_key) MUST_CHECK;

/* The id of an export, from its name: the same in every run. */
uint32_t handle_export_id(const char *name);

/*
 * The kernel's handle of directory_fd/name (name "": of directory_fd itself, which may be O_PATH).
 * Symlinks are not followed. 0 or -errno: -EOPNOTSUPP when the file system has none, -EOVERFLOW
 * when it is longer than fits.
 */
int file_id_of(int directory_fd, const char *name, struct file_id *ret_id, int *ret_mount_id)
	MUST_CHECK;
/* open_by_handle_at(); needs CAP_DAC_READ_SEARCH. The descriptor or -errno. */
int file_id_open(int mount_fd, const struct file_id *id, int flags) MUST_CHECK;
bool file_id_equal(const struct file_id *a, const struct file_id *b);

void handle_make(const struct handle_space *space, const struct file_id *id,
		 struct handle *ret_handle);
/* 0, or -EBADMSG when `handle` was not made by handle_make() with the same space. */
int handle_parse(const struct handle_space *space, const struct handle *handle,
		 struct file_id *ret_id) MUST_CHECK;

#endif
