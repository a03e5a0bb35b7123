#include "fs/origin/store.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "fs/origin/credentials.h"
#include "tests/unit/scratch.h"
#include "tests/unit/unit.h"

static char path[SCRATCH_PATH_BYTES];
static int state_fd;
static struct changes *changes;
static struct store *store;
static struct inode *root;
static const struct credential as_root = { .uid = 0 };
static const struct credential as_user = { .uid = 1000, .gid = 1000 };

/* ---- a kernel that tells errors ---- */

static struct {
	int syncfs_error, fsync_error; /* told once */
	unsigned syncfs_count;
	void (*in_fsync)(void);
} kernel;

static int tell(int *error)
{
	errno = *error;
	*error = 0;
	return errno ? -1 : 0;
}

int syncfs(int fd)
{
	kernel.syncfs_count++;
	return tell(&kernel.syncfs_error);
}

int fsync(int fd)
{
	void (*in_fsync)(void) = kernel.in_fsync;

	kernel.in_fsync = NULL;
	if (in_fsync)
		in_fsync();
	return tell(&kernel.fsync_error);
}

static struct store *open_store_at(const char *directory, bool read_only, bool squash)
{
	struct store_config config = {
		.name = "data",
		.directory = directory,
		.read_only = read_only,
		.root_squash = squash,
		.changes = changes,
		.inode_count_max = 8, /* few, so that eviction is tested everywhere */
	};
	char text[STORE_TEXT_BYTES] = "";
	struct store *opened;

	memset(&config.key, 9, sizeof(config.key));
	ck_assert_msg(store_open(&config, &opened, text) == 0, "%s", text);
	return opened;
}

static void setup(void)
{
	const char *text;
	char directory[SCRATCH_PATH_BYTES + 8];

	umask(0);
	state_fd = scratch_make(path);
	ck_assert_int_eq(fchmod(state_fd, 0755), 0);
	ck_assert_int_eq(mkdirat(state_fd, "tree", 0755), 0);
	ck_assert_int_eq(changes_open(state_fd, "changes", "boot", 64, &changes, &text), 0);
	snprintf(directory, sizeof(directory), "%s/tree", path);
	store = open_store_at(directory, false, false);
	ck_assert_int_eq(store_get_root(store, &root), 0);
}

static void teardown(void)
{
	credentials_reset();
	store_put(store, root);
	store_close(store);
	changes_close(changes, false);
	scratch_remove(path, state_fd);
}

static struct slice text_of(const char *text)
{
	return slice_of(text);
}

static struct inode *make_file(const char *name, const struct credential *who, uint32_t mode)
{
	struct inode *inode;

	credentials_reset();
	ck_assert_int_eq(fchmodat(state_fd, "tree", 0777, 0), 0);
	ck_assert_int_eq(store_create(store, who, root, text_of(name), mode, &inode), 0);
	credentials_reset();
	ck_assert_int_eq(fchmodat(state_fd, "tree", 0755, 0), 0);
	return inode;
}

static struct inode *make_directory(struct inode *parent, const char *name, uint32_t mode)
{
	struct inode *inode;

	ck_assert_int_eq(store_mknod(store, &as_root, parent, text_of(name), S_IFDIR | mode, 0,
				     &inode), 0);
	return inode;
}

static int find(struct inode *directory, const char *name)
{
	struct inode *inode;
	int error = store_lookup(store, &as_root, directory, text_of(name), &inode);

	if (!error)
		store_put(store, inode);
	return error;
}

static struct item_node node_of(struct inode *inode)
{
	struct item_node node;

	ck_assert_int_eq(store_look(store, inode, &node, NULL), 0);
	return node;
}

static uint32_t mode_of(struct inode *inode)
{
	return node_of(inode).attributes.mode & ATTRIBUTE_MODE_MASK;
}

START_TEST(a_file_that_was_made_is_found_and_can_be_written_and_read)
{
	struct inode *file = make_file("a", &as_user, 0640), *again;
	uint64_t offset;
	uint32_t count;
	char buffer[16];

	ck_assert_int_eq(store_lookup(store, &as_root, root, text_of("a"), &again), 0);
	ck_assert_ptr_eq(file, again);
	ck_assert_uint_eq(node_of(file).attributes.uid, 1000);
	ck_assert_uint_eq(mode_of(file), S_IFREG | 0640);
	ck_assert_int_eq(store_write(store, &as_user, file, 3, false, false, text_of("hello"),
				     &offset, &count), 0);
	ck_assert_uint_eq(count, 5);
	ck_assert_int_eq(store_write(store, &as_user, file, 0, true, false, text_of("!"), &offset,
				     &count), 0);
	ck_assert_uint_eq(offset, 8);
	ck_assert_int_eq(store_read(store, &as_user, file, 0, buffer, sizeof(buffer), &count), 0);
	ck_assert_uint_eq(count, 9);
	ck_assert_mem_eq(buffer, "\0\0\0hello!", 9);
	store_put(store, file);
	store_put(store, again);
}
END_TEST

START_TEST(a_handle_works_after_the_inode_was_renamed_and_evicted)
{
	struct inode *file = make_file("a", &as_root, 0644);
	struct handle handle = file->identity.handle;
	char name[16];

	store_put(store, file);
	ck_assert_int_eq(store_rename(store, &as_root, root, text_of("a"), root, text_of("b"), NULL,
				      0, false), 0);
	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		store_put(store, make_file(name, &as_root, 0644));
	}
	ck_assert_int_eq(store_get(store, &handle, &file), 0);
	store_put(store, file);
}
END_TEST

START_TEST(a_handle_of_a_removed_inode_is_stale)
{
	struct inode *file = make_file("a", &as_root, 0644);
	struct handle handle = file->identity.handle;

	ck_assert_int_eq(store_unlink(store, &as_root, root, text_of("a"), file, false, false), 0);
	store_settle_removed(store, file);
	store_put(store, file);
	ck_assert_int_eq(store_get(store, &handle, &file), -ESTALE);
}
END_TEST

START_TEST(names_that_lead_out_of_the_export_are_refused)
{
	static const char *const bad[] = { "..", ".", "a/b", "/etc", "", "../x" };
	struct inode *inode;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		ck_assert_int_eq(store_create(store, &as_root, root, text_of(bad[i]), 0644, &inode),
				 -EINVAL);
		ck_assert_int_eq(store_check_name(text_of(bad[i])), -EINVAL);
	}
	ck_assert_int_eq(store_check_name((struct slice){ (const uint8_t *)"a\0b", 3 }), -EINVAL);
	/* ".." of the root is the root. */
	ck_assert_int_eq(store_lookup(store, &as_root, root, text_of(".."), &inode), 0);
	ck_assert_ptr_eq(inode, root);
	store_put(store, inode);
	ck_assert_int_eq(find(root, "a/../.."), -EINVAL);
}
END_TEST

START_TEST(a_symlink_is_an_inode_and_never_followed)
{
	struct inode *link, *child, *again;
	char target[64];
	size_t length;
	uint32_t count;

	ck_assert_int_eq(store_symlink(store, &as_root, root, text_of("out"), text_of("/etc"),
				       &link), 0);
	ck_assert_int_eq(store_readlink(store, link, target, sizeof(target), &length), 0);
	ck_assert_uint_eq(length, 4);
	ck_assert_int_eq(store_lookup(store, &as_root, link, text_of("passwd"), &child), -ENOTDIR);
	ck_assert_int_eq(store_create(store, &as_root, link, text_of("x"), 0644, &child), -ENOTDIR);
	ck_assert_int_lt(store_read(store, &as_root, link, 0, target, 4, &count), 0);
	/* Swapped for what was a directory: the handle still names the directory. */
	child = make_directory(root, "d", 0755);
	ck_assert_int_eq(renameat(state_fd, "tree/d", state_fd, "tree/e"), 0);
	ck_assert_int_eq(symlinkat("/etc", state_fd, "tree/d"), 0);
	ck_assert_int_eq(store_lookup(store, &as_root, child, text_of("passwd"), &again), -ENOENT);
	store_put(store, child);
	store_put(store, link);
}
END_TEST

START_TEST(forged_handles_and_those_of_another_export_are_refused)
{
	char directory[SCRATCH_PATH_BYTES + 8];
	struct store *other;
	struct handle handle = root->identity.handle;
	struct inode *inode;

	handle.bytes[handle.length - 1] ^= 1;
	ck_assert_int_eq(store_get(store, &handle, &inode), -EBADMSG);
	ck_assert_int_eq(mkdirat(state_fd, "other", 0755), 0);
	snprintf(directory, sizeof(directory), "%s/other", path);
	/* Even with the same name and key: another directory. */
	other = open_store_at(directory, false, false);
	ck_assert_int_eq(store_get(other, &root->identity.handle, &inode), -EBADMSG);
	store_close(other);
}
END_TEST

START_TEST(the_private_directory_can_neither_be_seen_nor_made)
{
	uint8_t buffer[4096];
	struct writer w = writer_of(buffer, sizeof(buffer));
	struct store_listing listing;
	struct item_dirent item;
	struct inode *inode;
	struct reader r;
	unsigned entries = 0;

	ck_assert_int_eq(faccessat(state_fd, "tree/.leasehold", F_OK, 0), 0);
	ck_assert_int_eq(find(root, ".leasehold"), -ENOENT);
	ck_assert_int_eq(store_create(store, &as_root, root, text_of(".leasehold"), 0644, &inode),
			 -EPERM);
	ck_assert_int_eq(store_open_path(store, &as_root, "/.leasehold"), -ENOENT);
	ck_assert_int_eq(store_open_path(store, &as_root, "/./.leasehold/x"), -ENOENT);
	ck_assert_int_eq(store_readdir(store, &as_root, root, 0, &w, NULL, NULL, &listing), 0);
	r = reader_of(buffer, w.at);
	while (item_dirent_read(&r, &item)) {
		ck_assert(!slice_equal(item.name, text_of(".leasehold")));
		entries++;
	}
	ck_assert_uint_eq(entries, 2);
	ck_assert(listing.eof);
}
END_TEST

static enum lease_kind grant_all(void *context, const struct handle *handle, bool outside)
{
	++*(unsigned *)context;
	return LEASE_READ;
}

START_TEST(a_listing_in_small_pieces_is_complete_and_carries_nodes)
{
	uint8_t buffer[600];
	unsigned seen = 0, granted = 0;
	uint64_t cookie = 0;
	char name[16];
	bool eof = false;

	for (int i = 0; i < 50; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		store_put(store, make_file(name, &as_root, 0644));
	}
	while (!eof) {
		struct writer w = writer_of(buffer, sizeof(buffer));
		struct store_listing listing;
		struct item_dirent item;
		struct item_node node;
		struct reader r, nodes;

		ck_assert_int_eq(store_readdir(store, &as_root, root, cookie, &w, grant_all,
					       &granted, &listing), 0);
		ck_assert(listing.eof || listing.count > 0);
		r = reader_of(buffer, w.at);
		while (item_dirent_read(&r, &item)) {
			seen++;
			if (item.node.length == 0)
				continue;
			nodes = reader_of(item.node.data, item.node.length);
			ck_assert(item_node_read(&nodes, &node));
			ck_assert_uint_eq(node.attributes.inode, item.inode);
			ck_assert_uint_eq(node.lease, LEASE_READ);
			ck_assert(change_known(node.change));
		}
		cookie = listing.cookie;
		eof = listing.eof;
	}
	ck_assert_uint_eq(seen, 52);
	ck_assert_uint_ge(granted, 50);
}
END_TEST

START_TEST(what_the_caller_may_not_do_the_store_refuses)
{
	struct inode *file = make_file("mine", &as_root, 0600), *directory, *inode;
	struct message_setattr chown_it = { .valid = SETATTR_UID, .uid = 1000 };

	ck_assert_int_eq(store_access(store, &as_user, file, OPEN_ACCESS_READ, false), -EACCES);
	ck_assert_int_eq(store_access(store, &as_user, file, OPEN_ACCESS_WRITE, false), -EACCES);
	ck_assert_int_eq(store_setattr(store, &as_user, file, &chown_it), -EPERM);
	ck_assert_int_eq(store_create(store, &as_user, root, text_of("x"), 0644, &inode), -EACCES);
	ck_assert_int_eq(store_unlink(store, &as_user, root, text_of("mine"), file, false, true),
			 -EACCES);
	ck_assert_uint_eq(node_of(file).attributes.nlink, 1);
	directory = make_directory(root, "closed", 0700);
	ck_assert_int_eq(store_lookup(store, &as_user, directory, text_of("x"), &inode), -EACCES);
	ck_assert_int_eq(store_mknod(store, &as_user, root, text_of("dev"), S_IFCHR | 0666, 0x103,
				     &inode), -EPERM);
	store_put(store, directory);
	store_put(store, file);
}
END_TEST

START_TEST(what_is_open_at_a_host_is_not_asked_for_again_unless_root_is_squashed)
{
	char where[SCRATCH_PATH_BYTES + 8], byte;
	uint8_t buffer[4096];
	struct inode *file = make_file("mine", &as_root, 0600), *directory, *same;
	struct writer w = writer_of(buffer, sizeof(buffer));
	struct store_listing listing;
	struct store *squashed;
	uint64_t offset;
	uint32_t count;

	ck_assert_int_eq(store_write(store, &as_user, file, 0, false, false, text_of("x"), &offset,
				     &count), 0);
	ck_assert_int_eq(store_read(store, &as_user, file, 0, &byte, 1, &count), 0);
	directory = make_directory(root, "closed", 0700);
	ck_assert_int_eq(store_readdir(store, &as_user, directory, 0, &w, NULL, NULL, &listing), 0);
	store_put(store, directory);
	store_put(store, file);

	snprintf(where, sizeof(where), "%s/tree", path);
	squashed = open_store_at(where, false, true);
	ck_assert_int_eq(store_get_root(squashed, &directory), 0);
	ck_assert_int_eq(store_lookup(squashed, &as_user, directory, text_of("mine"), &same), 0);
	ck_assert_int_eq(store_read(squashed, &as_user, same, 0, &byte, 1, &count), -EACCES);
	ck_assert_int_eq(store_write(squashed, &as_user, same, 0, false, false, text_of("x"),
				     &offset, &count), -EACCES);
	store_put(squashed, same);
	ck_assert_int_eq(store_lookup(squashed, &as_user, directory, text_of("closed"), &same), 0);
	ck_assert_int_eq(store_readdir(squashed, &as_user, same, 0, &w, NULL, NULL, &listing),
			 -EACCES);
	store_put(squashed, same);
	store_put(squashed, directory);
	store_close(squashed);
}
END_TEST

START_TEST(the_owner_may_write_what_he_made_read_only)
{
	struct inode *file = make_file("a", &as_root, 0400);
	struct message_setattr give = { .valid = SETATTR_UID, .uid = 1000 };
	uint64_t offset;
	uint32_t count;

	ck_assert_int_eq(store_setattr(store, &as_root, file, &give), 0);
	ck_assert_int_eq(store_write(store, &as_user, file, 0, false, false, text_of("x"), &offset,
				     &count), 0);
	ck_assert_int_eq(store_access(store, &as_user, file, OPEN_ACCESS_WRITE, false), -EACCES);
	store_put(store, file);
}
END_TEST

START_TEST(supplementary_groups_count)
{
	struct credential member = { .uid = 1000, .gid = 1000, .group_count = 1, .groups = { 77 } };
	struct inode *file = make_file("a", &as_root, 0640);
	struct message_setattr give = { .valid = SETATTR_GID, .gid = 77 };

	ck_assert_int_eq(store_setattr(store, &as_root, file, &give), 0);
	ck_assert_int_eq(store_access(store, &member, file, OPEN_ACCESS_READ, false), 0);
	ck_assert_int_eq(store_access(store, &as_user, file, OPEN_ACCESS_READ, false), -EACCES);
	store_put(store, file);
}
END_TEST

START_TEST(root_is_squashed_where_the_export_says_so)
{
	char directory[SCRATCH_PATH_BYTES + 8];
	struct credential caller;
	struct inode *top, *inode;
	struct store *squashed;

	snprintf(directory, sizeof(directory), "%s/tree", path);
	squashed = open_store_at(directory, false, true);
	store_caller(squashed, &as_root, &caller);
	ck_assert_uint_eq(caller.uid, NOBODY_ID);
	ck_assert_uint_eq(caller.gid, NOBODY_ID);
	ck_assert_int_eq(store_get_root(squashed, &top), 0);
	ck_assert_int_eq(store_create(squashed, &caller, top, text_of("x"), 0644, &inode), -EACCES);
	store_put(squashed, top);
	store_close(squashed);
}
END_TEST

START_TEST(a_read_only_export_answers_rofs)
{
	char directory[SCRATCH_PATH_BYTES + 8];
	struct inode *top, *inode;
	struct store_touch touch;
	struct store *closed;

	store_put(store, make_file("a", &as_root, 0644));
	snprintf(directory, sizeof(directory), "%s/tree", path);
	closed = open_store_at(directory, true, false);
	ck_assert_int_eq(store_get_root(closed, &top), 0);
	ck_assert_int_eq(store_create(closed, &as_root, top, text_of("x"), 0644, &inode), -EROFS);
	ck_assert_int_eq(store_touch_begin(closed, top, &touch), -EROFS);
	ck_assert_int_eq(store_lookup(closed, &as_root, top, text_of("a"), &inode), 0);
	ck_assert_int_eq(store_setxattr(closed, &as_root, inode, text_of("user.x"), text_of("y"),
					false, false), -EROFS);
	ck_assert_int_eq(store_access(closed, &as_root, inode, OPEN_ACCESS_WRITE, true), -EROFS);
	store_put(closed, inode);
	store_put(closed, top);
	store_close(closed);
}
END_TEST

START_TEST(setattr_does_all_that_its_mask_says)
{
	struct inode *file = make_file("a", &as_root, 04755);
	struct message_setattr m = {
		.valid = SETATTR_MODE | SETATTR_UID | SETATTR_GID | SETATTR_SIZE | SETATTR_ATIME |
			 SETATTR_MTIME,
		.mode = 0600, .uid = 5, .gid = 6, .size = 4096,
		.atime_s = 100, .atime_ns = 1, .mtime_s = 200, .mtime_ns = 2,
	};
	struct message_setattr kill = { .valid = SETATTR_KILL_SUID };
	struct attributes a;

	ck_assert_int_eq(store_setattr(store, &as_root, file, &kill), 0);
	ck_assert_uint_eq(mode_of(file), S_IFREG | 0755);
	ck_assert_int_eq(store_setattr(store, &as_root, file, &m), 0);
	a = node_of(file).attributes;
	ck_assert_uint_eq(a.mode & ATTRIBUTE_MODE_MASK, S_IFREG | 0600);
	ck_assert_uint_eq(a.uid, 5);
	ck_assert_uint_eq(a.gid, 6);
	ck_assert_uint_eq(a.size, 4096);
	ck_assert_uint_eq(a.atime_s, 100);
	ck_assert_uint_eq(a.mtime_s, 200);
	ck_assert_uint_eq(a.mtime_ns, 2);
	store_put(store, file);
}
END_TEST

START_TEST(a_modification_moves_the_change_and_a_failed_one_does_not)
{
	struct inode *file = make_file("a", &as_root, 0644);
	struct item_node node = node_of(file), after;
	struct store_touch touch;
	uint64_t offset;
	uint32_t count;

	ck_assert_int_eq(store_touch_begin(store, file, &touch), 0);
	store_touch_end(store, &touch, true, &after);
	ck_assert(change_equal(node.change, after.change));
	ck_assert_int_eq(store_touch_begin(store, file, &touch), 0);
	ck_assert_int_eq(store_write(store, &as_root, file, 0, false, false, text_of("x"), &offset,
				     &count), 0);
	store_touch_end(store, &touch, false, &after);
	ck_assert(change_equal(node.change, after.before));
	ck_assert(!change_equal(node.change, after.change));
	ck_assert(change_equal(after.change, node_of(file).change));
	store_put(store, file);
}
END_TEST

START_TEST(what_is_open_elsewhere_lives_on_as_an_orphan_until_it_is_unused)
{
	struct inode *file = make_file("a", &as_user, 0600);
	struct handle handle = file->identity.handle;
	uint64_t offset;
	uint32_t count;
	char byte;

	ck_assert_int_eq(store_write(store, &as_user, file, 0, false, false, text_of("x"), &offset,
				     &count), 0);
	ck_assert_int_eq(store_unlink(store, &as_root, root, text_of("a"), file, false, true), 0);
	store_settle_removed(store, file);
	store_put(store, file);
	ck_assert_int_eq(find(root, "a"), -ENOENT);
	ck_assert_int_eq(store_get(store, &handle, &file), 0);
	ck_assert_uint_eq(node_of(file).attributes.nlink, 0);
	ck_assert_int_eq(store_read(store, &as_user, file, 0, &byte, 1, &count), 0);
	ck_assert_uint_eq(count, 1);
	/* Nobody brings it back under a name. */
	ck_assert_int_eq(store_link(store, &as_root, file, root, text_of("b")), -ENOENT);
	store_remove_orphan(store, file);
	store_put(store, file);
	ck_assert_int_eq(store_get(store, &handle, &file), -ESTALE);
}
END_TEST

static bool only_this(void *context, const struct handle *handle)
{
	return handle_equal((const struct handle *)context, handle);
}

START_TEST(orphans_survive_a_restart_and_the_sweep_removes_the_unused_ones)
{
	char directory[SCRATCH_PATH_BYTES + 8];
	struct inode *a = make_file("a", &as_root, 0600), *b = make_file("b", &as_root, 0600);
	struct inode *c = make_file("c", &as_root, 0600), *inode;
	struct handle kept = a->identity.handle, gone = b->identity.handle;

	ck_assert_int_eq(store_unlink(store, &as_root, root, text_of("a"), a, false, true), 0);
	/* Replaced by a rename. */
	ck_assert_int_eq(store_rename(store, &as_root, root, text_of("c"), root, text_of("b"), b, 0,
				      true), 0);
	store_put(store, a);
	store_put(store, b);
	store_put(store, c);
	store_put(store, root);
	store_close(store);
	snprintf(directory, sizeof(directory), "%s/tree", path);
	store = open_store_at(directory, false, false);
	ck_assert_int_eq(store_get_root(store, &root), 0);
	ck_assert_int_eq(store_get(store, &gone, &inode), 0);
	ck_assert_uint_eq(node_of(inode).attributes.nlink, 0);
	store_put(store, inode);
	store_sweep_orphans(store, only_this, &kept);
	ck_assert_int_eq(store_get(store, &gone, &inode), -ESTALE);
	ck_assert_int_eq(store_get(store, &kept, &inode), 0);
	store_put(store, inode);
	ck_assert_int_eq(find(root, "b"), 0);
}
END_TEST

START_TEST(rename_knows_noreplace_and_exchange)
{
	struct inode *a = make_file("a", &as_root, 0644), *b = make_file("b", &as_root, 0644), *now;

	ck_assert_int_eq(store_rename(store, &as_root, root, text_of("a"), root, text_of("b"), b,
				      RENAME_FLAG_NOREPLACE, false), -EEXIST);
	ck_assert_int_eq(store_rename(store, &as_root, root, text_of("a"), root, text_of("b"), b,
				      RENAME_FLAG_EXCHANGE, false), 0);
	ck_assert_int_eq(store_lookup(store, &as_root, root, text_of("a"), &now), 0);
	ck_assert_ptr_eq(now, b);
	ck_assert_int_eq(store_rename(store, &as_root, root, text_of("a"), root, text_of("b"), a,
				      64, false), -EINVAL);
	store_put(store, now);
	store_put(store, a);
	store_put(store, b);
}
END_TEST

START_TEST(hard_links_share_an_inode)
{
	struct inode *a = make_file("a", &as_root, 0644), *b;

	ck_assert_int_eq(store_link(store, &as_root, a, root, text_of("b")), 0);
	ck_assert_int_eq(store_lookup(store, &as_root, root, text_of("b"), &b), 0);
	ck_assert_ptr_eq(a, b);
	ck_assert_uint_eq(node_of(a).attributes.nlink, 2);
	ck_assert_int_eq(store_link(store, &as_root, root, root, text_of("d")), -EPERM);
	store_put(store, a);
	store_put(store, b);
}
END_TEST

START_TEST(special_files_are_kept_as_such)
{
	struct inode *fifo, *device;
	char byte;
	uint32_t count;

	ck_assert_int_eq(store_mknod(store, &as_root, root, text_of("p"), S_IFIFO | 0644, 0, &fifo),
			 0);
	ck_assert_uint_eq(mode_of(fifo), S_IFIFO | 0644);
	ck_assert_int_eq(store_mknod(store, &as_root, root, text_of("n"), S_IFCHR | 0666, 0x103,
				     &device), 0);
	ck_assert_uint_eq(node_of(device).attributes.rdev, 0x103);
	/* Never opened at the origin: a device of the origin is not the host's. */
	ck_assert_int_eq(store_read(store, &as_root, device, 0, &byte, 1, &count), -EINVAL);
	store_put(store, fifo);
	store_put(store, device);
}
END_TEST

START_TEST(extended_attributes_are_stored_but_not_ours)
{
	struct inode *file = make_file("a", &as_user, 0644);
	char buffer[256];
	size_t length;

	ck_assert_int_eq(store_setxattr(store, &as_user, file, text_of("user.x"), text_of("value"),
					true, false), 0);
	ck_assert_int_eq(store_setxattr(store, &as_user, file, text_of("user.x"), text_of("v"),
					true, false), -EEXIST);
	ck_assert_int_eq(store_getxattr(store, &as_user, file, text_of("user.x"), buffer, 0,
					&length), 0);
	ck_assert_uint_eq(length, 5);
	ck_assert_int_eq(store_setxattr(store, &as_user, file, text_of("user.leasehold.pin"),
					text_of("1"), false, false), -EINVAL);
	ck_assert_int_eq(store_setxattr(store, &as_user, file, text_of("trusted.x"), text_of("1"),
					false, false), -EPERM);
	ck_assert_int_eq(store_setxattr(store, &as_root, file, text_of("trusted.x"), text_of("1"),
					false, false), 0);
	ck_assert_int_eq(store_getxattr(store, &as_user, file, text_of("trusted.x"), buffer, 9,
					&length), -ENODATA);
	ck_assert_int_eq(store_listxattr(store, &as_user, file, buffer, sizeof(buffer), &length),
			 0);
	ck_assert_uint_eq(length, 7);
	ck_assert_int_eq(store_removexattr(store, &as_user, file, text_of("user.x")), 0);
	ck_assert_int_eq(store_removexattr(store, &as_user, file, text_of("user.x")), -ENODATA);
	store_put(store, file);
}
END_TEST

/* Set-user-ID and set-group-ID bits and the capability of a file of another user's. */
static struct inode *make_privileged(const char *name)
{
	static const uint8_t capability[20] = { 1, 0, 0, 2, 0, 4 };
	struct inode *file = make_file(name, &as_root, 0);
	struct message_setattr mode = { .valid = SETATTR_MODE, .mode = 06777 };

	ck_assert_int_eq(store_setattr(store, &as_root, file, &mode), 0);
	ck_assert_int_eq(store_setxattr(store, &as_root, file, text_of("security.capability"),
					(struct slice){ capability, 20 }, false, false), 0);
	ck_assert_uint_eq(node_of(file).attributes.mode & LACKS_CAPABILITY, 0);
	return file;
}

static void has_lost_privileges(struct inode *file)
{
	ck_assert_uint_eq(mode_of(file), S_IFREG | 0777);
	ck_assert_uint_ne(node_of(file).attributes.mode & LACKS_CAPABILITY, 0);
	store_put(store, file);
}

START_TEST(whoever_changes_a_file_takes_its_privileges)
{
	struct message_setattr size = { .valid = SETATTR_SIZE | SETATTR_KILL_SUID, .size = 3 };
	struct message_setattr group = { .valid = SETATTR_GID, .gid = 7 };
	struct inode *file = make_privileged("written");
	uint64_t offset;
	uint32_t count;

	ck_assert_int_eq(store_write(store, &as_user, file, 0, false, true, text_of("x"), &offset,
				     &count), 0);
	has_lost_privileges(file);
	file = make_privileged("truncated");
	ck_assert_int_eq(store_setattr(store, &as_user, file, &size), 0);
	has_lost_privileges(file);
	file = make_privileged("given");
	ck_assert_int_eq(store_setattr(store, &as_root, file, &group), 0);
	has_lost_privileges(file);
	/* A host's kernel asks for that before it sends a write; of who may not write it is refused. */
	file = make_privileged("dropped");
	ck_assert_int_eq(store_removexattr(store, &as_user, file, text_of("security.capability")), 0);
	store_put(store, file);
	file = make_file("private", &as_root, 0600);
	ck_assert_int_eq(store_removexattr(store, &as_user, file, text_of("security.capability")),
			 -EPERM);
	store_put(store, file);
}
END_TEST

static uint32_t marks_of(struct inode *inode)
{
	return node_of(inode).attributes.mode & (MARK_SEALED | MARK_FINAL);
}

START_TEST(a_seal_is_the_inodes_own_and_its_bytes_stay_final)
{
	const struct slice seal = text_of(SEAL_XATTR), final = text_of(FINAL_XATTR);
	struct slice none = { NULL, 0 };
	struct inode *file = make_file("f", &as_user, 0644), *copy = make_file("c", &as_user, 0644);
	struct inode *directory = make_directory(root, "d", 0755);
	uint8_t value[256];
	size_t length;
	int fd;

	ck_assert_int_eq(store_check_seal(file, true), 0);
	ck_assert_int_eq(store_setxattr(store, &as_user, file, seal, none, false, false), -EPERM);
	ck_assert_int_eq(store_setxattr(store, &as_root, file, final, none, false, false), -EPERM);
	ck_assert_int_eq(store_setxattr(store, &as_root, file, seal, text_of("1"), false, false),
			 -EINVAL);
	ck_assert_int_eq(store_removexattr(store, &as_root, file, seal), -ENODATA);
	ck_assert_uint_eq(marks_of(file), 0);
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(store_setxattr(store, &as_root, file, seal, none, false, false),
				 0);
	ck_assert_uint_eq(marks_of(file), MARK_SEALED | MARK_FINAL);
	ck_assert_int_eq(store_check_seal(file, false), -EPERM);
	ck_assert_int_eq(store_check_seal(file, true), -EPERM);
	ck_assert_int_eq(store_listxattr(store, &as_root, file, value, sizeof(value), &length), 0);
	ck_assert_ptr_null(memmem(value, length, SEAL_XATTRS, strlen(SEAL_XATTRS)));
	/* A copy of the attribute seals nothing. */
	ck_assert_int_eq(store_getxattr(store, &as_root, file, seal, value, sizeof(value), &length),
			 0);
	fd = openat(state_fd, "tree/c", O_RDONLY);
	ck_assert_int_eq(fsetxattr(fd, SEAL_XATTR, value, length, 0), 0);
	close(fd);
	ck_assert_uint_eq(marks_of(copy), 0);
	ck_assert_int_eq(store_check_seal(copy, true), 0);
	ck_assert_int_eq(store_unseal(store, &as_user, file), -EPERM);
	ck_assert_int_eq(store_removexattr(store, &as_root, file, final), -EPERM);
	ck_assert_int_eq(store_removexattr(store, &as_root, file, seal), 0);
	ck_assert_uint_eq(marks_of(file), MARK_FINAL);
	ck_assert_int_eq(store_check_seal(file, false), 0);
	ck_assert_int_eq(store_check_seal(file, true), -EPERM);
	ck_assert_int_eq(store_seal(store, &as_root, directory, 0), 0);
	ck_assert_uint_eq(marks_of(directory), MARK_SEALED);
	ck_assert_int_eq(store_unseal(store, &as_root, directory), 0);
	ck_assert_int_eq(store_check_seal(directory, true), 0);
	store_put(store, file);
	store_put(store, copy);
	store_put(store, directory);
}
END_TEST

START_TEST(what_has_no_name_is_not_sealed)
{
	struct inode *file = make_file("f", &as_root, 0644), *unnamed;

	ck_assert_int_eq(store_tmpfile(store, &as_root, root, 0644, &unnamed), 0);
	ck_assert_int_eq(store_seal(store, &as_root, unnamed, 0), -ENOENT);
	ck_assert_int_eq(store_unlink(store, &as_root, root, text_of("f"), file, false, true), 0);
	ck_assert_int_eq(store_seal(store, &as_root, file, 0), -ENOENT);
	store_remove_orphan(store, file);
	store_remove_orphan(store, unnamed);
	store_put(store, file);
	store_put(store, unnamed);
}
END_TEST

START_TEST(the_umask_counts_unless_there_is_a_default_acl)
{
	/* user::rwx user:1000:rwx group::r-x mask::rwx other::--- */
	static const uint8_t acl[] = { 2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255,
				       2, 0, 7, 0, 232, 3, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255,
				       16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255 };
	struct inode *plain, *directory = make_directory(root, "d", 0755), *listed;
	uint32_t mode = MODE_WITH_UMASK(0666, 0027);
	int error;

	ck_assert_int_eq(store_create(store, &as_root, directory, text_of("a"), mode, &plain), 0);
	ck_assert_uint_eq(mode_of(plain), S_IFREG | 0640);
	ck_assert_uint_ne(node_of(plain).attributes.mode & LACKS_ACL, 0);
	store_put(store, plain);
	error = store_setxattr(store, &as_root, directory, text_of("system.posix_acl_default"),
			       (struct slice){ acl, sizeof(acl) }, false, false);
	if (error == 0) { /* else the file system here has no lists */
		ck_assert_int_eq(store_create(store, &as_root, directory, text_of("b"), mode,
					      &listed), 0);
		ck_assert_uint_eq(mode_of(listed), S_IFREG | 0660);
		ck_assert_uint_eq(node_of(listed).attributes.mode & LACKS_ACL, 0);
		store_put(store, listed);
	} else {
		ck_assert_int_eq(error, -EOPNOTSUPP);
	}
	store_put(store, directory);
}
END_TEST

START_TEST(space_is_allocated_punched_and_found)
{
	const uint32_t punch = FALLOCATE_PUNCH_HOLE | FALLOCATE_KEEP_SIZE;
	struct inode *file = make_file("a", &as_user, 0600);
	uint8_t bytes[4] = { 0 };
	uint64_t offset;
	uint32_t count;
	int error;

	ck_assert_int_eq(store_fallocate(store, &as_user, file, 0, 0, 1 << 20), 0);
	ck_assert_uint_eq(node_of(file).attributes.size, 1 << 20);
	ck_assert_uint_ge(node_of(file).attributes.blocks, (1 << 20) / 512);
	ck_assert_int_eq(store_fallocate(store, &as_user, file, FALLOCATE_KEEP_SIZE, 1 << 20, 4096),
			 0);
	ck_assert_uint_eq(node_of(file).attributes.size, 1 << 20);
	ck_assert_int_eq(store_write(store, &as_user, file, 65536, false, false, text_of("data"),
				     &offset, &count), 0);
	error = store_fallocate(store, &as_user, file, punch, 0, 65536);
	if (error == 0) { /* else the file system here cannot */
		ck_assert_int_eq(store_seek(store, &as_user, file, 0, true, &offset), 0);
		ck_assert_uint_eq(offset, 0);
	} else {
		ck_assert_int_eq(error, -EOPNOTSUPP);
	}
	ck_assert_int_eq(store_seek(store, &as_user, file, 65537, false, &offset), 0);
	ck_assert_uint_eq(offset, 65537);
	ck_assert_int_eq(store_seek(store, &as_user, file, 1 << 20, false, &offset), -ENXIO);
	ck_assert_int_eq(store_seek(store, &as_user, file, UINT64_MAX, true, &offset), -ENXIO);
	ck_assert_int_eq(store_fallocate(store, &as_user, file, 0, 5, 0), -EINVAL);
	ck_assert_int_eq(store_fallocate(store, &as_user, file, 0, INT64_MAX, 1), -EFBIG);
	ck_assert_int_eq(store_fallocate(store, &as_user, file, 1u << 9, 0, 1), -EOPNOTSUPP);
	ck_assert_int_eq(store_read(store, &as_user, file, 65536, bytes, 4, &count), 0);
	ck_assert_mem_eq(bytes, "data", 4);
	store_put(store, file);
}
END_TEST

START_TEST(a_sparse_read_leaves_the_zeros_out)
{
	struct message_setattr size = { .valid = SETATTR_SIZE, .size = 8 << 20 };
	struct inode *file = make_file("a", &as_user, 0600);
	uint32_t zeros, stored, count;
	uint8_t bytes[1 << 20];
	uint64_t offset, data;

	ck_assert_int_eq(store_setattr(store, &as_user, file, &size), 0);
	ck_assert_int_eq(store_write(store, &as_user, file, 1 << 20, false, false, text_of("data"),
				     &offset, &count), 0);
	ck_assert_int_eq(store_seek(store, &as_user, file, 0, false, &data), 0);
	if (data == 0) /* the file system here tells of no holes */
		return;
	ck_assert_int_eq(store_read_sparse(store, &as_user, file, 0, bytes, 1 << 20, &zeros,
					   &stored, &count), 0);
	ck_assert_uint_eq(count, 1 << 20);
	ck_assert_uint_eq(stored, 0);
	ck_assert_int_eq(store_read_sparse(store, &as_user, file, (1 << 20) - 65536, bytes, 1 << 20,
					   &zeros, &stored, &count), 0);
	ck_assert_uint_eq(count, 1 << 20);
	ck_assert_uint_le(zeros, 65536);
	ck_assert_uint_ge(stored, 4);
	ck_assert_uint_le(zeros + stored, 1 << 20);
	ck_assert_mem_eq(bytes + 65536 - zeros, "data", 4);
	/* Cut at the end of the file; behind it there is nothing. */
	ck_assert_int_eq(store_read_sparse(store, &as_user, file, (8 << 20) - 100, bytes, 4096,
					   &zeros, &stored, &count), 0);
	ck_assert_uint_eq(count, 100);
	ck_assert_int_eq(store_read_sparse(store, &as_user, file, 9 << 20, bytes, 4096, &zeros,
					   &stored, &count), 0);
	ck_assert_uint_eq(count, 0);
	store_put(store, file);
}
END_TEST

START_TEST(a_range_is_copied_as_far_as_its_source_goes)
{
	struct inode *from = make_file("from", &as_user, 0644), *to = make_file("to", &as_user, 0644);
	uint8_t bytes[8] = { 0 };
	uint64_t offset;
	uint32_t count;

	ck_assert_int_eq(store_write(store, &as_user, from, 0, false, false, text_of("0123456789"),
				     &offset, &count), 0);
	ck_assert_int_eq(store_copy_range(store, &as_user, from, 2, to, 3, 5, &count), 0);
	ck_assert_uint_eq(count, 5);
	ck_assert_int_eq(store_read(store, &as_user, to, 0, bytes, 8, &count), 0);
	ck_assert_mem_eq(bytes, "\0\0\0" "23456", 8);
	ck_assert_int_eq(store_copy_range(store, &as_user, from, 8, to, 0, 5, &count), 0);
	ck_assert_uint_eq(count, 2);
	ck_assert_int_eq(store_copy_range(store, &as_user, from, 10, to, 0, 5, &count), 0);
	ck_assert_uint_eq(count, 0);
	ck_assert_int_eq(store_copy_range(store, &as_user, from, 0, from, 5, 5, &count), 0);
	ck_assert_uint_eq(count, 5);
	ck_assert_int_eq(store_copy_range(store, &as_user, from, 0, from, 1, 5, &count), -EINVAL);
	store_put(store, from);
	store_put(store, to);
}
END_TEST

START_TEST(a_file_without_a_name_gets_one_or_goes)
{
	struct inode *file, *found, *gone;
	struct handle handle;

	ck_assert_int_eq(store_tmpfile(store, &as_root, root, MODE_WITH_UMASK(0666, 0022), &file), 0);
	ck_assert_uint_eq(mode_of(file), S_IFREG | 0644);
	ck_assert_uint_eq(node_of(file).attributes.nlink, 0);
	ck_assert_int_eq(store_link(store, &as_root, file, root, text_of("name")), 0);
	ck_assert_uint_eq(node_of(file).attributes.nlink, 1);
	ck_assert_int_eq(store_lookup(store, &as_root, root, text_of("name"), &found), 0);
	ck_assert_ptr_eq(found, file);
	store_put(store, found);
	/* From here on it is a file like others: without its last name it gets no other. */
	ck_assert_int_eq(store_unlink(store, &as_root, root, text_of("name"), file, false, true), 0);
	ck_assert_int_eq(store_link(store, &as_root, file, root, text_of("again")), -ENOENT);
	store_remove_orphan(store, file);
	store_put(store, file);
	ck_assert_int_eq(store_tmpfile(store, &as_root, root, 0600, &gone), 0);
	handle = gone->identity.handle;
	store_remove_orphan(store, gone);
	store_put(store, gone);
	ck_assert_int_eq(store_get(store, &handle, &gone), -ESTALE);
}
END_TEST

START_TEST(sync_and_statfs_answer)
{
	struct inode *file = make_file("a", &as_root, 0644);
	struct item_statfs statfs;
	struct synced synced;

	ck_assert_int_eq(store_fsync(store, file, false, &synced), 0);
	ck_assert_int_eq(store_fsync(store, root, false, &synced), 0);
	ck_assert_int_eq(store_statfs(store, root, &statfs), 0);
	ck_assert_uint_gt(statfs.block_bytes, 0);
	store_put(store, file);
}
END_TEST

static void write_to(struct inode *file)
{
	uint64_t offset;
	uint32_t count;

	ck_assert_int_eq(store_write(store, &as_root, file, 0, false, false, text_of("x"), &offset,
				     &count), 0);
}

static int sync_file(struct inode *file)
{
	struct synced synced;

	return store_fsync(store, file, false, &synced);
}

static void evict_all(void)
{
	char name[16];

	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "tree/other%d", i);
		ck_assert_int_eq(mknodat(state_fd, name, S_IFREG | 0644, 0), 0);
		ck_assert_int_eq(find(root, name + 5), 0);
	}
}

START_TEST(an_error_that_a_closed_descriptor_would_have_been_told_is_told)
{
	struct inode *file = make_file("a", &as_root, 0644);
	struct handle handle = file->identity.handle;
	uint64_t incarnation = changes_incarnation(changes);
	unsigned count;

	ck_assert_int_eq(sync_file(file), 0);
	write_to(file);
	store_put(store, file);
	evict_all();
	ck_assert_int_eq(store_get(store, &handle, &file), 0);
	write_to(file); /* through a new descriptor, whose errors are not that of the old one */
	kernel.syncfs_error = EIO;
	ck_assert_int_eq(sync_file(file), -EIO);
	ck_assert_uint_ne(changes_incarnation(changes), incarnation);
	/* Once; and others cost no sync of everything. */
	count = kernel.syncfs_count;
	ck_assert_int_eq(sync_file(file), 0);
	ck_assert_uint_eq(kernel.syncfs_count, count);
	store_put(store, file);
}
END_TEST

START_TEST(an_error_from_the_time_of_an_earlier_process_is_told)
{
	struct inode *file = make_file("a", &as_root, 0644);
	struct handle handle = file->identity.handle;
	char directory[SCRATCH_PATH_BYTES + 8];

	ck_assert_int_eq(sync_file(file), 0);
	write_to(file);
	store_put(store, file);
	store_put(store, root);
	store_close(store);
	snprintf(directory, sizeof(directory), "%s/tree", path);
	store = open_store_at(directory, false, false);
	ck_assert_int_eq(store_get_root(store, &root), 0);
	ck_assert_int_eq(store_get(store, &handle, &file), 0);
	kernel.syncfs_error = EIO;
	ck_assert_int_eq(sync_file(file), -EIO);
	ck_assert_int_eq(sync_file(file), 0);
	store_put(store, file);
}
END_TEST

static struct {
	pthread_t thread;
	struct inode *file;
	struct synced synced;
	int error;
} other;

static void *other_sync(void *argument)
{
	other.error = store_fsync(store, other.file, false, &other.synced);
	return NULL;
}

/* While one sync is about to be told an error, another begins. */
static void start_other(void)
{
	ck_assert_int_eq(pthread_create(&other.thread, NULL, other_sync, NULL), 0);
	(void)usleep(50000); /* what comes out does not depend on it */
}

START_TEST(a_sync_that_is_told_no_error_because_another_was_says_so)
{
	struct inode *file = make_file("a", &as_root, 0644);
	struct synced synced;
	uint64_t incarnation;

	ck_assert_int_eq(sync_file(file), 0);
	write_to(file);
	incarnation = changes_incarnation(changes);
	other.file = file;
	kernel.in_fsync = start_other;
	kernel.fsync_error = EIO;
	ck_assert_int_eq(store_fsync(store, file, false, &synced), -EIO);
	pthread_join(other.thread, NULL);
	ck_assert_int_eq(other.error, 0);
	ck_assert_uint_eq(synced.incarnation, incarnation);
	ck_assert_uint_ne(other.synced.incarnation, incarnation);
	/* And who wrote nothing, but has it open. */
	ck_assert_uint_eq(other.synced.failed, changes_incarnation(changes));
	ck_assert_uint_eq(synced.failed, other.synced.failed);
	store_put(store, file);
}
END_TEST

static void same_access_time(const char *name, const struct stat *before)
{
	struct stat after;

	ck_assert_int_eq(fstatat(state_fd, name, &after, 0), 0);
	ck_assert_int_eq(after.st_atim.tv_sec, before->st_atim.tv_sec);
	ck_assert_int_eq(after.st_atim.tv_nsec, before->st_atim.tv_nsec);
}

/* Hosts that have the attributes under a lease would not hear of it. */
START_TEST(reading_and_listing_what_was_just_made_moves_no_access_time)
{
	uint8_t buffer[4096];
	struct writer w = writer_of(buffer, sizeof(buffer));
	struct store_listing listing;
	struct inode *file = make_file("a", &as_user, 0600);
	struct stat of_file, of_directory;
	uint64_t offset;
	uint32_t count;
	char byte;

	ck_assert_int_eq(store_write(store, &as_user, file, 0, false, false, text_of("x"), &offset,
				     &count), 0);
	ck_assert_int_eq(fstatat(state_fd, "tree/a", &of_file, 0), 0);
	ck_assert_int_eq(fstatat(state_fd, "tree", &of_directory, 0), 0);
	usleep(20000); /* longer than a tick of the clock that such times are taken from */
	ck_assert_int_eq(store_read(store, &as_user, file, 0, &byte, 1, &count), 0);
	ck_assert_uint_eq(count, 1);
	ck_assert_int_eq(store_readdir(store, &as_root, root, 0, &w, NULL, NULL, &listing), 0);
	same_access_time("tree/a", &of_file);
	same_access_time("tree", &of_directory);
	store_put(store, file);
}
END_TEST

START_TEST(paths_for_plain_reading_stay_below_the_root)
{
	int fd;

	store_put(store, make_file("a", &as_root, 0644));
	ck_assert_int_eq(symlinkat("/etc", state_fd, "tree/out"), 0);
	ck_assert_int_lt(store_open_path(store, &as_root, "/out/passwd"), 0);
	ck_assert_int_lt(store_open_path(store, &as_root, "/../changes"), 0);
	fd = store_open_path(store, &as_root, "/a");
	ck_assert_int_ge(fd, 0);
	close(fd);
}
END_TEST

static TCase *make_case(void)
{
	TCase *tc = tcase_create("store");

	if (geteuid() != 0) {
		printf("1..0 # SKIP needs root: handles, and files of other users\n");
		exit(EXIT_SUCCESS);
	}
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, a_file_that_was_made_is_found_and_can_be_written_and_read);
	tcase_add_test(tc, a_handle_works_after_the_inode_was_renamed_and_evicted);
	tcase_add_test(tc, a_handle_of_a_removed_inode_is_stale);
	tcase_add_test(tc, names_that_lead_out_of_the_export_are_refused);
	tcase_add_test(tc, a_symlink_is_an_inode_and_never_followed);
	tcase_add_test(tc, forged_handles_and_those_of_another_export_are_refused);
	tcase_add_test(tc, the_private_directory_can_neither_be_seen_nor_made);
	tcase_add_test(tc, a_listing_in_small_pieces_is_complete_and_carries_nodes);
	tcase_add_test(tc, what_the_caller_may_not_do_the_store_refuses);
	tcase_add_test(tc, what_is_open_at_a_host_is_not_asked_for_again_unless_root_is_squashed);
	tcase_add_test(tc, the_owner_may_write_what_he_made_read_only);
	tcase_add_test(tc, supplementary_groups_count);
	tcase_add_test(tc, root_is_squashed_where_the_export_says_so);
	tcase_add_test(tc, a_read_only_export_answers_rofs);
	tcase_add_test(tc, setattr_does_all_that_its_mask_says);
	tcase_add_test(tc, a_modification_moves_the_change_and_a_failed_one_does_not);
	tcase_add_test(tc, what_is_open_elsewhere_lives_on_as_an_orphan_until_it_is_unused);
	tcase_add_test(tc, orphans_survive_a_restart_and_the_sweep_removes_the_unused_ones);
	tcase_add_test(tc, rename_knows_noreplace_and_exchange);
	tcase_add_test(tc, hard_links_share_an_inode);
	tcase_add_test(tc, special_files_are_kept_as_such);
	tcase_add_test(tc, extended_attributes_are_stored_but_not_ours);
	tcase_add_test(tc, whoever_changes_a_file_takes_its_privileges);
	tcase_add_test(tc, a_seal_is_the_inodes_own_and_its_bytes_stay_final);
	tcase_add_test(tc, what_has_no_name_is_not_sealed);
	tcase_add_test(tc, the_umask_counts_unless_there_is_a_default_acl);
	tcase_add_test(tc, space_is_allocated_punched_and_found);
	tcase_add_test(tc, a_sparse_read_leaves_the_zeros_out);
	tcase_add_test(tc, a_range_is_copied_as_far_as_its_source_goes);
	tcase_add_test(tc, a_file_without_a_name_gets_one_or_goes);
	tcase_add_test(tc, sync_and_statfs_answer);
	tcase_add_test(tc, an_error_that_a_closed_descriptor_would_have_been_told_is_told);
	tcase_add_test(tc, an_error_from_the_time_of_an_earlier_process_is_told);
	tcase_add_test(tc, a_sync_that_is_told_no_error_because_another_was_says_so);
	tcase_add_test(tc, reading_and_listing_what_was_just_made_moves_no_access_time);
	tcase_add_test(tc, paths_for_plain_reading_stay_below_the_root);
	return tc;
}

UNIT_MAIN("store", make_case)
