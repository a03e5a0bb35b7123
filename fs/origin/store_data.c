#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fs/origin/credentials.h"
#include "fs/origin/store_private.h"
#include "lease/seal.h"
#include "prefetch/rules.h"

#define DATA_RUNS_MAX 16 /* of a read: beyond it the holes in between and behind are sent */
#define RESERVED_XATTR "user.leasehold."
#define LACKS_NAMES_BYTES 4096 /* with more names than that nothing is said of what is lacking */

/* ---- access ---- */

static int mode_of_access(unsigned access)
{
	return (access & OPEN_ACCESS_READ ? R_OK : 0) | (access & OPEN_ACCESS_WRITE ? W_OK : 0);
}

/* The kernel decides, access control lists included. 0 or -errno. */
static int ask_kernel(const struct credential *caller, const struct inode *inode, int mode)
{
	int error = credentials_assume(caller);

	if (error)
		return error;
	return syscall(SYS_faccessat2, inode->fd, "", mode, AT_EMPTY_PATH | AT_EACCESS) < 0 ?
		       -errno : 0;
}

static int access_now(const struct credential *caller, struct inode *inode, unsigned access,
		      bool owner_override)
{
	struct stat st;
	int error;

	if (caller->uid == 0)
		return 0;
	if (owner_override) {
		if (fstat(inode->fd, &st) < 0)
			return -errno;
		if (st.st_uid == caller->uid)
			return 0;
	}
	error = ask_kernel(caller, inode, mode_of_access(access));
	if (error != -EACCES || access != OPEN_ACCESS_READ || !S_ISREG(inode->type))
		return error;
	/* Who may execute it reads it page by page: the host cannot tell the two apart. */
	return ask_kernel(caller, inode, X_OK);
}

int store_access(struct store *s, const struct credential *caller, struct inode *inode,
		 unsigned access, bool opened)
{
	if ((access & OPEN_ACCESS_WRITE) && s->read_only)
		return -EROFS;
	return opened && !s->root_squash ? 0 : access_now(caller, inode, access, opened);
}

int store_may_open(struct store *s, const struct credential *caller, struct inode *inode,
		   unsigned access)
{
	if ((access & OPEN_ACCESS_WRITE) && s->read_only)
		return -EROFS;
	return caller->uid == 0 ? 0 : ask_kernel(caller, inode, mode_of_access(access));
}

/* ---- bytes ---- */

int store_read(struct store *s, const struct credential *caller, struct inode *inode,
	       uint64_t offset, void *buffer, uint32_t count, uint32_t *ret_count)
{
	uint32_t done = 0;
	int fd, error;

	error = store_access(s, caller, inode, OPEN_ACCESS_READ, true);
	if (error)
		return error;
	if (offset > INT64_MAX - (uint64_t)count)
		return -EINVAL;
	fd = inodes_data_fd(s->inodes, inode, false);
	if (fd < 0)
		return fd;
	while (done < count) {
		ssize_t got = pread(fd, (char *)buffer + done, count - done,
				    (off_t)(offset + done));

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		done += (uint32_t)got;
	}
	*ret_count = done;
	return 0;
}

/* Where the data in [offset, offset+count) begin and end; false: there are none. */
static bool data_within(int fd, uint64_t offset, uint32_t count, uint64_t *ret_start,
			uint64_t *ret_end)
{
	uint64_t limit = offset + count, end = limit;
	off_t start = lseek(fd, (off_t)offset, SEEK_DATA), at = start;

	if (start < 0)
		return errno != ENXIO; /* a store that cannot tell */
	if ((uint64_t)start >= limit)
		return false;
	/* The end of the last data before the limit, if that is soon found. */
	for (unsigned i = 0; i < DATA_RUNS_MAX; i++) {
		off_t hole = lseek(fd, at, SEEK_HOLE);

		if (hole < 0 || (uint64_t)hole >= limit)
			break;
		at = lseek(fd, hole, SEEK_DATA);
		if (at < 0 || (uint64_t)at >= limit) {
			end = (uint64_t)hole;
			break;
		}
	}
	*ret_start = (uint64_t)start;
	*ret_end = end;
	return true;
}

int store_read_sparse(struct store *s, const struct credential *caller, struct inode *inode,
		      uint64_t offset, void *buffer, uint32_t count, uint32_t *ret_zeros,
		      uint32_t *ret_stored, uint32_t *ret_count)
{
	uint64_t start = offset, end = offset + count, size;
	uint32_t got = 0;
	struct stat st;
	int fd, error;

	*ret_zeros = 0;
	if (offset > INT64_MAX - (uint64_t)count)
		return -EINVAL;
	if (fstat(inode->fd, &st) < 0)
		return -errno;
	size = (uint64_t)st.st_size;
	if ((uint64_t)st.st_blocks * 512 >= size || offset >= size) {
		error = store_read(s, caller, inode, offset, buffer, count, ret_count);
		if (!error)
			*ret_stored = *ret_count;
		return error;
	}
	error = store_access(s, caller, inode, OPEN_ACCESS_READ, true);
	if (error)
		return error;
	fd = inodes_data_fd(s->inodes, inode, false);
	if (fd < 0)
		return fd;
	if (count > size - offset)
		count = (uint32_t)(size - offset);
	if (!data_within(fd, offset, count, &start, &end))
		start = end = offset;
	if (end > offset + count)
		end = offset + count;
	if (end > start) {
		error = store_read(s, caller, inode, start, buffer, (uint32_t)(end - start), &got);
		if (error)
			return error;
	}
	*ret_zeros = (uint32_t)(start - offset);
	*ret_stored = got;
	*ret_count = count;
	return 0;
}

/* Clears what a write clears by a root that lacks CAP_FSETID; of others the kernel does it. */
static int kill_suid_bits(int fd)
{
	struct stat st;
	mode_t drop = 0;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (st.st_mode & S_ISUID)
		drop |= S_ISUID;
	if ((st.st_mode & S_ISGID) && (st.st_mode & S_IXGRP))
		drop |= S_ISGID;
	if (drop && fchmod(fd, st.st_mode & 07777 & ~drop) < 0)
		return -errno;
	/* Capabilities of the file go, too; mostly there are none. */
	(void)fremovexattr(fd, "security.capability");
	return 0;
}

int store_write(struct store *s, const struct credential *caller, struct inode *inode,
		uint64_t offset, bool append, bool kill_suid, struct slice data,
		uint64_t *ret_offset, uint32_t *ret_count)
{
	struct stat st;
	size_t done = 0;
	int fd, error;

	error = store_access(s, caller, inode, OPEN_ACCESS_WRITE, true);
	if (error)
		return error;
	fd = inodes_data_fd(s->inodes, inode, true);
	if (fd < 0)
		return fd;
	/* As the caller: set-user-ID bits and capabilities go, and quotas count, as they would there. */
	error = credentials_assume(caller);
	if (error)
		return error;
	if (append) {
		if (fstat(fd, &st) < 0)
			return -errno;
		offset = (uint64_t)st.st_size;
	}
	if (offset > INT64_MAX - (uint64_t)data.length)
		return -EFBIG;
	if (kill_suid && caller->uid == 0) {
		error = kill_suid_bits(fd);
		if (error)
			return error;
	}
	inodes_mark_dirty(inode);
	while (done < data.length) {
		ssize_t put = pwrite(fd, data.data + done, data.length - done,
				     (off_t)(offset + done));

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0 && done > 0)
			break;
		if (put < 0)
			return -errno;
		if (put == 0)
			break;
		done += (size_t)put;
	}
	*ret_offset = offset;
	*ret_count = (uint32_t)done;
	return 0;
}

int store_truncate(struct store *s, const struct credential *caller, struct inode *inode,
		   uint64_t size)
{
	int fd, error;

	error = store_access(s, caller, inode, OPEN_ACCESS_WRITE, true);
	if (error)
		return error;
	if (size > INT64_MAX)
		return -EFBIG;
	fd = inodes_data_fd(s->inodes, inode, true);
	if (fd < 0)
		return fd;
	error = credentials_assume(caller);
	if (error)
		return error;
	inodes_mark_dirty(inode);
	return ftruncate(fd, (off_t)size) < 0 ? -errno : 0;
}

/* ---- attributes ---- */

static struct timespec time_of(uint32_t valid, uint32_t set, uint32_t now, uint64_t s, uint32_t ns)
{
	if (valid & now)
		return (struct timespec){ 0, UTIME_NOW };
	if (valid & set)
		return (struct timespec){ (time_t)s, (long)ns };
	return (struct timespec){ 0, UTIME_OMIT };
}

static int set_mode(const struct credential *caller, struct inode *inode,
		    const struct message_setattr *m)
{
	/* What others truncate or give away has lost these bits by now: the kernel saw to it. */
	bool kill = (m->valid & SETATTR_KILL_SUID) && caller->uid == 0;
	char path[PROC_PATH_BYTES];
	struct stat st;
	mode_t mode;

	if (!(m->valid & SETATTR_MODE) && !kill)
		return 0;
	if (fstat(inode->fd, &st) < 0)
		return -errno;
	mode = m->valid & SETATTR_MODE ? m->mode & 07777 : st.st_mode & 07777;
	if (kill) {
		mode &= ~(mode_t)S_ISUID;
		if (mode & S_IXGRP)
			mode &= ~(mode_t)S_ISGID;
	}
	if (!(m->valid & SETATTR_MODE) && mode == (st.st_mode & 07777))
		return 0;
	if (S_ISLNK(inode->type))
		return -EOPNOTSUPP;
	store_proc_path(inode->fd, path);
	return chmod(path, mode) < 0 ? -errno : 0;
}

int store_setattr(struct store *s, const struct credential *caller, struct inode *inode,
		  const struct message_setattr *m)
{
	const uint32_t times_valid = SETATTR_ATIME | SETATTR_MTIME | SETATTR_ATIME_NOW |
				     SETATTR_MTIME_NOW;
	int error;

	if (s->read_only)
		return -EROFS;
	if (((m->valid & SETATTR_ATIME) && m->atime_ns >= NS_PER_S) ||
	    ((m->valid & SETATTR_MTIME) && m->mtime_ns >= NS_PER_S))
		return -EINVAL;
	if (m->valid & SETATTR_SIZE) {
		error = store_truncate(s, caller, inode, m->size);
		if (error)
			return error;
	}
	error = credentials_assume(caller);
	if (error)
		return error;
	if (m->valid & (SETATTR_UID | SETATTR_GID)) {
		uid_t uid = m->valid & SETATTR_UID ? m->uid : (uid_t)-1;
		gid_t gid = m->valid & SETATTR_GID ? m->gid : (gid_t)-1;

		if (fchownat(inode->fd, "", uid, gid, AT_EMPTY_PATH) < 0)
			return -errno;
	}
	error = set_mode(caller, inode, m);
	if (error)
		return error;
	if (m->valid & times_valid) {
		struct timespec times[2] = {
			time_of(m->valid, SETATTR_ATIME, SETATTR_ATIME_NOW, m->atime_s,
				m->atime_ns),
			time_of(m->valid, SETATTR_MTIME, SETATTR_MTIME_NOW, m->mtime_s,
				m->mtime_ns),
		};

		if (utimensat(inode->fd, "", times, AT_EMPTY_PATH) < 0)
			return -errno;
	}
	return 0;
}

int store_readlink(struct store *s, struct inode *inode, char *buffer, size_t size,
		   size_t *ret_length)
{
	ssize_t length;

	if (!S_ISLNK(inode->type))
		return -EINVAL;
	length = readlinkat(inode->fd, "", buffer, size);
	if (length < 0)
		return -errno;
	*ret_length = (size_t)length;
	return 0;
}

int store_statfs(struct store *s, struct inode *inode, struct item_statfs *ret_statfs)
{
	struct statvfs st;

	if (fstatvfs(inode->fd, &st) < 0)
		return -errno;
	*ret_statfs = (struct item_statfs){
		.blocks = st.f_blocks,
		.blocks_free = st.f_bfree,
		.blocks_available = st.f_bavail,
		.files = st.f_files,
		.files_free = st.f_ffree,
		.block_bytes = (uint32_t)(st.f_frsize ? st.f_frsize : st.f_bsize),
		.name_bytes_max = (uint32_t)st.f_namemax,
	};
	return 0;
}

int store_fsync(struct store *s, struct inode *inode, bool data_only, struct synced *ret_synced)
{
	credentials_reset();
	return inodes_sync(s->inodes, inode, data_only, ret_synced);
}

/* ---- extended attributes ---- */

static bool is_seal_xattr(const char *name)
{
	return strncmp(name, SEAL_XATTRS, strlen(SEAL_XATTRS)) == 0;
}

/* The terminated name, when this caller may use it. */
static int xattr_name(const struct credential *caller, struct slice name, bool write,
		      char ret_name[NAME_BYTES_MAX + 1])
{
	if (name.length == 0 || name.length > NAME_BYTES_MAX)
		return name.length ? -ERANGE : -EINVAL;
	if (memchr(name.data, 0, name.length))
		return -EINVAL;
	memcpy(ret_name, name.data, name.length);
	ret_name[name.length] = 0;
	/* Answered by hosts, never stored, but for one. */
	if (strcmp(ret_name, POLICY_XATTR) != 0 &&
	    strncmp(ret_name, RESERVED_XATTR, strlen(RESERVED_XATTR)) == 0)
		return write ? -EINVAL : -ENODATA;
	/* CAP_SYS_ADMIN stays with the thread whoever it acts as, so this is ours to refuse. */
	if (caller->uid != 0 && strncmp(ret_name, "trusted.", 8) == 0)
		return write ? -EPERM : -ENODATA;
	if (write && caller->uid != 0 && strncmp(ret_name, "security.", 9) == 0)
		return -EPERM;
	return 0;
}

static uint32_t policy_mark(const char *path, bool follow)
{
	ssize_t length = follow ? getxattr(path, POLICY_XATTR, NULL, 0) :
				  lgetxattr(path, POLICY_XATTR, NULL, 0);

	return length > 0 ? MARK_POLICY : 0;
}

uint32_t store_lacks(const char *path, bool follow, const struct file_id *id)
{
	static const struct {
		const char *name;
		uint32_t bit;
	} known[] = { { "security.capability", LACKS_CAPABILITY },
		      { "security.selinux", LACKS_SELINUX },
		      { "system.posix_acl_access", LACKS_ACL },
		      { "system.posix_acl_default", LACKS_DEFAULT_ACL } };
	char names[LACKS_NAMES_BYTES];
	ssize_t length = follow ? listxattr(path, names, sizeof(names)) :
				  llistxattr(path, names, sizeof(names));
	bool marked = false;
	uint32_t lacks = 0;

	/* Too many to say what is lacking; the seal is looked for by name. */
	if (length < 0 && errno == ERANGE)
		return store_seal_marks(path, follow, id) | policy_mark(path, follow);
	if (length < 0)
		return errno == EOPNOTSUPP ? LACKS_CAPABILITY | LACKS_SELINUX | LACKS_ACL |
						     LACKS_DEFAULT_ACL : 0;
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		lacks |= known[i].bit;
	for (const char *at = names; at < names + length; at += strlen(at) + 1) {
		marked |= strncmp(at, SEAL_XATTRS, strlen(SEAL_XATTRS)) == 0;
		if (strcmp(at, POLICY_XATTR) == 0)
			lacks |= MARK_POLICY;
		for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
			if (strcmp(at, known[i].name) == 0)
				lacks &= ~known[i].bit;
	}
	return marked ? lacks | store_seal_marks(path, follow, id) : lacks;
}

int store_getxattr(struct store *s, const struct credential *caller, struct inode *inode,
		   struct slice name, void *buffer, size_t size, size_t *ret_length)
{
	char text[NAME_BYTES_MAX + 1], path[PROC_PATH_BYTES];
	ssize_t length;
	int error = xattr_name(caller, name, false, text);

	/* A policy is for everybody who may get here, not only for who may read the directory. */
	if (!error && strcmp(text, POLICY_XATTR) == 0)
		credentials_reset();
	else if (!error)
		error = credentials_assume(caller);
	if (error)
		return error;
	store_proc_path(inode->fd, path);
	length = getxattr(path, text, buffer, size);
	if (length < 0)
		return -errno;
	*ret_length = (size_t)length;
	return 0;
}

bool store_seal_value(struct slice value, uint32_t *ret_term)
{
	uint64_t ms = 0;

	if (value.length > 12)
		return false;
	for (size_t i = 0; i < value.length; i++) {
		if (value.data[i] < '0' || value.data[i] > '9')
			return false;
		ms = 10 * ms + (uint64_t)(value.data[i] - '0');
	}
	*ret_term = seal_term_code(value.length ? duration_ms(ms) :
						  (struct duration){ SEAL_TERM_DEFAULT_S * NS_PER_S });
	return *ret_term > 0;
}

static void *resize(void *context, void *pointer, size_t old_size, size_t size)
{
	(void)context;
	(void)old_size;
	if (size > 0)
		return realloc(pointer, size);
	free(pointer);
	return NULL;
}

const struct allocator store_allocator = { resize, NULL };

/* What makes no sense is not stored, so that the one before stays. Only root may seal, also so. */
static int check_policy(const struct credential *caller, const struct inode *inode, struct slice text)
{
	struct rules_error error;
	struct rules *rules;
	int r;

	if (!S_ISDIR(inode->type))
		return -ENOTDIR;
	if (text.length == 0)
		return -EINVAL; /* none is taken away, and not set */
	r = rules_compile(&store_allocator, text, &rules, &error);
	if (r < 0)
		return r;
	if (caller->uid != 0 && rules_sets(rules, RULES_SEAL))
		r = -EPERM;
	rules_destroy(rules);
	return r;
}

int store_setxattr(struct store *s, const struct credential *caller, struct inode *inode,
		   struct slice name, struct slice value, bool create, bool replace)
{
	char text[NAME_BYTES_MAX + 1], path[PROC_PATH_BYTES];
	int error = s->read_only ? -EROFS : xattr_name(caller, name, true, text);
	uint32_t term;

	if (!error && is_seal_xattr(text)) {
		if (strcmp(text, SEAL_XATTR) != 0)
			return -EPERM;
		if (create || replace || !store_seal_value(value, &term))
			return -EINVAL;
		return store_seal(s, caller, inode, term);
	}
	if (!error && strcmp(text, POLICY_XATTR) == 0)
		error = check_policy(caller, inode, value);
	if (!error)
		error = credentials_assume(caller);
	if (error)
		return error;
	if (value.length > XATTR_BYTES_MAX)
		return -E2BIG;
	store_proc_path(inode->fd, path);
	return setxattr(path, text, value.data, value.length,
			(create ? XATTR_CREATE : 0) | (replace ? XATTR_REPLACE : 0)) < 0 ?
		       -errno : 0;
}

static bool xattr_hidden(const struct credential *caller, const char *name)
{
	return strncmp(name, RESERVED_XATTR, strlen(RESERVED_XATTR)) == 0 || is_seal_xattr(name) ||
	       (caller->uid != 0 && strncmp(name, "trusted.", 8) == 0);
}

int store_listxattr(struct store *s, const struct credential *caller, struct inode *inode,
		    void *buffer, size_t size, size_t *ret_length)
{
	char path[PROC_PATH_BYTES], all[XATTR_BYTES_MAX];
	size_t used = 0;
	ssize_t length;
	int error = credentials_assume(caller);

	if (error)
		return error;
	store_proc_path(inode->fd, path);
	length = listxattr(path, all, sizeof(all));
	if (length < 0)
		return -errno;
	for (char *at = all; at < all + length; at += strlen(at) + 1) {
		size_t bytes = strlen(at) + 1;

		if (xattr_hidden(caller, at))
			continue;
		if (size && bytes > size - used)
			return -ERANGE;
		if (size)
			memcpy((char *)buffer + used, at, bytes);
		used += bytes;
	}
	*ret_length = used;
	return 0;
}

int store_removexattr(struct store *s, const struct credential *caller, struct inode *inode,
		      struct slice name)
{
	char text[NAME_BYTES_MAX + 1], path[PROC_PATH_BYTES];
	bool drops = slice_equal(name, slice_of("security.capability"));
	int error = s->read_only ? -EROFS : xattr_name(caller, name, true, text);

	if (!error && is_seal_xattr(text))
		return strcmp(text, SEAL_XATTR) == 0 ? store_unseal(s, caller, inode) : -EPERM;
	/* Who may write it drops its capabilities by that; a host's kernel asks for it first. */
	if (error == -EPERM && drops &&
	    access_now(caller, inode, OPEN_ACCESS_WRITE, true) == 0) {
		credentials_reset();
		error = 0;
	} else if (!error) {
		error = credentials_assume(caller);
	}
	if (error)
		return error;
	store_proc_path(inode->fd, path);
	return removexattr(path, text) < 0 ? -errno : 0;
}

/* ---- paths, for GET ---- */

int store_get_fd(struct store *s, int fd, struct inode **ret_inode)
{
	struct file_id id;
	int mount_id;
	int error = file_id_of(fd, "", &id, &mount_id);

	return error ? error : inodes_get(s->inodes, &id, ret_inode);
}

int store_open_path(struct store *s, const struct credential *caller, const char *path)
{
	struct open_how how = {
		.flags = O_PATH | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS |
			   RESOLVE_NO_XDEV,
	};
	size_t private_bytes = strlen(STORE_PRIVATE_NAME);
	char proc[PROC_PATH_BYTES];
	struct stat st;
	int path_fd, fd, error;

	while (*path == '/' || (path[0] == '.' && path[1] == '/'))
		path++;
	/* "x/../.leasehold" is cut off with every other "..", which no address needs. */
	if (strstr(path, "..") || (strncmp(path, STORE_PRIVATE_NAME, private_bytes) == 0 &&
				   (!path[private_bytes] || path[private_bytes] == '/')))
		return -ENOENT;
	error = credentials_assume(caller);
	if (error)
		return error;
	path_fd = (int)syscall(SYS_openat2, s->root_fd, *path ? path : ".", &how, sizeof(how));
	if (path_fd < 0)
		return -errno;
	/* Looked at before it is opened: opening a device or a fifo does something. */
	if (fstat(path_fd, &st) < 0 || (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))) {
		close(path_fd);
		return -ENOENT;
	}
	store_proc_path(path_fd, proc);
	fd = open(proc, O_RDONLY | O_CLOEXEC);
	error = fd < 0 ? -errno : 0;
	close(path_fd);
	return error ? error : fd;
}
