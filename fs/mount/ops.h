/*
 * ops.h - the low-level FUSE operations. Each answers from memory or cache, or hands a call to the
 * transport and returns: no FUSE thread waits for the network.
 */
#ifndef FS_MOUNT_OPS_H
#define FS_MOUNT_OPS_H

#include "fs/mount/state.h"

/* All of them, and what is negotiated with the kernel: mount.c */
extern const struct fuse_lowlevel_ops mount_operations;

/* names.c */
void op_lookup(fuse_req_t request, fuse_ino_t parent, const char *name);
void op_forget(fuse_req_t request, fuse_ino_t nodeid, uint64_t count);
void op_forget_multi(fuse_req_t request, size_t count, struct fuse_forget_data *forgets);
void op_forget_one(struct mount *m, uint64_t nodeid, uint64_t count);
void op_mknod(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void op_mkdir(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode);
void op_create(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode,
	       struct fuse_file_info *info);
void op_tmpfile(fuse_req_t request, fuse_ino_t parent, mode_t mode, struct fuse_file_info *info);
void op_unlink(fuse_req_t request, fuse_ino_t parent, const char *name);
void op_rmdir(fuse_req_t request, fuse_ino_t parent, const char *name);
void op_symlink(fuse_req_t request, const char *target, fuse_ino_t parent, const char *name);
void op_link(fuse_req_t request, fuse_ino_t nodeid, fuse_ino_t parent, const char *name);
void op_rename(fuse_req_t request, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
	       const char *new_name, unsigned flags);

/* attributes.c */
void op_getattr(fuse_req_t request, fuse_ino_t nodeid, struct fuse_file_info *info);
void op_setattr(fuse_req_t request, fuse_ino_t nodeid, struct stat *attr, int valid,
		struct fuse_file_info *info);
void op_readlink(fuse_req_t request, fuse_ino_t nodeid);
void op_statfs(fuse_req_t request, fuse_ino_t nodeid);

/* xattr.c */
void op_getxattr(fuse_req_t request, fuse_ino_t nodeid, const char *name, size_t size);
void op_setxattr(fuse_req_t request, fuse_ino_t nodeid, const char *name, const char *value,
		 size_t size, int flags);
void op_listxattr(fuse_req_t request, fuse_ino_t nodeid, size_t size);
void op_removexattr(fuse_req_t request, fuse_ino_t nodeid, const char *name);

/* data.c */
void op_open(fuse_req_t request, fuse_ino_t nodeid, struct fuse_file_info *info);
void op_read(fuse_req_t request, fuse_ino_t nodeid, size_t size, off_t offset,
	     struct fuse_file_info *info);
void op_write(fuse_req_t request, fuse_ino_t nodeid, const char *data, size_t size, off_t offset,
	      struct fuse_file_info *info);
void op_fallocate(fuse_req_t request, fuse_ino_t nodeid, int mode, off_t offset, off_t length,
		  struct fuse_file_info *info);
void op_lseek(fuse_req_t request, fuse_ino_t nodeid, off_t offset, int whence,
	      struct fuse_file_info *info);
void op_copy_file_range(fuse_req_t request, fuse_ino_t from, off_t from_offset,
			struct fuse_file_info *from_info, fuse_ino_t to, off_t offset,
			struct fuse_file_info *info, size_t length, int flags);
void op_flush(fuse_req_t request, fuse_ino_t nodeid, struct fuse_file_info *info);
void op_release(fuse_req_t request, fuse_ino_t nodeid, struct fuse_file_info *info);
void op_fsync(fuse_req_t request, fuse_ino_t nodeid, int data_only, struct fuse_file_info *info);

/* locks.c */
void op_getlk(fuse_req_t request, fuse_ino_t nodeid, struct fuse_file_info *info,
	      struct flock *flock);
void op_setlk(fuse_req_t request, fuse_ino_t nodeid, struct fuse_file_info *info,
	      struct flock *flock, int wait);
void op_flock(fuse_req_t request, fuse_ino_t nodeid, struct fuse_file_info *info, int operation);

/* directory.c */
void op_opendir(fuse_req_t request, fuse_ino_t nodeid, struct fuse_file_info *info);
void op_readdir(fuse_req_t request, fuse_ino_t nodeid, size_t size, off_t offset,
		struct fuse_file_info *info);
void op_readdirplus(fuse_req_t request, fuse_ino_t nodeid, size_t size, off_t offset,
		    struct fuse_file_info *info);
void op_releasedir(fuse_req_t request, fuse_ino_t nodeid, struct fuse_file_info *info);
void op_fsyncdir(fuse_req_t request, fuse_ino_t nodeid, int data_only,
		 struct fuse_file_info *info);

/* For prefetch.h: a name, and a listing, that nobody waits for. Without the lock. False: not sent. */
struct prefetch_unit;
struct inode;
bool lookup_fetch(struct mount *m, struct inode *directory, const char *name,
		  const struct credential *credential, struct prefetch_unit *unit) MUST_CHECK;
bool directory_fetch(struct mount *m, struct inode *inode, const struct credential *credential,
		     struct prefetch_unit *unit) MUST_CHECK;

/*
 * A call about the inode of `nodeid`, with a use. NULL: the request was answered (no memory, too
 * many in flight, an inode that we do not know).
 */
struct call *op_call(fuse_req_t request, fuse_ino_t nodeid, enum message_type type);
/* EROFS for a read-only mount: true when the request was answered with it. */
bool op_refuse_change(fuse_req_t request);

/* The registered open of a created or opened file: data.c. */
struct open_file;
/* enum open_access of an open's flags. */
unsigned data_access(int flags);
int data_open(struct mount *m, struct inode *inode, const struct credential *credential,
	      struct fuse_file_info *info, struct open_file **ret_file);
/* Answers an open that was counted; `error`: with that. Without the lock. */
void data_open_answer(struct mount *m, fuse_req_t request, struct inode *inode,
		      const struct credential *credential, struct fuse_file_info *info, int error);
void data_open_undo(struct mount *m, struct open_file *file);
/* At the end: descriptors that the kernel did not release, since the connection was aborted. */
void data_forget_all(struct mount *m);
/* Tells the origin when nothing has it open here any more, and the origin thinks so. */
void data_closed(struct mount *m, struct inode *inode);

#endif
