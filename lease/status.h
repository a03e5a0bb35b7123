/*
 * status.h - what a reply says happened: the one table between wire, HTTP and errno.
 *
 * Wire numbers are Leasehold's own and never change meaning; a platform's errno values do not
 * cross the wire. HTTP statuses are what a proxy log or curl shows; hosts read the number.
 * A test walks the table in both directions.
 */
#ifndef LEASE_STATUS_H
#define LEASE_STATUS_H

#include <errno.h>
#include <stdint.h>

/* S(NAME, wire number, HTTP status, errno on the host, text) */
#define LEASE_STATUSES(S)                                                                       \
	S(OK, 0, 200, 0, "done")                                                                \
	S(NOENT, 1, 404, ENOENT, "no such name")                                                \
	S(EXIST, 2, 409, EEXIST, "the name exists")                                             \
	S(NOTDIR, 3, 409, ENOTDIR, "not a directory")                                           \
	S(ISDIR, 4, 409, EISDIR, "is a directory")                                              \
	S(NOTEMPTY, 5, 409, ENOTEMPTY, "directory not empty")                                   \
	S(ACCES, 6, 403, EACCES, "permission denied")                                           \
	S(PERM, 7, 403, EPERM, "operation not permitted")                                       \
	S(ROFS, 8, 403, EROFS, "the export is read-only")                                       \
	S(STALE, 9, 410, ESTALE, "the inode is gone")                                           \
	S(BADHANDLE, 10, 403, ESTALE, "not a handle of this export")                            \
	S(INVAL, 11, 400, EINVAL, "invalid argument")                                           \
	S(NAMETOOLONG, 12, 400, ENAMETOOLONG, "name too long")                                  \
	S(NOSPC, 13, 507, ENOSPC, "no space left at the origin")                                \
	S(DQUOT, 14, 507, EDQUOT, "quota exceeded at the origin")                               \
	S(FBIG, 15, 413, EFBIG, "file too large")                                               \
	S(XDEV, 16, 409, EXDEV, "crosses a file system of the origin")                          \
	S(MLINK, 17, 409, EMLINK, "too many links")                                             \
	S(LOOP, 18, 409, ELOOP, "too many symbolic links")                                      \
	S(NODATA, 19, 404, ENODATA, "no such attribute")                                        \
	S(RANGE, 20, 400, ERANGE, "buffer too small")                                           \
	S(NOTSUP, 21, 501, EOPNOTSUPP, "not supported by the origin's store")                   \
	S(TOOBIG, 22, 413, E2BIG, "attribute too large")                                        \
	S(BUSY, 23, 409, EBUSY, "busy")                                                         \
	S(NXIO, 24, 416, ENXIO, "no data there")                                                \
	S(TXTBSY, 25, 409, ETXTBSY, "text file busy")                                           \
	S(IO, 26, 500, EIO, "the origin's store failed")                                        \
	S(NOMEM, 27, 503, ENOMEM, "the origin is out of memory")                                \
	S(BADMESSAGE, 64, 400, EPROTO, "malformed message")                                     \
	S(VERSION, 65, 426, EPROTONOSUPPORT, "no common protocol version")                      \
	S(NOEXPORT, 66, 404, ENOENT, "the origin has no such export")                           \
	S(FORBIDDEN, 67, 403, EACCES, "this host may not use the export")                       \
	S(NOSESSION, 68, 401, EIO, "the session has ended; open a new one")                     \
	S(SUPERSEDED, 69, 409, EIO, "a newer request used this slot")                           \
	S(UNKNOWNOUTCOME, 70, 500, EIO, "the origin restarted while the request was under way") \
	S(PUSHBACK, 71, 429, EAGAIN, "the origin is full; try again later")                     \
	S(DEADLINE, 72, 504, ETIMEDOUT, "not done within the deadline")                         \
	S(DRAINING, 73, 503, EAGAIN, "the origin is stopping")                                  \
	S(SEALED, 74, 403, EPERM, "the file is sealed")                                         \
	S(NOLEASE, 90, 409, EIO, "the lease that it was stored under is lost")                    \
	S(LOCKED, 100, 423, EAGAIN, "somebody else has a lock there")                            \
	S(LOCKWAITS, 101, 202, EINPROGRESS, "the lock is waited for; an offer follows")          \
	S(DEADLOCK, 102, 409, EDEADLK, "to wait for the lock would be a deadlock")               \
	S(NOLOCK, 103, 503, ENOLCK, "the origin has no room for more locks")

#define STATUS_ENUM(name, number, http, error, text) STATUS_##name = number,
enum status { LEASE_STATUSES(STATUS_ENUM) };
#undef STATUS_ENUM

/* The errno of a status as a positive number; EIO for a number that the table lacks. */
int status_errno(uint16_t status);
/* The status of a positive errno of the origin's store; STATUS_IO for what the table lacks. */
uint16_t status_of_errno(int error);
int status_http(uint16_t status);
/* Never NULL. */
const char *status_text(uint16_t status);
const char *status_name(uint16_t status);

#endif
