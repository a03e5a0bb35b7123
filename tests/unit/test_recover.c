/*
 * An origin finds modifications that the one before it did not finish: what is there decides. The
 * intents are put where a killed origin leaves them, and the store is brought by hand to where it
 * may have been.
 */
#include "fs/origin/slots.h"
#include "tests/unit/origin_lab.h"

static struct host a;
static int tree_fd;

static void recover_setup(void)
{
	setup();
	host_start(&a, 1);
	tree_fd = openat(path_fd, "tree", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(tree_fd, 0);
}

static void recover_teardown(void)
{
	host_stop(&a);
	close(tree_fd);
	teardown();
}

/* What was there before, for the intent. */
struct before {
	struct handle target, directory, replaced;
	uint64_t size;
	bool existed;
	const char *kept; /* data that the intent has */
	uint32_t data_length;
};

static void write_intent(struct slots *s, const struct message *m, const struct before *before)
{
	struct slots_intent *intent = slots_intent_take(s);
	struct writer w = writer_of(intent->message, sizeof(intent->message));

	memset(intent, 0, offsetof(struct slots_intent, message));
	intent->session = m->common.session;
	intent->slot = m->common.slot;
	intent->sequence = m->common.sequence;
	intent->existed = before->existed;
	/* In the order of enum task_inode. */
	intent->inodes[0].handle = before->directory;
	intent->inodes[1].handle = m->type == MESSAGE_rename ? m->rename.new_directory :
							       (struct handle){ 0 };
	intent->inodes[2] = (struct slots_inode){ before->target, before->size };
	intent->inodes[3].handle = before->replaced;
	message_encode(&w, m);
	ck_assert(!w.failed);
	intent->message_length = (uint32_t)w.at;
	intent->data_length = before->data_length;
	intent->data_kept = before->kept != NULL;
	if (before->kept)
		memcpy(intent->data, before->kept, before->data_length);
	slots_intent_begin(intent);
}

/* The origin is killed with `m` under way; `store` does what it had done by then. */
static void kill_within(const struct message *m, const struct before *before, void (*store)(void))
{
	struct slots *s;
	const char *text;
	int state_fd;

	a.previous = a.session;
	client_destroy(a.client);
	(void)origin_end(SIGKILL);
	state_fd = openat(path_fd, "state", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(state_fd, 0);
	ck_assert_int_eq(slots_open(state_fd, 16, 3, false, &s, &text), 0);
	ck_assert_ptr_null(text);
	write_intent(s, m, before);
	slots_close(s);
	close(state_fd);
	if (store)
		store();
	origin_start();
	{
		uint64_t previous = a.previous, sequence = a.sequence;

		host_connect(&a, 1);
		a.previous = previous;
		a.sequence = sequence;
	}
	ck_assert_uint_eq(open_session(&a), STATUS_OK);
}

/* The repetition of `m` is answered with `status`, twice. */
static struct item_node repeat(const struct message *m, const char *bulk, uint16_t status)
{
	struct item_node node;

	ck_assert_uint_eq(ask_node(&a, m, bulk, &node), status);
	ck_assert_uint_eq(ask_node(&a, m, bulk, &node), status);
	ck_assert_uint_eq(node.lease, LEASE_NONE);
	return node;
}

static void expect_content(const char *name, const char *content)
{
	char buffer[64] = "";
	int fd = openat(tree_fd, name, O_RDONLY | O_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_ge(read(fd, buffer, sizeof(buffer) - 1), 0);
	close(fd);
	ck_assert_str_eq(buffer, content);
}

static void put(const char *name, const char *content, int flags)
{
	int fd = openat(tree_fd, name, O_WRONLY | O_CLOEXEC | flags, 0644);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, content, strlen(content)), (ssize_t)strlen(content));
	close(fd);
}

/* ---- names ---- */

static struct message mkdir_of(void)
{
	struct message m = modifying(&a, MESSAGE_mknod);

	m.mknod.directory = a.root;
	m.mknod.name = slice_of("d");
	m.mknod.mode = S_IFDIR | 0755;
	return m;
}

static void make_d(void)
{
	ck_assert_int_eq(mkdirat(tree_fd, "d", 0755), 0);
}

START_TEST(a_directory_that_was_made_is_answered_as_made)
{
	struct message m = mkdir_of();
	struct before before = { .directory = a.root };
	struct item_node node;

	kill_within(&m, &before, make_d);
	node = repeat(&m, NULL, STATUS_OK);
	ck_assert(S_ISDIR(node.attributes.mode));
	(void)getattr(&a, node.handle);
}
END_TEST

START_TEST(a_directory_that_was_not_made_is_made_under_the_next_session)
{
	struct message m = mkdir_of();
	struct before before = { .directory = a.root };

	kill_within(&m, &before, NULL);
	(void)repeat(&m, NULL, STATUS_NOSESSION);
}
END_TEST

START_TEST(what_was_there_before_was_not_made)
{
	struct message m = mkdir_of();
	struct before before = { .directory = a.root, .existed = true };

	make_d();
	kill_within(&m, &before, NULL);
	(void)repeat(&m, NULL, STATUS_NOSESSION);
}
END_TEST

static void make_f(void)
{
	put("f", "", O_CREAT | O_EXCL);
}

START_TEST(a_file_that_was_created_is_answered_without_an_open)
{
	struct message m = modifying(&a, MESSAGE_create);
	struct before before = { .directory = a.root };
	struct item_node node;

	m.create = (struct message_create){ .directory = a.root, .name = slice_of("f"),
					    .mode = 0644, .exclusive = 1,
					    .session = m.common.session, .slot = m.common.slot,
					    .sequence = m.common.sequence };
	kill_within(&m, &before, make_f);
	node = repeat(&m, NULL, STATUS_OK);
	ck_assert(S_ISREG(node.attributes.mode));
	ck_assert_uint_eq(node.open, 0);
}
END_TEST

static void unlink_f(void)
{
	ck_assert_int_eq(unlinkat(tree_fd, "f", 0), 0);
}

static struct message unlink_of(void)
{
	struct message m = modifying(&a, MESSAGE_unlink);

	m.unlink.directory = a.root;
	m.unlink.name = slice_of("f");
	return m;
}

START_TEST(a_name_that_is_gone_was_removed)
{
	struct before before = { .directory = a.root, .replaced = make_file(&a, "f") };
	struct message m = unlink_of();

	kill_within(&m, &before, unlink_f);
	(void)repeat(&m, NULL, STATUS_OK);
}
END_TEST

START_TEST(a_name_that_is_there_was_not_removed)
{
	struct before before = { .directory = a.root, .replaced = make_file(&a, "f") };
	struct message m = unlink_of();

	kill_within(&m, &before, NULL);
	(void)repeat(&m, NULL, STATUS_NOSESSION);
}
END_TEST

static struct message rename_of(struct before *before)
{
	struct message m;

	*before = (struct before){ .directory = a.root, .target = make_file(&a, "f"),
				   .replaced = make_file(&a, "g") };
	m = modifying(&a, MESSAGE_rename);
	m.rename.directory = m.rename.new_directory = a.root;
	m.rename.name = slice_of("f");
	m.rename.new_name = slice_of("g");
	return m;
}

static void rename_f(void)
{
	ck_assert_int_eq(renameat(tree_fd, "f", tree_fd, "g"), 0);
}

START_TEST(a_file_that_was_renamed_is_answered_as_renamed)
{
	struct before before;
	struct message m = rename_of(&before);
	struct item_node node;

	kill_within(&m, &before, rename_f);
	node = repeat(&m, NULL, STATUS_OK);
	ck_assert(handle_equal(&node.handle, &before.target));
}
END_TEST

START_TEST(a_file_that_was_not_renamed_is_so_under_the_next_session)
{
	struct before before;
	struct message m = rename_of(&before);

	kill_within(&m, &before, NULL);
	(void)repeat(&m, NULL, STATUS_NOSESSION);
}
END_TEST

static void link_f(void)
{
	ck_assert_int_eq(linkat(tree_fd, "f", tree_fd, "g", 0), 0);
}

START_TEST(a_link_that_was_made_is_answered_as_made)
{
	struct before before = { .directory = a.root, .target = make_file(&a, "f") };
	struct message m = modifying(&a, MESSAGE_link);
	struct item_node node;

	m.link.directory = a.root;
	m.link.handle = before.target;
	m.link.name = slice_of("g");
	kill_within(&m, &before, link_f);
	node = repeat(&m, NULL, STATUS_OK);
	ck_assert_uint_eq(node.attributes.nlink, 2);
}
END_TEST

/* ---- bytes ---- */

/* "old" is there, "new" comes behind it. */
static struct message append_of(struct before *before)
{
	struct message m;
	struct item_node node;

	*before = (struct before){ .target = make_file(&a, "f"), .size = 3, .data_length = 3 };
	m = write_of(&a, before->target, false);
	ck_assert_uint_eq(ask_node(&a, &m, "old", &node), STATUS_OK);
	return write_of(&a, before->target, true);
}

static void append_all(void)
{
	put("f", "new", O_APPEND);
}

static void append_some(void)
{
	put("f", "ne", O_APPEND);
}

START_TEST(an_append_that_is_there_is_not_done_again)
{
	struct before before;
	struct message m = append_of(&before);
	struct item_node node;

	kill_within(&m, &before, append_all);
	node = repeat(&m, "new", STATUS_OK);
	ck_assert_uint_eq(node.attributes.size, 6);
	expect_content("f", "oldnew");
}
END_TEST

START_TEST(half_an_append_is_cut_off_and_not_done)
{
	struct before before;
	struct message m = append_of(&before);

	kill_within(&m, &before, append_some);
	expect_content("f", "old");
	(void)repeat(&m, "new", STATUS_NOSESSION);
}
END_TEST

START_TEST(an_append_that_was_not_begun_is_not_done)
{
	struct before before;
	struct message m = append_of(&before);

	kill_within(&m, &before, NULL);
	(void)repeat(&m, "new", STATUS_NOSESSION);
	expect_content("f", "old");
}
END_TEST

static void overwrite_some(void)
{
	put("f", "n", 0);
}

START_TEST(half_an_overwrite_is_completed)
{
	struct before before;
	struct message m = append_of(&before);

	before.kept = "new";
	m.write.append = 0;
	kill_within(&m, &before, overwrite_some);
	expect_content("f", "new");
	(void)repeat(&m, "new", STATUS_OK);
	expect_content("f", "new");
}
END_TEST

START_TEST(what_was_written_back_halfway_is_completed)
{
	struct before before;
	struct message m = append_of(&before), back = m;

	before.kept = "new";
	back.type = MESSAGE_write_back;
	back.write_back.handle = m.write.handle;
	back.write_back.offset = 0;
	back.write_back.lease_sequence = 1;
	kill_within(&back, &before, overwrite_some);
	expect_content("f", "new");
	(void)repeat(&back, "new", STATUS_OK);
}
END_TEST

START_TEST(attributes_are_set_whether_they_were_or_not)
{
	struct before before = { .target = make_file(&a, "f") };
	struct message m = modifying(&a, MESSAGE_setattr);
	struct item_node node;

	m.setattr.handle = before.target;
	m.setattr.valid = SETATTR_MODE | SETATTR_SIZE;
	m.setattr.mode = 0600;
	m.setattr.size = 12;
	kill_within(&m, &before, NULL);
	node = repeat(&m, NULL, STATUS_OK);
	ck_assert_uint_eq(node.attributes.mode & 07777, 0600);
	ck_assert_uint_eq(node.attributes.size, 12);
}
END_TEST

/* ---- what cannot be told ---- */

START_TEST(what_the_record_lacks_is_unknown)
{
	struct before before = { .directory = a.root };
	struct message m = mkdir_of();

	m.common.session++; /* of a session that it does not have */
	kill_within(&m, &before, NULL);
	(void)repeat(&m, NULL, STATUS_UNKNOWNOUTCOME);
}
END_TEST

static TCase *recover_case(void)
{
	TCase *tc = tcase_create("recover");

	tcase_add_checked_fixture(tc, recover_setup, recover_teardown);
	tcase_set_timeout(tc, 240);
	tcase_add_test(tc, a_directory_that_was_made_is_answered_as_made);
	tcase_add_test(tc, a_directory_that_was_not_made_is_made_under_the_next_session);
	tcase_add_test(tc, what_was_there_before_was_not_made);
	tcase_add_test(tc, a_file_that_was_created_is_answered_without_an_open);
	tcase_add_test(tc, a_name_that_is_gone_was_removed);
	tcase_add_test(tc, a_name_that_is_there_was_not_removed);
	tcase_add_test(tc, a_file_that_was_renamed_is_answered_as_renamed);
	tcase_add_test(tc, a_file_that_was_not_renamed_is_so_under_the_next_session);
	tcase_add_test(tc, a_link_that_was_made_is_answered_as_made);
	tcase_add_test(tc, an_append_that_is_there_is_not_done_again);
	tcase_add_test(tc, half_an_append_is_cut_off_and_not_done);
	tcase_add_test(tc, an_append_that_was_not_begun_is_not_done);
	tcase_add_test(tc, half_an_overwrite_is_completed);
	tcase_add_test(tc, what_was_written_back_halfway_is_completed);
	tcase_add_test(tc, attributes_are_set_whether_they_were_or_not);
	tcase_add_test(tc, what_the_record_lacks_is_unknown);
	return tc;
}

UNIT_MAIN("recover", recover_case)
