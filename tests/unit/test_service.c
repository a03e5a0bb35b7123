/* What hosts ask of an origin, and how they hear of each other. */
#include "tests/unit/origin_lab.h"

START_TEST(one_host_reads_what_another_wrote)
{
	struct host a, b;
	struct handle file;
	struct message m;
	struct item_node node;
	struct call call;

	host_start(&a, 1);
	host_start(&b, 2);
	file = make_file(&a, "file");
	m = write_of(&a, file, false);
	ck_assert_uint_eq(ask_node(&a, &m, "hello", &node), STATUS_OK);
	ck_assert_uint_eq(node.attributes.size, 5);
	m = request_of(&b, MESSAGE_lookup);
	m.lookup.directory = b.root;
	m.lookup.name = slice_of("file");
	m.lookup.data_bytes_max = 4096;
	ck_assert_uint_eq(ask(&b, &call, &m, NULL), STATUS_OK);
	ck_assert(node_in(&call, NODE_TARGET, &node));
	ck_assert(handle_equal(&node.handle, &file));
	ck_assert(node_in(&call, NODE_DIRECTORY, &node));
	ck_assert_uint_eq(call.message.reply.eof, 1);
	ck_assert_uint_eq(call.bulk_length, 5);
	ck_assert_mem_eq(call.bulk, "hello", 5);
	call_finish(&call);
	m = request_of(&b, MESSAGE_read);
	m.read.handle = file;
	m.read.offset = 1;
	m.read.count = 1 << 20;
	ck_assert_uint_eq(ask(&b, &call, &m, NULL), STATUS_OK);
	ck_assert_uint_eq(call.bulk_length, 4);
	ck_assert_mem_eq(call.bulk, "ello", 4);
	call_finish(&call);
	host_stop(&a);
	host_stop(&b);
}
END_TEST

START_TEST(a_write_waits_until_the_lease_of_another_host_is_given_up)
{
	struct host a, b;
	struct handle file;
	struct item_node node;
	struct message m;
	struct call call;
	uint64_t sequence;

	host_start(&a, 1);
	host_start(&b, 2);
	file = make_file(&a, "file");
	ck_assert_uint_eq(getattr(&b, file).lease, LEASE_READ);
	m = write_of(&a, file, false);
	call_start(&a, &call, &m, "new");
	sequence = wait_recall(&b, 0, &file);
	/* Meanwhile everyone is answered from the old state, without a lease. */
	node = getattr(&b, file);
	ck_assert_uint_eq(node.lease, LEASE_NONE);
	ck_assert_uint_eq(node.attributes.size, 0);
	ck_assert(!wait_flag(&a, &call.done, 100));
	acknowledge(&b, sequence, false, false);
	call_wait(&call);
	ck_assert_uint_eq(call.message.reply.status, STATUS_OK);
	ck_assert(node_in(&call, NODE_TARGET, &node));
	ck_assert(!change_equal(node.before, node.change));
	ck_assert_uint_eq(node.attributes.size, 3);
	call_finish(&call);
	ck_assert(change_equal(node.change, getattr(&b, file).change));
	host_stop(&a);
	host_stop(&b);
}
END_TEST

#define SILENT_TERM_MS 6000

START_TEST(a_host_that_is_silent_delays_a_write_by_its_term_and_no_more)
{
	struct host a, b;
	struct handle file;
	struct call call, alive;
	struct message m;

	origin_stop();
	origin_start_with_term(SILENT_TERM_MS);
	host_start(&a, 1);
	host_start(&b, 2);
	file = make_file(&a, "file");
	ck_assert_uint_eq(getattr(&b, file).lease, LEASE_READ);
	host_stop(&b);
	m = write_of(&a, file, false);
	call_start(&a, &call, &m, "new");
	m = (struct message){ .type = MESSAGE_keepalive, .keepalive = { .session = a.session } };
	while (!wait_flag(&a, &call.done, SILENT_TERM_MS / 10)) {
		call_start(&a, &alive, &m, NULL);
		call_wait(&alive);
		call_finish(&alive);
	}
	call_wait(&call);
	ck_assert_uint_eq(call.message.reply.status, STATUS_OK);
	call_finish(&call);
	host_stop(&a);
}
END_TEST

START_TEST(a_repeated_write_is_answered_again_and_not_done_again)
{
	struct host a;
	struct handle file;
	struct item_node first, second;
	struct message m;
	struct call calls[8];

	host_start(&a, 1);
	file = make_file(&a, "file");
	m = write_of(&a, file, true);
	ck_assert_uint_eq(ask_node(&a, &m, "abc", &first), STATUS_OK);
	ck_assert_uint_eq(ask_node(&a, &m, "abc", &second), STATUS_OK);
	ck_assert_uint_eq(second.attributes.size, 3);
	ck_assert(change_equal(first.change, second.change));
	ck_assert_uint_eq(second.lease, LEASE_NONE);
	/* Also when they are under way together. */
	m = write_of(&a, file, true);
	for (int i = 0; i < 8; i++)
		call_start(&a, &calls[i], &m, "def");
	for (int i = 0; i < 8; i++) {
		call_wait(&calls[i]);
		ck_assert_uint_eq(calls[i].message.reply.status, STATUS_OK);
		ck_assert_uint_eq(calls[i].message.reply.offset, 3);
		call_finish(&calls[i]);
	}
	ck_assert_uint_eq(getattr(&a, file).attributes.size, 6);
	/* And what is older than the newest of its slot is refused. */
	m.common.sequence--;
	ck_assert_uint_eq(ask_node(&a, &m, "ghi", &second), STATUS_SUPERSEDED);
	host_stop(&a);
}
END_TEST

START_TEST(an_outcome_that_was_clear_at_once_is_kept_as_well)
{
	struct host a;
	struct item_node node;
	struct message m, create;

	host_start(&a, 1);
	m = modifying(&a, MESSAGE_unlink);
	m.unlink.directory = a.root;
	m.unlink.name = slice_of("file");
	ck_assert_uint_eq(ask_node(&a, &m, NULL, &node), STATUS_NOENT);
	create = modifying(&a, MESSAGE_create);
	create.common.slot = 2;
	create.create.directory = a.root;
	create.create.name = slice_of("file");
	create.create.mode = 0644;
	ck_assert_uint_eq(ask_node(&a, &create, NULL, &node), STATUS_OK);
	/* The delayed duplicate removes nothing. */
	ck_assert_uint_eq(ask_node(&a, &m, NULL, &node), STATUS_NOENT);
	ck_assert_uint_eq(getattr(&a, a.root).attributes.mode & S_IFMT, S_IFDIR);
	ck_assert_int_eq(faccessat(path_fd, "tree/file", F_OK, 0), 0);
	/* Nor does a handle that is none. */
	m = modifying(&a, MESSAGE_setattr);
	m.setattr.handle = a.root;
	m.setattr.handle.bytes[9] ^= 1;
	ck_assert_uint_eq(ask_node(&a, &m, NULL, &node), STATUS_BADHANDLE);
	host_stop(&a);
}
END_TEST

START_TEST(a_strict_read_waits_behind_a_write_and_brings_a_lease)
{
	struct host a, b;
	struct handle file;
	struct item_node node;
	struct call write, read;
	struct message m;
	uint64_t sequence;

	host_start(&a, 1);
	host_start(&b, 2);
	file = make_file(&a, "file");
	m = request_of(&b, MESSAGE_read);
	m.read.handle = file;
	m.read.count = 100;
	m.read.strict = 1;
	ck_assert_uint_eq(ask_node(&b, &m, NULL, &node), STATUS_OK);
	ck_assert_uint_eq(node.lease, LEASE_READ);
	m = write_of(&a, file, false);
	call_start(&a, &write, &m, "new");
	sequence = wait_recall(&b, 0, &file);
	acknowledge(&b, sequence, false, false);
	m = request_of(&b, MESSAGE_read);
	m.read.handle = file;
	m.read.count = 100;
	m.read.strict = 1;
	call_start(&b, &read, &m, NULL);
	call_wait(&write);
	call_wait(&read);
	ck_assert_uint_eq(read.message.reply.status, STATUS_OK);
	ck_assert(node_in(&read, NODE_TARGET, &node));
	ck_assert_uint_eq(node.lease, LEASE_READ);
	ck_assert_uint_eq(read.bulk_length, 3);
	call_finish(&write);
	call_finish(&read);
	host_stop(&a);
	host_stop(&b);
}
END_TEST

START_TEST(a_name_that_is_made_is_recalled_by_name)
{
	struct host a, b;
	struct item_node node;
	struct call call;
	struct message m;
	uint64_t sequence;

	host_start(&a, 1);
	host_start(&b, 2);
	m = request_of(&b, MESSAGE_lookup);
	m.lookup.directory = b.root;
	m.lookup.name = slice_of("absent");
	ck_assert_uint_eq(ask(&b, &call, &m, NULL), STATUS_NOENT);
	ck_assert(node_in(&call, NODE_DIRECTORY, &node));
	ck_assert_uint_eq(node.lease, LEASE_READ);
	call_finish(&call);
	m = modifying(&a, MESSAGE_mknod);
	m.mknod.directory = a.root;
	m.mknod.name = slice_of("absent");
	m.mknod.mode = S_IFDIR | 0755;
	call_start(&a, &call, &m, NULL);
	sequence = wait_recall(&b, 0, &b.root);
	ck_assert_uint_eq(b.recalls[0].scope, RECALL_NAMES);
	acknowledge(&b, sequence, false, true);
	call_wait(&call);
	ck_assert_uint_eq(call.message.reply.status, STATUS_OK);
	ck_assert(node_in(&call, NODE_TARGET, &node));
	ck_assert_uint_eq(node.attributes.mode & S_IFMT, S_IFDIR);
	call_finish(&call);
	host_stop(&a);
	host_stop(&b);
}
END_TEST

START_TEST(a_file_that_is_open_elsewhere_outlives_its_name)
{
	struct host a, b;
	struct handle file;
	struct item_node node;
	struct call call;
	struct message m;
	uint64_t sequence;

	host_start(&a, 1);
	host_start(&b, 2);
	file = make_file(&a, "file");
	close_file(&a, file);
	ck_assert_uint_eq(getattr(&b, file).lease, LEASE_READ);
	m = modifying(&a, MESSAGE_unlink);
	m.unlink.directory = a.root;
	m.unlink.name = slice_of("file");
	call_start(&a, &call, &m, NULL);
	sequence = wait_recall(&b, 0, &file);
	acknowledge(&b, sequence, true, false);
	/* Who removes the name gives up the inode as well. */
	acknowledge(&a, wait_recall(&a, 0, &file), false, false);
	call_wait(&call);
	ck_assert_uint_eq(call.message.reply.status, STATUS_OK);
	ck_assert(node_in(&call, NODE_REPLACED, &node));
	ck_assert_uint_eq(node.attributes.nlink, 0);
	call_finish(&call);
	ck_assert_int_lt(faccessat(path_fd, "tree/file", F_OK, 0), 0);
	ck_assert_uint_eq(getattr(&b, file).attributes.nlink, 0);
	close_file(&b, file);
	/* It goes in the background. */
	for (int i = 0; i < WAIT_S * 100; i++) {
		struct timespec pause = { 0, 10000000 };

		m = request_of(&b, MESSAGE_getattr);
		m.getattr.handle = file;
		if (ask_node(&b, &m, NULL, &node) == STATUS_STALE)
			break;
		nanosleep(&pause, NULL);
	}
	ck_assert_uint_eq(ask_node(&b, &m, NULL, &node), STATUS_STALE);
	host_stop(&a);
	host_stop(&b);
}
END_TEST

/* A create of "file" by user `uid` that opens it in the way `access`; its status. */
static uint16_t create_as(struct host *h, uint32_t uid, unsigned access, bool truncate,
			  struct item_node *ret_node)
{
	struct message m = modifying(h, MESSAGE_create);

	m.common.credential = (struct credential){ .uid = uid, .gid = uid };
	m.create.directory = h->root;
	m.create.name = slice_of("file");
	m.create.mode = 0640 | access << MODE_ACCESS_SHIFT;
	m.create.truncate = truncate;
	return ask_node(h, &m, NULL, ret_node);
}

/* The kernel takes it for a new file, and asks for no permission. */
START_TEST(a_create_opens_what_is_there_only_for_those_who_may)
{
	static const struct {
		mode_t mode;
		unsigned access;
		bool truncate;
		uint16_t status;
	} rows[] = {
		{ 0600, OPEN_ACCESS_READ, false, STATUS_ACCES },
		{ 0600, OPEN_ACCESS_WRITE, true, STATUS_ACCES },
		{ 0600, 0, false, STATUS_ACCES },
		{ 0601, OPEN_ACCESS_READ, false, STATUS_ACCES },
		{ 0604, OPEN_ACCESS_READ, false, STATUS_OK },
		{ 0604, OPEN_ACCESS_READ, true, STATUS_ACCES },
		{ 0604, OPEN_ACCESS_READ | OPEN_ACCESS_WRITE, false, STATUS_ACCES },
		{ 0604, 0, false, STATUS_ACCES },
		{ 0602, OPEN_ACCESS_WRITE, false, STATUS_OK },
		{ 0606, OPEN_ACCESS_READ, true, STATUS_OK },
		{ 0606, 0, false, STATUS_OK },
	};
	struct item_node made, node;
	struct host a;
	struct stat st;
	int fd;

	host_connect(&a, 1);
	ck_assert_uint_eq(open_session(&a), STATUS_OK);
	a.yields = true;
	attach(&a);
	ck_assert_int_eq(fchmodat(path_fd, "tree", 0777, 0), 0);
	ck_assert_uint_eq(create_as(&a, 1000, OPEN_ACCESS_READ, false, &made), STATUS_OK);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		bool cut = rows[i].status == STATUS_OK && rows[i].truncate;

		fd = openat(path_fd, "tree/file", O_WRONLY | O_TRUNC);
		ck_assert_int_ge(fd, 0);
		ck_assert_int_eq(write(fd, "bytes", 5), 5);
		ck_assert_int_eq(fchmod(fd, rows[i].mode), 0);
		close(fd);
		ck_assert_msg(create_as(&a, 2000, rows[i].access, rows[i].truncate, &node) ==
			      rows[i].status, "row %zu", i);
		ck_assert_int_eq(fstatat(path_fd, "tree/file", &st, 0), 0);
		ck_assert_int_eq(st.st_size, cut ? 0 : 5);
		ck_assert_uint_eq(create_as(&a, 1000, OPEN_ACCESS_READ, false, &node), STATUS_OK);
		ck_assert(handle_equal(&node.handle, &made.handle));
	}
	host_stop(&a);
}
END_TEST

START_TEST(a_create_that_meets_something_else_opens_nothing)
{
	struct item_node node;
	struct host a;

	host_connect(&a, 1);
	ck_assert_uint_eq(open_session(&a), STATUS_OK);
	a.yields = true;
	attach(&a);
	ck_assert_int_eq(symlinkat("there", path_fd, "tree/file"), 0);
	ck_assert_uint_eq(create_as(&a, 0, OPEN_ACCESS_READ, true, &node), STATUS_STALE);
	ck_assert_int_lt(faccessat(path_fd, "tree/there", F_OK, 0), 0);
	ck_assert_int_eq(unlinkat(path_fd, "tree/file", 0), 0);
	ck_assert_int_eq(mkfifoat(path_fd, "tree/file", 0666), 0);
	ck_assert_uint_eq(create_as(&a, 0, OPEN_ACCESS_WRITE, false, &node), STATUS_STALE);
	ck_assert_int_eq(unlinkat(path_fd, "tree/file", 0), 0);
	ck_assert_int_eq(mkdirat(path_fd, "tree/file", 0777), 0);
	ck_assert_uint_eq(create_as(&a, 0, OPEN_ACCESS_READ, false, &node), STATUS_ISDIR);
	host_stop(&a);
}
END_TEST

/* Who makes it may open it, whatever its mode; also when the answer was lost, and it asks again. */
START_TEST(a_repeated_create_opens_what_the_first_made)
{
	struct item_node first, second;
	struct message m;
	struct host a;

	host_start(&a, 1);
	ck_assert_int_eq(fchmodat(path_fd, "tree", 0777, 0), 0);
	m = modifying(&a, MESSAGE_create);
	m.common.credential = (struct credential){ .uid = 1000, .gid = 1000 };
	m.create.directory = a.root;
	m.create.name = slice_of("file");
	m.create.mode = (OPEN_ACCESS_READ | OPEN_ACCESS_WRITE) << MODE_ACCESS_SHIFT;
	ck_assert_uint_eq(ask_node(&a, &m, NULL, &first), STATUS_OK);
	ck_assert_uint_eq(ask_node(&a, &m, NULL, &second), STATUS_OK);
	ck_assert(handle_equal(&first.handle, &second.handle));
	ck_assert_uint_eq(second.open, 1);
	m.common.sequence++;
	ck_assert_uint_eq(ask_node(&a, &m, NULL, &second), STATUS_ACCES);
	host_stop(&a);
}
END_TEST

static void rename_over(struct host *h, const char *name, const char *new_name)
{
	struct message m = modifying(h, MESSAGE_rename);
	struct item_node node;

	m.rename.directory = m.rename.new_directory = h->root;
	m.rename.name = slice_of(name);
	m.rename.new_name = slice_of(new_name);
	ck_assert_uint_eq(ask_node(h, &m, NULL, &node), STATUS_OK);
}

static void wait_stale(struct host *h, struct handle handle)
{
	struct message m = request_of(h, MESSAGE_getattr);
	struct item_node node;

	m.getattr.handle = handle;
	for (int i = 0; i < WAIT_S * 100 && ask_node(h, &m, NULL, &node) != STATUS_STALE; i++) {
		struct timespec pause = { 0, 10000000 };

		nanosleep(&pause, NULL);
	}
	ck_assert_uint_eq(ask_node(h, &m, NULL, &node), STATUS_STALE);
}

/* "for a moment": so the whole may be tried again. */
START_TEST(what_was_replaced_can_be_opened_for_a_moment)
{
	struct handle file, opened = { .length = 0 };
	struct item_node node;
	struct message m;
	struct host a;

	host_connect(&a, 1);
	ck_assert_uint_eq(open_session(&a), STATUS_OK);
	a.yields = true;
	attach(&a);
	for (unsigned i = 0; opened.length == 0; i++) {
		ck_assert_uint_lt(i, 50);
		file = make_file(&a, "file");
		close_file(&a, file);
		close_file(&a, make_file(&a, "new"));
		m = request_of(&a, MESSAGE_open);
		m.open.handle = file;
		m.open.access = OPEN_ACCESS_READ;
		rename_over(&a, "new", "file");
		if (ask_node(&a, &m, NULL, &node) == STATUS_OK)
			opened = file;
	}
	ck_assert_uint_eq(node.attributes.nlink, 0);
	/* Not for good, and not by its name. */
	close_file(&a, opened);
	m = request_of(&a, MESSAGE_lookup);
	m.lookup.directory = a.root;
	m.lookup.name = slice_of("file");
	ck_assert_uint_eq(ask_node(&a, &m, NULL, &node), STATUS_OK);
	ck_assert(!handle_equal(&node.handle, &opened));
	ck_assert_uint_eq(node.attributes.nlink, 1);
	wait_stale(&a, opened);
	host_stop(&a);
}
END_TEST

START_TEST(a_symbolic_link_that_was_replaced_can_be_read_for_a_moment)
{
	struct item_node link;
	struct message m;
	struct host a;
	struct call call;
	bool read = false;

	host_connect(&a, 1);
	ck_assert_uint_eq(open_session(&a), STATUS_OK);
	a.yields = true;
	attach(&a);
	for (unsigned i = 0; !read; i++) {
		ck_assert_uint_lt(i, 50);
		m = modifying(&a, MESSAGE_symlink);
		m.symlink.directory = a.root;
		m.symlink.name = slice_of("link");
		m.symlink.target = slice_of("there");
		(void)ask_node(&a, &m, NULL, &link);
		m = modifying(&a, MESSAGE_symlink);
		m.symlink.directory = a.root;
		m.symlink.name = slice_of("new");
		m.symlink.target = slice_of("elsewhere");
		(void)ask_node(&a, &m, NULL, &link);
		m = request_of(&a, MESSAGE_lookup);
		m.lookup.directory = a.root;
		m.lookup.name = slice_of("link");
		ck_assert_uint_eq(ask_node(&a, &m, NULL, &link), STATUS_OK);
		m = request_of(&a, MESSAGE_readlink);
		m.readlink.handle = link.handle;
		rename_over(&a, "new", "link");
		read = ask(&a, &call, &m, NULL) == STATUS_OK;
		call_finish(&call);
	}
	wait_stale(&a, link.handle);
	host_stop(&a);
}
END_TEST

START_TEST(a_listing_brings_entries_with_nodes)
{
	struct host a;
	struct message m;
	struct call call;
	struct item_dirent item;
	struct reader r;
	unsigned with_node = 0, entries = 0;
	char name[16];

	host_start(&a, 1);
	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		(void)make_file(&a, name);
	}
	m = request_of(&a, MESSAGE_readdir);
	m.readdir.directory = a.root;
	m.readdir.count = 65536;
	m.readdir.attributes = 1;
	ck_assert_uint_eq(ask(&a, &call, &m, NULL), STATUS_OK);
	ck_assert_uint_eq(call.message.reply.eof, 1);
	r = reader_of(call.bulk, call.bulk_length);
	while (item_dirent_read(&r, &item)) {
		entries++;
		with_node += item.node.length > 0;
	}
	ck_assert_uint_eq(entries, 22);
	ck_assert_uint_eq(with_node, 20);
	ck_assert_uint_eq(call.message.reply.count, 22);
	call_finish(&call);
	host_stop(&a);
}
END_TEST

START_TEST(a_change_behind_the_origins_back_is_recalled_when_it_is_noticed)
{
	struct host a, b;
	struct handle file;
	struct item_node node, after;
	int fd;

	host_start(&a, 1);
	host_start(&b, 2);
	file = make_file(&a, "file");
	node = getattr(&b, file);
	ck_assert_uint_eq(node.lease, LEASE_READ);
	fd = openat(path_fd, "tree/file", O_WRONLY);
	ck_assert_int_eq(write(fd, "behind", 6), 6);
	close(fd);
	after = getattr(&a, file);
	ck_assert(!change_equal(node.change, after.change));
	acknowledge(&b, wait_recall(&b, 0, &file), false, false);
	host_stop(&a);
	host_stop(&b);
}
END_TEST

START_TEST(a_session_belongs_to_the_host_that_opened_it)
{
	struct host a, b;
	struct message m;
	struct item_node node;
	struct call call;

	host_start(&a, 1);
	host_start(&b, 2);
	m = request_of(&a, MESSAGE_getattr);
	m.getattr.handle = a.root;
	ck_assert_uint_eq(ask_node(&b, &m, NULL, &node), STATUS_FORBIDDEN);
	m = (struct message){ .type = MESSAGE_keepalive, .keepalive = { .session = a.session } };
	call_start(&b, &call, &m, NULL);
	call_wait(&call);
	ck_assert_uint_eq(call.message.kept_alive.status, STATUS_FORBIDDEN);
	call_finish(&call);
	call_start(&a, &call, &m, NULL);
	call_wait(&call);
	ck_assert_uint_eq(call.message.kept_alive.status, STATUS_OK);
	call_finish(&call);
	m = request_of(&a, MESSAGE_getattr);
	m.common.session = 12345;
	m.getattr.handle = a.root;
	ck_assert_uint_eq(ask_node(&a, &m, NULL, &node), STATUS_NOSESSION);
	m = write_of(&a, a.root, false);
	m.common.session = 12345;
	ck_assert_uint_eq(ask_node(&a, &m, "x", &node), STATUS_UNKNOWNOUTCOME);
	host_stop(&a);
	host_stop(&b);
}
END_TEST

START_TEST(a_worker_that_acted_as_a_user_still_writes_the_record_of_sessions)
{
	struct host a, b;
	struct item_node node;
	struct message m;

	origin_stop();
	origin_workers = 1;
	origin_start();
	host_start(&a, 1);
	host_connect(&b, 2);
	m = modifying(&a, MESSAGE_mknod);
	m.mknod.directory = a.root;
	m.mknod.name = slice_of("name");
	m.mknod.mode = 0777u << MODE_UMASK_SHIFT | S_IFREG | 0644;
	m.common.credential = (struct credential){ .uid = 1000, .gid = 1000 };
	ck_assert_uint_eq(ask_node(&a, &m, NULL, &node), STATUS_ACCES);
	ck_assert_uint_eq(open_session(&b), STATUS_OK);
	host_stop(&a);
	host_stop(&b);
}
END_TEST

START_TEST(a_session_is_opened_while_every_worker_waits_for_the_store)
{
	struct host a, b;
	struct handle file;
	struct item_node node;
	struct message m;
	struct call read, call;
	int fd;

	origin_stop();
	origin_workers = 1;
	origin_start();
	host_start(&a, 1);
	host_connect(&b, 2);
	fd = openat(path_fd, "tree/file", O_RDWR | O_CREAT, 0644);
	ck_assert_int_ge(fd, 0);
	m = request_of(&a, MESSAGE_lookup);
	m.lookup.directory = a.root;
	m.lookup.name = slice_of("file");
	ck_assert_uint_eq(ask_node(&a, &m, NULL, &node), STATUS_OK);
	file = node.handle;
	/* Whoever opens the file waits until its owner lets him (fcntl(2), "Leases"). */
	signal(SIGIO, SIG_IGN);
	ck_assert_int_eq(fcntl(fd, F_SETLEASE, F_WRLCK), 0);
	m = request_of(&a, MESSAGE_read);
	m.read.handle = file;
	m.read.count = 10;
	call_start(&a, &read, &m, NULL);
	while (fcntl(fd, F_GETLEASE) == F_WRLCK) {
		struct timespec pause = { 0, 1000000 };

		nanosleep(&pause, NULL);
	}
	ck_assert_uint_eq(open_session(&b), STATUS_OK);
	m = (struct message){ .type = MESSAGE_reclaim,
			      .reclaim = { .session = b.session, .last = 1 } };
	call_start(&b, &call, &m, NULL);
	call_wait(&call);
	ck_assert_uint_eq(call.message.reclaimed.status, STATUS_OK);
	call_finish(&call);
	ck_assert(!wait_flag(&a, &read.done, 0));
	close(fd);
	call_wait(&read);
	ck_assert_uint_eq(read.message.reply.status, STATUS_OK);
	call_finish(&read);
	host_stop(&a);
	host_stop(&b);
}
END_TEST

/* ---- racing ---- */

#define RACE_NAMES 3
#define RACE_ROUNDS 150

static struct message random_change(struct host *h, unsigned *seed, char names[2][8])
{
	struct message m;

	snprintf(names[0], 8, "n%d", rand_r(seed) % RACE_NAMES);
	snprintf(names[1], 8, "n%d", rand_r(seed) % RACE_NAMES);
	switch (rand_r(seed) % 5) {
	case 0:
		m = modifying(h, MESSAGE_create);
		m.create = (struct message_create){ .directory = h->root, .mode = 0644,
						    .name = slice_of(names[0]),
						    .truncate = rand_r(seed) % 2 };
		break;
	case 1:
		m = modifying(h, MESSAGE_unlink);
		m.unlink.directory = h->root;
		m.unlink.name = slice_of(names[0]);
		break;
	case 2:
		m = modifying(h, MESSAGE_symlink);
		m.symlink.directory = h->root;
		m.symlink.name = slice_of(names[0]);
		m.symlink.target = slice_of("target");
		break;
	default:
		m = modifying(h, MESSAGE_rename);
		m.rename.directory = m.rename.new_directory = h->root;
		m.rename.name = slice_of(names[0]);
		m.rename.new_name = slice_of(names[1]);
		m.rename.flags = rand_r(seed) % 3 == 0 ? RENAME_FLAG_EXCHANGE : 0;
	}
	m.common.session = h->session;
	m.common.deadline_ms = 120000;
	m.common.slot = 1;
	m.common.sequence = h->sequence;
	return m;
}

static void *race(void *argument)
{
	struct host *h = (struct host *)argument;
	unsigned seed = h->id;
	struct call call;
	char names[2][8];

	for (int i = 0; i < RACE_ROUNDS; i++) {
		struct message m = random_change(h, &seed, names);
		uint16_t status = ask(h, &call, &m, NULL);

		ck_assert_msg(status == STATUS_OK || status == STATUS_NOENT ||
			      status == STATUS_EXIST || status == STATUS_INVAL ||
			      status == STATUS_BUSY || status == STATUS_PUSHBACK ||
			      (status == STATUS_STALE && m.type == MESSAGE_create),
			      "%s: %s", message_name(m.type), status_name(status));
		call_finish(&call);
		/* Leases in the way of the next change. */
		m = request_of(h, MESSAGE_lookup);
		m.lookup.directory = h->root;
		m.lookup.name = slice_of(names[0]);
		(void)ask(h, &call, &m, NULL);
		call_finish(&call);
		if (i % 20 == 0) {
			m = (struct message){ .type = MESSAGE_keepalive,
					      .keepalive = { .session = h->session } };
			call_start(h, &call, &m, NULL);
			call_wait(&call);
			call_finish(&call);
		}
	}
	return NULL;
}

START_TEST(hosts_that_race_for_names_all_get_answers_and_one_tree)
{
	struct host hosts[3];
	pthread_t threads[3];
	struct stat st;
	struct item_node node;
	struct message m;
	char name[32];

	for (uint8_t i = 0; i < 3; i++) {
		host_connect(&hosts[i], i + 1);
		ck_assert_uint_eq(open_session(&hosts[i]), STATUS_OK);
		hosts[i].yields = true;
		attach(&hosts[i]);
	}
	for (unsigned i = 0; i < 3; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, race, &hosts[i]), 0);
	for (unsigned i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < RACE_NAMES; i++) {
		uint16_t status;

		snprintf(name, sizeof(name), "tree/n%d", i);
		m = request_of(&hosts[0], MESSAGE_lookup);
		m.lookup.directory = hosts[0].root;
		m.lookup.name = slice_of(name + 5);
		status = ask_node(&hosts[0], &m, NULL, &node);
		if (fstatat(path_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			ck_assert_uint_eq(status, STATUS_NOENT);
		else
			ck_assert_uint_eq(node.attributes.inode, st.st_ino);
	}
	for (unsigned i = 0; i < 3; i++)
		host_stop(&hosts[i]);
}
END_TEST

static struct message seal_of(struct host *h, struct handle handle, bool on)
{
	struct message m = modifying(h, on ? MESSAGE_setxattr : MESSAGE_removexattr);

	if (on) {
		m.setxattr.handle = handle;
		m.setxattr.name = slice_of(SEAL_XATTR);
	} else {
		m.removexattr.handle = handle;
		m.removexattr.name = slice_of(SEAL_XATTR);
	}
	return m;
}

/* The other host never acknowledges a second recall: what is answered has recalled nothing. */
START_TEST(what_is_sealed_is_refused_and_recalls_nothing)
{
	struct message m, written, sealed;
	struct host a, b;
	struct handle file;
	struct item_node node;
	struct call call;

	host_connect(&a, 1);
	ck_assert_uint_eq(open_session(&a), STATUS_OK);
	a.yields = true;
	attach(&a);
	host_start(&b, 2);
	file = make_file(&a, "file");
	written = write_of(&a, file, false);
	written.common.slot = 2;
	ck_assert_uint_eq(ask_node(&a, &written, "bytes", &node), STATUS_OK);
	ck_assert_uint_eq(getattr(&b, file).lease, LEASE_READ);
	sealed = seal_of(&a, file, true);
	call_start(&a, &call, &sealed, NULL);
	acknowledge(&b, wait_recall(&b, 0, &file), false, false);
	call_wait(&call);
	ck_assert_uint_eq(call.message.reply.status, STATUS_OK);
	call_finish(&call);
	node = getattr(&b, file);
	ck_assert_uint_eq(node.lease, LEASE_READ);
	ck_assert_uint_eq(node.attributes.mode & (MARK_SEALED | MARK_FINAL),
			  MARK_SEALED | MARK_FINAL);
	m = write_of(&a, file, false);
	ck_assert_uint_eq(ask_node(&a, &m, "new", &node), STATUS_SEALED);
	m = modifying(&a, MESSAGE_setattr);
	m.setattr.handle = file;
	m.setattr.valid = SETATTR_MODE;
	ck_assert_uint_eq(ask_node(&a, &m, NULL, &node), STATUS_SEALED);
	m = modifying(&a, MESSAGE_unlink);
	m.unlink.directory = a.root;
	m.unlink.name = slice_of("file");
	ck_assert_uint_eq(ask_node(&a, &m, NULL, &node), STATUS_SEALED);
	m = modifying(&a, MESSAGE_create);
	m.create.directory = a.root;
	m.create.name = slice_of("file");
	m.create.mode = (uint32_t)OPEN_ACCESS_WRITE << MODE_ACCESS_SHIFT;
	ck_assert_uint_eq(ask_node(&a, &m, NULL, &node), STATUS_SEALED);
	m.common.sequence = ++a.sequence;
	m.create.mode = (uint32_t)OPEN_ACCESS_READ << MODE_ACCESS_SHIFT;
	ck_assert_uint_eq(ask_node(&a, &m, NULL, &node), STATUS_OK);
	m = request_of(&a, MESSAGE_open);
	m.open.handle = file;
	m.open.access = OPEN_ACCESS_READ | OPEN_ACCESS_WRITE;
	ck_assert_uint_eq(ask_node(&a, &m, NULL, &node), STATUS_SEALED);
	m = request_of(&a, MESSAGE_read_exclusive);
	m.read_exclusive.handle = file;
	m.read_exclusive.count = 100;
	ck_assert_uint_eq(ask_node(&a, &m, NULL, &node), STATUS_SEALED);
	/* One that changes nothing has to be done, and what was done is told again. */
	m = modifying(&b, MESSAGE_setattr);
	m.setattr.handle = file;
	ck_assert_uint_eq(ask_node(&b, &m, NULL, &node), STATUS_OK);
	ck_assert_uint_eq(ask_node(&a, &written, "bytes", &node), STATUS_OK);
	m = seal_of(&b, file, false);
	m.common.credential.uid = 1000;
	ck_assert_uint_eq(ask_node(&b, &m, NULL, &node), STATUS_PERM);
	m = seal_of(&b, file, false);
	ck_assert_uint_eq(ask_node(&b, &m, NULL, &node), STATUS_OK);
	m = write_of(&b, file, false);
	ck_assert_uint_eq(ask_node(&b, &m, "new", &node), STATUS_SEALED);
	host_stop(&a);
	host_stop(&b);
}
END_TEST

static TCase *make_case(void)
{
	TCase *tc = tcase_create("service");

	if (geteuid() != 0) {
		printf("1..0 # SKIP needs root: an origin opens files by handle\n");
		exit(EXIT_SUCCESS);
	}
	tcase_set_timeout(tc, 240);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, one_host_reads_what_another_wrote);
	tcase_add_test(tc, a_write_waits_until_the_lease_of_another_host_is_given_up);
	tcase_add_test(tc, a_host_that_is_silent_delays_a_write_by_its_term_and_no_more);
	tcase_add_test(tc, a_repeated_write_is_answered_again_and_not_done_again);
	tcase_add_test(tc, an_outcome_that_was_clear_at_once_is_kept_as_well);
	tcase_add_test(tc, a_strict_read_waits_behind_a_write_and_brings_a_lease);
	tcase_add_test(tc, a_name_that_is_made_is_recalled_by_name);
	tcase_add_test(tc, a_file_that_is_open_elsewhere_outlives_its_name);
	tcase_add_test(tc, a_create_opens_what_is_there_only_for_those_who_may);
	tcase_add_test(tc, a_create_that_meets_something_else_opens_nothing);
	tcase_add_test(tc, a_repeated_create_opens_what_the_first_made);
	tcase_add_test(tc, what_was_replaced_can_be_opened_for_a_moment);
	tcase_add_test(tc, a_symbolic_link_that_was_replaced_can_be_read_for_a_moment);
	tcase_add_test(tc, a_listing_brings_entries_with_nodes);
	tcase_add_test(tc, a_change_behind_the_origins_back_is_recalled_when_it_is_noticed);
	tcase_add_test(tc, what_is_sealed_is_refused_and_recalls_nothing);
	tcase_add_test(tc, a_session_belongs_to_the_host_that_opened_it);
	tcase_add_test(tc, a_worker_that_acted_as_a_user_still_writes_the_record_of_sessions);
	tcase_add_test(tc, a_session_is_opened_while_every_worker_waits_for_the_store);
	tcase_add_test(tc, hosts_that_race_for_names_all_get_answers_and_one_tree);
	return tc;
}

UNIT_MAIN("service", make_case)
