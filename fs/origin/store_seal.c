#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "fs/origin/credentials.h"
#include "fs/origin/store_private.h"
#include "lease/seal.h"

/*
 * A seal is two attributes of the inode, SEAL_XATTR and, of a regular file, FINAL_XATTR, which stays when
 * the seal is taken away. Both name the inode: copies of the file (cp -a by root) carry them along, and
 * are not sealed by that. The store's own immutable flag is set last and taken away first, so that
 * whatever a crash interrupts is repeated by doing it again.
 */

#define VALUE_VERSION "1 "
#define VALUE_BYTES_MAX 256
#define VALUE_NAME_BYTES (sizeof(VALUE_VERSION) + 2 * (1 + FILE_HANDLE_BYTES_MAX) + 1)

/* What a value begins with: the inode that it is about. */
static size_t value_name(const struct file_id *id, char ret_text[VALUE_NAME_BYTES])
{
	char *at = ret_text + sprintf(ret_text, VALUE_VERSION "%02x", (unsigned)id->type & 0xff);

	for (uint8_t i = 0; i < id->length; i++)
		at += sprintf(at, "%02x", id->bytes[i]);
	*at++ = ' ';
	return (size_t)(at - ret_text);
}

/*
 * 1: the inode has the attribute, and it is its own; 0: not; or -errno. *ret_term: the code of its term,
 * which stands behind the time; 0: it has none.
 */
static int has(const char *path, bool follow, const struct file_id *id, const char *name,
	       uint32_t *ret_term)
{
	char value[VALUE_BYTES_MAX], expected[VALUE_NAME_BYTES];
	size_t bytes = value_name(id, expected);
	ssize_t length = follow ? getxattr(path, name, value, sizeof(value) - 1) :
				  lgetxattr(path, name, value, sizeof(value) - 1);
	unsigned term;

	if (length < 0)
		return errno == ENODATA || errno == EOPNOTSUPP || errno == ERANGE ? 0 : -errno;
	if ((size_t)length < bytes || memcmp(value, expected, bytes) != 0)
		return 0;
	value[length] = '\0';
	*ret_term = 0;
	if (sscanf(value + bytes, "%*d %u", &term) == 1 && term <= SEAL_TERM_CODE_MAX)
		*ret_term = term;
	return 1;
}

static int inode_has(const struct inode *inode, const char *name, uint32_t *ret_term)
{
	char path[PROC_PATH_BYTES];

	store_proc_path(inode->fd, path);
	return has(path, true, &inode->identity.id, name, ret_term);
}

uint32_t store_seal_marks(const char *path, bool follow, const struct file_id *id)
{
	uint32_t marks = 0, term;

	/* What cannot be told is not said: the mark promises something. */
	if (has(path, follow, id, SEAL_XATTR, &term) > 0)
		marks |= MARK_SEALED | term << MARK_TERM_SHIFT;
	if (has(path, follow, id, FINAL_XATTR, &term) > 0)
		marks |= MARK_FINAL;
	return marks;
}

int store_check_seal(const struct inode *inode, bool data)
{
	uint32_t term;
	/* What is sealed is final, too. */
	int found = inode_has(inode, data && S_ISREG(inode->type) ? FINAL_XATTR : SEAL_XATTR, &term);

	return found > 0 ? -EPERM : found;
}

int store_seal_term(const struct inode *inode, struct duration *ret_term)
{
	uint32_t term = 0;
	int found = inode_has(inode, SEAL_XATTR, &term);

	if (found < 0)
		return found;
	*ret_term = seal_term_of_code(found ? term : 0);
	return 0;
}

/* ---- sealing ---- */

/* 0, also where the store has no such flag. */
static int set_immutable(const struct inode *inode, bool on)
{
	char path[PROC_PATH_BYTES];
	int fd, flags, error = 0;

	if (!S_ISREG(inode->type) && !S_ISDIR(inode->type))
		return 0;
	store_proc_path(inode->fd, path);
	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 && !(flags & FS_IMMUTABLE_FL) == on) {
		flags ^= FS_IMMUTABLE_FL;
		if (ioctl(fd, FS_IOC_SETFLAGS, &flags) < 0)
			error = -errno;
	}
	close(fd);
	/* Without it the origin refuses all the same; with it nothing else can be undone. */
	return on ? 0 : error;
}

/* PROTOCOL.md 11.4: a term is never made shorter, since somebody may rely on it who cannot be told. */
static int set(const struct inode *inode, const char *name, uint32_t term)
{
	char value[VALUE_BYTES_MAX], path[PROC_PATH_BYTES];
	size_t length = value_name(&inode->identity.id, value);
	uint32_t present = 0;
	int found = inode_has(inode, name, &present);

	if (found < 0)
		return found;
	if (found && term <= present)
		return 0;
	if (found) {
		int error = set_immutable(inode, false);

		if (error)
			return error;
	}
	length += (size_t)sprintf(value + length, "%lld %u", (long long)time(NULL), term);
	store_proc_path(inode->fd, path);
	return setxattr(path, name, value, length, 0) < 0 ? -errno : 0;
}

int store_seal(struct store *s, const struct credential *caller, struct inode *inode, uint32_t term)
{
	struct stat st;
	int error;

	if (s->read_only)
		return -EROFS;
	if (caller->uid != 0)
		return -EPERM;
	error = credentials_assume(caller);
	if (error)
		return error;
	/* An orphan has to go when it is closed. */
	if (fstat(inode->fd, &st) < 0)
		return -errno;
	if (st.st_nlink == 0 || (!S_ISDIR(inode->type) && st.st_nlink == 1 &&
				 store_orphan_known(s, &inode->identity.id)))
		return -ENOENT;
	if (S_ISREG(inode->type))
		error = set(inode, FINAL_XATTR, 0);
	if (!error)
		error = set(inode, SEAL_XATTR, term);
	return error ? error : set_immutable(inode, true);
}

int store_unseal(struct store *s, const struct credential *caller, struct inode *inode)
{
	char path[PROC_PATH_BYTES];
	uint32_t term;
	int error;

	if (s->read_only)
		return -EROFS;
	if (caller->uid != 0)
		return -EPERM;
	error = credentials_assume(caller);
	if (error)
		return error;
	error = inode_has(inode, SEAL_XATTR, &term);
	if (error <= 0)
		return error ? error : -ENODATA;
	error = set_immutable(inode, false);
	if (error)
		return error;
	store_proc_path(inode->fd, path);
	return removexattr(path, SEAL_XATTR) < 0 ? -errno : 0;
}
