/*
 * message.h - every message between host and origin, from one description.
 *
 * The tables below are the wire format. Structs, encoder, decoder and printer are generated from
 * them, and the fuzz target runs decode, encode, decode over them, so none can drift.
 *
 * A message on the wire is: u16 type, then its fields in order, little-endian, nothing else. In an
 * HTTP body it stands behind its length (u32), and bulk data (file bytes, directory entries, an
 * xattr's value, a link's target) follows it as it is. PROTOCOL.md section 2 names paths.
 *
 * Lists inside a message (nodes, handles, names) are slices of encoded items: iterate with
 * item_*_read() over a reader; nothing is allocated. Slices in a decoded message borrow from the
 * buffer that was decoded. No function here keeps state; any thread.
 */
#ifndef LEASE_MESSAGE_H
#define LEASE_MESSAGE_H

#include "lease/base/bytes.h"
#include "lease/base/types.h"

#define PROTOCOL_VERSION_MIN 1
#define PROTOCOL_VERSION_MAX 1

#define MESSAGE_BYTES_MAX (64u << 10) /* one encoded message without bulk data */
#define BULK_BYTES_MAX (1u << 20)     /* data behind one message; I4's chunk */
#define NAME_BYTES_MAX 255u
#define LINK_TARGET_BYTES_MAX 4095u
#define XATTR_BYTES_MAX (64u << 10)
#define GROUPS_MAX 64u

/*
 * Field types: U8 U16 U32 U64, HANDLE, CHANGE, NAME (u8 length, at most 255 bytes),
 * BYTES (u32 length, at most MESSAGE_BYTES_MAX), CREDENTIAL, ATTRIBUTES.
 */

/* What every request about the namespace begins with. */
#define COMMON_FIELDS(F)                                                                        \
	F(U64, session)      /* 0: none (only before a session is open) */                      \
	F(U32, slot)         /* of the session; modifying requests only */                      \
	F(U64, sequence)     /* in the slot, from 1, +1 each; 0: not a modifying request */     \
	F(U32, deadline_ms)  /* from arrival; the origin answers DEADLINE after it */           \
	F(CREDENTIAL, credential)

/* M(name, type number) - numbers never change meaning and are never reused. */
#define LEASE_MESSAGES(M)                                                                       \
	M(session_open, 1)                                                                      \
	M(session_opened, 2)                                                                    \
	M(keepalive, 3)                                                                         \
	M(kept_alive, 4)                                                                        \
	M(recall, 5)                                                                            \
	M(recall_acknowledge, 6)                                                                \
	M(lease_release, 7)                                                                     \
	M(reclaim, 8)                                                                           \
	M(reclaimed, 9)                                                                         \
	M(session_close, 10)                                                                    \
	M(acknowledged, 11)                                                                     \
	M(recall_stream, 12)                                                                    \
	M(lock_offer, 13)                                                                       \
	M(lock_settle, 14)                                                                      \
	M(lock_reclaim, 15)                                                                     \
	M(lock_reclaimed, 16)                                                                   \
	M(reply, 32)                                                                            \
	M(lookup, 33)                                                                           \
	M(getattr, 34)                                                                          \
	M(setattr, 35)                                                                          \
	M(read, 36)                                                                             \
	M(write, 37)                                                                            \
	M(create, 38)                                                                           \
	M(open, 39)                                                                             \
	M(close, 40)                                                                            \
	M(readdir, 41)                                                                          \
	M(mknod, 42)                                                                            \
	M(symlink, 43)                                                                          \
	M(readlink, 44)                                                                         \
	M(link, 45)                                                                             \
	M(unlink, 46)                                                                           \
	M(rename, 47)                                                                           \
	M(statfs, 48)                                                                           \
	M(fsync, 49)                                                                            \
	M(getxattr, 50)                                                                         \
	M(setxattr, 51)                                                                         \
	M(listxattr, 52)                                                                        \
	M(removexattr, 53)                                                                      \
	M(fallocate, 54)                                                                        \
	M(seek, 55)                                                                             \
	M(copy_range, 56)                                                                       \
	M(tmpfile, 57)                                                                          \
	M(lock, 60)                                                                             \
	M(lock_answer, 61)                                                                      \
	M(lock_test, 62)                                                                        \
	M(read_exclusive, 70)                                                                   \
	M(write_back, 71)

/* ---- session and leases: the control connection ---- */

#define FIELDS_session_open(F)                                                                  \
	F(U16, version_min)                                                                     \
	F(U16, version_max)                                                                     \
	F(BYTES, host)            /* the host's lasting identity, 16 bytes, kept in its cache */  \
	F(U64, instance)          /* random per run of the daemon */                            \
	F(U64, previous_session)  /* of this host, 0: none; it is ended, its leases reclaimable */ \
	F(NAME, export)                                                                         \
	F(U32, slot_count)        /* wanted */                                                  \
	F(U8, locks)              /* 1: locks were held under the previous session */

#define FIELDS_session_opened(F)                                                                \
	F(U16, status)                                                                          \
	F(U16, version)                                                                         \
	F(U64, session)                                                                         \
	F(U64, epoch)             /* of the origin; a host never goes back to a lower one */    \
	F(U64, incarnation)       /* of the store */                                            \
	F(U32, term_ms)                                                                         \
	F(U32, drift_ppm)         /* the margin both sides apply: PROTOCOL.md section 4 */      \
	F(U32, slot_count)                                                                      \
	F(U32, lease_count_max)   /* per session */                                             \
	F(U32, grace_ms)          /* left of the origin's grace; 0: none */                     \
	F(U8, reclaim)            /* 1: reclaim what you hold, then send reclaim with `last` */ \
	F(U8, locks)              /* 1: reclaim the locks first; 0: they are lost */            \
	F(U8, read_only)                                                                        \
	F(BYTES, root)            /* one node item: the export's root */                        \
	F(BYTES, addresses)       /* name items: where else this origin is served */

#define FIELDS_keepalive(F)                                                                     \
	F(U64, session)                                                                         \
	F(U64, recall_sequence)   /* the highest that this host received on the stream */

#define FIELDS_kept_alive(F)                                                                    \
	F(U16, status)                                                                          \
	F(U32, term_ms)                                                                         \
	F(U64, recall_sequence)   /* the highest that the origin has issued */

/* On the recall stream only. */
#define FIELDS_recall(F)                                                                        \
	F(U64, sequence)          /* of the session, from 1, +1 each */                         \
	F(U8, scope)              /* enum recall_scope */                                       \
	F(HANDLE, handle)                                                                       \
	F(BYTES, names)           /* name items, with RECALL_NAMES */

#define FIELDS_recall_acknowledge(F)                                                            \
	F(U64, session)                                                                         \
	F(BYTES, items)           /* acknowledgement items */

#define FIELDS_lease_release(F)                                                                 \
	F(U64, session)                                                                         \
	F(BYTES, handles)         /* handle items; the origin recalls each: section 5.6 */

#define FIELDS_reclaim(F)                                                                       \
	F(U64, session)                                                                         \
	F(U8, last)               /* 1: nothing more will be reclaimed */                       \
	F(BYTES, items)           /* claim items */

#define FIELDS_reclaimed(F)                                                                     \
	F(U16, status)                                                                          \
	F(U64, recall_sequence)                                                                 \
	F(BYTES, confirmed)       /* one byte a claim, in order: enum confirmed */

#define FIELDS_session_close(F) F(U64, session)

#define FIELDS_acknowledged(F) F(U16, status)

#define FIELDS_recall_stream(F)                                                                 \
	F(U64, session)                                                                         \
	F(U64, recall_sequence)   /* the highest received; unacknowledged ones come again */

/* ---- advisory locks: PROTOCOL.md 10 ---- */

#define LOCK_REQUEST_FIELDS(F)                                                                  \
	F(HANDLE, handle)                                                                       \
	F(U8, kind)               /* enum lock_kind */                                          \
	F(U8, type)               /* enum lock_type */                                          \
	F(U64, owner)             /* of the host; one space of numbers for each kind */         \
	F(U32, pid)               /* of the process, in the host's eyes */                      \
	F(U64, start)                                                                           \
	F(U64, end)               /* inclusive */

/* Locks, unlocks, converts. Done once: repetitions have the same id. */
#define FIELDS_lock(F)                                                                          \
	F(U64, session)                                                                         \
	F(U64, id)                /* of the session's requests, from 1, +1 each */              \
	LOCK_REQUEST_FIELDS(F)                                                                  \
	F(U64, waiter)            /* 0: do not wait; else never used twice in the session */

/* What is in the way of such a lock? Type LOCK_TYPE_NONE in the answer: nothing. */
#define FIELDS_lock_test(F)                                                                     \
	F(U64, session)                                                                         \
	LOCK_REQUEST_FIELDS(F)

/* The answer to both. */
#define FIELDS_lock_answer(F)                                                                   \
	F(U16, status)                                                                          \
	F(U8, type)                                                                             \
	F(U8, own)                /* 1: it is held under the session that asks */               \
	F(U32, pid)                                                                             \
	F(U64, start)                                                                           \
	F(U64, end)

/* On the recall stream: OK, the lock is there to be taken; DEADLOCK, it never will be. */
#define FIELDS_lock_offer(F)                                                                    \
	F(U16, status)                                                                          \
	F(U64, waiter)

/* Takes an offered lock, or waits no longer. Answered by `acknowledged`. */
#define FIELDS_lock_settle(F)                                                                   \
	F(U64, session)                                                                         \
	F(U64, waiter)                                                                          \
	F(U8, take)

#define FIELDS_lock_reclaim(F)                                                                  \
	F(U64, session)                                                                         \
	F(U8, last)               /* 1: these are the last */                                   \
	F(BYTES, items)           /* lock_claim items */

#define FIELDS_lock_reclaimed(F)                                                                \
	F(U16, status)                                                                          \
	F(BYTES, confirmed)       /* one byte a claim, in order: 1 held, 0 lost */

/* ---- the namespace: every request is answered by `reply` ---- */

#define FIELDS_reply(F)                                                                         \
	F(U16, status)                                                                          \
	F(U64, recall_sequence)   /* of the session, when the grants below were made (I3) */    \
	F(U64, incarnation)       /* of the store, when this was done */                        \
	F(U64, offset)            /* write: where it went; readdir: cookie to go on from;       \
	                             read: zeros before the bulk data; fsync: section 2.4 */    \
	F(U32, count)             /* write, copy_range: bytes written; read: bytes, with zeros; \
	                             readdir: entries in the bulk data;                         \
	                             getxattr and listxattr with size 0: bytes needed */        \
	F(U8, eof)                /* read, readdir, lookup's first bytes: nothing behind it */  \
	F(BYTES, nodes)           /* node items: what the request touched */

#define FIELDS_lookup(F)                                                                        \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, directory)                                                                    \
	F(NAME, name)                                                                           \
	F(U32, data_bytes_max)    /* answer with the whole file when it is not larger */

#define FIELDS_getattr(F)                                                                       \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, handle)

#define FIELDS_setattr(F)                                                                       \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, handle)                                                                       \
	F(U32, valid)             /* enum setattr_valid */                                      \
	F(U32, mode)                                                                            \
	F(U32, uid)                                                                             \
	F(U32, gid)                                                                             \
	F(U64, size)                                                                            \
	F(U64, atime_s)                                                                         \
	F(U32, atime_ns)                                                                        \
	F(U64, mtime_s)                                                                         \
	F(U32, mtime_ns)                                                                        \
	F(U8, through_descriptor) /* 1: of a descriptor open for writing, which may truncate */

#define FIELDS_read(F)                                                                          \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, handle)                                                                       \
	F(U64, offset)                                                                          \
	F(U32, count)             /* at most BULK_BYTES_MAX */                                  \
	F(U8, strict)             /* enum read_strict */

/* A read with READ_STRICT and READ_HOLES that asks for the write lease, section 5.7. */
#define FIELDS_read_exclusive(F)                                                                \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, handle)                                                                       \
	F(U64, offset)                                                                          \
	F(U32, count)             /* at most BULK_BYTES_MAX */

/* Bytes that were stored under the write lease (the bulk data). Never makes a file larger. */
#define FIELDS_write_back(F)                                                                    \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, handle)                                                                       \
	F(U64, offset)                                                                          \
	F(U64, lease_sequence)    /* recall_sequence of the answer that granted the lease */

/* The bytes are the bulk data. */
#define FIELDS_write(F)                                                                         \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, handle)                                                                       \
	F(U64, offset)                                                                          \
	F(U8, append)             /* 1: the origin chooses the offset */                        \
	F(U8, flags)              /* enum write_flag; WRITE_SYNC_SHIFT */

#define FIELDS_create(F)                                                                        \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, directory)                                                                    \
	F(NAME, name)                                                                           \
	F(U32, mode)              /* with a umask and access: MODE_UMASK_SHIFT, MODE_ACCESS_SHIFT */ \
	F(U8, exclusive)                                                                        \
	F(U8, truncate)

/* Checks access at the origin and registers an open (an inode unlinked later lives on for it). */
#define FIELDS_open(F)                                                                          \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, handle)                                                                       \
	F(U8, access)             /* bit 0 read, bit 1 write */                                 \
	F(U8, truncate)           /* 1: a modifying request */

/* The last local descriptor of an inode that the origin knows to be open here was closed. Its
   `sequence` numbers the closes of the session. */
#define FIELDS_close(F)                                                                         \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, handle)

/* Bulk data of the reply: dirent items. */
#define FIELDS_readdir(F)                                                                       \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, directory)                                                                    \
	F(U64, cookie)            /* 0: from the start */                                       \
	F(U32, count)             /* bytes of dirents at most, at most BULK_BYTES_MAX */        \
	F(U8, attributes)         /* 1: entries carry nodes */

/* Directories, fifos, sockets, device nodes and regular files that are not opened. */
#define FIELDS_mknod(F)                                                                         \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, directory)                                                                    \
	F(NAME, name)                                                                           \
	F(U32, mode)              /* with the type: S_IFDIR is mkdir; and a umask */            \
	F(U64, rdev)

#define FIELDS_symlink(F)                                                                       \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, directory)                                                                    \
	F(NAME, name)                                                                           \
	F(BYTES, target)

/* Bulk data of the reply: the target. */
#define FIELDS_readlink(F)                                                                      \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, handle)

#define FIELDS_link(F)                                                                          \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, handle)                                                                       \
	F(HANDLE, directory)                                                                    \
	F(NAME, name)

#define FIELDS_unlink(F)                                                                        \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, directory)                                                                    \
	F(NAME, name)                                                                           \
	F(U8, is_directory)       /* 1: rmdir */                                                \
	F(HANDLE, victim_open)    /* what this host has open under that name, if anything */

#define FIELDS_rename(F)                                                                        \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, directory)                                                                    \
	F(NAME, name)                                                                           \
	F(HANDLE, new_directory)                                                                \
	F(NAME, new_name)                                                                       \
	F(U32, flags)             /* enum rename_flag */                                        \
	F(HANDLE, victim_open)    /* what this host has open under new_name, if anything */

/* Bulk data of the reply: one statfs item. */
#define FIELDS_statfs(F)                                                                        \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, handle)

#define FIELDS_fsync(F)                                                                         \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, handle)                                                                       \
	F(U8, data_only)

/* Bulk data of the reply: the value. */
#define FIELDS_getxattr(F)                                                                      \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, handle)                                                                       \
	F(NAME, name)                                                                           \
	F(U32, size)              /* 0: how many bytes are needed */

/* The value is the bulk data. */
#define FIELDS_setxattr(F)                                                                      \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, handle)                                                                       \
	F(NAME, name)                                                                           \
	F(U8, create)             /* 1: fail if it exists */                                    \
	F(U8, replace)            /* 1: fail if it does not */

/* Bulk data of the reply: the names, each ended by a zero byte. */
#define FIELDS_listxattr(F)                                                                     \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, handle)                                                                       \
	F(U32, size)

#define FIELDS_removexattr(F)                                                                   \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, handle)                                                                       \
	F(NAME, name)

/* As fallocate(2): -EOPNOTSUPP (status NOTSUP) for what the store cannot do. */
#define FIELDS_fallocate(F)                                                                     \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, handle)                                                                       \
	F(U32, mode)              /* enum fallocate_mode */                                     \
	F(U64, offset)                                                                          \
	F(U64, length)

/* The reply's offset: where the next data, or the next hole, begins at or after `offset`. */
#define FIELDS_seek(F)                                                                          \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, handle)                                                                       \
	F(U64, offset)                                                                          \
	F(U8, hole)               /* 0: data; 1: a hole */

/* From `source` to `handle`, at the origin; shared where the store can. The reply's count: how many
   bytes, which can be fewer than were asked for; 0: `source` ends before. */
#define FIELDS_copy_range(F)                                                                    \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, source)                                                                       \
	F(U64, source_offset)                                                                   \
	F(HANDLE, handle)                                                                       \
	F(U64, offset)                                                                          \
	F(U64, length)            /* COPY_SYNC_SHIFT */

/* A regular file without a name in the file system of `directory`, open here (registered). */
#define FIELDS_tmpfile(F)                                                                       \
	COMMON_FIELDS(F)                                                                        \
	F(HANDLE, directory)                                                                    \
	F(U32, mode)

/* ---- items: what the lists are made of ---- */

#define LEASE_ITEMS(I)                                                                          \
	I(node) I(name) I(handle) I(claim) I(acknowledgement) I(dirent) I(statfs) I(lock_claim)

/*
 * An inode that a request touched. `before` and `change`: a reader of nothing but reads sees both
 * equal. After a modification `before` is what the inode was at when this modification alone moved
 * it to `change` (I4): a host that holds bytes at `before` may keep them at `change`.
 */
#define ITEM_FIELDS_node(F)                                                                     \
	F(U8, role)               /* enum node_role */                                          \
	F(U8, lease)              /* enum lease_kind granted on it, LEASE_NONE: none */         \
	F(U8, open)               /* 1: the origin has registered it as open here */            \
	F(HANDLE, handle)                                                                       \
	F(CHANGE, before)                                                                       \
	F(CHANGE, change)                                                                       \
	F(ATTRIBUTES, attributes)

#define ITEM_FIELDS_name(F) F(NAME, name)
#define ITEM_FIELDS_handle(F) F(HANDLE, handle)
#define ITEM_FIELDS_claim(F)                                                                    \
	F(U8, lease)                                                                            \
	F(U8, open)               /* 1: it is open here; register it */                         \
	F(HANDLE, handle)                                                                       \
	F(CHANGE, change)
#define ITEM_FIELDS_lock_claim(F) LOCK_REQUEST_FIELDS(F)
#define ITEM_FIELDS_acknowledgement(F)                                                          \
	F(U64, sequence)                                                                        \
	F(U8, open)               /* 1: the inode is open here */                               \
	F(U8, kept)               /* 1: the lease is kept (only for RECALL_NAMES) */
#define ITEM_FIELDS_dirent(F)                                                                   \
	F(U64, cookie)            /* of the entry behind this one */                            \
	F(U64, inode)                                                                           \
	F(U32, type)              /* S_IFMT bits */                                             \
	F(NAME, name)                                                                           \
	F(BYTES, node)            /* one node item, or nothing */
#define ITEM_FIELDS_statfs(F)                                                                   \
	F(U64, blocks)                                                                          \
	F(U64, blocks_free)                                                                     \
	F(U64, blocks_available)                                                                \
	F(U64, files)                                                                           \
	F(U64, files_free)                                                                      \
	F(U32, block_bytes)                                                                     \
	F(U32, name_bytes_max)

/* Fields of ATTRIBUTES, in order. Times are seconds since 1970 as two's complement. */
#define ATTRIBUTE_FIELDS(F)                                                                     \
	F(U64, inode)                                                                           \
	F(U64, size)                                                                            \
	F(U64, blocks)            /* of 512 bytes */                                            \
	F(U64, rdev)                                                                            \
	F(U32, mode)              /* in the upper half: attribute_lacks, attribute_marks */     \
	F(U32, nlink)                                                                           \
	F(U32, uid)                                                                             \
	F(U32, gid)                                                                             \
	F(U64, atime_s)                                                                         \
	F(U64, mtime_s)                                                                         \
	F(U64, ctime_s)                                                                         \
	F(U32, atime_ns)                                                                        \
	F(U32, mtime_ns)                                                                        \
	F(U32, ctime_ns)

enum lease_kind {
	LEASE_NONE = 0,
	LEASE_READ = 1,
	LEASE_WRITE = 2, /* exclusive: section 5.7 */
};

/* What became of a claim: section 6.3. */
enum confirmed {
	CONFIRMED_NOT = 0,
	CONFIRMED = 1,
	CONFIRMED_ELSEWHERE = 2, /* the write lease; the inode is at another change (6.4) */
};

enum recall_scope {
	RECALL_ALL = 0,   /* give up the lease: data, attributes, xattrs, names, listing */
	RECALL_NAMES = 1, /* of a directory: drop these names, the listing and the attributes;
	                     the lease may be kept, and names that are not listed stay good */
};

enum node_role {
	NODE_TARGET = 0,        /* what the request is about, or what a name led to */
	NODE_DIRECTORY = 1,     /* the directory of `name` */
	NODE_NEW_DIRECTORY = 2, /* rename: of `new_name`, when it is another one */
	NODE_REPLACED = 3,      /* rename, unlink: what the name led to before */
};

/*
 * Extended attributes that kernels ask for all the time, which the inode does not have. Without the
 * bit it may have the attribute. st_mode is the lower half of `mode`.
 */
enum attribute_lacks {
	LACKS_CAPABILITY = 1 << 16,  /* security.capability */
	LACKS_SELINUX = 1 << 17,     /* security.selinux */
	LACKS_ACL = 1 << 18,         /* system.posix_acl_access */
	LACKS_DEFAULT_ACL = 1 << 19, /* system.posix_acl_default */
};
#define ATTRIBUTE_MODE_MASK 0xffffu

/* The same half says what is sealed: section 11. */
enum attribute_marks {
	MARK_SEALED = 1 << 20, /* nothing of it can be modified */
	MARK_FINAL = 1 << 21,  /* a file that is, or was, sealed: its bytes and size never change */
};
#define MARK_POLICY (1 << 30)  /* of a directory: it has a policy, POLICY_XATTR */
#define MARK_TERM_SHIFT 22 /* eight bits: for how long a seal outlives a session (lease/seal.h) */
/* Set (to the term in ms, or empty) and removed: seals, unseals. Reading it is like any other. */
#define SEAL_XATTRS "trusted.leasehold."
#define SEAL_XATTR SEAL_XATTRS "seal"
#define FINAL_XATTR SEAL_XATTRS "final" /* the origin's own */
/* Set to the name of a host: an administrator says that it is dead. Read: who is silent (11.4). */
#define DEAD_XATTR SEAL_XATTRS "dead"
#define SILENT_XATTR SEAL_XATTRS "silent"

/* Of a directory: its policy (prefetch/rules.h), a text. The one name of user.leasehold.* that is stored. */
#define POLICY_XATTR "user.leasehold.policy"

enum setattr_valid {
	SETATTR_MODE = 1 << 0,
	SETATTR_UID = 1 << 1,
	SETATTR_GID = 1 << 2,
	SETATTR_SIZE = 1 << 3,
	SETATTR_ATIME = 1 << 4,
	SETATTR_MTIME = 1 << 5,
	SETATTR_ATIME_NOW = 1 << 6,
	SETATTR_MTIME_NOW = 1 << 7,
	SETATTR_KILL_SUID = 1 << 8,
};

enum rename_flag {
	RENAME_FLAG_NOREPLACE = 1 << 0,
	RENAME_FLAG_EXCHANGE = 1 << 1,
};

/* Of `mode` in create, mknod and tmpfile: type and permissions in the lower half; in the upper half
   the caller's umask, which the origin applies unless the directory has a default ACL. */
#define MODE_UMASK_SHIFT 16
#define MODE_WITH_UMASK(mode, umask)                                                            \
	(((uint32_t)(mode) & 0xffffu) | ((uint32_t)(umask) & 0777u) << MODE_UMASK_SHIFT)
/* Above it, of create: how a file that is there already is opened, enum open_access. 0: both ways. */
#define MODE_ACCESS_SHIFT 28

/*
 * Of a descriptor opened O_DSYNC or O_SYNC: what is done is durable before it is answered, with the
 * attributes that are needed to read it, or with all of them. In bits of a field that has them to spare.
 */
enum sync_kind { SYNC_NONE = 0, SYNC_DATA = 1, SYNC_ALL = 2 };
#define SYNC_MASK 3u
#define WRITE_SYNC_SHIFT 1      /* of `flags` in write */
#define FALLOCATE_SYNC_SHIFT 30 /* of `mode` in fallocate */
#define COPY_SYNC_SHIFT 62      /* of `length` in copy_range */

enum write_flag {
	WRITE_KILL_SUID = 1 << 0, /* clear set-user-ID and set-group-ID as a write does */
};

enum fallocate_mode {
	FALLOCATE_KEEP_SIZE = 1 << 0,
	FALLOCATE_PUNCH_HOLE = 1 << 1, /* with KEEP_SIZE */
	FALLOCATE_ZERO_RANGE = 1 << 2,
};

enum read_strict {
	READ_STRICT = 1 << 0, /* wait for a lease behind pending changes, section 5.4 */
	/*
	 * The answer may leave zeros out: `offset` of them come before the bulk data, and as many
	 * behind it as are missing to `count`.
	 */
	READ_HOLES = 1 << 1,
};

enum open_access {
	OPEN_ACCESS_READ = 1 << 0,
	OPEN_ACCESS_WRITE = 1 << 1,
};

/* Who asks, in the host's kernel. Groups are the supplementary ones. */
struct credential {
	uint32_t uid;
	uint32_t gid;
	uint32_t group_count; /* at most GROUPS_MAX */
	uint32_t groups[GROUPS_MAX];
};

#define C_U8 uint8_t
#define C_U16 uint16_t
#define C_U32 uint32_t
#define C_U64 uint64_t
#define C_HANDLE struct handle
#define C_CHANGE struct change
#define C_NAME struct slice
#define C_BYTES struct slice
#define C_CREDENTIAL struct credential
#define C_ATTRIBUTES struct attributes

#define STRUCT_FIELD(kind, name) C_##kind name;

struct attributes {
	ATTRIBUTE_FIELDS(STRUCT_FIELD)
};

struct request_common {
	COMMON_FIELDS(STRUCT_FIELD)
};

#define STRUCT_ITEM(name) struct item_##name { ITEM_FIELDS_##name(STRUCT_FIELD) };
LEASE_ITEMS(STRUCT_ITEM)
#undef STRUCT_ITEM

#define STRUCT_MESSAGE(name, number) struct message_##name { FIELDS_##name(STRUCT_FIELD) };
LEASE_MESSAGES(STRUCT_MESSAGE)
#undef STRUCT_MESSAGE
#undef STRUCT_FIELD

#define ENUM_MESSAGE(name, number) MESSAGE_##name = number,
enum message_type { LEASE_MESSAGES(ENUM_MESSAGE) };
#undef ENUM_MESSAGE

struct message {
	enum message_type type;
	union {
		/* Valid for the requests about the namespace: message_is_request(). */
		struct request_common common;
#define UNION_MESSAGE(name, number) struct message_##name name;
		LEASE_MESSAGES(UNION_MESSAGE)
#undef UNION_MESSAGE
	};
};

/* Appends the message. A field out of its bounds, or too small a buffer, sets w->failed. */
void message_encode(struct writer *w, const struct message *message);

/*
 * Decodes the whole of `bytes`: 0; -EBADMSG when it is short, long or out of bounds;
 * -EOPNOTSUPP for a type that this version does not know.
 */
int message_decode(struct slice bytes, struct message *ret_message) MUST_CHECK;

/* True for requests that begin with COMMON_FIELDS. */
bool message_is_request(enum message_type type);

/* "lookup"; "?" for an unknown type. */
const char *message_name(enum message_type type);

/*
 * Prints `name field=value ...` on one line into `text`, cut at `size`, always terminated. Returns
 * the length that it has. For logs and golden tests.
 */
size_t message_print(const struct message *message, char *text, size_t size);

/*
 * Items of lists. *_write appends one; *_read takes the next one: true, or false at the end of the
 * list and on malformed input (then r->failed is set).
 */
#define DECLARE_ITEM(name)                                                                      \
	void item_##name##_write(struct writer *w, const struct item_##name *item);             \
	bool item_##name##_read(struct reader *r, struct item_##name *ret_item) MUST_CHECK;
LEASE_ITEMS(DECLARE_ITEM)
#undef DECLARE_ITEM

#endif
